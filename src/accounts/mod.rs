//! Users, what they may do, and their passwords. Knows no protocol.
//!
//! A password is stored as argon2id (RFC 9106) and checked by it once; after that a keyed digest is remembered in
//! memory, so that a client which logs in for every file does not cost 20 ms of work and 19 MiB each time. Nobody can
//! tell from the time of an answer whether a name is known.
mod password;

pub use password::{BadHash, Password, random_password};

use crate::storage::ViewSpec;

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
}

/// The accounts of one configuration.
#[derive(Debug, Default)]
pub struct Accounts {
    accounts: Vec<Account>,
    anonymous: Option<Account>,
}

impl Accounts {
    pub fn new(accounts: Vec<Account>, anonymous: Option<Account>) -> Self {
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

    /// Whether the name means the anonymous account, and there is one. A user of that name comes first.
    pub fn is_anonymous(&self, name: &[u8]) -> bool {
        self.anonymous.is_some()
            && self.named(name).is_none()
            && ANONYMOUS
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
    }

    /// The account that these credentials open. For an unknown name the work of a known one is done.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<&Account> {
        if self.is_anonymous(name) {
            return self.anonymous();
        }
        match self.named(name) {
            Some(account) => account.password.is(password).then_some(account),
            None => {
                password::do_the_work(password);
                None
            }
        }
    }

    fn named(&self, name: &[u8]) -> Option<&Account> {
        self.accounts
            .iter()
            .find(|account| account.name.as_bytes() == name)
    }
}
