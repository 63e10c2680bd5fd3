//! Opening data connections: passive ports (RFC 959 §4.1.2 PASV, RFC 2428 §3 EPSV) and active ones (PORT, EPRT).
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, listen,
    setsockopt, socket, sockopt,
};

use super::Outcome;
use super::watch::Watch;
use crate::accounts::Networks;
use crate::config::PortRange;
use crate::observe::origin::{self, Origin};
use crate::os::addresses::{canonical, is_same_host, with_port};
use crate::os::ready::Want;
use crate::os::socket::accept;
use crate::tls::HandshakeError;

/// The port active data connections come from (RFC 959 §3.2: the one before the control port).
const DATA_PORT: u16 = 20;

/// A port is open for so long at least once the transfer has begun.
const AT_LEAST: Duration = Duration::from_secs(1);

/// How long a port waits for its transfer before whoever has connected is looked at: most clients connect and say the command
/// at once, and need to wake nobody twice. After that strangers are closed as they come, and never fill the queue.
const UNWATCHED: Duration = Duration::from_millis(50);

/// How long the client is waited for behind a connection from elsewhere.
const BEHIND_OTHERS: Duration = Duration::from_secs(3);

/// Where the next data connection comes from.
#[derive(Debug, Default)]
pub enum DataPort {
    /// Nothing was agreed upon.
    #[default]
    None,
    /// A port of ours that the client will connect to.
    Passive(PassivePort),
    /// The client has connected to the passive port already.
    Connected(TcpStream),
    /// An address that we shall connect to.
    Active(SocketAddr),
    /// The passive port waited in vain and is closed.
    Expired,
}

impl DataPort {
    /// The client's connection in the place of the port where it has come already: once the transfer is announced, whoever
    /// else comes finds the port closed.
    pub fn taken_in(self) -> Self {
        let Self::Passive(mut port) = self else {
            return self;
        };
        match port.accept() {
            Ok(Some(stream)) => Self::Connected(stream),
            // What is wrong shows again when the transfer needs it.
            Ok(None) | Err(_) => Self::Passive(port),
        }
    }
}

/// A listening socket for one connection from one address.
#[derive(Debug)]
pub struct PassivePort {
    listener: TcpListener,
    port: u16,
    peer: SocketAddr,
    /// From where the connection may come as well, seen from this address of ours.
    others: (Networks, IpAddr),
    watched_from: Instant,
    deadline: Instant,
    /// Who came instead of the client, and when.
    refused: Option<(SocketAddr, Instant)>,
}

