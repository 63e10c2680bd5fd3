//! The transfer log in the format of xferlog(5), for the tools that read it. Written by a thread of its own, with one `write` a
//! line; opened again on request, for log rotation.
//!
//! It has every transfer of users with a name of their own. Of the anonymous user, who may be anybody, it has so many a second;
//! how many were left out is told in the log.
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::limit::Share;
use super::queue::Queue;

/// One finished or broken transfer.
#[derive(Debug)]
pub struct Entry<'a> {
    pub duration: Duration,
    pub peer: IpAddr,
    pub bytes: u64,
    /// The path on the host.
    pub file: &'a [u8],
    pub ascii: bool,
    pub direction: Direction,
    /// The account is the anonymous one.
    pub anonymous: bool,
    pub user: &'a [u8],
    pub complete: bool,
    /// The SHA-256 of the whole file in hexadecimal, where it is known.
    pub sha256: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Incoming,
    /// To the client.
    Outgoing,
    /// Removed by the client.
    Deleted,
}

/// Where it is, and what leads there. A disk that hangs holds up no session.
#[derive(Debug)]
pub struct TransferLog {
    path: PathBuf,
    /// Until the thread begins that writes.
    file: Mutex<Option<File>>,
    queue: OnceLock<Queue<Item>>,
    anonymous: Arc<Mutex<Share>>,
    /// Read once, on the thread that starts the server: finding it out takes more stack than a session should have.
    zone: TimeZone,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// From here on lines go into this one.
    File(File),
}

/// Lines that wait for the disk.
const WAITING: usize = 4096;

/// Transfers of the anonymous user that are written in a second, and at once.
const ANONYMOUS: Share = Share::new("transfers of anonymous users", 50, 1000);

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

impl TransferLog {
    /// Opens or creates the file for appending.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(Some(append_to(path)?)),
            queue: OnceLock::new(),
            anonymous: Arc::new(Mutex::new(ANONYMOUS)),
            zone: TimeZone::system(),
        })
    }

    /// To be called once, before anything is written, when the process may have threads and is confined as they are to be.
    pub fn start(&self) -> io::Result<()> {
        let file = self
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut file) = file else { return Ok(()) };
        let shown = self.path.clone();
        let anonymous = Arc::clone(&self.anonymous);
        let queue = Queue::start("transfer-log", WAITING, move |item, lost| {
            if lost > 0 {
                log::error!(
                    "{lost} lines of the transfer log {} were lost: the disk did not take them in time",
                    shown.display()
                );
            }
            match item {
                None => {}
                Some(Item::File(new)) => file = new,
                Some(Item::Line(line)) => {
                    if let Err(error) = file.write_all(&line) {
                        log::error!(
                            "cannot write to the transfer log {}: {error}",
                            shown.display()
                        );
                    }
                }
            }
            let (told, wake) = due(&anonymous, Instant::now());
            if let Some(told) = told {
                log::warn!("the transfer log {}: {told}", shown.display());
            }
            wake
        })?;
        let _ = self.queue.set(queue);
        Ok(())
    }

    fn push(&self, item: Item) {
        if let Some(queue) = self.queue.get() {
            queue.push(item);
        }
    }

    /// Opens the path again, for it may be a new file by now; the old one stays in use when that fails.
    pub fn reopen(&self) -> io::Result<()> {
        self.push(Item::File(append_to(&self.path)?));
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has one line written; a failure is logged, never fatal.
    pub fn write(&self, entry: &Entry<'_>) {
        if entry.anonymous && !self.has_room_for_anonymous() {
            return;
        }
        let line = line(
            entry,
            &Timestamp::now()
                .to_zoned(self.zone.clone())
                .strftime("%a %b %e %H:%M:%S %Y")
                .to_string(),
        );
        self.push(Item::Line(line));
    }

    /// Waits a moment until all lines are written.
    pub fn end(&self, time: Duration) {
        if let Some(queue) = self.queue.get() {
            queue.end(time);
        }
        let mut anonymous = locked(&self.anonymous);
        if anonymous.due().is_some() {
            let told = anonymous.tell(Instant::now());
            log::warn!("the transfer log {}: {told}", self.path.display());
        }
    }

    fn has_room_for_anonymous(&self) -> bool {
        let now = Instant::now();
        let mut anonymous = locked(&self.anonymous);
        let has_room = anonymous.take(now);
        if !has_room && anonymous.leave_out(now, 1) {
            // From now on somebody has to tell of it in time.
            if let Some(queue) = self.queue.get() {
                queue.look();
            }
        }
        has_room
    }
}

fn locked(share: &Mutex<Share>) -> MutexGuard<'_, Share> {
    share.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be told by now of lines that were left out, and when there will be something to tell.
fn due(share: &Mutex<Share>, now: Instant) -> (Option<String>, Option<Instant>) {
    let mut share = locked(share);
    let told = share.due().filter(|due| *due <= now);
    let told = told.map(|_| share.tell(now));
    (told, share.due())
}

fn line(entry: &Entry<'_>, now: &str) -> Vec<u8> {
    let seconds = entry.duration.as_secs_f64().ceil().max(1.0);
    let mut line = format!("{now} {seconds:.0} {} {} ", entry.peer, entry.bytes).into_bytes();
    // The fields are separated by spaces: what would break them becomes `_`, as every FTP server does it.
    line.extend(one_word(entry.file));
    let kind = if entry.ascii { 'a' } else { 'b' };
    let direction = match entry.direction {
        Direction::Incoming => 'i',
        Direction::Outgoing => 'o',
        Direction::Deleted => 'd',
    };
    let access = if entry.anonymous { 'a' } else { 'r' };
    line.extend(format!(" {kind} _ {direction} {access} ").into_bytes());
    line.extend(one_word(entry.user));
    line.extend(format!(" ftp 0 * {}", if entry.complete { 'c' } else { 'i' }).into_bytes());
    // A word more than xferlog(5) has, where readers that count words from the front do not look.
    if let Some(digest) = entry.sha256 {
        line.extend(format!(" sha256={digest}").into_bytes());
    }
    line.push(b'\n');
    line
}

fn one_word(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|&byte| {
        if byte <= b' ' || byte == 0x7f {
            b'_'
        } else {
            byte
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_fields_of_xferlog_5() {
        let mut entry = Entry {
            duration: Duration::from_millis(1500),
            peer: IpAddr::from([127, 0, 0, 2]),
            bytes: 42,
            file: b"/srv/a b\n.jpg",
            ascii: false,
            direction: Direction::Incoming,
            anonymous: false,
            user: b"backup",
            complete: true,
            sha256: None,
        };
        assert_eq!(
            line(&entry, "Tue Nov 24 12:00:00 2026"),
            b"Tue Nov 24 12:00:00 2026 2 127.0.0.2 42 /srv/a_b_.jpg b _ i r backup ftp 0 * c\n"
        );
        entry.sha256 = Some("ab12");
        let line = line(&entry, "Tue Nov 24 12:00:00 2026");
        assert!(line.ends_with(b" ftp 0 * c sha256=ab12\n"), "{line:?}");
    }
}
