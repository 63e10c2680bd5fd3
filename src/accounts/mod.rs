//! Users, what they may do, and passwords.
use crate::storage::ViewSpec;

/// One user as configured.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub password: Password,
    pub view: ViewSpec,
    /// Sessions at once; None: the server's `sessions_per_user`.
    pub sessions: Option<usize>,
    pub fxp: bool, pub strict_allo: bool, pub accept_hangup: bool,
}
/// How the account is entered. Never printed in the clear by Debug.
#[derive(Clone)]
pub struct Password;
impl std::fmt::Debug for Password { fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHash;
impl Password {
    /// Any password is right (the anonymous account).
    pub fn any() -> Self { todo!() }
    /// A stored argon2id hash in PHC form.
    pub fn from_hash(_phc: &str) -> Result<Self, BadHash> { todo!() }
    /// Hashes a clear password with a fresh salt.
    pub fn from_clear(_clear: &str) -> Self { todo!() }
    /// The PHC string to store.
    pub fn to_phc(&self) -> &str { todo!() }
}
/// The accounts of one configuration.
#[derive(Debug, Default)]
pub struct Accounts;
impl Accounts {
    pub fn new(_accounts: Vec<Account>, _anonymous: Option<Account>) -> Self { todo!() }
    pub fn iter(&self) -> impl Iterator<Item = &Account> { std::iter::empty() }
    pub fn anonymous(&self) -> Option<&Account> { todo!() }
    /// The account these credentials open; the same work is done for unknown names.
    /// `anonymous` and `ftp` name the anonymous account where there is one.
    pub fn authenticate(&self, _name: &[u8], _password: &[u8]) -> Option<&Account> { todo!() }
    /// Whether the name is one of the anonymous account's names and that account exists.
    pub fn is_anonymous(&self, _name: &[u8]) -> bool { todo!() }
}
/// A random password of letters and digits that are not easily confused (about 100 bits).
pub fn random_password() -> String { todo!() }
