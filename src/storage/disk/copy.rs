//! Copying from file to file inside the kernel: shared blocks where the file system can, else its own copying, else ours.
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::sys::uio::{pread, pwrite};

use crate::storage::disk::system;

/// Bytes a step: short enough that who has to be asked in between does not wait.
pub const STEP: usize = 4 << 20;

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

/// Copies up to a step at the offset; returns the bytes, 0 at the end.
///
/// # Errors
/// Those of reading and writing.
pub fn step(from: BorrowedFd<'_>, to: BorrowedFd<'_>, offset: u64) -> Result<usize, Errno> {
    step_of(from, to, offset, STEP)
}

/// The same of at most so many bytes.
///
/// # Errors
/// As [`step`].
pub fn step_of(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    offset: u64,
    most: usize,
) -> Result<usize, Errno> {
    let start = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
    let (mut source, mut target) = (start, start);
    loop {
        match copy_file_range(from, Some(&mut source), to, Some(&mut target), most) {
            // Files of some virtual file systems say so of what can be read all the same.
            Ok(0) => return through_memory(from, to, start, most),
            Err(Errno::EINTR) => {}
            Err(
                Errno::EXDEV
                | Errno::EINVAL
                | Errno::ENOSYS
                | Errno::EOPNOTSUPP
                | Errno::EBADF
                | Errno::EPERM,
            ) => return through_memory(from, to, start, most),
            other => return other,
        }
    }
}

fn through_memory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    offset: i64,
    most: usize,
) -> Result<usize, Errno> {
    let mut buffer = vec![0; most.min(128 * 1024)];
    let length = loop {
        match pread(from, &mut buffer, offset) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut written = 0;
    while written < length {
        let at = offset + i64::try_from(written).map_err(|_| Errno::EFBIG)?;
        match pwrite(to, &buffer[written..length], at) {
            Ok(more) => written += more,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(length)
}

/// Makes an empty file hold all that another holds.
///
/// # Errors
/// Those of reading and writing.
pub fn all(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    if cloned(from, to)? {
        return Ok(());
    }
    let mut offset = 0;
    loop {
        match step(from, to, offset)? {
            0 => return Ok(()),
            copied => offset += copied as u64,
        }
    }
}
