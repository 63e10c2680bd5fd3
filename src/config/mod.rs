//! What may be configured, read from TOML into types that can't hold nonsense.
//!
//! `file` is the configuration file as it is written (serde); `values` and `tls` know its parts; `checked` turns it into
//! what it means and says what is wrong, with line and key; `first_start` is what happens without a file. Every default
//! stands in this file.
mod abuse;
mod checked;
mod error;
mod file;
mod first_start;
mod rules;
mod tls;
mod values;

pub use abuse::Abuse;
pub use error::ConfigError;
pub use first_start::{FirstUser, directory, first_user};
pub use tls::{TlsMode, TlsSettings};
pub use values::{is_user_name, parse_listen, parse_ports, parse_time};

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::accounts::{Account, Accounts, Network, Program};
use crate::storage::{Metered, Modes, Permissions, Room, Rules, ViewSpec};
use crate::tls::Source;

/// All settings, checked.
#[derive(Debug)]
pub struct Config {
    /// Empty: everywhere, IPv6 and IPv4, on the default port.
    pub listen: Vec<SocketAddr>,
    pub sessions: usize,
    pub sessions_per_ip: usize,
    /// None: as many as `sessions`.
    pub sessions_per_user: Option<usize>,
    pub passive_ports: PortRange,
    /// What PASV answers to peers beyond the router.
    pub external_address: ExternalAddress,
    /// None: where the process could bind port 20.
    pub active_from_port_20: Option<bool>,
    pub run_as: Option<String>,
    /// The server confines itself.
    pub sandbox: bool,
    /// The greeting; one line.
    pub banner: String,
    pub timeouts: Timeouts,
    /// Wrong passwords before the connection is closed.
    pub login_attempts: u32,
    pub xferlog: Option<PathBuf>,
    pub log: log::LevelFilter,
    pub tls: TlsSettings,
    /// How long what unfinished uploads have left is kept.
    pub keep_partial: Duration,
    /// Programs run behind uploads at once.
    pub on_upload_at_once: usize,
    pub defaults: Defaults,
    pub abuse: Abuse,
    pub accounts: Accounts,
}

/// What holds for users that say nothing else.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub modes: Modes,
    pub rules: Rules,
    pub durable: bool,
    pub checksums: bool,
    pub min_free: Room,
    pub on_upload: Option<Program>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            modes: Modes::default(),
            rules: Rules::plain(Permissions::ALL),
            durable: true,
            checksums: false,
            min_free: MIN_FREE,
            on_upload: None,
        }
    }
}

impl Defaults {
    /// A user of the command line, who says nothing but where and what.
    fn apply_to(&self, account: &mut Account) {
        let view = &mut account.view;
        view.rules = Rules {
            permissions: view.rules.permissions,
            ..self.rules
        };
        view.modes = self.modes;
        view.durable = self.durable;
        view.checksums = self.checksums;
        view.min_free = self.min_free;
        account.on_upload.clone_from(&self.on_upload);
    }
}

/// Ports from `low` to `high`, both included; `low` is at most `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub low: u16,
    pub high: u16,
}