impl PassivePort {
    /// Listens on a random free port of the range, on the address that the client reached us at.
    ///
    /// # Errors
    /// `AddrInUse` when every port of the range is taken.
    pub fn listen(
        local: SocketAddr,
        peer: SocketAddr,
        others: &Networks,
        range: PortRange,
        wait: Duration,
    ) -> io::Result<Self> {
        let count = u32::from(range.high - range.low) + 1;
        let start = unforeseeable() % count;
        for step in 0..count {
            let offset = (start + step) % count;
            // Fits: the offset is less than the number of ports.
            let port = range.low + u16::try_from(offset).unwrap_or(0);
            match listener(local, port) {
                Ok(listener) => {
                    let now = Instant::now();
                    return Ok(Self {
                        listener,
                        port,
                        peer,
                        others: (others.clone(), local.ip()),
                        watched_from: now + UNWATCHED,
                        deadline: now + wait,
                        refused: None,
                    });
                }
                // A port of a range that is not ours to bind is as good as taken.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::AddrInUse | ErrorKind::PermissionDenied
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AddrInUse.into())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What to wait for while no transfer has begun, and until when: at first for nothing, then for connections.
    pub fn watched(&self) -> (Option<BorrowedFd<'_>>, Instant) {
        match Instant::now() < self.watched_from {
            true => (None, self.watched_from),
            false => (Some(self.listener.as_fd()), self.deadline),
        }
    }

    /// When the port is given up.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The client's connection, if it is there. Connections from elsewhere are closed, and the port goes on waiting.
    ///
    /// # Errors
    /// Those of accept(2) that are not about a single connection.
    pub fn accept(&mut self) -> io::Result<Option<TcpStream>> {
        // Bounded: a flood of strangers must not hold this thread.
        for _ in 0..256 {
            match accept(self.listener.as_fd()) {
                Ok((stream, address)) => {
                    let address = canonical(address);
                    let (others, local) = &self.others;
                    if is_same_host(address, self.peer) || others.contain(address.ip(), *local) {
                        return Ok(Some(stream));
                    }
                    self.refused.get_or_insert((address, Instant::now()));
                    let _about = origin::enter(Origin::Stranger(Some(address.ip())));
                    log::warn!(
                        "data port {}: a connection from {address} was refused: the control connection is from {} (setting: data_from of the user)",
                        self.port,
                        self.peer.ip()
                    );
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(None),
                    ErrorKind::Interrupted
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::ConnectionReset => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(None)
    }

    /// What the log says of a port that nobody came to.
    pub fn log_in_vain(&self, wait: Duration) {
        log::warn!(
            "{}: never reached data port {} in {} s: if a firewall or a router is between, open the setting `passive_ports` there (and set `external_address` behind a router)",
            self.peer.ip(),
            self.port,
            wait.as_secs()
        );
    }
}

/// Why there is no data connection.
#[derive(Debug)]
pub enum OpenError {
    /// Neither PASV nor PORT came before.
    NothingAgreed,
    /// The passive port had waited too long before the transfer came.
    Expired,
    /// Nobody connected in time.
    TimedOut,
    /// Somebody did, from another address than the client's.
    FromElsewhere(SocketAddr),
    /// The client's address could not be reached.
    Unreachable(SocketAddr, io::Error),
    Accept(io::Error),
    /// It could not be encrypted.
    Handshake(HandshakeError),
    HandshakeTimedOut,
    /// It did not resume the control connection's TLS session, as it has to.
    NotResumed,
    /// ABOR, the shutdown, or the client is gone.
    Interrupted(Outcome),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingAgreed => f.write_str("Use PASV, EPSV, PORT or EPRT first."),
            Self::Expired => {
                f.write_str("The data port waited too long and was closed; use PASV or EPSV again.")
            }
            Self::TimedOut => f.write_str("No data connection was made in time."),
            Self::FromElsewhere(address) => write!(
                f,
                "A data connection from another address than yours, {}, was refused.",
                address.ip()
            ),
            Self::Unreachable(address, error) => write!(f, "Cannot connect to {address}: {error}."),
            Self::Accept(error) => write!(f, "Cannot accept the data connection: {error}."),
            Self::Handshake(error) => {
                write!(f, "The data connection cannot be encrypted: {error}.")
            }
            Self::HandshakeTimedOut => {
                f.write_str("The data connection was not encrypted in time.")
            }
            Self::NotResumed => f.write_str(
                "The data connection must resume the TLS session of the control connection.",
            ),
            Self::Interrupted(outcome) => write!(f, "No data connection: {}.", outcome.describe()),
        }
    }
}

impl From<HandshakeError> for OpenError {
    fn from(error: HandshakeError) -> Self {
        Self::Handshake(error)
    }
}

impl OpenError {
    /// The reply code (RFC 959 §4.2, RFC 4217 §9).
    pub fn code(&self) -> u16 {
        match self {
            Self::NotResumed => 522,
            _ => 425,
        }
    }
}

/// How an active connection is made.
#[derive(Clone, Copy, Debug)]
pub struct ActiveFrom {
    /// The address that the client reached us at.
    pub local: SocketAddr,
    pub from_port_20: bool,
}

/// Opens the data connection that was agreed upon and uses the agreement up.
///
/// # Errors
/// Why there is none; see [`OpenError`].
pub fn open(
    port: DataPort,
    from: ActiveFrom,
    wait: Duration,
    watch: &mut Watch<'_>,
) -> Result<TcpStream, OpenError> {
    match port {
        DataPort::None => Err(OpenError::NothingAgreed),
        DataPort::Expired => Err(OpenError::Expired),
        DataPort::Connected(stream) => Ok(stream),
        DataPort::Passive(mut passive) => {
            let begun = Instant::now();
            let whole = passive.deadline.max(begun + wait.min(AT_LEAST));
            loop {
                if let Some(stream) = passive.accept().map_err(OpenError::Accept)? {
                    return Ok(stream);
                }
                // Whoever came may be the client by another way. The right one comes soon, or not at all.
                let deadline = match passive.refused {
                    Some((_, then)) => whole.min(then.max(begun) + BEHIND_OTHERS),
                    None => whole,
                };
                let came = watch.wait_until(passive.listener.as_fd(), Want::Input, deadline);
                // Strangers come in time for ever.
                if !came.map_err(OpenError::Interrupted)? || Instant::now() >= deadline {
                    let Some((address, _)) = passive.refused else {
                        passive.log_in_vain(wait);
                        return Err(OpenError::TimedOut);
                    };
                    return Err(OpenError::FromElsewhere(address));
                }
            }
        }
        DataPort::Active(address) => connect_to(address, from, Instant::now() + wait, watch),
    }
}

fn connect_to(
    address: SocketAddr,
    from: ActiveFrom,
    deadline: Instant,
    watch: &mut Watch<'_>,
) -> Result<TcpStream, OpenError> {
    let unreachable = |error: io::Error| OpenError::Unreachable(address, error);
    let mut socket = active_socket(from.local, if from.from_port_20 { DATA_PORT } else { 0 })
        .map_err(unreachable)?;
    let mut started = start_connecting(&socket, address);
    // Port 20 may still be tied to the same peer's port by an earlier connection: any other port will do then.
    if from.from_port_20 && matches!(started, Err(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE)) {
        socket = active_socket(from.local, 0).map_err(unreachable)?;
        started = start_connecting(&socket, address);
    }
    started.map_err(|errno| unreachable(errno.into()))?;
    if !watch
        .wait_until(socket.as_fd(), Want::Output, deadline)
        .map_err(OpenError::Interrupted)?
    {
        return Err(unreachable(ErrorKind::TimedOut.into()));
    }
    match getsockopt(&socket, sockopt::SocketError) {
        Ok(0) => Ok(TcpStream::from(socket)),
        Ok(code) => Err(unreachable(io::Error::from_raw_os_error(code))),
        Err(errno) => Err(unreachable(errno.into())),
    }
}

/// A number that nobody foretells, without a system call for each: what SipHash makes of nothing with the next key of this
/// thread, whose first one is the system's.
fn unforeseeable() -> u32 {
    // The upper half is as good as any.
    (RandomState::new().hash_one(()) >> 32) as u32
}

/// For one connection; a few strangers may come before it.
const BACKLOG: i32 = 128;

fn listener(local: SocketAddr, port: u16) -> io::Result<TcpListener> {
    let socket = bound_socket(local, port)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(socket))
}

fn active_socket(local: SocketAddr, port: u16) -> io::Result<OwnedFd> {
    match bound_socket(local, port) {
        // The privilege was lost, or another server holds the port alone: RFC 1123 asks for no more than an effort.
        Err(Errno::EACCES | Errno::EADDRINUSE) if port != 0 => bound_socket(local, 0),
        other => other,
    }
    .map_err(io::Error::from)
}

/// One that never blocks.
fn bound_socket(local: SocketAddr, port: u16) -> Result<OwnedFd, Errno> {
    let family = if local.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let address = SockaddrStorage::from(with_port(local, port));
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn start_connecting(socket: &OwnedFd, address: SocketAddr) -> Result<(), Errno> {
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Err(Errno::EINPROGRESS) => Ok(()),
        other => other,
    }
}
