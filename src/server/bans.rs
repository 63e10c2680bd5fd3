//! Failed logins by address, and who is kept out for them. Tables of a fixed size: however many attackers there are, the
//! least dangerous are forgotten first. Bans end by a clock that counts sleep and that nobody can set.
//!
//! What is in memory decides. One thread keeps it and the file of bans alike, for the file may lie on a disk that hangs: nobody waits
//! for that for longer than a moment, and only once.
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::ban_file::{Ban, BanFile, Banned};
use crate::os::addresses::source;
use crate::os::clock::since_boot;

/// Addresses whose failures are counted, and addresses banned.
const MOST: usize = 2048;

/// How long the first failed login makes the client wait; each further one of the address twice as long.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(8);

/// How long a look at the file may take before it is done without.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the last bans may take to be written when the process ends.
const AT_THE_END: Duration = Duration::from_secs(1);

/// When somebody is banned.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Failed logins; 0: nobody is banned.
    pub after: u32,
    /// How long, and how long failures are remembered.
    pub time: Duration,
    /// The host itself as well.
    pub loopback: bool,
}

/// What a failed login has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// How long the client is to wait.
    pub delay: Duration,
    /// It was one too many.
    pub banned: bool,
}

/// The failures and bans of one server.
#[derive(Debug, Default)]
pub struct Bans {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    tables: Mutex<Tables>,
    /// There is something to do with the file, or it was done.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Tables {
    failures: HashMap<IpAddr, Failures>,
    banned: Banned,
    file: File,
}

/// How the file of bans stands.
#[derive(Debug, Default)]
struct File {
    /// Until the thread has it that keeps it.
    waiting: Option<BanFile>,
    /// There is that thread.
    is_kept: bool,
    /// Bans that are not in it yet.
    unsaved: Banned,
    /// How often somebody wanted it looked at, and up to which of these times it was.
    wanted: u64,
    looked: u64,
    /// It has taken too long: nobody waits for it until it is there again.
    is_stuck: bool,
}

impl File {
    fn is_done(&self) -> bool {
        self.wanted == self.looked && self.unsaved.is_empty()
    }
}

#[derive(Clone, Debug)]
struct Failures {
    count: u32,
    last: Instant,
    /// Of accounts, by a hash of their names: those that failed last, as many as anybody has.
    accounts: Vec<(u64, u32)>,
}

/// Accounts of one address whose failures can be forgiven.
const ACCOUNTS: usize = 16;

fn hash(account: &[u8]) -> u64 {
    // Of a key that nobody knows: no name can be made that stands for another.
    static KEY: OnceLock<RandomState> = OnceLock::new();
    KEY.get_or_init(RandomState::new).hash_one(account)
}

impl Bans {
    /// With the bans that the file holds, which is made where there is none.
    ///
    /// # Errors
    /// When the file cannot be opened for reading and writing.
    pub fn open(file: Option<&Path>) -> io::Result<Self> {
        let bans = Self::default();
        if let Some(path) = file {
            let mut file = BanFile::open(path)?;
            // Bans from before a boot end by this boot's clock from now on.
            match file.change(tidy) {
                Ok(banned) => bans.tables().banned = banned,
                Err(error) => complain(path, &error),
            }
            bans.tables().file.waiting = Some(file);
        }
        Ok(bans)
    }

