//! Where the server keeps what it remembers of a root: a directory in the root itself, so that it stays with a disk that is
//! moved.
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

use crate::storage::disk::metadata::acts_as_root;
use crate::storage::disk::reserved::STATE;
use crate::storage::disk::root::Root;

/// Opens a file of the server's own in the root, which it creates.
///
/// # Errors
/// Those of openat(2); nothing is followed.
pub fn open_state(root: &Root, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY;
    let directory = root.open_below(STATE, flags, Mode::empty());
    let directory = match directory {
        Err(Errno::ENOENT) => {
            let place = root.place(STATE)?;
            match mkdirat(&place.directory, place.name.as_slice(), Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            let made = root.open_below(STATE, flags, Mode::empty())?;
            belong_to_owner_of(&made, &fstat(&place.directory)?);
            made
        }
        other => other?,
    };
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    belong_to_owner_of(&file, &fstat(&directory)?);
    Ok(file)
}

/// What root makes on the command line is for the server, which is somebody else: the one who has the directory.
fn belong_to_owner_of(file: &OwnedFd, directory: &FileStat) {
    let is_other = fstat(file).is_ok_and(|stat| stat.st_uid != directory.st_uid);
    if acts_as_root() && is_other {
        let (uid, gid) = (
            Uid::from_raw(directory.st_uid),
            Gid::from_raw(directory.st_gid),
        );
        // Where that cannot be (vfat), everybody may do everything.
        let _ = fchown(file, Some(uid), Some(gid));
    }
}
