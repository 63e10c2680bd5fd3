//! Whether the clock can be believed before files are taken away by their age: a clock that is a year ahead for an hour makes every
//! backup old.
//!
//! Each directory in which something is pruned remembers the last moment that was believed, in a file of the server's own. The
//! clock is believed while it has gone on from there, day by day, in the same boot. After another start the clock must be neither
//! behind that moment nor further ahead of it than a host is usually off. Where nothing is remembered yet, the newest file tells
//! what time it has been. Files that are stored while the clock may be wrong tell nothing.
use std::fmt;
use std::io::Read as _;
use std::ops::{ControlFlow, RangeInclusive};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use nix::errno::Errno;

use crate::os::clock::{Moment, SET_SINCE, SETTLING};
use crate::storage::disk::root::Root;
use crate::storage::disk::system::errno_of;
use crate::storage::disk::walk::walk_mount;
use crate::storage::quota::state::{open_state, read_state};

/// In seconds.
pub const DAY: i64 = 24 * 3600;

/// The file in [`STATE`](crate::storage::disk::reserved::STATE): one line with time, seconds since the boot, and the boot.
const FILE: &[u8] = b"clock";

/// More than the longest line has, in bytes.
const LONGEST: u64 = 200;

/// Why the clock is not believed. Times are in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It may be set any moment.
    JustStarted,
    Unset,
    /// It is behind the newest time that is known, or too far ahead of it.
    Far {
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
            Self::Far { now, known } => {
                let apart = match now < known {
                    true => "which is before".to_owned(),
                    false => format!("{} days after", now.saturating_sub(known) / DAY),
                };
                let (now, known) = (date(now), date(known));
                write!(
                    f,
                    "the clock says {now}, {apart} the newest time known here ({known})"
                )
            }
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
        let right = SET_SINCE..=self.now.time.saturating_add(DAY);
        let misdated = self.misdated.as_ref();
        !right.contains(&time) || misdated.is_some_and(|wrong| wrong.contains(&time))
    }

    /// Why the clock is not believed where the root is; None when it is.
    ///
    /// # Errors
    /// When the root cannot be opened.
    pub fn doubt(&self, root: &Root, leap: i64) -> Result<Option<Doubt>, Errno> {
        if self.is_vouched_for {
            return Ok((self.now.time < SET_SINCE).then_some(Doubt::Unset));
        }
        let believed = self.believed.clone().max(read(root));
        let files = || times_of_files(root, self.running_since);
        doubt(&self.now, believed, leap, files)
    }

    /// Why the clock is not believed, of what is remembered alone.
    pub fn doubt_without_files(&self, kept: Duration) -> Option<Doubt> {
        let (believed, leap) = (self.believed.clone(), leap(None, Some(kept)));
        let doubt = doubt(&self.now, believed, leap, || Ok((None, None)));
        doubt.unwrap_or(None)
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

/// The newest time of the files that this process cannot have stored, and of all.
type Newest = (Option<i64>, Option<i64>);

/// `files` is asked last, for to look at them takes long.
fn doubt(
    now: &Moment,
    believed: Option<Moment>,
    leap: i64,
    files: impl FnOnce() -> Result<Newest, Errno>,
) -> Result<Option<Doubt>, Errno> {
    let time = now.time;
    let is_behind = |known: &i64| known.saturating_sub(time) > DAY;
    let is_ahead_of = |known: &i64| time.saturating_sub(*known) > leap;
    if time < SET_SINCE {
        return Ok(Some(Doubt::Unset));
    }
    let moved = believed.as_ref().and_then(|then| now.moved_since(then));
    let believed = believed.map(|then| then.time);
    let goes_on = moved.is_some_and(|moved| moved.abs() <= DAY);
    // Even a clock that goes on is ahead when nobody has looked at it for so long.
    let is_ahead = believed.as_ref().is_some_and(is_ahead_of);
    if goes_on && !is_ahead {
        return Ok(None);
    }
    if now.since_boot < i64::try_from(SETTLING.as_secs()).unwrap_or(0) {
        return Ok(Some(Doubt::JustStarted));
    }
    let mut far = believed.filter(|then| is_ahead || is_behind(then));
    if far.is_none() {
        let (older, newest) = files()?;
        let ahead = believed.or(older).filter(is_ahead_of);
        far = newest.filter(is_behind).or(ahead);
    }
    Ok(far.map(|known| Doubt::Far { now: time, known }))
}

/// By the time that no client can set, of all that lies on the mounted file system, what is the server's own included.
fn times_of_files(root: &Root, running_since: i64) -> Result<Newest, Errno> {
    let (mut older, mut newest) = (None, None);
    walk_mount(root, b"", &|_| true, &mut |met| {
        let time = met.ok().map(|met| met.stat.st_ctime);
        older = older.max(time.filter(|&time| time < running_since));
        newest = newest.max(time);
        ControlFlow::Continue(())
    })?;
    Ok((older, newest))
}

/// The last moment that was believed in any of the directories.
pub fn believed<'a>(tops: impl Iterator<Item = &'a Path>) -> Option<Moment> {
    tops.filter_map(|top| read(&Root::open(top).ok()?)).max()
}

