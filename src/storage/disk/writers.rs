//! Who writes to a file. What this process writes to is known in the process, by device and inode: not every file system has
//! locks (NFSv3 without lockd, some FUSE ones). For other processes the whole file is locked (fcntl(2), open file description
//! locks), where that is possible.
//!
//! A writer whose client has vanished from the network holds its file until a time-out ends the session. So the same account
//! may have it ended when it has moved nothing for [`QUIET`].
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat};

use crate::storage::disk::metadata::size_of;

/// How long a writer must have moved nothing before another session of its account may have it ended.
const QUIET: Duration = Duration::from_secs(10);

/// How long an ended writer is waited for.
const GIVES_WAY: Duration = Duration::from_secs(5);

/// The session behind the uploads of a view: whose it is, and how it is ended. What a session is, is the front end's business.
#[derive(Clone)]
pub struct Holder {
    account: Arc<str>,
    end: Arc<dyn Fn() + Send + Sync>,
}

impl Holder {
    /// `end` returns at once; the session ends soon after, and what it held is given up then.
    pub fn new(account: &str, end: Arc<dyn Fn() + Send + Sync>) -> Self {
        let account = account.into();
        Self { account, end }
    }

    /// Only the same account may go on with what the session has left, or take it over.
    pub fn account(&self) -> &str {
        &self.account
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Holder").field(&self.account).finish()
    }
}

/// Device and inode.
type Key = (u64, u64);

fn key(stat: &FileStat) -> Key {
    (stat.st_dev, stat.st_ino)
}

struct Writer {
    holder: Option<Holder>,
    progress: Arc<Progress>,
    /// The writer has found that the file has a name still. Until then it may turn out not to be one.
    is_sure: bool,
    /// The file has lost its name, and only its writer knows still how much of it is counted.
    is_left: bool,
    /// The writer has looked for that.
    has_looked: bool,
}

/// When a writer last moved something, in milliseconds of [`clock`].
#[derive(Debug)]
struct Progress(AtomicU64);

/// Of a writer that is not to be disturbed any more.
const NEVER: u64 = u64::MAX;

/// Milliseconds that pass whatever is done to the time of day. They begin with an hour, so that there is a past.
fn clock() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let passed = START.get_or_init(Instant::now).elapsed() + Duration::from_secs(3600);
    u64::try_from(passed.as_millis()).unwrap_or(NEVER - 1)
}

static WRITTEN: Mutex<BTreeMap<Key, Writer>> = Mutex::new(BTreeMap::new());
/// Threads that wait for a release.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static RELEASED: Condvar = Condvar::new();

fn written() -> MutexGuard<'static, BTreeMap<Key, Writer>> {
    WRITTEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps everybody in this process from writing to a file, which need not be open.
#[derive(Debug)]
pub struct Reserved(Key, Arc<Progress>);

impl Reserved {
    /// None: somebody writes to it.
    pub fn new(stat: &FileStat, holder: Option<&Holder>) -> Option<Self> {
        Self::insert(stat, holder, true)
    }

    fn insert(stat: &FileStat, holder: Option<&Holder>, is_sure: bool) -> Option<Self> {
        let progress = Arc::new(Progress(AtomicU64::new(clock())));
        let mut written = written();
        if written.contains_key(&key(stat)) {
            return None;
        }
        let writer = Writer {
            holder: holder.cloned(),
            progress: Arc::clone(&progress),
            is_sure,
            is_left: false,
            has_looked: false,
        };
        written.insert(key(stat), writer);
        Some(Self(key(stat), progress))
    }

    fn is_sure(&self) {
        if let Some(writer) = written().get_mut(&self.0) {
            writer.is_sure = true;
        }
        wake();
    }
}

/// To wake nobody costs a system call as well.
fn wake() {
    if WAITING.load(Ordering::SeqCst) > 0 {
        RELEASED.notify_all();
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        written().remove(&self.0);
        wake();
    }
}

/// An open file that nobody else writes to while this lives.
#[derive(Debug)]
pub struct Claimed {
    // Given up before the file is closed: its inode may be another file's then.
    reserved: Reserved,
    file: File,
    /// As it was when it was claimed.
    pub stat: FileStat,
}

