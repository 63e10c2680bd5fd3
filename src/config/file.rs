//! The configuration file as it is written: every key there is, none with a meaning yet.
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_spanned::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(default)]
    pub listen: Vec<Spanned<String>>,
    pub sessions: Option<Spanned<i64>>,
    pub sessions_per_ip: Option<Spanned<i64>>,
    pub sessions_per_user: Option<Spanned<i64>>,
    pub passive_ports: Option<Spanned<String>>,
    pub external_address: Option<Spanned<OneOrByNetwork>>,
    pub active_from_port_20: Option<bool>,
    pub run_as: Option<String>,
    pub sandbox: Option<Spanned<String>>,
    pub banner: Option<Spanned<String>>,
    pub login_attempts: Option<Spanned<i64>>,
    pub xferlog: Option<String>,
    pub log: Option<Spanned<String>>,
    pub umask: Option<Spanned<String>>,
    pub file_mode: Option<Spanned<String>>,
    pub directory_mode: Option<Spanned<String>>,
    pub group: Option<Spanned<String>>,
    pub durable: Option<bool>,
    pub uploads: Option<Spanned<String>>,
    pub keep_partial: Option<Spanned<Seconds>>,
    pub checksums: Option<bool>,
    pub min_free: Option<Spanned<String>>,
    pub lock: Option<Spanned<Seconds>>,
    pub versions: Option<Spanned<i64>>,
    pub show_versions: Option<bool>,
    pub keep_days: Option<Spanned<i64>>,
    pub keep_free: Option<Spanned<String>>,
    pub keep_last: Option<Spanned<i64>>,
    pub on_upload: Option<Spanned<Vec<String>>>,
    pub on_upload_timeout: Option<Spanned<Seconds>>,
    pub on_upload_at_once: Option<Spanned<i64>>,
    pub allow: Option<Spanned<OneOrMany>>,
    pub deny: Option<Spanned<OneOrMany>>,
    pub sessions_before_login: Option<Spanned<i64>>,
    pub commands_before_login: Option<Spanned<i64>>,
    pub ban_after: Option<Spanned<i64>>,
    pub ban_for: Option<Spanned<Seconds>>,
    #[serde(default)]
    pub ban_loopback: bool,
    pub ban_file: Option<String>,
    pub min_rate: Option<Spanned<String>>,
    pub rate_up: Option<Spanned<String>>,
    pub rate_down: Option<Spanned<String>>,
    pub session_rate_up: Option<Spanned<String>>,
    pub session_rate_down: Option<Spanned<String>>,
    pub names_per_command: Option<Spanned<i64>>,
    pub heavy_at_once: Option<Spanned<i64>>,
    #[serde(default)]
    pub timeouts: Timeouts,
    #[serde(default)]
    pub tls: Tls,
    #[serde(default)]
    pub user: Vec<Spanned<User>>,
    pub anonymous: Option<Spanned<User>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    pub idle: Option<Spanned<Seconds>>,
    pub login: Option<Spanned<Seconds>>,
    pub data_connect: Option<Spanned<Seconds>>,
    pub stalled: Option<Spanned<Seconds>>,
    pub slow: Option<Spanned<Seconds>>,
    pub shutdown_grace: Option<Spanned<Seconds>>,
}

/// Encryption.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub mode: Option<Spanned<String>>,
    pub cert: Option<Spanned<String>>,
    pub key: Option<Spanned<String>>,
    /// More certificates, for clients that ask for their names.
    #[serde(default)]
    pub certificate: Vec<Certificate>,
    #[serde(default)]
    pub implicit: Vec<Spanned<String>>,
    pub client_ca: Option<Spanned<String>>,
    pub data_session_reuse: Option<Spanned<String>>,
    pub kernel: Option<bool>,
    #[serde(default)]
    pub allow_ccc: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub cert: Spanned<String>,
    pub key: Option<Spanned<String>>,
}

/// A time: a number of seconds, or text such as `"15m"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a time such as \"90s\", \"15m\" or \"2h\", or a number of seconds"
)]
pub enum Seconds {
    Number(i64),
    Text(String),
}

/// One address, or one for each network, with `default` for all others.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "an address, or a table of networks with an address for each"
)]
pub enum OneOrByNetwork {
    One(String),
    ByNetwork(BTreeMap<String, String>),
}

/// One word or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let words = match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        };
        words.iter().map(String::as_str)
    }
}

/// A user, or the anonymous account, which has neither name nor password.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: Option<Spanned<String>>,
    pub password: Option<Spanned<String>>,
    pub root: Option<Spanned<String>>,
    pub access: Option<Spanned<String>>,
    pub permissions: Option<Spanned<Vec<Spanned<String>>>>,
    pub sessions: Option<Spanned<i64>>,
    #[serde(default)]
    pub fxp: bool,
    #[serde(default)]
    pub strict_allo: bool,
    #[serde(default)]
    pub accept_hangup: bool,
    #[serde(default)]
    pub accept_missing_close_notify: bool,
    pub data_from: Option<Spanned<OneOrMany>>,
    pub require_tls: Option<bool>,
    pub certificate: Option<Spanned<String>>,
    pub system_user: Option<Spanned<String>>,
    pub umask: Option<Spanned<String>>,
    pub file_mode: Option<Spanned<String>>,
    pub directory_mode: Option<Spanned<String>>,
    pub group: Option<Spanned<String>>,
    pub durable: Option<bool>,
    pub uploads: Option<Spanned<String>>,
    pub checksums: Option<bool>,
    pub quota: Option<Spanned<String>>,
    pub quota_files: Option<Spanned<i64>>,
    #[serde(default)]
    pub require_mount: bool,
    pub lock: Option<Spanned<Seconds>>,
    pub versions: Option<Spanned<i64>>,
    pub show_versions: Option<bool>,
    pub keep_days: Option<Spanned<i64>>,
    pub keep_free: Option<Spanned<String>>,
    pub keep_last: Option<Spanned<i64>>,
    pub expect_every: Option<Spanned<Seconds>>,
    pub on_upload: Option<Spanned<Vec<String>>>,
    pub allow: Option<Spanned<OneOrMany>>,
    pub deny: Option<Spanned<OneOrMany>>,
    pub rate_up: Option<Spanned<String>>,
    pub rate_down: Option<Spanned<String>>,
    pub session_rate_up: Option<Spanned<String>>,
    pub session_rate_down: Option<Spanned<String>>,
    #[serde(default)]
    pub folder: Vec<Spanned<Folder>>,
}

/// A directory of the host shown to a user.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    pub path: Spanned<String>,
    pub root: Spanned<String>,
    pub access: Option<Spanned<String>>,
    pub permissions: Option<Spanned<Vec<Spanned<String>>>>,
    pub uploads: Option<Spanned<String>>,
    #[serde(default)]
    pub require_mount: bool,
    pub lock: Option<Spanned<Seconds>>,
    pub versions: Option<Spanned<i64>>,
    pub show_versions: Option<bool>,
    pub keep_days: Option<Spanned<i64>>,
    pub keep_free: Option<Spanned<String>>,
    pub keep_last: Option<Spanned<i64>>,
}
