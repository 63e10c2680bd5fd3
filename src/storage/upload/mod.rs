//! A file being received. No other code makes a file appear.
//!
//! | file | subject |
//! |---|---|
//! | `begin` | what it grows in: a partial file beside the target, or the target itself |
//! | `space` | whether there is room for what comes: disk and quota |
//! | `copy` | copies of files within the server |
//! | `finish` | how it becomes the file |
//! | `partial` | where it grows until it is whole |
//! | `told` | what clients were told of its length |
//! | `sweep` | what uploads have left in a whole tree |
mod begin;
pub mod copy;
mod finish;
pub mod partial;
mod space;
pub mod sweep;
pub mod told;

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::stat::{FileStat, fstat};
use nix::sys::statvfs::fstatvfs;

use crate::storage::disk::acl::Modes;
use crate::storage::disk::boot;
use crate::storage::disk::durable::{Order, Pace};
use crate::storage::disk::metadata::{is_same_file, size_of};
use crate::storage::disk::names::{self, HeldName, rename_to_new};
use crate::storage::disk::root::{Place, Root};
use crate::storage::disk::system::errno_of;
use crate::storage::disk::writers::{Claimed, Holder};
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::integrity::checksum::{self, Digest, Stopped};
use crate::storage::path::VirtualPath;
use crate::storage::retention::versions::{Version, Versions};
use crate::storage::rules::{Room, available};
use space::Space;

/// What an upload does with the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The file will be what is received, whatever was there.
    Replace,
    /// What is received comes behind what is there.
    Append,
    /// What is received comes at this offset, and the file ends where it ends.
    At(u64),
}

/// What an upload has become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Of the whole file, in bytes.
    pub size: u64,
    /// Of the whole file, in lower-case hexadecimal, where the account has `checksums`.
    pub sha256: Option<String>,
}

/// The file under way. [`Upload::finish`] makes it the file; dropped unfinished it was not received, and what has arrived
/// waits to be resumed.
#[derive(Debug)]
pub struct Upload {
    file: Claimed,
    grows: Grows,
    position: u64,
    received: u64,
    /// What is there behind the position goes with the first byte, and not before one comes.
    cuts: bool,
    /// There may be something behind the position in the end.
    may_be_longer: bool,
    /// It says how much of it is sure to be there after a power cut.
    marked: bool,
    /// The client has a data connection for it: what it has sent may have been lost on the way.
    has_begun: bool,
    order: Order,
    pace: Pace,
    space: Space,
    /// The SHA-256 of what the file holds up to the position, where it is wanted.
    digest: Option<Digest>,
    /// The same, of a copy whose original has one.
    known_digest: Option<String>,
    path: VirtualPath,
    host_path: PathBuf,
}

/// What the bytes go into.
#[derive(Debug)]
enum Grows {
    /// The target itself.
    InPlace {
        /// The directory of a new file, whose entry is to be made durable too.
        new_in: Option<OwnedFd>,
        /// Where its name is: the root, and the path below.
        at: (Root, Vec<u8>),
        /// What is there, until it is written to.
        version: Option<Version>,
    },
    /// A partial file that takes the target's place in the end.
    Beside(Box<Beside>),
    /// It has taken it.
    Settled,
}

#[derive(Debug)]
struct Beside {
    /// Of the partial file.
    name: Vec<u8>,
    /// The target.
    place: Place,
    /// What may be there by then may be replaced.
    may_replace: bool,
    modes: Modes,
    /// It began as what this file, the target, holds, and replaces nothing else.
    clone_of: Option<FileStat>,
    /// Cut off, it can be continued; else it is worth nothing.
    resumable: bool,
    /// What had the name when the upload began.
    had: Option<FileStat>,
    /// The file that is replaced becomes one of these.
    versions: Option<Versions>,
    lock: Option<Duration>,
    holder: Option<Holder>,
}

/// Bytes of an upload that are not worth marking: clients are told of less, and send them again.
const UNMARKED: u64 = 64 << 10;

