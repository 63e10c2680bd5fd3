//! A session's state and what every handler needs of it: the login, the representation type, the agreed data port, the
//! restart marker, replying, opening data connections. Knows no verb.
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chatter::{Chatter, Verdict};
use super::control::{Control, Input};
use super::data::open::{ActiveFrom, DataPort};
use super::data::secure::Protection;
use super::protocol::facts::Facts;
use super::protocol::line::Line;
use super::protocol::reply::Reply;
use super::security::{AfterReply, Security, data_needs_tls, login_needs_tls};
use crate::accounts::{Account, Rates};
use crate::config::Config;
use crate::observe::sessions::Row;
use crate::observe::{printable, transfer_log};
use crate::os::ending::Ending;
use crate::os::ready::{Want, wait};
use crate::os::stop::Stop;
use crate::server::Connection;
use crate::server::admission::{HeavySlot, Slot, UserSlot};
use crate::server::bans::Failed;
use crate::server::identity::Acting;
use crate::service::rates::{Bucket, Limit, Throttle};
use crate::service::shared::ban_rules;
use crate::service::{Service, Settings};
use crate::storage::integrity::checksum::Algorithm;
use crate::storage::{self, View, VirtualPath};
use crate::tls::{Handshake, Purpose, Reuse};

/// Bytes that a client may send without a login: many times what any program says.
const MOST_BEFORE_LOGIN: u64 = 64 * 1024;

