//! Whether the clock can be believed before files are taken away by their age: a clock that is a year ahead for an hour makes every
//! backup old.
//!
//! Each directory in which something is pruned remembers the last moment that was believed, in a file of the server's own. The
//! clock is believed while it has gone on from there, day by day, in the same boot. After another start it must be neither behind what is
//! known nor further ahead of it than a host is usually off. Where nothing is remembered yet, the newest file tells what time
//! it has been. What is stored while the clock may be wrong says nothing about it.
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::ops::{ControlFlow, RangeInclusive};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::storage::disk::clock::{Moment, SET_SINCE, SETTLING};
use crate::storage::disk::reserved::STATE;
use crate::storage::disk::root::Root;
use crate::storage::disk::walk::walk_mount;
use crate::storage::quota::state::open_state;

const DAY: i64 = 24 * 3600;

/// The file in [`STATE`]: one line with time, seconds since the boot, and the boot.
const FILE: &[u8] = b"clock";

/// More than the longest line has, in bytes.
const LONGEST: u64 = 200;

/// Why the clock is not believed. Times are in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It may be set any moment.
    JustStarted,
    Unset,
    Behind {
        now: i64,
        known: i64,
    },
    Ahead {
        now: i64,
        known: i64,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: i64| {
            let time = Timestamp::from_second(time).unwrap_or(Timestamp::UNIX_EPOCH);
            time.strftime("%Y-%m-%d").to_string()
        };
        match *self {
            Self::JustStarted => {
                f.write_str("the system has just started, and its clock may not be set yet")
            }
            Self::Unset => f.write_str("the clock is not set, it says a time before 2020"),
            Self::Behind { now, known } => write!(
                f,
                "the clock says {}, which is before the newest time known here ({})",
                date(now),
                date(known)
            ),
            Self::Ahead { now, known } => write!(
                f,
                "the clock says {}, {} days after the newest time known here ({})",
                date(now),
                (now - known) / DAY,
                date(known)
            ),
        }
    }
}

/// What is known when pruning begins.
#[derive(Clone, Debug)]
pub struct Clock {
    pub now: Moment,
    /// The last moment that was believed, of all directories.
    pub believed: Option<Moment>,
    /// Files stored since then, in seconds since 1970, say nothing: this process may have stored them.
    pub running_since: i64,
    /// Files stored in this time of a clock that was wrong: they are as old as their being found.
    pub misdated: Option<RangeInclusive<i64>>,
    /// The owner says that the clock is right.
    pub is_vouched_for: bool,
}

impl Clock {
    /// Whether a time that the system gave to a file is one of a wrong clock.
    pub fn is_wrong(&self, time: i64) -> bool {
        let is_misdated = self
            .misdated
            .as_ref()
            .is_some_and(|wrong| wrong.contains(&time));
        time < SET_SINCE || time > self.now.time.saturating_add(DAY) || is_misdated
    }

    /// Why the clock is not believed where the root is; None when it is.
    ///
    /// # Errors
    /// When the root cannot be opened.
    pub fn doubt(&self, root: &Root, leap: i64) -> Result<Option<Doubt>, Errno> {
        let mut known = Known {
            believed: later(self.believed.clone(), read(root)),
            ..Known::default()
        };
        let doubt = doubt(&self.now, &known, leap);
        if self.is_vouched_for {
            return Ok(doubt.filter(|doubt| *doubt == Doubt::Unset));
        }
        if doubt.is_some() || known.is_continued_by(&self.now, leap) {
            return Ok(doubt);
        }
        known.look_at_files(root, self.running_since)?;
        Ok(self::doubt(&self.now, &known, leap))
    }

    /// Why the clock is not believed, of what is remembered alone.
    pub fn doubt_without_files(&self, kept: Duration) -> Option<Doubt> {
        let known = Known {
            believed: self.believed.clone(),
            ..Known::default()
        };
        doubt(&self.now, &known, leap(None, Some(kept)))
    }

    /// Remembers in the root that this moment was believed.
    ///
    /// # Errors
    /// Those of writing.
    pub fn remember(&self, root: &Root) -> Result<(), Errno> {
        write(root, &self.now)
    }
}

/// How far the clock may be ahead of what is known, in seconds: as long as a host may be off, and so little that of what is kept
/// or locked for so long most stays even if the clock is wrong.
pub fn leap(days: Option<u32>, lock: Option<Duration>) -> i64 {
    let lock = lock.map(|lock| i64::try_from(lock.as_secs()).unwrap_or(i64::MAX));
    let days = days.map(|days| i64::from(days) * DAY);
    let least = days.into_iter().chain(lock).min();
    least.map_or(30 * DAY, |least| (least / 3).clamp(7 * DAY, 90 * DAY))
}

