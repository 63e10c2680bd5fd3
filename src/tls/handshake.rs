//! A connection on its way to being encrypted (RFC 8446 §4, RFC 5246 §7).
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustls::ServerConnection;
use rustls::server::{Accepted, Acceptor, ServerConfig};

use super::duplex::Duplex;
use super::inbound::Inbound;
use super::stream::{Encryption, Stream};
use super::suites::is_chacha;
use super::tickets::{Cached, Owner, SessionId, Tickets};
use crate::os::ready::Want;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Control,
    /// A data connection on which we send.
    Sending,
    /// A data connection on which we receive.
    Receiving,
}

/// How handshakes are answered: in our order of suites, or with ChaCha20-Poly1305 first.
#[derive(Debug)]
pub struct Answers {
    pub(super) ours: Configs,
    pub(super) chacha: Configs,
}

#[derive(Debug)]
pub(super) struct Configs {
    pub(super) control: Arc<ServerConfig>,
    pub(super) sending: Arc<ServerConfig>,
    pub(super) receiving: Arc<ServerConfig>,
}

impl Answers {
    /// A client that puts ChaCha20-Poly1305 first has a reason: a CPU without instructions for AES.
    fn to(&self, accepted: &Accepted, purpose: Purpose, session: SessionId) -> Arc<ServerConfig> {
        let hello = accepted.client_hello();
        // Values that mean nothing (GREASE, RFC 8701) may come first.
        let first = hello
            .cipher_suites()
            .iter()
            .find(|suite| suite.as_str().is_some());
        let configs = if first.is_some_and(|&suite| is_chacha(suite)) {
            &self.chacha
        } else {
            &self.ours
        };
        let config = match purpose {
            Purpose::Control => &configs.control,
            Purpose::Sending => &configs.sending,
            Purpose::Receiving => &configs.receiving,
        };
        let mut config = ServerConfig::clone(config);
        let owner = Owner {
            session,
            only_own: purpose != Purpose::Control,
        };
        config.ticketer = Arc::new(Tickets {
            sealer: config.ticketer,
            owner,
        });
        config.session_storage = Arc::new(Cached {
            cache: config.session_storage,
            owner,
        });
        Arc::new(config)
    }
}

/// Why a connection could not be encrypted.
#[derive(Debug)]
pub enum HandshakeError {
    /// The client closed the connection half-way.
    Closed,
    Io(io::Error),
    /// What came first is not TLS at all.
    NotTls(rustls::Error),
    /// The two have no version, suite, group or protocol in common; what the client offers.
    NothingInCommon(rustls::Error, String),
    /// What was wrong with the client's messages, or what the client said was wrong with ours.
    Tls(rustls::Error),
}

impl HandshakeError {
    /// Whether somebody is trying out what happens. Old clients, and those that do not believe our certificate or go away,
    /// are not.
    pub fn is_an_attack(&self) -> bool {
        matches!(self, Self::NotTls(_))
    }

    fn of(error: rustls::Error, greeting: &[u8]) -> Self {
        match error {
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
                Self::NothingInCommon(error, offer(greeting))
            }
            _ => Self::Tls(error),
        }
    }
}

/// The most suites that are told.
const TOLD: usize = 6;

