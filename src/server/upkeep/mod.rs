//! What is done with the directories of users beside their sessions: once a day the server takes away what unfinished uploads
//! have left, and old files (`prune`); counts for quotas are made up for at the start and closed at the end.
pub mod areas;
pub mod prune;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

use crate::config::Config;
use crate::observe::printable;
use crate::os::clock::{Moment, settling, since_boot};
use crate::storage::{
    Clock, Error, ErrorKind, Partials, Usage, close_counts, establish, is_left_by_the_dead,
    remove_old_partials, rescan_counts, restore_replaced,
};
use areas::{as_owner, counted, directories};
use prune::{CLOCK_ADVICE, last_believed, prune_all};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// A clock that was moved by less gives files no wrong age, in seconds.
const SLIGHT: i64 = 600;

/// Starts a thread that sleeps the day over and ends with the process; without it everything else works. `config` yields the
/// settings of the moment. `identities`: what is a user's is touched as that user of the system.
pub fn start(config: impl Fn() -> Arc<Config> + Send + 'static, identities: bool) {
    let started = std::thread::Builder::new()
        .name("upkeep".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            let mut upkeep = Upkeep::begin(&config(), identities);
            restore(&config(), identities);
            sleep(settling());
            loop {
                // For a day nobody needs the settings.
                let pause = upkeep.work(&config());
                sleep(pause);
            }
        });
    if let Err(error) = started {
        log::warn!("nothing is taken away once a day: {error}");
    }
}

/// What the thread knows from one time to the next.
struct Upkeep {
    identities: bool,
    /// When the process began to store files.
    running_since: i64,
    /// Up to here the clock was right, or the files that it gave a wrong time to are known.
    checked: Moment,
    /// The last moment that was believed; the disk that knows it may be away the next time.
    believed: Option<Moment>,
    was_believed: bool,
}

impl Upkeep {
    fn begin(config: &Config, identities: bool) -> Self {
        let now = Moment::now();
        for (top, require_mount) in prune::tops(config) {
            as_owner(config, &top, identities, || {
                establish(&top, require_mount, now.time);
            });
        }
        Self {
            identities,
            running_since: now.time,
            believed: None,
            was_believed: true,
            checked: now,
        }
    }

    /// Does what is due, and tells how long there is nothing to do.
    fn work(&mut self, config: &Config) -> Duration {
        let now = Moment::now();
        let clock = Clock {
            misdated: misdated(&self.checked, &now),
            believed: last_believed(config).or_else(|| self.believed.clone()),
            running_since: self.running_since,
            is_vouched_for: false,
            now,
        };
        let is_believed = match clock.doubt_without_files(config.keep_partial) {
            Some(doubt) => {
                log::warn!("nothing is taken away: {doubt} ({CLOCK_ADVICE})");
                false
            }
            None => {
                sweep(config, self.identities);
                prune_all(config, &clock, self.identities)
            }
        };
        // It may be set within the hour; who does not set it then is not told so every hour.
        let pause = if self.was_believed && !is_believed {
            HOUR
        } else {
            DAY
        };
        self.was_believed = is_believed;
        if is_believed {
            self.checked = clock.now.clone();
            self.believed = Some(clock.now);
        }
        pause
    }
}

/// The times that a clock gave to files between two moments before it was set: they are those of the old clock.
fn misdated(then: &Moment, now: &Moment) -> Option<RangeInclusive<i64>> {
    let moved = now.moved_since(then)?;
    let until = now.time.saturating_sub(moved);
    (moved.abs() > SLIGHT).then_some(then.time..=until)
}

fn sleep(pause: Duration) {
    sleep_by(pause, since_boot, |left| {
        let flags = ClockNanosleepFlags::empty();
        match clock_nanosleep(ClockId::CLOCK_BOOTTIME, flags, &TimeSpec::new(left, 0)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => std::thread::sleep(Duration::from_secs(left.unsigned_abs())),
        }
    });
}

/// Sleeps while the system does, too: a day is a day. `now` tells the seconds since the boot, those included in which the system was
/// suspended; `nap` sleeps so many seconds, or less.
fn sleep_by(pause: Duration, now: impl Fn() -> i64, nap: impl Fn(i64)) {
    let end = now().saturating_add_unsigned(pause.as_secs());
    loop {
        let left = end.saturating_sub(now());
        if left <= 0 {
            return;
        }
        // Whatever ends it early, there is a rest to sleep.
        nap(left);
    }
}

