//! Taking old files away: those older than so many days, and the oldest ones until so much of a disk is free.
//!
//! Files are as old as their time of modification says, and no older than their arrival where a client has set that time; where
//! the file system cannot note that, no older than their time of change. Old versions are as old as their being that (their
//! time of change, for they have the time of modification of the file that was). A file to which a wrong clock gave its times
//! is as old as its being found. Nothing is done while the clock is not believed. What is taken away is looked at once more in the very moment:
//! it is moved aside under a name of ours first, and moved back when it is not what was found before, so that nothing is
//! removed that was stored meanwhile, whoever stored it. Nothing is followed, and nothing beyond a mount point is touched.
//!
//! However many files there are, only the oldest ones are remembered, and the tree is walked again when those do not suffice.
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, syncfs, unlinkat};

use crate::storage::disk::clock::SET_SINCE;
use crate::storage::disk::metadata::{Kind, is_unchanged, kind, size_of};
use crate::storage::disk::names::{HeldName, rename_to_new};
use crate::storage::disk::reserved::{VERSIONS, is_reserved};
use crate::storage::disk::root::Root;
use crate::storage::disk::walk::{Met, below, walk_mount};
use crate::storage::disk::writers;
use crate::storage::error::Error;
use crate::storage::quota::meter::{Meter, Metered};
use crate::storage::retention::arrival::{self, Arrival};
use crate::storage::retention::doubt::{Clock, Doubt, leap, remember};
use crate::storage::retention::lock::locked_until;
use crate::storage::rules::{Room, available};

/// Files that are remembered in one walk.
const MOST_REMEMBERED: usize = 10_000;

const DAY: i64 = 24 * 3600;

/// What is to be taken away of one directory of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruning {
    pub top: PathBuf,
    /// Files older than this.
    pub days: Option<u32>,
    /// The oldest files, until so much of the disk is free: the least of these. Empty: none.
    pub free: Vec<Room>,
    /// So many files of each directory stay, the youngest ones.
    pub spared: usize,
    /// Files younger than this stay.
    pub lock: Option<Duration>,
    /// Nothing is taken away while no file system is mounted at the directory.
    pub require_mount: bool,
    /// Directories of the host whose files are none of this, for they have rules of their own.
    pub apart: Vec<PathBuf>,
    /// Where what is gone is counted.
    pub metered: Metered,
    /// Only tells what would be taken away.
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub files: u64,
    pub bytes: u64,
    /// That have become empty; not known of a dry run.
    pub directories: u64,
    /// Files that could not be removed, and directories that could not be read.
    pub failures: u64,
    /// Of the disk that should be free and is not, in bytes.
    pub missing: u64,
    /// Files that are too young to make that room.
    pub locked: u64,
}

/// What became of a file, told meanwhile.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate<'a> {
    /// A file of so many bytes is gone, or would be.
    Gone(&'a Path, u64),
    /// This file cannot be removed, or this directory not be read.
    Failed(&'a Path, String),
}

/// Why nothing was done.
#[derive(Debug)]
pub enum NotPruned {
    Error(Error),
    Doubt(Doubt),
}

impl From<Error> for NotPruned {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl fmt::Display for NotPruned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Doubt(doubt) => doubt.fmt(f),
        }
    }
}