/// What a client's first message offers.
fn offer(greeting: &[u8]) -> String {
    // Behind the headers of the record and of the message comes the highest version before TLS 1.3 (RFC 8446 §4.1.2).
    let version = match greeting.get(9..11) {
        Some([3, 0]) => "SSL 3.0 at most",
        Some([3, 1]) => "TLS 1.0 at most",
        Some([3, 2]) => "TLS 1.1 at most",
        Some([3, 3]) => "TLS 1.2 or newer",
        _ => "an unknown version",
    };
    let mut acceptor = Acceptor::default();
    let accepted = match acceptor.read_tls(&mut &*greeting) {
        Ok(_) => acceptor.accept().ok().flatten(),
        Err(_) => None,
    };
    let Some(accepted) = accepted else {
        return version.to_owned();
    };
    let hello = accepted.client_hello();
    let names = |all: Vec<Option<&'static str>>| {
        let known: Vec<&str> = all.iter().flatten().copied().take(TOLD).collect();
        format!("{} of {}", known.join(", "), all.len())
    };
    let suites = names(
        hello
            .cipher_suites()
            .iter()
            .map(|suite| suite.as_str())
            .collect(),
    );
    let groups = hello.named_groups().unwrap_or_default();
    let groups = names(groups.iter().map(|group| group.as_str()).collect());
    format!("{version}, the suites {suites}, the groups {groups}")
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the client closed the connection during the handshake"),
            Self::Io(error) => write!(f, "{error}"),
            Self::NotTls(error) => write!(f, "what came is not TLS: {error}"),
            Self::NothingInCommon(error, offer) => write!(
                f,
                "{error}; the client offers {offer}; here are TLS 1.2 and 1.3 with forward secrecy (setting: tls.mode says who may do without)"
            ),
            Self::Tls(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// A handshake on a non-blocking socket.
pub struct Handshake {
    state: State,
    answers: Arc<Answers>,
    purpose: Purpose,
    session: SessionId,
    /// What an upload's first message is made of.
    greeting: Vec<u8>,
}

enum State {
    /// The client's first message has not arrived whole.
    Greeting(Box<Acceptor>),
    Running(Box<ServerConnection>),
    /// An upload's; it begins again with the first message.
    Inbound(Box<Inbound>),
}

impl Handshake {
    /// Awaits the client's first message. Tickets will carry the session's name.
    pub fn new(answers: Arc<Answers>, purpose: Purpose, session: SessionId) -> Self {
        Self {
            state: State::Greeting(Box::default()),
            answers,
            purpose,
            session,
            greeting: Vec::new(),
        }
    }

    /// Runs its course; from then on everything on the stream is encrypted. `wait` returns once the socket is ready for what
    /// is wanted of it, or with what ended the wait.
    ///
    /// # Errors
    /// Why there will be no encryption; the client has been told as far as it can be.
    pub fn run<E: From<HandshakeError>>(
        mut self,
        stream: &mut Stream,
        mut wait: impl FnMut(BorrowedFd<'_>, Want) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(want) = self.step(stream.socket())? {
            wait(stream.fd(), want)?;
        }
        if let Some(encryption) = self.finish() {
            stream.encrypt(encryption);
        }
        Ok(())
    }

    /// Goes as far as it can without waiting: what the socket must be ready for, or None at the end.
    fn step(&mut self, mut socket: &TcpStream) -> Result<Option<Want>, HandshakeError> {
        loop {
            match &mut self.state {
                State::Greeting(acceptor) => {
                    let mut copying = Copying {
                        socket,
                        copy: &mut self.greeting,
                    };
                    match would_wait(acceptor.read_tls(&mut copying))? {
                        None => return Ok(Some(Want::Input)),
                        Some(0) => return Err(HandshakeError::Closed),
                        Some(_) => {}
                    }
                    let accepted = match acceptor.accept() {
                        Ok(accepted) => accepted,
                        Err((error, mut alert)) => {
                            let _ = alert.write_all(&mut socket);
                            return Err(match error {
                                rustls::Error::InvalidMessage(_) => HandshakeError::NotTls(error),
                                _ => HandshakeError::of(error, &self.greeting),
                            });
                        }
                    };
                    if let Some(accepted) = accepted {
                        self.state = self.answer(accepted, socket)?;
                    }
                }
                State::Inbound(inbound) => {
                    let opened = inbound.open(&mut []);
                    let flushed = inbound.flush(socket);
                    let (_, over) =
                        opened.map_err(|error| HandshakeError::of(error, &self.greeting))?;
                    match flushed {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            return Ok(Some(Want::Output));
                        }
                        other => other.map_err(HandshakeError::Io)?,
                    }
                    if over {
                        return Ok(None);
                    }
                    match would_wait(inbound.fill(socket))? {
                        None => return Ok(Some(Want::Input)),
                        Some(0) => return Err(HandshakeError::Closed),
                        Some(_) => {}
                    }
                }
                State::Running(connection) => {
                    while connection.wants_write() {
                        if would_wait(connection.write_tls(&mut socket))?.is_none() {
                            return Ok(Some(Want::Output));
                        }
                    }
                    if !connection.is_handshaking() {
                        return Ok(None);
                    }
                    match would_wait(connection.read_tls(&mut socket))? {
                        None => return Ok(Some(Want::Input)),
                        Some(0) => return Err(HandshakeError::Closed),
                        Some(_) => {}
                    }
                    if let Err(error) = connection.process_new_packets() {
                        // The alert, where it fits without waiting.
                        let _ = connection.write_tls(&mut socket);
                        return Err(HandshakeError::of(error, &self.greeting));
                    }
                }
            }
        }
    }

    fn answer(&self, accepted: Accepted, mut socket: &TcpStream) -> Result<State, HandshakeError> {
        let config = self.answers.to(&accepted, self.purpose, self.session);
        if self.purpose == Purpose::Receiving {
            let inbound = Inbound::new(config, &self.greeting)
                .map_err(|error| HandshakeError::of(error, &self.greeting))?;
            return Ok(State::Inbound(Box::new(inbound)));
        }
        match accepted.into_connection(config) {
            Ok(connection) => Ok(State::Running(Box::new(connection))),
            Err((error, mut alert)) => {
                let _ = alert.write_all(&mut socket);
                Err(HandshakeError::of(error, &self.greeting))
            }
        }
    }

    /// What encrypts the connection from now on; None before the end of the handshake.
    fn finish(self) -> Option<Encryption> {
        match self.state {
            State::Running(connection) if !connection.is_handshaking() => {
                Some(Encryption::Duplex(Box::new(Duplex::new(connection))))
            }
            State::Inbound(inbound) if !inbound.state().is_handshaking() => {
                Some(Encryption::Inbound(inbound))
            }
            _ => None,
        }
    }
}

/// Reads, and keeps a copy.
struct Copying<'a> {
    socket: &'a TcpStream,
    copy: &'a mut Vec<u8>,
}

impl io::Read for Copying<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = io::Read::read(&mut self.socket, buffer)?;
        self.copy.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

/// None where the call would have had to wait.
fn would_wait(result: io::Result<usize>) -> Result<Option<usize>, HandshakeError> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(HandshakeError::Io(error)),
    }
}
