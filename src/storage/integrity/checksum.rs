//! Checksums of files: computed piece by piece, and that of an upload kept with the file for as long as it holds.
//!
//! It is kept in an extended attribute with the size and the time of modification that the file had then: a file that was
//! changed since by whatever means, this server or a program on the host, has no stored checksum any more.
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;

use blake2::Blake2b;
use blake2::digest::consts::U8;
use md5::{Digest as _, Md5};
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::{FileStat, fstat};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};

use crate::storage::disk::metadata::size_of;
use crate::storage::disk::system;

/// Where the stored checksum lies: the digest in lower-case hexadecimal, the size in bytes, and the time of modification in
/// seconds since 1970 with nine decimals, with one space between.
const ATTRIBUTE: &CStr = c"user.thriftpd.sha256";

/// More than the longest attribute of ours has, in bytes.
const LONGEST_ATTRIBUTE: usize = 160;

/// Digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

/// Bytes read at a time. The control connection is looked at in between.
const PIECE: u64 = 128 * 1024;

/// How a checksum is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    Sha256,
    Sha512,
    Sha1,
    Md5,
    Crc32,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [
        Self::Sha256,
        Self::Sha512,
        Self::Sha1,
        Self::Md5,
        Self::Crc32,
    ];

    /// The textual name (draft-bryan-ftpext-hash §3.1).
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
            Self::Sha1 => "SHA-1",
            Self::Md5 => "MD5",
            Self::Crc32 => "CRC32",
        }
    }

    /// The one of this name, whatever the case.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// A checksum under way.
#[derive(Clone)]
pub enum Digest {
    Sha(Context),
    Md5(Md5),
    Crc32(crc32fast::Hasher),
}

impl Digest {
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha(Context::new(&SHA256)),
            Algorithm::Sha512 => Self::Sha(Context::new(&SHA512)),
            Algorithm::Sha1 => Self::Sha(Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
            Algorithm::Md5 => Self::Md5(Md5::new()),
            Algorithm::Crc32 => Self::Crc32(crc32fast::Hasher::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha(context) => context.update(bytes),
            Self::Md5(state) => state.update(bytes),
            Self::Crc32(state) => state.update(bytes),
        }
    }

    /// In lower-case hexadecimal.
    pub fn finish(self) -> String {
        match self {
            Self::Sha(context) => hexadecimal(context.finish().as_ref()),
            Self::Md5(state) => hexadecimal(&state.finalize()),
            Self::Crc32(state) => hexadecimal(&state.finalize().to_be_bytes()),
        }
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest")
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for digit in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
    }
    text
}

/// What tells a few texts apart, in 16 hexadecimal digits.
pub(in crate::storage) fn brief(bytes: &[u8]) -> String {
    hexadecimal(&Blake2b::<U8>::digest(bytes))
}

/// Why a checksum was not computed to the end.
#[derive(Debug)]
pub enum Stopped<E> {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// It became shorter meanwhile.
    Shrunk,
    /// `go_on` said so.
    By(E),
}

/// The checksum of a range of the file, in lower-case hexadecimal. Takes the memory of one piece, however long the range;
/// `go_on` is told the bytes of each piece when it was read, and may end the work.
///
/// # Errors
/// What stopped it.
pub fn compute<E>(
    file: &File,
    range: Range<u64>,
    algorithm: Algorithm,
    go_on: &mut dyn FnMut(usize) -> Result<(), E>,
) -> Result<String, Stopped<E>> {
    let mut digest = Digest::new(algorithm);
    feed(&mut digest, file, range, go_on)?;
    Ok(digest.finish())
}

