//! How much of the log anybody can have written. A line of each kind and each address is written at once; those that follow
//! within [`WINDOW`] are counted, and then told in one line. A kind of line is the place in the source that writes it.
//!
//! What users with a name of their own have done is written line by line. Of what failed, or went wrong on the host, much
//! is written before it is counted. Besides, strangers, users and the host have a share each of what the whole process
//! writes, so that a flood of the one keeps no line of the other back.
//!
//! Pure: told what time it is, it tells what is to be written. It remembers few addresses for each kind.
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use log::Level;

use super::origin::Origin;
use crate::os::addresses::source;

/// How long lines are counted before they are told.
pub const WINDOW: Duration = Duration::from_secs(10);

/// The target of lines that come no faster than the server lets them, for it makes the client wait: several of them are
/// written at once.
pub const PACED: &str = "thriftpd::ftp::paced";

/// Lines of one kind about one address that are written before others are counted.
const OF_STRANGERS: u32 = 1;
const OF_STRANGERS_PACED: u32 = 10;
const OF_OTHERS: u32 = 100;

/// Addresses that are told apart in lines of one kind.
const ADDRESSES: usize = 16;

/// Characters that are shown of a line with the number of those like it.
const SHOWN: usize = 160;

/// Where a line is written, and how much it matters.
pub type Kind = (Option<&'static str>, Option<u32>, Level);

/// A line that is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub kind: Kind,
    pub target: &'a str,
    pub origin: Origin,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Written,
    /// As well; and [`Limit::show`] is to be told its text, for others may follow.
    First,
    Counted,
    /// As well; it is the first, and somebody must ask [`Limit::due`] in time.
    FirstCounted,
}

/// All that is remembered of lines.
#[derive(Debug)]
pub struct Limit {
    kinds: HashMap<Kind, Vec<Counted>>,
    shares: [Share; 3],
    /// When something is to be told.
    wake: Option<Instant>,
}

/// Lines of one kind about one address.
#[derive(Debug)]
struct Counted {
    /// None: about all that are not told apart.
    address: Option<IpAddr>,
    share: usize,
    since: Instant,
    written: u32,
    counted: u64,
    /// The first of them.
    shown: String,
}

impl Counted {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }
}

impl Default for Limit {
    fn default() -> Self {
        let shares = [
            Share::new(
                "lines about clients without an account of their own",
                20,
                200,
            ),
            Share::new("lines about users", 200, 10_000),
            Share::new("lines about the host", 100, 1_000),
        ];
        Self {
            kinds: HashMap::new(),
            shares,
            wake: None,
        }
    }
}

/// The place of a line's share. Rooms that know no client write of the host, on whosever behalf.
fn share_of(line: &Line<'_>) -> usize {
    let knows_clients = ["thriftpd::ftp", "thriftpd::server", "thriftpd::service"];
    let of_client = knows_clients
        .iter()
        .any(|room| line.target.starts_with(room));
    match line.origin {
        Origin::Stranger(_) if of_client => 0,
        Origin::User(_) if of_client => 1,
        _ => 2,
    }
}

impl Limit {
    /// Decides about a line.
    pub fn admit(&mut self, now: Instant, line: &Line<'_>) -> Verdict {
        let share = share_of(line);
        let (address, most) = match line.origin {
            Origin::Stranger(address) if line.target == PACED => (address, OF_STRANGERS_PACED),
            Origin::Stranger(address) => (address, OF_STRANGERS),
            // What was done.
            _ if line.kind.2 > Level::Warn => {
                return self.within_share(now, share, Verdict::Written);
            }
            Origin::User(address) => (Some(address), OF_OTHERS),
            Origin::Host => (None, OF_OTHERS),
        };
        let counted = self.kinds.entry(line.kind).or_default();
        counted.retain(|one| one.counted > 0 || !one.is_over(now));
        let mut address = address.map(source);
        let mut known = counted.iter().position(|one| one.address == address);
        if known.is_none() && counted.len() >= ADDRESSES {
            address = None;
            known = counted.iter().position(|one| one.address.is_none());
        }
        let Some(known) = known else {
            let verdict = self.within_share(now, share, Verdict::First);
            if let (Verdict::First, Some(counted)) = (verdict, self.kinds.get_mut(&line.kind)) {
                counted.push(Counted {
                    address,
                    share,
                    since: now,
                    written: 1,
                    counted: 0,
                    shown: String::new(),
                });
            }
            return verdict;
        };
        let known = &mut counted[known];
        if known.written < most && self.shares[share].take(now) {
            known.written += 1;
            return Verdict::Written;
        }
        known.counted += 1;
        let (is_first, until) = (known.counted == 1, known.since + WINDOW);
        self.counted(is_first, until)
    }

