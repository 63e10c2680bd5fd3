//! A session's state and what every handler needs of it: the login, the representation type, the agreed data port, the
//! restart marker, replying, opening data connections. Knows no verb.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::control::{Control, Input};
use super::data::open::{ActiveFrom, DataPort};
use super::data::secure::Protection;
use super::protocol::facts::Facts;
use super::protocol::line::Line;
use super::protocol::reply::Reply;
use super::security::{AfterReply, Security, data_needs_tls, login_needs_tls};
use crate::accounts::Account;
use crate::config::Config;
use crate::observe::sessions::Row;
use crate::observe::{printable, transfer_log};
use crate::server::Connection;
use crate::server::admission::{Slot, UserSlot};
use crate::server::identity::Acting;
use crate::server::ready::{Ready, Want, wait};
use crate::server::stop::Stop;
use crate::storage::{self, View, VirtualPath};
use crate::tls::{Handshake, Purpose, Reuse, Tls};

/// How far the client has come (RFC 959 §5.4: USER, PASS, then everything else).
#[derive(Debug)]
pub enum Login {
    /// Nobody yet.
    Greeted,
    /// USER was given; PASS is to follow.
    Named(Vec<u8>),
    /// Somebody, with files to touch.
    LoggedIn(Box<Visitor>),
}

/// Who is logged in and what they see.
#[derive(Debug)]
pub struct Visitor {
    pub name: Vec<u8>,
    pub anonymous: bool,
    pub account: Account,
    pub view: Arc<View>,
    pub directory: VirtualPath,
    /// Counts this session among the user's for as long as the login lasts.
    pub slot: UserSlot,
    /// Files are touched as the account's own user of the system until this goes.
    pub acting: Option<Acting>,
}

/// The representation type (RFC 959 §3.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Representation {
    /// The default of the standard.
    #[default]
    Ascii,
    Image,
}

/// Why a command is not done: the reply, and where it is worth a line, the reason for the log.
#[derive(Debug)]
pub struct Refusal {
    pub reply: Reply,
    pub reason: Option<String>,
}

impl Refusal {
    pub fn new(code: u16, text: impl AsRef<[u8]>) -> Self {
        Self {
            reply: Reply::new(code, text),
            reason: None,
        }
    }

    pub fn logged(self, reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..self
        }
    }
}

/// What waiting for a command ended with.
#[derive(Debug)]
pub enum Next {
    Line(Line),
    /// The client closed the connection or it broke.
    Closed,
    /// Nothing came for the idle time, or no login within its time.
    TimedOut(&'static str),
    /// The server is shutting down.
    ShutDown,
}

/// One session. Its thread owns it; nothing in it is shared but what is behind an `Arc`.
#[derive(Debug)]
pub struct Session {
    pub control: Control,
    pub config: Arc<Config>,
    pub shared: Arc<Shared>,
    pub stop: Arc<Stop>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub row: Row,
    pub login: Login,
    pub security: Security,
    /// What the command that runs wants done to the control connection behind its reply.
    pub after_reply: Option<AfterReply>,
    pub representation: Representation,
    pub data_port: DataPort,
    /// EPSV ALL was given (RFC 2428 §4): no other way to a data connection for the rest of the session.
    pub epsv_all: bool,
    /// Where the next transfer starts (REST), in bytes.
    pub restart: u64,
    /// What RNFR named; only the very next command may use it.
    pub rename_source: Option<VirtualPath>,
    /// What ALLO announced for the next upload, in bytes.
    pub announced: Option<u64>,
    pub facts: Facts,
    /// The idle time-out; SITE IDLE changes it.
    pub idle: Duration,
    /// Failed logins of this session.
    pub failures: u32,
    /// Set by what ends the session: its reply is the last.
    pub ended: bool,
    started: Instant,
    _slot: Slot,
}

impl Session {
    pub fn new(
        connection: Connection,
        config: Arc<Config>,
        tls: Option<&Tls>,
        shared: Arc<Shared>,
    ) -> Self {
        let row = shared.sessions.enter(connection.peer);
        let implicit = connection.listener >= shared.explicit_listeners;
        Self {
            control: Control::new(connection.stream, config.timeouts.login),
            idle: config.timeouts.idle,
            config,
            shared,
            stop: connection.stop,
            peer: connection.peer,
            local: connection.local,
            row,
            login: Login::Greeted,
            security: Security::new(tls, implicit),
            after_reply: None,
            representation: Representation::default(),
            data_port: DataPort::None,
            epsv_all: false,
            restart: 0,
            rename_source: None,
            announced: None,
            facts: Facts::default(),
            failures: 0,
            ended: false,
            started: Instant::now(),
            _slot: connection.slot,
        }
    }

    /// Back to the state after the greeting (RFC 959 §4.1.1 REIN), with the connection kept.
    pub fn reinitialize(&mut self) {
        self.login = Login::Greeted;
        self.representation = Representation::default();
        self.data_port = DataPort::None;
        self.restart = 0;
        self.rename_source = None;
        self.announced = None;
        self.facts = Facts::default();
        self.idle = self.config.timeouts.idle;
        self.row.set_user(b"");
    }

