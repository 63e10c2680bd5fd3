//! Copying from file to file: shared blocks where the file system can, else inside the kernel, as the standard library does it.
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;

use crate::storage::disk::system::{self, errno_of};

/// Bytes a step: short enough that who has to be asked in between does not wait.
pub const STEP: u64 = 4 << 20;

/// Makes an empty file hold what another holds, sharing its blocks; false where the file system cannot.
///
/// # Errors
/// Those of writing.
pub fn cloned(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool, Errno> {
    match system::clone_file(from, to) {
        Ok(()) => Ok(true),
        Err(
            Errno::EOPNOTSUPP
            | Errno::EXDEV
            | Errno::EINVAL
            | Errno::ENOTTY
            | Errno::ENOSYS
            | Errno::EBADF
            | Errno::EPERM
            | Errno::ETXTBSY,
        ) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Copies at most so many bytes at the offset, and at most a step; returns the bytes, 0 at the end.
///
/// # Errors
/// Those of reading and writing.
pub fn step(from: &File, to: &File, offset: u64, most: u64) -> Result<u64, Errno> {
    copied(from, to, offset, most.min(STEP)).map_err(errno_of)
}

/// Makes an empty file hold all that another holds.
///
/// # Errors
/// Those of reading and writing.
pub fn all(from: &File, to: &File) -> Result<(), Errno> {
    if !cloned(from.as_fd(), to.as_fd())? {
        copied(from, to, 0, u64::MAX).map_err(errno_of)?;
    }
    Ok(())
}

fn copied(mut from: &File, mut to: &File, offset: u64, most: u64) -> io::Result<u64> {
    from.seek(SeekFrom::Start(offset))?;
    to.seek(SeekFrom::Start(offset))?;
    io::copy(&mut from.take(most), &mut to)
}
