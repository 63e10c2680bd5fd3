//! The login, of any protocol: who may come, with what, from where, and what it yields. A front end says the answer in its
//! protocol and lets the wait pass; whatever is logged, counted and banned for it is done here.
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::settings::{REMOVED, Service};
use super::shared::ban_rules;
use crate::accounts::{Account, Busy, Leave, SystemUser};
use crate::config::Config;
use crate::observe::limit::PACED;
use crate::observe::origin::{self, Origin};
use crate::observe::printable;
use crate::os::ending::Ending;
use crate::server::admission::Refused;
use crate::server::bans::Failed;
use crate::server::identity::{self, Acting};
use crate::server::sessions::{NoPlace, Row};
use crate::storage::{ErrorKind, Holder, View};

/// What the client of a session hears whose upload another session of the user's continues.
const CONTINUED: &str =
    "Another session of yours goes on with the upload that stood still here; closing.";

/// Who is logged in and what they see. Dropped, the thread acts as itself again.
#[derive(Debug)]
pub struct Visitor {
    /// As the client has written it.
    pub name: Vec<u8>,
    pub peer: IpAddr,
    /// Who this is, for log lines.
    who: String,
    pub anonymous: bool,
    pub account: Account,
    pub view: Arc<View>,
    /// Files are touched as the account's own user of the system until this goes.
    pub acting: Option<Acting>,
}

impl Visitor {
    /// Who this is, for log lines.
    pub fn who(&self) -> &str {
        &self.who
    }
}

/// A client that wants to log in, as it is known before.
#[derive(Debug)]
pub struct Applicant<'a> {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// What its certificate calls it.
    pub certificate: &'a [String],
    /// How the connection is encrypted, for the log.
    pub encryption: String,
    /// How others end the session.
    pub ending: &'a Arc<Ending>,
    pub row: &'a Row,
    /// Which attempt of its session this is, counted from 1.
    pub attempt: u32,
    /// Until when the login must have happened.
    pub deadline: Instant,
}

/// Why a login is refused.
#[derive(Debug)]
pub enum Denied {
    /// The name, the password, the certificate or the place that the client is in: nobody is told which.
    Wrong {
        /// How long the client is to wait for the answer.
        delay: Duration,
        /// It was the last attempt of the session.
        last: bool,
    },
    Banned(Duration),
    /// Too many passwords are to be checked.
    Busy,
    /// As many sessions of the user as are allowed; in the log by this name.
    TooMany(usize, Vec<u8>),
    /// The files cannot be had, for this reason in the log.
    NoFiles(String),
    /// They lie outside of what the server may touch since its start.
    OutOfReach(String),
    /// The user was removed meanwhile.
    Removed(Vec<u8>),
    /// The session made room for another while it waited.
    CutOff(&'static str),
}

/// What the client reads.
impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong { last: true, .. } => {
                f.write_str("Login incorrect; that was the last attempt.")
            }
            Self::Wrong { .. } => f.write_str("Login incorrect."),
            Self::Banned(left) => Refused::Banned(*left).fmt(f),
            Self::Busy => f.write_str("Too many logins at this moment; try again later."),
            Self::TooMany(limit, _) => {
                write!(f, "Too many sessions of this user: the limit is {limit}.")
            }
            Self::NoFiles(_) => f.write_str("Your files are not available at the moment."),
            Self::OutOfReach(_) => {
                f.write_str("Your files are out of the server's reach until it is restarted.")
            }
            Self::Removed(_) => f.write_str(REMOVED),
            Self::CutOff(why) => f.write_str(why),
        }
    }
}

impl Denied {
    /// Whether the session is over with it.
    pub fn ends_session(&self) -> bool {
        match self {
            Self::Wrong { last, .. } => *last,
            Self::Banned(_)
            | Self::Busy
            | Self::TooMany(..)
            | Self::Removed(_)
            | Self::CutOff(_) => true,
            Self::NoFiles(_) | Self::OutOfReach(_) => false,
        }
    }