    /// Writes a line where its share has room, and counts it otherwise.
    fn within_share(&mut self, now: Instant, share: usize, written: Verdict) -> Verdict {
        let share = &mut self.shares[share];
        if share.take(now) {
            return written;
        }
        let is_first = share.leave_out(now, 1);
        self.counted(is_first, now + WINDOW)
    }

    fn counted(&mut self, is_first: bool, until: Instant) -> Verdict {
        if is_first {
            self.wake = Some(self.wake.map_or(until, |wake| wake.min(until)));
            Verdict::FirstCounted
        } else {
            Verdict::Counted
        }
    }

    /// What the first line of its kind and address says.
    pub fn show(&mut self, line: &Line<'_>, text: &str) {
        let address = match line.origin {
            Origin::Stranger(address) => address.map(source),
            Origin::User(address) => Some(source(address)),
            Origin::Host => None,
        };
        let Some(counted) = self.kinds.get_mut(&line.kind) else {
            return;
        };
        // Where the address is not told apart, the line is that of all the others.
        let of = |address| move |one: &Counted| one.address == address;
        let at = counted.iter().position(of(address));
        if let Some(at) = at.or_else(|| counted.iter().position(of(None))) {
            counted[at].shown = text.chars().take(SHOWN).collect();
        }
    }

    /// What is to be told by now, and when there will be more to tell if nothing is logged until then.
    pub fn due(&mut self, now: Instant) -> (Vec<(Level, String)>, Option<Instant>) {
        match self.wake {
            Some(wake) if wake <= now => (self.tell(now, false), self.wake),
            wake => (Vec::new(), wake),
        }
    }

    /// All that was counted and not told yet.
    pub fn rest(&mut self, now: Instant) -> Vec<(Level, String)> {
        self.tell(now, true)
    }

    fn tell(&mut self, now: Instant, all: bool) -> Vec<(Level, String)> {
        let mut told = Vec::new();
        let mut wake: Option<Instant> = None;
        let mut later = |at: Instant| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        let shares = &mut self.shares;
        self.kinds.retain(|&(_, _, level), counted| {
            counted.retain(|one| {
                if one.counted == 0 {
                    return !one.is_over(now);
                }
                if !all && !one.is_over(now) {
                    later(one.since + WINDOW);
                    return true;
                }
                if shares[one.share].take(now) {
                    told.push((level, summary(one, now)));
                } else {
                    shares[one.share].leave_out(now, one.counted);
                }
                false
            });
            !counted.is_empty()
        });
        for share in shares {
            let Some(since) = share.since else { continue };
            if all || since + WINDOW <= now {
                told.push((Level::Warn, share.tell(now)));
            } else {
                later(since + WINDOW);
            }
        }
        self.wake = wake;
        told
    }
}

fn summary(one: &Counted, now: Instant) -> String {
    let from = match one.address {
        Some(IpAddr::V6(link)) if link.segments()[4..] == [0; 4] => format!(" from {link}/64"),
        Some(address) => format!(" from {address}"),
        None if one.share == 2 => String::new(),
        None => " from other addresses".into(),
    };
    format!(
        "... {} more such lines{from} in {} s: {}",
        one.counted,
        seconds_since(one.since, now),
        one.shown
    )
}

fn seconds_since(since: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(since).as_secs().max(1)
}

