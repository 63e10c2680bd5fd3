//! Files that are too young to be changed (setting: `lock`), so that a PC that was taken over cannot hurt its own backups.
//!
//! The age is that of the last change of anything about the file (`st_ctim`, inode(7)), which no client can set. Directories
//! are as old as the youngest file in them.
use std::ops::ControlFlow;
use std::time::Duration;

use nix::sys::stat::FileStat;

use crate::os::clock::now;
use crate::storage::disk::metadata::{Kind, kind};
use crate::storage::disk::root::Root;
use crate::storage::disk::walk::walk_all;
use crate::storage::error::{At, Error, ErrorKind};

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
        Some(until) => Err(ErrorKind::Locked { until }.at(path)),
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
    let walked = walk_all(root, relative, &|_| true, &mut |met| {
        let met = met.map_err(|missed| missed.errno.at(path));
        found = met.and_then(|met| check(met.stat, lock, path));
        match found {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    walked.at(path).and(found)
}
