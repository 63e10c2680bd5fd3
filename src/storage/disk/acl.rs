//! Access control lists (acl(5)) of what uploads and MKD make: as if it had been created under its name, in its directory, with
//! the configured mode; and a replaced file keeps its own.
//!
//! The kernel combines a directory's default list with the mode that a file is created with, and then leaves the umask
//! out. Uploads grow in files that only the server may read, so the same is done to them in the end: the default list is
//! put on, less what the configured mode does not grant.
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, fchown};

use crate::storage::disk::root::name_of;
use crate::storage::disk::system;

const ACCESS: &CStr = c"system.posix_acl_access";
const DEFAULT: &CStr = c"system.posix_acl_default";

/// Bytes of the version in front, and of each entry: tag and permissions in two each, an identity in four
/// (`linux/posix_acl_xattr.h`, little-endian).
const HEAD: usize = 4;
const ENTRY: usize = 8;
const VERSION: u32 = 2;

/// Tags of entries.
const OWNER: u16 = 0x01;
const OWNING_GROUP: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Modes and group of what a user creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// Bits taken away from both modes.
    pub umask: u32,
    pub file: u32,
    pub directory: u32,
    /// The group that files are given to; None leaves it to the directory and the process.
    pub group: Option<u32>,
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            umask: 0o022,
            file: 0o666,
            directory: 0o777,
            group: None,
        }
    }
}

impl Modes {
    pub fn of_files(self) -> u32 {
        self.file & !self.umask & 0o777
    }

    pub fn of_directories(self) -> u32 {
        self.directory & !self.umask & 0o7777
    }
}

/// Sets mode, list and group of a file that was just created in the directory.
///
/// # Errors
/// Those of writing. What the file system does not know stays as it is.
pub fn give(directory: BorrowedFd<'_>, file: BorrowedFd<'_>, modes: Modes) -> Result<(), Errno> {
    match read(directory, DEFAULT).and_then(|default| combined(default, modes.file)) {
        Some(list) => tolerated(system::set_attribute(file, ACCESS, &list))?,
        None => set_mode(file, modes.of_files())?,
    }
    give_group(file, modes.group)
}

/// The mode to create a directory with in another; the owner may do all in it until [`give_directory`].
pub fn creation_mode(parent: BorrowedFd<'_>, modes: Modes) -> Mode {
    let mode = match read(parent, DEFAULT) {
        Some(_) => modes.directory,
        None => modes.of_directories(),
    };
    Mode::from_bits_truncate(mode & 0o1777) | Mode::S_IRWXU
}

/// The same as [`give`] for a directory that was created with [`creation_mode`], which the kernel has given the list and,
/// where the other hands on its group, that and the set-group-ID bit.
///
/// # Errors
/// As [`give`].
pub fn give_directory(
    parent: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    modes: Modes,
) -> Result<(), Errno> {
    const SET_GROUP: u32 = 0o2000;
    let made = fstat(directory)?.st_mode & 0o7777;
    let wanted = match read(parent, DEFAULT) {
        Some(_) => (made & (modes.directory | !0o700)) | (modes.directory & 0o7000),
        None => modes.of_directories() | (made & SET_GROUP),
    };
    // Not without need: who is not of the group cannot set the bit, not even again.
    if wanted != made {
        tolerated(fchmod(directory, Mode::from_bits_truncate(wanted)))?;
    }
    give_group(directory, modes.group)
}

/// Gives a new file the list of an old one, which may be open with `O_PATH`, and its permission bits.
///
/// # Errors
/// As [`give`].
pub fn take_over(old: BorrowedFd<'_>, file: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    match read(old, ACCESS) {
        Some(list) => tolerated(system::set_attribute(file, ACCESS, &list)),
        None => set_mode(file, mode),
    }
}

