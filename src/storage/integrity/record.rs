//! What was uploaded last and how much of late, remembered of each user in the root or folder that it went to, so that it can
//! be told when uploads fail to come, and stays with a disk that is moved.
//!
//! A record is one small file in [`STATE`](crate::storage::disk::reserved::STATE), written in place under a lock: nothing is lost of it but
//! by a crash in the middle of that one write, after which it counts as none. It is text:
//!
//! ```text
//! thriftpd-uploads 1 LENGTH DIGEST        of all behind this line
//! last TIME SIZE PATH                     seconds since 1970, bytes, the virtual path with %XX for what is not printable
//! HOUR BYTES FILES                        one line an hour in which something came, in hours since 1970
//! ```
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::fstat;

use crate::os::clock::now;
use crate::storage::disk::metadata::{Kind, kind, size_of};
use crate::storage::disk::root::Root;
use crate::storage::disk::system::errno_of;
use crate::storage::error::{At, Error};
use crate::storage::integrity::checksum::brief;
use crate::storage::quota::state::{open_state, read_state};
use crate::storage::rules::Usage;

const HOUR: i64 = 3600;

/// Hours that are remembered: a week.
const HOURS: usize = 7 * 24;

/// More than the longest record has: the longest path is 4095 bytes, three times that when all are escaped, and an hour's line
/// has three numbers.
const LONGEST: u64 = 64 * 1024;

/// Bytes of a record's first line at most, and of any of the others but the path in it.
const HEAD: usize = 64;

/// The last upload that was complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastUpload {
    /// Seconds since 1970.
    pub time: i64,
    /// Of the whole file, in bytes.
    pub size: u64,
    /// The virtual path.
    pub path: Vec<u8>,
}

/// What a user has uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    pub last: Option<LastUpload>,
    /// By hours since 1970: the bytes that came, and the files.
    hours: BTreeMap<i64, Usage>,
}

impl Uploaded {
    /// What came in the hours up to `now`, the present one included; `now` is in seconds since 1970.
    pub fn within(&self, hours: usize, now: i64) -> Usage {
        let now = now.div_euclid(HOUR);
        let from = now.saturating_sub_unsigned(hours as u64);
        let came = self.hours.range(from.saturating_add(1)..=now);
        came.fold(Usage::default(), |sum, (_, usage)| sum.and(*usage))
    }

    /// Takes up what the same user has uploaded elsewhere.
    pub fn merge(&mut self, other: Self) {
        let time = |last: &Option<LastUpload>| last.as_ref().map(|last| last.time);
        if time(&other.last) > time(&self.last) {
            self.last = other.last;
        }
        for (hour, usage) in other.hours {
            self.add(hour, usage);
        }
    }

    fn add(&mut self, hour: i64, usage: Usage) {
        let sum = self.hours.entry(hour).or_default();
        *sum = sum.and(usage);
    }

    fn note(&mut self, last: LastUpload, received: u64) {
        let hour = last.time.div_euclid(HOUR);
        let (bytes, files) = (received, 1);
        self.add(hour, Usage { bytes, files });
        let oldest = hour.saturating_sub_unsigned(HOURS as u64);
        self.hours.retain(|&hour, _| hour > oldest);
        // A clock that once was wrong.
        while self.hours.len() > HOURS {
            self.hours.pop_last();
        }
        self.last = Some(last);
    }

    fn text(&self) -> String {
        let mut body = String::with_capacity(4 * HEAD);
        if let Some(LastUpload { time, size, path }) = &self.last {
            let path = escaped(path, |byte| byte.is_ascii_graphic());
            let _ = writeln!(body, "last {time} {size} {path}");
        }
        for (hour, Usage { bytes, files }) in &self.hours {
            let _ = writeln!(body, "{hour} {bytes} {files}");
        }
        let (length, digest) = (body.len(), brief(body.as_bytes()));
        let mut text = String::with_capacity(HEAD + length);
        let _ = write!(text, "thriftpd-uploads 1 {length} {digest}\n{body}");
        text
    }

