//! Bandwidth: how many bytes a second may flow, of the server, of a user, of a session; and whether a client is too slow to
//! be waited for. Nothing here waits: it tells until when to.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What may flow at once after a pause, as a time at the full rate.
const AHEAD: Duration = Duration::from_millis(100);

/// Bytes moved between two looks at the clock, as a time at the full rate.
const SLICE: Duration = Duration::from_millis(100);

/// The least that is moved at once, in bytes.
const LEAST: u64 = 512;

/// Counts what flows, for any number of sessions: a token bucket, kept as the moment at which what has flowed would have
/// flowed at the full rate. It costs nothing while nothing flows.
#[derive(Debug, Default)]
pub struct Bucket(Mutex<Option<Instant>>);

impl Bucket {
    /// Counts bytes that have flowed; before the moment that is returned nothing more should.
    fn take(&self, bytes: u64, rate: u64) -> Instant {
        let now = Instant::now();
        let time = Duration::from_nanos(
            u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1)))
                .unwrap_or(u64::MAX),
        );
        let mut paid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(AHEAD).unwrap_or(now);
        let start = paid.map_or(earliest, |paid| paid.max(earliest));
        // Rates of a byte a second and a slice of much more: a day is long enough.
        let next = start + time.min(Duration::from_secs(24 * 3600));
        *paid = Some(next);
        next
    }
}

/// One of the limits that a transfer is under.
#[derive(Clone, Debug)]
pub struct Limit {
    pub bucket: Arc<Bucket>,
    /// Bytes a second.
    pub rate: u64,
}

/// All limits of one transfer.
#[derive(Debug, Default)]
pub struct Throttle {
    limits: Vec<Limit>,
    until: Option<Instant>,
}

impl Throttle {
    pub fn new(limits: Vec<Limit>) -> Self {
        Self {
            limits,
            until: None,
        }
    }

    /// How much of `wanted` bytes to move at once, so that no limit is overdrawn for long.
    pub fn slice(&self, wanted: usize) -> usize {
        let Some(rate) = self.limits.iter().map(|limit| limit.rate).min() else {
            return wanted;
        };
        let slice = (rate / (1000 / SLICE.as_millis() as u64)).max(LEAST);
        wanted.min(usize::try_from(slice).unwrap_or(usize::MAX))
    }

    /// Counts what has flowed.
    pub fn add(&mut self, bytes: u64) {
        for limit in &self.limits {
            let until = limit.bucket.take(bytes, limit.rate);
            self.until = Some(self.until.map_or(until, |other| other.max(until)));
        }
    }

    /// Until when nothing may flow; None: it may now.
    pub fn until(&mut self) -> Option<Instant> {
        let until = self.until?;
        if until <= Instant::now() {
            self.until = None;
            return None;
        }
        Some(until)
    }
}

/// The buckets of one direction: the server's, and those of users who are moving something.
#[derive(Debug, Default)]
pub struct Buckets {
    pub server: Arc<Bucket>,
    users: Mutex<HashMap<String, Weak<Bucket>>>,
}

impl Buckets {
    /// One for all sessions of the user; forgotten when nobody has it any more.
    pub fn of_user(&self, name: &str) -> Arc<Bucket> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = users.get(name).and_then(Weak::upgrade) {
            return bucket;
        }
        users.retain(|_, bucket| bucket.strong_count() > 0);
        let bucket = Arc::default();
        users.insert(name.to_owned(), Arc::downgrade(&bucket));
        bucket
    }
}

/// Whether the client is too slow: measured over the time in which nothing but the client is waited for.
pub struct Pace<'a> {
    /// Bytes a second; 0: any will do.
    pub least: u64,
    /// Over how long.
    pub window: Duration,
    /// Whether others need the place.
    pub is_busy: &'a dyn Fn() -> bool,
    waited: Duration,
    bytes: u64,
}

impl<'a> Pace<'a> {
    pub fn new(least: u64, window: Duration, is_busy: &'a dyn Fn() -> bool) -> Self {
        Self {
            least,
            window,
            is_busy,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// How much longer the client may be waited for in this window; None: without an end.
    pub fn left(&self) -> Option<Duration> {
        (self.least > 0).then(|| self.window.saturating_sub(self.waited))
    }

    /// Counts a wait for the client; true: it is too slow, and others need the place.
    pub fn is_too_slow(&mut self, waited: Duration) -> bool {
        self.waited += waited;
        if self.least == 0 || self.waited < self.window {
            return false;
        }
        let seconds = self.waited.as_secs_f64();
        let too_slow = (self.bytes as f64) < self.least as f64 * seconds;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        too_slow && (self.is_busy)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_limits_everything_flows_at_once() {
        let mut throttle = Throttle::default();
        throttle.add(u64::MAX);
        assert_eq!((throttle.until(), throttle.slice(1 << 20)), (None, 1 << 20));
    }

    #[test]
    fn the_tightest_of_all_limits_holds_and_a_bucket_is_shared() {
        let bucket = Arc::new(Bucket::default());
        let limit = |rate| Limit {
            bucket: Arc::clone(&bucket),
            rate,
        };
        let mut one = Throttle::new(vec![limit(1_000_000)]);
        let mut other = Throttle::new(vec![
            limit(1_000_000),
            Limit {
                bucket: Arc::default(),
                rate: 10_000_000,
            },
        ]);
        assert_eq!(other.slice(1 << 20), 100_000);
        let begun = Instant::now();
        one.add(10_000_000);
        other.add(10_000_000);
        // Together they have had twenty seconds' worth.
        let wait = other.until().unwrap().duration_since(begun);
        assert!(wait > Duration::from_secs(19) && wait < Duration::from_secs(21));
        assert!(one.until().unwrap() < other.until().unwrap());
    }

    #[test]
    fn a_pause_is_no_credit_for_later() {
        let bucket = Bucket(Mutex::new(
            Instant::now().checked_sub(Duration::from_secs(1)),
        ));
        let until = bucket.take(1_000_000, 1_000_000);
        assert!(until > Instant::now() + Duration::from_millis(800));
    }

    #[test]
    fn users_share_a_bucket_by_name_and_only_while_they_have_one() {
        let buckets = Buckets::default();
        let one = buckets.of_user("anna");
        assert!(Arc::ptr_eq(&one, &buckets.of_user("anna")));
        drop(one);
        drop(buckets.of_user("bob"));
        drop(buckets.of_user("eve"));
        assert_eq!(buckets.users.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_slow_client_is_too_slow_only_when_others_need_the_place() {
        let window = Duration::from_secs(60);
        let (busy, idle) = (|| true, || false);
        let mut pace = Pace::new(1000, window, &busy);
        assert!(
            !pace.is_too_slow(window / 2),
            "not before the window is over"
        );
        assert!(pace.is_too_slow(window / 2));
        pace.add(100_000);
        assert!(!pace.is_too_slow(window), "fast enough");
        assert!(!Pace::new(1000, window, &idle).is_too_slow(window));
        assert!(!Pace::new(0, window, &busy).is_too_slow(window));
    }
}