/// Takes away what is too old or in the way.
///
/// # Errors
/// `NotMounted`; when the directory itself cannot be opened or its disk not be looked at; when the clock is not believed.
pub fn prune(
    pruning: &Pruning,
    clock: &Clock,
    tell: &mut dyn FnMut(Fate<'_>),
) -> Result<Pruned, NotPruned> {
    let fail = |errno| Error::from_errno(errno, pruning.top.as_os_str().as_bytes());
    // Held all the time: not another disk half-way.
    let root =
        Root::open_or_guard(&pruning.top, pruning.require_mount).and_then(|root| root.again());
    let root = root.map_err(fail)?;
    let leap = leap(pruning.days, pruning.lock);
    if let Some(doubt) = clock.doubt(&root, leap).map_err(fail)? {
        return Err(NotPruned::Doubt(doubt));
    }
    if !pruning.dry_run {
        // On a full disk it may be impossible, and then it is not known the next time.
        let _ = remember(&root, &clock.now);
    }
    let mut work = Work {
        apart: pruning.apart_below(),
        root,
        pruning,
        clock,
        ledger: None,
        pruned: Pruned::default(),
        failures_told: false,
        tell,
    };
    let freed = work.remove_old().map_err(fail)?;
    if !pruning.free.is_empty() {
        work.make_room(freed).map_err(fail)?;
    }
    Ok(work.pruned)
}

impl Pruning {
    /// The paths below the directory of what is apart.
    fn apart_below(&self) -> Vec<Vec<u8>> {
        let below = |path: &PathBuf| {
            let below = path.strip_prefix(&self.top).ok()?.as_os_str().as_bytes();
            Some(below.to_vec()).filter(|below| !below.is_empty())
        };
        self.apart.iter().filter_map(below).collect()
    }
}

/// Old versions of files, and what has their names.
fn is_in_versions(relative: &[u8]) -> bool {
    let rest = relative.strip_prefix(VERSIONS);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Whose age counts: the first ones go first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Versions are false, and so come first.
    is_file: bool,
    /// Seconds since 1970 and nanoseconds.
    time: (i64, i64),
    relative: Rc<[u8]>,
    name: Vec<u8>,
}

/// A regular file that the rules are about, in the directory that is gone through.
struct Found<'a> {
    directory: BorrowedFd<'a>,
    relative: &'a [u8],
    name: &'a [u8],
    stat: &'a FileStat,
    /// It is no old version.
    is_file: bool,
    /// When it was stored.
    time: (i64, i64),
}

impl Found<'_> {
    fn key(&self, relative: &Rc<[u8]>) -> Key {
        Key {
            is_file: self.is_file,
            time: self.time,
            relative: Rc::clone(relative),
            name: self.name.to_vec(),
        }
    }
}

/// The youngest files of one directory, as many as stay in any case.
#[derive(Default)]
struct Spared {
    relative: Vec<u8>,
    found: BinaryHeap<Reverse<Candidate>>,
}

impl Spared {
    /// Takes one more; the oldest is given back where there are too many.
    fn add(&mut self, relative: &[u8], candidate: Candidate, most: usize) -> Option<Candidate> {
        if self.relative != relative {
            self.found.clear();
            self.relative = relative.to_vec();
        }
        self.found.push(Reverse(candidate));
        let too_many = self.found.len() > most;
        too_many
            .then(|| self.found.pop())?
            .map(|Reverse(oldest)| oldest)
    }
}

/// A file that may go.
struct Candidate {
    key: Key,
    stat: FileStat,
}

impl Candidate {
    /// Bytes of the disk that are free when it is gone: none while it has another name.
    fn frees(&self) -> u64 {
        frees(&self.stat)
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

fn frees(stat: &FileStat) -> u64 {
    match stat.st_nlink {
        0 | 1 => u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        _ => 0,
    }
}

/// The oldest files found so far, as many as are needed to free so many bytes.
struct Oldest {
    found: BinaryHeap<Candidate>,
    frees: u64,
    needed: u64,
}

impl Oldest {
    fn add(&mut self, candidate: Candidate) {
        self.frees += candidate.frees();
        self.found.push(candidate);
        while let Some(youngest) = self.found.peek() {
            let without = self.frees - youngest.frees();
            if self.found.len() <= MOST_REMEMBERED && without < self.needed {
                return;
            }
            self.frees = without;
            self.found.pop();
        }
    }
}

/// One directory of the host while it is worked on.
struct Work<'a> {
    root: Root,
    pruning: &'a Pruning,
    apart: Vec<Vec<u8>>,
    clock: &'a Clock,
    /// Counts for the quotas what goes from the directory where the last file went.
    ledger: Option<(Vec<u8>, Option<Meter>)>,
    pruned: Pruned,
    /// Of what cannot be read only the first walk tells.
    failures_told: bool,
    tell: &'a mut dyn FnMut(Fate<'_>),
}

