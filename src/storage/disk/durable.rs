//! Getting what was written onto the disk: while bytes flow, and in the end.
//!
//! # What is flushed, and in which order
//! A file is whole and on the disk before it has its name, and the name is on the disk before anybody is told. The plain way,
//! fsync(file), rename, fsync(directory), costs two commits of the journal a file. Journals of ext4 and xfs are committed in
//! order, and to flush the file behind its rename commits the rename with it. So there the bytes are written out first
//! without a commit (sync_file_range(2); both file systems have converted the extents and logged the size by the time it
//! returns), then the file is renamed, then one fsync(file) commits all. A crash in between shows the file without the name,
//! or with it and whole.
//!
//! Measured with files of 4 KiB on a loop device (2 cores; files a second with one session, with eight; commits a file):
//!
//! | | fsync, rename, fsync(directory) | range, rename, fsync(file) |
//! |---|---|---|
//! | ext4 | 528, 2565; 2.00, 0.55 | 966, 4183; 1.00, 0.26 |
//! | xfs | 886, 2241 | 1236, 2817 |
//!
//! Another fsync(directory) behind it would not be free, for it waits for the renames of other sessions: 2618 with eight.
//! Sessions that flush at once share commits without any help; so there is none.
//!
//! btrfs inserts extents only some time after writing them, so it could show an empty file; others promise nothing. They, and
//! ext4 without a journal, get the plain way.
//!
//! ext4 can be made to have fast commits (`mkfs.ext4 -O fast_commit`). Such a commit, which any session's fsync(2) may be, knows
//! of some changes and not of others: of a rename, but not that the file's last blocks have been written since; and what Linux
//! 6.18 makes of them after a crash is not always what was promised before. There nothing is flushed but by syncfs(2), which
//! commits all in full, before the rename and behind it. That a disk has them shows only when something was flushed on it.
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, PosixFadviseAdvice, openat, posix_fadvise};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use nix::unistd::{fsync, syncfs};

use crate::storage::disk::system;

/// How names and contents reach the disk together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One commit of the journal makes all changes before it durable.
    Journal,
    /// Each file and each directory is flushed for itself.
    Each,
}

impl Order {
    pub fn of(file: BorrowedFd<'_>) -> Self {
        let magic = fstatfs(file).map(|disk| disk.filesystem_type());
        match magic {
            Ok(XFS_SUPER_MAGIC) => Self::Journal,
            Ok(EXT4_SUPER_MAGIC) if has_journal(file) => Self::Journal,
            _ => Self::Each,
        }
    }
}

