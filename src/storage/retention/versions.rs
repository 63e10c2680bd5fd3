//! Old versions of files that were overwritten or removed (setting: `versions`): each file has a directory of its own below
//! [`VERSIONS`] in the root that it lies in, with the path of the file and then the moment in which it was replaced.
//!
//! A [`Version`] is there before the file is replaced, and goes again if that fails; older ones go only when it stands.
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fstat, futimens, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, linkat};

use crate::storage::disk::copy;
use crate::storage::disk::durable::Order;
use crate::storage::disk::metadata::{is_unchanged, size_of};
use crate::storage::disk::names::{self, rename_to_new};
use crate::storage::disk::reserved::VERSIONS;
use crate::storage::disk::root::{DIRECTORY, Root};
use crate::storage::disk::walk::{self, below};
use crate::storage::quota::meter::Meter;
use crate::storage::rules::{Room, available};

/// Where the versions of one file go, and how they are kept.
#[derive(Debug)]
pub struct Versions {
    /// The root that the file lies in, and its path below.
    pub of: (Root, Vec<u8>),
    /// How many; the oldest go.
    pub most: usize,
    /// They are on the disk before the file is replaced.
    pub durable: bool,
    /// What copies leave free of the disk.
    pub min_free: Room,
}

impl Versions {
    /// Makes a version of the file that has the name now: of `copied`, where that is a copy of this very file, else by a second
    /// name, so that the file can be replaced in one step. None: only a copy can be one, which is to be made by
    /// [`Versions::copy_of`] while no name is held.
    ///
    /// # Errors
    /// Whatever keeps it from being kept; then the file must not be replaced.
    pub fn make(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        now: &FileStat,
        copied: Option<Copied>,
    ) -> Result<Option<Version>, Errno> {
        if let Some(copied) = copied {
            let is_of_it = is_unchanged(&copied.of, now);
            return is_of_it.then(|| copied.become_version()).transpose();
        }
        let version = self.under_new_name(&|versions, new| {
            linkat(directory, name, versions, new, LinkatFlags::empty())
        })?;
        if let Some(Version { kept, .. }) = &version {
            kept.order.names_apart(&kept.directory)?;
        }
        Ok(version)
    }

    /// Moves the file away from its name. False: only a copy can be a version.
    ///
    /// # Errors
    /// As [`Versions::make`].
    pub fn take(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        meter: &Meter,
    ) -> Result<bool, Errno> {
        let version = self.under_new_name(&|versions, new| {
            rename_to_new(directory, name, versions, new.as_bytes())
        })?;
        let is_taken = version.is_some();
        version.into_iter().for_each(|version| version.stand(meter));
        Ok(is_taken)
    }