impl Claimed {
    /// None: somebody else writes to it, or it has lost its name since it was opened.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn new(file: File, holder: Option<&Holder>) -> Result<Option<Self>, Errno> {
        let Some(reserved) = Reserved::insert(&fstat(&file)?, holder, false) else {
            return Ok(None);
        };
        // Looked at only now: the writer before may have been at it until just now.
        let stat = fstat(&file)?;
        if stat.st_nlink == 0 {
            return Ok(None);
        }
        reserved.is_sure();
        let locked = fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK)));
        let by_another = matches!(locked, Err(Errno::EAGAIN | Errno::EACCES));
        Ok((!by_another).then_some(Self {
            file,
            stat,
            reserved,
        }))
    }

    /// To be told whenever something was moved.
    pub fn moved(&self) {
        self.reserved.1.0.store(clock(), Ordering::Relaxed);
    }

    /// Whether the file was [left to its writer](Doomed::gone). From now on it is not.
    pub fn is_left(&self) -> bool {
        let mut written = written();
        let writer = written.get_mut(&self.reserved.0);
        writer.is_some_and(|writer| {
            writer.has_looked = true;
            writer.is_left
        })
    }

    /// From now on the writer is not ended for another.
    pub fn settle(&self) {
        self.reserved.1.0.store(NEVER, Ordering::Relaxed);
    }
}

impl Deref for Claimed {
    type Target = File;
    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // The next writer must not find it locked.
        let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK)));
    }
}

/// Whether anybody in this process writes to the file.
pub fn is_written_here(stat: &FileStat) -> bool {
    written().contains_key(&key(stat))
}

/// Whether anybody writes to the file, in this process or another.
pub fn is_written_to(file: BorrowedFd<'_>, stat: &FileStat) -> bool {
    if is_written_here(stat) {
        return true;
    }
    let mut found = whole(libc::F_RDLCK);
    let looked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut found));
    looked.is_ok() && i32::from(found.l_type) != libc::F_UNLCK
}

/// A file that is about to lose a name.
#[derive(Debug)]
pub struct Doomed(OwnedFd);

impl Doomed {
    /// # Errors
    /// Those of openat(2); nothing is followed.
    pub fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(directory, name, flags, Mode::empty()).map(Self)
    }

    /// To be called when the name is gone: how many bytes are gone with it. None where that was the last name and somebody
    /// writes to the file, who may make it longer still: the writer counts it as gone in the end.
    pub fn gone(self) -> Option<u64> {
        let stat = fstat(&self.0).ok()?;
        if stat.st_nlink > 0 {
            return Some(size_of(&stat));
        }
        let unsure = |written: &mut BTreeMap<Key, Writer>| {
            let writer = written.get(&key(&stat));
            writer.is_some_and(|writer| !writer.is_sure)
        };
        WAITING.fetch_add(1, Ordering::SeqCst);
        let waited = RELEASED.wait_while(written(), unsure);
        WAITING.fetch_sub(1, Ordering::SeqCst);
        let mut written = waited.unwrap_or_else(PoisonError::into_inner);
        let writer = written.get_mut(&key(&stat));
        if let Some(writer) = writer.filter(|writer| !writer.has_looked) {
            writer.is_left = true;
            return None;
        }
        drop(written);
        // A writer may have made it longer until just now.
        fstat(&self.0).ok().as_ref().map(size_of)
    }
}

/// Has the session end that writes to the file, where it is one of the same account that has moved nothing for a while, and
/// waits until the file is free. False: it is not.
pub fn give_way(stat: &FileStat, account: &str) -> bool {
    let end = {
        let written = written();
        let Some(writer) = written.get(&key(stat)) else {
            return true;
        };
        let moved = writer.progress.0.load(Ordering::Relaxed);
        let is_quiet = moved.saturating_add(QUIET.as_millis() as u64) <= clock();
        let holder = writer.holder.as_ref();
        match holder.filter(|holder| is_quiet && *holder.account == *account) {
            Some(holder) => Arc::clone(&holder.end),
            None => return false,
        }
    };
    end();
    WAITING.fetch_add(1, Ordering::SeqCst);
    let waited = RELEASED.wait_timeout_while(written(), GIVES_WAY, |written| {
        written.contains_key(&key(stat))
    });
    WAITING.fetch_sub(1, Ordering::SeqCst);
    !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
}

