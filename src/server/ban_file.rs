//! The file that keeps bans: a line each, an address and the second since 1970 at which it ends. It is written in place, so
//! that the server, which opened it before it gave up its rights, needs none of them for it.
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::os::addresses::source;

/// Bytes that are read: more than the server ever writes.
const LARGEST: usize = 1024 * 1024;

/// How long somebody else may hold the lock; nobody needs it for more than a moment.
const PATIENCE: Duration = Duration::from_millis(200);

const HEAD: &str = "# Addresses that thriftpd keeps out, each with the end of its ban in seconds since 1970.\n# Change it with `thriftpd ban`.\n";

/// Banned addresses with the end of the ban, in seconds since 1970.
pub type Banned = BTreeMap<IpAddr, u64>;

/// The open file.
#[derive(Debug)]
pub struct BanFile {
    path: PathBuf,
    file: File,
    /// As it was when it was last read or written.
    seen: Option<Stamp>,
}

/// When it was changed (seconds, nanoseconds), and its size.
type Stamp = (i64, i64, u64);

impl BanFile {
    /// # Errors
    /// When it can neither be opened nor made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            seen: None,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds, where that has changed since it was last looked at.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_if_changed(&mut self) -> io::Result<Option<Banned>> {
        let stamp = self.stamp()?;
        if self.seen == Some(stamp) {
            return Ok(None);
        }
        self.seen = Some(stamp);
        self.read().map(Some)
    }

    /// Changes what it holds, alone among all that do.
    ///
    /// # Errors
    /// When it is locked for too long, or cannot be read or written.
    pub fn change(&mut self, change: impl FnOnce(&mut Banned)) -> io::Result<Banned> {
        let _lock = lock(self.file.try_clone()?)?;
        let mut banned = self.read()?;
        change(&mut banned);
        let mut text = HEAD.to_owned();
        for (address, until) in &banned {
            text += &format!("{address} {until}\n");
        }
        let written = self.file.write_all_at(text.as_bytes(), 0);
        let written = written.and_then(|()| self.file.set_len(text.len() as u64));
        // Whatever is in it now is our own doing: half of it is not taken for somebody else's change.
        self.seen = Some(self.stamp()?);
        written.map(|()| banned)
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let metadata = self.file.metadata()?;
        Ok((metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
    }

    fn read(&self) -> io::Result<Banned> {
        let mut bytes = vec![0; LARGEST.min(self.file.metadata()?.len() as usize)];
        let mut length = 0;
        while length < bytes.len() {
            match self.file.read_at(&mut bytes[length..], length as u64)? {
                0 => break,
                more => length += more,
            }
        }
        Ok(parse(&String::from_utf8_lossy(&bytes[..length])))
    }
}

/// Lines that are none of ours are passed over.
fn parse(text: &str) -> Banned {
    let lines = text.lines().filter_map(|line| {
        let (address, until) = line.split_once(' ')?;
        let address: IpAddr = address.parse().ok()?;
        Some((source(address), until.trim().parse().ok()?))
    });
    lines.collect()
}

fn lock(file: File) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + PATIENCE;
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EAGAIN | Errno::EINTR)) if Instant::now() < deadline => {
                file = again;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_writes_another_reads_and_only_when_it_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bans");
        let mut one = BanFile::open(&path).unwrap();
        let mut other = BanFile::open(&path).unwrap();
        assert_eq!(one.read_if_changed().unwrap(), Some(Banned::new()));
        assert_eq!(one.read_if_changed().unwrap(), None);
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        other
            .change(|banned| banned.extend([(address, 7)]))
            .unwrap();
        assert_eq!(other.read_if_changed().unwrap(), None);
        assert_eq!(
            one.read_if_changed().unwrap(),
            Some(Banned::from([(address, 7)]))
        );
        one.change(Banned::clear).unwrap();
        assert_eq!(other.read_if_changed().unwrap(), Some(Banned::new()));
    }

    #[test]
    fn what_is_no_ban_is_passed_over() {
        let text = "# 1.1.1.1 9\n\n1.1.1.1 9\n1.1.1.2\nnonsense 3\n1.1.1.3 soon\n2001:db8::5 8\n";
        let expected: [IpAddr; 2] =
            ["1.1.1.1", "2001:db8::"].map(|address| address.parse().unwrap());
        assert_eq!(parse(text).into_keys().collect::<Vec<_>>(), expected);
    }
}