/// Lines that may be written, so many a second and so many at once.
#[derive(Debug)]
pub struct Share {
    what: &'static str,
    a_second: u32,
    at_once: u32,
    /// When all that was written would have been at that pace.
    paid: Option<Instant>,
    left_out: u64,
    /// When the first was left out.
    since: Option<Instant>,
}

impl Share {
    pub const fn new(what: &'static str, a_second: u32, at_once: u32) -> Self {
        Self {
            what,
            a_second,
            at_once,
            paid: None,
            left_out: 0,
            since: None,
        }
    }

    /// Whether there is room for a line, which is taken then.
    pub fn take(&mut self, now: Instant) -> bool {
        let one = Duration::from_secs(1) / self.a_second;
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + one;
        let has_room = paid.saturating_duration_since(now) <= one * self.at_once;
        if has_room {
            self.paid = Some(paid);
        }
        has_room
    }

    /// Counts lines that are not written; true: they are the first.
    pub fn leave_out(&mut self, now: Instant, lines: u64) -> bool {
        self.left_out += lines;
        let is_first = self.since.is_none();
        self.since.get_or_insert(now);
        is_first
    }

    /// When the number of those left out is to be told.
    pub fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + WINDOW)
    }

    /// Tells how many were left out, and forgets it.
    pub fn tell(&mut self, now: Instant) -> String {
        let seconds = self
            .since
            .take()
            .map_or(1, |since| seconds_since(since, now));
        format!(
            "{} {} were left out in {seconds} s: more than {} a second came",
            std::mem::take(&mut self.left_out),
            self.what,
            self.a_second
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of one place in the source.
    fn line(origin: Origin, number: u32, level: Level) -> Line<'static> {
        Line {
            kind: (Some("src/x.rs"), Some(number), level),
            target: "thriftpd::ftp::commands",
            origin,
        }
    }

    fn stranger(last: u32) -> Origin {
        Origin::Stranger(Some(IpAddr::V4((0xc000_0200 + last).into())))
    }

    fn user() -> Origin {
        Origin::User(IpAddr::from([192, 0, 2, 7]))
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// What is written of so many such lines at once.
    fn written(limit: &mut Limit, now: Instant, line: &Line<'_>, lines: u32) -> usize {
        let verdicts = (0..lines).map(|_| limit.admit(now, line));
        let is_written = |verdict: &Verdict| matches!(verdict, Verdict::Written | Verdict::First);
        verdicts.filter(is_written).count()
    }

    #[test]
    fn one_line_is_written_at_once_and_then_the_number_of_those_like_it() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let failed = line(stranger(7), 1, Level::Warn);
        assert_eq!(limit.admit(start, &failed), Verdict::First);
        limit.show(&failed, "192.0.2.7:5: refused");
        // Nobody has to wake for a single line.
        assert_eq!(limit.due(start), (Vec::new(), None));
        assert_eq!(limit.admit(after(start, 1), &failed), Verdict::FirstCounted);
        assert_eq!(written(&mut limit, after(start, 2), &failed, 4811), 0);
        // Others are written at once.
        for other in [
            line(stranger(8), 1, Level::Warn),
            line(stranger(7), 2, Level::Warn),
            line(stranger(7), 1, Level::Error),
        ] {
            assert_eq!(limit.admit(after(start, 3), &other), Verdict::First);
        }
        let end = after(start, 10);
        assert_eq!(limit.due(after(start, 9)), (Vec::new(), Some(end)));
        let told = "... 4812 more such lines from 192.0.2.7 in 10 s: 192.0.2.7:5: refused";
        assert_eq!(limit.due(end), (vec![(Level::Warn, told.to_owned())], None));
        assert_eq!(limit.admit(end, &failed), Verdict::First);
        assert_eq!(limit.rest(end), []);
    }

    #[test]
    fn a_line_that_comes_now_and_then_is_always_written() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let failed = line(stranger(7), 1, Level::Warn);
        for turn in 0..50 {
            assert_eq!(
                limit.admit(after(start, 10 * turn), &failed),
                Verdict::First
            );
        }
        assert_eq!(limit.rest(after(start, 500)), []);
    }

    #[test]
    fn what_users_have_done_is_written_line_by_line_and_much_of_what_failed() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let stored = line(user(), 1, Level::Info);
        assert_eq!(written(&mut limit, start, &stored, 5000), 5000);
        let failed = line(user(), 1, Level::Warn);
        assert_eq!(written(&mut limit, start, &failed, 5000), 100);
        let of_host = line(Origin::Host, 1, Level::Warn);
        assert_eq!(written(&mut limit, start, &of_host, 5000), 100);
        let guesses = Line {
            target: PACED,
            ..line(stranger(7), 2, Level::Warn)
        };
        assert_eq!(written(&mut limit, start, &guesses, 5000), 10);
    }

    #[test]
    fn all_addresses_of_a_link_are_one() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        for last in 0..100 {
            let address = IpAddr::from([0x2001, 0xdb8, 1, 2, 0, 0, 0, last]);
            let line = line(Origin::Stranger(Some(address)), 1, Level::Warn);
            if limit.admit(start, &line) == Verdict::First {
                limit.show(&line, "x");
            }
        }
        let told = limit.rest(after(start, 1)).pop().unwrap().1;
        assert_eq!(
            told,
            "... 99 more such lines from 2001:db8:1:2::/64 in 1 s: x"
        );
    }

    #[test]
    fn thousands_of_addresses_take_bounded_memory_and_few_lines() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let mut lines = 0;
        for last in 0..10_000 {
            let line = line(stranger(last), 1, Level::Warn);
            if limit.admit(start, &line) == Verdict::First {
                limit.show(&line, "x");
                lines += 1;
            }
        }
        assert_eq!(lines, ADDRESSES + 1);
        assert_eq!(limit.kinds.values().flatten().count(), lines);
        let (told, wake) = limit.due(after(start, 10));
        let others = "... 9983 more such lines from other addresses in 10 s: x";
        assert_eq!(told, [(Level::Warn, others.to_owned())]);
        assert_eq!((limit.kinds.len(), wake), (0, None));
    }

    #[test]
    fn a_flood_of_strangers_takes_no_line_from_users_or_the_host() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        // Each of another kind, as nobody can have it: the share alone holds.
        let flood = (0..1000).map(|kind| limit.admit(start, &line(stranger(1), kind, Level::Info)));
        let flood = flood.filter(|verdict| *verdict == Verdict::First).count();
        assert_eq!(flood, 200);
        let of_room = |origin, target, number| Line {
            target,
            ..line(origin, number, Level::Warn)
        };
        for (number, (origin, target)) in [
            (user(), "thriftpd::ftp::session"),
            (Origin::Host, "thriftpd::server::upkeep"),
            // A disk that fails while a stranger lists it is the owner's trouble.
            (stranger(1), "thriftpd::storage::listing"),
        ]
        .into_iter()
        .enumerate()
        {
            let line = of_room(origin, target, 2000 + number as u32);
            assert_eq!(limit.admit(start, &line), Verdict::First);
        }
        // And in a second there is room for 20 more.
        let more = (0..1000).map(|kind| {
            limit.admit(
                after(start, 1),
                &line(stranger(2), 5000 + kind, Level::Info),
            )
        });
        assert_eq!(
            more.filter(|verdict| *verdict == Verdict::First).count(),
            20
        );
        let (told, wake) = limit.due(after(start, 10));
        let left_out = "1780 lines about clients without an account of their own were left out in 10 s: more than 20 a second came";
        assert_eq!(told, [(Level::Warn, left_out.to_owned())]);
        assert_eq!(wake, None);
    }

    #[test]
    fn what_was_counted_is_told_at_the_end() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let failed = line(stranger(7), 1, Level::Warn);
        written(&mut limit, start, &failed, 5);
        let told = limit.rest(after(start, 2));
        assert!(
            told[0]
                .1
                .starts_with("... 4 more such lines from 192.0.2.7 in 2 s")
        );
        assert_eq!(limit.rest(after(start, 2)), []);
    }
}
