//! Encrypting a data connection: the handshake behind the reply 150 (RFC 4217 §9), and whether it is the session's own.
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::open::OpenError;
use super::watch::Watch;
use crate::os::socket;
use crate::tls::{Answers, Handshake, Purpose, SessionId, Stream};

/// How a session's data connections are encrypted.
#[derive(Clone, Debug)]
pub struct Protection {
    pub answers: Arc<Answers>,
    /// What the tickets of the control connection say.
    pub session: SessionId,
    /// Only a client that resumes the control connection's TLS session is let in.
    pub must_resume: bool,
}

/// Encrypts the connection, watching the control connection meanwhile.
///
/// # Errors
/// Why it could not be; the connection is of no use any more.
pub fn encrypt(
    stream: &mut Stream,
    protection: &Protection,
    purpose: Purpose,
    time: Duration,
    watch: &mut Watch<'_>,
) -> Result<(), OpenError> {
    // The messages of a handshake are small and wait for one another: none may wait for an acknowledgement.
    let _ = stream.socket().set_nodelay(true);
    let deadline = Instant::now() + time;
    let handshake = Handshake::new(Arc::clone(&protection.answers), purpose, protection.session);
    handshake.run(stream, |fd, want| {
        match watch.wait_until(fd, want, deadline) {
            Ok(true) => Ok(()),
            Ok(false) => Err(OpenError::HandshakeTimedOut),
            Err(outcome) => Err(OpenError::Interrupted(outcome)),
        }
    })?;
    // The client's system may hold its first bytes back until it knows that its last message has come.
    socket::acknowledge_now(stream.fd());
    if protection.must_resume && !stream.is_resumed() {
        return Err(OpenError::NotResumed);
    }
    Ok(())
}
