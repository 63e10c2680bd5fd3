//! Partial files: where an upload grows, hidden beside its target, until it is whole. The name is made from the account and
//! the target's name, so that the account finds again what was cut off, and nobody continues another's upload.
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};

use crate::storage::disk::metadata::{is_same_file, size_of};
use crate::storage::disk::reserved::{PARTIAL, PREFIX, is_partial_name};
use crate::storage::disk::writers::{Claimed, Holder, is_written_here};
use crate::storage::disk::{boot, names, walk};
use crate::storage::integrity::checksum::brief;
use crate::storage::quota::meter::Meter;

/// Bytes of the target's name that are shown in the partial's, for people who find one: with all that is added no more than
/// eCryptfs takes, which is 143.
const SHOWN: usize = 72;

/// What is told of a partial file's length ends at such a boundary.
const BLOCK: u64 = 4096;

/// The name of the partial file in which the account continues what was cut off.
pub fn name_of(account: &str, target: &[u8]) -> Vec<u8> {
    named(account, target, "")
}

/// A name for an upload beside that one, which nobody continues.
pub fn spare_name(account: &str, target: &[u8]) -> Vec<u8> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    named(
        account,
        target,
        &format!("-{}-{number}", std::process::id()),
    )
}

/// Whether the name is one of those. A finished file has one, too, for the moment in which it is replaced.
pub fn is_spare_name(name: &[u8]) -> bool {
    let Some(name) = name.strip_suffix(PARTIAL) else {
        return false;
    };
    let mut parts = name.rsplit(|&byte| byte == b'-');
    let mut is_number = || {
        let part = parts.next().unwrap_or_default();
        (1..=12).contains(&part.len()) && part.iter().all(u8::is_ascii_digit)
    };
    is_number() && is_number()
}

/// The name under which what has a spare one can be continued.
pub fn resumable_name(spare: &[u8]) -> Option<Vec<u8>> {
    let name = spare
        .strip_suffix(PARTIAL)
        .filter(|_| is_spare_name(spare))?;
    let without = |name: &[u8]| name.iter().rposition(|&byte| byte == b'-');
    let number = without(name)?;
    let process = without(&name[..number])?;
    Some([&name[..process], PARTIAL].concat())
}

fn named(account: &str, target: &[u8], number: &str) -> Vec<u8> {
    let digest = brief(&[account.as_bytes(), b"\0", target].concat());
    let shown = match std::str::from_utf8(target) {
        // Not within a character, which some file systems refuse.
        Ok(text) => {
            let mut ends = (0..=SHOWN.min(text.len())).rev();
            &target[..ends.find(|&end| text.is_char_boundary(end)).unwrap_or(0)]
        }
        Err(_) => &target[..target.len().min(SHOWN)],
    };
    let (digest, number) = (digest.as_bytes(), number.as_bytes());
    [PREFIX, shown, b"-", digest, number, PARTIAL].concat()
}

/// What there is of a partial file.
#[derive(Debug)]
pub enum Left {
    Nothing,
    /// Somebody writes to it; as it was just now.
    InUse(FileStat),
    Partial(Claimed),
}

/// A new partial file; None where another session has taken it for one that was left.
///
/// # Errors
/// `EEXIST` where there is one; else those of openat(2).
pub fn create(
    directory: BorrowedFd<'_>,
    name: &[u8],
    holder: Option<&Holder>,
) -> Result<Option<Claimed>, Errno> {
    // Read again for its checksum.
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
    Claimed::new(names::open(directory, name, flags)?, holder)
}

/// Claims what is there under the name.
///
/// # Errors
/// Those of openat(2).
pub fn claim(
    directory: BorrowedFd<'_>,
    name: &[u8],
    holder: Option<&Holder>,
) -> Result<Left, Errno> {
    let file = match names::open(directory, name, OFlag::O_RDWR) {
        Err(Errno::ENOENT) => return Ok(Left::Nothing),
        other => other?,
    };
    let stat = fstat(&file)?;
    Ok(match Claimed::new(file, holder)? {
        None => Left::InUse(stat),
        // It may have become the file just now.
        Some(file) if !has_name(directory, name, &stat) => {
            drop(file);
            Left::Nothing
        }
        Some(file) => Left::Partial(file),
    })
}

/// Whether the name in the directory is that of this file: who removes a tree from outside does not ask.
pub fn has_name(directory: BorrowedFd<'_>, name: &[u8], ours: &FileStat) -> bool {
    let there = names::stat(directory, name);
    there.is_ok_and(|there| is_same_file(&there, ours))
}

