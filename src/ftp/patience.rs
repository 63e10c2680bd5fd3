//! What is borne of a client before its login: so much time, so many bytes, so many commands. Of commands those of any
//! program are answered at once, then so many a second; beyond that each waits longer than the one before, and at last there are
//! enough of them.
use std::time::{Duration, Instant};

/// Bytes that a client may send without a login: many times what any program says.
const MOST_BEFORE_LOGIN: u64 = 64 * 1024;

/// What may come at once, as a time at the full rate.
const AHEAD: Duration = Duration::from_secs(5);

/// The first wait; each one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// Waits after which the client is sent away: some twenty seconds of them.
const WAITS: u32 = 10;

/// What a client has had of it.
#[derive(Debug)]
pub struct Patience {
    /// When the time for the login began.
    started: Instant,
    /// Bytes that had come by then.
    received: u64,
    /// When all commands so far would have come at the full rate.
    paid: Option<Instant>,
    waits: u32,
    /// Failed logins of this session.
    pub failures: u32,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Answer,
    Wait(Duration),
    Enough,
}

impl Patience {
    /// Of a client whose connection was accepted then.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            received: 0,
            paid: None,
            waits: 0,
            failures: 0,
        }
    }

    /// After the end of a login the time for the next one starts; `received` bytes have come in all.
    pub fn begin_again(&mut self, received: u64) {
        self.started = Instant::now();
        self.received = received;
    }

    /// Until when the login must have happened that may take so long.
    pub fn deadline(&self, time: Duration) -> Instant {
        self.started + time
    }

    /// Asked when all that has come, so many bytes, was dealt with: what waits behind a PASS is not held against anybody.
    pub fn is_exceeded_by(&self, received: u64) -> bool {
        received - self.received > MOST_BEFORE_LOGIN
    }

    /// Counts a command at a rate of so many a second.
    pub fn hear(&mut self, rate: u32, now: Instant) -> Verdict {
        let earliest = now.checked_sub(AHEAD).unwrap_or(now);
        let start = self.paid.map_or(earliest, |paid| paid.max(earliest));
        let paid = start + Duration::from_secs(1) / rate.max(1);
        self.paid = Some(paid);
        if paid <= now {
            return Verdict::Answer;
        }
        if self.waits >= WAITS {
            return Verdict::Enough;
        }
        let wait = FIRST_WAIT * (1 << self.waits);
        self.waits += 1;
        Verdict::Wait(wait.min(LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_answered_and_a_flood_waits_ever_longer_and_then_ends() {
        // Later than the machine's start by more than may be ahead.
        let now = Instant::now() + Duration::from_secs(3600);
        let mut patience = Patience::new(now);
        for n in 0..100 {
            assert_eq!(patience.hear(20, now), Verdict::Answer, "{n}");
        }
        let mut last = Duration::ZERO;
        for _ in 0..WAITS {
            let Verdict::Wait(wait) = patience.hear(20, now) else {
                panic!("it is not made to wait");
            };
            assert!(wait >= last && wait <= LONGEST_WAIT);
            last = wait;
        }
        assert_eq!(patience.hear(20, now), Verdict::Enough);
    }

    #[test]
    fn who_takes_its_time_is_always_answered() {
        let mut now = Instant::now() + Duration::from_secs(3600);
        let mut patience = Patience::new(now);
        for _ in 0..1000 {
            assert_eq!(patience.hear(20, now), Verdict::Answer);
            now += Duration::from_millis(50);
        }
    }
}
