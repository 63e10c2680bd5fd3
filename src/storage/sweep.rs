//! Finding what uploads have left in a whole tree, and taking it away when it is old.
use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};

use super::error::Error;
use super::partial::{Partial, is_partial_name};
use super::root::Root;

/// Partial files, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partials {
    pub files: u64,
    pub bytes: u64,
}

/// Counts the partial files below a directory of the host.
///
/// # Errors
/// When the directory itself cannot be opened; what cannot be read below it is passed over.
pub fn count_partials(top: &Path) -> Result<Partials, Error> {
    walk(top, &mut |_, _, _| true)
}

/// Removes those that nobody has written to for so long and nobody works on; tells what was removed.
///
/// # Errors
/// As [`count_partials`].
pub fn remove_old_partials(top: &Path, kept: Duration) -> Result<Partials, Error> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    });
    let kept = i64::try_from(kept.as_secs()).unwrap_or(i64::MAX);
    walk(top, &mut |directory, name, modified| {
        if now.saturating_sub(modified) < kept {
            return false;
        }
        match Partial::take_existing(directory.as_fd(), name) {
            Ok(Some(partial)) => {
                partial.remove(directory.as_fd());
                true
            }
            _ => false,
        }
    })
}

/// Goes through the tree, one directory open at a time, following no link; counts what `visit` says yes to, which is told
/// the directory, the name and the time of modification.
fn walk(
    top: &Path,
    visit: &mut dyn FnMut(&OwnedFd, &[u8], i64) -> bool,
) -> Result<Partials, Error> {
    let fail = |errno| Error::from_errno(errno, top.as_os_str().as_encoded_bytes());
    let root = Root::open(top).map_err(fail)?;
    let mut found = Partials::default();
    let mut directories = VecDeque::from([Vec::new()]);
    while let Some(relative) = directories.pop_back() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let opened = root.open_below(&relative, flags, Mode::empty());
        // Gone meanwhile, or not ours to read.
        let Ok(directory) = opened else { continue };
        let _ = look(&directory, &relative, &mut directories, &mut found, visit);
    }
    Ok(found)
}

fn look(
    directory: &OwnedFd,
    relative: &[u8],
    directories: &mut VecDeque<Vec<u8>>,
    found: &mut Partials,
    visit: &mut dyn FnMut(&OwnedFd, &[u8], i64) -> bool,
) -> Result<(), Errno> {
    let copy = directory.try_clone().map_err(|_| Errno::EMFILE)?;
    for entry in Dir::from_fd(copy)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let stat = || fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if is_partial_name(name) {
            let Ok(stat) = stat() else { continue };
            if visit(directory, name, stat.st_mtime) {
                found.files += 1;
                found.bytes += u64::try_from(stat.st_size).unwrap_or(0);
            }
            continue;
        }
        let is_directory = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            // Some file systems do not say.
            None => stat().is_ok_and(|stat| super::metadata::kind(&stat) == super::Kind::Directory),
        };
        if is_directory {
            let separator: &[u8] = if relative.is_empty() { b"" } else { b"/" };
            directories.push_back([relative, separator, name].concat());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn old_ones_go_wherever_they_are_and_nothing_else_does() {
        let top = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let deep = top.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        std::os::unix::fs::symlink(outside.path(), top.path().join("link")).unwrap();
        let partial = |directory: &Path, name: &str, age: u64| {
            let path = directory.join(format!(".thriftpd-{name}.partial"));
            fs::write(&path, "half").unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            fs::File::open(&path).unwrap().set_modified(then).unwrap();
            path
        };
        let old = partial(&deep, "old", 1000);
        let new = partial(&deep, "new", 10);
        let in_use = partial(top.path(), "in-use", 1000);
        let elsewhere = partial(outside.path(), "elsewhere", 1000);
        fs::write(deep.join("file"), "whole").unwrap();
        let directory: OwnedFd = fs::File::open(top.path()).unwrap().into();
        let name = in_use.file_name().unwrap().as_encoded_bytes();
        let held = Partial::take_existing(directory.as_fd(), name).unwrap();
        assert!(held.is_some());

        let three = Partials {
            files: 3,
            bytes: 12,
        };
        assert_eq!(count_partials(top.path()).unwrap(), three);
        let removed = remove_old_partials(top.path(), Duration::from_secs(100)).unwrap();
        assert_eq!(removed, Partials { files: 1, bytes: 4 });
        let there = [&old, &new, &in_use, &elsewhere].map(|path| path.exists());
        assert_eq!(there, [false, true, true, true]);
        assert!(deep.join("file").exists());
        assert!(count_partials(&top.path().join("none")).is_err());
    }
}