impl Work<'_> {
    /// Shows all files that may go.
    fn walk(&mut self, visit: &mut dyn FnMut(&mut Self, &Found<'_>)) -> Result<(), Errno> {
        let apart = std::mem::take(&mut self.apart);
        let enter = |path: &[u8]| {
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
            (path == VERSIONS || !is_reserved(name)) && !apart.iter().any(|apart| apart == path)
        };
        let root = self.root.again()?;
        let mut spared = Spared::default();
        let walked = walk_mount(&root, b"", &enter, &mut |met| {
            match met {
                Ok(met) if kind(met.stat) == Kind::File && !is_reserved(met.name) => {
                    self.meet(met, &mut spared, visit);
                }
                Ok(_) => {}
                Err(missed) if missed.errno == Errno::EXDEV => {}
                Err(missed) if !self.failures_told => self.failed(missed.relative, missed.errno),
                Err(_) => {}
            }
            ControlFlow::Continue(())
        });
        self.failures_told = true;
        self.apart = apart;
        walked
    }

    fn meet(
        &mut self,
        met: &Met<'_>,
        spared: &mut Spared,
        visit: &mut dyn FnMut(&mut Self, &Found<'_>),
    ) {
        let is_file = !is_in_versions(met.relative);
        let mut found = Found {
            directory: met.directory,
            relative: met.relative,
            name: met.name,
            stat: met.stat,
            is_file,
            time: self.time_of(met, is_file),
        };
        if self.pruning.spared == 0 || !is_file {
            return visit(self, &found);
        }
        // It is of the same directory.
        let (key, stat) = (found.key(&Rc::from([])), *met.stat);
        let oldest = spared.add(met.relative, Candidate { key, stat }, self.pruning.spared);
        if let Some(Candidate { key, stat }) = oldest {
            (found.name, found.stat, found.time) = (&key.name, &stat, key.time);
            visit(self, &found);
        }
    }

    /// When the file was stored, in seconds since 1970 and nanoseconds.
    fn time_of(&self, met: &Met<'_>, is_file: bool) -> (i64, i64) {
        let modified = (met.stat.st_mtime, met.stat.st_mtime_nsec);
        let changed = (met.stat.st_ctime, met.stat.st_ctime_nsec);
        let time = match is_file.then(|| arrival::of(met.directory, met.name)) {
            None => changed,
            Some(Arrival::At(stored)) => modified.max((stored, 0)),
            Some(Arrival::Unnoted) => modified,
            Some(Arrival::Unknowable) => modified.max(changed),
        };
        if !self.clock.is_wrong(changed.0) && time.0 >= SET_SINCE {
            return time;
        }
        let now = self.clock.now.time;
        if !self.pruning.dry_run {
            arrival::correct(met.directory, met.name, now);
        }
        (now, 0)
    }

    fn is_locked(&self, stat: &FileStat) -> bool {
        locked_until(stat, self.pruning.lock).is_some()
    }

    fn is_too_old(&self, found: &Found<'_>) -> bool {
        let age = self.clock.now.time.saturating_sub(found.time.0);
        let most = self.pruning.days.map(|days| i64::from(days) * DAY);
        most.is_some_and(|most| age > most)
    }

    // ---- by age

    /// Takes away what is older than it may be; tells how many bytes of the disk that frees.
    fn remove_old(&mut self) -> Result<u64, Errno> {
        let mut freed = 0;
        if self.pruning.days.is_none() {
            return Ok(freed);
        }
        self.walk(&mut |work, found| {
            if work.is_too_old(found)
                && !work.is_locked(found.stat)
                && work.remove(found.directory, found.relative, found.name, found.stat)
            {
                freed += frees(found.stat);
            }
        })?;
        Ok(freed)
    }

    // ---- by room

    /// Takes the oldest files away until so much of the disk is free. `freed` bytes are free only in theory in a dry run.
    fn make_room(&mut self, freed: u64) -> Result<(), Errno> {
        let mut missing = self.missing()?;
        if self.pruning.dry_run {
            missing = missing.saturating_sub(freed);
        }
        let mut last = None;
        while missing > 0 {
            let before = missing;
            missing = self.remove_oldest(missing, &mut last)?;
            if missing > 0 || self.pruning.dry_run {
                break;
            }
            // Some file systems have the room only when the journal is written.
            let _ = syncfs(self.root.open_on_same_mount(b"")?);
            missing = self.missing()?;
            // Who holds it (open files, snapshots, clones) gives nothing back for more.
            if missing > before / 2 {
                break;
            }
        }
        self.pruned.missing = missing;
        if missing == 0 {
            self.pruned.locked = 0;
        }
        Ok(())
    }

    /// Bytes that should be free and are not.
    fn missing(&self) -> Result<u64, Errno> {
        let disk = fstatvfs(self.root.open_on_same_mount(b"")?)?;
        let size = disk.blocks().saturating_mul(disk.fragment_size());
        let wanted = self.pruning.free.iter().map(|room| room.of(size)).min();
        let free = available(&disk, Room::default());
        Ok(wanted.unwrap_or(0).saturating_sub(free))
    }

    /// Takes files away, the oldest first and none up to `last`, which are dealt with, until so many bytes should be free;
    /// tells how many are still missing.
    fn remove_oldest(&mut self, mut missing: u64, last: &mut Option<Key>) -> Result<u64, Errno> {
        while missing > 0 {
            let oldest = self.oldest(missing, last.as_ref())?;
            if oldest.is_empty() {
                break;
            }
            for candidate in oldest {
                if missing == 0 {
                    break;
                }
                if self.remove_candidate(&candidate) {
                    missing = missing.saturating_sub(candidate.frees());
                }
                *last = Some(candidate.key);
            }
        }
        Ok(missing)
    }

    fn oldest(&mut self, needed: u64, last: Option<&Key>) -> Result<Vec<Candidate>, Errno> {
        let mut oldest = Oldest {
            found: BinaryHeap::new(),
            frees: 0,
            needed,
        };
        let mut locked = 0;
        let mut relative: Rc<[u8]> = Rc::from([]);
        self.walk(&mut |work, found| {
            if *relative != *found.relative {
                relative = Rc::from(found.relative);
            }
            let key = found.key(&relative);
            if work.is_locked(found.stat) {
                locked += 1;
                return;
            }
            let dealt_with = last.is_some_and(|last| key <= *last)
                // Nobody gains by its end.
                || found.stat.st_blocks == 0
                // It is gone already but for its being a dry run.
                || work.pruning.dry_run && work.is_too_old(found);
            if !dealt_with {
                let stat = *found.stat;
                oldest.add(Candidate { key, stat });
            }
        })?;
        self.pruned.locked = locked;
        Ok(oldest.found.into_sorted_vec())
    }

    fn remove_candidate(&mut self, candidate: &Candidate) -> bool {
        let Candidate { key, stat } = candidate;
        match self.root.open_on_same_mount(&key.relative) {
            Ok(directory) => self.remove(directory.as_fd(), &key.relative, &key.name, stat),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => false,
            Err(errno) => {
                self.failed(&below(&key.relative, &key.name), errno);
                false
            }
        }
    }

    // ---- one file

    /// Removes the file if it is still the one that was found, with the directories that are empty then. False when it is
    /// still there.
    fn remove(
        &mut self,
        directory: BorrowedFd<'_>,
        relative: &[u8],
        name: &[u8],
        stat: &FileStat,
    ) -> bool {
        let path = below(relative, name);
        if !self.pruning.dry_run {
            self.open_ledger(directory, relative);
            // In this process nothing is stored under the name meanwhile.
            let _held = match HeldName::of(directory, name) {
                Ok(held) => held,
                Err(errno) => {
                    self.failed(&path, errno);
                    return false;
                }
            };
            match remove_unchanged(directory, name, stat) {
                Ok(true) => {}
                Ok(false) | Err(Errno::ENOENT) => return false,
                Err(errno) => {
                    self.failed(&path, errno);
                    return false;
                }
            }
            if let Some((_, Some(meter))) = &self.ledger {
                meter.went(size_of(stat), 1);
            }
            self.remove_empty(relative);
        }
        self.pruned.files += 1;
        self.pruned.bytes += size_of(stat);
        (self.tell)(Fate::Gone(&self.root.host_path(&path), size_of(stat)));
        true
    }

    /// To be had before anything is removed, for what nobody has counted yet is counted then.
    fn open_ledger(&mut self, directory: BorrowedFd<'_>, relative: &[u8]) {
        let is_open = self
            .ledger
            .as_ref()
            .is_some_and(|(here, _)| here == relative);
        if !is_open {
            let meter = self.pruning.metered.meter(directory);
            self.ledger = Some((relative.to_vec(), meter));
        }
    }

    /// The directory in which something was removed, if that was the last in it, and then the one above. What lies in the root
    /// itself stays: whoever made it may not make it again, as cameras do not.
    fn remove_empty(&mut self, relative: &[u8]) {
        let mut relative = relative;
        while !relative.is_empty() {
            let (above, name) = match relative.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => (&relative[..slash], &relative[slash + 1..]),
                None if relative == VERSIONS => (&b""[..], relative),
                None => return,
            };
            let removed = self
                .root
                .open_on_same_mount(above)
                .and_then(|above| unlinkat(above, name, UnlinkatFlags::RemoveDir));
            if removed.is_err() {
                return;
            }
            self.pruned.directories += 1;
            relative = above;
        }
    }

    fn failed(&mut self, relative: &[u8], errno: Errno) {
        self.pruned.failures += 1;
        let path = self.root.host_path(relative);
        (self.tell)(Fate::Failed(&path, errno.desc().to_owned()));
    }
}