    /// None of what is damaged, or of another version.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().position(|&byte| byte == b'\n')?;
        let (head, body) = (std::str::from_utf8(&text[..end]).ok()?, &text[end + 1..]);
        let (length, sum) = head.strip_prefix("thriftpd-uploads 1 ")?.split_once(' ')?;
        // A longer record may have been there before.
        let body = body.get(..length.parse().ok()?)?;
        if brief(body) != sum {
            return None;
        }
        let mut uploaded = Self::default();
        for line in std::str::from_utf8(body).ok()?.lines() {
            let mut words = line.split(' ');
            match (words.next()?, words.next()?, words.next()?, words.next()) {
                ("last", time, size, Some(path)) => {
                    uploaded.last = Some(LastUpload {
                        time: time.parse().ok()?,
                        size: size.parse().ok()?,
                        path: unescaped(path.as_bytes())?,
                    });
                }
                (hour, bytes, files, None) => {
                    let (bytes, files) = (bytes.parse().ok()?, files.parse().ok()?);
                    let usage = Usage { bytes, files };
                    uploaded.hours.insert(hour.parse().ok()?, usage);
                }
                _ => return None,
            }
        }
        Some(uploaded)
    }
}

/// A file system may not tell upper from lower case, and not take every character.
fn is_plain_in_names(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')
}

fn escaped(bytes: &[u8], plain: impl Fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if plain(byte) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut ahead = text.iter();
    while let Some(&byte) = ahead.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(*ahead.next()?).to_digit(16);
        bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    Some(bytes)
}

/// The file of a user, whose name has at most 64 bytes.
fn name_of(user: &str) -> Vec<u8> {
    format!("uploads-{}", escaped(user.as_bytes(), is_plain_in_names)).into_bytes()
}

/// Notes that the user has uploaded something to the root just now.
///
/// # Errors
/// Those of opening and writing the record.
pub(in crate::storage) fn note(
    root: &Root,
    user: &str,
    path: &[u8],
    size: u64,
    received: u64,
) -> Result<(), Errno> {
    let file = open_state(root, &name_of(user))?;
    locked(file, FlockArg::LockExclusive, |file| {
        let mut uploaded = contents(file)?;
        let (time, path) = (now(), path.to_vec());
        uploaded.note(LastUpload { time, size, path }, received);
        let written = file.write_all_at(uploaded.text().as_bytes(), 0);
        written.map_err(errno_of)
    })
}

/// What is remembered of the user in a directory of the host that is a root or folder; nothing where no record is, or a
/// damaged one.
///
/// # Errors
/// `NotMounted` while a file system is required at the directory and none is there; when it or the record cannot be read.
pub fn uploaded(top: &Path, require_mount: bool, user: &str) -> Result<Uploaded, Error> {
    let root = Root::open_or_guard(top, require_mount).at(top.as_os_str().as_encoded_bytes())?;
    let file = match read_state(&root, &name_of(user)) {
        Err(Errno::ENOENT) => return Ok(Uploaded::default()),
        other => other.at(top.as_os_str().as_encoded_bytes())?,
    };
    locked(file, FlockArg::LockShared, contents).at(top.as_os_str().as_encoded_bytes())
}

/// Where the file system has no locks, what happens in the same moment may be counted once.
fn locked<T>(
    file: File,
    how: FlockArg,
    act: impl FnOnce(&File) -> Result<T, Errno>,
) -> Result<T, Errno> {
    match Flock::lock(file, how) {
        Ok(file) => act(&file),
        Err((file, Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS)) => act(&file),
        Err((_, errno)) => Err(errno),
    }
}