    /// To be called once, when the process may have threads and is confined as they are to be.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(&self) -> io::Result<()> {
        let Some(file) = self.tables().file.waiting.take() else {
            return Ok(());
        };
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("bans".into())
            .stack_size(128 * 1024)
            .spawn(move || shared.keep(file))?;
        self.tables().file.is_kept = true;
        Ok(())
    }

    /// Waits a moment until the file holds all bans.
    pub fn end(&self) {
        let tables = self.tables();
        let is_behind = |tables: &mut Tables| tables.file.is_kept && !tables.file.is_done();
        let waited = (self.shared.changed).wait_timeout_while(tables, AT_THE_END, is_behind);
        drop(waited);
    }

    /// How long the address is still banned; None: it is not. Changes to the file are taken up.
    pub fn remaining(&self, address: IpAddr, rules: Rules) -> Option<Duration> {
        if address.is_loopback() && !rules.loopback {
            return None;
        }
        let tables = self.look_at_file();
        let left = tables.banned.get(&source(address))?.left(since_boot());
        (left > 0).then(|| Duration::from_secs(left))
    }

    /// Forgives what an address has failed at one account: somebody who has mistyped a password knows it after all. What it
    /// has failed at others counts on.
    pub fn forgive(&self, address: IpAddr, account: &[u8]) {
        self.with(|tables| {
            let source = source(address);
            let Some(failures) = tables.failures.get_mut(&source) else {
                return;
            };
            let account = hash(account);
            if let Some(at) = failures
                .accounts
                .iter()
                .position(|(one, _)| *one == account)
            {
                let (_, count) = failures.accounts.swap_remove(at);
                failures.count = failures.count.saturating_sub(count);
            }
            if failures.count == 0 {
                tables.failures.remove(&source);
            }
        });
    }

    /// Counts a failed login, to this account where one was named.
    pub fn failed(&self, address: IpAddr, account: Option<&[u8]>, rules: Rules) -> Failed {
        if address.is_loopback() && !rules.loopback {
            return Failed {
                delay: FIRST_DELAY,
                banned: false,
            };
        }
        let source = source(address);
        self.with(|tables| {
            let count = tables.count(source, account, rules.time);
            let banned = rules.after > 0 && count >= rules.after;
            if banned {
                tables.failures.remove(&source);
                let ban = Ban::new(since_boot(), rules.time);
                tables.banned.insert(source, ban);
                tidy(&mut tables.banned);
                if tables.file.is_kept {
                    tables.file.unsaved.insert(source, ban);
                    tidy(&mut tables.file.unsaved);
                    self.shared.changed.notify_all();
                }
            }
            // Doubling beyond 31 times is far beyond the longest.
            let doubled = FIRST_DELAY.saturating_mul(1 << (count - 1).min(31));
            Failed {
                delay: doubled.min(LONGEST_DELAY),
                banned,
            }
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> T {
        work(&mut self.tables())
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.shared.tables()
    }

    /// The tables, with what the file holds now, where that can be known in a moment.
    fn look_at_file(&self) -> MutexGuard<'_, Tables> {
        let mut tables = self.tables();
        if !tables.file.is_kept {
            return tables;
        }
        tables.file.wanted += 1;
        self.shared.changed.notify_all();
        if tables.file.is_stuck {
            return tables;
        }
        let this = tables.file.wanted;
        let is_to_come = |tables: &mut Tables| tables.file.looked < this;
        let waited = (self.shared.changed).wait_timeout_while(tables, PATIENCE, is_to_come);
        let (mut tables, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        tables.file.is_stuck = waited.timed_out();
        tables
    }
}

impl Shared {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the file and the table of bans alike, for ever.
    fn keep(&self, mut file: BanFile) {
        loop {
            let has_rest = |tables: &mut Tables| tables.file.is_done();
            let waited = self.changed.wait_while(self.tables(), has_rest);
            let tables = waited.unwrap_or_else(PoisonError::into_inner);
            let (wanted, unsaved) = (tables.file.wanted, tables.file.unsaved.clone());
            drop(tables);
            // All that may take long, and nobody's lock is held.
            let held = match unsaved.is_empty() {
                true => file.read_if_changed(),
                false => {
                    let change = |banned: &mut Banned| {
                        banned.extend(&unsaved);
                        tidy(banned);
                    };
                    file.change(change).map(Some)
                }
            };
            if let Err(error) = &held {
                complain(file.path(), error);
            }
            let mut tables = self.tables();
            let tables = &mut *tables;
            let is_new = |source: &IpAddr, ban: &mut Ban| unsaved.get(source) != Some(ban);
            tables.file.unsaved.retain(is_new);
            if let Ok(Some(banned)) = held {
                tables.banned = banned;
                tables.banned.extend(&tables.file.unsaved);
                tidy(&mut tables.banned);
            }
            tables.file.looked = wanted;
            tables.file.is_stuck = false;
            self.changed.notify_all();
        }
    }
}

fn complain(path: &Path, error: &io::Error) {
    log::error!(
        "cannot keep the bans in {}: {error} (setting: ban_file)",
        path.display()
    );
}

impl Tables {
    /// One failure more; how many there are. They are forgotten when none came for `time`.
    fn count(&mut self, source: IpAddr, account: Option<&[u8]>, time: Duration) -> u32 {
        let last = Instant::now();
        if !self.failures.contains_key(&source) && self.failures.len() >= MOST {
            self.forget_least_dangerous(time);
        }
        let failures = self.failures.entry(source).or_insert_with(|| Failures {
            count: 0,
            last,
            accounts: Vec::new(),
        });
        if last.duration_since(failures.last) > time {
            failures.count = 0;
            failures.accounts.clear();
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = last;
        if let Some(account) = account.map(hash) {
            let accounts = &mut failures.accounts;
            let known = accounts.iter().position(|(one, _)| *one == account);
            let (_, before) = known.map_or((0, 0), |at| accounts.remove(at));
            if accounts.len() == ACCOUNTS {
                accounts.remove(0);
            }
            accounts.push((account, before.saturating_add(1)));
        }
        failures.count
    }

    /// Everybody whose time is over; where that is nobody, who has failed least, and of them the longest ago.
    fn forget_least_dangerous(&mut self, time: Duration) {
        let now = Instant::now();
        self.failures
            .retain(|_, failures| now.duration_since(failures.last) <= time);
        if self.failures.len() < MOST {
            return;
        }
        let least = self
            .failures
            .iter()
            .min_by_key(|(_, failures)| (failures.count, failures.last))
            .map(|(source, _)| *source);
        if let Some(least) = least {
            self.failures.remove(&least);
        }
    }
}

/// Without the bans that are over, and where there are too many, without those that end soonest.
pub fn tidy(banned: &mut Banned) {
    let now = since_boot();
    banned.retain(|_, ban| ban.left(now) > 0);
    while banned.len() > MOST {
        let soonest = banned.iter().min_by_key(|(_, ban)| ban.until);
        let Some(source) = soonest.map(|(source, _)| *source) else {
            return;
        };
        banned.remove(&source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        after: 3,
        time: Duration::from_secs(900),
        loopback: false,
    };

    fn numbered(n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    #[test]
    fn the_delay_grows_and_then_there_is_a_ban_for_the_whole_link() {
        let bans = Bans::default();
        let address = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let delays: Vec<Failed> = (1..4)
            .map(|n| bans.failed(address(n), None, RULES))
            .collect();
        let seconds: Vec<u64> = delays.iter().map(|failed| failed.delay.as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4]);
        let banned: Vec<bool> = delays.iter().map(|failed| failed.banned).collect();
        assert_eq!(banned, [false, false, true]);
        assert!(bans.remaining(address(99), RULES).unwrap() > Duration::from_secs(800));
        let other = IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]);
        assert_eq!(bans.remaining(other, RULES), None);
    }

    #[test]
    fn the_host_itself_is_exempt_unless_it_is_not_to_be() {
        let bans = Bans::default();
        let host = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..10 {
            assert!(!bans.failed(host, None, RULES).banned);
        }
        let all = Rules {
            loopback: true,
            ..RULES
        };
        for _ in 0..3 {
            bans.failed(host, None, all);
        }
        assert!(bans.remaining(host, all).is_some());
        assert!(bans.remaining(host, RULES).is_none());
        let never = Rules { after: 0, ..all };
        let other = IpAddr::from([127, 0, 0, 2]);
        assert!((0..100).all(|_| !bans.failed(other, None, never).banned));
    }

    #[test]
    fn thousands_of_attackers_take_no_more_memory_than_the_table_has_and_the_dangerous_stay() {
        let bans = Bans::default();
        let dangerous = numbered(0);
        bans.failed(dangerous, None, RULES);
        bans.failed(dangerous, None, RULES);
        for n in 1..4_000 {
            bans.failed(numbered(n), None, RULES);
        }
        bans.with(|tables| assert_eq!(tables.failures.len(), MOST));
        assert!(bans.failed(dangerous, None, RULES).banned);
        let each = Rules { after: 1, ..RULES };
        for n in 1..3_000 {
            bans.failed(numbered(n), None, each);
        }
        bans.with(|tables| assert!(tables.banned.len() <= MOST && tables.failures.len() <= MOST));
    }

    #[test]
    fn failures_are_forgotten_after_a_while() {
        let bans = Bans::default();
        let short = Rules {
            time: Duration::ZERO,
            ..RULES
        };
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(2));
            assert!(!bans.failed(numbered(1), None, short).banned);
        }
    }

    #[test]
    fn a_success_forgives_what_failed_at_that_account_from_that_address() {
        let bans = Bans::default();
        let (one, other) = (numbered(1), numbered(2));
        for _ in 0..2 {
            bans.failed(one, Some(b"anna"), RULES);
            bans.failed(other, Some(b"anna"), RULES);
        }
        bans.forgive(one, b"berta");
        bans.forgive(one, b"anna");
        // As the first one again.
        assert_eq!(bans.failed(one, Some(b"anna"), RULES).delay, FIRST_DELAY);
        assert!(bans.failed(other, Some(b"anna"), RULES).banned);
        // Who has an account of his own may not try another's for ever.
        bans.failed(one, Some(b"berta"), RULES);
        bans.forgive(one, b"anna");
        bans.failed(one, Some(b"berta"), RULES);
        bans.forgive(one, b"anna");
        assert!(bans.failed(one, Some(b"berta"), RULES).banned);
    }
}
