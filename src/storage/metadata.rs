//! Facts of a file, and what the kernel's mode bits and the configuration together allow on it.
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::libc;
use nix::sys::stat::{FileStat, fstatat};

use crate::storage::disk::metadata::{Kind, allows, is_owner, kind, size_of};
use crate::storage::disk::system;
use crate::storage::permissions::{Permission, Permissions};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub kind: Kind,
    /// In bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u64,
    pub device: u64,
    pub inode: u64,
    /// Seconds since 1970, where that was asked for and the file system knows it.
    pub created: Option<i64>,
    /// What configuration and mode bits together allow. Of a directory, `Delete` speaks of what is in it.
    pub permissions: Permissions,
}

impl Metadata {
    /// `parent_writable`: names can be taken out of the directory that it is in.
    pub fn new(stat: &FileStat, configured: Permissions, parent_writable: bool) -> Self {
        let kind = kind(stat);
        Self {
            kind,
            size: size_of(stat),
            modified: stat.st_mtime,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink,
            device: stat.st_dev,
            inode: stat.st_ino,
            created: None,
            permissions: effective(stat, kind, configured, parent_writable),
        }
    }

    /// Of something that nothing else was asked of.
    pub fn of_kind(kind: Kind) -> Self {
        Self {
            kind,
            mode: 0,
            ..Self::of_synthetic_directory(Permissions::NONE)
        }
    }

    /// A directory that exists only because a folder lies below it.
    pub fn of_synthetic_directory(configured: Permissions) -> Self {
        Self {
            kind: Kind::Directory,
            size: 0,
            modified: 0,
            mode: 0o555,
            uid: 0,
            gid: 0,
            links: 1,
            device: 0,
            inode: 0,
            created: None,
            permissions: configured.and(Permissions::NONE.with(Permission::List)),
        }
    }
}

/// Facts that a listing asks for. Each may cost a network file system a question to its server, so that what nobody is shown
/// is not asked for. Of the others it tells what it happens to know, or zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(u32);

impl Asked {
    pub const NOTHING: Self = Self(0);
    pub const KIND: Self = Self(libc::STATX_TYPE);
    pub const SIZE: Self = Self(libc::STATX_SIZE);
    pub const MODIFIED: Self = Self(libc::STATX_MTIME);
    pub const CREATED: Self = Self(libc::STATX_BTIME);
    pub const MODE: Self = Self(libc::STATX_MODE);
    pub const OWNERS: Self = Self(libc::STATX_UID | libc::STATX_GID);
    pub const LINKS: Self = Self(libc::STATX_NLINK);
    /// Device and inode.
    pub const UNIQUE: Self = Self(libc::STATX_INO);
    /// Beside the configuration, mode and owners decide.
    pub const PERMISSIONS: Self = Self::MODE.and(Self::OWNERS);

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This where it is wanted, or nothing.
    pub const fn if_wanted(self, wanted: bool) -> Self {
        if wanted { self } else { Self::NOTHING }
    }

    /// Whether an entry of the kind can be told of without a look at it.
    pub fn is_told_by(self, kind: Option<Kind>) -> bool {
        self == Self::NOTHING || (self == Self::KIND && kind.is_some())
    }
}

/// Facts of a name in the directory, of a link itself.
///
/// # Errors
/// Those of statx(2).
pub fn look(
    directory: BorrowedFd<'_>,
    name: &[u8],
    asked: Asked,
) -> Result<(FileStat, Option<i64>), Errno> {
    // The kind is needed whatever is shown.
    match system::facts(directory, name, asked.and(Asked::KIND).0) {
        // Kernels before 4.11, and filters that do not know the call.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH;
            Ok((fstatat(directory, name, flags)?, None))
        }
        other => other,
    }
}

fn effective(
    stat: &FileStat,
    kind: Kind,
    configured: Permissions,
    parent_writable: bool,
) -> Permissions {
    let mut allowed = configured;
    let mut unless = |possible: bool, permissions: &[Permission]| {
        if !possible {
            for permission in permissions {
                allowed = allowed.without(*permission);
            }
        }
    };
    unless(parent_writable, &[Permission::Rename, Permission::Rmdir]);
    unless(is_owner(stat), &[Permission::Touch, Permission::Chmod]);
    if kind == Kind::Directory {
        unless(allows(stat, 0o5), &[Permission::List]);
        unless(
            allows(stat, 0o3),
            &[Permission::Upload, Permission::Mkdir, Permission::Delete],
        );
    } else {
        unless(parent_writable, &[Permission::Delete]);
        unless(allows(stat, 0o4), &[Permission::Download]);
        unless(
            allows(stat, 0o2),
            &[Permission::Overwrite, Permission::Append],
        );
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_directory_tells_of_an_entry_needs_no_look_at_it() {
        let file = Some(Kind::File);
        assert!(Asked::NOTHING.is_told_by(None) && Asked::KIND.is_told_by(file));
        // Some file systems do not tell kinds.
        assert!(!Asked::KIND.is_told_by(None));
        assert!(!Asked::SIZE.is_told_by(file) && !Asked::KIND.and(Asked::MODE).is_told_by(file));
        assert_eq!(Asked::SIZE.if_wanted(false), Asked::NOTHING);
    }
}
