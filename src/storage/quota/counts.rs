//! What users have stored, counted as it changes.
//!
//! An area is a directory of the host in which somebody has a quota: a root, or a folder that the user may upload to. What lies
//! in it is counted whoever put it there: regular files and their sizes, unfinished uploads and old versions too. The counts
//! live in the area itself, in [`STATE`], so that they stay with a disk that is moved; every process that changes them does so
//! under a lock of that file, and the sessions of one process share them in memory, so that bytes are counted as they
//! arrive. An area without counts is counted when it is first needed. Changes by other programs are found by a rescan.
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::storage::disk::durable::{self, Order};
use crate::storage::disk::metadata::{Kind, kind};
use crate::storage::disk::reserved::STATE;
use crate::storage::disk::root::Root;
use crate::storage::disk::walk::{Missed, walk_all};
use crate::storage::error::Error;
use crate::storage::quota::state::open_state;
use crate::storage::rules::Usage;

/// A counted directory.
#[derive(Debug)]
pub(in crate::storage) struct Area {
    pub(in crate::storage) path: PathBuf,
    /// The same without links, once it is there.
    real: OnceLock<PathBuf>,
    /// Nothing is written there while no file system is mounted at it.
    guarded: AtomicBool,
    pub(in crate::storage) counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
pub(in crate::storage) struct Counts {
    /// As the file said last.
    base: Usage,
    /// What has changed since, in bytes and files.
    pub(in crate::storage) change: (i64, i64),
    pub(in crate::storage) known: bool,
    /// This process has said in the file that the counts are not to be trusted if it dies.
    marked: bool,
}

impl Counts {
    pub(in crate::storage) fn total(&self) -> Usage {
        self.base.plus(self.change.0, self.change.1)
    }
}

/// What the file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct Record {
    pub(in crate::storage) usage: Usage,
    /// Changes under way: other than zero when nobody runs, somebody died and left the counts inexact.
    pub(in crate::storage) open: u64,
    /// Grows with each change that is over.
    pub(in crate::storage) turn: u32,
    /// Somebody has changed something since and has not ended in order: the same.
    pub(in crate::storage) dirty: bool,
}

/// What is done when the file is read and written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum Step {
    /// Nothing else.
    Looks,
    /// From now on something is being changed.
    Begins,
    /// It is over, and counted.
    Ends,
}

