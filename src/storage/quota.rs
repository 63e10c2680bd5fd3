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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, readlink};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

use super::durable::{self, Order};
use super::error::{Error, ErrorKind};
use super::metadata::{Kind, acts_as_root, kind};
use super::reserved::STATE;
use super::root::Root;
use super::rules::Quota;
use super::walk::{Missed, walk_all};

/// Bytes and files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub files: u64,
}

impl Usage {
    fn plus(self, bytes: i64, files: i64) -> Self {
        Self {
            bytes: self.bytes.saturating_add_signed(bytes),
            files: self.files.saturating_add_signed(files),
        }
    }
}

/// A counted directory.
#[derive(Debug)]
pub struct Area {
    path: PathBuf,
    /// The same without links, once it is there.
    real: OnceLock<PathBuf>,
    /// Nothing is written there while no file system is mounted at it.
    guarded: AtomicBool,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// As the file said last.
    base: Usage,
    /// What has changed since, in bytes and files.
    change: (i64, i64),
    known: bool,
    /// This process has said in the file that the counts are not to be trusted if it dies.
    marked: bool,
}

impl Counts {
    fn total(&self) -> Usage {
        self.base.plus(self.change.0, self.change.1)
    }
}

/// What the file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    usage: Usage,
    /// Uploads under way: other than zero when nobody runs, somebody died and left the counts inexact.
    open: u64,
    /// Somebody has changed something since and has not ended in order: the same.
    dirty: bool,
}

const DIRTY: &str = "dirty";

/// Bytes of the file.
const RECORD: usize = 64;

impl Record {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut words = text.strip_suffix('\n')?.split_whitespace();
        let mut number = |name: &str| words.next()?.strip_prefix(name)?.parse().ok();
        let usage = Usage {
            bytes: number("bytes=")?,
            files: number("files=")?,
        };
        let open = number("open=")?;
        let dirty = words.next() == Some(DIRTY);
        Some(Self { usage, open, dirty })
    }

    pub(super) fn text(self) -> String {
        let Usage { bytes, files } = self.usage;
        let mut line = format!("bytes={bytes} files={files} open={}", self.open);
        if self.dirty {
            line = format!("{line} {DIRTY}");
        }
        format!("{line:<width$}\n", width = RECORD - 1)
    }
}

