//! What a session has of its client's connection, whoever is logged in.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::Control;
use super::security::{AfterReply, Security};
use crate::os::ending::Ending;
use crate::os::ready::{Want, wait};
use crate::os::stop::Stop;
use crate::server;
use crate::server::sessions::Row;

/// The control connection, and what goes with it.
#[derive(Debug)]
pub struct Connection {
    pub control: Control,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub security: Security,
    /// What the command that runs wants done to the control connection behind its reply.
    pub after_reply: Option<AfterReply>,
    /// EPSV ALL was given (RFC 2428 §4): no other way to a data connection for the rest of the session.
    pub epsv_all: bool,
    /// Set by what ends the session: its reply is the last.
    pub ended: bool,
    pub stop: Arc<Stop>,
    /// The session's row in the table of all.
    pub row: Row,
}

impl Connection {
    /// Of a client that has so much time for its login.
    pub fn new(
        accepted: server::Connection,
        security: Security,
        ending: Arc<Ending>,
        time: Duration,
    ) -> Self {
        Self {
            control: Control::new(accepted.stream, time, ending),
            peer: accepted.peer,
            local: accepted.local,
            security,
            after_reply: None,
            epsv_all: false,
            ended: false,
            stop: accepted.stop,
            row: accepted.row,
        }
    }

    /// Waits without serving, as a failed login makes the client do; ends early when the connection is of no use any more,
    /// and the session with it, or when the server stops or others end the session. A client that only closed its own side waits like any other:
    /// what it had sent before is still obeyed.
    pub fn pause(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        let _ = self.control.flush();
        let ready = wait(
            [
                Some((self.control.fd(), Want::Break)),
                Some((self.stop.draining_fd(), Want::Input)),
                Some((self.control.ending().fd(), Want::Input)),
            ],
            Some(deadline),
        );
        if !ready.is_ok_and(|[control, ..]| !control.hangup) {
            self.ended = true;
        }
    }

    /// Whether the client is on this side of the router.
    pub fn peer_is_private(&self) -> bool {
        match self.peer.ip() {
            IpAddr::V4(address) => crate::os::addresses::is_private(address),
            IpAddr::V6(_) => true,
        }
    }
}