/// Writes down what the files in a directory tell of the time, where nothing is known there yet: to be called before anybody
/// stores something by a clock that may be wrong.
pub fn establish(top: &Path, require_mount: bool, running_since: i64) {
    let root = Root::open_or_guard(top, require_mount).and_then(|root| root.again());
    let Ok(root) = root else { return };
    if read(&root).is_some() {
        return;
    }
    if let Ok((Some(time), _)) = times_of_files(&root, running_since) {
        // Where that cannot be written the files are asked again.
        let _ = remember(&root, &Moment::new(time, 0, ""));
    }
}

fn read(root: &Root) -> Option<Moment> {
    let mut text = String::new();
    let file = read_state(root, FILE).ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    let mut words = text.split_once('\n')?.0.split(' ');
    let (time, since_boot) = (words.next()?.parse(), words.next()?.parse());
    Some(Moment::new(time.ok()?, since_boot.ok()?, words.next()?))
}

/// Remembers in the root that this moment was believed.
///
/// # Errors
/// Those of writing.
pub fn remember(root: &Root, moment: &Moment) -> Result<(), Errno> {
    let line = format!("{} {} {}\n", moment.time, moment.since_boot, moment.boot);
    // A longer line may have been there before; what follows the first is not read.
    let written = open_state(root, FILE)?.write_all_at(line.as_bytes(), 0);
    written.map_err(errno_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_clock_is_believed_while_it_goes_on_and_where_it_is_near_what_is_known() {
        let told_at = |now: &Moment, believed, older, newest| {
            doubt(now, believed, 30 * DAY, || Ok((older, newest))).unwrap()
        };
        let now = Moment::new(NOW, 1000, "b");
        let told = |believed, older, newest| told_at(&now, believed, older, newest);
        let before = |time| Some(Moment::new(time, 500, "a"));
        let in_this_boot = |time, since_boot| Some(Moment::new(time, since_boot, "b"));
        let far = |known| Some(Doubt::Far { now: NOW, known });
        let (long_ago, to_come) = (NOW - 400 * DAY, NOW + 2 * DAY);
        assert_eq!(told(None, None, None), None);
        assert_eq!(told(before(NOW - DAY), None, None), None);
        assert_eq!(told(before(long_ago), None, None), far(long_ago));
        // Uploads by the same clock say nothing.
        let uploaded = told(before(long_ago), Some(NOW - 10), Some(NOW));
        assert_eq!(uploaded, far(long_ago));
        // Files are of a year ago, and one was stored since the start; then they are of today.
        assert_eq!(told(None, Some(long_ago), Some(NOW)), far(long_ago));
        assert_eq!(told(None, Some(NOW - 10), Some(NOW)), None);
        // A file is of the day after tomorrow; then it is the moment that was believed.
        assert_eq!(told(before(NOW - DAY), None, Some(to_come)), far(to_come));
        assert_eq!(told(before(to_come), None, None), far(to_come));
        // The same boot goes on and on.
        let going_on = in_this_boot(NOW - 900, 100);
        assert_eq!(told(going_on, None, Some(to_come)), None);
        // The same boot seems to be a year older.
        let older = in_this_boot(long_ago, 1000 - 400 * DAY);
        assert_eq!(told(older, None, None), far(long_ago));
        // In the same boot the clock was set a year ahead.
        let set = long_ago - 900;
        assert_eq!(told(in_this_boot(set, 100), None, None), far(set));
        for (now, expected) in [
            (Moment::new(NOW, 200, "b"), Doubt::JustStarted),
            (Moment::new(86_400, 1000, "b"), Doubt::Unset),
        ] {
            let doubt = told_at(&now, before(NOW - DAY), None, None);
            assert_eq!(doubt, Some(expected));
        }
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
        let long = Moment::new(NOW, 1 << 40, &now.boot);
        for moment in [long, now.clone()] {
            remember(&root, &moment).unwrap();
            assert_eq!(read(&root), Some(moment));
        }
        establish(directory.path(), false, now.time + 10);
        assert_eq!(read(&root), Some(now.clone()));
        assert_eq!(believed([directory.path()].into_iter()), Some(now));
    }

    #[test]
    fn times_of_a_wrong_clock_are_known_as_such() {
        let clock = Clock {
            now: Moment::new(NOW, 1000, "b"),
            believed: None,
            running_since: NOW,
            misdated: Some(NOW - 1000..=NOW - 900),
            is_vouched_for: false,
        };
        let wrong = [100_000, NOW + 2 * DAY, NOW - 1000, NOW - 900];
        assert!(wrong.into_iter().all(|time| clock.is_wrong(time)));
        let right = [SET_SINCE, NOW + 100, NOW - 899];
        assert!(!right.into_iter().any(|time| clock.is_wrong(time)));
    }
}