impl Upload {
    /// Writes all of it behind what was received before.
    ///
    /// # Errors
    /// `NoSpace` with the bytes that are free, `OverQuota`, `Quota`, `TooLarge`, `Io`.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.admit(bytes.len())?;
        let written = self.file.write_all_at(bytes, self.position);
        self.said(written.map_err(errno_of))?;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        self.advance(bytes.len())
    }

    /// Whether bytes may come by [`Upload::splice_from`]: a checksum wants to see them.
    pub fn takes_pages(&self) -> bool {
        self.digest.is_none()
    }

    /// Bytes that [`Upload::catch_up`] would read.
    pub fn to_catch_up(&self) -> u64 {
        self.digest.as_ref().map_or(0, |_| self.position)
    }

    /// Adds to the checksum what is in the file already, of an upload that continues one. To be called before the first byte;
    /// `go_on` is asked after each piece.
    ///
    /// # Errors
    /// What stopped it.
    pub fn catch_up<E>(
        &mut self,
        go_on: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), Stopped<E>> {
        self.has_begun = true;
        let (file, position) = (&*self.file, self.position);
        let Some(mut digest) = self.digest.clone().filter(|_| position > 0) else {
            return Ok(());
        };
        checksum::feed(&mut digest, file, 0..position, &mut |_| go_on())?;
        self.digest = Some(digest);
        Ok(())
    }

    /// Moves up to `length` bytes from a pipe, which must hold them, behind what was received before; returns how
    /// many, or None where the file system cannot (and nothing was moved).
    ///
    /// # Errors
    /// As [`Upload::write_all`].
    pub fn splice_from(
        &mut self,
        pipe: BorrowedFd<'_>,
        length: usize,
    ) -> Result<Option<usize>, Error> {
        self.admit(length)?;
        let mut offset = self.said(i64::try_from(self.position).map_err(|_| Errno::EFBIG))?;
        let (to, how) = (&*self.file, SpliceFFlags::SPLICE_F_MOVE);
        loop {
            match splice(pipe, None, to, Some(&mut offset), length, how) {
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL | Errno::ENOSYS) => return Ok(None),
                moved => {
                    let moved = self.said(moved)?;
                    self.advance(moved)?;
                    return Ok(Some(moved));
                }
            }
        }
    }

    /// Bytes that are yet to come of a file of which so many were announced: what is missing of the whole, or where more is
    /// there already, so many.
    pub fn missing_of(&self, announced: u64) -> u64 {
        let whole = announced.checked_sub(self.position);
        whole.unwrap_or(announced)
    }

    /// Sets room aside for bytes that were announced, so that want of it is found out before the first of them. What is not
    /// used is given back in the end.
    ///
    /// # Errors
    /// `NoRoom` with the bytes that are free and needed, `OverQuota`.
    pub fn reserve(&mut self, announced: u64) -> Result<(), Error> {
        let end = self.position.checked_add(announced);
        let end = self.said(end.ok_or(Errno::EFBIG))?;
        self.may_be_longer = true;
        let reserved = self.space.reserve(&self.file, self.position, end);
        reserved.at(&self.path)
    }

    /// To be called before anything is written.
    fn cut(&mut self) -> Result<(), Error> {
        if let Grows::InPlace { version, at, .. } = &mut self.grows {
            if let Some(version) = version.take() {
                // One that another session has made, and that does not stand yet, is not to be one too many.
                let place = at.0.place(&at.1);
                let _held = place.and_then(|place| HeldName::of(&place.directory, &place.name));
                version.stand(&self.space.meter);
            }
        }
        if std::mem::take(&mut self.cuts) {
            self.end_here()?;
            self.space.give_back(self.position);
            // What it said was of another upload.
            self.mark();
            if matches!(self.grows, Grows::Beside(_)) {
                // Or a power cut could bring back what was behind it, to be continued with what is another file by now.
                self.said(self.order.contents(&*self.file))?;
            }
        }
        Ok(())
    }

    fn admit(&mut self, length: usize) -> Result<(), Error> {
        self.cut()?;
        let end = self.position + length as u64;
        self.space.admit(&self.file, end).at(&self.path)
    }

    fn advance(&mut self, bytes: usize) -> Result<(), Error> {
        self.position += bytes as u64;
        self.received += bytes as u64;
        self.file.moved();
        let paced = self.pace.reached(&self.file, self.position);
        self.said(paced)?;
        // Behind that, for what was there before may have come at no pace at all.
        if !self.marked && self.position >= UNMARKED {
            self.mark();
        }
        Ok(())
    }

    /// Has an unfinished file say what of it is sure to be there, and what it is to replace.
    fn mark(&mut self) {
        if let Grows::Beside(beside) = &self.grows {
            let replaced = beside.had.as_ref().filter(|_| beside.resumable);
            boot::mark(self.file.as_fd(), self.is_durable(), replaced);
            self.marked = true;
        }
    }

    /// Takes away what is behind the position.
    fn end_here(&self) -> Result<(), Error> {
        self.said(self.file.set_len(self.position).map_err(errno_of))
    }

    /// What the kernel has said of the file.
    fn said<T>(&self, result: Result<T, Errno>) -> Result<T, Error> {
        let full = matches!(result, Err(Errno::ENOSPC));
        result.at(&self.path).map_err(|mut error| {
            if full {
                let disk = fstatvfs(&*self.file);
                let free = disk.map_or(0, |disk| available(&disk, Room::default()));
                error.kind = ErrorKind::NoSpace { free };
            }
            error
        })
    }

    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn path(&self) -> &VirtualPath {
        &self.path
    }

    /// Whether [`Upload::finish`] returns only when all is on the disk.
    pub fn is_durable(&self) -> bool {
        self.order != Order::Never
    }

    pub fn host_path(&self) -> &Path {
        &self.host_path
    }
}

