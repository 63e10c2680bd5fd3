//! Who may come in: sessions at once in all, before their login, per address and per user. A place is given back by
//! dropping it.
//!
//! A connection first has a [`Slot`], which counts for its address. Once its client speaks it becomes a session
//! ([`Slot::begin`]), one of those before login until [`Slot::log_in`]. Where there are too many of these, one is cut off,
//! of whoever has most: who knows a password is logged in soon, and needs its place for a moment only.
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::os::addresses::source;
use crate::os::ending::Ending;

/// Sessions that were cut off and have not noticed yet may be so many more than `sessions`.
const LEAVING: usize = 16;

/// What a client hears whose session made room.
const GAVE_WAY: &str = "Too many connections without a login; try again.";

/// How many sessions may be served at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub sessions: usize,
    pub sessions_per_address: usize,
    /// Sessions without a login, and connections besides whose clients have said nothing.
    pub before_login: usize,
    /// From the connection to the login, in all.
    pub login: Duration,
}

/// Why a connection is not served, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many sessions as `sessions` allows.
    Full(usize),
    /// As many sessions from this address as `sessions_per_ip` allows.
    Address(usize),
    /// Too many failed logins; for so long yet.
    Banned(Duration),
    /// The server does not answer this network, by this setting.
    Network(&'static str),
    /// It was silent while others came.
    GaveWay(usize),
    /// It was silent for too long.
    Silent,
    /// No descriptors or threads left.
    Resources,
    ShutDown,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(limit) => write!(
                f,
                "Too many sessions: the limit is {limit}; try again later."
            ),
            Self::Address(limit) => write!(
                f,
                "Too many sessions from your address: the limit is {limit}."
            ),
            Self::Banned(left) => write!(
                f,
                "Too many failed logins from your address; try again in {} s.",
                left.as_secs().max(1)
            ),
            Self::Network(_) => f.write_str("Your network is not served."),
            Self::GaveWay(limit) => write!(
                f,
                "Too many connections without a login: the limit is {limit}; try again."
            ),
            Self::Silent => f.write_str("Login timeout: closing control connection."),
            Self::Resources => f.write_str("The server is out of resources; try again later."),
            Self::ShutDown => f.write_str("The server is shutting down; goodbye."),
        }
    }
}

impl Refused {
    /// The setting that would change the refusal.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Full(_) => "sessions",
            Self::Address(_) => "sessions_per_ip",
            Self::Banned(_) => "ban_after, ban_for; or thriftpd ban remove, which takes a ban_file",
            Self::Network(setting) => setting,
            Self::GaveWay(_) => "sessions_before_login",
            Self::Silent => "timeouts.login",
            Self::Resources => "the limit on open files (ulimit -n)",
            Self::ShutDown => "none",
        }
    }
}

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    counters: Arc<Mutex<Counters>>,
}

#[derive(Debug, Default)]
struct Counters {
    sessions: usize,
    /// Of them, those that were cut off.
    leaving: usize,
    /// By [`source`].
    addresses: HashMap<IpAddr, usize>,
    users: HashMap<Vec<u8>, usize>,
    /// Pieces of work on command that keep a disk or a processor busy.
    heavy: usize,
    next: u64,
    /// Sessions before login, oldest first.
    before_login: BTreeMap<u64, BeforeLogin>,
}

#[derive(Debug)]
struct BeforeLogin {
    /// Whose it is (see [`source`]).
    whose: IpAddr,
    session: Known,
}

/// A session, as one that has to make room is named and ended.
#[derive(Clone, Debug)]
struct Known {
    peer: SocketAddr,
    ending: Arc<Ending>,
}

/// What a connection counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its client has said nothing yet.
    Silent,
    BeforeLogin(u64),
    LoggedIn,
}

/// A connection's place; dropped, it is free again.
#[derive(Debug)]
pub struct Slot {
    admission: Admission,
    /// Whose it is (see [`source`]).
    whose: IpAddr,
    stage: Stage,
    /// None while its client is silent.
    session: Option<Known>,
}

