//! Old versions of files that were overwritten or removed (setting: `versions`): each file has a directory of its own below
//! [`VERSIONS`] in the root that it lies in, with the path of the file and then the moment in which it was replaced.
//!
//! A [`Version`] is there before the file is replaced, and goes again if that fails; older ones go only when it stands.
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{LinkatFlags, linkat};

use crate::storage::disk::copy;
use crate::storage::disk::durable::Order;
use crate::storage::disk::metadata::{is_unchanged, size_of};
use crate::storage::disk::names::{self, rename_to_new};
use crate::storage::disk::reserved::VERSIONS;
use crate::storage::disk::root::{DIRECTORY, Root};
use crate::storage::disk::walk::{self, below};
use crate::storage::disk::writers::Doomed;
use crate::storage::rules::{Room, available};

/// How versions of one file are kept.
#[derive(Clone, Copy, Debug)]
pub struct Versioning {
    /// How many; the oldest go.
    pub most: usize,
    /// How they are on the disk before the file is replaced.
    pub order: Order,
    /// What copies leave free of the disk.
    pub min_free: Room,
}

/// The directory of the versions of one file.
#[derive(Debug)]
pub struct Versions {
    directory: OwnedFd,
    how: Versioning,
}

/// What became of a wish for a version.
#[derive(Debug)]
pub enum Made {
    Version(Version),
    /// Only a copy can be one: to be made by [`Versions::copy`] while no name is held.
    NeedsCopy,
}

impl Versions {
    /// Opens or makes the directory for the file at this path below the root.
    ///
    /// # Errors
    /// Those of openat(2) and mkdirat(2).
    pub fn of(root: &Root, relative: &[u8], how: Versioning) -> Result<Self, Errno> {
        let path = below(VERSIONS, relative);
        let directory = match root.open_below(&path, DIRECTORY) {
            Err(Errno::ENOENT) => {
                for end in (0..=path.len()).filter(|&end| end == path.len() || path[end] == b'/') {
                    make(root, &path[..end], how)?;
                }
                root.open_below(&path, DIRECTORY)?
            }
            other => other?,
        };
        Ok(Self { directory, how })
    }

