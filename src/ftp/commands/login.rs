//! USER, PASS, ACCT, REIN, QUIT (RFC 959 §4.1.1), HOST (RFC 7151).
use std::sync::Arc;

use super::Answer;
use crate::accounts::{Account, Busy, SystemUser};
use crate::ftp::protocol::host::parse_host;
use crate::ftp::protocol::reply::Reply;
use crate::ftp::refusal::Refusal;
use crate::ftp::security::AfterReply;
use crate::ftp::session::{Login, Session, Visitor};
use crate::observe::printable;
use crate::server::admission::Refused;
use crate::server::identity::{self, Acting};
use crate::service::settings::REMOVED;
use crate::service::shared::ban_rules;
use crate::storage::{ErrorKind, Holder, View};

/// A name, even of somebody who is not known: who is known shows only after PASS.
pub fn user(session: &mut Session, name: &[u8]) -> Answer {
    if matches!(session.login, Login::LoggedIn(_)) {
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
    let config = Arc::clone(&session.config);
    let names = &session.connection.security.client_names;
    if let Some(account) = config.accounts.by_certificate(name, names) {
        if !may_come_from_here(session, account) {
            return wrong(session, name);
        }
        enter(session, name.to_vec(), account)?;
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
    let config = Arc::clone(&session.config);
    must_not_be_banned(session)?;
    let certificate = &session.connection.security.client_names;
    let deadline = session.login_deadline();
    let may_come = |account: &Account| may_come_from_here(session, account);
    let found = config
        .accounts
        .authenticate(&name, password, certificate, &may_come, deadline);
    // Many may have waited for their turn when one of them was the last that is looked at.
    must_not_be_banned(session)?;
    let account = match found {
        Ok(Some(account)) => account,
        Ok(None) => return wrong(session, &name),
        Err(Busy) => {
            session.connection.ended = true;
            return Err(
                Refusal::new(421, "Too many logins at this moment; try again later.")
                    .logged("too many passwords were to be checked (setting: timeouts.login)"),
            );
        }
    };
    enter(session, name, account)?;
    Ok(Reply::new(230, "Login successful."))
}

/// By what others of its address did meanwhile.
fn must_not_be_banned(session: &mut Session) -> Result<(), Refusal> {
    let rules = ban_rules(&session.config);
    let banned = session
        .service
        .shared
        .bans
        .remaining(session.connection.peer.ip(), rules);
    let Some(left) = banned else {
        return Ok(());
    };
    session.connection.ended = true;
    Err(Refusal::new(421, Refused::Banned(left).to_string()))
}

/// Logs in; whoever calls has made sure of who it is.
fn enter(session: &mut Session, name: Vec<u8>, account: &Account) -> Result<(), Refusal> {
    let config = Arc::clone(&session.config);
    let limit = account
        .sessions
        .or(config.sessions_per_user)
        .unwrap_or(config.sessions);
    let Some(slot) = session
        .service
        .shared
        .admission
        .admit_user(account.name.as_bytes(), limit)
    else {
        session.connection.ended = true;
        return Err(Refusal::new(
            421,
            format!("Too many sessions of this user: the limit is {limit}."),
        )
        .logged(format!(
            "{} has {limit} sessions already (setting: sessions_per_user, or sessions of the user)",
            printable(&name)
        )));
    };
    let anonymous = config.accounts.is_anonymous(&name);
    let acting = session
        .service
        .shared
        .identities
        .then(|| act_as(account, anonymous))
        .transpose()?;
    let mut view = View::open(&account.view).map_err(|error| {
        let why = match error.kind {
            ErrorKind::Confined => {
                "Your files are out of the server's reach until it is restarted."
            }
            _ => "Your files are not available at the moment.",
        };
        Refusal::new(530, why).logged(format!(
            "the root {} of {} cannot be opened: {error} (setting: root)",
            account.view.root.display(),
            printable(&name)
        ))
    })?;
    log::info!(
        "{}@{}: logged in {}; root {}",
        printable(&name),
        session.connection.peer.ip(),
        session.connection.control.stream().describe(),
        printable(account.view.root.as_os_str().as_encoded_bytes())
    );
    session
        .service
        .shared
        .bans
        .forgive(session.connection.peer.ip(), &name);
    view.set_holder(holder(session, account, anonymous));
    session.connection.slot.log_in();
    session.connection.row.set_user(account.name.as_bytes());
    // Only now: a reload ends the sessions of those that it removes, and this session may have begun before it.
    if !(session.service.config().accounts).has(account.name.as_bytes()) {
        session.connection.ended = true;
        return Err(Refusal::new(421, REMOVED).logged(format!(
            "{} is no user any more since the configuration was read again",
            printable(&name)
        )));
    }
    session
        .connection
        .control
        .set_patience(config.timeouts.stalled);
    session.login = Login::LoggedIn(Box::new(Visitor {
        anonymous,
        name,
        account: account.clone(),
        view: Arc::new(view),
        slot,
        acting,
    }));
    Ok(())
}

/// What others see of the session that writes to a file. Guests have an account in common: only those of one address are taken
/// for one.
fn holder(session: &Session, account: &Account, anonymous: bool) -> Holder {
    let whose = match anonymous {
        true => format!("{}@{}", account.name, session.connection.peer.ip()),
        false => account.name.clone(),
    };
    let ending = Arc::clone(session.connection.control.ending());
    let end = move || {
        ending
            .end("Another session of yours goes on with the upload that stood still here; closing.")
    };
    Holder::new(&whose, Arc::new(end))
}

/// Who comes from elsewhere is told what a wrong password is told: it may be guessed, but not tried out there.
fn may_come_from_here(session: &Session, account: &Account) -> bool {
    let refusal = account
        .reach
        .refusal(session.connection.peer.ip(), session.connection.local.ip());
    if let Some(setting) = refusal {
        log::warn!(
            "{}: {} may not log in from there (setting: {setting} of the user)",
            session.connection.peer,
            account.name
        );
    }
    refusal.is_none()
}

/// Has this thread touch files as the user of the system that the account stands for.
fn act_as(account: &Account, anonymous: bool) -> Result<Acting, Refusal> {
    let refused =
        |why: String| Refusal::new(530, "Your files are not available at the moment.").logged(why);
    let user = SystemUser::of(account, anonymous).map_err(refused)?;
    identity::act_as(user.uid, user.gid, &user.groups).map_err(|errno| {
        refused(format!(
            "cannot act as the system user {} for {}: {} (setting: run_as)",
            user.uid, account.name, errno
        ))
    })
}

/// The same words and the same wait whether the name or the password was wrong.
fn wrong(session: &mut Session, name: &[u8]) -> Answer {
    session.patience.failures += 1;
    let attempts = session.config.login_attempts;
    log::warn!(
        "{}: login as {} failed ({} of {attempts})",
        session.connection.peer,
        printable(name),
        session.patience.failures
    );
    let failed = session.count_failure(Some(name));
    session.connection.pause(failed.delay);
    if session.patience.failures >= attempts || failed.banned {
        session.connection.ended = true;
        return Err(Refusal::new(
            421,
            "Login incorrect; that was the last attempt.",
        ));
    }
    Err(Refusal::new(530, "Login incorrect."))
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