#[derive(Debug, Default)]
struct Known {
    believed: Option<Moment>,
    /// The newest time of files that this process cannot have stored, and of all.
    older: Option<i64>,
    newest: Option<i64>,
}

impl Known {
    /// Whether the clock has gone on from what was believed, and not for so long that nobody has looked at it meanwhile.
    fn is_continued_by(&self, now: &Moment, leap: i64) -> bool {
        self.believed.as_ref().is_some_and(|then| {
            let moved = now.moved_since(then);
            moved.is_some_and(|moved| moved.abs() <= DAY) && now.time - then.time <= leap
        })
    }

    /// By the time that no client can set, of all that lies on the mounted file system, what is the server's own included.
    fn look_at_files(&mut self, root: &Root, running_since: i64) -> Result<(), Errno> {
        walk_mount(root, b"", &|_| true, &mut |met| {
            if let Ok(met) = met {
                let time = met.stat.st_ctime;
                self.newest = self.newest.max(Some(time));
                if time < running_since {
                    self.older = self.older.max(Some(time));
                }
            }
            ControlFlow::Continue(())
        })
    }
}

fn doubt(now: &Moment, known: &Known, leap: i64) -> Option<Doubt> {
    let time = now.time;
    if time < SET_SINCE {
        return Some(Doubt::Unset);
    }
    if known.is_continued_by(now, leap) {
        return None;
    }
    if now.since_boot < i64::try_from(SETTLING.as_secs()).unwrap_or(0) {
        return Some(Doubt::JustStarted);
    }
    let believed = known.believed.as_ref().map(|then| then.time);
    if let Some(known) = believed
        .max(known.newest)
        .filter(|&known| known > time + DAY)
    {
        return Some(Doubt::Behind { now: time, known });
    }
    let known = believed.or(known.older)?;
    (time - known > leap).then_some(Doubt::Ahead { now: time, known })
}

fn later(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    one.into_iter()
        .chain(other)
        .max_by_key(|moment| moment.time)
}

/// The last moment that was believed in any of the directories.
pub fn believed<'a>(tops: impl Iterator<Item = &'a Path>) -> Option<Moment> {
    let roots = tops.filter_map(|top| Root::open(top).ok());
    roots.fold(None, |known, root| later(known, read(&root)))
}

/// Writes down what the files in a directory tell of the time, where nothing is known there yet: to be called before anybody
/// stores something by a clock that may be wrong.
pub fn establish(top: &Path, require_mount: bool, running_since: i64) {
    let Ok(root) = Root::open_or_guard(top, require_mount).and_then(|root| root.again()) else {
        return;
    };
    let mut known = Known::default();
    if read(&root).is_some() || known.look_at_files(&root, running_since).is_err() {
        return;
    }
    if let Some(time) = known.older {
        // Where that cannot be written the files are asked again.
        let _ = write(&root, &Moment::of_files(time));
    }
}