    /// The reason for the log, with the setting that would change it; None where it has its line already.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Wrong { .. } | Self::Banned(_) | Self::CutOff(_) => None,
            Self::Busy => {
                Some("too many passwords were to be checked (setting: timeouts.login)".into())
            }
            Self::TooMany(limit, name) => Some(format!(
                "{} has {limit} sessions already (setting: sessions_per_user, or sessions of the user)",
                printable(name)
            )),
            Self::NoFiles(reason) | Self::OutOfReach(reason) => Some(reason.clone()),
            Self::Removed(name) => Some(format!(
                "{} is no user any more since the configuration was read again",
                printable(name)
            )),
        }
    }
}

impl Service {
    /// Logs in by a password, where one is asked for. Takes its time: passwords are expensive to check.
    ///
    /// # Errors
    /// Why not.
    pub fn by_password(
        &self,
        config: &Config,
        applicant: &Applicant<'_>,
        name: &[u8],
        password: &[u8],
    ) -> Result<Visitor, Denied> {
        self.must_not_be_banned(config, applicant)?;
        let may_come = |account: &Account| applicant.may_come_from_there(account);
        // A client whose session was cut off keeps no place in the line.
        let is_over = || applicant.ending.why().is_some();
        let leave = Leave {
            deadline: applicant.deadline,
            is_over: &is_over,
        };
        let certificate = applicant.certificate;
        let found = config
            .accounts
            .authenticate(name, password, certificate, &may_come, leave);
        // Many may have waited for their turn when one of them was the last that is looked at.
        self.must_not_be_banned(config, applicant)?;
        match found {
            Ok(Some(account)) => self.enter(config, applicant, name, account),
            Ok(None) => Err(self.wrong(config, applicant, name)),
            Err(Busy) => Err(Denied::Busy),
        }
    }

    /// Logs in without a password where the client's certificate is enough for this name (RFC 4217 §10); None where it is not,
    /// and a password is asked for.
    pub fn by_certificate(
        &self,
        config: &Config,
        applicant: &Applicant<'_>,
        name: &[u8],
    ) -> Option<Result<Visitor, Denied>> {
        let account = config
            .accounts
            .by_certificate(name, applicant.certificate)?;
        Some(match applicant.may_come_from_there(account) {
            true => self.enter(config, applicant, name, account),
            false => Err(self.wrong(config, applicant, name)),
        })
    }

    /// Counts a failed login of the client's address, to this account where one was named: how long it is to wait, and whether
    /// it is banned now.
    pub fn count_failure(
        &self,
        config: &Config,
        peer: SocketAddr,
        account: Option<&[u8]>,
    ) -> Failed {
        let rules = ban_rules(config);
        let failed = self.shared.bans.failed(peer.ip(), account, rules);
        if failed.banned {
            log::warn!(
                "{}: banned for {} s after {} failed logins (settings: ban_after, ban_for)",
                peer.ip(),
                rules.time.as_secs(),
                rules.after
            );
        }
        failed
    }

    /// By what others of its address did meanwhile.
    fn must_not_be_banned(&self, config: &Config, applicant: &Applicant<'_>) -> Result<(), Denied> {
        let bans = &self.shared.bans;
        let left = bans.remaining(applicant.peer.ip(), ban_rules(config));
        left.map_or(Ok(()), |left| Err(Denied::Banned(left)))
    }

    /// The same words and the same wait whether the name or the password was wrong.
    fn wrong(&self, config: &Config, applicant: &Applicant<'_>, name: &[u8]) -> Denied {
        let (attempt, attempts) = (applicant.attempt, config.login_attempts);
        log::warn!(
            target: PACED,
            "{}: login as {} failed ({attempt} of {attempts})",
            applicant.peer,
            printable(name)
        );
        let Failed { delay, banned } = self.count_failure(config, applicant.peer, Some(name));
        let last = banned || attempt >= attempts;
        Denied::Wrong { delay, last }
    }

