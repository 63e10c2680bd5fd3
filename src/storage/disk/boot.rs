//! Whether what an unfinished file seems to hold is there. While the system runs the kernel knows; behind a power cut a file system
//! may show the length of a file whose last blocks never reached the disk. So unfinished files carry a mark that tells in
//! which boot they are written, and whether at a pace that bounds what may be missing; and what they are to replace, so that
//! what is continued later is not mixed with another file.
use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::time::{ClockId, clock_gettime};

use crate::os::clock::this_boot;
use crate::storage::disk::durable::UNSURE;
use crate::storage::disk::metadata::size_of;
use crate::storage::disk::system;

/// The boot, `paced` or `unpaced`, and the [identity] of what is to be replaced, where there is any.
const MARK: &CStr = c"user.thriftpd.boot";

/// More than the longest mark has, in bytes.
const LONGEST: usize = 192;

/// To be said of an unfinished file before a byte is written to it. `replaces`: the finished file whose name it is to get.
pub fn mark(file: BorrowedFd<'_>, paced: bool, replaces: Option<&FileStat>) {
    if let Some(boot) = this_boot() {
        let pace = if paced { "paced" } else { "unpaced" };
        let replaced = replaces.map(identity).unwrap_or_default();
        let mark = format!("{boot} {pace} {replaced}");
        // Where it cannot be kept, the times have to do.
        let _ = system::set_attribute(file, MARK, mark.as_bytes());
    }
}

/// Inode, size and time of modification. Inodes are used again.
fn identity(stat: &FileStat) -> String {
    let (ino, size) = (stat.st_ino, stat.st_size);
    format!("{ino} {size} {}.{:09}", stat.st_mtime, stat.st_mtime_nsec)
}

/// The boot, the pace and what is to be replaced.
fn parsed(mark: &[u8]) -> Option<(&str, &str, &str)> {
    let (boot, rest) = std::str::from_utf8(mark).ok()?.split_once(' ')?;
    let (pace, replaced) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((boot, pace, replaced))
}

/// To be said of a file that is finished.
pub fn unmark(file: BorrowedFd<'_>) {
    let _ = system::remove_attribute(file, MARK);
}

/// How many of the bytes that an unfinished file seems to hold are there for sure.
pub fn sure_length(file: BorrowedFd<'_>, stat: &FileStat) -> u64 {
    let size = size_of(stat);
    match system::attribute(file, MARK, LONGEST) {
        Ok(mark) => sure_by_mark(&mark, this_boot(), size),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) if was_written_in_this_boot(stat) => size,
        Err(_) => 0,
    }
}

fn sure_by_mark(mark: &[u8], this_boot: Option<&str>, size: u64) -> u64 {
    match (parsed(mark), this_boot) {
        (Some((boot, _, _)), Some(this)) if boot == this => size,
        (Some((_, "paced", _)), _) => size.saturating_sub(UNSURE),
        _ => 0,
    }
}

/// Whether the unfinished file is for sure of an upload that was to replace the finished file, which has not changed since. Where
/// that cannot be noted, it is if no clock was wrong.
pub fn is_to_replace(file: BorrowedFd<'_>, unfinished: &FileStat, finished: &FileStat) -> bool {
    match system::attribute(file, MARK, LONGEST) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
        mark => {
            let mark = mark.unwrap_or_default();
            return parsed(&mark).is_some_and(|(_, _, replaced)| replaced == identity(finished));
        }
    }
    let modified = |stat: &FileStat| (stat.st_mtime, stat.st_mtime_nsec);
    // Clients set the time of modification, and the time of change with it.
    let changed = (finished.st_ctime, finished.st_ctime_nsec);
    modified(unfinished) >= modified(finished).min(changed)
}

/// Whether the file has a mark: those that are finished have none.
pub fn is_marked(file: BorrowedFd<'_>) -> bool {
    system::attribute(file, MARK, LONGEST).is_ok()
}

/// Whether the file says that it is to replace the other one; and then, whether it has said so in this boot.
pub fn says_to_replace(file: BorrowedFd<'_>, other: &FileStat) -> Option<bool> {
    let mark = system::attribute(file, MARK, LONGEST).ok()?;
    let (boot, _, replaced) = parsed(&mark)?;
    (replaced == identity(other)).then(|| Some(boot) == this_boot())
}

/// By its time of modification, for file systems without attributes: after this boot began, and not in the future, where a
/// clock that is not set yet would put it.
fn was_written_in_this_boot(stat: &FileStat) -> bool {
    let clocks = [ClockId::CLOCK_REALTIME, ClockId::CLOCK_BOOTTIME].map(clock_gettime);
    let [Ok(now), Ok(up)] = clocks else {
        return false;
    };
    let now = now.tv_sec();
    (now - up.tv_sec()..=now).contains(&stat.st_mtime)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd as _;

    use nix::sys::stat::fstat;

    use super::*;

    #[test]
    fn bytes_are_sure_in_the_boot_they_were_written_in_and_up_to_the_pace_in_another() {
        let size = 100 << 20;
        let this = Some("1-2");
        assert_eq!(sure_by_mark(b"1-2 paced", this, size), size);
        assert_eq!(sure_by_mark(b"1-2 unpaced", this, size), size);
        assert_eq!(sure_by_mark(b"3-4 paced", this, size), size - UNSURE);
        assert_eq!(sure_by_mark(b"3-4 paced", None, size), size - UNSURE);
        assert_eq!(
            sure_by_mark(b"3-4 paced 5 6 7.8", this, size),
            size - UNSURE
        );
        assert_eq!(sure_by_mark(b"3-4 paced", this, 1000), 0);
        for mark in [&b"3-4 unpaced"[..], b"3-4", b"", b"\xff paced"] {
            assert_eq!(sure_by_mark(mark, this, size), 0, "{mark:?}");
        }
    }

    #[test]
    fn a_partial_is_to_replace_what_had_the_name_and_no_other_whatever_the_clock_says() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let finished = directory.path().join("file");
        let stored = |contents: &str| {
            fs::write(&finished, contents).unwrap();
            fstat(File::open(&finished).unwrap()).unwrap()
        };
        let one = stored("one");
        let partial = File::create(directory.path().join("partial")).unwrap();
        let is_to_replace =
            |one| super::is_to_replace(partial.as_fd(), &fstat(&partial).unwrap(), one);
        if system::attribute(partial.as_fd(), MARK, LONGEST) == Err(Errno::EOPNOTSUPP) {
            assert!(is_to_replace(&one));
            return;
        }
        mark(partial.as_fd(), true, None);
        assert!(!is_to_replace(&one), "it was for a new name");
        mark(partial.as_fd(), true, Some(&one));
        // A clock that was not set put it into 1970.
        partial.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(is_to_replace(&one));
        assert!(!is_to_replace(&stored("two")), "of the same inode and size");
    }
}