/// Takes a file of ours away, unless its name is that of another by now.
pub fn remove(directory: BorrowedFd<'_>, name: &[u8], ours: &FileStat) {
    if has_name(directory, name, ours) {
        // Whatever is left is found and removed later.
        let _ = names::unlink(directory, name);
    }
}

/// What clients are told of the length: less than all of it, so that a client which sent everything and never heard so still has
/// something to send, and hears 226.
pub fn told_length(sure: u64) -> u64 {
    sure.saturating_sub(1) / BLOCK * BLOCK
}

/// Facts of what was cut off, with the length that clients are told; None where that is nothing.
pub fn told(directory: BorrowedFd<'_>, name: &[u8]) -> Option<FileStat> {
    let file = names::open(directory, name, OFlag::O_RDONLY).ok()?;
    let mut stat = fstat(&file).ok()?;
    // While it grows nothing of it has been lost yet, and it need not say what is sure.
    let sure = match is_written_here(&stat) {
        true => size_of(&stat),
        false => boot::sure_length(file.as_fd(), &stat),
    };
    let told = told_length(sure);
    stat.st_size = i64::try_from(told).ok()?;
    (told > 0).then_some(stat)
}

/// Removes a partial file that nobody works on, and counts that. Whether there was one.
///
/// # Errors
/// Those of openat(2) and unlinkat(2).
pub fn discard(directory: BorrowedFd<'_>, name: &[u8], meter: &Meter) -> Result<bool, Errno> {
    let Left::Partial(file) = claim(directory, name, None)? else {
        return Ok(false);
    };
    names::unlink(directory, name)?;
    meter.went(size_of(&file.stat), 1);
    Ok(true)
}

/// The same of all in a directory that holds nothing else, so that it can be removed. False where it holds anything else, or
/// somebody works on one: then all of them stay.
///
/// # Errors
/// As [`discard`]; those of reading the directory.
pub fn discard_all(directory: BorrowedFd<'_>, meter: &Meter) -> Result<bool, Errno> {
    let names: Vec<Vec<u8>> = walk::names(directory)?.collect::<Result<_, _>>()?;
    if !names.iter().all(|name| is_partial_name(name)) {
        return Ok(false);
    }
    let mut claimed = Vec::new();
    for name in names {
        match claim(directory, &name, None)? {
            Left::Partial(file) => claimed.push((name, file)),
            Left::Nothing => {}
            Left::InUse(_) => return Ok(false),
        }
    }
    for (name, file) in claimed {
        names::unlink(directory, &name)?;
        meter.went(size_of(&file.stat), 1);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn names_fit_everywhere_and_tell_accounts_and_targets_apart() {
        let long = "x".repeat(255);
        let wide = format!("x{}", "é".repeat(127));
        let mut names = Vec::new();
        for account in ["anna", "berta"] {
            for target in [&long, &long[1..], &wide, "a"] {
                names.push(name_of(account, target.as_bytes()));
                assert!(!is_spare_name(&names[names.len() - 1]));
                names.push(spare_name(account, target.as_bytes()));
                assert!(is_spare_name(&names[names.len() - 1]));
                let resumable = resumable_name(&names[names.len() - 1]);
                assert_eq!(resumable.as_ref(), Some(&names[names.len() - 2]));
            }
        }
        for name in &names {
            assert!(name.len() <= 143 && is_partial_name(name));
            assert!(std::str::from_utf8(name).is_ok(), "no character is cut");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 16);
        assert_eq!(name_of("anna", b"a"), name_of("anna", b"a"));
        let not_text = [0xff; 255];
        assert!(name_of("anna", &not_text).len() <= 143);
    }

    #[test]
    fn less_than_all_of_it_is_told() {
        for (sure, told) in [
            (0, 0),
            (1, 0),
            (4096, 0),
            (4097, 4096),
            (8192, 4096),
            (50_000, 49_152),
        ] {
            assert_eq!(told_length(sure), told, "{sure}");
        }
    }

    #[test]
    fn what_has_lost_the_name_takes_nothing_of_anothers_away() {
        let directory = tempfile::tempdir().unwrap();
        let fd = File::open(directory.path()).unwrap();
        let name = name_of("anna", b"file");
        let first = create(fd.as_fd(), &name, None).unwrap().unwrap();
        remove(fd.as_fd(), &name, &first.stat);
        let second = create(fd.as_fd(), &name, None).unwrap().unwrap();
        assert!(!has_name(fd.as_fd(), &name, &first.stat));
        remove(fd.as_fd(), &name, &first.stat);
        assert!(has_name(fd.as_fd(), &name, &second.stat));
    }
}
