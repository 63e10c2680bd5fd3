//! Files that an account has just stored, under a lock: for some minutes the account may still do to them what clients do right
//! behind an upload, which is to set their times and to give them their final names. Nothing that was there before is hurt by
//! that.
//!
//! A file is known by device and inode, and by the time of its last change: once anybody else has changed it, it is no longer
//! what was stored.
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::stat::FileStat;

use crate::storage::disk::metadata::is_same_file;

/// How long clients have.
const FRESH_FOR: Duration = Duration::from_secs(600);

/// Files that are remembered; the oldest ones are forgotten first.
const MOST: usize = 4096;

/// Device and inode, and the last change in seconds since 1970 and nanoseconds.
type Identity = (u64, u64, i64, i64);

fn identity(stat: &FileStat) -> Identity {
    let (device, inode) = (stat.st_dev, stat.st_ino);
    (device, inode, stat.st_ctime, stat.st_ctime_nsec)
}

struct Stored {
    account: String,
    file: Identity,
    since: Instant,
}

/// In the order in which they were stored.
pub struct Table(VecDeque<Stored>);

static TABLE: Mutex<Table> = Mutex::new(Table(VecDeque::new()));

/// Of this process.
pub fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// To be said when the account has stored the file, which has its name by now.
    pub fn note(&mut self, account: &str, stat: &FileStat, now: Instant) {
        self.0.push_back(Stored {
            account: account.to_owned(),
            file: identity(stat),
            since: now,
        });
        let is_over = |oldest: &Stored| now.duration_since(oldest.since) > FRESH_FOR;
        while self.0.len() > MOST || self.0.front().is_some_and(is_over) {
            self.0.pop_front();
        }
    }

    /// Whether the account has just stored the file, and nobody has changed it since.
    pub fn is_fresh(&self, account: &str, stat: &FileStat, now: Instant) -> bool {
        self.0.iter().any(|stored| stored.is(account, stat, now))
    }

    /// To be said when the account has changed a file: one that was fresh stays so, no longer than it would have been.
    pub fn renew(&mut self, account: &str, before: &FileStat, after: &FileStat, now: Instant) {
        let stored = self.0.iter_mut().find(|one| one.is(account, before, now));
        if let Some(stored) = stored.filter(|_| is_same_file(before, after)) {
            stored.file = identity(after);
        }
    }
}

impl Stored {
    fn is(&self, account: &str, stat: &FileStat, now: Instant) -> bool {
        self.file == identity(stat)
            && self.account == account
            && now.duration_since(self.since) <= FRESH_FOR
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::fstat;

    use super::*;

    fn file(inode: u64, changed: i64) -> FileStat {
        let mut stat = fstat(tempfile::tempfile().unwrap()).unwrap();
        (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec) = (inode, changed, 0);
        stat
    }

    #[test]
    fn a_file_is_fresh_for_who_has_stored_it_while_nobody_changes_it() {
        let (mut table, start) = (Table(VecDeque::new()), Instant::now());
        let stored = file(1, 100);
        table.note("anna", &stored, start);
        assert!(table.is_fresh("anna", &stored, start));
        assert!(!table.is_fresh("bert", &stored, start));
        assert!(!table.is_fresh("anna", &file(2, 100), start));
        assert!(!table.is_fresh("anna", &file(1, 101), start));
        assert!(table.is_fresh("anna", &stored, start + FRESH_FOR));
        // What anna does to it does not count, and what others do does.
        let (renamed, touched) = (file(1, 102), file(1, 103));
        table.renew("anna", &stored, &renamed, start);
        assert!(table.is_fresh("anna", &renamed, start));
        table.renew("bert", &renamed, &touched, start);
        table.renew("anna", &touched, &file(1, 104), start);
        assert!(!table.is_fresh("anna", &touched, start));
        assert!(!table.is_fresh("anna", &file(1, 104), start));
        table.renew("anna", &renamed, &stored, start);
        let late = start + FRESH_FOR + Duration::from_secs(1);
        assert!(!table.is_fresh("anna", &stored, late));
    }

    #[test]
    fn only_so_many_are_remembered_and_each_for_so_long() {
        let (mut table, start) = (Table(VecDeque::new()), Instant::now());
        let mut stat = file(0, 100);
        let mut numbered = |inode| {
            stat.st_ino = inode;
            stat
        };
        for inode in 0..2 * MOST as u64 {
            table.note("anna", &numbered(inode), start);
        }
        assert_eq!(table.0.len(), MOST);
        assert!(!table.is_fresh("anna", &numbered(0), start));
        // An inode that is used again is the file that was stored last.
        let last = 2 * MOST as u64 - 1;
        let later = start + FRESH_FOR;
        table.note("anna", &numbered(last), later);
        table.note("anna", &numbered(0), later + Duration::from_secs(1));
        assert_eq!(table.0.len(), 2);
        assert!(table.is_fresh("anna", &numbered(last), later));
    }
}
