//! Partial files: where an upload grows, hidden beside its target, until it is whole. The name is made from the target's,
//! so that an upload which was cut off is found again; a lock tells whose is under way.
use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use blake2::Blake2b;
use blake2::digest::Digest as _;
use blake2::digest::consts::U8;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::storage::disk::boot;
use crate::storage::disk::metadata::{is_same_file, size_of};
use crate::storage::disk::reserved::PREFIX;

const SUFFIX: &[u8] = b".partial";

/// Bytes of the target's name that are shown in the partial's, for people who find one: short enough for any file system,
/// whatever is added.
const SHOWN: usize = 150;

/// Uploads to one name at once that are told apart.
const SLOTS: u32 = 32;

/// Whether a name is that of a partial file. Clients neither see nor say such names.
pub fn is_partial_name(name: &[u8]) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

#[cfg(test)]
fn name_of(target: &[u8], slot: u32) -> Vec<u8> {
    let mut names = names_of(target);
    names.nth(slot as usize).unwrap()
}

/// One for each slot.
fn names_of(target: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let digest = Blake2b::<U8>::digest(target);
    let mut stem = PREFIX.to_vec();
    stem.extend(&target[..target.len().min(SHOWN)]);
    stem.push(b'-');
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    stem.extend(digits.map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    (0..SLOTS).map(move |slot| [&stem, format!("-{slot}").as_bytes(), SUFFIX].concat())
}

/// One at a time looks for a name and makes a file of it: between the two it would be taken for one that was left.
static MAKING: Mutex<()> = Mutex::new(());

/// What uploads to a name that were cut off have left.
#[derive(Debug)]
pub enum Left {
    Nothing,
    /// Somebody works on it.
    InUse,
    Partial(Partial),
}

/// A partial file that is ours for as long as we hold it.
#[derive(Debug)]
pub struct Partial {
    file: Held,
    pub name: Vec<u8>,
}

#[derive(Debug)]
enum Held {
    Locked(Flock<File>),
    /// On file systems without locks.
    Open(File),
}

impl Deref for Held {
    type Target = File;
    fn deref(&self) -> &File {
        match self {
            Self::Locked(file) => file,
            Self::Open(file) => file,
        }
    }
}

impl Partial {
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A partial file for this target that nobody else works on, and how many bytes of another upload are in it; None of a new
    /// one.
    ///
    /// # Errors
    /// `EBUSY` when too many uploads to the name are under way; else those of openat(2).
    pub fn create(directory: BorrowedFd<'_>, target: &[u8]) -> Result<(Self, Option<u64>), Errno> {
        for name in names_of(target) {
            if let Some(created) = Self::take_or_make(directory, name)? {
                return Ok(created);
            }
        }
        Err(Errno::EBUSY)
    }

    /// The same, but only as the first upload to the name.
    ///
    /// # Errors
    /// `EEXIST` when there is another; else those of openat(2).
    pub fn create_first(
        directory: BorrowedFd<'_>,
        target: &[u8],
    ) -> Result<(Self, Option<u64>), Errno> {
        let first = names_of(target).next().ok_or(Errno::EINVAL)?;
        let created = Self::take_or_make(directory, first)?;
        created.ok_or(Errno::EEXIST)
    }

    /// What the last upload that was cut off has left, or would leave if it were cut off now.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn reopen(directory: BorrowedFd<'_>, target: &[u8]) -> Result<Left, Errno> {
        let Some((name, _)) = newest(directory, target) else {
            return Ok(Left::Nothing);
        };
        let taken = Self::take(directory, name, FLAGS)?;
        Ok(taken.map_or(Left::InUse, Left::Partial))
    }

    /// Whether the name in the directory is still that of this file: what removes trees does not ask.
    pub fn has_its_name(&self, directory: BorrowedFd<'_>) -> bool {
        let there = fstatat(
            directory,
            self.name.as_slice(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        );
        let ours = fstat(self.file());
        there.is_ok_and(|there| ours.is_ok_and(|ours| is_same_file(&there, &ours)))
    }

    /// One whose name was found in a directory.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn take_existing(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Self>, Errno> {
        Self::take(directory, name.to_vec(), FLAGS)
    }

    fn take_or_make(
        directory: BorrowedFd<'_>,
        name: Vec<u8>,
    ) -> Result<Option<(Self, Option<u64>)>, Errno> {
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let there = fstatat(directory, name.as_slice(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if there.is_ok() {
            if let Some(partial) = Self::take(directory, name.clone(), FLAGS)? {
                let size = size_of(&fstat(partial.file())?);
                return Ok(Some((partial, Some(size))));
            }
        }
        let flags = FLAGS | OFlag::O_CREAT | OFlag::O_EXCL;
        match Self::take(directory, name, flags) {
            // Somebody else works on it, or was faster.
            Err(Errno::EEXIST) => Ok(None),
            made => Ok(made?.map(|partial| (partial, None))),
        }
    }

    /// None when somebody else works on it, or has made it the file just now.
    fn take(directory: BorrowedFd<'_>, name: Vec<u8>, flags: OFlag) -> Result<Option<Self>, Errno> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let opened = match openat(directory, name.as_slice(), flags, mode) {
            Err(Errno::ENOENT) => return Ok(None),
            other => File::from(other?),
        };
        let file = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => Held::Locked(locked),
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((file, _)) => Held::Open(file),
        };
        let partial = Self { file, name };
        Ok(partial.has_its_name(directory).then_some(partial))
    }

    /// Takes it away; tells how many bytes it had.
    pub fn discard(&self, directory: BorrowedFd<'_>) -> u64 {
        self.remove(directory);
        fstat(self.file()).map_or(0, |stat| size_of(&stat))
    }

    /// How many of its bytes are sure to be there, and how many it has.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn lengths(&self) -> Result<(u64, u64), Errno> {
        let stat = fstat(self.file())?;
        Ok((
            boot::sure_length(self.file().as_fd(), &stat),
            size_of(&stat),
        ))
    }

    /// Takes it away, unless its name is that of another by now.
    pub fn remove(&self, directory: BorrowedFd<'_>) {
        if !self.has_its_name(directory) {
            return;
        }
        // Whatever is left is found and removed later.
        let _ = unlinkat(directory, self.name.as_slice(), UnlinkatFlags::NoRemoveDir);
    }
}