impl Slot {
    /// The connection becomes a session, which `ending` ends. One of those before login is ended where there are too many: the
    /// client of that one is returned.
    ///
    /// # Errors
    /// The limit that is reached all the same.
    pub fn begin(
        &mut self,
        peer: SocketAddr,
        ending: Arc<Ending>,
        limits: &Limits,
    ) -> Result<Option<SocketAddr>, Refused> {
        let session = Known { peer, ending };
        let (number, cut_off) = self.admission.with(|counters| {
            if counters.stays_full(limits) {
                return Err(Refused::Full(limits.sessions));
            }
            let must_cut =
                counters.before_login.len() >= limits.before_login || counters.is_full(limits);
            let cut_off = must_cut.then(|| counters.cut_off_one()).flatten();
            counters.sessions += 1;
            let number = counters.wait_for_login(self.whose, session.clone());
            Ok((number, cut_off))
        })?;
        self.stage = Stage::BeforeLogin(number);
        self.session = Some(session);
        Ok(cut_off.map(|cut_off| {
            cut_off.ending.end(GAVE_WAY);
            cut_off.peer
        }))
    }

    /// The session has logged in.
    pub fn log_in(&mut self) {
        if let Stage::BeforeLogin(number) = self.stage {
            self.stage = Stage::LoggedIn;
            self.admission
                .with(|counters| counters.no_longer_before_login(number));
        }
    }

    /// The session is again one before its login, the latest of them.
    pub fn log_out(&mut self) {
        if let (Stage::LoggedIn, Some(session)) = (self.stage, self.session.clone()) {
            let whose = self.whose;
            let number = self
                .admission
                .with(|counters| counters.wait_for_login(whose, session));
            self.stage = Stage::BeforeLogin(number);
        }
    }
}

impl Counters {
    fn is_full(&self, limits: &Limits) -> bool {
        self.is_full_with(self.leaving, limits)
    }

    /// Whether there would be no place either if one more were cut off: then nobody is, for it would be of no use.
    fn stays_full(&self, limits: &Limits) -> bool {
        let more = usize::from(!self.before_login.is_empty());
        self.is_full_with(self.leaving + more, limits)
    }

    fn is_full_with(&self, leaving: usize, limits: &Limits) -> bool {
        self.sessions - leaving.min(LEAVING) >= limits.sessions
    }

    /// The oldest of the address that has most.
    fn cut_off_one(&mut self) -> Option<Known> {
        let whose = self.before_login.values().map(|session| session.whose);
        let index = most_crowded(whose)?;
        let number = *self.before_login.keys().nth(index)?;
        let cut_off = self.before_login.remove(&number)?;
        self.leaving += 1;
        Some(cut_off.session)
    }

    /// A session without a login; the number by which it is found.
    fn wait_for_login(&mut self, whose: IpAddr, session: Known) -> u64 {
        self.next += 1;
        let session = BeforeLogin { whose, session };
        self.before_login.insert(self.next, session);
        self.next
    }

    fn no_longer_before_login(&mut self, number: u64) {
        if self.before_login.remove(&number).is_none() {
            // It was cut off.
            self.leaving -= 1;
        }
    }
}

/// Leave for a piece of heavy work; dropped, the next may begin.
#[derive(Debug)]
pub struct HeavySlot(Admission);

/// One of a user's places; dropped, it is free again.
#[derive(Debug)]
pub struct UserSlot {
    admission: Admission,
    user: Vec<u8>,
}

