//! THE table of live connections and sessions, whatever their protocol: who is here, since when, doing what, over which socket.
//! Limits, counts, what `SITE WHO` shows and the way to end a session come from it. A row leaves the table when it is dropped.
//!
//! A connection first counts for its address alone. Once its client speaks it becomes a session ([`Row::begin`]), one of those
//! before login until [`Row::log_in`]. Where there are too many of these, one is cut off, of the address that has most: a client
//! that knows a password is logged in soon, and needs its place for a moment only.
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::admission::{Limits, Refused};
use crate::os::addresses::source;
use crate::os::ending::Ending;
use crate::os::socket;

/// Sessions that were cut off and have not noticed yet may be so many more than `sessions`.
const LEAVING: usize = 16;

/// What a client hears whose session made room.
const GAVE_WAY: &str = "Too many connections without a login; try again.";
const GONE: &str = "You did not answer any more, and a new connection of yours needs the place.";

/// What others may know of a session.
#[derive(Clone, Debug)]
pub struct Seen {
    pub peer: SocketAddr,
    pub since: Instant,
    /// Empty before login.
    pub user: Vec<u8>,
    /// The transfer under way, or empty.
    pub doing: Vec<u8>,
    /// Bytes of files and listings that have come and gone, in all.
    pub received: u64,
    pub sent: u64,
}

/// Bytes that a session has moved over its data connections, counted while they flow.
#[derive(Debug, Default)]
pub struct Moved {
    pub received: AtomicU64,
    pub sent: AtomicU64,
}

/// What a connection counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its client has said nothing yet.
    Silent,
    /// Sessions before their login in the order of these numbers.
    BeforeLogin(u64),
    LoggedIn,
    /// It was cut off and has not noticed yet.
    Leaving,
}

#[derive(Debug)]
struct Live {
    peer: SocketAddr,
    /// Whose it is (see [`source`]).
    whose: IpAddr,
    since: Instant,
    stage: Stage,
    user: Vec<u8>,
    doing: Vec<u8>,
    moved: Arc<Moved>,
    socket: Arc<TcpStream>,
    /// None while its client is silent.
    ending: Option<Arc<Ending>>,
}

impl Live {
    fn seen(&self) -> Seen {
        Seen {
            peer: self.peer,
            since: self.since,
            user: self.user.clone(),
            doing: self.doing.clone(),
            received: self.moved.received.load(Ordering::Relaxed),
            sent: self.moved.sent.load(Ordering::Relaxed),
        }
    }

    fn is_of(&self, user: &[u8]) -> bool {
        self.stage == Stage::LoggedIn && self.user == user
    }

    fn order(&self) -> Option<u64> {
        match self.stage {
            Stage::BeforeLogin(order) => Some(order),
            _ => None,
        }
    }

    fn cut_off(&mut self, why: &'static str) {
        self.stage = Stage::Leaving;
        if let Some(ending) = &self.ending {
            ending.end(why);
        }
    }
}

/// By their numbers, counted from 1 since the start of the server.
#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<u64, Live>,
    last: u64,
    order: u64,
}

impl Table {
    fn count(&self, test: impl Fn(&Live) -> bool) -> usize {
        self.rows.values().filter(|live| test(live)).count()
    }

    fn sessions(&self) -> usize {
        self.count(|live| live.stage != Stage::Silent)
    }

    fn before_login(&self) -> usize {
        self.count(|live| live.order().is_some())
    }

    fn leaving(&self) -> usize {
        self.count(|live| live.stage == Stage::Leaving)
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.is_full_with(self.leaving(), limits)
    }

    /// Whether there would be no place either if one more were cut off: then nobody is, for it would be of no use.
    fn stays_full(&self, limits: &Limits) -> bool {
        let more = usize::from(self.before_login() > 0);
        self.is_full_with(self.leaving() + more, limits)
    }

