//! What users have stored, counted as it changes.
//!
//! An area is a directory of the host in which somebody has a quota: a root, or a folder that the user may upload to. What lies
//! in it is counted whoever put it there: regular files and their sizes, unfinished uploads and old versions too.
//!
//! The counts are in memory. A file of the area itself, in [`STATE`], keeps them, so that they stay with a disk that is
//! moved. A process writes to it when it begins to change something after a rest, once a second while it goes on, and
//! when it rests again. In between the file says that somebody changes something: after a crash, and where nobody has counted yet, the
//! area is counted by a walk. Several processes add what they have changed, under a lock of the file. Changes by other programs are found
//! by a rescan.
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{FileStat, fstat, stat};

use crate::storage::disk::durable::Order;
use crate::storage::disk::metadata::{Kind, kind};
use crate::storage::disk::reserved::STATE;
use crate::storage::disk::root::{Root, split};
use crate::storage::disk::system::errno_of;
use crate::storage::disk::walk::{Missed, walk_all};
use crate::storage::error::{At, Error};
use crate::storage::quota::state::open_state;
use crate::storage::rules::Usage;

/// A counted directory.
#[derive(Debug)]
pub(in crate::storage) struct Area {
    pub(in crate::storage) path: PathBuf,
    /// The path of the file.
    kept_in: PathBuf,
    /// The directory without links, once it is there.
    real: OnceLock<PathBuf>,
    /// Nothing is written there while no file system is mounted at it.
    guarded: AtomicBool,
    /// Never held while a disk works: one that hangs holds up nobody who counts elsewhere.
    pub(in crate::storage) counts: Mutex<Counts>,
    /// Held by the thread that reads and writes the file.
    file: Mutex<()>,
}

#[derive(Debug, Default)]
pub(in crate::storage) struct Counts {
    /// As the file said last.
    base: Usage,
    /// What has changed since, in bytes and files.
    pub(in crate::storage) change: (i64, i64),
    /// Changes under way.
    open: usize,
    /// Grows with each change that begins.
    turn: u64,
    /// The file says that this process changes something.
    busy: bool,
    /// Of the file when it was read last, if it was: another disk may be there by now.
    stamp: Option<Stamp>,
    /// A thread saves what has changed.
    has_saver: bool,
    /// This process has said in the file that the counts are not to be trusted if it does not end in order.
    marked: bool,
    /// The last server did not end in order: the counts are what it said last.
    inexact: bool,
}

/// Device, inode and time of modification of the file.
type Stamp = (u64, u64, i64, i64);

fn stamp(stat: &FileStat) -> Stamp {
    let (device, inode) = (stat.st_dev, stat.st_ino);
    (device, inode, stat.st_mtime, stat.st_mtime_nsec)
}

impl Counts {
    /// Whether the file was read.
    pub(in crate::storage) fn is_known(&self) -> bool {
        self.stamp.is_some()
    }

    pub(in crate::storage) fn total(&self) -> Usage {
        self.base.plus(self.change.0, self.change.1)
    }
}

/// What the file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct Record {
    pub(in crate::storage) usage: Usage,
    /// Processes that change something: other than zero when nobody runs, somebody died and left the counts inexact.
    pub(in crate::storage) open: u64,
    /// Grows whenever a process begins to.
    pub(in crate::storage) turn: u32,
    /// A process has changed something and has not ended in order: the same, behind a power cut too.
    pub(in crate::storage) dirty: bool,
}

/// What is done when the file is read and written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing else.
    Looks,
    /// From now on this process changes something.
    Begins,
    /// It rests, and all is counted.
    Rests,
}

const DIRTY: &str = "dirty";

/// The file, in [`STATE`].
const FILE: &str = "quota";

/// Bytes of the file.
const RECORD: usize = 96;