    /// Logs in; whoever calls has made sure of who it is.
    fn enter(
        &self,
        config: &Config,
        applicant: &Applicant<'_>,
        name: &[u8],
        account: &Account,
    ) -> Result<Visitor, Denied> {
        let user = account.name.as_bytes();
        let limit = account.sessions.or(config.sessions_per_user);
        let limit = limit.unwrap_or(config.sessions);
        applicant.row.log_in(user, limit).map_err(|why| match why {
            NoPlace::TooMany => Denied::TooMany(limit, name.to_vec()),
            NoPlace::CutOff(why) => Denied::CutOff(why),
        })?;
        let visitor = self.visitor(config, applicant, name, account);
        // Behind that: a reload ends the sessions of those that it removes, and this session may have begun before it.
        let visitor = visitor.and_then(|visitor| match self.config().accounts.has(user) {
            true => Ok(visitor),
            false => Err(Denied::Removed(name.to_vec())),
        });
        if visitor.is_err() {
            applicant.row.log_out();
        }
        visitor
    }

    fn visitor(
        &self,
        config: &Config,
        applicant: &Applicant<'_>,
        name: &[u8],
        account: &Account,
    ) -> Result<Visitor, Denied> {
        let anonymous = config.accounts.is_anonymous(name);
        let acts = self.shared.identities;
        let acting = acts.then(|| act_as(account, anonymous)).transpose()?;
        let root = &account.view.root;
        let mut view = View::open(&account.view).map_err(|error| {
            let reason = format!(
                "the root {} of {} cannot be opened: {error} ({})",
                root.display(),
                printable(name),
                error.advice().unwrap_or_else(|| "setting: root".into())
            );
            match error.kind {
                ErrorKind::Confined => Denied::OutOfReach(reason),
                _ => Denied::NoFiles(reason),
            }
        })?;
        view.set_holder(applicant.holder(account, anonymous));
        let peer = applicant.peer.ip();
        if !anonymous {
            origin::set(Origin::User(peer));
        }
        let who = format!("{}@{peer}", printable(name));
        log::info!(
            "{who}: logged in {}; root {}",
            applicant.encryption,
            printable(root.as_os_str().as_encoded_bytes())
        );
        self.shared.bans.forgive(peer, name);
        Ok(Visitor {
            name: name.to_vec(),
            peer,
            who,
            anonymous,
            account: account.clone(),
            view: Arc::new(view),
            acting,
        })
    }
}

impl Applicant<'_> {
    /// Who comes from elsewhere is told what a wrong password is told: it may be guessed, but not tried out there.
    fn may_come_from_there(&self, account: &Account) -> bool {
        let refusal = account.reach.refusal(self.peer.ip(), self.local.ip());
        if let Some(setting) = refusal {
            log::warn!(
                "{}: {} may not log in from there (setting: {setting} of the user)",
                self.peer,
                account.name
            );
        }
        refusal.is_none()
    }

    /// What others see of the session that writes to a file. Guests have an account in common: only those of one address are
    /// taken for one.
    fn holder(&self, account: &Account, anonymous: bool) -> Holder {
        let whose = match anonymous {
            true => format!("{}@{}", account.name, self.peer.ip()),
            false => account.name.clone(),
        };
        let ending = Arc::clone(self.ending);
        Holder::new(&whose, Arc::new(move || ending.end(CONTINUED)))
    }
}

/// Has this thread touch files as the user of the system that the account stands for.
fn act_as(account: &Account, anonymous: bool) -> Result<Acting, Denied> {
    let user = SystemUser::of(account, anonymous).map_err(Denied::NoFiles)?;
    identity::act_as(user.uid, user.gid, &user.groups).map_err(|errno| {
        Denied::NoFiles(format!(
            "cannot act as the system user {} for {}: {errno} (setting: run_as)",
            user.uid, account.name
        ))
    })
}
