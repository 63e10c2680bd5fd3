//! Where the server keeps what it remembers of a root: a directory in the root itself, so that it stays with a disk that is
//! moved.
use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

use crate::storage::disk::metadata::acts_as_root;
use crate::storage::disk::names;
use crate::storage::disk::reserved::STATE;
use crate::storage::disk::root::{DIRECTORY, Root};

/// Opens a file of the server's own in the root, which it creates.
///
/// # Errors
/// Those of openat(2); nothing is followed.
pub fn open_state(root: &Root, name: &[u8]) -> Result<File, Errno> {
    let directory = match root.open_below(STATE, DIRECTORY) {
        Err(Errno::ENOENT) => {
            let place = root.place(STATE)?;
            match mkdirat(&place.directory, place.name.as_slice(), Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            let made = root.open_below(STATE, DIRECTORY)?;
            belong_to_owner_of(&made, &fstat(&place.directory)?);
            made
        }
        other => other?,
    };
    let file = names::open(&directory, name, OFlag::O_RDWR | OFlag::O_CREAT)?;
    belong_to_owner_of(&file, &fstat(&directory)?);
    Ok(file)
}

/// Opens one that is there for reading.
///
/// # Errors
/// As [`open_state`]; `ENOENT`.
pub fn read_state(root: &Root, name: &[u8]) -> Result<File, Errno> {
    names::open(root.open_below(STATE, DIRECTORY)?, name, OFlag::O_RDONLY)
}

/// What root makes on the command line is for the server, which is somebody else: the one who has the directory.
fn belong_to_owner_of(file: impl AsFd, directory: &FileStat) {
    let is_other = fstat(&file).is_ok_and(|stat| stat.st_uid != directory.st_uid);
    if acts_as_root() && is_other {
        let (uid, gid) = (directory.st_uid, directory.st_gid);
        // Where that cannot be (vfat), everybody may do everything.
        let _ = fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    }
}
