//! The live sessions: who is here, since when, doing what, and the way to end each of them, whatever its protocol.
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What others may know of a session.
#[derive(Clone, Debug)]
pub struct Seen {
    pub peer: SocketAddr,
    pub since: Instant,
    /// Empty before login.
    pub user: Vec<u8>,
    /// The transfer under way, or empty.
    pub doing: Vec<u8>,
}

/// Has a session end, and its client hear why. Returns at once; the session leaves the table once it has ended.
pub type End = Arc<dyn Fn(&'static str) + Send + Sync>;

struct Live {
    seen: Seen,
    end: End,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seen.fmt(f)
    }
}

/// The table of live sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    next: AtomicU64,
    table: Mutex<BTreeMap<u64, Live>>,
}

impl Sessions {
    /// Adds a session with what ends it; it leaves the table when the returned row is dropped.
    pub fn enter(self: &Arc<Self>, peer: SocketAddr, end: End) -> Row {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let seen = Seen {
            peer,
            since: Instant::now(),
            user: Vec::new(),
            doing: Vec::new(),
        };
        self.table().insert(id, Live { seen, end });
        Row {
            id,
            sessions: Arc::clone(self),
        }
    }

    /// The sessions of one user, oldest first.
    pub fn of_user(&self, user: &[u8]) -> Vec<(u64, Seen)> {
        let table = self.table();
        let of_user = table.iter().filter(|(_, live)| live.seen.user == user);
        of_user.map(|(id, live)| (*id, live.seen.clone())).collect()
    }

    /// Has a session end, and tells its client why; false where there is none of that number.
    pub fn end(&self, id: u64, why: &'static str) -> bool {
        let end = self.table().get(&id).map(|live| Arc::clone(&live.end));
        let found = end.is_some();
        if let Some(end) = end {
            end(why);
        }
        found
    }

    /// Has all sessions end of which the test is true of the user, those before login aside, and tells their clients why; returns
    /// how many.
    pub fn end_of_users(&self, is_to_end: impl Fn(&[u8]) -> bool, why: &'static str) -> usize {
        let table = self.table();
        let of_users = table.values().filter(|live| !live.seen.user.is_empty());
        let ends: Vec<End> = of_users
            .filter(|live| is_to_end(&live.seen.user))
            .map(|live| Arc::clone(&live.end))
            .collect();
        drop(table);
        ends.iter().for_each(|end| end(why));
        ends.len()
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<u64, Live>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's own row.
#[derive(Debug)]
pub struct Row {
    id: u64,
    sessions: Arc<Sessions>,
}

impl Row {
    /// The session's number, counted from 1 since the start of the server.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn set_user(&self, user: &[u8]) {
        self.change(|seen| seen.user = user.to_vec());
    }

    pub fn set_doing(&self, doing: &[u8]) {
        self.change(|seen| seen.doing = doing.to_vec());
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        if let Some(live) = self.sessions.table().get_mut(&self.id) {
            change(&mut live.seen);
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.sessions.table().remove(&self.id);
    }
}
