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
//! commits all in full, before the rename and behind it.
//!
//! Whether a disk has a journal and fast commits does not change while it is mounted, and is found out once: the kernel counts
//! why a commit could not be a fast one, and a change of an attribute is such a reason. It counts nothing where there are none.
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, PosixFadviseAdvice, openat, posix_fadvise};
use nix::libc::dev_t;
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use nix::unistd::{fdatasync, fsync, syncfs};

use crate::storage::disk::root::DIRECTORY;
use crate::storage::disk::system;

/// How names and contents reach the disk together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One commit of the journal makes all changes before it durable.
    Journal,
    /// The same, but a commit may be a fast one: only one of the whole file system is safe.
    WholeJournal,
    /// Each file and each directory is flushed for itself.
    Each,
    /// Nothing is flushed: the account is not durable.
    Never,
}

/// What was found out of ext4 disks: by device and by the number that the file system gives itself, for another disk may come
/// by the same device. Whoever gives a disk other features (tune2fs(8)) and mounts it again starts the server again.
static DISKS: Mutex<BTreeMap<(dev_t, String), Order>> = Mutex::new(BTreeMap::new());

impl Order {
    /// Of an account, on the disk on which a file or a directory is.
    pub fn of(file: BorrowedFd<'_>, durable: bool) -> Self {
        if !durable {
            return Self::Never;
        }
        match fstatfs(file) {
            Ok(disk) if disk.filesystem_type() == XFS_SUPER_MAGIC => Self::Journal,
            Ok(disk) if disk.filesystem_type() == EXT4_SUPER_MAGIC => {
                let mut number = String::with_capacity(64);
                let _ = write!(number, "{:?}", disk.filesystem_id());
                Self::of_ext4(file, number)
            }
            _ => Self::Each,
        }
    }

    fn of_ext4(file: BorrowedFd<'_>, number: String) -> Self {
        let Ok(device) = fstat(file).map(|stat| stat.st_dev) else {
            return Self::Each;
        };
        let disk = (device, number);
        let known = |disks: &BTreeMap<_, Self>| disks.get(&disk).copied();
        if let Some(order) = known(&DISKS.lock().unwrap_or_else(PoisonError::into_inner)) {
            return order;
        }
        // The table is free meanwhile, for this disk may hang: other sessions find out for themselves.
        let order = match name_of(device).filter(|name| has_journal(name)) {
            None => Self::Each,
            Some(name) => match has_fast_commits(file, &name) {
                Ok(false) => Self::Journal,
                Ok(true) => Self::WholeJournal,
                // Nobody knows. What is safe will do until somebody does.
                Err(_) => return Self::WholeJournal,
            },
        };
        let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        disks.insert(disk, order);
        order
    }
}