    /// Gives the file a second name, so that it can be replaced in one step.
    ///
    /// # Errors
    /// Whatever keeps it from being kept; then it must not be replaced.
    pub fn link(self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<Made, Errno> {
        let linked = self.under_new_name(&|versions, new| {
            linkat(directory, name, versions, new, LinkatFlags::empty())
        });
        let version = match linked {
            Ok(new) => Version::new(self, new),
            Err(errno) if needs_copy(errno) => return Ok(Made::NeedsCopy),
            Err(errno) => return Err(errno),
        };
        let Self { directory, how } = &version.versions;
        how.order.names_apart(directory)?;
        Ok(Made::Version(version))
    }

    /// Moves the file away from its name, and tells which versions went for it. None: only a copy can be one.
    ///
    /// # Errors
    /// As [`Versions::link`].
    pub fn take(
        self,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Option<Vec<Doomed>>, Errno> {
        let taken = self.under_new_name(&|versions, new| {
            rename_to_new(directory, name, versions, new.as_bytes())
        });
        match taken {
            Ok(new) => Ok(Some(Version::new(self, new).stand())),
            Err(errno) if needs_copy(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Copies an open file, under a name of unfinished files until it becomes a version.
    ///
    /// # Errors
    /// `ENOSPC` also where less would be free than has to stay.
    pub fn copy(self, old: &File) -> Result<Copied, Errno> {
        let of = fstat(old)?;
        let free = available(&fstatvfs(&self.directory)?, self.how.min_free);
        if size_of(&of) > free {
            return Err(Errno::ENOSPC);
        }
        let aside = format!(".thriftpd-{}.partial", moment(Timestamp::now()));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let new = names::open(&self.directory, aside.as_bytes(), flags)?;
        let copied = Copied {
            versions: Some(self),
            aside,
            of,
            new,
        };
        copied.fill(old)?;
        Ok(copied)
    }

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

    /// Takes the oldest away, and tells which.
    fn thin_out(&self) -> Result<Vec<Doomed>, Errno> {
        let names = walk::names(&self.directory)?.flatten();
        // What is here and no version is the directory of another file.
        let versions = names.filter(|name| name.len() == 23 && name.ends_with(b"Z"));
        let mut names: Vec<Vec<u8>> = versions.collect();
        names.sort_unstable();
        let too_many = names.len().saturating_sub(self.how.most);
        let mut gone = Vec::new();
        for name in names.into_iter().take(too_many) {
            let Ok(doomed) = Doomed::open(self.directory.as_fd(), &name) else {
                continue;
            };
            if names::unlink(&self.directory, &name).is_ok() {
                gone.push(doomed);
            }
        }
        Ok(gone)
    }
}

/// No links on this file system, too many, not of another's file (proc(5), protected_hardlinks), or another file system.
fn needs_copy(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK | Errno::EXDEV
    )
}

fn moment(time: Timestamp) -> String {
    time.strftime("%Y%m%dT%H%M%S.%6fZ").to_string()
}

fn make(root: &Root, path: &[u8], how: Versioning) -> Result<(), Errno> {
    let place = root.place(path)?;
    match mkdirat(&place.directory, place.name.as_slice(), Mode::S_IRWXU) {
        Ok(()) => how.order.names_apart(&place.directory),
        Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// A copy of a file that may become a version of it; else it is gone with the value.
#[derive(Debug)]
pub struct Copied {
    versions: Option<Versions>,
    aside: String,
    /// What the file was when the copy was begun.
    of: FileStat,
    new: File,
}

impl Copied {
    fn fill(&self, old: &File) -> Result<(), Errno> {
        copy::all(old.as_fd(), self.new.as_fd())?;
        copy::times(old.as_fd(), self.new.as_fd())?;
        match &self.versions {
            Some(versions) => versions.how.order.before_rename(&self.new),
            None => Ok(()),
        }
    }

    /// Makes it a version.
    ///
    /// # Errors
    /// Those of renaming and flushing.
    pub fn become_version(mut self) -> Result<Version, Errno> {
        let versions = self.versions.take().ok_or(Errno::EINVAL)?;
        let name = versions.under_new_name(&|directory, name| {
            rename_to_new(directory, self.aside.as_bytes(), directory, name.as_bytes())
        });
        let version = match name {
            Ok(name) => Version::new(versions, name),
            Err(errno) => {
                self.versions = Some(versions);
                return Err(errno);
            }
        };
        let Versions { directory, how } = &version.versions;
        how.order.after_rename(&self.new, directory)?;
        Ok(version)
    }

    /// The same, if the file is still what was copied.
    ///
    /// # Errors
    /// As [`Copied::become_version`].
    pub fn of_unchanged(self, now: &FileStat) -> Result<Made, Errno> {
        match is_unchanged(&self.of, now) {
            true => self.become_version().map(Made::Version),
            false => Ok(Made::NeedsCopy),
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if let Some(Versions { directory, .. }) = &self.versions {
            let _ = names::unlink(directory, self.aside.as_bytes());
        }
    }
}

/// An old version. It goes with the value unless what it is of has really lost its name.
#[derive(Debug)]
#[must_use]
pub struct Version {
    versions: Versions,
    name: String,
    stands: bool,
}

impl Version {
    fn new(versions: Versions, name: String) -> Self {
        Self {
            versions,
            name,
            stands: false,
        }
    }

    /// It goes. None where it was one too many for others meanwhile, who have counted that.
    pub fn go(mut self) -> Option<Doomed> {
        self.stands = true;
        let (directory, name) = (&self.versions.directory, self.name.as_bytes());
        let doomed = Doomed::open(directory.as_fd(), name).ok()?;
        names::unlink(directory, name).ok()?;
        Some(doomed)
    }

    /// It stays, and the oldest ones go, which it tells.
    pub fn stand(mut self) -> Vec<Doomed> {
        self.stands = true;
        // What cannot be taken away now is too many the next time.
        self.versions.thin_out().unwrap_or_default()
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        if !self.stands {
            let directory = &self.versions.directory;
            let _ = names::unlink(directory, self.name.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_ones_stay_whatever_the_file_is_called() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        let how = Versioning {
            most: 2,
            order: Order::Each,
            min_free: Room::default(),
        };
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
                let version = || {
                    let versions = Versions::of(&root, relative.as_bytes(), how).unwrap();
                    match versions.link(place.directory.as_fd(), &place.name).unwrap() {
                        Made::Version(version) => version,
                        Made::NeedsCopy => panic!("no links here"),
                    }
                };
                // One that does not stand leaves nothing, and takes nothing away.
                drop(version());
                let version = version();
                fs::rename(&aside, &target).unwrap();
                assert_eq!(version.stand().len(), usize::from(number == 3));
            }
            let versions = directory.path().join(".thriftpd-versions").join(relative);
            let kept = fs::read_dir(versions).unwrap();
            let mut kept: Vec<_> = kept.map(|entry| entry.unwrap().path()).collect();
            kept.retain(|path| path.is_file());
            kept.sort();
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
        let how = Versioning {
            most: 1,
            order: Order::Never,
            min_free: Room::default(),
        };
        let copy = || {
            Versions::of(&root, b"file", how)
                .unwrap()
                .copy(&file)
                .unwrap()
        };
        let versions = directory.path().join(".thriftpd-versions/file");
        let names = || fs::read_dir(&versions).unwrap().count();
        // Neither a copy nor a version that comes to nothing leaves anything.
        drop(copy());
        drop(copy().become_version().unwrap());
        assert_eq!(names(), 0);
        let mut changed = fstat(&file).unwrap();
        changed.st_mtime += 1;
        assert!(matches!(copy().of_unchanged(&changed), Ok(Made::NeedsCopy)));
        let unchanged = copy().of_unchanged(&fstat(&file).unwrap()).unwrap();
        let Made::Version(version) = unchanged else {
            panic!("it is what was copied");
        };
        assert!(version.stand().is_empty());
        assert_eq!(names(), 1);
        let kept = fs::read_dir(&versions)
            .unwrap()
            .last()
            .unwrap()
            .unwrap()
            .path();
        assert_eq!(fs::read(&kept).unwrap(), b"old");
        assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), then);
        // No copy takes what has to stay free.
        let full = Versioning {
            min_free: Room {
                bytes: Some(u64::MAX),
                percent: None,
            },
            ..how
        };
        let refused = Versions::of(&root, b"file", full).unwrap().copy(&file);
        assert_eq!(refused.map(drop), Err(Errno::ENOSPC));
    }

    #[test]
    fn what_is_taken_away_is_a_version_under_a_path_that_was_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let how = Versioning {
            most: 1,
            order: Order::Journal,
            min_free: Room::default(),
        };
        for (contents, gone) in [("one", 0), ("two", 1)] {
            fs::write(directory.path().join("file"), contents).unwrap();
            let place = root.place(b"file").unwrap();
            let versions = Versions::of(&root, b"file", how).unwrap();
            let taken = versions.take(place.directory.as_fd(), &place.name).unwrap();
            assert_eq!(taken.unwrap().len(), gone);
            assert!(!directory.path().join("file").exists());
        }
        let kept = fs::read_dir(directory.path().join(".thriftpd-versions/file")).unwrap();
        let kept: Vec<_> = kept
            .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        assert_eq!(kept, ["two"]);
    }
}