    fn is_full_with(&self, leaving: usize, limits: &Limits) -> bool {
        self.sessions() - leaving.min(LEAVING) >= limits.sessions
    }

    /// The oldest before its login of the address that has most of these: its client.
    fn cut_off_one(&mut self) -> Option<SocketAddr> {
        let mut waiting: Vec<(u64, &mut Live)> = self
            .rows
            .values_mut()
            .filter_map(|live| Some((live.order()?, live)))
            .collect();
        waiting.sort_by_key(|(order, _)| *order);
        let index = most_crowded(waiting.iter().map(|(_, live)| live.whose))?;
        let (_, live) = &mut waiting[index];
        live.cut_off(GAVE_WAY);
        Some(live.peer)
    }

    fn before_login_again(&mut self, id: u64) {
        self.order += 1;
        if let Some(live) = self.rows.get_mut(&id) {
            live.stage = Stage::BeforeLogin(self.order);
        }
    }
}

/// The table. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sessions(Arc<Mutex<Table>>);

impl Sessions {
    /// A row for a connection, if its address has a place left and a session could begin.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn admit(
        &self,
        peer: SocketAddr,
        socket: &Arc<TcpStream>,
        limits: &Limits,
    ) -> Result<Row, Refused> {
        let whose = source(peer.ip());
        let moved = Arc::<Moved>::default();
        let live = Live {
            peer,
            whose,
            since: Instant::now(),
            stage: Stage::Silent,
            user: Vec::new(),
            doing: Vec::new(),
            moved: Arc::clone(&moved),
            socket: Arc::clone(socket),
            ending: None,
        };
        let id = self.with(|table| {
            if table.stays_full(limits) {
                return Err(Refused::Full(limits.sessions));
            }
            let of_address = |live: &Live| live.whose == whose && live.stage != Stage::Leaving;
            if table.count(of_address) >= limits.sessions_per_address {
                return Err(Refused::Address(limits.sessions_per_address));
            }
            table.last += 1;
            table.rows.insert(table.last, live);
            Ok(table.last)
        })?;
        let sessions = self.clone();
        Ok(Row {
            id,
            sessions,
            moved,
        })
    }

    /// Cuts off the sessions from there (see [`source`]) whose clients do not answer any more, as far as the kernel knows, and
    /// has it ask the others that are quiet. Returns the clients.
    pub fn cut_off_dead_of(&self, whose: IpAddr) -> Vec<SocketAddr> {
        self.with(|table| {
            let of_address = |live: &&mut Live| {
                live.whose == whose && !matches!(live.stage, Stage::Silent | Stage::Leaving)
            };
            let mut dead = Vec::new();
            for live in table.rows.values_mut().filter(of_address) {
                if socket::answers_no_more(live.socket.as_fd()) {
                    live.cut_off(GONE);
                    dead.push(live.peer);
                }
            }
            dead
        })
    }

    /// The sessions of one user, oldest first.
    pub fn of_user(&self, user: &[u8]) -> Vec<(u64, Seen)> {
        self.with(|table| {
            let of_user = table.rows.iter().filter(|(_, live)| live.is_of(user));
            of_user.map(|(id, live)| (*id, live.seen())).collect()
        })
    }

    /// Has a session end, and tells its client why; false where there is none of that number. Returns at once; the row leaves
    /// the table once the session has ended.
    pub fn end(&self, id: u64, why: &'static str) -> bool {
        self.with(|table| {
            let live = table.rows.get(&id);
            let ending = live.and_then(|live| live.ending.as_ref());
            ending.map(|ending| ending.end(why)).is_some()
        })
    }

    /// Has all sessions end of which the test is true of the user, those before login aside, and tells their clients why; returns
    /// how many.
    pub fn end_of_users(&self, is_to_end: impl Fn(&[u8]) -> bool, why: &'static str) -> usize {
        self.with(|table| {
            let logged_in = table.rows.values();
            let logged_in = logged_in.filter(|live| live.stage == Stage::LoggedIn);
            let endings = logged_in
                .filter(|live| is_to_end(&live.user))
                .filter_map(|live| live.ending.as_ref());
            endings.map(|ending| ending.end(why)).count()
        })
    }

    /// Sessions at this moment.
    pub fn count(&self) -> usize {
        self.with(|table| table.sessions())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Table) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a session cannot be logged in to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// The user has as many sessions as are allowed.
    TooMany,
    /// It was cut off just now, for this reason.
    CutOff(&'static str),
}

