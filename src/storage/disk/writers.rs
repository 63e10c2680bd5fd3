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
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::stat::{FileStat, fstat};

use crate::storage::disk::metadata::size_of;
use crate::storage::disk::names;

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

/// What is told how many bytes are gone.
type Count = Box<dyn FnOnce(u64) + Send>;

struct Writer {
    holder: Option<Holder>,
    progress: Progress,
    /// Names that the file has lost, and what counts that.
    lost: Vec<(Doomed, Count)>,
}

/// When a writer last moved something, in milliseconds of [`clock`].
type Progress = Arc<AtomicU64>;

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
pub struct Reserved(Key, Progress);

impl Reserved {
    /// None: somebody writes to it.
    pub fn new(stat: &FileStat, holder: Option<&Holder>) -> Option<Self> {
        let progress = Arc::new(AtomicU64::new(clock()));
        let mut written = written();
        if written.contains_key(&key(stat)) {
            return None;
        }
        let writer = Writer {
            holder: holder.cloned(),
            progress: Arc::clone(&progress),
            lost: Vec::new(),
        };
        written.insert(key(stat), writer);
        Some(Self(key(stat), progress))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let writer = written().remove(&self.0);
        // To wake nobody costs a system call as well.
        if WAITING.load(Ordering::SeqCst) > 0 {
            RELEASED.notify_all();
        }
        for (doomed, count) in writer.into_iter().flat_map(|writer| writer.lost) {
            count(doomed.size());
        }
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
        let Some(reserved) = Reserved::new(&fstat(&file)?, holder) else {
            return Ok(None);
        };
        // Looked at only now: the writer before may have been at it until just now.
        let stat = fstat(&file)?;
        if stat.st_nlink == 0 {
            return Ok(None);
        }
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
        self.reserved.1.store(clock(), Ordering::Relaxed);
    }

    /// From now on the writer is not ended for another.
    pub fn settle(&self) {
        self.reserved.1.store(NEVER, Ordering::Relaxed);
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
pub struct Doomed(File);

impl Doomed {
    /// # Errors
    /// Those of openat(2); nothing is followed.
    pub fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Self, Errno> {
        names::open(directory, name, OFlag::O_PATH).map(Self)
    }

    /// To be called when the name is gone: tells `count` how many bytes are gone with it. That is now, or when nobody writes to the
    /// file any more, who may make it longer still.
    pub fn gone(self, count: impl FnOnce(u64) + Send + 'static) {
        let Ok(stat) = fstat(&self.0) else { return };
        {
            let mut written = written();
            if let Some(writer) = written.get_mut(&key(&stat)) {
                return writer.lost.push((self, Box::new(count)));
            }
        }
        // A writer may have made it longer until just now.
        count(self.size());
    }

    fn size(&self) -> u64 {
        fstat(&self.0).as_ref().map_or(0, size_of)
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
        let moved = writer.progress.load(Ordering::Relaxed);
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
    fn what_is_gone_is_counted_when_nobody_writes_to_it_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let top = File::open(directory.path()).unwrap();
        let counted = Arc::new(Mutex::new(Vec::new()));
        let remove = || {
            let doomed = Doomed::open(top.as_fd(), b"file").unwrap();
            std::fs::remove_file(&path).unwrap();
            let counted = Arc::clone(&counted);
            doomed.gone(move |size| counted.lock().unwrap().push(size));
        };
        let made = || {
            std::fs::write(&path, "12345").unwrap();
            File::options().write(true).open(&path).unwrap()
        };
        made();
        remove();
        assert_eq!(*counted.lock().unwrap(), [5], "nobody writes to it");

        let writer = Claimed::new(made(), None).unwrap().unwrap();
        remove();
        assert_eq!(counted.lock().unwrap().len(), 1);
        writer.set_len(7).unwrap();
        drop(writer);
        assert_eq!(*counted.lock().unwrap(), [5, 7]);

        // One that has opened it, and finds only then that the name is gone.
        let file = made();
        let late = Reserved::new(&fstat(&file).unwrap(), None);
        remove();
        assert_eq!(counted.lock().unwrap().len(), 2);
        drop(late);
        assert!(Claimed::new(file, None).unwrap().is_none());
        assert_eq!(*counted.lock().unwrap(), [5, 7, 5]);
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
        let set = |time: u64| progress.store(time, Ordering::Relaxed);
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