    // ---- encryption

    /// Does to the control connection what the last command asked for.
    pub fn finish_reply(&mut self) {
        let deadline = Instant::now() + self.config.timeouts.login;
        match self.after_reply.take() {
            None => {}
            Some(AfterReply::Encrypt) => self.encrypt(),
            Some(AfterReply::StopEncryption) => {
                if let Err(error) = self.control.stop_encryption(&self.stop, deadline) {
                    log::warn!(
                        "{}: closed: the encryption did not end in order: {error}",
                        self.who()
                    );
                    self.ended = true;
                }
            }
        }
    }

    /// The reply to AUTH is the last byte in the clear. What the client sent behind AUTH may be somebody else's, put in
    /// between: it is not obeyed, and the connection is closed.
    pub fn encrypt(&mut self) {
        let deadline = Instant::now() + self.config.timeouts.login;
        if self.control.flush().is_err() {
            self.ended = true;
            return;
        }
        if self.control.has_input() {
            log::warn!(
                "{}: closed: commands came in the clear behind AUTH; they were not obeyed",
                self.who()
            );
            self.ended = true;
            return;
        }
        let Some(answers) = self.security.answers() else {
            self.ended = true;
            return;
        };
        let handshake = Handshake::new(answers, Purpose::Control, self.security.id);
        match self.control.encrypt(handshake, &self.stop, deadline) {
            Ok(()) => {
                let stream = self.control.stream();
                log::debug!("{}: {}", self.who(), stream.describe());
                self.security.client_names = stream.client_names();
            }
            Err(error) => {
                log::warn!("{}: closed: no TLS: {error}", self.who());
                self.ended = true;
            }
        }
    }

    /// Whether the name may not be logged in with for want of encryption.
    pub fn login_needs_tls(&self, name: &[u8]) -> bool {
        let own = self.config.accounts.requires_tls(name);
        !self.control.stream().is_encrypted() && login_needs_tls(self.config.tls.mode, own)
    }

    /// Whether files and listings may not flow in the clear.
    pub fn must_protect_data(&self) -> bool {
        let own = match &self.login {
            Login::LoggedIn(visitor) => visitor.account.require_tls,
            _ => None,
        };
        data_needs_tls(self.config.tls.mode, own)
    }

    /// How the next data connection is encrypted, if it is.
    pub fn protection(&self) -> Option<Protection> {
        let must_resume = self.config.tls.service.reuse == Reuse::Require;
        self.security.protection(must_resume)
    }

    // ---- who is here

    /// # Errors
    /// 530 before login.
    pub fn visitor(&self) -> Result<&Visitor, Refusal> {
        match &self.login {
            Login::LoggedIn(visitor) => Ok(visitor),
            _ => Err(Refusal::new(530, "Log in with USER and PASS first.")),
        }
    }

    /// # Errors
    /// 530 before login.
    pub fn visitor_mut(&mut self) -> Result<&mut Visitor, Refusal> {
        match &mut self.login {
            Login::LoggedIn(visitor) => Ok(visitor),
            _ => Err(Refusal::new(530, "Log in with USER and PASS first.")),
        }
    }

    /// The files, in a handle that does not hold on to the session.
    ///
    /// # Errors
    /// 530 before login.
    pub fn view(&self) -> Result<Arc<View>, Refusal> {
        Ok(Arc::clone(&self.visitor()?.view))
    }

    /// The path that an argument names, seen from the working directory.
    ///
    /// # Errors
    /// 501 for an empty argument, 553 for a name that cannot be.
    pub fn path(&self, argument: &[u8]) -> Result<VirtualPath, Refusal> {
        let visitor = self.visitor()?;
        if argument.is_empty() {
            return Err(Refusal::new(501, "A path is needed."));
        }
        visitor
            .directory
            .join(argument)
            .map_err(|error| Refusal::new(553, format!("Not a possible name: {error}.")))
    }

    /// The same, with the working directory for an empty argument.
    ///
    /// # Errors
    /// As [`Session::path`].
    pub fn path_or_here(&self, argument: &[u8]) -> Result<VirtualPath, Refusal> {
        if argument.is_empty() {
            Ok(self.visitor()?.directory.clone())
        } else {
            self.path(argument)
        }
    }

    /// Who this is, for log lines.
    pub fn who(&self) -> String {
        match &self.login {
            Login::LoggedIn(visitor) => format!("{}@{}", printable(&visitor.name), self.peer.ip()),
            _ => self.peer.to_string(),
        }
    }

    // ---- the control connection