/// Whether the ext file system has a journal: jbd2 shows one directory for each, by the name of the device.
fn has_journal(file: BorrowedFd<'_>) -> bool {
    let Some(name) = device(file) else {
        return false;
    };
    let journals = std::fs::read_dir("/proc/fs/jbd2").into_iter().flatten();
    let mut journals = journals.flatten().map(|entry| entry.file_name());
    journals.any(|journal| {
        let number = journal.to_str().and_then(|journal| {
            let rest = journal.strip_prefix(name.as_str())?;
            rest.strip_prefix('-')
        });
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// What the kernel calls the disk, such as `sda1`.
fn device(file: BorrowedFd<'_>) -> Option<String> {
    let device = fstat(file).ok()?.st_dev;
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let link = std::fs::read_link(link).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

/// Flushes, and with it everything that was done before: the journal's order sees to that. Where there were fast commits, which
/// have no such order, the whole file system is flushed, in a full commit.
fn commit(file: BorrowedFd<'_>) -> Result<(), Errno> {
    if !has_fast_commits(file) {
        fsync(file)?;
        if !has_fast_commits(file) {
            return Ok(());
        }
    }
    syncfs(file)
}

/// Whether there was a fast commit since the disk was mounted, or one that had to be a full one.
fn has_fast_commits(file: BorrowedFd<'_>) -> bool {
    let information = device(file).and_then(|device| {
        let information = format!("/proc/fs/ext4/{device}/fc_info");
        std::fs::read_to_string(information).ok()
    });
    information.is_some_and(|information| counts_fast_commits(&information))
}

/// ```text
/// fc stats:
/// 12 commits
/// 3 ineligible
/// ```
fn counts_fast_commits(information: &str) -> bool {
    let count = |line: &str| {
        let (number, what) = line.trim().split_once(' ')?;
        let counts = matches!(what, "commits" | "ineligible");
        number.parse::<u64>().ok().filter(|_| counts)
    };
    information.lines().filter_map(count).any(|count| count > 0)
}

/// Disks on which something was flushed and no fast commit counted: by device and by the number that the file system gives
/// itself, for another disk may come by the same device.
static WITHOUT_FAST_COMMITS: Mutex<BTreeSet<(u64, String)>> = Mutex::new(BTreeSet::new());

/// Whether a flush of this file alone may be a fast commit. Flushes it to find out, once a disk.
fn may_have_fast_commits(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    if has_fast_commits(file) {
        return Ok(true);
    }
    let disk = (
        fstat(file)?.st_dev,
        format!("{:?}", fstatfs(file)?.filesystem_id()),
    );
    // Others wait for the answer, or their flushes would be fast commits meanwhile.
    let disks = WITHOUT_FAST_COMMITS.lock();
    let mut disks = disks.unwrap_or_else(PoisonError::into_inner);
    if disks.contains(&disk) {
        return Ok(false);
    }
    if !has_fast_commits(file) {
        fsync(file)?;
    }
    if has_fast_commits(file) {
        return Ok(true);
    }
    disks.insert(disk);
    Ok(false)
}

/// Makes the contents of a file durable that has its name, or never gets one.
///
/// # Errors
/// Those of writing.
pub fn contents(order: Order, file: &File) -> Result<(), Errno> {
    match order {
        Order::Journal => commit(file.as_fd()),
        Order::Each => fsync(file),
    }
}

/// Makes a file's contents safe to be given a name.
///
/// # Errors
/// Those of writing.
pub fn before_rename(order: Order, file: &File) -> Result<(), Errno> {
    match order {
        Order::Journal if may_have_fast_commits(file.as_fd())? => commit(file.as_fd()),
        Order::Journal => match system::sync_file_range(file.as_fd(), 0, 0, true) {
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::ESPIPE) => fsync(file),
            other => other,
        },
        // With mode and owner, which the name is to show from the first moment.
        Order::Each => fsync(file),
    }
}

/// Makes a file and the name that it has been given durable.
///
/// # Errors
/// Those of writing.
pub fn after_rename(order: Order, file: &File, directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match order {
        Order::Journal => commit(file.as_fd()),
        Order::Each => sync_directory(directory),
    }
}

/// Makes names in a directory durable that were given or taken, of one that was made in it too.
///
/// # Errors
/// Those of writing.
pub fn after_change(order: Order, directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let readable = open_for_sync(directory)?;
    match (order, readable) {
        (_, None) => Ok(()),
        (Order::Journal, Some(readable)) => commit(readable.as_fd()),
        (Order::Each, Some(readable)) => sync_readable(&readable),
    }
}

/// Makes a directory's entries durable. One that may be written but not read cannot be opened for that; its entry then
/// reaches the disk with the file's own commit on journalling file systems.
///
/// # Errors
/// Those of writing.
pub fn sync_directory(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match open_for_sync(directory)? {
        Some(readable) => sync_readable(&readable),
        None => Ok(()),
    }
}

fn open_for_sync(directory: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match openat(directory, ".", flags, Mode::empty()) {
        Err(Errno::EACCES) => Ok(None),
        other => other.map(Some),
    }
}

fn sync_readable(directory: &OwnedFd) -> Result<(), Errno> {
    match fsync(directory) {
        // Some network and FUSE file systems cannot flush directories.
        Err(Errno::EINVAL | Errno::ENOSYS) => Ok(()),
        other => other,
    }
}

/// Bytes that are written before their writing out begins: at most two windows are dirty. On a virtual disk an upload of
/// 1 GiB ran at 540 to 670 MiB/s with windows of 2 to 16 MiB, a third of the CPU time, and at 320 without.
const WINDOW: u64 = 8 << 20;

/// Bytes of an upload whose pages stay in the cache. To drop those behind them costs nothing that could be measured, and leaves
/// the memory of a small host to what is read again.
const CACHED: u64 = 64 << 20;

/// How far before its end a file may lack bytes that was written at this pace when the power went: three windows are not
/// waited for at worst, each a little longer than it should be. Behind a crash ext4 may show the length of a file whose last
/// blocks were not written yet, and zeros in their place.
pub const UNSURE: u64 = 4 * WINDOW;

/// Writes out what has been written while more comes, so that the last flush is short and no memory fills with dirty pages.
#[derive(Debug)]
pub struct Pace {
    on: bool,
    /// Up to where writing out has begun.
    started: u64,
    /// From where it is still to be waited for.
    waiting: u64,
    first: u64,
}

impl Pace {
    /// For an upload that starts at an offset; one that is not durable is left to the kernel.
    pub fn new(durable: bool, offset: u64) -> Self {
        Self {
            on: durable,
            started: offset,
            waiting: offset,
            first: offset,
        }
    }

    /// To be told how far the file has been written. Waits for the window before the last one.
    ///
    /// # Errors
    /// Those of writing: a disk that fails is noticed while bytes flow.
    pub fn reached(&mut self, file: &File, position: u64) -> Result<(), Errno> {
        if !self.on || position.saturating_sub(self.started) < WINDOW {
            return Ok(());
        }
        let result = self.write_out(file, position);
        match result {
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::ESPIPE) => {
                self.on = false;
                Ok(())
            }
            other => other,
        }
    }

    fn write_out(&mut self, file: &File, position: u64) -> Result<(), Errno> {
        let (begun, length) = range(self.started, position)?;
        system::sync_file_range(file.as_fd(), begun, length, false)?;
        let (waiting, length) = range(self.waiting, self.started)?;
        if length > 0 {
            system::sync_file_range(file.as_fd(), waiting, length, true)?;
            if self.started - self.first > CACHED {
                // Advice: what cannot be dropped stays.
                let _ = posix_fadvise(
                    file,
                    waiting,
                    length,
                    PosixFadviseAdvice::POSIX_FADV_DONTNEED,
                );
            }
        }
        self.waiting = self.started;
        self.started = position;
        Ok(())
    }
}

fn range(from: u64, to: u64) -> Result<(i64, i64), Errno> {
    let number = |number| i64::try_from(number).map_err(|_| Errno::EFBIG);
    Ok((number(from)?, number(to - from)?))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn fast_commits_are_told_from_none() {
        let none = "fc stats:\n0 commits\n0 ineligible\n0 numblks\n0us avg_commit_time\n";
        assert!(!counts_fast_commits(none) && !counts_fast_commits(""));
        for (from, to) in [("0 commits", "7 commits"), ("0 ineligible", "1 ineligible")] {
            assert!(counts_fast_commits(&none.replace(from, to)));
        }
        assert!(!counts_fast_commits(
            &none.replace("0 numblks", "9 numblks")
        ));
    }

    #[test]
    fn a_paced_file_holds_what_was_written() {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut pace = Pace::new(true, 0);
        let slice = vec![7; 1 << 20];
        for number in 1..=100_u64 {
            file.write_all(&slice).unwrap();
            pace.reached(&file, number << 20).unwrap();
            assert!((number << 20) - pace.waiting <= 2 * WINDOW + (1 << 20));
        }
        assert_eq!(file.metadata().unwrap().len(), 100 << 20);
        before_rename(Order::of(file.as_fd()), &file).unwrap();
    }
}
