//! Resumed TLS sessions that tell whose they are: a session's state carries the name of the FTP session it was made for, in
//! the tickets that clients keep (RFC 5077, RFC 8446 §4.6.1) as in the cache for those that keep none (RFC 5246 §7.3; curl
//! with TLS 1.2). A data connection that resumes one proves by it that it belongs to its control connection.
use std::sync::Arc;

use rustls::server::{ProducesTickets, StoresServerSessions};

/// Bytes of a session's name in its tickets.
pub const SESSION_ID: usize = 16;

/// Names one control connection in the tickets that it and its data connections give out.
pub type SessionId = [u8; SESSION_ID];

/// Whose sessions a connection makes and resumes.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub session: SessionId,
    /// The state of other sessions is as good as none.
    pub only_own: bool,
}

impl Owner {
    fn sign(&self, state: &[u8]) -> Vec<u8> {
        [&self.session, state].concat()
    }

    fn accept(&self, mut signed: Vec<u8>) -> Option<Vec<u8>> {
        let (session, _) = signed.split_first_chunk::<SESSION_ID>()?;
        if self.only_own && *session != self.session {
            return None;
        }
        signed.drain(..SESSION_ID);
        Some(signed)
    }
}

/// The tickets of one connection. What seals them is shared by all.
#[derive(Debug)]
pub struct Tickets {
    pub sealer: Arc<dyn ProducesTickets>,
    pub owner: Owner,
}

/// The cached sessions of one connection. The cache is shared by all.
#[derive(Debug)]
pub struct Cached {
    pub cache: Arc<dyn StoresServerSessions>,
    pub owner: Owner,
}

impl StoresServerSessions for Cached {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.cache.put(key, self.owner.sign(&value))
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.owner.accept(self.cache.get(key)?)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.owner.accept(self.cache.take(key)?)
    }

    fn can_cache(&self) -> bool {
        self.cache.can_cache()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.sealer.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.sealer.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.sealer.encrypt(&self.owner.sign(plain))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.owner.accept(self.sealer.decrypt(ticket)?)
    }
}

#[cfg(test)]
mod tests {
    use rustls::server::ServerSessionMemoryCache;

    use super::*;

    #[test]
    fn a_data_connection_resumes_its_own_session_only() {
        let sealer = rustls::crypto::ring::Ticketer::new().unwrap();
        let owner = |id: u8, only_own| Owner {
            session: [id; SESSION_ID],
            only_own,
        };
        let tickets = |id: u8, only_own| Tickets {
            sealer: Arc::clone(&sealer),
            owner: owner(id, only_own),
        };
        let ticket = tickets(1, false).encrypt(b"state").unwrap();
        assert_eq!(tickets(1, true).decrypt(&ticket).unwrap(), b"state");
        assert_eq!(tickets(2, true).decrypt(&ticket), None);
        assert_eq!(tickets(2, false).decrypt(&ticket).unwrap(), b"state");
        let mut forged = ticket;
        forged[20] ^= 1;
        assert_eq!(tickets(1, true).decrypt(&forged), None);
        assert_eq!(tickets(1, true).decrypt(b""), None);

        let cache: Arc<dyn StoresServerSessions> = ServerSessionMemoryCache::new(8);
        let cached = |id: u8, only_own| Cached {
            cache: Arc::clone(&cache),
            owner: owner(id, only_own),
        };
        assert!(cached(1, false).put(b"key".to_vec(), b"state".to_vec()));
        assert_eq!(cached(1, true).get(b"key").unwrap(), b"state");
        assert_eq!(cached(2, true).get(b"key"), None);
        assert_eq!(cached(2, false).take(b"key").unwrap(), b"state");
        assert_eq!(cached(1, true).get(b"key"), None);
    }
}
