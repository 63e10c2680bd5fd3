//! Files that are too young to be changed (setting: `lock`), so that a PC that was taken over cannot hurt its own backups; and
//! what keeps two from changing the same at the same time.
//!
//! The age is that of the last change of anything about the file (`st_ctim`, inode(7)), which no client can set. Directories
//! are as old as the youngest file in them.
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::stat::FileStat;

use crate::storage::disk::metadata::{Kind, kind, now};
use crate::storage::disk::root::Root;
use crate::storage::disk::walk::walk_all;
use crate::storage::error::{Error, ErrorKind};

/// Taken by who looks at what has a name and then gives or takes it away, where that must still be what was looked at. Held
/// for a few system calls.
static NAMES: Mutex<()> = Mutex::new(());

pub fn hold_names() -> MutexGuard<'static, ()> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks an open file as being written to, until it is closed, for who takes old files away and for others who would write to
/// it. Without locks on its file system nothing is marked. False: somebody else has marked it.
#[must_use]
pub fn mark_as_used(file: BorrowedFd<'_>) -> bool {
    let marked = fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK)));
    !matches!(marked, Err(Errno::EAGAIN | Errno::EACCES))
}

/// Whether anybody has marked the file, in this process or another.
pub fn is_used(file: BorrowedFd<'_>) -> bool {
    let mut found = whole(libc::F_RDLCK);
    let looked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut found));
    looked.is_ok() && i32::from(found.l_type) != libc::F_UNLCK
}

/// A lock of the whole file (fcntl(2), open file description locks).
fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Until when the file is locked, in seconds since 1970; None when it is not.
pub fn locked_until(stat: &FileStat, lock: Option<Duration>) -> Option<i64> {
    if kind(stat) == Kind::Directory {
        return None;
    }
    let lock = i64::try_from(lock?.as_secs()).unwrap_or(i64::MAX);
    let until = stat.st_ctime.saturating_add(lock);
    (now() < until).then_some(until)
}

/// # Errors
/// `Locked`, with the path.
pub fn check(stat: &FileStat, lock: Option<Duration>, path: &[u8]) -> Result<(), Error> {
    match locked_until(stat, lock) {
        Some(until) => Err(Error::new(ErrorKind::Locked { until }, path)),
        None => Ok(()),
    }
}

/// The same of a directory, for all that is in it. What cannot be looked at may be young.
///
/// # Errors
/// `Locked`, with the path; when the directory, or one in it, cannot be read.
pub fn check_tree(
    root: &Root,
    relative: &[u8],
    lock: Option<Duration>,
    path: &[u8],
) -> Result<(), Error> {
    if lock.is_none() {
        return Ok(());
    }
    let mut found = Ok(());
    walk_all(root, relative, &|_| true, &mut |met| {
        found = match met {
            Ok(met) => check(met.stat, lock, path),
            Err(missed) => Err(Error::from_errno(missed.errno, path)),
        };
        match found {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })
    .map_err(|errno| Error::from_errno(errno, path))?;
    found
}
