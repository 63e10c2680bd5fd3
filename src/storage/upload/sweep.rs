//! Finding what uploads have left in a whole tree, and taking it away when it is old.
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::fsync;

use crate::os::clock::now;
use crate::storage::disk::boot;
use crate::storage::disk::metadata::{Kind, kind, size_of};
use crate::storage::disk::names::{self, HeldName};
use crate::storage::disk::reserved::is_partial_name;
use crate::storage::disk::root::Root;
use crate::storage::disk::walk::{self, walk_all};
use crate::storage::error::{At, Error};
use crate::storage::quota::meter::Metered;
use crate::storage::upload::partial::{self, Left};

/// Partial files, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partials {
    pub files: u64,
    pub bytes: u64,
}

/// Directories of the host in which a walk has found no partial file and no upload was cut off since: their disks need not be
/// woken.
static CLEAN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn clean() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    CLEAN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// To be told when an upload to this path of the host has left a partial file.
pub fn note(path: &Path) {
    clean().retain(|top| !path.starts_with(top));
}

/// Counts the partial files below a directory of the host.
///
/// # Errors
/// When the directory itself cannot be opened; what cannot be read below it is passed over.
pub fn count_partials(top: &Path) -> Result<Partials, Error> {
    each_partial(top, &mut |_, _, _| true)
}

/// Removes those that nobody has written to for so long and nobody works on, and counts that for the quotas; tells what was
/// removed.
///
/// # Errors
/// As [`count_partials`].
pub fn remove_old_partials(
    top: &Path,
    kept: Duration,
    metered: &Metered,
) -> Result<Partials, Error> {
    let kept = i64::try_from(kept.as_secs()).unwrap_or(i64::MAX);
    // Uploads that are cut off meanwhile take it out again.
    if !clean().insert(top.to_owned()) {
        return Ok(Partials::default());
    }
    let mut some_stay = false;
    let removed = each_partial(top, &mut |directory, name, modified| {
        some_stay = true;
        if now().saturating_sub(modified) < kept {
            return false;
        }
        let meter = metered.meter(directory);
        partial::discard(directory, name, &meter) == Ok(true)
    });
    // What was removed may have been all; the next time tells.
    if some_stay || removed.is_err() {
        note(top);
    }
    removed
}

/// When it got to be what is left, in seconds since 1970: with the last byte, but for a finished file that was put aside.
fn left_at(name: &[u8], stat: &FileStat) -> i64 {
    match partial::is_spare_name(name) {
        true => stat.st_mtime.max(stat.st_ctime),
        false => stat.st_mtime,
    }
}

/// Gives files their names back whose replacement was under way when the server was killed: then nobody has heard that the new
/// one is stored. Where the power failed meanwhile this is not known: the new file stays, and so does the one before, until it has
/// been left for as long as what is cut off. Tells how many have their names back.
///
/// # Errors
/// As [`count_partials`].
pub fn restore_replaced(top: &Path) -> Result<u64, Error> {
    let restored = each_partial(top, &mut |directory, name, _| {
        partial::is_spare_name(name)
            && restore(directory, name).unwrap_or_else(|errno| {
                log::error!(
                    "{}: what was put aside as {} may have to be given its name back by hand: {}",
                    top.display(),
                    shown(name),
                    errno.desc()
                );
                false
            })
    })?;
    Ok(restored.files)
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}

fn restore(directory: BorrowedFd<'_>, aside: &[u8]) -> Result<bool, Errno> {
    let Left::Partial(old) = partial::claim(directory, aside, None)? else {
        return Ok(false);
    };
    if boot::is_marked(old.as_fd()) {
        return Ok(false);
    }
    // Opened again: the walk reads on where it is.
    let again = names::open(directory, b".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    for name in walk::names(again.as_fd())? {
        let name = name?;
        let Ok(new) = names::open(directory, &name, OFlag::O_RDONLY) else {
            continue;
        };
        let stat = fstat(&new)?;
        if kind(&stat) != Kind::File || is_partial_name(&name) {
            continue;
        }
        let Some(in_this_boot) = boot::says_to_replace(new.as_fd(), &old.stat) else {
            continue;
        };
        if !in_this_boot {
            log::warn!(
                "{} was being replaced when the power failed; the file before it is kept as {} (setting: keep_partial)",
                shown(&name),
                shown(aside)
            );
            return Ok(false);
        }
        let _held = HeldName::of(directory, &name)?;
        // An upload that still goes on, here or in another process, holds its file.
        let Left::Partial(_new) = partial::claim(directory, &name, None)? else {
            return Ok(false);
        };
        let flags = RenameFlags::RENAME_EXCHANGE;
        renameat2(directory, aside, directory, name.as_slice(), flags)?;
        // Where it can be continued; another may have begun anew.
        if let Some(resumable) = partial::resumable_name(aside) {
            let _ = names::rename_to_new(directory, aside, directory, &resumable);
        }
        fsync(directory)?;
        log::warn!(
            "{} has its name back: it was being replaced when the server was killed, and nobody had heard that it was",
            shown(&name)
        );
        return Ok(true);
    }
    Ok(false)
}

/// Counts the partial files that `visit` says yes to, which is told the directory, the name and when it was left.
fn each_partial(
    top: &Path,
    visit: &mut dyn FnMut(BorrowedFd<'_>, &[u8], i64) -> bool,
) -> Result<Partials, Error> {
    let root = Root::open(top).at(top.as_os_str().as_encoded_bytes())?;
    let mut found = Partials::default();
    walk_all(&root, b"", &|_| true, &mut |met| {
        let Ok(met) = met else {
            return ControlFlow::Continue(());
        };
        let left = left_at(met.name, met.stat);
        if is_partial_name(met.name) && visit(met.directory, met.name, left) {
            found.files += 1;
            found.bytes += size_of(met.stat);
        }
        ControlFlow::Continue(())
    })
    .at(top.as_os_str().as_encoded_bytes())?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_is_in_use_stays_and_where_nothing_is_left_nobody_looks_again() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join(".thriftpd-x.partial");
        fs::write(&path, "half").unwrap();
        let then = SystemTime::now() - Duration::from_secs(1000);
        File::open(&path).unwrap().set_modified(then).unwrap();
        let directory = File::open(top.path()).unwrap();
        let held = partial::claim(directory.as_fd(), b".thriftpd-x.partial", None).unwrap();
        assert!(matches!(held, partial::Left::Partial(_)));
        let kept = Duration::from_secs(100);
        let remove = || remove_old_partials(top.path(), kept, &Metered::default()).unwrap();
        let is_clean = || clean().contains(top.path());
        assert_eq!((remove().files, is_clean()), (0, false));
        drop(held);
        assert_eq!(
            (remove(), is_clean()),
            (Partials { files: 1, bytes: 4 }, false)
        );
        assert_eq!((remove().files, is_clean()), (0, true));
        note(&path);
        assert!(!is_clean());
        assert!(count_partials(&path).is_err());
    }
}
