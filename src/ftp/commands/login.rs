//! USER, PASS, ACCT, REIN, QUIT (RFC 959 §4.1.1), HOST (RFC 7151).
use std::sync::Arc;
use std::time::Duration;

use super::Answer;
use crate::ftp::protocol::host::parse_host;
use crate::ftp::protocol::reply::Reply;
use crate::ftp::session::{Login, Refusal, Session, Visitor};
use crate::observe::printable;
use crate::storage::{View, VirtualPath};

/// How long a wrong password makes the client wait.
const PENALTY: Duration = Duration::from_secs(1);

/// A name, even of somebody who is not known: who is known shows only after PASS.
pub fn user(session: &mut Session, name: &[u8]) -> Answer {
    if matches!(session.login, Login::LoggedIn(_)) {
        session.reinitialize();
        session.restart_login_clock();
    }
    session.login = Login::Named(name.to_vec());
    let anonymous = session.config.accounts.is_anonymous(name);
    Ok(Reply::new(
        331,
        if anonymous {
            "Any password will do."
        } else {
            "Password, please."
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
    let config = Arc::clone(&session.config);
    let Some(account) = config.accounts.authenticate(&name, password) else {
        return wrong(session, &name);
    };
    let limit = account
        .sessions
        .or(config.sessions_per_user)
        .unwrap_or(config.sessions);
    let Some(slot) = session
        .shared
        .admission
        .admit_user(account.name.as_bytes(), limit)
    else {
        session.ended = true;
        return Err(Refusal::new(
            421,
            format!("Too many sessions of this user: the limit is {limit}."),
        )
        .logged(format!(
            "{} has {limit} sessions already (setting: sessions_per_user, or sessions of the user)",
            printable(&name)
        )));
    };
    let view = View::open(&account.view).map_err(|error| {
        Refusal::new(530, "Your files are not available at the moment.").logged(format!(
            "the root {} of {} cannot be opened: {error} (setting: root)",
            account.view.root.display(),
            printable(&name)
        ))
    })?;
    log::info!(
        "{}@{}: logged in; root {}",
        printable(&name),
        session.peer.ip(),
        printable(account.view.root.as_os_str().as_encoded_bytes())
    );
    session.row.set_user(account.name.as_bytes());
    session.control.set_patience(config.timeouts.stalled);
    session.login = Login::LoggedIn(Visitor {
        anonymous: config.accounts.is_anonymous(&name),
        name,
        account: account.clone(),
        view: Arc::new(view),
        directory: VirtualPath::root(),
        slot,
    });
    Ok(Reply::new(230, "Logged in."))
}

/// The same words and the same wait whether the name or the password was wrong.
fn wrong(session: &mut Session, name: &[u8]) -> Answer {
    session.failures += 1;
    let attempts = session.config.login_attempts;
    log::warn!(
        "{}: login as {} failed ({} of {attempts})",
        session.peer,
        printable(name),
        session.failures
    );
    session.pause(PENALTY);
    if session.failures >= attempts {
        session.ended = true;
        return Err(Refusal::new(
            421,
            "Name or password is wrong; that was the last attempt.",
        ));
    }
    Err(Refusal::new(530, "Name or password is wrong."))
}

/// No account here has an account within.
pub fn acct(session: &mut Session, _: &[u8]) -> Answer {
    session
        .visitor()
        .map_err(|_| Refusal::new(503, "USER and PASS must come first."))?;
    Ok(Reply::new(202, "ACCT is not needed here."))
}

pub fn rein(session: &mut Session, _: &[u8]) -> Answer {
    session.reinitialize();
    session.restart_login_clock();
    Ok(Reply::new(220, session.config.banner.clone()))
}

pub fn quit(session: &mut Session, _: &[u8]) -> Answer {
    session.ended = true;
    Ok(Reply::new(221, "Goodbye."))
}

/// One set of accounts serves every name that the host has (RFC 7151 §3.2).
pub fn host(session: &mut Session, name: &[u8]) -> Answer {
    match parse_host(name) {
        Some(_) => Ok(Reply::new(220, session.config.banner.clone())),
        None => Err(Refusal::new(501, "Not a host name.")),
    }
}
