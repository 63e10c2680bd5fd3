//! Whether what an unfinished file seems to hold is there. While the system runs the kernel knows; behind a power cut a file system
//! may show the length of a file whose last blocks never reached the disk. So unfinished files carry a mark that tells in
//! which boot they are written, and whether at a pace that bounds what may be missing.
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::time::{ClockId, clock_gettime};

use crate::storage::disk::durable::UNSURE;
use crate::storage::disk::metadata::size_of;
use crate::storage::disk::system;

/// The boot, and `paced` or `unpaced`.
const MARK: &CStr = c"user.thriftpd.boot";

/// More than the longest mark has, in bytes.
const LONGEST: usize = 64;

/// What the kernel calls this boot (random(4)); None where /proc is missing.
pub fn this_boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let identity = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(identity.trim().to_owned()).filter(|identity| !identity.is_empty())
    });
    boot.as_deref()
}

/// To be said of an unfinished file before a byte is written to it.
pub fn mark(file: BorrowedFd<'_>, paced: bool) {
    if let Some(boot) = this_boot() {
        let pace = if paced { "paced" } else { "unpaced" };
        // Where it cannot be kept, the times have to do.
        let _ = system::set_attribute(file, MARK, format!("{boot} {pace}").as_bytes());
    }
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
    let mark = std::str::from_utf8(mark).ok();
    match (mark.and_then(|mark| mark.split_once(' ')), this_boot) {
        (Some((boot, _)), Some(this)) if boot == this => size,
        (Some((_, "paced")), _) => size.saturating_sub(UNSURE),
        _ => 0,
    }
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
    use super::*;

    #[test]
    fn bytes_are_sure_in_the_boot_they_were_written_in_and_up_to_the_pace_in_another() {
        let size = 100 << 20;
        let this = Some("1-2");
        assert_eq!(sure_by_mark(b"1-2 paced", this, size), size);
        assert_eq!(sure_by_mark(b"1-2 unpaced", this, size), size);
        assert_eq!(sure_by_mark(b"3-4 paced", this, size), size - UNSURE);
        assert_eq!(sure_by_mark(b"3-4 paced", None, size), size - UNSURE);
        assert_eq!(sure_by_mark(b"3-4 paced", this, 1000), 0);
        for mark in [&b"3-4 unpaced"[..], b"3-4", b"", b"\xff paced"] {
            assert_eq!(sure_by_mark(mark, this, size), 0, "{mark:?}");
        }
    }
}