    /// Copies what has the name; None where nothing has it any more.
    ///
    /// # Errors
    /// As [`Versions::copy`].
    pub fn copy_of(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Copied>, Errno> {
        match names::open(directory, name, OFlag::O_RDONLY) {
            Err(Errno::ENOENT) => Ok(None),
            old => self.copy(&old?).map(Some),
        }
    }

    /// Copies an open file, under a name of unfinished files until it becomes a version.
    ///
    /// # Errors
    /// `ENOSPC` also where less would be free than has to stay.
    pub fn copy(&self, old: &File) -> Result<Copied, Errno> {
        let kept = self.open()?;
        let of = fstat(old)?;
        if size_of(&of) > available(&fstatvfs(&kept.directory)?, self.min_free) {
            return Err(Errno::ENOSPC);
        }
        let name = format!(".thriftpd-{}.partial", moment(Timestamp::now()));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let new = names::open(&kept.directory, name.as_bytes(), flags)?;
        let version = Version::new(kept, name);
        copy::all(old, &new)?;
        let modified = TimeSpec::new(of.st_mtime, of.st_mtime_nsec);
        futimens(&new, &TimeSpec::UTIME_OMIT, &modified)?;
        version.kept.order.before_rename(&new)?;
        Ok(Copied { version, of, new })
    }

    /// Gives something the name of a version. None: no links on this file system, too many, not of another's file (proc(5),
    /// protected_hardlinks), or another file system.
    fn under_new_name(
        &self,
        give: &dyn Fn(&OwnedFd, &str) -> Result<(), Errno>,
    ) -> Result<Option<Version>, Errno> {
        let kept = self.open()?;
        match kept.under_new_name(give) {
            Ok(name) => Ok(Some(Version::new(kept, name))),
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK | Errno::EXDEV) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Opens or makes the directory.
    fn open(&self) -> Result<Kept, Errno> {
        let (root, relative) = &self.of;
        let path = below(VERSIONS, relative);
        let directory = match root.open_below(&path, DIRECTORY) {
            Err(Errno::ENOENT) => {
                for end in (0..=path.len()).filter(|&end| end == path.len() || path[end] == b'/') {
                    self.make_directory(&path[..end])?;
                }
                root.open_below(&path, DIRECTORY)?
            }
            other => other?,
        };
        Ok(Kept {
            most: self.most,
            order: Order::of(directory.as_fd(), self.durable),
            directory,
        })
    }

    fn make_directory(&self, path: &[u8]) -> Result<(), Errno> {
        let place = self.of.0.place(path)?;
        match mkdirat(&place.directory, place.name.as_slice(), Mode::S_IRWXU) {
            Ok(()) => {
                let order = Order::of(place.directory.as_fd(), self.durable);
                order.names_apart(&place.directory)
            }
            Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// The directory of the versions of one file.
#[derive(Debug)]
struct Kept {
    directory: OwnedFd,
    most: usize,
    order: Order,
}

impl Kept {
    /// Gives something a name that sorts by age; tells it. A name that is taken is no error of `give`.
    fn under_new_name(
        &self,
        give: &dyn Fn(&OwnedFd, &str) -> Result<(), Errno>,
    ) -> Result<String, Errno> {
        let mut time = Timestamp::now();
        loop {
            let name = moment(time);
            match give(&self.directory, &name) {
                Err(Errno::EEXIST) => time += jiff::SignedDuration::from_micros(1),
                other => return other.map(|()| name),
            }
        }
    }
}

fn moment(time: Timestamp) -> String {
    time.strftime("%Y%m%dT%H%M%S.%6fZ").to_string()
}

/// A copy of a file that may become a version of it; else it is gone with the value.
#[derive(Debug)]
pub struct Copied {
    /// Under the name of an unfinished file.
    version: Version,
    /// What the file was when the copy was begun.
    of: FileStat,
    new: File,
}

impl Copied {
    /// Makes it a version.
    ///
    /// # Errors
    /// Those of renaming and flushing.
    pub fn become_version(self) -> Result<Version, Errno> {
        let Self {
            mut version, new, ..
        } = self;
        let aside = version.name.as_bytes();
        let name = version.kept.under_new_name(&|directory, name| {
            rename_to_new(directory, aside, directory, name.as_bytes())
        })?;
        version.name = name;
        version
            .kept
            .order
            .after_rename(&new, &version.kept.directory)?;
        Ok(version)
    }
}

/// An old version. It goes with the value unless what it is of has really lost its name.
#[derive(Debug)]
#[must_use]
pub struct Version {
    kept: Kept,
    name: String,
    stands: bool,
}

impl Version {
    fn new(kept: Kept, name: String) -> Self {
        Self {
            kept,
            name,
            stands: false,
        }
    }

    /// It goes, and is counted so. It may have been one too many for others meanwhile, who have counted that.
    pub fn go(mut self, meter: &Meter) {
        self.stands = true;
        let _ = meter.remove(self.kept.directory.as_fd(), self.name.as_bytes());
    }

    /// It stays, and of the others the oldest ones go: it is the newest, whatever a clock that was ahead has called them. What
    /// cannot be taken away now is too many the next time.
    pub fn stand(mut self, meter: &Meter) {
        self.stands = true;
        let directory = self.kept.directory.as_fd();
        let names = walk::names(directory).into_iter().flatten().flatten();
        // What is there and no version is the directory of another file.
        let versions = names.filter(|name| name.len() == 23 && name.ends_with(b"Z"));
        let others = versions.filter(|name| name != self.name.as_bytes());
        let mut names: Vec<Vec<u8>> = others.collect();
        names.sort_unstable();
        let too_many = (names.len() + 1).saturating_sub(self.kept.most);
        for name in &names[..too_many] {
            let _ = meter.remove(directory, name);
        }
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        if !self.stands {
            let _ = names::unlink(&self.kept.directory, self.name.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn versions(root: &Root, relative: &str, most: usize) -> Versions {
        Versions {
            of: (root.again().unwrap(), relative.as_bytes().to_vec()),
            most,
            durable: true,
            min_free: Room::default(),
        }
    }

    fn kept(directory: &tempfile::TempDir, relative: &str) -> Vec<std::path::PathBuf> {
        let versions = directory.path().join(".thriftpd-versions").join(relative);
        let mut kept: Vec<_> = (fs::read_dir(versions).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect();
        kept.sort();
        kept
    }

    #[test]
    fn the_last_ones_stay_whatever_the_file_is_called() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        // What was a file may be a directory later.
        for relative in ["sub/file", &"x".repeat(255), "sub"] {
            let _ = fs::remove_dir_all(directory.path().join("sub"));
            let target = directory.path().join(relative);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(&target, "0").unwrap();
            for number in 1..4 {
                let aside = directory.path().join("aside");
                fs::write(&aside, number.to_string()).unwrap();
                let place = root.place(relative.as_bytes()).unwrap();
                let now = names::stat(&place.directory, &place.name).unwrap();
                let version = || {
                    let versions = versions(&root, relative, 2);
                    let made = versions.make(place.directory.as_fd(), &place.name, &now, None);
                    made.unwrap().expect("links")
                };
                // One that does not stand leaves nothing, and takes nothing away.
                drop(version());
                let version = version();
                fs::rename(&aside, &target).unwrap();
                version.stand(&Meter::default());
            }
            let kept = kept(&directory, relative);
            let contents = kept.iter().map(|path| fs::read_to_string(path).unwrap());
            assert_eq!(contents.collect::<Vec<_>>(), ["1", "2"], "{relative}");
            let _ = fs::remove_file(&target);
        }
    }

    #[test]
    fn a_copy_has_contents_and_time_of_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "old").unwrap();
        let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let file = File::open(&path).unwrap();
        file.set_modified(then).unwrap();
        let copy = || versions(&root, "file", 1).copy(&file).unwrap();
        let names = || kept(&directory, "file");
        // Neither a copy nor a version that comes to nothing leaves anything.
        drop(copy());
        drop(copy().become_version().unwrap());
        assert_eq!(names().len(), 0);
        let directory_of_file = File::open(directory.path()).unwrap();
        let make = |now: &FileStat| {
            let versions = versions(&root, "file", 1);
            let made = versions.make(directory_of_file.as_fd(), b"file", now, Some(copy()));
            made.unwrap()
        };
        let mut changed = fstat(&file).unwrap();
        changed.st_mtime += 1;
        assert!(make(&changed).is_none());
        let version = make(&fstat(&file).unwrap()).expect("it is what was copied");
        version.stand(&Meter::default());
        let names = names();
        assert_eq!(names.len(), 1);
        assert_eq!(fs::read(&names[0]).unwrap(), b"old");
        let modified = fs::metadata(&names[0]).unwrap().modified();
        assert_eq!(modified.unwrap(), then);
        // No copy takes what has to stay free.
        let min_free = Room {
            bytes: Some(u64::MAX),
            percent: None,
        };
        let full = Versions {
            min_free,
            ..versions(&root, "file", 1)
        };
        assert_eq!(full.copy(&file).map(drop), Err(Errno::ENOSPC));
    }
}
