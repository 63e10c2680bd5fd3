//! Session tickets that carry the name of the session they were given to (RFC 5077, RFC 8446 §4.6.1): a data connection
//! that resumes one proves by it whose it is, in TLS 1.2 as in 1.3.
use std::sync::Arc;

use rustls::server::ProducesTickets;

use super::handshake::{SESSION_ID, SessionId};

/// The tickets of one connection. What seals them is shared by all.
#[derive(Debug)]
pub struct Tickets {
    sealer: Arc<dyn ProducesTickets>,
    session: SessionId,
    /// Tickets given to other sessions are as good as none.
    only_own: bool,
}

impl Tickets {
    pub fn new(sealer: Arc<dyn ProducesTickets>, session: SessionId, only_own: bool) -> Self {
        Self {
            sealer,
            session,
            only_own,
        }
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
        self.sealer.encrypt(&[&self.session, plain].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let mut opened = self.sealer.decrypt(ticket)?;
        let (session, _) = opened.split_first_chunk::<SESSION_ID>()?;
        if self.only_own && *session != self.session {
            return None;
        }
        opened.drain(..SESSION_ID);
        Some(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_connection_resumes_its_own_session_only() {
        let sealer = rustls::crypto::ring::Ticketer::new().unwrap();
        let tickets =
            |id: u8, only_own| Tickets::new(Arc::clone(&sealer), [id; SESSION_ID], only_own);
        let ticket = tickets(1, false).encrypt(b"state").unwrap();
        assert_eq!(tickets(1, true).decrypt(&ticket).unwrap(), b"state");
        assert_eq!(tickets(2, true).decrypt(&ticket), None);
        assert_eq!(tickets(2, false).decrypt(&ticket).unwrap(), b"state");
        let mut forged = ticket;
        forged[20] ^= 1;
        assert_eq!(tickets(1, true).decrypt(&forged), None);
        assert_eq!(tickets(1, true).decrypt(b""), None);
    }
}
