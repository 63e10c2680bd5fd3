//! The FTP front end.
//!
//! | room | subject |
//! |---|---|
//! | `protocol` | the grammars of the RFCs: bytes in, values out; no sockets, no files |
//! | `control` | the control connection: lines and replies |
//! | `chatter` | how much a client may say before its login |
//! | `shared` | what all sessions share |
//! | `session` | the session's state |
//! | `security` | how a session is encrypted |
//! | `data` | data connections and what flows over them |
//! | `commands` | the table of verbs and their handlers |
//!
//! This file is the control loop: read a command, look it up in the table, run it, reply.
pub mod chatter;
pub mod commands;
pub mod control;
pub mod data;
pub mod protocol;
pub mod security;
pub mod session;
pub mod shared;

use std::io::Write as _;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::command::{Command, is_http_request};
use protocol::line::Line;
use protocol::reply::Reply;
use session::{Next, Session};
use shared::ban_rules;

pub use shared::Shared;

use crate::config::{Config, TlsMode};
use crate::os::ending::Ending;
use crate::os::socket::prepare_control;
use crate::server::admission::Refused;
use crate::server::{Connection, FrontEnd, Limits};
use crate::tls::Tls;

/// Reads the configuration again; the error is what is wrong with it.
pub type Reload = dyn Fn() -> Result<Config, String> + Send + Sync;

/// FTP, served on the connections that the server hands over.
pub struct Ftp {
    settings: Mutex<Settings>,
    shared: Arc<Shared>,
    reload: Box<Reload>,
}

/// New sessions take these; running ones keep what they took.
#[derive(Clone)]
struct Settings {
    config: Arc<Config>,
    /// None: nothing is encrypted.
    tls: Option<Arc<Tls>>,
}

impl Ftp {
    pub fn new(config: Config, tls: Option<Tls>, shared: Shared, reload: Box<Reload>) -> Self {
        Self {
            settings: Mutex::new(Settings {
                config: Arc::new(config),
                tls: tls.map(Arc::new),
            }),
            shared: Arc::new(shared),
            reload,
        }
    }

    /// The configuration that new sessions get.
    pub fn config(&self) -> Arc<Config> {
        self.settings().config
    }

    fn settings(&self) -> Settings {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.clone()
    }

    /// Certificates by a new configuration; where they are of no use, the old ones stay.
    fn certificates_of(&self, config: &Config) -> Option<Arc<Tls>> {
        if config.tls.mode == TlsMode::Off {
            return None;
        }
        let settings = config.tls.service.clone();
        let old = self.settings().tls;
        let opened = match &old {
            Some(old) => old.reopened(settings),
            None => Tls::open(settings),
        };
        match opened {
            Ok(tls) => {
                log::info!(
                    "certificate for new connections: SHA-256 {}",
                    tls.fingerprint()
                );
                Some(Arc::new(tls))
            }
            Err(error) => {
                log::error!("the certificates stay as they were: {error}");
                old
            }
        }
    }
}

impl FrontEnd for Ftp {
    fn limits(&self) -> Limits {
        let config = self.config();
        Limits {
            sessions: config.sessions,
            sessions_per_address: config.sessions_per_ip,
            before_login: config.abuse.before_login(config.sessions),
            login: config.timeouts.login,
        }
    }

    fn screen(&self, peer: IpAddr, local: IpAddr) -> Result<(), Refused> {
        let config = self.config();
        if let Some(setting) = config.abuse.reach.refusal(peer, local) {
            return Err(Refused::Network(setting));
        }
        match self.shared.bans.remaining(peer, ban_rules(&config)) {
            Some(left) => Err(Refused::Banned(left)),
            None => Ok(()),
        }
    }

    fn greet(&self, mut stream: &TcpStream, listener: usize) {
        // A connection that is gone already fails here and then at the first read: nothing to do about it now.
        let _ = prepare_control(stream);
        if listener < self.shared.explicit_listeners {
            let mut greeting = Vec::new();
            Reply::new(220, self.config().banner.clone()).encode_into(&mut greeting);
            // One small write into an empty socket buffer.
            let _ = stream.write(&greeting);
        }
    }

    fn serve(&self, connection: Connection, ending: Arc<Ending>) {
        let Settings { config, tls } = self.settings();
        let shared = Arc::clone(&self.shared);
        run(Session::new(
            connection,
            config,
            tls.as_deref(),
            shared,
            ending,
        ));
    }

    fn refuse(&self, mut stream: &TcpStream, reason: Refused) {
        let mut reply = Vec::new();
        Reply::new(421, reason.to_string()).encode_into(&mut reply);
        // One small write; when it fails the client is gone, or does not read.
        let _ = stream.write(&reply);
    }

    fn reload(&self) {
        if let Some(log) = &self.shared.transfer_log {
            match log.reopen() {
                Ok(()) => log::info!("opened the transfer log {} again", log.path().display()),
                Err(error) => log::error!(
                    "cannot open the transfer log {} again: {error}",
                    log.path().display()
                ),
            }
        }
        match (self.reload)() {
            Ok(config) => {
                log::info!("the configuration was read again; it holds for new sessions");
                let tls = self.certificates_of(&config);
                let config = Arc::new(config);
                *self.settings.lock().unwrap_or_else(PoisonError::into_inner) =
                    Settings { config, tls };
            }
            Err(error) => log::error!("the configuration stays as it was: {error}"),
        }
    }
}

/// The control loop of one session.
fn run(mut session: Session) {
    log::debug!("{}: connected", session.peer);
    if session.security.implicit {
        session.encrypt();
        if !session.ended {
            session.reply(&Reply::new(220, session.config.banner.clone()));
        }
    }
    while !session.ended {
        match session.next_command() {
            Next::Line(mut line) => {
                obey(&mut session, &line);
                // It may have been a password.
                line.wipe();
            }
            Next::Closed => break,
            Next::TimedOut(why) => {
                log::info!("{}: closed: {why}", session.who());
                end(&mut session, why);
            }
            Next::Ended(why) => {
                // Strangers can have each other's sessions ended; those have their line elsewhere.
                let level = match session.visitor() {
                    Ok(_) => log::Level::Info,
                    Err(_) => log::Level::Debug,
                };
                log::log!(level, "{}: the session was ended: {why}", session.who());
                end(&mut session, why);
            }
            Next::ShutDown => end(&mut session, "The server is shutting down; goodbye."),
        }
    }
    let _ = session.control.flush();
    log::debug!("{}: closed", session.who());
    session.control.close();
}

fn obey(session: &mut Session, line: &Line) {
    if !session.may_say_more() {
        end(session, "Too many commands before the login; closing.");
        return;
    }
    // Its connection broke, or others have ended it, while it was made to wait.
    if session.ended || session.control.ending().why().is_some() {
        return;
    }
    match line {
        Line::Command(line) => match Command::parse(line) {
            Ok(command) if commands::find(&command.verb).is_none() && is_http_request(&command) => {
                log::warn!(
                    "{}: closed: an HTTP request came: a browser or a forged form is talking",
                    session.who()
                );
                end(session, "This is FTP, not HTTP; closing.");
            }
            Ok(mut command) => {
                commands::run(session, &command);
                command.wipe();
            }
            Err(error) => session.reply(&Reply::new(500, format!("Not a command: {error}."))),
        },
        Line::TooLong => session.reply(&Reply::new(500, "The line is too long.")),
        Line::HoldsNul => session.reply(&Reply::new(500, "A NUL cannot be part of a command.")),
    }
}

fn end(session: &mut Session, why: &str) {
    session.reply(&Reply::new(421, why));
    session.ended = true;
}