/// Written to, and read again for its checksum.
const FLAGS: OFlag = OFlag::O_RDWR
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// The partial file that was written last, with its facts; its size is what is sure to be there.
pub fn newest(directory: BorrowedFd<'_>, target: &[u8]) -> Option<(Vec<u8>, FileStat)> {
    let there = names_of(target).filter_map(|name| {
        let flags = FLAGS.difference(OFlag::O_ACCMODE);
        let file = openat(directory, name.as_slice(), flags, Mode::empty()).ok()?;
        let mut stat = fstat(&file).ok()?;
        let sure = boot::sure_length(file.as_fd(), &stat);
        stat.st_size = i64::try_from(sure).ok()?;
        (sure > 0).then_some((name, stat))
    });
    // The lowest number among equals, which is the one that is taken first.
    there.min_by_key(|(_, stat)| std::cmp::Reverse((stat.st_mtime, stat.st_mtime_nsec)))
}

/// Removes what uploads to the name have left and nobody works on; tells how many bytes each had.
pub fn discard(directory: BorrowedFd<'_>, target: &[u8]) -> Vec<u64> {
    let mut gone = Vec::new();
    for name in names_of(target) {
        if let Ok(Some(partial)) = Partial::take(directory, name, FLAGS) {
            gone.push(partial.discard(directory));
        }
    }
    gone
}