impl Drop for Upload {
    /// What holds nothing is worth no resuming, but where a client could continue the old file instead.
    fn drop(&mut self) {
        if matches!(self.grows, Grows::Settled) {
            return;
        }
        let size = length(&self.file).unwrap_or(0);
        if let Grows::InPlace { version, .. } = &mut self.grows {
            // Nothing was written: what is there is no old version.
            if let Some(version) = version.take() {
                version.go(&self.space.meter);
            }
        }
        if let Grows::Beside(beside) = &self.grows {
            let directory = beside.place.directory.as_fd();
            let is_vain = size == 0 && !(self.has_begun && beside.had.is_some());
            if is_vain || !beside.resumable || beside.is_outdated(&self.file.stat) {
                partial::remove(directory, &beside.name, &self.file.stat);
                self.space.give_back(0);
                self.space.meter.went(0, 1);
                return;
            }
            if self.received > 0 || size == 0 {
                // It may have been as good as finished.
                self.mark();
            }
            sweep::note(&self.host_path);
        }
        self.space.cut_surplus(&self.file, size);
        self.space.give_back(size);
    }
}

impl Beside {
    fn account(&self) -> &str {
        self.holder.as_ref().map_or("", Holder::account)
    }

    /// The partial file, which has the name `at`, gets its own again, to be continued. Where another has that by now, it cannot be.
    fn go_back(&mut self, at: &[u8]) {
        let directory = self.place.directory.as_fd();
        if at != self.name && rename_to_new(directory, at, directory, &self.name).is_err() {
            self.name = at.to_vec();
            self.resumable = false;
        }
    }

    /// Whether another file was stored under the name since this upload began, or the partial file was taken away. To
    /// continue this one later would mix the two.
    fn is_outdated(&self, ours: &FileStat) -> bool {
        let directory = self.place.directory.as_fd();
        let other = names::stat(directory, &self.place.name).is_ok_and(|there| {
            let had = self.had.as_ref();
            had.is_none_or(|had| !is_same_file(had, &there))
        });
        other || !partial::has_name(directory, &self.name, ours)
    }
}

fn length(file: &File) -> Result<u64, Errno> {
    Ok(size_of(&fstat(file)?))
}
