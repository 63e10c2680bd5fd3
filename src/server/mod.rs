//! The life of the process: listeners, admission, the worker pool, signals, shutdown, privileges.
//!
//! Knows no protocol: what is done with an admitted connection is the [`FrontEnd`]'s affair.
//!
//! | file | subject |
//! |---|---|
//! | `acceptor` | the one loop that accepts, admits, hands over and obeys signals |
//! | `admission` | who may come in |
//! | `sessions` | the table of live connections and sessions |
//! | `beside` | a process beside the server, which the sandbox does not hold |
//! | `bans`, `ban_file` | failed logins by address, and who is kept out for them |
//! | `lobby` | connections whose clients have said nothing yet |
//! | `pool` | worker threads |
//! | `listen` | listening sockets |
//! | `lookup` | host names that are looked up beside the server |
//! | `privileges` | giving up root |
//! | `hooks/` | programs of the owner's, run behind what happened |
//! | `identity` | threads that act as a user of the system |
//! | `sandbox` | what the process denies itself |
//! | `limits` | open files |
//! | `environment` | what can be looked at before serving |
//! | `upkeep/` | what is done with the directories of users once a day |
pub mod acceptor;
pub mod admission;
pub mod ban_file;
pub mod bans;
pub mod beside;
pub mod environment;
pub mod hooks;
pub mod identity;
pub mod limits;
pub mod listen;
pub mod lobby;
pub mod lookup;
pub mod pool;
pub mod privileges;
pub mod sandbox;
pub mod sessions;
pub mod upkeep;

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use admission::Refused;
use sessions::Row;

use crate::os::ending::Ending;
use crate::os::stop::Stop;

pub use admission::Limits;

/// An admitted control connection.
#[derive(Debug)]
pub struct Connection {
    /// The table of sessions knows it, too.
    pub stream: Arc<TcpStream>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// When it was accepted.
    pub accepted: Instant,
    /// That of the listener it came in by.
    pub front_end: Arc<dyn FrontEnd>,
    /// In the table for as long as the connection lives.
    pub row: Row,
    pub stop: Arc<Stop>,
}

/// Where connections come in, and what serves them.
#[derive(Debug)]
pub struct Listener {
    pub socket: TcpListener,
    pub front_end: Arc<dyn FrontEnd>,
}

/// What holds for all connections, whatever their protocol.
pub trait Policy: Send + Sync {
    /// The limits at this moment; a reload may change them.
    fn limits(&self) -> Limits;
    /// Whether a client at `peer` is answered that came in at `local`. Must not block.
    ///
    /// # Errors
    /// Why not.
    fn screen(&self, peer: IpAddr, local: IpAddr) -> Result<(), Refused>;
    /// Reads the configuration again, on a thread of its own; what is wrong with a new one goes to the log, and the old one stays.
    fn reload(&self);
}

/// A protocol served on control connections.
pub trait FrontEnd: fmt::Debug + Send + Sync + 'static {
    /// Says the first words, where they are the server's. Must not block.
    fn greet(&self, stream: &TcpStream);
    /// Serves one connection to its end, or until others end it, on a worker's thread.
    fn serve(&self, connection: Connection, ending: Arc<Ending>);
    /// Says in one short write why the connection is not served. Must not block.
    fn refuse(&self, stream: &TcpStream, reason: Refused);
}
