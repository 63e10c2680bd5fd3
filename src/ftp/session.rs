//! A session's state and what every handler needs of it: the login, what was agreed upon, replying, opening data connections.
//! Knows no verb.
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::control::Input;
use super::data::open::{ActiveFrom, DataPort};
use super::data::secure::Protection;
use super::parameters::{Parameters, Steps};
use super::patience::{Patience, Verdict};
use super::protocol::line::Line;
use super::protocol::reply::Reply;
use super::refusal::Refusal;
use super::security::{AfterReply, Security, data_needs_tls, login_needs_tls};
use crate::accounts::Rates;
use crate::config::Config;
use crate::observe::origin::{self, Origin};
use crate::os::ending::Ending;
use crate::os::ready::{Want, wait};
use crate::server;
use crate::service::heavy::HeavySlot;
use crate::service::login::Visitor;
use crate::service::rates::{Bucket, Limit, Throttle};
use crate::service::{Service, Settings};
use crate::storage::{View, VirtualPath};
use crate::tls::{Handshake, Purpose, Reuse};

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
    pub config: Arc<Config>,
    pub service: Arc<Service>,
    pub connection: Connection,
    pub login: Login,
    pub parameters: Parameters,
    pub steps: Steps,
    /// With the client before its login.
    pub patience: Patience,
    /// What this session has moved, up and down.
    buckets: [Arc<Bucket>; 2],
}

impl Session {
    pub fn new(
        accepted: server::Connection,
        service: Arc<Service>,
        ending: Arc<Ending>,
        implicit: bool,
    ) -> Self {
        let Settings { config, tls } = service.settings();
        let patience = Patience::new(accepted.accepted);
        let security = Security::new(tls, implicit);
        let time = config.timeouts.login;
        Self {
            config,
            service,
            connection: Connection::new(accepted, security, ending, time),
            login: Login::Greeted,
            parameters: Parameters::default(),
            steps: Steps::default(),
            patience,
            buckets: Default::default(),
        }
    }

    /// Back to the state after the greeting (RFC 959 §4.1.1 REIN), with the connection kept. The end of a login begins the
    /// time for the next one; where there was none, the first time goes on.
    pub fn reinitialize(&mut self) {
        if let Login::LoggedIn(_) = std::mem::replace(&mut self.login, Login::Greeted) {
            self.patience
                .begin_again(self.connection.control.received());
            self.connection.row.log_out();
            origin::set(Origin::Stranger(Some(self.connection.peer.ip())));
        }
        self.parameters = Parameters::default();
        self.steps = Steps::default();
    }

    // ---- encryption

    /// Does what the last command wants done behind its reply, to the control connection above all.
    pub fn finish_reply(&mut self) {
        let deadline = Instant::now() + self.config.timeouts.login;
        match self.connection.after_reply.take() {
            None => {}
            Some(AfterReply::Encrypt) => self.encrypt(),
            Some(AfterReply::Run(run)) => {
                // The client knows first. One that is gone has stored its file all the same.
                if self.connection.control.flush().is_err() {
                    self.connection.ended = true;
                }
                self.service.run_behind(&run);
            }
            Some(AfterReply::StopEncryption) => {
                if let Err(error) = self
                    .connection
                    .control
                    .stop_encryption(&self.connection.stop, deadline)
                {
                    log::warn!(
                        "{}: closed: the encryption did not end in order: {error}",
                        self.who()
                    );
                    self.connection.ended = true;
                }
            }
        }
    }

    /// The reply to AUTH is the last byte in the clear. What the client sent behind AUTH may be somebody else's, put in
    /// between: it is not obeyed, and the connection is closed.
    pub fn encrypt(&mut self) {
        let deadline = self.login_deadline();
        if self.connection.control.flush().is_err() {
            self.connection.ended = true;
            return;
        }
        if self.connection.control.has_input() {
            log::warn!(
                "{}: closed: commands came in the clear behind AUTH; they were not obeyed",
                self.who()
            );
            self.connection.ended = true;
            return;
        }
        let Some((answers, id)) = self.connection.security.answers() else {
            self.connection.ended = true;
            return;
        };
        let handshake = Handshake::new(answers, Purpose::Control, id);
        match self
            .connection
            .control
            .encrypt(handshake, &self.connection.stop, deadline)
        {
            Ok(()) => {
                let stream = self.connection.control.stream();
                log::debug!("{}: {}", self.who(), stream.describe());
                self.connection.security.client_names = stream.client_names();
            }
            Err(error) => {
                // Strangers can have each other's sessions ended; those have their line elsewhere.
                let level = match self.connection.control.ending().why() {
                    Some(_) => log::Level::Debug,
                    None => log::Level::Warn,
                };
                log::log!(level, "{}: closed: no TLS: {error}", self.who());
                self.connection.ended = true;
                if error.is_an_attack() {
                    self.service
                        .count_failure(&self.config, self.connection.peer, None);
                }
            }
        }
    }

    /// Whether the name may not be logged in with for want of encryption.
    pub fn login_needs_tls(&self, name: &[u8]) -> bool {
        let own = self.config.accounts.requires_tls(name);
        !self.connection.control.stream().is_encrypted()
            && login_needs_tls(self.config.tls.mode, own)
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
        self.connection.security.protection(must_resume)
    }

    // ---- who is here

    pub fn is_logged_in(&self) -> bool {
        matches!(self.login, Login::LoggedIn(_))
    }