impl Record {
    pub(in crate::storage) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut words = text.strip_suffix('\n')?.split_whitespace();
        let mut number = |name: &str| words.next()?.strip_prefix(name)?.parse().ok();
        let usage = Usage {
            bytes: number("bytes=")?,
            files: number("files=")?,
        };
        let (open, turn) = (number("open=")?, number("turn=")?);
        let dirty = words.next() == Some(DIRTY);
        Some(Self {
            usage,
            open,
            turn: u32::try_from(turn).ok()?,
            dirty,
        })
    }

    pub(in crate::storage) fn text(self) -> String {
        let Usage { bytes, files } = self.usage;
        let Self { open, turn, .. } = self;
        let mut line = format!("bytes={bytes} files={files} open={open} turn={turn}");
        if self.dirty {
            line = format!("{line} {DIRTY}");
        }
        format!("{line:<width$}\n", width = RECORD - 1)
    }
}

/// Sizes of files are below 2^63.
pub(in crate::storage) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// This process is the server: what the last one left open was left by the dead.
static SERVES: AtomicBool = AtomicBool::new(false);

/// To be called once when the server starts, before anything changes.
pub fn serve() {
    SERVES.store(true, Ordering::Relaxed);
}

/// All areas that this process knows, by their paths.
static AREAS: Mutex<BTreeMap<PathBuf, Arc<Area>>> = Mutex::new(BTreeMap::new());