/// Sizes of files are below 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// All areas that this process knows, by their paths.
static AREAS: Mutex<BTreeMap<PathBuf, Arc<Area>>> = Mutex::new(BTreeMap::new());

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Area {
    fn at(path: &Path) -> Arc<Self> {
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
    fn holds(&self, directory: &Path) -> bool {
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
    fn sync(&self, counts: &mut Counts, opened: i64) -> Result<(), Errno> {
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
        record.open = record.open.saturating_add_signed(opened);
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

    /// Puts what was counted in the place of what the file says, and what has changed since it said `before` on top. None while
    /// an upload is under way.
    fn replace(&self, before: Record, counted: Usage) -> Result<Option<Usage>, Errno> {
        let mut counts = locked(&self.counts);
        let file = self.file()?;
        let now = read(&file).unwrap_or(before);
        if now.open > 0 {
            return Ok(None);
        }
        let grown = |now: u64, before: u64| signed(now).wrapping_sub(signed(before));
        let usage = counted.plus(
            grown(now.usage.bytes, before.usage.bytes),
            grown(now.usage.files, before.usage.files),
        );
        write(&file, Record { usage, ..now })?;
        counts.base = usage;
        counts.known = true;
        Ok(Some(usage))
    }

    /// To be done before anything changes: what is counted in memory goes with the process.
    fn mark(&self) -> Result<(), Errno> {
        let mut counts = locked(&self.counts);
        if !counts.marked {
            counts.marked = true;
            let marked = self
                .sync(&mut counts, 0)
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
        self.sync(&mut counts, 0)?;
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

    fn settle(&self, opened: i64) {
        let mut counts = locked(&self.counts);
        if let Err(errno) = self.sync(&mut counts, opened) {
            self.warn(errno);
        }
    }

    fn warn(&self, errno: Errno) {
        log::warn!(
            "{}: what is stored there cannot be counted: {}: the server's user must be able to make .thriftpd in it and to write there (setting: quota)",
            self.path.display(),
            errno.desc()
        );
    }
}

/// Nothing can lie where nothing is, or no disk.
fn is_away(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ENOMEDIUM)
}

/// Opens a file of the server's own in the root, which it creates.
///
/// # Errors
/// Those of openat(2); nothing is followed.
pub fn open_state(root: &Root, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY;
    let directory = root.open_below(STATE, flags, Mode::empty());
    let directory = match directory {
        Err(Errno::ENOENT) => {
            let place = root.place(STATE)?;
            match mkdirat(&place.directory, place.name.as_slice(), Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            let made = root.open_below(STATE, flags, Mode::empty())?;
            belong_to_owner_of(&made, &fstat(&place.directory)?);
            made
        }
        other => other?,
    };
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    belong_to_owner_of(&file, &fstat(&directory)?);
    Ok(file)
}

/// What root makes on the command line is for the server, which is somebody else: the one who has the directory.
fn belong_to_owner_of(file: &OwnedFd, directory: &FileStat) {
    let is_other = fstat(file).is_ok_and(|stat| stat.st_uid != directory.st_uid);
    if acts_as_root() && is_other {
        let (uid, gid) = (
            Uid::from_raw(directory.st_uid),
            Gid::from_raw(directory.st_gid),
        );
        // Where that cannot be (vfat), everybody may do everything.
        let _ = fchown(file, Some(uid), Some(gid));
    }
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

/// Counts an area anew. Exact where nothing changes meanwhile; what does is counted on top. Waits a while for uploads under way,
/// of which some is in the directory and not in the counts yet: it would be counted twice.
///
/// # Errors
/// `Busy` while an upload goes on; when the directory cannot be read or the counts not be written.
pub fn rescan(path: &Path) -> Result<Usage, Error> {
    let fail = |errno| Error::from_errno(errno, path.as_os_str().as_encoded_bytes());
    let area = Area::at(path);
    for _ in 0..LOOKS {
        let before = read(&*area.file().map_err(fail)?).unwrap_or_default();
        if before.open == 0 {
            let counted = area.count().map_err(fail)?;
            if let Some(usage) = area.replace(before, counted).map_err(fail)? {
                return Ok(usage);
            }
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Err(fail(Errno::EBUSY))
}

/// How often a rescan looks whether uploads are over.
const LOOKS: u32 = 25;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// To be called once when the server starts and nothing is under way: counts those areas anew in which a server died.
pub fn recover<'a>(areas: impl IntoIterator<Item = &'a PathBuf>) {
    for path in areas {
        let area = Area::at(path);
        let Ok(file) = area.file() else { continue };
        let Some(record) = read(&file).filter(|record| record.open > 0 || record.dirty) else {
            continue;
        };
        log::info!(
            "{}: counting what is stored, for the last server did not end in order",
            path.display()
        );
        let counted = area.count().map(|usage| Record {
            usage,
            ..Record::default()
        });
        let written = counted.and_then(|record| write(&file, record));
        if let Err(errno) = written {
            log::warn!(
                "{}: {} bytes are said to be stored, which may be wrong: {}",
                path.display(),
                record.usage.bytes,
                errno.desc()
            );
        }
    }
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
        area.sync(&mut counts, 0)
            .map_err(|errno| Error::from_errno(errno, path.as_os_str().as_encoded_bytes()))?;
        let Usage { bytes, files } = counts.total();
        total.bytes = total.bytes.saturating_add(bytes);
        total.files = total.files.saturating_add(files);
    }
    Ok(total)
}

/// One user's limit, the areas that count for it, and all that are counted for anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metered {
    pub limit: Quota,
    /// Of the user; none lies in another.
    pub own: Vec<PathBuf>,
    /// Of all users; a change is counted in each that it lies in.
    pub counted: Arc<[PathBuf]>,
}

impl Metered {
    /// The meter of a directory; None where nobody counts.
    pub fn meter(&self, directory: BorrowedFd<'_>) -> Option<Meter> {
        if self.counted.is_empty() {
            return None;
        }
        let here = readlink(format!("/proc/self/fd/{}", raw(directory)).as_str());
        let here = PathBuf::from(here.ok()?);
        let counted = self.counted.iter().map(|path| Area::at(path));
        let counted: Vec<Arc<Area>> = counted.filter(|area| area.holds(&here)).collect();
        if counted.is_empty() {
            return None;
        }
        for area in &counted {
            // Where it cannot be, the log says so when the counts cannot be written either.
            let _ = area.mark();
        }
        let own: Vec<Arc<Area>> = self.own.iter().map(|path| Area::at(path)).collect();
        let limited = own.iter().any(|area| area.holds(&here));
        Some(Meter {
            counted,
            own,
            limit: if limited {
                self.limit
            } else {
                Quota::default()
            },
            open: false,
        })
    }

    /// What the user may still store, in bytes; None without a limit.
    ///
    /// # Errors
    /// When an area cannot be read.
    pub fn left(&self) -> Result<Option<u64>, Error> {
        match self.limit.bytes {
            Some(limit) => Ok(Some(limit.saturating_sub(usage(&self.own)?.bytes))),
            None => Ok(None),
        }
    }
}

fn raw(fd: BorrowedFd<'_>) -> i32 {
    use std::os::fd::AsRawFd as _;
    fd.as_fd().as_raw_fd()
}

/// Counts what happens in one directory.
#[derive(Debug)]
pub struct Meter {
    counted: Vec<Arc<Area>>,
    own: Vec<Arc<Area>>,
    limit: Quota,
    open: bool,
}

impl Meter {
    /// An upload begins: the counts are not exact until the meter is dropped.
    pub fn begin(&mut self) {
        self.settle(1);
        self.open = true;
    }

    /// Counts bytes and files that come to be, unless that is more than the user may have. What is going to be replaced in
    /// the end does not count: `credit`, in bytes and files.
    ///
    /// # Errors
    /// `OverQuota`; `Io` where there is a limit and nobody knows what is stored, as the log says then.
    pub fn grow(&self, bytes: u64, files: u64, credit: (u64, u64)) -> Result<(), ErrorKind> {
        let mut areas: Vec<&Arc<Area>> = self.own.iter().chain(&self.counted).collect();
        // Always in one order, so that nobody waits for one who waits for them.
        areas.sort_by(|one, other| one.path.cmp(&other.path));
        areas.dedup_by(|one, other| one.path == other.path);
        let mut held: Vec<(&Area, MutexGuard<'_, Counts>)> = areas
            .into_iter()
            .map(|area| (&**area, locked(&area.counts)))
            .collect();
        for (area, counts) in &mut held {
            if counts.known {
                continue;
            }
            let own = self.own.iter().any(|own| own.path == area.path);
            match area.sync(counts, 0) {
                Err(errno) if own && self.limit.is_limited() && !is_away(errno) => {
                    area.warn(errno);
                    return Err(ErrorKind::Io);
                }
                _ => {}
            }
        }
        let mut used = Usage::default();
        for (_, counts) in held
            .iter()
            .filter(|(area, _)| self.own.iter().any(|own| own.path == area.path))
        {
            used.bytes = used.bytes.saturating_add(counts.total().bytes);
            used.files = used.files.saturating_add(counts.total().files);
        }
        let after =
            |used: u64, more: u64, credit: u64| used.saturating_add(more) - credit.min(used);
        let over = |limit: Option<u64>, after: u64, more: u64| {
            more > 0 && limit.is_some_and(|limit| after > limit)
        };
        if over(self.limit.bytes, after(used.bytes, bytes, credit.0), bytes)
            || over(self.limit.files, after(used.files, files, credit.1), files)
        {
            return Err(ErrorKind::OverQuota {
                used,
                limit: self.limit,
            });
        }
        let counted = |area: &Area| self.counted.iter().any(|here| here.path == area.path);
        for (_, counts) in held.iter_mut().filter(|(area, _)| counted(area)) {
            counts.change.0 += signed(bytes);
            counts.change.1 += signed(files);
        }
        Ok(())
    }

    /// Whether all that is counted fits once `replaced` bytes and files are gone.
    ///
    /// # Errors
    /// `OverQuota`.
    pub fn fits(&self, replaced: (u64, u64)) -> Result<(), ErrorKind> {
        let totals = self.own.iter().map(|area| locked(&area.counts).total());
        let used = totals.fold(Usage::default(), |sum, one| Usage {
            bytes: sum.bytes.saturating_add(one.bytes),
            files: sum.files.saturating_add(one.files),
        });
        let over = |limit: Option<u64>, used: u64, replaced: u64| {
            limit.is_some_and(|limit| used.saturating_sub(replaced) > limit)
        };
        if over(self.limit.bytes, used.bytes, replaced.0)
            || over(self.limit.files, used.files, replaced.1)
        {
            return Err(ErrorKind::OverQuota {
                used,
                limit: self.limit,
            });
        }
        Ok(())
    }

    /// Whether both count in the same areas.
    pub fn counts_as(&self, other: &Self) -> bool {
        let paths = |meter: &Self| -> Vec<PathBuf> {
            meter.counted.iter().map(|area| area.path.clone()).collect()
        };
        paths(self) == paths(other)
    }

    /// Counts what is there that nobody was asked about.
    pub fn came(&self, bytes: u64, files: u64) {
        self.change(signed(bytes), signed(files));
    }

    /// Counts what is there no longer.
    pub fn went(&self, bytes: u64, files: u64) {
        self.change(-signed(bytes), -signed(files));
    }

    fn change(&self, bytes: i64, files: i64) {
        for area in &self.counted {
            let mut counts = locked(&area.counts);
            counts.change.0 += bytes;
            counts.change.1 += files;
        }
    }

    /// Writes the counts down.
    pub fn settle(&self, opened: i64) {
        for area in &self.counted {
            area.settle(opened);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.settle(if self.open { -1 } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn metered(path: &Path, bytes: u64, files: u64) -> Metered {
        Metered {
            limit: Quota {
                bytes: Some(bytes),
                files: Some(files),
            },
            own: vec![path.to_owned()],
            counted: [path.to_owned()].into(),
        }
    }

    #[test]
    fn what_is_there_is_counted_first_and_what_comes_as_it_comes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        fs::create_dir(path.join("sub")).unwrap();
        fs::write(path.join("sub/file"), "12345").unwrap();
        let metered = metered(&path, 10, 3);
        let fd = File::open(&path).unwrap();
        let mut meter = metered.meter(fd.as_fd()).unwrap();
        meter.begin();
        meter.grow(5, 1, (0, 0)).unwrap();
        assert_eq!(metered.left().unwrap(), Some(0));
        let over = meter.grow(1, 0, (0, 0)).unwrap_err();
        assert!(matches!(over, ErrorKind::OverQuota { used, .. } if used.bytes == 10));
        meter.grow(1, 0, (5, 1)).unwrap();
        assert!(meter.grow(0, 2, (0, 0)).is_err());
        meter.went(6, 1);
        drop(meter);
        let kept = fs::read(path.join(".thriftpd/quota")).unwrap();
        let five = Usage { bytes: 5, files: 1 };
        let record = Record {
            usage: five,
            open: 0,
            dirty: true,
        };
        assert_eq!(Record::parse(&kept), Some(record));
        assert_eq!(usage(std::slice::from_ref(&path)).unwrap(), five);
    }

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
            recover(&areas);
            assert_eq!(usage(&areas).unwrap().bytes, bytes);
        }
    }

    #[test]
    fn counts_are_trusted_again_when_all_changes_are_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let fd = File::open(&path).unwrap();
        let is_dirty = || {
            let kept = fs::read(path.join(".thriftpd/quota")).unwrap();
            Record::parse(&kept).unwrap().dirty
        };
        let meter = metered(&path, 10, 3).meter(fd.as_fd()).unwrap();
        assert!(is_dirty(), "before anything has changed");
        close([&path]);
        assert!(is_dirty(), "a change may be under way");
        drop(meter);
        close([&path]);
        assert!(!is_dirty());
        drop(metered(&path, 10, 3).meter(fd.as_fd()));
        assert!(is_dirty());
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
            "bytes=-1 files=2 open=0\n",
            "bytes=1 files=2 open=0",
        ] {
            assert_eq!(Record::parse(text.as_bytes()), None, "{text}");
        }
    }
}
