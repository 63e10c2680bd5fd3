//! Removing a directory with all in it. Holds one directory open at a time, however deep the tree; never follows a link.
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::storage::disk::metadata::is_same_file;
use crate::storage::disk::root::{DIRECTORY, Place, Root, split};
use crate::storage::disk::walk::{below, names};

/// A directory on the way down.
struct Level {
    relative: Vec<u8>,
    stat: FileStat,
    /// Names still to be removed.
    names: Vec<Vec<u8>>,
}

impl Level {
    fn new(relative: Vec<u8>, directory: &OwnedFd) -> Result<Self, Errno> {
        let names = names(directory)?.collect::<Result<_, _>>()?;
        Ok(Self {
            relative,
            stat: fstat(directory)?,
            names,
        })
    }
}

/// How one name is removed: it is told the directory, the path of that below the root, and the name. `EISDIR` for a directory.
pub type Unlink<'a, E> = &'a mut dyn FnMut(BorrowedFd<'_>, &[u8], &[u8]) -> Result<(), E>;

/// Removes what lies at `relative`, which must be a directory; `Ok(false)` when `go_on` said no.
///
/// # Errors
/// The first thing that cannot be removed; what was removed before is gone.
pub fn remove<E: From<Errno> + PartialEq>(
    root: &Root,
    relative: &[u8],
    go_on: &mut dyn FnMut() -> bool,
    unlink: Unlink<'_, E>,
) -> Result<bool, E> {
    let root = &root.again()?;
    let place = root.place(relative)?;
    let mut current = open_directory(&place.directory, &place.name)?;
    let mut levels = vec![Level::new(relative.to_vec(), &current)?];
    while let Some(level) = levels.last_mut() {
        if !go_on() {
            return Ok(false);
        }
        let Some(name) = level.names.pop() else {
            let (_, done) = split(&level.relative);
            let done = done.to_vec();
            levels.pop();
            let Some(parent) = levels.last() else { break };
            current = root.open_below(&parent.relative, DIRECTORY)?;
            if !is_same_file(&fstat(&current)?, &parent.stat) {
                // Somebody has moved it, and put another in its place.
                return Err(Errno::EBUSY.into());
            }
            match unlinkat(&current, done.as_slice(), UnlinkatFlags::RemoveDir) {
                Err(Errno::ENOENT) => {}
                other => other?,
            }
            continue;
        };
        match unlink(current.as_fd(), &level.relative, &name) {
            Err(error) if error == Errno::EISDIR.into() => {
                current = open_directory(&current, &name)?;
                let relative = below(&level.relative, &name);
                levels.push(Level::new(relative, &current)?);
            }
            // What somebody else has removed meanwhile is gone as well.
            Err(error) if error == Errno::ENOENT.into() => {}
            other => other?,
        }
    }
    let Place { directory, name } = place;
    unlinkat(&directory, name.as_slice(), UnlinkatFlags::RemoveDir)?;
    Ok(true)
}

fn open_directory(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    match openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::ELOOP) => Err(Errno::ENOTDIR),
        other => other,
    }
}
