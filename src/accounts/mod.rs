//! Users, what they may do, and their passwords. Knows no protocol.
//!
//! A password is stored as argon2id (RFC 9106) and checked by it once; after that a keyed digest is remembered in
//! memory, so that a client which logs in for every file does not cost 20 ms of work and 19 MiB each time. Nobody can
//! tell from the time of an answer whether a name is known.
mod networks;
mod password;
mod system_user;

pub use networks::{Network, Networks, Reach};
pub use password::{BadHash, Busy, Leave, Password, random_password};
pub use system_user::SystemUser;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::storage::{Permission, ViewSpec, guard_counts};

/// The names by which the anonymous account is entered (RFC 1635).
const ANONYMOUS: [&[u8]; 2] = [b"anonymous", b"ftp"];

/// One user as configured.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub password: Password,
    pub view: ViewSpec,
    /// Sessions at once; None: the server's `sessions_per_user`.
    pub sessions: Option<usize>,
    /// Data connections to addresses other than the client's own (server-to-server transfers).
    pub fxp: bool,
    /// An upload with fewer bytes than ALLO announced is not complete.
    pub strict_allo: bool,
    /// An upload is complete even when the client closes the control connection before it hears so.
    pub accept_hangup: bool,
    /// An upload over TLS is complete even when the client ends the data connection without close_notify.
    pub accept_missing_close_notify: bool,
    /// From where data connections may come beside the address of the control connection.
    pub data_from: Networks,
    /// Nothing in the clear, neither password nor files; None: as the server's `tls.mode` says.
    pub require_tls: Option<bool>,
    /// The name that the client's certificate must bear; with a password as well, both are needed.
    pub certificate: Option<String>,
    /// From where the user may log in.
    pub reach: Reach,
    /// What all sessions of the user may move together.
    pub rates: Rates,
    /// What each may move; what is None is as the server's.
    pub session_rates: Rates,
    /// The user of the system whose files these are, by name, `UID` or `UID:GID`; None: the one of the same name.
    pub system_user: Option<String>,
    /// How often an upload is expected at least.
    pub expect_every: Option<Duration>,
    /// Run behind each upload.
    pub on_upload: Option<Program>,
}

/// Bytes a second that may flow; None: as many as can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// From the client.
    pub up: Option<u64>,
    /// To the client.
    pub down: Option<u64>,
}

/// A program of the owner's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// An absolute path.
    pub path: PathBuf,
    pub arguments: Vec<String>,
    /// After which it is ended.
    pub time: Duration,
}

impl Account {
    /// An account with nothing out of the ordinary.
    pub fn new(name: impl Into<String>, password: Password, view: ViewSpec) -> Self {
        Self {
            name: name.into(),
            password,
            view,
            sessions: None,
            fxp: false,
            strict_allo: false,
            accept_hangup: false,
            accept_missing_close_notify: false,
            data_from: Networks::default(),
            require_tls: None,
            certificate: None,
            reach: Reach::anywhere(),
            rates: Rates::default(),
            session_rates: Rates::default(),
            system_user: None,
            expect_every: None,
            on_upload: None,
        }
    }

    /// Whether the last upload, at a time in seconds since 1970, is longer ago than it should be. A time that lies as far ahead
    /// says nothing: the clock was wrong then, or is wrong now.
    pub fn is_overdue(&self, last: Option<i64>, now: i64) -> bool {
        let Some(expected) = self.expect_every else {
            return false;
        };
        let age = last.map(|last| now.saturating_sub(last).unsigned_abs());
        age.is_none_or(|age| age > expected.as_secs())
    }

    /// Whether a client whose certificate bears these names may be this user. Without a certificate asked for, any may.
    pub fn accepts_certificate(&self, names: &[String]) -> bool {
        let asked = self.certificate.as_ref();
        asked.is_none_or(|asked| names.iter().any(|name| name.eq_ignore_ascii_case(asked)))
    }
}

/// The accounts of one configuration.
#[derive(Debug, Default)]
pub struct Accounts {
    accounts: Vec<Account>,
    anonymous: Option<Account>,
}

impl Accounts {
    pub fn new(accounts: Vec<Account>, anonymous: Option<Account>) -> Self {
        let (mut accounts, mut anonymous) = (accounts, anonymous);
        count_for_quotas(accounts.iter_mut().chain(&mut anonymous).collect());
        Self {
            accounts,
            anonymous,
        }
    }