    /// Waits for the next command, at most for the idle time, or until the login must have happened. Meanwhile takes
    /// in the client's connection to a passive port, and gives up a port that waits in vain.
    pub fn next_command(&mut self) -> Next {
        let idle_until = Instant::now() + self.idle;
        loop {
            if let Some(line) = self.control.next_line() {
                return Next::Line(line);
            }
            if self.control.is_closed() || self.control.flush().is_err() {
                return Next::Closed;
            }
            if self.control.holds_input() {
                self.control.fill();
                continue;
            }
            if self.stop.is_draining() {
                return Next::ShutDown;
            }
            self.control.shrink();
            let (deadline, why) = self.deadline(idle_until);
            let passive = match &self.data_port {
                DataPort::Passive(port) => Some(port),
                _ => None,
            };
            let earliest = passive.map_or(deadline, |port| port.deadline().min(deadline));
            let listener = passive.map(|port| std::os::fd::AsFd::as_fd(port.listener()));
            let ready = wait(
                [
                    Some((self.control.fd(), Want::Input)),
                    Some((self.stop.draining_fd(), Want::Input)),
                    listener.map(|fd| (fd, Want::Input)),
                ],
                Some(earliest),
            );
            let Ok([control, _, connected]) = ready else {
                return Next::Closed;
            };
            if connected.wanted {
                self.take_in_data_connection();
            }
            if control.wanted {
                if self.control.fill() == Input::Closed {
                    return Next::Closed;
                }
                continue;
            }
            self.give_up_expired_port();
            if Instant::now() >= deadline {
                return Next::TimedOut(why);
            }
        }
    }

    /// Until when the login must have happened.
    pub fn login_deadline(&self) -> Instant {
        self.started + self.config.timeouts.login
    }

    fn deadline(&self, idle_until: Instant) -> (Instant, &'static str) {
        match self.login {
            Login::LoggedIn(_) => (idle_until, "Nothing was sent for too long; closing."),
            // One deadline for the whole login, not one a line.
            _ => (
                self.login_deadline().min(idle_until),
                "Not logged in in time; closing.",
            ),
        }
    }

    fn take_in_data_connection(&mut self) {
        if let DataPort::Passive(port) = &mut self.data_port {
            match port.accept() {
                Ok(Some(stream)) => self.data_port = DataPort::Connected(stream),
                Ok(None) => {}
                Err(error) => {
                    log::warn!("{}: cannot accept the data connection: {error}", self.who());
                    self.data_port = DataPort::None;
                }
            }
        }
    }

    fn give_up_expired_port(&mut self) {
        if let DataPort::Passive(port) = &self.data_port {
            if Instant::now() >= port.deadline() {
                port.log_in_vain(self.config.timeouts.data_connect);
                self.data_port = DataPort::Expired;
            }
        }
    }

    /// After REIN or a new greeting the time for the login starts again.
    pub fn restart_login_clock(&mut self) {
        self.started = Instant::now();
    }

    pub fn reply(&mut self, reply: &Reply) {
        log::debug!("{}: -> {}", self.who(), reply.code());
        self.control.queue(reply);
        if self.control.flush_if_large().is_err() {
            self.ended = true;
        }
    }

    /// Waits without serving, as a failed login makes the client do; ends early when the client leaves or the server
    /// stops.
    pub fn pause(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        let _ = self.control.flush();
        let _ = wait(
            [
                Some((self.control.fd(), Want::Hangup)),
                Some((self.stop.draining_fd(), Want::Input)),
            ],
            Some(deadline),
        )
        .map(|[control, _]: [Ready; 2]| control);
    }

    // ---- data connections

    pub fn active_from(&self) -> ActiveFrom {
        let from_port_20 = self
            .config
            .active_from_port_20
            .unwrap_or(self.shared.may_bind_low_ports);
        ActiveFrom {
            local: self.local.ip(),
            from_port_20,
        }
    }

    /// Whether the client is on this side of the router.
    pub fn peer_is_private(&self) -> bool {
        match self.peer.ip() {
            IpAddr::V4(address) => crate::server::addresses::is_private(address),
            IpAddr::V6(_) => true,
        }
    }

    // ---- the transfer log

    pub fn log_to_file(&self, entry: &transfer_log::Entry<'_>) {
        if let Some(log) = &self.shared.transfer_log {
            log.write(entry);
        }
    }
}

/// The one place where what storage says becomes what a client reads.
impl From<storage::Error> for Refusal {
    fn from(error: storage::Error) -> Self {
        use storage::ErrorKind as Kind;
        let code = match error.kind {
            Kind::NoSpace { .. } | Kind::Shutdown => 452,
            Kind::Quota | Kind::OverQuota { .. } | Kind::NoRoom { .. } | Kind::TooLarge => 552,
            Kind::BadName | Kind::NameTooLong | Kind::Reserved => 553,
            Kind::BeyondEnd { .. } => 554,
            Kind::Busy => 450,
            Kind::Io => 451,
            _ => 550,
        };
        let mut text = error.path.clone();
        text.extend(format!(": {error}.").into_bytes());
        let reason = format!("{}: {error}", printable(&error.path));
        let reason = match error.setting_hint() {
            Some(setting) => Some(format!("{reason} (setting: {setting})")),
            // A name that is not there is everyday life; what the disk or the kernel refused is worth a line.
            None if matches!(
                error.kind,
                Kind::NotFound | Kind::Exists | Kind::IsADirectory | Kind::NotADirectory
            ) =>
            {
                None
            }
            None => Some(reason),
        };
        Self {
            reply: Reply::new(code, text),
            reason,
        }
    }
}
