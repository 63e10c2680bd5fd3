//! Who writes to a file. What this process writes to is known in the process, by device and inode: not every file system has
//! locks (NFSv3 without lockd, some FUSE ones). For other processes the whole file is locked (fcntl(2), open file description
//! locks), where that is possible.
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::stat::{FileStat, fstat};

/// Device and inode.
type Key = (u64, u64);

static WRITTEN: Mutex<BTreeMap<Key, ()>> = Mutex::new(BTreeMap::new());
static RELEASED: Condvar = Condvar::new();

fn written() -> MutexGuard<'static, BTreeMap<Key, ()>> {
    WRITTEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that nobody else writes to while this lives.
#[derive(Debug)]
pub struct Claimed {
    file: File,
    key: Key,
}

impl Claimed {
    /// None: somebody else writes to it.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn new(file: File) -> Result<Option<Self>, Errno> {
        let stat = fstat(&file)?;
        let key = (stat.st_dev, stat.st_ino);
        let mut written = written();
        if written.contains_key(&key) {
            return Ok(None);
        }
        written.insert(key, ());
        drop(written);
        let claimed = Self { file, key };
        let locked = fcntl(&claimed.file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK)));
        let by_another = matches!(locked, Err(Errno::EAGAIN | Errno::EACCES));
        Ok((!by_another).then_some(claimed))
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
        // Before the next writer is let in, who would find it locked; the descriptor is closed only behind this.
        let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK)));
        written().remove(&self.key);
        RELEASED.notify_all();
    }
}

/// Whether anybody writes to the file, in this process or another.
pub fn is_written_to(file: BorrowedFd<'_>, stat: &FileStat) -> bool {
    if written().contains_key(&(stat.st_dev, stat.st_ino)) {
        return true;
    }
    let mut found = whole(libc::F_RDLCK);
    let looked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut found));
    looked.is_ok() && i32::from(found.l_type) != libc::F_UNLCK
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
        let claimed = Claimed::new(file).unwrap();
        assert!(claimed.is_some() && is_written());
        assert!(Claimed::new(open()).unwrap().is_none());
        drop(claimed);
        assert!(!is_written());
        assert!(Claimed::new(open()).unwrap().is_some());
    }
}
