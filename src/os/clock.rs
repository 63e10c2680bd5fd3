//! What the clocks of the system say: the time of day, which may be wrong or unset, and the time since the boot, which counts
//! sleep and cannot be set.
use std::sync::OnceLock;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// 1 January 2020. A clock that says less was never set: small hosts without a battery start in 1970.
pub const SET_SINCE: i64 = 1_577_836_800;

/// How long after a start nothing is done by the age of files: by then the clock of a host in a network is set.
pub const SETTLING: Duration = Duration::from_secs(300);

/// The time, in seconds since 1970.
pub fn now() -> i64 {
    let now = seconds(ClockId::CLOCK_REALTIME);
    now.saturating_add(ahead().unwrap_or(0)).max(0)
}

/// Seconds since the boot. They count sleep, and nobody can set them.
pub fn since_boot() -> i64 {
    let skipped = i64::try_from((SETTLING - settling()).as_secs()).unwrap_or(0);
    seconds(ClockId::CLOCK_BOOTTIME) + skipped
}

fn seconds(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec())
}

pub fn is_set() -> bool {
    now() >= SET_SINCE
}

/// What the kernel calls this boot (random(4)); None where /proc is missing.
pub fn this_boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let identity = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(identity.trim().to_owned()).filter(|identity| !identity.is_empty())
    });
    boot.as_deref()
}

/// One moment by both clocks; the one of the later time is the greater one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// In seconds since 1970.
    pub time: i64,
    /// In seconds since the boot.
    pub since_boot: i64,
    /// What the kernel calls the boot (random(4)); empty where that is not known.
    pub boot: String,
}

impl Moment {
    pub fn new(time: i64, since_boot: i64, boot: &str) -> Self {
        Self {
            time,
            since_boot,
            boot: boot.to_owned(),
        }
    }

    pub fn now() -> Self {
        Self::new(now(), since_boot(), this_boot().unwrap_or_default())
    }

    /// By how many seconds the time of day was moved between an earlier moment of the same boot and this one; None where
    /// that is not known.
    pub fn moved_since(&self, earlier: &Self) -> Option<i64> {
        let is_same_boot = !self.boot.is_empty() && self.boot == earlier.boot;
        let passed = self.since_boot.saturating_sub(earlier.since_boot);
        let expected = earlier.time.saturating_add(passed);
        (is_same_boot && passed >= 0).then(|| self.time.saturating_sub(expected))
    }
}

/// How long to wait after a start.
pub fn settling() -> Duration {
    match ahead() {
        Some(_) => Duration::ZERO,
        None => SETTLING,
    }
}

/// By how many seconds a test wants the clock to be ahead; then nobody waits for it to be set. No release build can be told so.
fn ahead() -> Option<i64> {
    static AHEAD: OnceLock<Option<i64>> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return None;
    }
    *AHEAD.get_or_init(|| std::env::var("THRIFTPD_TEST_CLOCK").ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_within_a_boot_only() {
        let at = Moment::new;
        let first = at(1000, 10, "a");
        assert_eq!(at(1090, 100, "a").moved_since(&first), Some(0));
        assert_eq!(at(5090, 100, "a").moved_since(&first), Some(4000));
        assert_eq!(at(90, 100, "a").moved_since(&first), Some(-1000));
        assert_eq!(at(1090, 100, "b").moved_since(&first), None);
        assert_eq!(at(1090, 5, "a").moved_since(&first), None);
        assert_eq!(at(1090, 100, "").moved_since(&at(1000, 10, "")), None);
        let now = Moment::now();
        assert!(now.since_boot > 0 && now.time > SET_SINCE);
    }
}