/// A connection's own row, and with it its place; dropped, it is free again.
#[derive(Debug)]
pub struct Row {
    id: u64,
    sessions: Sessions,
    moved: Arc<Moved>,
}

impl Row {
    /// The connection becomes a session, which `ending` ends. One of those before login is ended where there are too many: the
    /// client of that one is returned.
    ///
    /// # Errors
    /// The limit that is reached all the same.
    pub fn begin(
        &self,
        ending: Arc<Ending>,
        limits: &Limits,
    ) -> Result<Option<SocketAddr>, Refused> {
        self.sessions.with(|table| {
            if table.stays_full(limits) {
                return Err(Refused::Full(limits.sessions));
            }
            let must_cut = table.before_login() >= limits.before_login || table.is_full(limits);
            let cut_off = must_cut.then(|| table.cut_off_one()).flatten();
            table.before_login_again(self.id);
            if let Some(live) = table.rows.get_mut(&self.id) {
                live.ending = Some(ending);
            }
            Ok(cut_off)
        })
    }

    /// The session is logged in to by a user who may have `limit` sessions.
    ///
    /// # Errors
    /// Why it is not; nothing has changed then.
    pub fn log_in(&self, user: &[u8], limit: usize) -> Result<(), NoPlace> {
        self.sessions.with(|table| {
            if table.count(|live| live.is_of(user)) >= limit {
                return Err(NoPlace::TooMany);
            }
            let live = table.rows.get_mut(&self.id);
            let live = live.filter(|live| live.stage != Stage::Leaving);
            let live = live.ok_or(NoPlace::CutOff(GAVE_WAY))?;
            live.stage = Stage::LoggedIn;
            live.user = user.to_vec();
            Ok(())
        })
    }

    /// The session is again one before its login, the latest of them.
    pub fn log_out(&self) {
        self.sessions.with(|table| {
            table.before_login_again(self.id);
            if let Some(live) = table.rows.get_mut(&self.id) {
                live.user.clear();
            }
        });
    }