/// Removes the file that was found before; `Ok(false)` when it is another one now, or is being written to.
///
/// A name of a partial file is what it gets meanwhile: should this process be killed in between, it is found and removed
/// later.
fn remove_unchanged(
    directory: BorrowedFd<'_>,
    name: &[u8],
    found: &FileStat,
) -> Result<bool, Errno> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let look = |name: &[u8]| fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    let changed = |stat: &FileStat| (stat.st_ctime, stat.st_ctime_nsec);
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = openat(directory, name, flags | OFlag::O_CLOEXEC, Mode::empty());
    // Of one that may not be read it is not known whether an upload goes on in it.
    let is_written_to =
        || (file.as_ref()).is_ok_and(|file| writers::is_written_to(file.as_fd(), found));
    let now = look(name)?;
    // Its time of change says how long it is locked.
    if !is_unchanged(&now, found) || changed(&now) != changed(found) || is_written_to() {
        return Ok(false);
    }
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let aside = format!(".thriftpd-prune-{}-{number}.partial", std::process::id());
    let aside = aside.as_bytes();
    renameat(directory, name, directory, aside)?;
    let moved = look(aside)?;
    if is_unchanged(&moved, found) && !is_written_to() {
        unlinkat(directory, aside, UnlinkatFlags::NoRemoveDir)?;
        return Ok(true);
    }
    // What was stored meanwhile gets its name again, unless something still newer has it.
    rename_to_new(directory, aside, directory, name)?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::OwnedFd;
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn old_file(path: &Path) {
        fs::write(path, "old").unwrap();
        let then = UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::open(path).unwrap().set_modified(then).unwrap();
    }

    /// As uploads do it: a new file takes the name of an old one, at any moment.
    #[test]
    fn nothing_is_lost_that_is_stored_while_an_old_file_is_taken_away() {
        // In memory where that is possible: replacing a file makes others write to the disk.
        let top = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let top = top.unwrap();
        let directory: OwnedFd = File::open(top.path()).unwrap().into();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
                    let found = fstatat(&directory, "name", flags).ok();
                    if let Some(found) = found.filter(|found| found.st_mtime == 1_000_000) {
                        // What it says of a file that is gone or replaced meanwhile is nobody's concern.
                        let _ = remove_unchanged(directory.as_fd(), b"name", &found);
                    }
                }
            });
            let (name, aside) = (top.path().join("name"), top.path().join("aside"));
            let mut lost = 0;
            for round in 0..3000 {
                let _ = fs::remove_file(&name);
                old_file(&aside);
                fs::rename(&aside, &name).unwrap();
                fs::write(&aside, round.to_string()).unwrap();
                fs::rename(&aside, &name).unwrap();
                // It may be aside for a moment.
                let stored = || fs::read_to_string(&name).is_ok_and(|is| is == round.to_string());
                let found = (0..1000).any(|_| {
                    thread::yield_now();
                    stored()
                });
                lost += u32::from(!found);
            }
            over.store(true, Ordering::Relaxed);
            assert_eq!(lost, 0);
        });
    }

    #[test]
    fn however_many_files_there_are_only_the_oldest_are_remembered() {
        let top = tempfile::tempdir().unwrap();
        old_file(&top.path().join("file"));
        let directory = File::open(top.path()).unwrap();
        let stat = fstatat(&directory, "file", AtFlags::AT_SYMLINK_NOFOLLOW).unwrap();
        let of = |blocks: i64, needed: u64| {
            let mut oldest = Oldest {
                found: BinaryHeap::new(),
                frees: 0,
                needed,
            };
            let mut stat = stat;
            stat.st_blocks = blocks;
            for number in 0..30_000_i64 {
                let key = Key {
                    is_file: number % 10 != 3,
                    time: (number * 7919 % 30_000, 0),
                    relative: Rc::from([]),
                    name: Vec::new(),
                };
                oldest.add(Candidate { key, stat });
            }
            let found = oldest.found.into_sorted_vec().into_iter();
            found
                .map(|candidate| (candidate.key.is_file, candidate.key.time.0))
                .collect::<Vec<_>>()
        };
        let many = of(0, 1);
        assert_eq!(many.len(), MOST_REMEMBERED);
        assert!(many.is_sorted());
        // A tenth are versions, and all of them come before the oldest file.
        assert_eq!(many[..3_000].iter().filter(|one| one.0).count(), 0);
        assert_eq!(many[3_000], (true, 0));
        let few = of(8, 5 * 4096);
        assert_eq!(few.len(), 5);
        assert_eq!(few[..], many[..5]);
    }
}
