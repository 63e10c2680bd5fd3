//! Removing a directory with all in it. Holds one directory open at a time, however deep the tree; never follows a link.
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::storage::disk::root::Root;

/// A directory on the way down.
struct Level {
    relative: Vec<u8>,
    /// Names still to be removed.
    names: Vec<Vec<u8>>,
}

/// How one name that is no directory is removed: it is told the directory, the path of that below the root, and the name.
pub type Unlink<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &[u8], &[u8]) -> Result<(), Errno>;

/// Removes what lies at `relative`, which must be a directory; `Ok(false)` when `go_on` said no.
///
/// # Errors
/// The first thing that cannot be removed; what was removed before is gone.
pub fn remove(
    root: &Root,
    relative: &[u8],
    go_on: &mut dyn FnMut() -> bool,
    unlink: Unlink<'_>,
) -> Result<bool, Errno> {
    let root = &root.again()?;
    let place = root.place(relative)?;
    let mut current = open_directory(&place.directory, &place.name)?;
    let mut levels = vec![Level {
        relative: relative.to_vec(),
        names: names(&current)?,
    }];
    while let Some(level) = levels.last_mut() {
        if !go_on() {
            return Ok(false);
        }
        let Some(name) = level.names.pop() else {
            let done = levels.pop();
            let Some(parent) = levels.last() else { break };
            current = open_below(root, &parent.relative)?;
            let name = done
                .as_ref()
                .and_then(|done| done.relative.rsplit(|&byte| byte == b'/').next());
            gone(unlinkat(
                &current,
                name.unwrap_or_default(),
                UnlinkatFlags::RemoveDir,
            ))?;
            continue;
        };
        match unlink(current.as_fd(), &level.relative, &name) {
            Err(Errno::EISDIR) => {
                current = open_directory(&current, &name)?;
                let relative = [level.relative.as_slice(), b"/", &name].concat();
                let names = names(&current)?;
                levels.push(Level { relative, names });
            }
            other => gone(other)?,
        }
    }
    unlinkat(
        &place.directory,
        place.name.as_slice(),
        UnlinkatFlags::RemoveDir,
    )?;
    Ok(true)
}

/// What somebody else has removed meanwhile is gone as well.
fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

const FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

fn open_directory(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    match openat(parent, name, FLAGS, Mode::empty()) {
        Err(Errno::ELOOP) => Err(Errno::ENOTDIR),
        other => other,
    }
}

fn open_below(root: &Root, relative: &[u8]) -> Result<OwnedFd, Errno> {
    root.open_below(relative, FLAGS, Mode::empty())
}

fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let own = openat(directory.as_fd(), ".", FLAGS, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(own)?.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}
