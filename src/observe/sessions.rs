//! The live sessions: who is here, since when, doing what.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// The table of live sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    next: AtomicU64,
    table: Mutex<BTreeMap<u64, Seen>>,
}

impl Sessions {
    /// Adds a session; it leaves the table when the returned row is dropped.
    pub fn enter(self: &Arc<Self>, peer: SocketAddr) -> Row {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let seen = Seen {
            peer,
            since: Instant::now(),
            user: Vec::new(),
            doing: Vec::new(),
        };
        self.table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, seen);
        Row {
            id,
            sessions: Arc::clone(self),
        }
    }

    /// The sessions of one user, oldest first.
    pub fn of_user(&self, user: &[u8]) -> Vec<(u64, Seen)> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .iter()
            .filter(|(_, seen)| seen.user == user)
            .map(|(id, seen)| (*id, seen.clone()))
            .collect()
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
        let mut table = self
            .sessions
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = table.get_mut(&self.id) {
            change(seen);
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.sessions
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}
