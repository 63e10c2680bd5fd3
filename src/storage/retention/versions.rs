//! Old versions of overwritten files (setting: `versions`): each file has a directory of its own below [`VERSIONS`] in the root
//! that it lies in, with the path of the file and then the moment in which it was replaced.
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use jiff::Timestamp;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, unlinkat};

use crate::storage::disk::copy;
use crate::storage::disk::durable::{Order, after_rename, before_rename, sync_directory};
use crate::storage::disk::metadata::size_of;
use crate::storage::disk::names::rename_to_new;
use crate::storage::disk::reserved::VERSIONS;
use crate::storage::disk::root::{Place, Root};
use crate::storage::disk::walk::below;

/// How versions of one file are kept.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// How many; the oldest go.
    pub most: usize,
    /// They are on the disk before the file is replaced.
    pub durable: bool,
    pub order: Order,
}

/// The directory of the versions of one file.
struct Versions {
    directory: OwnedFd,
    keeping: Keeping,
}

/// Keeps what has the name as an old version under a second name, so that it can be replaced in one step; tells sizes in
/// bytes of the versions that had to go.
///
/// # Errors
/// Whatever keeps it from being kept; then it must not be replaced.
pub fn keep(
    root: &Root,
    relative: &[u8],
    place: &Place,
    keeping: Keeping,
) -> Result<Vec<u64>, Errno> {
    let versions = Versions::open(root, relative, keeping)?;
    versions.add(&|versions, name| {
        let linked = linkat(
            &place.directory,
            place.name.as_slice(),
            versions,
            name,
            LinkatFlags::empty(),
        );
        match linked {
            // No links on this file system, too many, or (proc(5), protected_hardlinks) not of another's file.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK | Errno::EXDEV) => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
                let old = openat(
                    &place.directory,
                    place.name.as_slice(),
                    flags | OFlag::O_CLOEXEC,
                    Mode::empty(),
                )?;
                copy_to(&old, versions, name, keeping)
            }
            other => other,
        }
    })
}

/// Keeps a copy of an open file that is going to be written to.
///
/// # Errors
/// As [`keep`].
pub fn keep_copy(
    root: &Root,
    relative: &[u8],
    old: &OwnedFd,
    keeping: Keeping,
) -> Result<Vec<u64>, Errno> {
    let versions = Versions::open(root, relative, keeping)?;
    versions.add(&|versions, name| copy_to(old, versions, name, keeping))
}

/// Under a name of unfinished files until it is whole.
fn copy_to(old: &OwnedFd, versions: &OwnedFd, name: &str, keeping: Keeping) -> Result<(), Errno> {
    let aside = format!(".thriftpd-{name}.partial");
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let new = File::from(openat(versions, aside.as_str(), flags, mode)?);
    let copied = copy::all(old.as_fd(), new.as_fd())
        .and_then(|()| copy::times(old.as_fd(), new.as_fd()))
        .and_then(|()| match keeping.durable {
            true => before_rename(keeping.order, &new),
            false => Ok(()),
        })
        .and_then(|()| rename_to_new(versions, aside.as_bytes(), versions, name.as_bytes()));
    if copied.is_err() {
        let _ = unlinkat(versions, aside.as_str(), UnlinkatFlags::NoRemoveDir);
        return copied;
    }
    match keeping.durable {
        true => after_rename(keeping.order, &new, versions.as_fd()),
        false => Ok(()),
    }
}

impl Versions {
    fn open(root: &Root, relative: &[u8], keeping: Keeping) -> Result<Self, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let path = below(VERSIONS, relative);
        let directory = match root.open_below(&path, flags, Mode::empty()) {
            Err(Errno::ENOENT) => {
                for end in (0..=path.len()).filter(|&end| end == path.len() || path[end] == b'/') {
                    make(root, &path[..end], keeping)?;
                }
                root.open_below(&path, flags, Mode::empty())?
            }
            other => other?,
        };
        Ok(Self { directory, keeping })
    }

    /// `put` makes the version of the name that it is told; a name that is taken is not an error of its.
    fn add(self, put: &dyn Fn(&OwnedFd, &str) -> Result<(), Errno>) -> Result<Vec<u64>, Errno> {
        let mut moment = Timestamp::now();
        loop {
            // Sorts by age as it is.
            let name = moment.strftime("%Y%m%dT%H%M%S.%6fZ").to_string();
            match put(&self.directory, &name) {
                Err(Errno::EEXIST) => moment += jiff::SignedDuration::from_micros(1),
                other => break other?,
            }
        }
        if self.keeping.durable && self.keeping.order == Order::Each {
            sync_directory(self.directory.as_fd())?;
        }
        self.thin_out()
    }

    /// Takes the oldest away; tells their sizes.
    fn thin_out(self) -> Result<Vec<u64>, Errno> {
        let copy = self.directory.try_clone().map_err(|_| Errno::EMFILE)?;
        let mut names: Vec<Vec<u8>> = Dir::from_fd(copy)?
            .into_iter()
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().to_bytes().to_vec();
                // What is here and no version is the directory of another file.
                (name.len() == 23 && name.ends_with(b"Z")).then_some(name)
            })
            .collect();
        names.sort_unstable();
        let too_many = names.len().saturating_sub(self.keeping.most);
        let mut gone = Vec::new();
        for name in names.into_iter().take(too_many) {
            let name = name.as_slice();
            let stat = fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
            let removed = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
            if let (Ok(stat), Ok(())) = (stat, removed) {
                gone.push(size_of(&stat));
            }
        }
        Ok(gone)
    }
}

fn make(root: &Root, path: &[u8], keeping: Keeping) -> Result<(), Errno> {
    let place = root.place(path)?;
    match mkdirat(&place.directory, place.name.as_slice(), Mode::S_IRWXU) {
        Ok(()) if keeping.durable && keeping.order == Order::Each => {
            sync_directory(place.directory.as_fd())
        }
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
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
        let keeping = Keeping {
            most: 2,
            durable: true,
            order: Order::Each,
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
                let gone = keep(&root, relative.as_bytes(), &place, keeping).unwrap();
                assert_eq!(gone.len(), usize::from(number == 3));
                fs::rename(&aside, &target).unwrap();
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
        let keeping = Keeping {
            most: 1,
            durable: false,
            order: Order::Journal,
        };
        keep_copy(&root, b"file", &file.into(), keeping).unwrap();
        let kept = fs::read_dir(directory.path().join(".thriftpd-versions/file")).unwrap();
        let kept = kept.last().unwrap().unwrap().path();
        assert_eq!(fs::read(&kept).unwrap(), b"old");
        assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), then);
    }
}