impl Admission {
    /// A place for a connection, if its address has one left and a session could begin.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn admit(&self, address: IpAddr, limits: &Limits) -> Result<Slot, Refused> {
        let whose = source(address);
        self.with(|counters| {
            if counters.stays_full(limits) {
                return Err(Refused::Full(limits.sessions));
            }
            if !count_up(&mut counters.addresses, whose, limits.sessions_per_address) {
                return Err(Refused::Address(limits.sessions_per_address));
            }
            Ok(())
        })?;
        Ok(Slot {
            admission: self.clone(),
            whose,
            stage: Stage::Silent,
            session: None,
        })
    }

    /// A place for one more session of the user, or None when there are `limit` already.
    pub fn admit_user(&self, user: &[u8], limit: usize) -> Option<UserSlot> {
        let user = user.to_vec();
        self.with(|counters| count_up(&mut counters.users, user.clone(), limit))
            .then(|| UserSlot {
                admission: self.clone(),
                user,
            })
    }

    /// Leave for one more piece of heavy work, or None while there are `limit` already.
    pub fn admit_heavy(&self, limit: usize) -> Option<HeavySlot> {
        let free = self.with(|counters| {
            let free = counters.heavy < limit;
            counters.heavy += usize::from(free);
            free
        });
        free.then(|| HeavySlot(self.clone()))
    }

    /// Sessions at this moment.
    pub fn sessions(&self) -> usize {
        self.with(|counters| counters.sessions)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counters) -> T) -> T {
        work(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn count_up<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, limit: usize) -> bool {
    if counts.get(&key).copied().unwrap_or(0) >= limit {
        return false;
    }
    *counts.entry(key).or_insert(0) += 1;
    true
}

/// Who is to make room for a new one: the first, which is the oldest, of those that share their address with most others.
/// So the crowd of few addresses is thinned, and not the only connection of another.
pub fn most_crowded(whose: impl Iterator<Item = IpAddr> + Clone) -> Option<usize> {
    let mut crowds: HashMap<IpAddr, usize> = HashMap::new();
    for address in whose.clone() {
        *crowds.entry(address).or_default() += 1;
    }
    let largest = crowds.values().copied().max()?;
    let mut whose = whose;
    whose.position(|address| crowds[&address] == largest)
}

/// Removes what falls to zero, so that the tables hold only who is here.
fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.admission.with(|counters| {
            if let Stage::BeforeLogin(number) = self.stage {
                counters.no_longer_before_login(number);
            }
            if self.stage != Stage::Silent {
                counters.sessions -= 1;
            }
            count_down(&mut counters.addresses, &self.whose);
        });
    }
}

impl Drop for HeavySlot {
    fn drop(&mut self) {
        self.0.with(|counters| counters.heavy -= 1);
    }
}