/// What a record says; nothing where it is damaged.
fn contents(file: &File) -> Result<Uploaded, Errno> {
    let stat = fstat(file)?;
    if kind(&stat) != Kind::File {
        return Err(Errno::EINVAL);
    }
    let mut text = vec![0; size_of(&stat).min(LONGEST) as usize];
    let read = file.read_exact_at(&mut text, 0);
    read.map_err(errno_of)?;
    Ok(Uploaded::parse(&text).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn read(directory: &tempfile::TempDir, user: &str) -> Uploaded {
        uploaded(directory.path(), false, user).unwrap()
    }

    fn upload(time: i64) -> LastUpload {
        let path = b"/f".to_vec();
        LastUpload {
            time,
            size: 1,
            path,
        }
    }

    #[test]
    fn what_is_noted_is_read_again_whatever_it_is_called() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let path = b"/a b\nlast 1 2 /forged\n%\xff";
        let longest = [b"/".as_slice(), &[b'\n'; 4094]].concat();
        for user in ["anna", "../x", "Anna", &"\u{e9}".repeat(32)] {
            note(&root, user, path, 10, 4).unwrap();
            note(&root, user, &longest, 10, 4).unwrap();
            note(&root, user, path, 20, 5).unwrap();
            let read = read(&directory, user);
            let (bytes, files) = (13, 3);
            assert_eq!(read.within(24, now()), Usage { bytes, files });
            let last = read.last.unwrap();
            assert_eq!((last.path.as_slice(), last.size), (path.as_slice(), 20));
        }
        let state = directory.path().join(".thriftpd");
        let mode = fs::metadata(&state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let mut names: Vec<String> = fs::read_dir(&state)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names[0], "uploads-%41nna");
        assert_eq!(names[2], "uploads-..%2fx");
        assert_eq!(read(&directory, "bob").last, None);
        assert!(uploaded(&directory.path().join("none"), false, "anna").is_err());
    }

    #[test]
    fn a_week_is_remembered_and_no_more() {
        let mut uploaded = Uploaded::default();
        for hour in 0..400 {
            uploaded.note(upload(hour * HOUR), 10);
        }
        let now = 399 * HOUR + 1;
        assert_eq!(uploaded.hours.len(), HOURS);
        assert_eq!(uploaded.within(24, now).files, 24);
        assert_eq!(uploaded.within(7 * 24, now).bytes, 10 * 7 * 24);
        assert_eq!(uploaded.within(7 * 24, now + 100 * HOUR).files, 68);
        // A clock that jumps.
        uploaded.note(upload(9000 * HOUR), 1);
        uploaded.note(upload(now), 1);
        assert_eq!(uploaded.last, Some(upload(now)));
        assert!(uploaded.text().len() < LONGEST as usize);
        assert_eq!(Uploaded::parse(uploaded.text().as_bytes()), Some(uploaded));
    }

    #[test]
    fn the_later_upload_counts_of_two_records() {
        let of = |time, bytes| {
            let mut uploaded = Uploaded::default();
            uploaded.note(upload(time), bytes);
            uploaded
        };
        for (first, second) in [(100, 200), (200, 100)] {
            let mut merged = of(first, 1);
            merged.merge(of(second, 2));
            merged.merge(Uploaded::default());
            assert_eq!(merged.last.as_ref().unwrap().time, 200);
            assert_eq!(merged.within(1, 300), Usage { bytes: 3, files: 2 });
        }
    }

    #[test]
    fn a_damaged_record_is_none_and_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        note(&root, "anna", b"/first", 1, 1).unwrap();
        let file = directory.path().join(".thriftpd/uploads-anna");
        let whole = fs::read(&file).unwrap();
        let mut turned = whole.clone();
        turned[50] ^= 1;
        let half = whole[..whole.len() / 2].to_vec();
        let other_version = String::from_utf8(whole.clone()).unwrap();
        let other_version = other_version.replacen(" 1 ", " 2 ", 1).into_bytes();
        for damaged in [turned, half, other_version, b"\n".to_vec(), Vec::new()] {
            fs::write(&file, &damaged).unwrap();
            assert_eq!(read(&directory, "anna").last, None);
            note(&root, "anna", b"/second", 1, 1).unwrap();
            let read = read(&directory, "anna");
            assert_eq!(read.last.unwrap().path, b"/second");
            assert_eq!(read.hours.len(), 1);
        }
    }

    #[test]
    fn a_link_in_the_place_of_the_record_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let target = elsewhere.path().join("file");
        fs::write(&target, "theirs").unwrap();
        fs::create_dir(directory.path().join(".thriftpd")).unwrap();
        symlink(&target, directory.path().join(".thriftpd/uploads-anna")).unwrap();
        assert_eq!(note(&root, "anna", b"/f", 1, 1), Err(Errno::ELOOP));
        fs::remove_dir_all(directory.path().join(".thriftpd")).unwrap();
        symlink(elsewhere.path(), directory.path().join(".thriftpd")).unwrap();
        assert!(note(&root, "anna", b"/f", 1, 1).is_err());
        assert!(uploaded(directory.path(), false, "anna").is_err());
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
    }
}
