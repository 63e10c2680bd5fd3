//! Taking old files away: those older than so many days, and the oldest ones until so much of a disk is free.
//!
//! The age of a file counts from its time of modification, or from its arrival where a client has set that time and the arrival
//! was later; where the file system cannot note the arrival, from its time of change. That of an old version counts from its
//! time of change, for its time of modification is that of the file that was. A file to which a wrong clock gave its times
//! counts from the moment at which it is found. Nothing is done while the clock is not believed. Whoever stores a file
//! meanwhile keeps it: the pruner moves what it removes aside under a name of ours first, looks at it once more, and moves it
//! back when it is not what was found. Links are not followed, and nothing beyond a mount point is touched.
//!
//! However many files there are, only the oldest ones are remembered, and the tree is walked again when those do not suffice.
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::FileStat;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, syncfs, unlinkat};

use crate::os::clock::SET_SINCE;
use crate::storage::disk::metadata::{Kind, is_unchanged, kind, size_of};
use crate::storage::disk::names::{self, HeldName, rename_to_new};
use crate::storage::disk::reserved::{VERSIONS, is_reserved};
use crate::storage::disk::root::{Root, split};
use crate::storage::disk::walk::{Met, below, walk_mount};
use crate::storage::disk::writers;
use crate::storage::disk::writers::Doomed;
use crate::storage::error::{At, Error};
use crate::storage::quota::meter::{Meter, Metered};
use crate::storage::retention::arrival::{self, Arrival};
use crate::storage::retention::doubt::{Clock, DAY, Doubt, leap, remember};
use crate::storage::retention::lock::locked_until;
use crate::storage::rules::{Room, available};

/// Files that are remembered in one walk.
const MOST_REMEMBERED: usize = 10_000;

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
    Failed(&'a Path, &'static str),
}

/// Takes away what is too old or in the way; nothing while there is a doubt about the clock.
///
/// # Errors
/// `NotMounted`; when the directory itself cannot be opened or its disk not be looked at.
pub fn prune(
    pruning: &Pruning,
    clock: &Clock,
    tell: &mut dyn FnMut(Fate<'_>),
) -> Result<Result<Pruned, Doubt>, Error> {
    let top = pruning.top.as_os_str().as_encoded_bytes();
    let root = Root::open_or_guard(&pruning.top, pruning.require_mount);
    // Held all the time: not another disk half-way.
    let root = root.and_then(|root| root.again()).at(top)?;
    let leap = leap(pruning.days, pruning.lock);
    if let Some(doubt) = clock.doubt(&root, leap).at(top)? {
        return Ok(Err(doubt));
    }
    if !pruning.dry_run {
        // On a full disk it may be impossible, and then it is not known the next time.
        let _ = remember(&root, &clock.now);
    }
    let mut work = Work {
        root: &root,
        pruning,
        clock,
        ledger: None,
        pruned: Pruned::default(),
        oldest: Oldest::default(),
        done: None,
        is_first_walk: true,
        freed: 0,
        tell,
    };
    work.run().at(top)?;
    Ok(Ok(work.pruned))
}

/// A file that may go: the first ones go first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Versions are false, and so come first.
    is_file: bool,
    /// When it was stored, in seconds since 1970 and nanoseconds.
    time: (i64, i64),
    /// Its directory, below the root.
    relative: Rc<[u8]>,
    name: Vec<u8>,
}

/// Bytes of the disk that are free when the file is gone: none while it has another name.
fn frees(stat: &FileStat) -> u64 {
    match stat.st_nlink {
        0 | 1 => u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        _ => 0,
    }
}

/// The oldest files found so far, as many as are needed to free so many bytes.
#[derive(Default)]
struct Oldest {
    needed: u64,
    found: BTreeMap<Key, FileStat>,
    frees: u64,
}

impl Oldest {
    fn add(&mut self, key: Key, stat: FileStat) {
        self.frees += frees(&stat);
        self.found.insert(key, stat);
        while let Some((_, youngest)) = self.found.last_key_value() {
            let without = self.frees - frees(youngest);
            if self.found.len() <= MOST_REMEMBERED && without < self.needed {
                return;
            }
            self.frees = without;
            self.found.pop_last();
        }
    }
}