const DIRTY: &str = "dirty";

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
                real: OnceLock::new(),
                guarded: AtomicBool::new(false),
                counts: Mutex::default(),
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

    /// The counts' file, locked.
    fn file(&self) -> Result<Flock<File>, Errno> {
        let root = self.root()?.again()?;
        let file = File::from(open_state(&root, b"quota")?);
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)
    }

    /// Puts what has changed into the file and takes up what others have put there. Counts the area where nobody has.
    pub(in crate::storage) fn sync(&self, counts: &mut Counts, step: Step) -> Result<(), Errno> {
        let file = self.file()?;
        let mut record = match read(&file) {
            Some(record) => record,
            None => {
                // What has changed is in what is counted.
                counts.change = (0, 0);
                Record {
                    usage: self.count()?,
                    ..Record::default()
                }
            }
        };
        record.usage = record.usage.plus(counts.change.0, counts.change.1);
        match step {
            Step::Looks => {}
            Step::Begins => record.open += 1,
            Step::Ends => {
                record.open = record.open.saturating_sub(1);
                record.turn = record.turn.wrapping_add(1);
            }
        }
        record.dirty |= counts.marked;
        write(&file, record)?;
        *counts = Counts {
            base: record.usage,
            change: (0, 0),
            known: true,
            marked: counts.marked,
        };
        Ok(())
    }

    /// Puts what was counted in the place of what the file says. False when something has changed since it said `before`, or
    /// is being changed: it may be in what was counted, or not.
    fn replace(&self, before: Record, usage: Usage) -> Result<bool, Errno> {
        let mut counts = locked(&self.counts);
        let file = self.file()?;
        let now = read(&file).unwrap_or(before);
        if (now.open, now.turn) != (0, before.turn) {
            return Ok(false);
        }
        write(&file, Record { usage, ..now })?;
        counts.base = usage;
        counts.known = true;
        Ok(true)
    }

    /// To be done before anything changes: what is counted in memory goes with the process.
    pub(in crate::storage) fn mark(&self) -> Result<(), Errno> {
        let mut counts = locked(&self.counts);
        if !counts.marked {
            counts.marked = true;
            let marked = self
                .sync(&mut counts, Step::Looks)
                .and_then(|()| flush(&*self.file()?));
            counts.marked = marked.is_ok();
            marked?;
        }
        Ok(())
    }

    /// The end of all changes by this process, unless some go on.
    fn close(self: &Arc<Self>) -> Result<(), Errno> {
        let mut counts = locked(&self.counts);
        // One is here, one in the list of all.
        if !counts.marked || Arc::strong_count(self) > 2 {
            return Ok(());
        }
        counts.marked = false;
        self.sync(&mut counts, Step::Looks)?;
        let file = self.file()?;
        match read(&file) {
            Some(record) if record.open == 0 => {
                // On the disk before it says that it can be trusted.
                flush(&file)?;
                let dirty = false;
                write(&file, Record { dirty, ..record })?;
                flush(&file)
            }
            _ => Ok(()),
        }
    }

    pub(in crate::storage) fn settle(&self, step: Step) {
        let mut counts = locked(&self.counts);
        if let Err(errno) = self.sync(&mut counts, step) {
            self.warn(errno);
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
    written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

fn flush(file: &File) -> Result<(), Errno> {
    durable::contents(Order::of(file.as_fd()), file)
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
    let enter = |path: &[u8]| path.rsplit(|&byte| byte == b'/').next() != Some(STATE);
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
    let fail = |errno| Error::from_errno(errno, path.as_os_str().as_encoded_bytes());
    let area = Area::at(path);
    for _ in 0..LOOKS {
        let before = read(&*area.file().map_err(fail)?).unwrap_or_default();
        if before.open == 0 {
            let counted = area.count().map_err(fail)?;
            if area.replace(before, counted).map_err(fail)? {
                return Ok(counted);
            }
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Err(fail(Errno::EBUSY))
}

/// How often a rescan looks whether changes are over.
const LOOKS: u32 = 25;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// To be called once when the server starts and nothing is under way: of these areas those in which a server died, and whose
/// counts are what it said last. They are to be [counted anew](rescan).
pub fn left_by_the_dead<'a>(areas: impl IntoIterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    let died = |path: &&PathBuf| {
        let Ok(file) = Area::at(path).file() else {
            return false;
        };
        let Some(record) = read(&file).filter(|record| record.open > 0 || record.dirty) else {
            return false;
        };
        // Nobody who changes something has begun yet. Should this server die as well, it is counted anew behind that.
        let (open, dirty) = (0, true);
        let settled = Record {
            open,
            dirty,
            ..record
        };
        if let Err(errno) = write(&file, settled) {
            Area::at(path).warn(errno);
        }
        true
    };
    areas.into_iter().filter(died).cloned().collect()
}

/// To be called when the server ends in order, for each of these.
pub fn close<'a>(areas: impl IntoIterator<Item = &'a PathBuf>) {
    for path in areas {
        if let Err(errno) = Area::at(path).close() {
            log::warn!(
                "{}: what is stored there will be counted anew: {} (setting: quota)",
                path.display(),
                errno.desc()
            );
        }
    }
}

/// What a user has stored, as it is counted now.
///
/// # Errors
/// When an area cannot be read.
pub fn usage(areas: &[PathBuf]) -> Result<Usage, Error> {
    let mut total = Usage::default();
    for path in areas {
        let area = Area::at(path);
        let mut counts = locked(&area.counts);
        area.sync(&mut counts, Step::Looks)
            .map_err(|errno| Error::from_errno(errno, path.as_os_str().as_encoded_bytes()))?;
        let Usage { bytes, files } = counts.total();
        total.bytes = total.bytes.saturating_add(bytes);
        total.files = total.files.saturating_add(files);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_others_did_is_found_by_a_rescan_and_after_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let areas = [path.clone()];
        assert_eq!(usage(&areas).unwrap(), Usage::default());
        fs::write(path.join("file"), "123").unwrap();
        assert_eq!(usage(&areas).unwrap().bytes, 0);
        assert_eq!(rescan(&path).unwrap().bytes, 3);
        assert_eq!(usage(&areas).unwrap(), Usage { bytes: 3, files: 1 });
        let died = Record {
            usage: Usage { bytes: 9, files: 9 },
            ..Record::default()
        };
        for (open, dirty, bytes) in [(1, false, 3), (0, true, 3), (0, false, 9)] {
            let died = Record {
                open,
                dirty,
                ..died
            };
            fs::write(path.join(".thriftpd/quota"), died.text()).unwrap();
            for path in left_by_the_dead(&areas) {
                assert_eq!(usage(&areas).unwrap().bytes, 9, "meanwhile");
                rescan(&path).unwrap();
            }
            assert_eq!(usage(&areas).unwrap().bytes, bytes);
        }
    }

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
