//! Who may come in: how many sessions there may be, and why a connection is not served.
use std::fmt;
use std::time::Duration;

/// How many sessions may be served at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub sessions: usize,
    pub sessions_per_address: usize,
    /// Sessions without a login, and connections besides whose clients have said nothing.
    pub before_login: usize,
    /// From the connection to the login, in all.
    pub login: Duration,
}

/// Why a connection is not served, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many sessions as `sessions` allows.
    Full(usize),
    /// As many sessions from this address as `sessions_per_ip` allows.
    Address(usize),
    /// Too many failed logins; for so long yet.
    Banned(Duration),
    /// The server does not answer this network, by this setting.
    Network(&'static str),
    /// It was silent while others came.
    GaveWay(usize),
    /// It was silent for too long.
    Silent,
    /// No descriptors or threads left.
    Resources,
    ShutDown,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(limit) => write!(
                f,
                "Too many sessions: the limit is {limit}; try again later."
            ),
            Self::Address(limit) => write!(
                f,
                "Too many sessions from your address: the limit is {limit}."
            ),
            Self::Banned(left) => write!(
                f,
                "Too many failed logins from your address; try again in {} s.",
                left.as_secs().max(1)
            ),
            Self::Network(_) => f.write_str("Your network is not served."),
            Self::GaveWay(limit) => write!(
                f,
                "Too many connections without a login: the limit is {limit}; try again."
            ),
            Self::Silent => f.write_str("Login timeout: closing control connection."),
            Self::Resources => f.write_str("The server is out of resources; try again later."),
            Self::ShutDown => f.write_str("The server is shutting down; goodbye."),
        }
    }
}

impl Refused {
    /// The setting that would change the refusal.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Full(_) => "sessions",
            Self::Address(_) => "sessions_per_ip",
            Self::Banned(_) => "ban_after, ban_for; or thriftpd ban remove, which takes a ban_file",
            Self::Network(setting) => setting,
            Self::GaveWay(_) => "sessions_before_login",
            Self::Silent => "timeouts.login",
            Self::Resources => "the limit on open files (ulimit -n)",
            Self::ShutDown => "none",
        }
    }
}