/// Empties a directory that holds partial files only, so that it can be removed, and tells how many bytes each had; None
/// where it holds anything else.
///
/// # Errors
/// Those of reading the directory.
pub fn discard_all(directory: OwnedFd) -> Result<Option<Vec<u64>>, Errno> {
    let mut names = Vec::new();
    let copy = directory.try_clone().map_err(|_| Errno::EMFILE)?;
    for entry in nix::dir::Dir::from_fd(copy)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if matches!(name.as_slice(), b"." | b"..") {
            continue;
        }
        if !is_partial_name(&name) {
            return Ok(None);
        }
        names.push(name);
    }
    let mut gone = Vec::new();
    for name in names {
        match Partial::take_existing(directory.as_fd(), &name)? {
            Some(partial) => gone.push(partial.discard(directory.as_fd())),
            None => return Ok(None),
        }
    }
    Ok(Some(gone))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn names_fit_tell_targets_apart_and_are_known_again() {
        let long = [b'x'; 255];
        let mut other = long;
        other[254] = b'y';
        for slot in [0, SLOTS - 1] {
            let name = name_of(&long, slot);
            assert!(name.len() <= 255 && is_partial_name(&name));
            assert_ne!(name, name_of(&other, slot));
        }
        assert!(!is_partial_name(b"picture.jpg") && !is_partial_name(b".thriftpd-notes"));
    }

    #[test]
    fn each_upload_has_its_own_and_what_is_left_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let fd = open(directory.path());
        let (first, left) = Partial::create(fd.as_fd(), b"file").unwrap();
        assert_eq!(left, None);
        let (second, _) = Partial::create(fd.as_fd(), b"file").unwrap();
        assert_ne!(first.name, second.name);
        assert_eq!(
            Partial::create_first(fd.as_fd(), b"file").unwrap_err(),
            Errno::EEXIST
        );
        boot::mark(first.file().as_fd(), true);
        first.file().write_all(b"half").unwrap();
        drop(second);
        assert!(
            discard_all(open(directory.path())).unwrap().is_none(),
            "one is under way"
        );
        let name = first.name.clone();
        drop(first);
        let (newest, stat) = newest(fd.as_fd(), b"file").unwrap();
        assert_eq!((newest, stat.st_size), (name, 4));
        let reopen = |target: &[u8]| Partial::reopen(fd.as_fd(), target).unwrap();
        assert!(matches!(reopen(b"other"), Left::Nothing));
        let taken = reopen(b"file");
        assert!(matches!(taken, Left::Partial(_)));
        assert!(matches!(reopen(b"file"), Left::InUse));
        drop(taken);
        let (again, left) = Partial::create(fd.as_fd(), b"file").unwrap();
        assert_eq!(left, Some(4));
        drop(again);
        let mut gone = discard(fd.as_fd(), b"file");
        gone.sort_unstable();
        assert_eq!(gone, [0, 4]);
        assert_eq!(discard(fd.as_fd(), b"file"), [0; 0]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_has_lost_the_name_takes_nothing_of_anothers_away() {
        let directory = tempfile::tempdir().unwrap();
        let fd = open(directory.path());
        let (first, _) = Partial::create(fd.as_fd(), b"file").unwrap();
        first.remove(fd.as_fd());
        let (second, _) = Partial::create(fd.as_fd(), b"file").unwrap();
        assert_eq!(first.name, second.name);
        assert!(!first.has_its_name(fd.as_fd()) && second.has_its_name(fd.as_fd()));
        first.remove(fd.as_fd());
        assert!(second.has_its_name(fd.as_fd()));
    }

    #[test]
    fn a_partial_that_has_become_the_file_is_not_taken_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let fd = open(directory.path());
        let (first, _) = Partial::create(fd.as_fd(), b"file").unwrap();
        let at = |name: &[u8]| directory.path().join(std::str::from_utf8(name).unwrap());
        fs::rename(at(&first.name), at(b"file")).unwrap();
        drop(first);
        let (second, _) = Partial::create(fd.as_fd(), b"file").unwrap();
        second.file().write_all(b"new").unwrap();
        assert_eq!(fs::read(at(b"file")).unwrap(), b"");
    }
}
