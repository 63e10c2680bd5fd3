//! When a file was stored, where its time of modification no longer says so: clients that mirror set that to the time of the
//! original, which may be years ago, and what came today is not to go tomorrow (setting: `keep_days`).
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::sys::stat::fstat;

use crate::storage::disk::metadata::{Kind, kind, now};
use crate::storage::disk::system;

/// Seconds since 1970.
const ATTRIBUTE: &CStr = c"user.thriftpd.stored";

/// More than the longest value has, in bytes.
const LONGEST: usize = 32;

/// To be said before a client sets the time of modification: the last one that no client has set stays known. Where the file
/// system has no attributes, nothing does.
pub fn remember(file: BorrowedFd<'_>) {
    let Ok(stat) = fstat(file) else { return };
    if kind(&stat) != Kind::File {
        return;
    }
    // Clients may have set one that is still to come.
    let stored = stat.st_mtime.min(now());
    let known = system::attribute(file, ATTRIBUTE, LONGEST);
    if known.ok().and_then(|value| parse(&value)) < Some(stored) {
        let _ = system::set_attribute(file, ATTRIBUTE, stored.to_string().as_bytes());
    }
}

/// What is remembered of a regular file, in seconds since 1970.
pub fn of(directory: BorrowedFd<'_>, name: &[u8]) -> Option<i64> {
    let directory = format!("/proc/self/fd/{}/", directory.as_raw_fd());
    let path = CString::new([directory.as_bytes(), name].concat()).ok()?;
    parse(&system::attribute_of_path(&path, ATTRIBUTE, LONGEST).ok()?)
}

fn parse(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_latest_time_that_no_client_has_set_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("file")).unwrap();
        if system::set_attribute(file.as_fd(), c"user.thriftpd.test", b"").is_err() {
            eprintln!("skipped: no attributes here");
            return;
        }
        let top = File::open(directory.path()).unwrap();
        let set = |seconds| {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        };
        let known = || of(top.as_fd(), b"file");
        assert_eq!(known(), None);
        for (time, stored) in [(1000, 1000), (500, 1000), (2000, 2000)] {
            set(time);
            remember(file.as_fd());
            assert_eq!(known(), Some(stored));
        }
        set(1 << 33);
        remember(file.as_fd());
        assert!(known().unwrap() <= now());
    }
}