fn read(root: &Root) -> Option<Moment> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let state = root
        .open_below(STATE, flags | OFlag::O_DIRECTORY, Mode::empty())
        .ok()?;
    let file = File::from(openat(state, FILE, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    let mut words = text.split_once('\n')?.0.split(' ');
    Some(Moment {
        time: words.next()?.parse().ok()?,
        since_boot: words.next()?.parse().ok()?,
        boot: words.next()?.to_owned(),
    })
}

fn write(root: &Root, moment: &Moment) -> Result<(), Errno> {
    let Moment {
        time,
        since_boot,
        boot,
    } = moment;
    let file = File::from(open_state(root, FILE)?);
    // A longer line may have been there before; what follows the first is not read.
    file.write_all_at(format!("{time} {since_boot} {boot}\n").as_bytes(), 0)
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(time: i64, since_boot: i64, boot: &str) -> Moment {
        Moment {
            time,
            since_boot,
            boot: boot.to_owned(),
        }
    }

    fn known(believed: Option<Moment>, older: Option<i64>, newest: Option<i64>) -> Known {
        Known {
            believed,
            older,
            newest,
        }
    }

    #[test]
    fn a_clock_is_believed_while_it_goes_on_and_where_it_is_near_what_is_known() {
        let now = at(NOW, 1000, "b");
        let leap = 30 * DAY;
        let ahead = |known| Some(Doubt::Ahead { now: NOW, known });
        let behind = |known| Some(Doubt::Behind { now: NOW, known });
        let yesterday = Some(at(NOW - DAY, 500, "a"));
        let (long_ago, to_come) = (NOW - 400 * DAY, NOW + 2 * DAY);
        for (what, known, expected) in [
            ("nothing is known", known(None, None, None), None),
            ("yesterday", known(yesterday.clone(), None, None), None),
            (
                "a year ago",
                known(Some(at(long_ago, 500, "a")), None, None),
                ahead(long_ago),
            ),
            (
                "uploads by the same clock say nothing",
                known(Some(at(long_ago, 500, "a")), Some(NOW - 10), Some(NOW)),
                ahead(long_ago),
            ),
            (
                "files of a year ago, and one that was stored since the start",
                known(None, Some(long_ago), Some(NOW)),
                ahead(long_ago),
            ),
            (
                "files of today",
                known(None, Some(NOW - 10), Some(NOW)),
                None,
            ),
            (
                "a file of the day after tomorrow",
                known(yesterday.clone(), None, Some(to_come)),
                behind(to_come),
            ),
            (
                "a moment that is still to come",
                known(Some(at(to_come, 500, "a")), None, None),
                behind(to_come),
            ),
            (
                "the same boot, on and on",
                known(Some(at(NOW - 900, 100, "b")), None, Some(to_come)),
                None,
            ),
            (
                "the same boot, which seems to be a year older",
                known(Some(at(long_ago, 1000 - 400 * DAY, "b")), None, None),
                ahead(long_ago),
            ),
            (
                "the same boot, in which the clock was set a year ahead",
                known(Some(at(NOW - 900 - 400 * DAY, 100, "b")), None, None),
                ahead(NOW - 900 - 400 * DAY),
            ),
        ] {
            assert_eq!(doubt(&now, &known, leap), expected, "{what}");
        }
        let started = at(NOW, 200, "b");
        let known = known(yesterday, None, None);
        assert_eq!(doubt(&started, &known, leap), Some(Doubt::JustStarted));
        let unset = at(86_400, 1000, "b");
        assert_eq!(doubt(&unset, &known, leap), Some(Doubt::Unset));
    }

    #[test]
    fn the_clock_may_be_ahead_by_a_part_of_what_is_kept() {
        let days = |days: u64| Some(Duration::from_secs(days * 86_400));
        for (kept, lock, expected) in [
            (None, None, 30),
            (Some(1), None, 7),
            (Some(90), None, 30),
            (Some(3650), None, 90),
            (Some(3650), days(30), 10),
            (None, days(60), 20),
        ] {
            assert_eq!(leap(kept, lock), expected * DAY, "{kept:?} {lock:?}");
        }
    }

    #[test]
    fn what_is_known_survives_and_is_told_by_files_at_first() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let now = Moment::now();
        establish(directory.path(), false, now.time + 10);
        assert_eq!(read(&root), None);
        std::fs::write(directory.path().join("file"), "").unwrap();
        // It may have been stored by this process.
        establish(directory.path(), false, now.time - 10);
        assert_eq!(read(&root), None);
        establish(directory.path(), false, now.time + 10);
        let told = read(&root).unwrap();
        assert!((told.time - now.time).abs() < 5 && told.moved_since(&now).is_none());
        let long = at(NOW, 1 << 40, &now.boot);
        for moment in [long, now.clone()] {
            write(&root, &moment).unwrap();
            assert_eq!(read(&root), Some(moment));
        }
        establish(directory.path(), false, now.time + 10);
        assert_eq!(read(&root), Some(now.clone()));
        assert_eq!(believed([directory.path()].into_iter()), Some(now));
    }

    #[test]
    fn times_of_a_wrong_clock_are_known_as_such() {
        let clock = Clock {
            now: at(NOW, 1000, "b"),
            believed: None,
            running_since: NOW,
            misdated: Some(NOW - 1000..=NOW - 900),
            is_vouched_for: false,
        };
        let wrong =
            [100_000, NOW + 2 * DAY, NOW - 1000, NOW - 900].map(|time| clock.is_wrong(time));
        assert_eq!(wrong, [true; 4]);
        let right = [SET_SINCE, NOW + 100, NOW - 899].map(|time| clock.is_wrong(time));
        assert_eq!(right, [false; 3]);
    }
}