/// One directory of the host while it is worked on.
struct Work<'a> {
    root: &'a Root,
    pruning: &'a Pruning,
    clock: &'a Clock,
    /// Counts for the quotas what goes from the directory where the last file went.
    ledger: Option<(Rc<[u8]>, Meter)>,
    pruned: Pruned,
    /// Of the files that the last walk has met.
    oldest: Oldest,
    /// The files up to here are dealt with.
    done: Option<Key>,
    is_first_walk: bool,
    /// Bytes that a dry run would have freed by removing what is too old.
    freed: u64,
    tell: &'a mut dyn FnMut(Fate<'_>),
}

impl Work<'_> {
    /// Takes away what is too old, and the oldest of the other files until so much of the disk is free.
    fn run(&mut self) -> Result<(), Errno> {
        let needed = self.missing()?;
        if needed == 0 && self.pruning.days.is_none() {
            return Ok(());
        }
        self.walk(needed)?;
        let mut missing = self.missing()?;
        if missing > needed {
            // Somebody has stored more meanwhile.
            self.walk(missing)?;
        }
        let mut before = missing;
        while missing > 0 && !self.oldest.found.is_empty() {
            for (key, stat) in std::mem::take(&mut self.oldest.found) {
                if missing == 0 {
                    break;
                }
                if self.remove(&key, &stat) {
                    missing = missing.saturating_sub(frees(&stat));
                }
                self.done = Some(key);
            }
            if missing == 0 && !self.pruning.dry_run {
                missing = self.missing()?;
                // Who holds it (open files, snapshots, clones) gives nothing back for more.
                if missing > before / 2 {
                    break;
                }
                before = missing;
            }
            if missing > 0 {
                self.walk(missing)?;
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
        if self.pruning.free.is_empty() {
            return Ok(0);
        }
        let top = self.root.open_on_same_mount(b"")?;
        if self.pruned.files > 0 && !self.pruning.dry_run {
            // Some file systems have the room of what was removed only when the journal is written.
            let _ = syncfs(&top);
        }
        let disk = fstatvfs(&top)?;
        let size = disk.blocks().saturating_mul(disk.fragment_size());
        let wanted = self.pruning.free.iter().map(|room| room.of(size)).min();
        let free = available(&disk, Room::default()).saturating_add(self.freed);
        Ok(wanted.unwrap_or(0).saturating_sub(free))
    }

    /// Goes through all files that may go: the first walk removes those that are too old and tells of what cannot be read, and
    /// each finds the oldest others, which free as many bytes as needed.
    fn walk(&mut self, needed: u64) -> Result<(), Errno> {
        let (root, apart) = (self.root, &self.pruning.apart);
        let enter = |path: &[u8]| {
            (path == VERSIONS || !is_reserved(split(path).1))
                && !apart.contains(&root.host_path(path))
        };
        self.pruned.locked = 0;
        self.oldest = Oldest::default();
        self.oldest.needed = needed;
        // Of one directory: as many as stay in any case.
        let mut youngest = BTreeMap::new();
        let mut relative: Rc<[u8]> = Rc::from([]);
        let walked = walk_mount(root, b"", &enter, &mut |met| {
            match met {
                Ok(met) if kind(met.stat) == Kind::File && !is_reserved(met.name) => {
                    if *relative != *met.relative {
                        relative = Rc::from(met.relative);
                        youngest.clear();
                    }
                    let (key, stat) = self.look_at(met, &relative);
                    let stay = if key.is_file { self.pruning.spared } else { 0 };
                    youngest.insert(key, stat);
                    let oldest = (youngest.len() > stay).then(|| youngest.pop_first());
                    if let Some((key, stat)) = oldest.flatten() {
                        self.deal_with(key, stat);
                    }
                }
                Err(missed) if missed.errno != Errno::EXDEV && self.is_first_walk => {
                    self.failed(missed.relative, missed.errno);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        self.is_first_walk = false;
        walked
    }

    /// A file by the time at which it was stored.
    fn look_at(&self, met: &Met<'_>, relative: &Rc<[u8]>) -> (Key, FileStat) {
        let is_file = met.relative.split(|&byte| byte == b'/').next() != Some(VERSIONS);
        let mut stat = *met.stat;
        let modified = (stat.st_mtime, stat.st_mtime_nsec);
        let changed = changed(&stat);
        let mut time = match is_file.then(|| arrival::of(met.directory, met.name)) {
            None => changed,
            Some(Arrival::At(stored)) => modified.max((stored, 0)),
            Some(Arrival::Unnoted) => modified,
            Some(Arrival::Unknowable) => modified.max(changed),
        };
        if self.clock.is_wrong(changed.0) || time.0 < SET_SINCE {
            time = (self.clock.now.time, 0);
            if !self.pruning.dry_run {
                arrival::correct(met.directory, met.name, time.0);
                // That was a change of the file.
                let now = names::stat(met.directory, met.name).ok();
                stat = now.filter(|now| is_unchanged(&stat, now)).unwrap_or(stat);
            }
        }
        let key = Key {
            is_file,
            time,
            relative: Rc::clone(relative),
            name: met.name.to_vec(),
        };
        (key, stat)
    }

    /// Removes the file if it is too old, in the first walk; remembers it otherwise, as one that may make room.
    fn deal_with(&mut self, key: Key, stat: FileStat) {
        let age = self.clock.now.time.saturating_sub(key.time.0);
        let is_too_old = |days| age > i64::from(days) * DAY;
        if locked_until(&stat, self.pruning.lock).is_some() {
            self.pruned.locked += 1;
        } else if self.pruning.days.is_some_and(is_too_old) {
            if self.is_first_walk && self.remove(&key, &stat) && self.pruning.dry_run {
                self.freed += frees(&stat);
            }
        } else if stat.st_blocks > 0 && self.done.as_ref() < Some(&key) {
            // Nobody would gain by the end of a file without blocks.
            self.oldest.add(key, stat);
        }
    }

    /// Removes the file if it is still the one that was found, with the directories that are empty then. False when it is
    /// still there.
    fn remove(&mut self, key: &Key, stat: &FileStat) -> bool {
        let path = below(&key.relative, &key.name);
        if !self.pruning.dry_run {
            match self.remove_counted(key, stat) {
                Ok(true) => self.remove_empty(&key.relative),
                // Somebody else has changed, removed or replaced it, or its directory.
                Ok(false) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => {
                    return false;
                }
                Err(errno) => {
                    self.failed(&path, errno);
                    return false;
                }
            }
        }
        self.pruned.files += 1;
        self.pruned.bytes += size_of(stat);
        (self.tell)(Fate::Gone(&self.root.host_path(&path), size_of(stat)));
        true
    }

    fn remove_counted(&mut self, key: &Key, stat: &FileStat) -> Result<bool, Errno> {
        let directory = self.root.open_on_same_mount(&key.relative)?;
        if !matches!(&self.ledger, Some((here, _)) if *here == key.relative) {
            // To be had before anything is removed, for what nobody has counted yet is counted then.
            let meter = self.pruning.metered.meter(&directory);
            self.ledger = Some((Rc::clone(&key.relative), meter));
        }
        // In this process nothing is stored under the name meanwhile.
        let _held = HeldName::of(&directory, &key.name)?;
        let doomed = Doomed::open(directory.as_fd(), &key.name)?;
        let is_gone = remove_unchanged(directory.as_fd(), &key.name, stat)?;
        match &self.ledger {
            Some((_, meter)) if is_gone => meter.lost(doomed),
            _ => {}
        }
        Ok(is_gone)
    }

    /// Removes the directory in which something was removed, if that was the last in it, and then the one above. What lies in
    /// the root itself stays: whoever made it may not make it again, as cameras do not.
    fn remove_empty(&mut self, mut relative: &[u8]) {
        while relative.contains(&b'/') || relative == VERSIONS {
            let (above, name) = split(relative);
            let opened = self.root.open_on_same_mount(above);
            let removed = opened.and_then(|at| unlinkat(at, name, UnlinkatFlags::RemoveDir));
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
        (self.tell)(Fate::Failed(&path, errno.desc()));
    }
}

/// Seconds since 1970 and nanoseconds.
fn changed(stat: &FileStat) -> (i64, i64) {
    (stat.st_ctime, stat.st_ctime_nsec)
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
    let file = names::open(directory, name, OFlag::O_RDONLY);
    // Of one that may not be read it is not known whether an upload goes on in it.
    let is_written_to =
        || (file.as_ref()).is_ok_and(|file| writers::is_written_to(file.as_fd(), found));
    let now = names::stat(directory, name)?;
    // Its time of change says how long it is locked.
    if !is_unchanged(&now, found) || changed(&now) != changed(found) || is_written_to() {
        return Ok(false);
    }
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let aside = format!(".thriftpd-prune-{}-{number}.partial", std::process::id());
    let aside = aside.as_bytes();
    renameat(directory, name, directory, aside)?;
    let moved = names::stat(directory, aside)?;
    if is_unchanged(&moved, found) && !is_written_to() {
        names::unlink(directory, aside)?;
        return Ok(true);
    }
    // What was stored meanwhile gets its name again, unless something still newer has it.
    rename_to_new(directory, aside, directory, name)?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::UNIX_EPOCH;

    use nix::sys::stat::fstat;

    use super::*;

    /// As uploads do it: a new file takes the name of an old one, at any moment.
    #[test]
    fn nothing_is_lost_that_is_stored_while_an_old_file_is_taken_away() {
        // In memory where that is possible: replacing a file makes others write to the disk.
        let top = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let top = top.unwrap();
        let directory = File::open(top.path()).unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let found = names::stat(directory.as_fd(), b"name").ok();
                    if let Some(found) = found.filter(|found| found.st_mtime == 1_000_000) {
                        // What it says of a file that is gone or replaced meanwhile is nobody's concern.
                        let _ = remove_unchanged(directory.as_fd(), b"name", &found);
                    }
                }
            });
            let (name, aside) = (top.path().join("name"), top.path().join("aside"));
            let then = UNIX_EPOCH + Duration::from_secs(1_000_000);
            let mut lost = 0;
            for round in 0..3000 {
                let _ = fs::remove_file(&name);
                fs::write(&aside, "old").unwrap();
                File::open(&aside).unwrap().set_modified(then).unwrap();
                fs::rename(&aside, &name).unwrap();
                fs::write(&aside, round.to_string()).unwrap();
                fs::rename(&aside, &name).unwrap();
                // It may be aside for a moment.
                let is_stored = |_| {
                    thread::yield_now();
                    fs::read_to_string(&name).is_ok_and(|is| is == round.to_string())
                };
                lost += u32::from(!(0..1000).any(is_stored));
            }
            over.store(true, Ordering::Relaxed);
            assert_eq!(lost, 0);
        });
    }

    #[test]
    fn however_many_files_there_are_only_the_oldest_are_remembered() {
        let mut stat = fstat(tempfile::tempfile().unwrap()).unwrap();
        let mut oldest_of = |blocks, needed| {
            let mut oldest = Oldest {
                needed,
                ..Oldest::default()
            };
            stat.st_blocks = blocks;
            for number in 0..30_000_i64 {
                let key = Key {
                    is_file: number % 10 != 3,
                    time: (number * 7919 % 30_000, 0),
                    relative: Rc::from([]),
                    name: Vec::new(),
                };
                oldest.add(key, stat);
            }
            let facts = |key: Key| (key.is_file, key.time.0);
            oldest.found.into_keys().map(facts).collect::<Vec<_>>()
        };
        let many = oldest_of(0, 1);
        assert_eq!(many.len(), MOST_REMEMBERED);
        assert!(many.is_sorted());
        // A tenth are versions, and all of them come before the oldest file.
        assert_eq!(many[..3_000].iter().filter(|one| one.0).count(), 0);
        assert_eq!(many[3_000], (true, 0));
        let few = oldest_of(8, 5 * 4096);
        assert_eq!(few[..], many[..5]);
    }
}