/// A lock of the whole file (fcntl(2), open file description locks).
fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_file_has_one_writer_by_whatever_name_it_was_opened() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        let file = File::create(&one).unwrap();
        std::fs::hard_link(&one, &other).unwrap();
        let open = || File::options().write(true).open(&other).unwrap();
        let looked = open();
        let is_written = || is_written_to(looked.as_fd(), &fstat(&looked).unwrap());
        assert!(!is_written());
        let claimed = Claimed::new(file, None).unwrap();
        assert!(claimed.is_some() && is_written());
        assert!(Claimed::new(open(), None).unwrap().is_none());
        drop(claimed);
        assert!(!is_written());
        assert!(Claimed::new(open(), None).unwrap().is_some());
    }

    #[test]
    fn what_is_gone_is_told_once_by_who_takes_the_name_or_by_the_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let top = File::open(directory.path()).unwrap();
        let made = || {
            std::fs::write(&path, "12345").unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            let doomed = Doomed::open(top.as_fd(), b"file").unwrap();
            (file, doomed)
        };
        let remove = || std::fs::remove_file(&path).unwrap();

        let (_file, doomed) = made();
        remove();
        assert_eq!(doomed.gone(), Some(5), "nobody writes to it");

        let (file, doomed) = made();
        let writer = Claimed::new(file, None).unwrap().unwrap();
        remove();
        assert_eq!(doomed.gone(), None);
        assert!(writer.is_left());

        let (file, doomed) = made();
        let writer = Claimed::new(file, None).unwrap().unwrap();
        assert!(!writer.is_left(), "it ends while it has its name");
        remove();
        assert_eq!(doomed.gone(), Some(5));

        let (file, doomed) = made();
        let other = directory.path().join("other");
        std::fs::hard_link(&path, &other).unwrap();
        let writer = Claimed::new(file, None).unwrap().unwrap();
        remove();
        assert_eq!(doomed.gone(), Some(5), "it goes on under its other name");
        assert!(!writer.is_left());
    }

    #[test]
    fn a_writer_that_comes_too_late_is_left_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let top = File::open(directory.path()).unwrap();
        std::fs::write(&path, "12345").unwrap();
        let file = File::open(&path).unwrap();
        // It has opened the file, and not yet seen that the name is gone.
        let late = Reserved::insert(&fstat(&file).unwrap(), None, false).unwrap();
        let doomed = Doomed::open(top.as_fd(), b"file").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::thread::scope(|scope| {
            let gone = scope.spawn(|| doomed.gone());
            while WAITING.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            drop(late);
            assert_eq!(gone.join().unwrap(), Some(5));
        });
    }

    #[test]
    fn a_quiet_writer_gives_way_to_its_own_account_and_to_nobody_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = fstat(&file).unwrap();
        let ended: Arc<Mutex<Option<Claimed>>> = Arc::default();
        let end = {
            let ended = Arc::clone(&ended);
            Arc::new(move || drop(ended.lock().unwrap().take()))
        };
        let holder = Holder::new("anna", end);
        let claimed = Claimed::new(file.reopen().unwrap(), Some(&holder));
        let claimed = claimed.unwrap().unwrap();
        let progress = Arc::clone(&claimed.reserved.1);
        *ended.lock().unwrap() = Some(claimed);
        assert!(!give_way(&stat, "anna"), "it has just moved something");
        let set = |time: u64| progress.0.store(time, Ordering::Relaxed);
        set(clock() - QUIET.as_millis() as u64);
        ended.lock().unwrap().as_ref().unwrap().settle();
        assert!(!give_way(&stat, "anna"), "it is about to be the file");
        set(clock() - QUIET.as_millis() as u64);
        assert!(!give_way(&stat, "berta"));
        assert!(give_way(&stat, "anna"));
        assert!(give_way(&stat, "anna"), "nobody writes to it now");
        assert!(ended.lock().unwrap().is_none());
    }
}