/// Sets the permission bits of a file and takes away a list that it may have got when it was created, and set-user-ID and its
/// like.
///
/// # Errors
/// As [`give`].
pub fn set_mode(file: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    if system::attribute(file, ACCESS, 0).is_ok() {
        // A list that says no more than a mode becomes one.
        return tolerated(system::set_attribute(file, ACCESS, &minimal(mode)));
    }
    tolerated(fchmod(file, Mode::from_bits_truncate(mode & 0o777)))
}

fn give_group(file: BorrowedFd<'_>, group: Option<u32>) -> Result<(), Errno> {
    match group {
        Some(group) => tolerated(fchown(file, None, Some(Gid::from_raw(group)))),
        None => Ok(()),
    }
}

/// A file system without modes (vfat) keeps those it was mounted with.
fn tolerated(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EPERM | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// None where there is no list, or nobody who could tell.
fn read(file: BorrowedFd<'_>, name: &CStr) -> Option<Vec<u8>> {
    // What is open with O_PATH has no attributes of its own.
    let path = CString::new(name_of(file.as_fd())).ok()?;
    match system::attribute_of_path(&path, name, 256) {
        Err(Errno::ERANGE) => system::attribute_of_path(&path, name, 1 << 16).ok(),
        other => other.ok(),
    }
}

/// A default list less what the mode does not grant; None where it is no list.
fn combined(list: Vec<u8>, mode: u32) -> Option<Vec<u8>> {
    let mut list = list;
    let version: [u8; 4] = list.get(..HEAD)?.try_into().ok()?;
    if u32::from_le_bytes(version) != VERSION || (list.len() - HEAD) % ENTRY != 0 {
        return None;
    }
    let tag = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]);
    let has_mask = list[HEAD..].chunks(ENTRY).any(|entry| tag(entry) == MASK);
    for entry in list[HEAD..].chunks_mut(ENTRY) {
        // The mode's bits for the group bound the mask, and with it all that are named; only without one the group.
        let bound = match tag(entry) {
            OWNER => mode >> 6,
            OWNING_GROUP if !has_mask => mode >> 3,
            MASK => mode >> 3,
            OTHER => mode,
            _ => continue,
        };
        entry[2] &= (bound & 0o7) as u8;
    }
    Some(list)
}

/// What a mode says, as a list.
fn minimal(mode: u32) -> Vec<u8> {
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, bits) in [(OWNER, mode >> 6), (OWNING_GROUP, mode >> 3), (OTHER, mode)] {
        list.extend(tag.to_le_bytes());
        list.extend(((bits & 0o7) as u16).to_le_bytes());
        list.extend(u32::MAX.to_le_bytes());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u8)]) -> Vec<u8> {
        let mut list = VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            list.extend(tag.to_le_bytes());
            list.extend([*permissions, 0]);
            list.extend(7_u32.to_le_bytes());
        }
        list
    }

    #[test]
    fn a_mode_bounds_owner_mask_and_others_and_the_group_only_without_a_mask() {
        const NAMED: u16 = 0x02;
        let all = [
            (OWNER, 7),
            (NAMED, 7),
            (OWNING_GROUP, 7),
            (MASK, 7),
            (OTHER, 7),
        ];
        let bounded = [
            (OWNER, 6),
            (NAMED, 7),
            (OWNING_GROUP, 7),
            (MASK, 4),
            (OTHER, 0),
        ];
        assert_eq!(combined(list(&all), 0o640), Some(list(&bounded)));
        let three = [(OWNER, 5), (OWNING_GROUP, 7), (OTHER, 1)];
        let bounded = [(OWNER, 4), (OWNING_GROUP, 4), (OTHER, 0)];
        assert_eq!(combined(list(&three), 0o640), Some(list(&bounded)));
        assert_eq!(combined(minimal(0o777), 0o640), Some(minimal(0o640)));
    }

    #[test]
    fn what_is_no_list_is_none() {
        let cut = &minimal(0o777)[..11];
        for no_list in [&b""[..], b"\x02\0\0", b"\x01\0\0\0", cut] {
            assert_eq!(combined(no_list.to_vec(), 0o666), None, "{no_list:?}");
        }
    }
}
