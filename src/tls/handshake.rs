//! A connection on its way to being encrypted (RFC 8446 §4, RFC 5246 §7).
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::ServerConnection;
use rustls::server::{Accepted, Acceptor, ServerConfig};

use super::duplex::Duplex;
use super::inbound::Inbound;
use super::stream::Encryption;
use super::suites::is_chacha;
use super::tickets::{Cached, Owner, SessionId, Tickets};

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
    /// What was wrong with the client's messages, or what the client said was wrong with ours.
    Tls(rustls::Error),
}

impl HandshakeError {
    /// Whether the client does not speak TLS as it is spoken here. A client that does not believe our certificate, or goes
    /// away, has done nothing wrong; nor has one whose connection broke.
    pub fn is_the_clients_fault(&self) -> bool {
        match self {
            Self::Closed | Self::Io(_) => false,
            Self::Tls(error) => !matches!(
                error,
                rustls::Error::AlertReceived(_)
                    | rustls::Error::General(_)
                    | rustls::Error::FailedToGetCurrentTime
                    | rustls::Error::FailedToGetRandomBytes
            ),
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the client closed the connection during the handshake"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// What a handshake waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Input,
    Output,
    /// Nothing more: it is done.
    Nothing,
}

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

    /// Goes as far as it can without waiting.
    ///
    /// # Errors
    /// Why there will be no encryption; the client has been told as far as it can be.
    pub fn step(&mut self, mut socket: &TcpStream) -> Result<Need, HandshakeError> {
        loop {
            match &mut self.state {
                State::Greeting(acceptor) => {
                    let mut copying = Copying {
                        socket,
                        copy: &mut self.greeting,
                    };
                    match would_wait(acceptor.read_tls(&mut copying))? {
                        None => return Ok(Need::Input),
                        Some(0) => return Err(HandshakeError::Closed),
                        Some(_) => {}
                    }
                    let accepted = match acceptor.accept() {
                        Ok(accepted) => accepted,
                        Err((error, mut alert)) => {
                            let _ = alert.write_all(&mut socket);
                            return Err(HandshakeError::Tls(error));
                        }
                    };
                    if let Some(accepted) = accepted {
                        self.state = self.answer(accepted, socket)?;
                    }
                }
                State::Inbound(inbound) => {
                    let opened = inbound.open(&mut []);
                    let flushed = inbound.flush(socket);
                    let (_, over) = opened.map_err(HandshakeError::Tls)?;
                    match flushed {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            return Ok(Need::Output);
                        }
                        other => other.map_err(HandshakeError::Io)?,
                    }
                    if over {
                        return Ok(Need::Nothing);
                    }
                    match would_wait(inbound.fill(socket))? {
                        None => return Ok(Need::Input),
                        Some(0) => return Err(HandshakeError::Closed),
                        Some(_) => {}
                    }
                }
                State::Running(connection) => {
                    while connection.wants_write() {
                        if would_wait(connection.write_tls(&mut socket))?.is_none() {
                            return Ok(Need::Output);
                        }
                    }
                    if !connection.is_handshaking() {
                        return Ok(Need::Nothing);
                    }
                    match would_wait(connection.read_tls(&mut socket))? {
                        None => return Ok(Need::Input),
                        Some(0) => return Err(HandshakeError::Closed),
                        Some(_) => {}
                    }
                    if let Err(error) = connection.process_new_packets() {
                        // The alert, where it fits without waiting.
                        let _ = connection.write_tls(&mut socket);
                        return Err(HandshakeError::Tls(error));
                    }
                }
            }
        }
    }

    fn answer(&self, accepted: Accepted, mut socket: &TcpStream) -> Result<State, HandshakeError> {
        let config = self.answers.to(&accepted, self.purpose, self.session);
        if self.purpose == Purpose::Receiving {
            let inbound = Inbound::new(config, &self.greeting).map_err(HandshakeError::Tls)?;
            return Ok(State::Inbound(Box::new(inbound)));
        }
        match accepted.into_connection(config) {
            Ok(connection) => Ok(State::Running(Box::new(connection))),
            Err((error, mut alert)) => {
                let _ = alert.write_all(&mut socket);
                Err(HandshakeError::Tls(error))
            }
        }
    }

    /// What encrypts the connection from now on; None before the end of the handshake.
    pub fn finish(self) -> Option<Encryption> {
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
