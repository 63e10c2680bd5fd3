//! When a file was stored, where its times do not say so: clients that mirror set the time of modification to that of the
//! original, which may be years ago, and a clock that was not set gives files a time of 1970. What came today is not to go
//! tomorrow (setting: `keep_days`).
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;

use crate::os::clock::now;
use crate::storage::disk::metadata::{Kind, kind};
use crate::storage::disk::names;
use crate::storage::disk::root::name_of;
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

/// What a file says of the time when it was stored, beside its own times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// In seconds since 1970.
    At(i64),
    /// Nothing: no client has set its time.
    Unnoted,
    /// The file system has no attributes: a client may have set its time.
    Unknowable,
}

/// What is known of a regular file.
pub fn of(directory: BorrowedFd<'_>, name: &[u8]) -> Arrival {
    let path = [name_of(directory).as_bytes(), b"/", name].concat();
    let path = CString::new(path).unwrap_or_default();
    match system::attribute_of_path(&path, ATTRIBUTE, LONGEST) {
        Ok(value) => parse(&value).map_or(Arrival::Unnoted, Arrival::At),
        Err(Errno::ENODATA) => Arrival::Unnoted,
        Err(_) => Arrival::Unknowable,
    }
}

/// Notes of a regular file whose times are those of a wrong clock that it was stored at this time. The system counts that as a
/// change of the file, so that a lock counts from here, too. Where it cannot be noted, nothing is.
pub fn correct(directory: BorrowedFd<'_>, name: &[u8], time: i64) {
    if let Ok(file) = names::open(directory, name, OFlag::O_RDONLY) {
        let _ = system::set_attribute(file.as_fd(), ATTRIBUTE, time.to_string().as_bytes());
    }
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
            crate::skips::skip("no attributes here");
            return;
        }
        let top = File::open(directory.path()).unwrap();
        let set = |seconds| {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        };
        let known = || of(top.as_fd(), b"file");
        assert_eq!(known(), Arrival::Unnoted);
        for (time, stored) in [(1000, 1000), (500, 1000), (2000, 2000)] {
            set(time);
            remember(file.as_fd());
            assert_eq!(known(), Arrival::At(stored));
        }
        set(1 << 33);
        remember(file.as_fd());
        assert!(matches!(known(), Arrival::At(stored) if stored <= now()));
        correct(top.as_fd(), b"file", 3000);
        assert_eq!(known(), Arrival::At(3000));
    }
}
