//! The file that keeps bans, a line each. It is written in place, so that the server, which opened it before it gave up its
//! rights, needs none of them for it.
//!
//! Within one boot a ban ends by the clock that counts from the boot, whatever becomes of the time of day. Behind another
//! boot there is only the time of day to tell what is left, and it is believed where it can be right: it was set when the
//! ban began, and is no earlier now. Otherwise the whole ban is left, and never more than that.
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
use crate::os::clock::{Moment, SET_SINCE};

/// Bytes that are read: more than the server ever writes.
const LARGEST: usize = 1024 * 1024;

/// How long somebody else may hold the lock; nobody needs it for more than a moment.
const PATIENCE: Duration = Duration::from_millis(200);

const HEAD: &str = "# Addresses that thriftpd keeps out, each with the end of its ban in seconds since 1970, its length in seconds,\n# and its end in seconds since a boot. Change it with `thriftpd ban`.\n";

/// A ban, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// When it ends, since the boot.
    pub until: i64,
    /// How long it is in all.
    pub length: i64,
}

impl Ban {
    /// One that begins at this second since the boot.
    pub fn new(since_boot: i64, length: Duration) -> Self {
        let length = i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
        Self {
            until: since_boot.saturating_add(length),
            length,
        }
    }

    /// Seconds that are left, at this second since the boot.
    pub fn left(&self, since_boot: i64) -> u64 {
        let left = self.until.saturating_sub(since_boot);
        u64::try_from(left).unwrap_or(0)
    }
}

/// Banned addresses.
pub type Banned = BTreeMap<IpAddr, Ban>;

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
        let now = Moment::now();
        for (address, ban) in &banned {
            text += &line(*address, ban, &now);
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
        let text = String::from_utf8_lossy(&bytes[..length]);
        Ok(parse(&text, &Moment::now()))
    }
}

/// What the file holds of a ban.
fn line(address: IpAddr, ban: &Ban, now: &Moment) -> String {
    let end = ban.until.saturating_sub(now.since_boot);
    let end = end.saturating_add(now.time);
    let Ban { until, length } = ban;
    // Where the boot has no name, the line stands for no boot.
    let boot = match now.boot.as_str() {
        "" => "-",
        boot => boot,
    };
    format!("{address} {end} {length} {boot} {until}\n")
}

/// Lines that are none of ours are passed over.
fn parse(text: &str, now: &Moment) -> Banned {
    let bans = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        let end: i64 = words.next()?.parse().ok()?;
        let by_time = end.saturating_sub(now.time);
        let (left, length) = match (words.next(), words.next(), words.next()) {
            // A line of an earlier version.
            (None, ..) if now.time >= SET_SINCE => (by_time, by_time),
            (Some(length), Some(boot), Some(until)) => {
                let length: i64 = length.parse().ok()?;
                let until: i64 = until.parse().ok()?;
                let begun = end.saturating_sub(length);
                let left = match boot == now.boot {
                    true => until.saturating_sub(now.since_boot),
                    false if (SET_SINCE..=now.time).contains(&begun) => by_time,
                    false => length,
                };
                (left.min(length), length)
            }
            _ => return None,
        };
        let until = now.since_boot.saturating_add(left);
        Some((source(address), Ban { until, length }))
    });
    bans.collect()
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
        let ban = Ban::new(Moment::now().since_boot, Duration::from_secs(900));
        other
            .change(|banned| banned.extend([(address, ban)]))
            .unwrap();
        assert_eq!(other.read_if_changed().unwrap(), None);
        assert_eq!(
            one.read_if_changed().unwrap(),
            Some(Banned::from([(address, ban)]))
        );
        one.change(Banned::clear).unwrap();
        assert_eq!(other.read_if_changed().unwrap(), Some(Banned::new()));
    }

    #[test]
    fn what_is_no_ban_is_passed_over() {
        let text = "# 1.1.1.1 9\n\n1.1.1.1 9 9 b 9\n1.1.1.2\nnonsense 3\n1.1.1.3 soon\n2001:db8::5 1600000000\n1.1.1.4 1 2 3\n1.1.1.5 9 9 b x\n";
        let expected: [IpAddr; 2] =
            ["1.1.1.1", "2001:db8::"].map(|address| address.parse().unwrap());
        let banned = parse(text, &Moment::new(1_600_000_000, 9, "b"));
        assert_eq!(banned.into_keys().collect::<Vec<_>>(), expected);
    }

    /// Seconds that are left, at `now`, of a ban of 900 s that began at `then`.
    fn left_of(then: &Moment, now: &Moment) -> u64 {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let ban = Ban::new(then.since_boot, Duration::from_secs(900));
        let read = parse(&line(address, &ban, then), now);
        read[&address].left(now.since_boot)
    }

    const TODAY: i64 = 1_800_000_000;

    #[test]
    fn a_clock_that_is_set_changes_no_ban_of_this_boot() {
        let begun = [Moment::new(TODAY, 100, "b"), Moment::new(20, 100, "b")];
        for then in begun {
            for time in [0, 320, TODAY, TODAY + 300, 2 * TODAY] {
                assert_eq!(left_of(&then, &Moment::new(time, 400, "b")), 600);
                assert_eq!(left_of(&then, &Moment::new(time, 1000, "b")), 0);
            }
        }
    }

    #[test]
    fn behind_another_boot_the_time_is_believed_where_it_can_be_right() {
        let then = Moment::new(TODAY, 5000, "a");
        let at = |time| left_of(&then, &Moment::new(time, 40, "b"));
        assert_eq!(at(TODAY + 300), 600);
        assert_eq!(at(TODAY + 900), 0);
        assert_eq!(at(TODAY + 90_000), 0);
        // It was not set yet, or set back.
        assert_eq!(at(30), 900);
        assert_eq!(at(TODAY - 5000), 900);
        // Nor was it when the ban began.
        let unset = Moment::new(50, 50, "a");
        assert_eq!(left_of(&unset, &Moment::new(TODAY, 40, "b")), 900);
        assert_eq!(left_of(&unset, &Moment::new(30, 40, "b")), 900);
        // Where boots have no names, no two are the same.
        let nameless = Moment::new(TODAY, 5000, "");
        assert_eq!(left_of(&nameless, &Moment::new(TODAY + 300, 40, "")), 600);
    }
}