    /// The session's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn set_doing(&self, doing: &[u8]) {
        self.sessions.with(|table| {
            if let Some(live) = table.rows.get_mut(&self.id) {
                live.doing.clear();
                live.doing.extend_from_slice(doing);
            }
        });
    }

    /// What the session counts that it moves.
    pub fn moved(&self) -> &Arc<Moved> {
        &self.moved
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        // What the row holds is dropped behind the lock.
        let _row = self.sessions.with(|table| table.rows.remove(&self.id));
    }
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

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

    fn admit(sessions: &Sessions, address: IpAddr) -> Result<Row, Refused> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        sessions.admit((address, 2121).into(), &Arc::new(socket), &LIMITS)
    }

    fn session(sessions: &Sessions, last: u8, ending: &Arc<Ending>) -> Result<Row, Refused> {
        let row = admit(sessions, IpAddr::from([127, 0, 0, last]))?;
        row.begin(Arc::clone(ending), &LIMITS)?;
        Ok(row)
    }

    #[test]
    fn limits_hold_in_all_per_address_and_per_user_and_rows_come_back() {
        let sessions = Sessions::default();
        let ending = ending();
        let logged_in = |last| -> Result<Row, Refused> {
            let row = session(&sessions, last, &ending)?;
            assert_eq!(row.log_in(&[last], 2), Ok(()));
            Ok(row)
        };
        let first = logged_in(1).unwrap();
        let _second = logged_in(1).unwrap();
        assert_eq!(logged_in(1).unwrap_err(), Refused::Address(2));
        let _third = logged_in(2).unwrap();
        assert_eq!(logged_in(2).unwrap_err(), Refused::Full(3));
        drop(first);
        assert_eq!(sessions.count(), 2);
        let fourth = logged_in(1).unwrap();
        assert_eq!(fourth.log_in(&[2], 1), Err(NoPlace::TooMany));
        assert_eq!(fourth.log_in(&[3], 1), Ok(()));
        fourth.log_out();
        assert_eq!(fourth.log_in(&[3], 1), Ok(()));
    }

    #[test]
    fn the_addresses_of_one_link_count_as_one() {
        let sessions = Sessions::default();
        let admit = |address: &str| admit(&sessions, address.parse().unwrap());
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
    fn the_oldest_without_a_login_is_cut_off_for_a_new_one_and_who_has_logged_in_never() {
        let sessions = Sessions::default();
        let endings: Vec<_> = (0..4).map(|_| ending()).collect();
        let begin = |index: usize| session(&sessions, 10 + index as u8, &endings[index]);
        let logged_in = begin(0).unwrap();
        assert_eq!(logged_in.log_in(b"anna", 1), Ok(()));
        let oldest = begin(1).unwrap();
        let second = begin(2).unwrap();
        let _third = begin(3).unwrap();
        let ended = endings.iter().map(|ending| ending.why().is_some());
        assert_eq!(ended.collect::<Vec<_>>(), [false, true, false, false]);
        assert_eq!(sessions.count(), 4, "one of them has not noticed yet");
        assert_eq!(oldest.log_in(b"ben", 1), Err(NoPlace::CutOff(GAVE_WAY)));
        drop(oldest);
        assert_eq!(sessions.count(), 3);
        drop(second);
        drop(logged_in);
        assert_eq!(sessions.count(), 1);
    }

    #[test]
    fn nobody_is_cut_off_where_that_makes_no_room() {
        let sessions = Sessions::default();
        let ending = ending();
        let mut rows: Vec<Row> = Vec::new();
        // Of those that were cut off none notices.
        let refused = loop {
            match session(&sessions, rows.len() as u8, &ending) {
                Ok(row) => rows.push(row),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, Refused::Full(3));
        assert_eq!(rows.len(), LIMITS.sessions + LEAVING);
        let waiting = || sessions.with(|table| table.before_login());
        assert_eq!(waiting(), LIMITS.before_login);
        for last in 100..110 {
            let refused = session(&sessions, last, &ending).unwrap_err();
            assert_eq!(refused, Refused::Full(3));
        }
        assert_eq!(waiting(), LIMITS.before_login);
        // One that is silent yet is not served at their cost either.
        drop(rows.remove(0));
        let silent = admit(&sessions, IpAddr::from([127, 0, 0, 200])).unwrap();
        rows.push(session(&sessions, 201, &ending).unwrap());
        assert_eq!(silent.begin(ending, &LIMITS).unwrap_err(), Refused::Full(3));
        assert_eq!(waiting(), LIMITS.before_login);
    }

    #[test]
    fn who_has_logged_out_is_cut_off_like_those_who_never_logged_in() {
        let sessions = Sessions::default();
        let endings: Vec<_> = (0..3).map(|_| ending()).collect();
        let begin = |index: usize| session(&sessions, 10 + index as u8, &endings[index]);
        let first = begin(0).unwrap();
        assert_eq!(first.log_in(b"anna", 1), Ok(()));
        first.log_out();
        let _second = begin(1).unwrap();
        let _third = begin(2).unwrap();
        assert!(endings[0].why().is_some(), "it was ended");
        drop(first);
        assert_eq!(sessions.count(), 2);
    }
}