/// Counts anew where a crash has left the counts inexact, while clients are served; until then what was said last holds. A disk
/// that hangs holds up nobody: each area has a thread of its own.
pub fn count_anew(config: &Arc<Config>, identities: bool) {
    for area in counted(config) {
        let config = Arc::clone(config);
        let started = std::thread::Builder::new()
            .name("counting".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                as_owner(&config, &area, identities, || {
                    if is_left_by_the_dead(&area) {
                        count_at_rest(&area);
                    }
                });
            });
        if let Err(error) = started {
            log::warn!("what is stored is not counted anew (setting: quota): {error}");
        }
    }
}

/// Goes on until it has found a time in which nothing changes.
fn count_at_rest(area: &Path) {
    let shown = printable(area.as_os_str().as_encoded_bytes()).to_string();
    log::info!("{shown}: counting what is stored, for the last server did not end in order");
    loop {
        match rescan_counts(area) {
            Ok(usage) => {
                let Usage { bytes, files } = usage;
                return log::info!("{shown}: {bytes} bytes in {files} files are stored");
            }
            Err(error) if error.kind == ErrorKind::Busy => std::thread::sleep(BETWEEN_COUNTS),
            Err(error) => {
                return log::warn!(
                    "{shown}: what is said to be stored may be wrong: {error} (setting: quota)"
                );
            }
        }
    }
}

/// Between two tries to count what is being changed.
const BETWEEN_COUNTS: Duration = Duration::from_secs(30);

/// At the end of the server: what it has counted is all there is. A disk that hangs is waited for until the deadline; what is
/// stored there is counted anew at the next start.
pub fn close(config: &Arc<Config>, identities: bool, deadline: Instant) {
    let closing: Vec<_> = counted(config)
        .into_iter()
        .filter_map(|area| {
            let (config, shown) = (Arc::clone(config), area.clone());
            let (tell, told) = bounded(1);
            let close = move || {
                as_owner(&config, &area, identities, || close_counts(&area));
                let _ = tell.send(());
            };
            let thread = std::thread::Builder::new().stack_size(256 * 1024);
            thread.spawn(close).ok()?;
            Some((shown, told))
        })
        .collect();
    for (area, told) in closing {
        if told.recv_deadline(deadline).is_err() {
            log::warn!(
                "{}: the disk does not answer; what is stored there is counted anew at the next start",
                area.display()
            );
        }
    }
}

/// Looks for files that the last server was killed over.
fn restore(config: &Config, identities: bool) {
    for directory in directories(config) {
        as_owner(config, &directory, identities, || {
            if let Err(error) = restore_replaced(&directory) {
                log::debug!("cannot look for files that were being replaced: {error}");
            }
        });
    }
}

fn sweep(config: &Config, identities: bool) {
    let mut accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let metered = accounts
        .next()
        .map(|account| account.view.metered.clone())
        .unwrap_or_default();
    for directory in directories(config) {
        let shown = printable(directory.as_os_str().as_encoded_bytes()).to_string();
        as_owner(config, &directory, identities, || {
            report(
                &shown,
                remove_old_partials(&directory, config.keep_partial, &metered),
            );
        });
    }
}

fn report(shown: &str, removed: Result<Partials, Error>) {
    match removed {
        Ok(removed) if removed.files > 0 => log::info!(
            "{shown}: removed {} unfinished uploads of {} bytes (setting: keep_partial)",
            removed.files,
            removed.bytes
        ),
        Ok(_) => {}
        // A disk that is not there today may be tomorrow.
        Err(error) => log::warn!("{shown}: cannot look for unfinished uploads: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn a_day_is_over_when_the_system_was_suspended_for_it() {
        let clock = Cell::new(1000);
        let naps = RefCell::new(Vec::new());
        sleep_by(
            DAY,
            || clock.get(),
            |left| {
                // Woken early by a signal, then suspended for a week.
                let passed = [3600, 7 * 86_400][naps.borrow().len()];
                naps.borrow_mut().push(left);
                clock.set(clock.get() + passed);
            },
        );
        assert_eq!(*naps.borrow(), [86_400, 86_400 - 3600]);
    }

    #[test]
    fn what_was_stored_before_the_clock_was_set_is_known_by_its_time() {
        let at = |time, since_boot| Moment::new(time, since_boot, "b");
        let then = at(1000, 50);
        assert_eq!(misdated(&then, &at(1300, 350)), None);
        assert_eq!(misdated(&then, &at(1299 + SLIGHT, 350)), None);
        assert_eq!(misdated(&then, &at(900_000, 350)), Some(1000..=1300));
        assert_eq!(
            misdated(&at(900_000, 50), &at(1300, 350)),
            Some(900_000..=900_300)
        );
    }
}
