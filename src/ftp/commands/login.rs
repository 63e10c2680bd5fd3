//! USER, PASS, ACCT, REIN, QUIT (RFC 959 §4.1.1), HOST (RFC 7151).
use std::sync::Arc;

use super::Answer;
use crate::ftp::protocol::host::parse_host;
use crate::ftp::protocol::reply::Reply;
use crate::ftp::refusal::Refusal;
use crate::ftp::security::AfterReply;
use crate::ftp::session::{Login, Session};
use crate::service::login::{Applicant, Denied, Visitor};

/// A name, even of somebody who is not known: who is known shows only after PASS.
pub fn user(session: &mut Session, name: &[u8]) -> Answer {
    if session.is_logged_in() {
        session.reinitialize();
    }
    session.config = session.service.config();
    if session.login_needs_tls(name) {
        session.login = Login::Greeted;
        return Err(
            Refusal::new(530, "Encrypt first: AUTH TLS (FTP over TLS, explicit).")
                .logged("a login in the clear (setting: tls.mode, or require_tls of the user)"),
        );
    }
    let service = Arc::clone(&session.service);
    if let Some(answer) = service.by_certificate(&session.config, &applicant(session), name) {
        enter(session, answer)?;
        return Ok(Reply::new(232, "Login successful, by your certificate."));
    }
    session.login = Login::Named(name.to_vec());
    let anonymous = session.config.accounts.is_anonymous(name);
    Ok(Reply::new(
        331,
        if anonymous {
            "Anonymous login ok; send any password."
        } else {
            "Password required."
        },
    ))
}

pub fn pass(session: &mut Session, password: &[u8]) -> Answer {
    let name = match std::mem::replace(&mut session.login, Login::Greeted) {
        Login::Named(name) => name,
        Login::Greeted => return Err(Refusal::new(503, "USER must come first.")),
        login @ Login::LoggedIn(_) => {
            session.login = login;
            return Err(Refusal::new(503, "You are logged in already."));
        }
    };
    // Who may come is as the owner says now, whatever it was when the connection began.
    session.config = session.service.config();
    let service = Arc::clone(&session.service);
    let answer = service.by_password(&session.config, &applicant(session), &name, password);
    enter(session, answer)?;
    Ok(Reply::new(230, "Login successful."))
}

fn applicant(session: &Session) -> Applicant<'_> {
    let connection = &session.connection;
    Applicant {
        peer: connection.peer,
        local: connection.local,
        certificate: &connection.security.client_names,
        encryption: connection.control.stream().describe(),
        ending: connection.control.ending(),
        row: &connection.row,
        attempt: session.patience.failures + 1,
        deadline: session.login_deadline(),
    }
}

/// Says in FTP what the login has come to.
fn enter(session: &mut Session, answer: Result<Visitor, Denied>) -> Result<(), Refusal> {
    let denied = match answer {
        Ok(visitor) => {
            let patience = session.config.timeouts.stalled;
            session.connection.control.set_patience(patience);
            session.login = Login::LoggedIn(Box::new(visitor));
            return Ok(());
        }
        Err(denied) => denied,
    };
    if let Denied::Wrong { delay, .. } = denied {
        session.patience.failures += 1;
        session.connection.pause(delay);
    }
    session.connection.ended |= denied.ends_session();
    let code = if denied.ends_session() { 421 } else { 530 };
    let refusal = Refusal::new(code, denied.to_string());
    Err(match denied.reason() {
        Some(reason) => refusal.logged(reason),
        None => refusal,
    })
}

/// No account here has an account within.
pub fn acct(session: &mut Session, _: &[u8]) -> Answer {
    session
        .visitor()
        .map_err(|_| Refusal::new(503, "USER and PASS must come first."))?;
    Ok(Reply::new(202, "ACCT is not needed here."))
}

/// The reply is still encrypted, what follows is not (RFC 4217 §11), but where TLS came before the first command.
pub fn rein(session: &mut Session, _: &[u8]) -> Answer {
    session.reinitialize();
    session.connection.security.reset();
    if session.connection.control.stream().is_encrypted() && !session.connection.security.implicit {
        session.connection.after_reply = Some(AfterReply::StopEncryption);
    }
    Ok(Reply::new(220, session.config.banner.clone()))
}

pub fn quit(session: &mut Session, _: &[u8]) -> Answer {
    session.connection.ended = true;
    Ok(Reply::new(221, "Goodbye."))
}

/// One set of accounts serves every name that the host has (RFC 7151 §3.2).
pub fn host(session: &mut Session, name: &[u8]) -> Answer {
    match parse_host(name) {
        Some(_) => Ok(Reply::new(220, session.config.banner.clone())),
        None => Err(Refusal::new(501, "Not a host name.")),
    }
}