pub(in crate::storage) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Area {
    pub(in crate::storage) fn at(path: &Path) -> Arc<Self> {
        let mut areas = locked(&AREAS);
        let area = areas.entry(path.to_owned()).or_insert_with(|| {
            Arc::new(Self {
                path: path.to_owned(),
                kept_in: path.join(OsStr::from_bytes(STATE)).join(FILE),
                real: OnceLock::new(),
                guarded: AtomicBool::new(false),
                counts: Mutex::default(),
                file: Mutex::default(),
            })
        });
        Arc::clone(area)
    }

    /// Whether a directory of the host, named without links, lies in it. It may have come to be since the configuration was read.
    pub(in crate::storage) fn holds(&self, directory: &Path) -> bool {
        if self.real.get().is_none() {
            if let Ok(real) = self.path.canonicalize() {
                let _ = self.real.set(real);
            }
        }
        directory.starts_with(self.real.get().unwrap_or(&self.path))
    }

    fn stamp(&self) -> Option<Stamp> {
        stat(&self.kept_in).ok().as_ref().map(stamp)
    }

    fn root(&self) -> Result<Root, Errno> {
        Root::open_or_guard(&self.path, self.guarded.load(Ordering::Relaxed))
    }

    /// Counts what lies in it.
    fn count(&self) -> Result<Usage, Errno> {
        let root = self.root()?;
        count_below(&root, b"", &mut |missed| {
            log::warn!(
                "{}: what is stored there is not counted: {} (setting: quota)",
                root.host_path(missed.relative).display(),
                missed.errno.desc()
            );
        })
    }

    /// The counts' file, locked for other processes; for other threads it is by `self.file`.
    fn open(&self) -> Result<Flock<File>, Errno> {
        let root = self.root()?.again()?;
        let file = open_state(&root, FILE.as_bytes())?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)
    }

    /// Puts what has changed into the file and takes up what others have put there. Counts the area where nobody has. To be
    /// called while `self.file` is held.
    fn sync(&self, step: Step) -> Result<(), Errno> {
        let file = self.open()?;
        let mut kept = read(&file);
        let is_first = !locked(&self.counts).is_known() && SERVES.load(Ordering::Relaxed);
        let died = |record: &&mut Record| is_first && (record.open > 0 || record.dirty);
        let is_inexact = match kept.as_mut().filter(died) {
            None => false,
            Some(record) => {
                // Should this server die as well, it is counted anew behind that.
                (record.open, record.dirty) = (0, true);
                write(&file, *record)?;
                true
            }
        };
        let mut counts = locked(&self.counts);
        counts.marked |= is_inexact;
        counts.inexact |= is_inexact;
        if counts.busy && kept.is_none_or(|record| record.open == 0) {
            // Another disk is there, or nobody has counted any more. What has changed on the one before is in the counts of neither.
            (counts.change, counts.busy, counts.marked) = ((0, 0), false, false);
        }
        let (was_busy, change) = (counts.busy, counts.change);
        let is_busy = match step {
            Step::Looks => was_busy,
            Step::Begins => true,
            Step::Rests => was_busy && counts.open > 0,
        };
        // Whoever begins now says so again, behind this.
        counts.busy &= is_busy;
        drop(counts);
        let written = self.write_changed(&file, kept, change, (was_busy, is_busy));
        let mut counts = locked(&self.counts);
        let Ok(record) = written else {
            counts.busy = was_busy;
            return written.map(drop);
        };
        counts.base = record.usage;
        counts.change.0 -= change.0;
        counts.change.1 -= change.1;
        counts.busy = is_busy;
        counts.marked |= is_busy && !kept.is_some_and(|record| record.dirty);
        counts.stamp = fstat(&*file).ok().as_ref().map(stamp);
        Ok(())
    }

    /// `busy`: whether the file says that this process changes something, and whether it is to say so.
    fn write_changed(
        &self,
        file: &File,
        kept: Option<Record>,
        change: (i64, i64),
        busy: (bool, bool),
    ) -> Result<Record, Errno> {
        let mut record = match kept {
            Some(record) => Record {
                usage: record.usage.plus(change.0, change.1),
                ..record
            },
            // What has changed is in what is counted.
            None => Record {
                usage: self.count()?,
                ..Record::default()
            },
        };
        match busy {
            (false, true) => {
                record.open += 1;
                record.turn = record.turn.wrapping_add(1);
                record.dirty = true;
            }
            (true, false) => record.open = record.open.saturating_sub(1),
            _ => {}
        }
        if kept != Some(record) {
            write(file, record)?;
        }
        if record.dirty && !kept.is_some_and(|record| record.dirty) && flush(file).is_err() {
            log::warn!(
                "{}: that uploads begin is not noted on the disk; after a power cut the counts may be wrong (setting: quota)",
                self.path.display()
            );
        }
        Ok(record)
    }

    /// To be called before anything changes: what is counted in memory alone is lost with the process, and the file says so.
    pub(in crate::storage) fn begin(self: &Arc<Self>) {
        let now = self.stamp();
        {
            let mut counts = locked(&self.counts);
            counts.open += 1;
            counts.turn += 1;
            // While something else changes there it is the disk that it was.
            if counts.busy && (counts.stamp == now || counts.open > 1) {
                return;
            }
        }
        let _file = locked(&self.file);
        if let Err(errno) = self.sync(Step::Begins) {
            return self.warn(errno);
        }
        let mut counts = locked(&self.counts);
        if !counts.has_saver {
            let area = Arc::clone(self);
            let saver = std::thread::Builder::new().name("quota".into());
            let started = saver
                .stack_size(128 * 1024)
                .spawn(move || area.save_until_rest());
            counts.has_saver = started.is_ok();
        }
    }

    /// A change is over, and counted.
    pub(in crate::storage) fn end(&self) {
        let mut counts = locked(&self.counts);
        counts.open -= 1;
        let saves = counts.open == 0 && counts.busy && !counts.has_saver;
        drop(counts);
        if saves {
            if let Err(errno) = self.save() {
                self.warn(errno);
            }
        }
    }

    fn save_until_rest(&self) {
        let mut pause = BETWEEN_SAVES;
        loop {
            std::thread::sleep(pause);
            pause = match self.save() {
                Ok(true) => return,
                Ok(false) => BETWEEN_SAVES,
                Err(errno) => {
                    if pause == BETWEEN_SAVES {
                        self.warn(errno);
                    }
                    (2 * pause).min(MOST_BETWEEN_SAVES)
                }
            };
        }
    }

    /// Puts what has changed into the file; true when nothing is being changed any more, and the file says so.
    fn save(&self) -> Result<bool, Errno> {
        let _file = locked(&self.file);
        let (is_open, change) = {
            let counts = locked(&self.counts);
            (counts.open > 0, counts.change)
        };
        if is_open && change == (0, 0) {
            return Ok(false);
        }
        if matches!(stat(&self.kept_in), Err(Errno::ENOENT | Errno::ENOTDIR)) {
            // Somebody removes the area, or what was kept there: it is not made again before something else changes.
            let mut counts = locked(&self.counts);
            if counts.open == 0 {
                let turn = counts.turn;
                *counts = Counts {
                    turn,
                    ..Counts::default()
                };
            }
            return Ok(counts.open == 0);
        }
        self.sync(Step::Rests)?;
        let mut counts = locked(&self.counts);
        counts.has_saver &= counts.busy;
        Ok(!counts.busy)
    }

    /// What is stored now.
    pub(in crate::storage) fn usage(&self) -> Result<Usage, Errno> {
        let now = self.stamp();
        let known = {
            let counts = locked(&self.counts);
            if counts.is_known() && counts.stamp == now {
                return Ok(counts.total());
            }
            counts.is_known().then(|| counts.total())
        };
        // Another process may have counted. One whose disk hangs holds the file: what is known has to do.
        let file = match (self.file.try_lock(), known) {
            (Err(TryLockError::WouldBlock), Some(usage)) => return Ok(usage),
            (Err(TryLockError::WouldBlock), None) => locked(&self.file),
            (Err(TryLockError::Poisoned(poisoned)), _) => poisoned.into_inner(),
            (Ok(file), _) => file,
        };
        self.sync(Step::Looks)?;
        drop(file);
        Ok(locked(&self.counts).total())
    }

    /// The turns of the process and of the file; None while something is being changed.
    fn turns(&self, record: Record, counts: &Counts) -> Option<(u64, u32)> {
        let rests = counts.open == 0 && record.open == u64::from(counts.busy);
        rests.then_some((counts.turn, record.turn))
    }

    /// Counts anew; None when something was changed meanwhile: it may be in what was counted, or not.
    fn count_anew(&self) -> Result<Option<Usage>, Errno> {
        let record = |file: &File| read(file).unwrap_or_default();
        let before = {
            let _file = locked(&self.file);
            let record = record(&*self.open()?);
            self.turns(record, &locked(&self.counts))
        };
        if before.is_none() {
            return Ok(None);
        }
        let usage = self.count()?;
        let _file = locked(&self.file);
        let file = self.open()?;
        let now = record(&file);
        {
            let mut counts = locked(&self.counts);
            if self.turns(now, &counts) != before {
                return Ok(None);
            }
            (counts.base, counts.change) = (usage, (0, 0));
        }
        write(&file, Record { usage, ..now })?;
        Ok(Some(usage))
    }

    /// The end of all changes by this process, unless some go on.
    fn close(&self) -> Result<(), Errno> {
        let (busy, marked) = {
            let counts = locked(&self.counts);
            (counts.busy, counts.marked)
        };
        if (busy && !self.save()?) || !marked {
            return Ok(());
        }
        let _file = locked(&self.file);
        let file = self.open()?;
        match read(&file) {
            Some(record) if record.open == 0 => {
                locked(&self.counts).marked = false;
                // On the disk before it says that it can be trusted.
                flush(&file)?;
                let dirty = false;
                write(&file, Record { dirty, ..record })?;
                flush(&file)
            }
            _ => Ok(()),
        }
    }

    pub(in crate::storage) fn warn(&self, errno: Errno) {
        log::warn!(
            "{}: what is stored there cannot be counted: {}: the server's user must be able to make .thriftpd in it and to write there (setting: quota)",
            self.path.display(),
            errno.desc()
        );
    }
}