    /// All but the anonymous one.
    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter()
    }

    pub fn anonymous(&self) -> Option<&Account> {
        self.anonymous.as_ref()
    }

    /// Whether there is an account of this name, the anonymous one among them.
    pub fn has(&self, name: &[u8]) -> bool {
        let mut all = self.accounts.iter().chain(&self.anonymous);
        all.any(|account| account.name.as_bytes() == name)
    }

    /// Whether the name means the anonymous account, and there is one. A user of that name comes first.
    pub fn is_anonymous(&self, name: &[u8]) -> bool {
        self.anonymous.is_some()
            && self.named(name).is_none()
            && ANONYMOUS
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
    }

    /// The account that the name and the client's certificate open, without a password (RFC 4217 §10).
    pub fn by_certificate(&self, name: &[u8], certificate: &[String]) -> Option<&Account> {
        let account = self.named(name)?;
        let enough = account.certificate.is_some() && account.password.is_none();
        (enough && account.accepts_certificate(certificate)).then_some(account)
    }

    /// Whether the user is to say nothing in the clear; None: the server's mode decides.
    pub fn requires_tls(&self, name: &[u8]) -> Option<bool> {
        if self.is_anonymous(name) {
            return self.anonymous()?.require_tls;
        }
        match self.named(name) {
            Some(account) => account.require_tls,
            // As those who must: they are not to be found by what USER is answered.
            None => {
                let must = |account: &Account| account.require_tls == Some(true);
                self.accounts.iter().any(must).then_some(true)
            }
        }
    }

    /// The account that these credentials open. For an unknown name the work of a known one is done. `certificate` is
    /// what the client's certificate calls it; `may_come` tells whether an account may be entered from where the client is.
    /// Both are judged first, so that the password cannot be tried out, not even by time, where they are not met.
    ///
    /// # Errors
    /// When too many passwords were checked until the deadline.
    pub fn authenticate(
        &self,
        name: &[u8],
        password: &[u8],
        certificate: &[String],
        may_come: &dyn Fn(&Account) -> bool,
        leave: Leave<'_>,
    ) -> Result<Option<&Account>, Busy> {
        if self.is_anonymous(name) {
            return Ok(self.anonymous().filter(|account| may_come(account)));
        }
        let Some(account) = self.named(name) else {
            self.do_the_work(password, leave)?;
            return Ok(None);
        };
        let welcome = account.accepts_certificate(certificate) && may_come(account);
        if account.password.is_none() {
            self.do_the_work(password, leave)?;
            return Ok(self.by_certificate(name, certificate).filter(|_| welcome));
        }
        if !welcome {
            account.password.do_the_work(password, leave)?;
            return Ok(None);
        }
        let right = account.password.is(password, leave)?;
        Ok(right.then_some(account))
    }

    /// With the cost that the dearest account here has: hashes from elsewhere may ask for more than ours.
    fn do_the_work(&self, password: &[u8], leave: Leave<'_>) -> Result<(), Busy> {
        let known = self.accounts.iter().map(|account| &account.password);
        let known = known.filter(|known| !known.is_none());
        match known.max_by_key(|known| known.cost()) {
            Some(known) => known.do_the_work(password, leave),
            None => password::do_the_work(password, leave),
        }
    }

    fn named(&self, name: &[u8]) -> Option<&Account> {
        self.accounts
            .iter()
            .find(|account| account.name.as_bytes() == name)
    }
}

/// Tells every account what is counted for anybody's quota: all must count what they change there.
fn count_for_quotas(accounts: Vec<&mut Account>) {
    let limited = accounts
        .iter()
        .filter(|account| account.view.metered.limit.is_limited());
    let areas: BTreeMap<String, Vec<PathBuf>> = limited
        .map(|account| (account.name.clone(), areas_of(&account.view)))
        .collect();
    let counted: BTreeSet<&PathBuf> = areas.values().flatten().collect();
    let counted: Arc<[PathBuf]> = counted.into_iter().cloned().collect();
    let guarded = guarded(&accounts);
    guard_counts(
        counted
            .iter()
            .map(|area| (area.clone(), guarded.contains(area))),
    );
    for account in accounts {
        account.view.metered.counted = Arc::clone(&counted);
        account.view.metered.own = areas.get(&account.name).cloned().unwrap_or_default();
    }
}

/// The roots and folders that must be mounted, for whom ever.
fn guarded(accounts: &[&mut Account]) -> BTreeSet<PathBuf> {
    let views = accounts.iter().map(|account| &account.view);
    let all = views.flat_map(ViewSpec::directories);
    all.filter(|(_, rules)| rules.require_mount)
        .map(|(root, _)| real(root))
        .collect()
}

/// Links are followed once, here.
fn real(root: &Path) -> PathBuf {
    root.canonicalize().unwrap_or_else(|_| root.to_owned())
}

/// The root and the folders, where the user may make something larger; none that lies in another.
fn areas_of(view: &ViewSpec) -> Vec<PathBuf> {
    let all = view.directories();
    let growing = [
        Permission::Upload,
        Permission::Append,
        Permission::Overwrite,
    ];
    let roots = all
        .filter(|(_, rules)| growing.iter().any(|one| rules.permissions.contains(*one)))
        .map(|(root, _)| root);
    let real: BTreeSet<PathBuf> = roots.map(|root| real(root)).collect();
    let within = |path: &PathBuf| {
        real.iter()
            .any(|other| other != path && path.starts_with(other))
    };
    real.iter().filter(|path| !within(path)).cloned().collect()
}
