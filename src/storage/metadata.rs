//! Facts of a file, and what the kernel's mode bits and the configuration together allow on it.
use nix::sys::stat::FileStat;

use crate::storage::disk::metadata::{Kind, allows, is_owner, kind, size_of};
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
            permissions: effective(stat, kind, configured, parent_writable),
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
            permissions: configured.and(Permissions::NONE.with(Permission::List)),
        }
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
