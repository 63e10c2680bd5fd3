//! What holds in one root or folder, beyond what a user may do there: how uploads are made, what is kept and for how long.
use std::time::Duration;

use nix::libc;
use nix::sys::statvfs::Statvfs;

use crate::storage::disk::metadata::acts_as_root;
use crate::storage::permissions::Permissions;

/// Where uploads grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uploads {
    /// Beside the target, which they replace when they are whole.
    #[default]
    Atomic,
    /// In the target itself, for programs that read it meanwhile.
    Direct,
}

/// What is configured for a root or a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub permissions: Permissions,
    pub uploads: Uploads,
    /// Files younger than this are neither overwritten, deleted, renamed nor touched.
    pub lock: Option<Duration>,
    /// Old versions that are kept of each file that is overwritten.
    pub versions: usize,
    /// Users may list and download them.
    pub show_versions: bool,
    /// Nothing is done here while no file system is mounted at this very directory.
    pub require_mount: bool,
    pub expiry: Expiry,
}

/// What is taken away in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// Files older than this.
    pub days: Option<u32>,
    /// The oldest files, until so much of the disk is free.
    pub free: Option<Room>,
    /// So many files of each directory stay in any case, the youngest ones.
    pub spared: u32,
}

impl Expiry {
    pub fn takes_anything(self) -> bool {
        self.days.is_some() || self.free.is_some()
    }
}

/// A part of a disk: bytes, hundredths of its size, or the less of both where both are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub bytes: Option<u64>,
    pub percent: Option<u8>,
}

impl Room {
    /// In bytes, of a disk of `size` bytes.
    pub fn of(self, size: u64) -> u64 {
        let part = self
            .percent
            .map(|percent| size / 100 * u64::from(percent.min(100)));
        match (self.bytes, part) {
            (Some(bytes), Some(part)) => bytes.min(part),
            (bytes, part) => bytes.or(part).unwrap_or(0),
        }
    }
}

/// What this process may still use of a disk: root has the reserve, others have not; and some of it is not to be used.
pub fn available(disk: &Statvfs, min_free: Room) -> u64 {
    let blocks: libc::fsblkcnt_t = if acts_as_root() {
        disk.blocks_free()
    } else {
        disk.blocks_available()
    };
    let size = disk.blocks().saturating_mul(disk.fragment_size());
    if size == 0 {
        // File systems that do not say (some network and FUSE ones): the disk itself tells when it is full.
        return u64::MAX;
    }
    let free = blocks.saturating_mul(disk.fragment_size());
    free.saturating_sub(min_free.of(size))
}

/// What a user may fill; None is without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    pub bytes: Option<u64>,
    pub files: Option<u64>,
}

impl Quota {
    pub fn is_limited(self) -> bool {
        self != Self::default()
    }
}

/// Bytes and files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub files: u64,
}

impl Usage {
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            files: self.files.saturating_add(other.files),
        }
    }

    pub fn plus(self, bytes: i64, files: i64) -> Self {
        Self {
            bytes: self.bytes.saturating_add_signed(bytes),
            files: self.files.saturating_add_signed(files),
        }
    }
}

impl Rules {
    /// Those of a root or folder of which nothing but permissions is said.
    pub fn plain(permissions: Permissions) -> Self {
        Self {
            permissions,
            uploads: Uploads::default(),
            lock: None,
            versions: 0,
            show_versions: false,
            require_mount: false,
            expiry: Expiry::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_the_less_of_what_is_given() {
        let room = |bytes, percent| Room { bytes, percent };
        assert_eq!(room(Some(200), Some(1)).of(10_000), 100);
        assert_eq!(room(Some(200), Some(1)).of(1_000_000), 200);
        assert_eq!(room(None, Some(10)).of(u64::MAX), u64::MAX / 100 * 10);
        assert_eq!(room(Some(5), None).of(1), 5);
        assert_eq!(Room::default().of(1000), 0);
    }
}