impl PortRange {
    pub fn count(self) -> usize {
        usize::from(self.high - self.low) + 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Silence on the control connection; stands still during a transfer.
    pub idle: Duration,
    /// From the connection to the login, in all.
    pub login: Duration,
    /// Until a data connection is made.
    pub data_connect: Duration,
    /// A transfer in which nothing moves.
    pub stalled: Duration,
    /// For running transfers at shutdown.
    pub shutdown_grace: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(15 * 60),
            login: Duration::from_secs(60),
            data_connect: Duration::from_secs(30),
            stalled: Duration::from_secs(5 * 60),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// What PASV tells of the server's address, behind routers and in containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalAddress {
    /// For clients of these networks.
    pub by_network: Vec<(Network, Host)>,
    /// For clients that are on no private network.
    pub default: Option<Host>,
}

/// A host by its address or its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(Ipv4Addr),
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl ExternalAddress {
    /// What a client is told; None: the address that it has reached. Of several networks that it is in the smallest counts.
    pub fn for_client(&self, client: IpAddr, is_private: bool) -> Option<&Host> {
        let mut within = self
            .by_network
            .iter()
            .filter(|(network, _)| network.contains(client));
        let smallest = within.by_ref().max_by_key(|(network, _)| network.prefix());
        let default = self.default.as_ref().filter(|_| !is_private);
        smallest.map(|(_, host)| host).or(default)
    }

    /// The names that are to be looked up, each once.
    pub fn names(&self) -> Vec<String> {
        let hosts = self.by_network.iter().map(|(_, host)| host);
        let names = hosts.chain(&self.default).filter_map(|host| match host {
            Host::Name(name) => Some(name.clone()),
            Host::Address(_) => None,
        });
        let names: BTreeSet<String> = names.collect();
        names.into_iter().collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            sessions: 100,
            sessions_per_ip: 32,
            sessions_per_user: None,
            passive_ports: PortRange {
                low: 50_000,
                high: 50_999,
            },
            external_address: ExternalAddress::default(),
            active_from_port_20: None,
            run_as: None,
            sandbox: true,
            banner: "thriftpd is ready.".into(),
            timeouts: Timeouts::default(),
            login_attempts: 3,
            xferlog: None,
            log: log::LevelFilter::Info,
            tls: TlsSettings::default(),
            keep_partial: Duration::from_secs(7 * 24 * 3600),
            on_upload_at_once: 2,
            defaults: Defaults::default(),
            abuse: Abuse::default(),
            accounts: Accounts::default(),
        }
    }
}

/// What the command line of `serve` says; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub listen: Vec<SocketAddr>,
    pub passive_ports: Option<PortRange>,
    pub sessions: Option<usize>,
    pub sessions_per_ip: Option<usize>,
    /// Users of the command line; those of the same name in the file give way.
    pub users: Vec<Account>,
    pub anonymous: Option<Account>,
    /// In the place of those of the file.
    pub certificate: Option<Source>,
}

impl Config {
    /// # Errors
    /// What is wrong with the file, and where.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::unreadable(path, &error))?;
        Self::parse(path, &text)
    }

    /// The text of a file at `path`, beside which relative roots are looked for.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        checked::check(path, text)
    }

    /// The file, or the defaults without one, with what the flags say instead.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        let mut config = file.map_or_else(|| Ok(Self::default()), Self::load)?;
        if !flags.listen.is_empty() {
            config.listen.clone_from(&flags.listen);
        }
        if let Some(certificate) = &flags.certificate {
            config.tls.service.certificates = vec![certificate.clone()];
        }
        config.passive_ports = flags.passive_ports.unwrap_or(config.passive_ports);
        config.sessions = flags.sessions.unwrap_or(config.sessions);
        config.sessions_per_ip = flags.sessions_per_ip.unwrap_or(config.sessions_per_ip);
        let mut users: Vec<Account> = config.accounts.iter().cloned().collect();
        users.retain(|user| flags.users.iter().all(|flag| flag.name != user.name));
        let from_flags = |account: &Account| {
            let mut account = account.clone();
            config.defaults.apply_to(&mut account);
            account
        };
        users.extend(flags.users.iter().map(from_flags));
        let anonymous = flags.anonymous.as_ref().map(from_flags);
        let anonymous = anonymous.or_else(|| config.accounts.anonymous().cloned());
        config.accounts = Accounts::new(users, anonymous);
        Ok(config)
    }
}

/// What uploads leave free of a disk: enough for the system to live on, little enough not to be missed.
const MIN_FREE: Room = Room {
    bytes: Some(200_000_000),
    percent: Some(1),
};

/// A user with everything in one root, as the command line makes them.
pub fn plain_view(root: PathBuf, permissions: Permissions) -> ViewSpec {
    let Defaults {
        modes,
        rules,
        durable,
        checksums,
        min_free,
        ..
    } = Defaults::default();
    ViewSpec {
        root,
        rules: Rules {
            permissions,
            ..rules
        },
        folders: Vec::new(),
        modes,
        durable,
        checksums,
        min_free,
        metered: Metered::default(),
    }
}