/// Nothing can lie where nothing is, or no disk.
pub(in crate::storage) fn is_away(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ENOMEDIUM)
}

fn read(file: &File) -> Option<Record> {
    let mut text = [0; RECORD];
    file.read_exact_at(&mut text, 0).ok()?;
    Record::parse(&text)
}

fn write(file: &File, record: Record) -> Result<(), Errno> {
    let written = file.write_all_at(record.text().as_bytes(), 0);
    written.map_err(errno_of)
}

fn flush(file: &File) -> Result<(), Errno> {
    Order::of(file.as_fd(), true).contents(file)
}

/// Counts what lies below a directory: regular files, but for the server's own state. `unread` is told of what cannot be looked
/// at and so is not counted.
///
/// # Errors
/// When the directory cannot be opened.
pub fn count_below(
    root: &Root,
    relative: &[u8],
    unread: &mut dyn FnMut(Missed<'_>),
) -> Result<Usage, Errno> {
    let mut usage = Usage::default();
    // Of roots within this one, too.
    let enter = |path: &[u8]| split(path).1 != STATE;
    walk_all(root, relative, &enter, &mut |met| {
        match met {
            Ok(met) if kind(met.stat) == Kind::File => {
                usage = usage.plus(met.stat.st_size, 1);
            }
            Ok(_) => {}
            Err(missed) => unread(missed),
        }
        ControlFlow::Continue(())
    })?;
    Ok(usage)
}

/// Says which areas must have a file system mounted at them, of those that a configuration knows.
pub fn guard(areas: impl Iterator<Item = (PathBuf, bool)>) {
    for (path, guarded) in areas {
        Area::at(&path).guarded.store(guarded, Ordering::Relaxed);
    }
}

/// Counts an area anew, while nothing changes in it: waits a while for such a time.
///
/// # Errors
/// `Busy` while something goes on changing; when the directory cannot be read or the counts not be written.
pub fn rescan(path: &Path) -> Result<Usage, Error> {
    let area = Area::at(path);
    for _ in 0..LOOKS {
        if let Some(counted) = area.count_anew().at(path.as_os_str().as_encoded_bytes())? {
            return Ok(counted);
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Err(Errno::EBUSY.at(path.as_os_str().as_encoded_bytes()))
}

/// Waits until no process changes what is counted in the area any more, so that the file tells all; some seconds at most.
pub fn wait_for_rest(path: &Path) {
    let area = Area::at(path);
    for _ in 0..LOOKS {
        match area.open().map(|file| read(&file)) {
            Ok(Some(record)) if record.open > 0 => std::thread::sleep(BETWEEN_LOOKS),
            _ => return,
        }
    }
}

/// How often is looked whether changes are over.
const LOOKS: u32 = 25;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// While something changes, what has changed goes to the file so often; where that fails, less and less often.
const BETWEEN_SAVES: Duration = Duration::from_secs(1);
const MOST_BETWEEN_SAVES: Duration = Duration::from_secs(300);

/// In a [server](serve): whether the last one died while it changed something in the area, whose counts are what it said
/// last. It is to be [counted anew](rescan).
pub fn is_left_by_the_dead(path: &Path) -> bool {
    let area = Area::at(path);
    {
        let _file = locked(&area.file);
        let is_new = !locked(&area.counts).is_known();
        // Where nobody has counted yet that is done when somebody wants to know.
        if is_new && area.open().is_ok_and(|file| read(&file).is_some()) {
            if let Err(errno) = area.sync(Step::Looks) {
                area.warn(errno);
            }
        }
    }
    std::mem::take(&mut locked(&area.counts).inexact)
}

/// To be called when the process ends in order.
pub fn close(path: &Path) {
    if let Err(errno) = Area::at(path).close() {
        log::warn!(
            "{}: what is stored there will be counted anew: {} (setting: quota)",
            path.display(),
            errno.desc()
        );
    }
}

/// What a user has stored, as it is counted now; nothing where a disk is away.
///
/// # Errors
/// When an area cannot be read.
pub fn usage(areas: &[PathBuf]) -> Result<Usage, Error> {
    areas.iter().try_fold(Usage::default(), |total, path| {
        let usage = match Area::at(path).usage() {
            Err(errno) if is_away(errno) => return Ok(total),
            usage => usage,
        };
        let usage = usage.at(path.as_os_str().as_encoded_bytes())?;
        Ok(total.and(usage))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_state_of_an_area_within_another_is_nobodys_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("inner/.thriftpd")).unwrap();
        fs::write(path.join("inner/.thriftpd/quota"), "state").unwrap();
        fs::write(path.join("inner/file"), "12").unwrap();
        assert_eq!(rescan(&path).unwrap(), Usage { bytes: 2, files: 1 });
    }

    #[test]
    fn a_damaged_record_is_none() {
        let record = Record {
            usage: Usage { bytes: 1, files: 2 },
            open: 3,
            turn: 4,
            dirty: true,
        };
        let text = record.text();
        assert_eq!(
            (text.len(), Record::parse(text.as_bytes())),
            (RECORD, Some(record))
        );
        for text in [
            "",
            "bytes=1 files=2\n",
            "bytes=-1 files=2 open=0 turn=0\n",
            "bytes=1 files=2 open=0\n",
            "bytes=1 files=2 open=0 turn=0",
        ] {
            assert_eq!(Record::parse(text.as_bytes()), None, "{text}");
        }
    }
}