const NO_LOGIN: &str = "Login timeout: closing control connection.";

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
    Ascii,
    /// The default, though it is ASCII in the standard: cameras and scanners that never say TYPE send files as they are.
    #[default]
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
    /// No command came for the idle time, no login within its time, or too much without one.
    TimedOut(&'static str),
    /// The server is shutting down.
    ShutDown,
    /// Others have ended the session, for this reason.
    Ended(&'static str),
}

/// One session. Its thread owns it; nothing in it is shared but what is behind an `Arc`.
#[derive(Debug)]
pub struct Session {
    pub control: Control,
    pub config: Arc<Config>,
    pub service: Arc<Service>,
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
    /// The last byte of the next transfer (RANG), where it is not the file's.
    pub range_last: Option<u64>,
    /// What RNFR named; only RNTO may use it.
    pub rename_source: Option<VirtualPath>,
    /// What SITE CPFR named; only SITE CPTO may use it.
    pub copy_source: Option<VirtualPath>,
    /// What ALLO announced for the next upload, in bytes.
    pub announced: Option<u64>,
    pub facts: Facts,
    /// What HASH computes; OPTS HASH selects it.
    pub algorithm: Algorithm,
    /// The idle time-out; SITE IDLE changes it.
    pub idle: Duration,
    /// Failed logins of this session.
    pub failures: u32,
    /// Set by what ends the session: its reply is the last.
    pub ended: bool,
    /// Counts this session, and counts it as one before login until there is one.
    pub slot: Slot,
    started: Instant,
    /// Bytes that had come when the time for the login began.
    received: u64,
    /// How much it says before its login.
    chatter: Chatter,
    /// What this session has moved, up and down.
    buckets: [Arc<Bucket>; 2],
}

impl Session {
    pub fn new(
        connection: Connection,
        service: Arc<Service>,
        ending: Arc<Ending>,
        implicit: bool,
    ) -> Self {
        let ends = Arc::clone(&ending);
        let end = Arc::new(move |why| ends.end(why));
        let Settings { config, tls } = service.settings();
        let row = service.shared.sessions.enter(connection.peer, end);
        Self {
            control: Control::new(connection.stream, config.timeouts.login, ending),
            idle: config.timeouts.idle,
            config,
            service,
            stop: connection.stop,
            peer: connection.peer,
            local: connection.local,
            row,
            login: Login::Greeted,
            security: Security::new(tls.as_deref(), implicit),
            after_reply: None,
            representation: Representation::default(),
            data_port: DataPort::None,
            epsv_all: false,
            restart: 0,
            range_last: None,
            rename_source: None,
            copy_source: None,
            announced: None,
            facts: Facts::default(),
            algorithm: Algorithm::default(),
            failures: 0,
            ended: false,
            started: connection.accepted,
            received: 0,
            slot: connection.slot,
            chatter: Chatter::default(),
            buckets: Default::default(),
        }
    }

    /// Back to the state after the greeting (RFC 959 §4.1.1 REIN), with the connection kept. The end of a login begins the
    /// time for the next one; where there was none, the first time goes on.
    pub fn reinitialize(&mut self) {
        if let Login::LoggedIn(_) = std::mem::replace(&mut self.login, Login::Greeted) {
            self.restart_login_clock();
            self.slot.log_out();
        }
        self.representation = Representation::default();
        self.data_port = DataPort::None;
        self.restart = 0;
        self.range_last = None;
        self.rename_source = None;
        self.copy_source = None;
        self.announced = None;
        self.facts = Facts::default();
        self.algorithm = Algorithm::default();
        self.idle = self.config.timeouts.idle;
        self.row.set_user(b"");
    }

    // ---- encryption

    /// Does what the last command wants done behind its reply, to the control connection above all.
    pub fn finish_reply(&mut self) {
        let deadline = Instant::now() + self.config.timeouts.login;
        match self.after_reply.take() {
            None => {}
            Some(AfterReply::Encrypt) => self.encrypt(),
            Some(AfterReply::Run(run)) => {
                // The client knows first. One that is gone has stored its file all the same.
                if self.control.flush().is_err() {
                    self.ended = true;
                }
                let at_once = self.config.on_upload_at_once;
                self.service.shared.programs.run(&run, at_once);
            }
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
        let deadline = self.login_deadline();
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
                // Strangers can have each other's sessions ended; those have their line elsewhere.
                let level = match self.control.ending().why() {
                    Some(_) => log::Level::Debug,
                    None => log::Level::Warn,
                };
                log::log!(level, "{}: closed: no TLS: {error}", self.who());
                self.ended = true;
                if error.is_an_attack() {
                    self.count_failure(None);
                }
            }
        }
    }

    /// Counts a failed login of the client's address, to this account where one was named: how long it is to wait, and whether
    /// it is banned now.
    pub fn count_failure(&self, account: Option<&[u8]>) -> Failed {
        let rules = ban_rules(&self.config);
        let failed = self
            .service
            .shared
            .bans
            .failed(self.peer.ip(), account, rules);
        if failed.banned {
            log::warn!(
                "{}: banned for {} s after {} failed logins (settings: ban_after, ban_for)",
                self.peer.ip(),
                rules.time.as_secs(),
                rules.after
            );
        }
        failed
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
            _ => Err(Refusal::new(530, "Please log in with USER and PASS.")),
        }
    }

    /// # Errors
    /// 530 before login.
    pub fn visitor_mut(&mut self) -> Result<&mut Visitor, Refusal> {
        match &mut self.login {
            Login::LoggedIn(visitor) => Ok(visitor),
            _ => Err(Refusal::new(530, "Please log in with USER and PASS.")),
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
            .join(&self.without_tilde(argument))
            .map_err(|error| Refusal::new(553, format!("Not a possible name: {error}.")))
    }

    /// `~` and `~/x` are the home and what is in it, as in a shell, where there is no such name: with the root in its place.
    pub fn without_tilde<'a>(&self, argument: &'a [u8]) -> Cow<'a, [u8]> {
        let (b"~" | [b'~', b'/', ..], Ok(visitor)) = (argument, self.visitor()) else {
            return argument.into();
        };
        let is_there = match visitor.directory.join(b"~") {
            Ok(named) => visitor.view.symlink_metadata(&named).is_ok(),
            Err(_) => true,
        };
        match is_there {
            true => argument.into(),
            false => [b"/", &argument[1..]].concat().into(),
        }
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
        if !matches!(self.login, Login::LoggedIn(_)) {
            // Replies that are not read do not prolong the time for the login.
            let left = self
                .login_deadline()
                .saturating_duration_since(Instant::now());
            self.control.set_patience(left);
        }
        loop {
            if let Some(why) = self.control.ending().why() {
                return Next::Ended(why);
            }
            // Not even whole lines prolong the time for the login.
            if let Some(why) = self.is_overdue_for_login() {
                return Next::TimedOut(why);
            }
            if let Some(line) = self.control.next_line() {
                return Next::Line(line);
            }
            if self.has_said_too_much() {
                return Next::TimedOut("Too much was sent before the login; closing.");
            }
            if self.control.is_closed() || self.control.flush().is_err() {
                return Next::Closed;
            }
            let (deadline, why) = self.deadline(idle_until);
            // Bytes without the end of a line are nothing that was said.
            if Instant::now() >= deadline {
                return Next::TimedOut(why);
            }
            if self.control.holds_input() {
                self.control.fill();
                continue;
            }
            if self.stop.is_draining() {
                return Next::ShutDown;
            }
            self.control.shrink();
            let (listener, until) = match &self.data_port {
                DataPort::Passive(port) => port.watched(),
                _ => (None, deadline),
            };
            let ready = wait(
                [
                    Some((self.control.fd(), Want::Input)),
                    Some((self.stop.draining_fd(), Want::Input)),
                    listener.map(|fd| (fd, Want::Input)),
                    Some((self.control.ending().fd(), Want::Input)),
                ],
                Some(until.min(deadline)),
            );
            let Ok([control, _, connected, _]) = ready else {
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
        }
    }

    /// Until when the login must have happened.
    pub fn login_deadline(&self) -> Instant {
        self.started + self.config.timeouts.login
    }

    fn deadline(&self, idle_until: Instant) -> (Instant, &'static str) {
        match self.login {
            Login::LoggedIn(_) => (idle_until, "Idle timeout: closing control connection."),
            // One deadline for the whole login, not one a line.
            _ => (self.login_deadline().min(idle_until), NO_LOGIN),
        }
    }

    fn is_overdue_for_login(&self) -> Option<&'static str> {
        let overdue = Instant::now() >= self.login_deadline();
        (overdue && !matches!(self.login, Login::LoggedIn(_))).then_some(NO_LOGIN)
    }

    /// Asked when all that has come was dealt with: what waits behind a PASS is not held against anybody.
    fn has_said_too_much(&self) -> bool {
        let before_login = self.control.received() - self.received;
        before_login > MOST_BEFORE_LOGIN && !matches!(self.login, Login::LoggedIn(_))
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

    /// Leave for work that keeps the disk or the processor busy, such as a copy or a checksum of a whole file.
    ///
    /// # Errors
    /// 450 while as much of it is done as `heavy_at_once` allows.
    pub fn heavy_work(&self) -> Result<HeavySlot, Refusal> {
        let limit = self.config.abuse.heavy_at_once;
        let slot = self.service.shared.admission.admit_heavy(limit);
        slot.ok_or_else(|| {
            Refusal::new(450, "The server has too much to do; try again.").logged(format!(
                "{limit} copies and checksums run already (setting: heavy_at_once)"
            ))
        })
    }

    /// Makes a client wait that sends more commands before its login than people and programs do, longer each time; false
    /// when it has had enough of that.
    pub fn may_say_more(&mut self) -> bool {
        if matches!(self.login, Login::LoggedIn(_)) {
            return true;
        }
        let rate = self.config.abuse.commands_before_login;
        match self.chatter.hear(rate, Instant::now()) {
            Verdict::Answer => true,
            Verdict::Wait(time) => {
                self.pause(time);
                true
            }
            Verdict::Enough => {
                log::warn!(
                    "{}: closed: more than {rate} commands a second before the login (setting: commands_before_login)",
                    self.who()
                );
                false
            }
        }
    }

    /// After the end of a login the time for the next one starts.
    fn restart_login_clock(&mut self) {
        self.started = Instant::now();
        self.received = self.control.received();
    }

    pub fn reply(&mut self, reply: &Reply) {
        log::debug!("{}: -> {}", self.who(), reply.code());
        self.control.queue(reply);
        if self.control.flush_if_large().is_err() {
            self.ended = true;
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

    // ---- data connections

    pub fn active_from(&self) -> ActiveFrom {
        let from_port_20 = self
            .config
            .active_from_port_20
            .unwrap_or(self.service.shared.may_bind_low_ports);
        ActiveFrom {
            local: self.local,
            from_port_20,
        }
    }

    /// Whether the client is on this side of the router.
    pub fn peer_is_private(&self) -> bool {
        match self.peer.ip() {
            IpAddr::V4(address) => crate::os::addresses::is_private(address),
            IpAddr::V6(_) => true,
        }
    }

    /// What the next transfer may move a second: by the limits of the server, of the user and of the session.
    pub fn throttle(&self, purpose: Purpose) -> Throttle {
        let Login::LoggedIn(visitor) = &self.login else {
            return Throttle::default();
        };
        let (account, abuse) = (&visitor.account, &self.config.abuse);
        let (of, buckets, own) = match purpose {
            Purpose::Receiving => (
                (|rates: Rates| rates.up) as fn(Rates) -> Option<u64>,
                &self.service.shared.up,
                &self.buckets[0],
            ),
            _ => (
                (|rates: Rates| rates.down) as fn(Rates) -> Option<u64>,
                &self.service.shared.down,
                &self.buckets[1],
            ),
        };
        let session = of(account.session_rates).or(of(abuse.session_rates));
        let limit = |bucket: Arc<Bucket>, rate| Limit { bucket, rate };
        let limits = [
            of(abuse.rates).map(|rate| limit(Arc::clone(&buckets.server), rate)),
            of(account.rates).map(|rate| limit(buckets.of_user(&account.name), rate)),
            session.map(|rate| limit(Arc::clone(own), rate)),
        ];
        Throttle::new(limits.into_iter().flatten().collect())
    }

    // ---- the transfer log

    pub fn log_to_file(&self, entry: &transfer_log::Entry<'_>) {
        if let Some(log) = &self.service.shared.transfer_log {
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
            Kind::Busy | Kind::NotMounted | Kind::LengthChanged => 450,
            Kind::ReplacementLeft | Kind::OtherLeft => 450,
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