    /// # Errors
    /// 530 before login.
    pub fn visitor(&self) -> Result<&Visitor, Refusal> {
        match &self.login {
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
        self.visitor()?;
        if argument.is_empty() {
            return Err(Refusal::new(501, "A path is needed."));
        }
        self.parameters
            .directory
            .join(&self.without_tilde(argument))
            .map_err(|error| Refusal::new(553, format!("Not a possible name: {error}.")))
    }

    /// `~` and `~/x` are the home and what is in it, as in a shell, where there is no such name: with the root in its place.
    pub fn without_tilde<'a>(&self, argument: &'a [u8]) -> Cow<'a, [u8]> {
        let (b"~" | [b'~', b'/', ..], Ok(visitor)) = (argument, self.visitor()) else {
            return argument.into();
        };
        let is_there = match self.parameters.directory.join(b"~") {
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
            Ok(self.parameters.directory.clone())
        } else {
            self.path(argument)
        }
    }

    /// Who this is, for log lines.
    pub fn who(&self) -> String {
        match &self.login {
            Login::LoggedIn(visitor) => visitor.who().to_owned(),
            _ => self.connection.peer.to_string(),
        }
    }

    // ---- the control connection

    /// Waits for the next command, at most for the idle time, or until the login must have happened. Meanwhile takes
    /// in the client's connection to a passive port, and gives up a port that waits in vain.
    pub fn next_command(&mut self) -> Next {
        let idle_until = Instant::now() + self.idle();
        if !self.is_logged_in() {
            // Replies that are not read do not prolong the time for the login.
            let left = self
                .login_deadline()
                .saturating_duration_since(Instant::now());
            self.connection.control.set_patience(left);
        }
        loop {
            if let Some(why) = self.connection.control.ending().why() {
                return Next::Ended(why);
            }
            // Not even whole lines prolong the time for the login.
            if let Some(why) = self.is_overdue_for_login() {
                return Next::TimedOut(why);
            }
            if let Some(line) = self.connection.control.next_line() {
                return Next::Line(line);
            }
            let received = self.connection.control.received();
            if !self.is_logged_in() && self.patience.is_exceeded_by(received) {
                return Next::TimedOut("Too much was sent before the login; closing.");
            }
            if self.connection.control.is_closed() || self.connection.control.flush().is_err() {
                return Next::Closed;
            }
            let (deadline, why) = self.deadline(idle_until);
            // Bytes without the end of a line are nothing that was said.
            if Instant::now() >= deadline {
                return Next::TimedOut(why);
            }
            if self.connection.control.holds_input() {
                self.connection.control.fill();
                continue;
            }
            if self.connection.stop.is_draining() {
                return Next::ShutDown;
            }
            self.connection.control.shrink();
            let (listener, until) = match &self.parameters.data_port {
                DataPort::Passive(port) => port.watched(),
                _ => (None, deadline),
            };
            let ready = wait(
                [
                    Some((self.connection.control.fd(), Want::Input)),
                    Some((self.connection.stop.draining_fd(), Want::Input)),
                    listener.map(|fd| (fd, Want::Input)),
                    Some((self.connection.control.ending().fd(), Want::Input)),
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
                if self.connection.control.fill() == Input::Closed {
                    return Next::Closed;
                }
                continue;
            }
            self.give_up_expired_port();
        }
    }

    /// The idle time-out.
    pub fn idle(&self) -> Duration {
        self.parameters.idle.unwrap_or(self.config.timeouts.idle)
    }

    /// Until when the login must have happened.
    pub fn login_deadline(&self) -> Instant {
        self.patience.deadline(self.config.timeouts.login)
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
        (overdue && !self.is_logged_in()).then_some(NO_LOGIN)
    }

    fn take_in_data_connection(&mut self) {
        if let DataPort::Passive(port) = &mut self.parameters.data_port {
            match port.accept() {
                Ok(Some(stream)) => self.parameters.data_port = DataPort::Connected(stream),
                Ok(None) => {}
                Err(error) => {
                    log::warn!("{}: cannot accept the data connection: {error}", self.who());
                    self.parameters.data_port = DataPort::None;
                }
            }
        }
    }

    fn give_up_expired_port(&mut self) {
        if let DataPort::Passive(port) = &self.parameters.data_port {
            if Instant::now() >= port.deadline() {
                port.log_in_vain(self.config.timeouts.data_connect);
                self.parameters.data_port = DataPort::Expired;
            }
        }
    }

    /// Leave for work that keeps the disk or the processor busy, such as a copy or a checksum of a whole file.
    ///
    /// # Errors
    /// 450 while as much of it is done as `heavy_at_once` allows.
    pub fn heavy_work(&self) -> Result<HeavySlot, Refusal> {
        let limit = self.config.abuse.heavy_at_once;
        let slot = self.service.shared.heavy.admit(limit);
        slot.ok_or_else(|| {
            Refusal::new(450, "The server has too much to do; try again.").logged(format!(
                "{limit} copies and checksums run already (setting: heavy_at_once)"
            ))
        })
    }

    /// Makes a client wait that sends more commands before its login than people and programs do, longer each time; false
    /// when it has had enough of that.
    pub fn may_say_more(&mut self) -> bool {
        if self.is_logged_in() {
            return true;
        }
        let rate = self.config.abuse.commands_before_login;
        match self.patience.hear(rate, Instant::now()) {
            Verdict::Answer => true,
            Verdict::Wait(time) => {
                self.connection.pause(time);
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

    pub fn reply(&mut self, reply: &Reply) {
        log::debug!("{}: -> {}", self.who(), reply.code());
        self.connection.control.queue(reply);
        if self.connection.control.flush_if_large().is_err() {
            self.connection.ended = true;
        }
    }

    // ---- data connections

    pub fn active_from(&self) -> ActiveFrom {
        let from_port_20 = self
            .config
            .active_from_port_20
            .unwrap_or(self.service.shared.may_bind_low_ports);
        ActiveFrom {
            local: self.connection.local,
            from_port_20,
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
}
