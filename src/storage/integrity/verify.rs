//! Reading again what has a stored checksum, to find what the disk, or somebody beside this server, has changed.
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};

use crate::storage::disk::metadata::{Kind, is_unchanged, kind};
use crate::storage::disk::names;
use crate::storage::disk::reserved::{STATE, is_partial_name};
use crate::storage::disk::root::{Root, split};
use crate::storage::disk::walk::{Met, Missed, below, walk_all};
use crate::storage::error::{At, Error};
use crate::storage::integrity::checksum::{self, Algorithm, Record, Stopped};

/// How often a file is read that changes while it is read.
const TRIES: usize = 3;

/// Files with a stored checksum, and the bytes that will be read of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub files: u64,
    pub bytes: u64,
}

/// What is told while a tree is verified.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// So many more bytes were read.
    Read(u64),
    /// A file holds what was stored.
    Verified,
    /// A file has no stored checksum.
    WithoutChecksum,
    /// Size and time are those that the checksum was stored for, and the contents are others.
    Damaged(&'a Path),
    /// The contents are others, and so is the size or the time.
    Changed(&'a Path),
    /// A file or directory cannot be read.
    Unreadable(&'a Path, String),
}

/// Who is told.
type Tell<'a> = dyn FnMut(Told<'_>) + 'a;

/// Counts what [`verify`] will read. What cannot be read is passed over.
///
/// # Errors
/// When the directory itself cannot be opened.
pub fn count_checksums(top: &Path, require_mount: bool) -> Result<Checked, Error> {
    let mut found = Checked::default();
    each_file(top, require_mount, &mut |_, met| {
        if let Some(Ok((_, stat, Some(record)))) = met.ok().map(open) {
            found.files += 1;
            // A file of another size has other contents: that is known without reading it.
            if record.is_of_size(&stat) {
                found.bytes += record.size;
            }
        }
    })?;
    Ok(found)
}

/// Reads again each file below the directory that has a stored checksum, and tells what came of it. Takes the memory of one
/// piece of a file and holds one directory open; follows no link.
///
/// # Errors
/// When the directory itself cannot be opened; `NotMounted` while no file system is mounted at it where that is required.
pub fn verify(top: &Path, require_mount: bool, tell: &mut Tell<'_>) -> Result<(), Error> {
    each_file(top, require_mount, &mut |root, met| match met {
        Ok(met) => tell_of_file(met, &root.host_path(&below(met.relative, met.name)), tell),
        Err(Missed { relative, errno }) => {
            tell(Told::Unreadable(&root.host_path(relative), why(errno)));
        }
    })
}

/// Shows the files that users have stored below the directory, and what cannot be looked at.
fn each_file(
    top: &Path,
    require_mount: bool,
    visit: &mut dyn FnMut(&Root, Result<&Met<'_>, Missed<'_>>),
) -> Result<(), Error> {
    let root = Root::open_or_guard(top, require_mount).at(top.as_os_str().as_encoded_bytes())?;
    let enter = |directory: &[u8]| split(directory).1 != STATE;
    let is_of_users = |met: &Met<'_>| kind(met.stat) == Kind::File && !is_partial_name(met.name);
    walk_all(&root, b"", &enter, &mut |met| {
        if met.as_ref().map_or(true, |met| is_of_users(met)) {
            visit(&root, met);
        }
        ControlFlow::Continue(())
    })
    .at(top.as_os_str().as_encoded_bytes())
}

/// The file, its facts and what is stored with it.
fn open(met: &Met<'_>) -> Result<(File, FileStat, Option<Record>), Errno> {
    let file = names::open(met.directory, met.name, OFlag::O_RDONLY)?;
    let stat = fstat(&file)?;
    let record = match kind(&stat) {
        Kind::File => checksum::record(file.as_fd())?,
        // Another thing has taken its name meanwhile.
        _ => None,
    };
    Ok((file, stat, record))
}

fn tell_of_file(met: &Met<'_>, path: &Path, tell: &mut Tell<'_>) {
    for tries_left in (0..TRIES).rev() {
        let (file, before, record) = match open(met) {
            Ok((file, stat, Some(record))) => (file, stat, record),
            Ok((_, _, None)) => return tell(Told::WithoutChecksum),
            Err(Errno::ENOENT) => return,
            Err(errno) => return tell(Told::Unreadable(path, why(errno))),
        };
        match matches(&file, &before, &record, tell) {
            Ok(true) => return tell(Told::Verified),
            Ok(false) => {}
            Err(error) => return tell(Told::Unreadable(path, error.to_string())),
        }
        let after = fstat(&file).unwrap_or(before);
        if tries_left > 0 && !is_unchanged(&before, &after) {
            // Somebody writes to it, or gives it a time: then its checksum is another soon.
            continue;
        }
        return tell(if record.holds_for(&after) {
            Told::Damaged(path)
        } else {
            Told::Changed(path)
        });
    }
}

/// Whether the file holds what the record says.
fn matches(
    file: &File,
    stat: &FileStat,
    record: &Record,
    tell: &mut Tell<'_>,
) -> std::io::Result<bool> {
    if !record.is_of_size(stat) {
        return Ok(false);
    }
    // What lies in memory says nothing of what lies on the disk.
    checksum::forget_pages(file);
    let read = checksum::compute(file, 0..record.size, Algorithm::Sha256, &mut |bytes| {
        tell(Told::Read(bytes as u64));
        Ok::<(), ()>(())
    });
    checksum::forget_pages(file);
    match read {
        Ok(digest) => Ok(digest == record.digest),
        Err(Stopped::Unreadable(error)) => Err(error),
        Err(Stopped::Shrunk | Stopped::By(())) => Ok(false),
    }
}

fn why(errno: Errno) -> String {
    std::io::Error::from(errno).to_string()
}
