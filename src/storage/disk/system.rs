//! The system calls that no safe wrapper offers: the only `unsafe` of the room.
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::NixPath as _;
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::FileStat;

/// What the kernel said, of an error of the standard library.
pub fn errno_of(error: io::Error) -> Errno {
    Errno::try_from(error).unwrap_or(Errno::EIO)
}

/// Starts writing a range of the file to the disk, and waits for what of it is under way already where `wait` is set; says
/// nothing of metadata (sync_file_range(2)).
///
/// # Errors
/// Those of writing; `ESPIPE`, `EINVAL` and `ENOSYS` where the file system has no such thing.
pub fn sync_file_range(
    file: BorrowedFd<'_>,
    offset: i64,
    length: i64,
    wait: bool,
) -> Result<(), Errno> {
    let flags = if wait {
        libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER
    } else {
        libc::SYNC_FILE_RANGE_WRITE
    };
    // SAFETY: the descriptor is borrowed for the call, the rest are numbers.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, flags) };
    Errno::result(result).map(drop)
}

/// Whether a file system is mounted at the directory, or part of one is bound to it; None where the kernel does not say
/// (statx(2), `STATX_ATTR_MOUNT_ROOT`, before 5.8).
///
/// # Errors
/// `ENOSYS` and `EPERM` where there is no statx(2).
pub fn is_mount_root(directory: BorrowedFd<'_>) -> Result<Option<bool>, Errno> {
    let mut facts = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is borrowed for the call, the path is an empty constant, and the kernel writes no more than
    // the structure that is exclusively borrowed.
    let result = unsafe {
        libc::statx(
            directory.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            0,
            facts.as_mut_ptr(),
        )
    };
    Errno::result(result)?;
    // SAFETY: the structure is made of numbers, for which zeroes are values too.
    let facts = unsafe { facts.assume_init() };
    let mount_root = libc::STATX_ATTR_MOUNT_ROOT as u64;
    let is_told = facts.stx_attributes_mask & mount_root != 0;
    Ok(is_told.then_some(facts.stx_attributes & mount_root != 0))
}

/// Reads entries of the directory into the buffer, as many as fit; 0 bytes at its end (getdents64(2)).
///
/// # Errors
/// Those of reading; `EINVAL` where not one fits.
pub fn read_directory(directory: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: the descriptor is borrowed for the call; the kernel writes at most as many bytes as the exclusively
        // borrowed buffer has.
        let read = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                directory.as_raw_fd(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        match Errno::result(read) {
            Err(Errno::EINTR) => {}
            other => return Ok(usize::try_from(other?).unwrap_or(0).min(buffer.len())),
        }
    }
}

/// Facts of a name in the directory, of a link itself; the empty name is what the descriptor stands for. Those of `mask`
/// (`STATX_*`) are asked for, and the file system may leave out the others. Besides, when it was created, in seconds since
/// 1970, where that is asked for and known (statx(2)).
///
/// # Errors
/// Those of statx(2); `ENOSYS`, and `EPERM` under filters that do not know it.
pub fn facts(
    directory: BorrowedFd<'_>,
    name: &[u8],
    mask: u32,
) -> Result<(FileStat, Option<i64>), Errno> {
    let mut facts = MaybeUninit::<libc::statx>::zeroed();
    // What stat(2) would tell: a network file system may answer from its cache as long as it does for others, and is not
    // told to.
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_STATX_SYNC_AS_STAT;
    let result = name.with_nix_path(|name| {
        // SAFETY: descriptor and name are borrowed for the call, and the kernel writes no more than the structure that is
        // exclusively borrowed.
        unsafe {
            libc::statx(
                directory.as_raw_fd(),
                name.as_ptr(),
                flags,
                mask,
                facts.as_mut_ptr(),
            )
        }
    })?;
    Errno::result(result)?;
    // SAFETY: both structures are made of numbers, for which zeroes are values too.
    let (facts, mut stat) = unsafe { (facts.assume_init(), std::mem::zeroed::<FileStat>()) };
    stat.st_mode = u32::from(facts.stx_mode);
    stat.st_uid = facts.stx_uid;
    stat.st_gid = facts.stx_gid;
    stat.st_nlink = facts.stx_nlink as _;
    stat.st_size = facts.stx_size as _;
    stat.st_mtime = facts.stx_mtime.tv_sec as _;
    stat.st_mtime_nsec = facts.stx_mtime.tv_nsec as _;
    stat.st_ino = facts.stx_ino as _;
    stat.st_dev = libc::makedev(facts.stx_dev_major, facts.stx_dev_minor);
    let created = facts.stx_mask & libc::STATX_BTIME != 0;
    Ok((stat, created.then_some(facts.stx_btime.tv_sec)))
}

/// Makes `to` share all blocks of `from` (ioctl_ficlone(2)).
///
/// # Errors
/// `EOPNOTSUPP`, `EXDEV`, `EINVAL`, `ENOTTY` where the file system cannot; else those of writing.
pub fn clone_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: both descriptors are borrowed for the call; FICLONE takes the other descriptor's number.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
    Errno::result(result).map(drop)
}

/// An extended attribute of the file, as far as it fits into `room` bytes; with no room at all, whether there is one
/// (fgetxattr(2)).
///
/// # Errors
/// `ENODATA` where there is none, `ERANGE` where it is longer, `EOPNOTSUPP` where the file system has none.
pub fn attribute(file: BorrowedFd<'_>, name: &CStr, room: usize) -> Result<Vec<u8>, Errno> {
    filled(room, |value, size| {
        // SAFETY: the descriptor and the name are borrowed for the call; the kernel writes at most as many bytes as the
        // buffer has.
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value, size) }
    })
}

/// The same of what has a name; links are followed (getxattr(2)).
///
/// # Errors
/// As [`attribute`]; `ENOENT`.
pub fn attribute_of_path(path: &CStr, name: &CStr, room: usize) -> Result<Vec<u8>, Errno> {
    filled(room, |value, size| {
        // SAFETY: path and name are borrowed for the call; the kernel writes at most as many bytes as the buffer has.
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value, size) }
    })
}

/// What a call fills an exclusively borrowed buffer with.
fn filled(
    room: usize,
    fill: impl FnOnce(*mut libc::c_void, usize) -> isize,
) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; room];
    let length = fill(value.as_mut_ptr().cast(), value.len());
    value.truncate(Errno::result(length)?.unsigned_abs());
    Ok(value)
}

/// Takes an extended attribute of the file away (fremovexattr(2)).
///
/// # Errors
/// `ENODATA` where there is none; else those of writing.
pub fn remove_attribute(file: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the descriptor and the name are borrowed for the call.
    let result = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Sets an extended attribute of the file (fsetxattr(2)).
///
/// # Errors
/// `EOPNOTSUPP` where the file system has none; else those of writing.
pub fn set_attribute(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the descriptor, the name and the value are borrowed for the call; the kernel only reads the value, of the
    // length that is given.
    let result = unsafe {
        libc::fsetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// The user and the group that the kernel takes this thread for when it comes to files (setfsuid(2)).
pub fn identity_for_files() -> (u32, u32) {
    // SAFETY: a number that nobody has changes nothing; the calls take one number and tell the one in force.
    let (uid, gid) = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    (uid as u32, gid as u32)
}