impl Drop for UserSlot {
    fn drop(&mut self) {
        self.admission
            .with(|counters| count_down(&mut counters.users, &self.user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        sessions: 3,
        sessions_per_address: 2,
        before_login: 2,
        login: Duration::from_secs(60),
    };

    fn ending() -> Arc<Ending> {
        Arc::new(Ending::new().unwrap())
    }

    fn session(admission: &Admission, last: u8, ending: &Arc<Ending>) -> Result<Slot, Refused> {
        let peer = SocketAddr::from(([127, 0, 0, last], 2121));
        let mut slot = admission.admit(peer.ip(), &LIMITS)?;
        slot.begin(peer, Arc::clone(ending), &LIMITS)?;
        Ok(slot)
    }

    #[test]
    fn limits_hold_in_all_per_address_and_per_user_and_slots_come_back() {
        let admission = Admission::default();
        let ending = ending();
        let logged_in = |last| -> Result<Slot, Refused> {
            let mut slot = session(&admission, last, &ending)?;
            slot.log_in();
            Ok(slot)
        };
        let first = logged_in(1).unwrap();
        let _second = logged_in(1).unwrap();
        assert_eq!(logged_in(1).unwrap_err(), Refused::Address(2));
        let _third = logged_in(2).unwrap();
        assert_eq!(logged_in(2).unwrap_err(), Refused::Full(3));
        drop(first);
        assert_eq!(admission.sessions(), 2);
        assert!(logged_in(1).is_ok());

        let slot = admission.admit_user(b"anna", 1);
        assert!(slot.is_some() && admission.admit_user(b"anna", 1).is_none());
        drop(slot);
        assert!(admission.admit_user(b"anna", 1).is_some());
    }

    #[test]
    fn the_addresses_of_one_link_count_as_one() {
        let admission = Admission::default();
        let admit = |address: &str| admission.admit(address.parse().unwrap(), &LIMITS);
        let first = admit("2001:db8:1:2::1").unwrap();
        let _second = admit("2001:db8:1:2:ffff::2").unwrap();
        assert_eq!(admit("2001:db8:1:2::3").unwrap_err(), Refused::Address(2));
        assert!(admit("2001:db8:1:3::3").is_ok());
        drop(first);
        assert!(admit("2001:db8:1:2::3").is_ok());
    }

    #[test]
    fn whoever_has_most_makes_room_first() {
        let of = |last: &[u8]| {
            let addresses = last.iter().map(|&last| IpAddr::from([10, 0, 0, last]));
            most_crowded(addresses.collect::<Vec<_>>().into_iter())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[1, 2, 3]), Some(0));
        assert_eq!(of(&[1, 2, 3, 2]), Some(1));
    }

    #[test]
    fn so_much_heavy_work_is_done_at_once_and_no_more() {
        let admission = Admission::default();
        let first = admission.admit_heavy(2).unwrap();
        let _second = admission.admit_heavy(2).unwrap();
        assert!(admission.admit_heavy(2).is_none());
        drop(first);
        assert!(admission.admit_heavy(2).is_some());
    }

    #[test]
    fn the_oldest_without_a_login_is_cut_off_for_a_new_one_and_who_has_logged_in_never() {
        let admission = Admission::default();
        let endings: Vec<_> = (0..4).map(|_| ending()).collect();
        let begin = |index: usize| session(&admission, 10 + index as u8, &endings[index]);
        let mut logged_in = begin(0).unwrap();
        logged_in.log_in();
        let oldest = begin(1).unwrap();
        let second = begin(2).unwrap();
        let _third = begin(3).unwrap();
        let ended = endings.iter().map(|ending| ending.why().is_some());
        assert_eq!(ended.collect::<Vec<_>>(), [false, true, false, false]);
        assert_eq!(admission.sessions(), 4, "one of them has not noticed yet");
        drop(oldest);
        assert_eq!(admission.sessions(), 3);
        drop(second);
        drop(logged_in);
        assert_eq!(admission.sessions(), 1);
    }

    #[test]
    fn nobody_is_cut_off_where_that_makes_no_room() {
        let admission = Admission::default();
        let ending = ending();
        let mut slots: Vec<Slot> = Vec::new();
        // Of those that were cut off none notices.
        let refused = loop {
            match session(&admission, slots.len() as u8, &ending) {
                Ok(slot) => slots.push(slot),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, Refused::Full(3));
        assert_eq!(slots.len(), LIMITS.sessions + LEAVING);
        let waiting = || admission.with(|counters| counters.before_login.len());
        assert_eq!(waiting(), LIMITS.before_login);
        for last in 100..110 {
            let refused = session(&admission, last, &ending).unwrap_err();
            assert_eq!(refused, Refused::Full(3));
        }
        assert_eq!(waiting(), LIMITS.before_login);
        // One that is silent yet is not served at their cost either.
        drop(slots.remove(0));
        let peer = SocketAddr::from(([127, 0, 0, 200], 2121));
        let mut silent = admission.admit(peer.ip(), &LIMITS).unwrap();
        slots.push(session(&admission, 201, &ending).unwrap());
        assert_eq!(
            silent.begin(peer, ending, &LIMITS).unwrap_err(),
            Refused::Full(3)
        );
        assert_eq!(waiting(), LIMITS.before_login);
    }

    #[test]
    fn who_has_logged_out_is_cut_off_like_those_who_never_logged_in() {
        let admission = Admission::default();
        let endings: Vec<_> = (0..3).map(|_| ending()).collect();
        let begin = |index: usize| session(&admission, 10 + index as u8, &endings[index]);
        let mut first = begin(0).unwrap();
        first.log_in();
        first.log_out();
        let _second = begin(1).unwrap();
        let _third = begin(2).unwrap();
        assert!(endings[0].why().is_some(), "it was ended");
        drop(first);
        assert_eq!(admission.sessions(), 2);
    }
}