/// Whether the ext file system has a journal: jbd2 shows one directory for each, by the name of the device.
fn has_journal(name: &str) -> bool {
    let journals = std::fs::read_dir("/proc/fs/jbd2").into_iter().flatten();
    let mut journals = journals.flatten().map(|entry| entry.file_name());
    journals.any(|journal| {
        let number = journal.to_str().and_then(|journal| {
            let rest = journal.strip_prefix(name)?;
            rest.strip_prefix('-')
        });
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// What the kernel calls the disk, such as `sda1`.
fn name_of(device: dev_t) -> Option<String> {
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let link = std::fs::read_link(link).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

/// Set for a moment where it is to be found out whether there are fast commits.
const PROBE: &CStr = c"user.thriftpd.probe";

/// Whether a flush of a file alone may be a fast commit. Changes a nameless file in the directory, or the file, to find out.
///
/// # Errors
/// Those of writing: then nobody knows.
fn has_fast_commits(file: BorrowedFd<'_>, device: &str) -> Result<bool, Errno> {
    let information = format!("/proc/fs/ext4/{device}/fc_info");
    let counted = || {
        let information = std::fs::read_to_string(&information);
        information.is_ok_and(|information| counts_fast_commits(&information))
    };
    if counted() {
        return Ok(true);
    }
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let nameless = match openat(file, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Err(Errno::ENOTDIR) => None,
        other => Some(other?),
    };
    let changed = nameless.as_ref().map_or(file, |nameless| nameless.as_fd());
    system::set_attribute(changed, PROBE, b"1")?;
    system::remove_attribute(changed, PROBE)?;
    if counted() {
        return Ok(true);
    }
    // A kernel to come may take the change of an attribute into a fast commit: then it is counted now.
    fsync(changed)?;
    Ok(counted())
}

/// Whether there was a fast commit since the disk was mounted, or a reason for one that had to be a full one.
///
/// ```text
/// fc stats:
/// 12 commits
/// 3 ineligible
/// Ineligible reasons:
/// "Extended attributes changed":  3
/// ```
fn counts_fast_commits(information: &str) -> bool {
    let count = |line: &str| match line.trim().rsplit_once("\":") {
        Some((_, count)) => count.trim().parse::<u64>().ok(),
        None => {
            let (count, what) = line.trim().split_once(' ')?;
            let counts = matches!(what, "commits" | "ineligible");
            count.parse().ok().filter(|_| counts)
        }
    };
    information.lines().filter_map(count).any(|count| count > 0)
}

impl Order {
    /// Makes the contents of a file durable that has its name, or never gets one, and with it everything that was done before:
    /// the journal's order sees to that.
    ///
    /// # Errors
    /// Those of writing.
    pub fn contents(self, file: impl AsFd) -> Result<(), Errno> {
        match self {
            Self::WholeJournal => syncfs(file),
            Self::Journal | Self::Each => fsync(file),
            Self::Never => Ok(()),
        }
    }

    /// Makes a file's contents safe to be given a name.
    ///
    /// # Errors
    /// Those of writing.
    pub fn before_rename(self, file: &File) -> Result<(), Errno> {
        match self {
            Self::Journal => write_all(file),
            // With mode and owner, which the name is to show from the first moment.
            other => other.contents(file),
        }
    }

    /// Makes a file and the name that it has been given durable.
    ///
    /// # Errors
    /// Those of writing.
    pub fn after_rename(self, file: &File, directory: impl AsFd) -> Result<(), Errno> {
        match self {
            Self::Each => self.names_apart(directory),
            other => other.contents(file),
        }
    }

    /// Makes names in a directory durable that were given or taken, of one that was made in it too. One that may be written
    /// but not read cannot be opened for that; its entry then reaches the disk with the file's own commit on journalling file
    /// systems.
    ///
    /// # Errors
    /// Those of writing.
    pub fn after_change(self, directory: impl AsFd) -> Result<(), Errno> {
        if self == Self::Never {
            return Ok(());
        }
        let readable = match openat(directory, ".", DIRECTORY, Mode::empty()) {
            Err(Errno::EACCES) => return Ok(()),
            other => other?,
        };
        match (self, self.contents(&readable)) {
            // Some network and FUSE file systems cannot flush directories.
            (Self::Each, Err(Errno::EINVAL | Errno::ENOSYS)) => Ok(()),
            (_, flushed) => flushed,
        }
    }

    /// The same where no other commit does it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn names_apart(self, directory: impl AsFd) -> Result<(), Errno> {
        match self {
            Self::Each => self.after_change(directory),
            _ => Ok(()),
        }
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
///
/// An upload that continues another may find pages that are not written yet: up to three windows before its offset, or any
/// number where the other was not durable. With the first of its own bytes it waits for all of them, or what is [`UNSURE`] would
/// lie behind what nobody waits for.
#[derive(Debug)]
pub struct Pace {
    on: bool,
    /// Up to where writing out has begun.
    started: u64,
    /// Up to where it has been waited for, from the beginning of the file.
    written: u64,
    first: u64,
}

impl Pace {
    /// For an upload that starts at an offset; one that is not durable is left to the kernel.
    pub fn new(durable: bool, offset: u64) -> Self {
        Self {
            on: durable,
            started: offset,
            written: 0,
            first: offset,
        }
    }

    /// To be told how far the file has been written, from the first bytes on. Waits for the window before the last one.
    ///
    /// # Errors
    /// Those of writing: a disk that fails is noticed while bytes flow.
    pub fn reached(&mut self, file: &File, position: u64) -> Result<(), Errno> {
        if !self.on {
            return Ok(());
        }
        if self.written < self.first {
            write_all(file)?;
            (self.written, self.started) = (position, position);
        }
        if position.saturating_sub(self.started) < WINDOW {
            return Ok(());
        }
        let (begun, length) = range(self.started, position)?;
        match system::sync_file_range(file.as_fd(), begun, length, false) {
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::ESPIPE) => {
                // Then this is the pace.
                fdatasync(file)?;
                self.written = position;
            }
            other => {
                other?;
                self.wait(file)?;
                self.written = self.started;
            }
        }
        self.started = position;
        Ok(())
    }

    fn wait(&self, file: &File) -> Result<(), Errno> {
        let (from, length) = range(self.written, self.started)?;
        if length == 0 {
            return Ok(());
        }
        system::sync_file_range(file.as_fd(), from, length, true)?;
        if self.started - self.first > CACHED {
            // Advice: what cannot be dropped stays.
            let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            let _ = posix_fadvise(file, from, length, advice);
        }
        Ok(())
    }
}

/// Writes out all that a file holds, and waits for it. Commits nothing where that can be had.
fn write_all(file: &File) -> Result<(), Errno> {
    match system::sync_file_range(file.as_fd(), 0, 0, true) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::ESPIPE) => fsync(file),
        other => other,
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

    fn file() -> File {
        tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    #[test]
    fn fast_commits_are_told_from_none() {
        let none = "fc stats:\n0 commits\n0 ineligible\n0 numblks\n0us avg_commit_time\n\
            Ineligible reasons:\n\"Extended attributes changed\":\t0\n\"Cross rename\":\t0\n";
        assert!(!counts_fast_commits(none) && !counts_fast_commits(""));
        let counts = [
            ("0 commits", "7 commits"),
            ("0 ineligible", "1 ineligible"),
            ("changed\":\t0", "changed\":\t2"),
        ];
        for (from, to) in counts {
            assert!(counts_fast_commits(&none.replace(from, to)));
        }
        assert!(!counts_fast_commits(
            &none.replace("0 numblks", "9 numblks")
        ));
    }

    #[test]
    fn a_file_and_its_directory_are_on_the_same_disk() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = File::create(directory.path().join("file")).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let opened = nix::fcntl::open(directory.path(), flags, Mode::empty()).unwrap();
        let order = Order::of(opened.as_fd(), true);
        assert_eq!(order, Order::of(file.as_fd(), true));
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "nothing is left of what was done to find out");
        order.after_change(&opened).unwrap();
    }

    #[test]
    fn a_paced_file_holds_what_was_written() {
        let mut file = file();
        let mut pace = Pace::new(true, 0);
        let slice = vec![7; 1 << 20];
        for number in 1..=100_u64 {
            file.write_all(&slice).unwrap();
            pace.reached(&file, number << 20).unwrap();
            assert!((number << 20) - pace.written <= 2 * WINDOW + (1 << 20));
        }
        assert_eq!(file.metadata().unwrap().len(), 100 << 20);
        Order::of(file.as_fd(), true).before_rename(&file).unwrap();
    }

    /// However short its connections are: what nobody has waited for stays within the last bytes.
    #[test]
    fn an_upload_that_is_cut_off_and_resumed_again_and_again_keeps_the_pace() {
        let mut file = file();
        let slice = vec![7; 1 << 20];
        let (mut position, mut sure) = (0, 0);
        for slices in (1..=24).chain([1; 40]) {
            let mut pace = Pace::new(true, position);
            for _ in 0..slices {
                file.write_all(&slice).unwrap();
                position += 1 << 20;
                assert!(position - sure <= UNSURE, "at {position} after {sure}");
                pace.reached(&file, position).unwrap();
                sure = sure.max(pace.written);
            }
        }
    }
}
