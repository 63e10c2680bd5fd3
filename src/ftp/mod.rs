//! The FTP front end.
//!
//! | room | subject |
//! |---|---|
//! | `protocol` | the grammars of the RFCs: bytes in, values out; no sockets, no files |
//! | `control` | the control connection: lines and replies |
//! | `connection` | the control connection and what goes with it, whoever is logged in |
//! | `patience` | what is borne of a client before its login |
//! | `parameters` | what was agreed upon with the client |
//! | `refusal` | why a command is not done |
//! | `session` | the session's state, made of these |
//! | `security` | how a session is encrypted |
//! | `data` | data connections and what flows over them |
//! | `commands` | the table of verbs and their handlers |
//!
//! This file is the control loop: read a command, look it up in the table, run it, reply.
pub mod commands;
pub mod connection;
pub mod control;
pub mod data;
pub mod parameters;
pub mod patience;
pub mod protocol;
pub mod refusal;
pub mod security;
pub mod session;

use std::fmt;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;

use protocol::command::{Command, is_http_request};
use protocol::line::Line;
use protocol::reply::Reply;
use session::{Next, Session};

use crate::os::ending::Ending;
use crate::server::admission::Refused;
use crate::server::{Connection, FrontEnd};
use crate::service::Service;

/// FTP on one listener: in the clear at first, or with TLS from the first byte.
#[derive(Clone)]
pub struct Ftp {
    service: Arc<Service>,
    implicit: bool,
}

impl fmt::Debug for Ftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.implicit {
            true => "FTP over TLS from the first byte",
            false => "FTP",
        })
    }
}

impl Ftp {
    pub fn new(service: Arc<Service>) -> Self {
        let implicit = false;
        Self { service, implicit }
    }

    /// TLS begins with the first byte; nothing is ever said in the clear.
    pub fn implicit(service: Arc<Service>) -> Self {
        let implicit = true;
        Self { service, implicit }
    }
}

impl FrontEnd for Ftp {
    fn greet(&self, mut stream: &TcpStream) {
        if !self.implicit {
            let mut greeting = Vec::new();
            Reply::new(220, self.service.config().banner.clone()).encode_into(&mut greeting);
            // One small write into an empty socket buffer. A connection that is gone already fails at the first read, too.
            let _ = stream.write(&greeting);
        }
    }

    fn serve(&self, connection: Connection, ending: Arc<Ending>) {
        let service = Arc::clone(&self.service);
        run(Session::new(connection, service, ending, self.implicit));
    }

    fn refuse(&self, mut stream: &TcpStream, reason: Refused) {
        if self.implicit {
            // The client waits for TLS, and nothing that is not encrypted means anything to it.
            return;
        }
        let mut reply = Vec::new();
        Reply::new(421, reason.to_string()).encode_into(&mut reply);
        // One small write; when it fails the client is gone, or does not read.
        let _ = stream.write(&reply);
    }
}

/// The control loop of one session.
fn run(mut session: Session) {
    log::debug!("{}: connected", session.connection.peer);
    if session.connection.security.implicit {
        session.encrypt();
        if !session.connection.ended {
            session.reply(&Reply::new(220, session.config.banner.clone()));
        }
    }
    while !session.connection.ended {
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
    let _ = session.connection.control.flush();
    log::debug!("{}: closed", session.who());
    session.connection.control.close();
}

fn obey(session: &mut Session, line: &Line) {
    if !session.may_say_more() {
        end(session, "Too many commands before the login; closing.");
        return;
    }
    // Its connection broke, or others have ended it, while it was made to wait.
    if session.connection.ended || session.connection.control.ending().why().is_some() {
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
    session.connection.ended = true;
}
