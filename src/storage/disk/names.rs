//! Names: what is done to one in its directory, and what holds it while it is looked at and then given or taken away.
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Follows no link, waits for nobody at the other end of a FIFO, and makes no terminal ours.
const CAREFULLY: OFlag = OFlag::O_NOFOLLOW
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// Opens what has the name, whatever it is. A file that is made by it is for the server alone at first.
///
/// # Errors
/// Those of openat(2); nothing is followed.
pub fn open(directory: impl AsFd, name: &[u8], flags: OFlag) -> Result<File, Errno> {
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    openat(directory, name, flags | CAREFULLY, mode).map(File::from)
}

/// Facts of what has the name; of a link itself.
///
/// # Errors
/// Those of fstatat(2).
pub fn stat(directory: impl AsFd, name: &[u8]) -> Result<FileStat, Errno> {
    fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Takes the name of anything but a directory away.
///
/// # Errors
/// Those of unlinkat(2).
pub fn unlink(directory: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)
}

/// Device and inode of a directory, and a name in it.
pub type Key = (u64, u64, Vec<u8>);

struct Names {
    held: BTreeSet<Key>,
    /// Threads that wait for one: to wake nobody costs a system call as well.
    waiting: usize,
}

static NAMES: Mutex<Names> = Mutex::new(Names {
    held: BTreeSet::new(),
    waiting: 0,
});
static RELEASED: Condvar = Condvar::new();

fn names() -> MutexGuard<'static, Names> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One name, which nobody else in this process gives or takes away while this lives. A disk that hangs holds up those who
/// want this very name, and nobody else.
#[derive(Debug)]
pub struct HeldName(Key);

impl HeldName {
    /// Waits for whoever holds the name.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn of(directory: impl AsFd, name: &[u8]) -> Result<Self, Errno> {
        Ok(Self::wait(key(directory, name)?))
    }

    /// Two names; None for the second where both are one.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn of_two(
        one: (impl AsFd, &[u8]),
        other: (impl AsFd, &[u8]),
    ) -> Result<(Self, Option<Self>), Errno> {
        let (one, other) = (key(one.0, one.1)?, key(other.0, other.1)?);
        // Always in one order, so that no two wait for each other.
        let (first, second) = if one <= other {
            (one, other)
        } else {
            (other, one)
        };
        let is_one = first == second;
        let first = Self::wait(first);
        Ok((first, (!is_one).then(|| Self::wait(second))))
    }

    fn wait(key: Key) -> Self {
        let mut names = names();
        while names.held.contains(&key) {
            names.waiting += 1;
            let woken = RELEASED.wait(names);
            names = woken.unwrap_or_else(PoisonError::into_inner);
            names.waiting -= 1;
        }
        names.held.insert(key.clone());
        Self(key)
    }
}

impl Drop for HeldName {
    fn drop(&mut self) {
        let mut names = names();
        names.held.remove(&self.0);
        if names.waiting > 0 {
            RELEASED.notify_all();
        }
    }
}

/// What a name is known by, whatever the path that leads to it.
///
/// # Errors
/// Those of fstat(2).
pub fn key(directory: impl AsFd, name: &[u8]) -> Result<Key, Errno> {
    let stat = fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino, name.to_vec()))
}

/// Renames unless something has the new name.
///
/// # Errors
/// `EEXIST`; else those of rename(2).
pub fn rename_to_new(from: impl AsFd, old: &[u8], to: impl AsFd, new: &[u8]) -> Result<(), Errno> {
    match renameat2(&from, old, &to, new, RenameFlags::RENAME_NOREPLACE) {
        // File systems that cannot do it in one step (vfat of old kernels, some FUSE ones).
        Err(Errno::EINVAL | Errno::ENOSYS) => match stat(&to, new) {
            Ok(_) => Err(Errno::EEXIST),
            Err(_) => renameat(&from, old, &to, new),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_held_name_keeps_others_from_itself_and_from_nothing_else() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (here, there) = [here, there]
            .map(|at| File::open(at.path()).unwrap())
            .into();
        let first = HeldName::of(&here, b"name").unwrap();
        // Neither another name nor the same in another directory is held.
        drop(HeldName::of_two((&here, b"other"), (&there, b"name")).unwrap());
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let both = HeldName::of_two((&there, b"name"), (&here, b"name")).unwrap();
                tell.send("second").unwrap();
                drop(both);
            });
            tell.send("first").unwrap();
            drop(first);
            waiting.join().unwrap();
        });
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["first", "second"]);
        let same = HeldName::of_two((&here, b"name"), (&here, b"name")).unwrap();
        assert!(same.1.is_none());
    }

    #[test]
    fn a_name_that_something_has_is_not_given_anew() {
        let top = tempfile::tempdir().unwrap();
        let directory = File::open(top.path()).unwrap();
        let (name, aside) = (top.path().join("name"), top.path().join("aside"));
        let give = || rename_to_new(&directory, b"aside", &directory, b"name");
        fs::write(&aside, "new").unwrap();
        give().unwrap();
        assert!(!aside.exists());
        fs::write(&aside, "older").unwrap();
        assert_eq!(give(), Err(Errno::EEXIST));
        assert_eq!(fs::read(name).unwrap(), b"new");
        assert!(aside.exists());
    }
}