/// Adds a range of the file to a checksum, as [`compute`] does it, and with its errors.
pub fn feed<E>(
    digest: &mut Digest,
    file: &File,
    range: Range<u64>,
    go_on: &mut dyn FnMut(usize) -> Result<(), E>,
) -> Result<(), Stopped<E>> {
    let piece = |from: u64| range.end.saturating_sub(from).min(PIECE) as usize;
    let mut buffer = vec![0; piece(range.start)];
    let mut position = range.start;
    advise(file, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
    while position < range.end {
        match file.read_at(&mut buffer[..piece(position)], position) {
            Ok(0) => return Err(Stopped::Shrunk),
            Ok(read) => {
                digest.update(&buffer[..read]);
                position += read as u64;
                go_on(read).map_err(Stopped::By)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Stopped::Unreadable(error)),
        }
    }
    Ok(())
}

/// Has what the kernel keeps of the file in memory forgotten, as far as it is on the disk: what is read next comes from
/// there, and what was read does not push out what others need.
pub(in crate::storage) fn forget_pages(file: &File) {
    advise(file, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

fn advise(file: &File, advice: PosixFadviseAdvice) {
    // Where the advice is not taken, reading works all the same.
    let _ = posix_fadvise(file, 0, 0, advice);
}

// ---- kept with the file

/// A checksum that was stored, and what it holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Record {
    /// SHA-256 in lower-case hexadecimal.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    pub modified: Modified,
}

/// A time of modification: seconds since 1970, and nanoseconds.
pub(in crate::storage) type Modified = (i64, i64);

impl Record {
    pub fn holds_for(&self, stat: &FileStat) -> bool {
        self.is_of_size(stat) && self.modified == modified(stat)
    }

    pub fn is_of_size(&self, stat: &FileStat) -> bool {
        size_of(stat) == self.size
    }

    pub(in crate::storage) fn encode(&self) -> String {
        let (seconds, nanoseconds) = self.modified;
        format!("{} {} {seconds}.{nanoseconds:09}", self.digest, self.size)
    }

    /// None for anything that was not written by [`Record::encode`].
    pub(in crate::storage) fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut words = text.split(' ');
        let (digest, size, time) = (words.next()?, words.next()?, words.next()?);
        let (seconds, nanoseconds) = time.split_once('.')?;
        let record = Self {
            digest: digest.to_owned(),
            size: size.parse().ok()?,
            modified: (seconds.parse().ok()?, nanoseconds.parse().ok()?),
        };
        let is_digest = digest.len() == SHA256_DIGITS
            && digest
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (is_digest && record.encode() == text).then_some(record)
    }
}

fn modified(stat: &FileStat) -> Modified {
    (stat.st_mtime, stat.st_mtime_nsec)
}

/// What is stored with the file, whether it still holds or not; None also where it is malformed, and on file systems without
/// attributes.
///
/// # Errors
/// Those of reading the attribute.
pub(in crate::storage) fn record(file: BorrowedFd<'_>) -> Result<Option<Record>, Errno> {
    match system::attribute(file, ATTRIBUTE, LONGEST_ATTRIBUTE) {
        Ok(value) => Ok(Record::parse(&value)),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ERANGE) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The SHA-256 of the whole file in lower-case hexadecimal, where it was stored and the file was not changed since.
pub fn stored(file: &File) -> Option<String> {
    valid_record(file.as_fd()).map(|record| record.digest)
}

/// The record, where it holds for the file as it is.
pub(in crate::storage) fn valid_record(file: BorrowedFd<'_>) -> Option<Record> {
    let record = record(file).ok()??;
    let stat = fstat(file).ok()?;
    record.holds_for(&stat).then_some(record)
}

/// Stores the SHA-256 of the whole file, in hexadecimal, for the size and the time of modification that it has now. Whether
/// it is kept: file systems without extended attributes keep none, and neither do files that the server may not write to.
pub fn store(file: &File, digest: &str) -> bool {
    let Ok(stat) = fstat(file) else { return false };
    let record = Record {
        digest: digest.to_ascii_lowercase(),
        size: size_of(&stat),
        modified: modified(&stat),
    };
    keep(file.as_fd(), &record)
}

/// Takes away what is stored: the file is going to hold something else.
pub(in crate::storage) fn forget(file: BorrowedFd<'_>) {
    // Where there is none, none is kept.
    let _ = system::remove_attribute(file, ATTRIBUTE);
}

/// Stores a record as it is. Whether it is kept.
pub(in crate::storage) fn keep(file: BorrowedFd<'_>, record: &Record) -> bool {
    system::set_attribute(file, ATTRIBUTE, record.encode().as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ABC: [(Algorithm, &str); 5] = [
        (
            Algorithm::Sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            Algorithm::Sha512,
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
        (Algorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (Algorithm::Md5, "900150983cd24fb0d6963f7d28e17f72"),
        (Algorithm::Crc32, "352441c2"),
    ];

    fn never(_: usize) -> Result<(), ()> {
        Ok(())
    }

    #[test]
    fn digests_are_those_of_the_standards_however_the_bytes_come() {
        for (algorithm, expected) in ABC {
            let mut digest = Digest::new(algorithm);
            digest.update(b"a");
            digest.update(b"");
            digest.update(b"bc");
            assert_eq!(digest.finish(), expected, "{algorithm:?}");
            assert_eq!(
                Algorithm::named(algorithm.name().as_bytes()),
                Some(algorithm)
            );
        }
        assert_eq!(Algorithm::named(b"sha-512"), Some(Algorithm::Sha512));
        assert_eq!(Algorithm::named(b"SHA512"), None);
        assert_eq!(Algorithm::default(), Algorithm::Sha256);
    }

    #[test]
    fn ranges_are_read_in_pieces_and_the_work_can_be_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let contents = ["x".repeat(PIECE as usize + 10).as_str(), "abc"].concat();
        fs::write(&path, contents).unwrap();
        let file = File::open(&path).unwrap();
        let end = PIECE + 13;
        let tail = compute(&file, end - 3..end, Algorithm::Sha256, &mut never).unwrap();
        assert_eq!(tail, ABC[0].1);
        let empty = compute(&file, 7..7, Algorithm::Crc32, &mut never).unwrap();
        assert_eq!(empty, "00000000");
        let beyond = compute(&file, 0..end + 1, Algorithm::Md5, &mut never);
        assert!(matches!(beyond, Err(Stopped::Shrunk)));
        let mut seen = 0;
        let ended = compute(&file, 0..end, Algorithm::Sha1, &mut |bytes| {
            seen += bytes;
            Err("enough")
        });
        assert!(matches!(ended, Err(Stopped::By("enough"))));
        assert_eq!(seen, PIECE as usize);
    }

    #[test]
    fn only_what_was_written_by_this_program_is_read() {
        let digest = ABC[0].1;
        for (time, modified) in [("1.000000002", (1, 2)), ("-5.900000000", (-5, 900_000_000))] {
            let record = Record::parse(format!("{digest} 3 {time}").as_bytes()).unwrap();
            assert_eq!((record.size, record.modified), (3, modified));
        }
        for bad in [
            "",
            "DIGEST",
            "DIGEST 3",
            "DIGEST 3 1",
            "DIGEST 3 1.2",
            "DIGEST 3 1.000000002 ",
            "DIGEST 3 1.000000002\n",
            "DIGEST  3 1.000000002",
            "DIGEST +3 1.000000002",
            "DIGEST -3 1.000000002",
            "DIGEST 03 1.000000002",
            "DIGEST0 3 1.000000002",
            "DIGEST 99999999999999999999 1.000000002",
        ] {
            let bad = bad.replace("DIGEST", digest);
            assert_eq!(Record::parse(bad.as_bytes()), None, "{bad:?}");
        }
        for bad in [&digest.to_uppercase(), &digest[1..]] {
            let bad = format!("{bad} 3 1.000000002");
            assert_eq!(Record::parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(Record::parse(b"\xff"), None);
    }

    #[test]
    fn a_file_system_without_attributes_stores_nothing() {
        let file = File::open("/proc/self/status").unwrap();
        assert!(!store(&file, ABC[0].1));
        assert_eq!(stored(&file), None);
    }
}
