//! Whether a file system is mounted at a directory (setting: `require_mount`).
//!
//! Below a disk that is missing lies an empty directory that looks just like an emptied disk: a client that keeps two
//! trees the same would delete its copies, and uploads would fill the disk of the system.
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstat, fstatat};

use crate::storage::disk::system;

/// Opens the directory that a file system is mounted at.
///
/// # Errors
/// `ENOMEDIUM` while none is, or one that cannot be reached; else those of open(2).
pub fn open_mounted(path: &Path) -> Result<OwnedFd, Errno> {
    // O_DIRECTORY wakes an automounter.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(path, flags, Mode::empty()).map_err(|errno| match errno {
        // The directory may come and go with its disk; the rest is what automounters, FUSE and NFS say of theirs.
        Errno::ENOENT
        | Errno::ENOTDIR
        | Errno::ENODEV
        | Errno::ENXIO
        | Errno::EHOSTDOWN
        | Errno::ENOTCONN
        | Errno::ESTALE => Errno::ENOMEDIUM,
        other => other,
    })?;
    match is_mount_root(&directory)? {
        true => Ok(directory),
        false => Err(Errno::ENOMEDIUM),
    }
}

/// Whether a file system is mounted at the path.
pub fn is_mounted(path: &Path) -> bool {
    open_mounted(path).is_ok()
}

fn is_mount_root(directory: &OwnedFd) -> Result<bool, Errno> {
    match system::is_mount_root(directory.as_fd()) {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) | Err(Errno::ENOSYS | Errno::EPERM) => differs_from_parent(directory),
        Err(errno) => Err(errno),
    }
}

/// For kernels before 5.8; does not know a directory that is bound to another place of the same file system.
fn differs_from_parent(directory: &OwnedFd) -> Result<bool, Errno> {
    let (own, above) = (
        fstat(directory)?,
        fstatat(directory, "..", AtFlags::empty())?,
    );
    let is_top = (own.st_dev, own.st_ino) == (above.st_dev, above.st_ino);
    Ok(own.st_dev != above.st_dev || is_top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_told_from_directories_whoever_is_asked() {
        let plain = tempfile::tempdir().unwrap();
        assert!(!is_mounted(plain.path()));
        assert!(!is_mounted(&plain.path().join("none")));
        let missing = open_mounted(&plain.path().join("none")).map(drop);
        assert_eq!(missing, Err(Errno::ENOMEDIUM));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        for (path, expected) in [(Path::new("/proc"), true), (plain.path(), false)] {
            let directory = open(path, flags, Mode::empty()).unwrap();
            assert_eq!(is_mount_root(&directory), Ok(expected), "{path:?}");
            assert_eq!(differs_from_parent(&directory), Ok(expected), "{path:?}");
        }
        // A chroot may be any directory; without the kernel's word the top of what can be seen is taken for a mount.
        let top = open("/", flags, Mode::empty()).unwrap();
        assert_eq!(differs_from_parent(&top), Ok(true));
    }
}
