//! What may be configured, read from TOML into types that can't hold nonsense; every default in one place.
use crate::accounts::Accounts;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug)]
pub struct Config {
    /// Empty: `[::]` dual-stack (or 0.0.0.0 without IPv6) on the default port.
    pub listen: Vec<SocketAddr>,
    pub sessions: usize, pub sessions_per_ip: usize,
    /// None: as many as `sessions`.
    pub sessions_per_user: Option<usize>,
    pub passive_ports: PortRange,
    pub external_address: Option<Ipv4Addr>,
    pub run_as: Option<String>,
    pub banner: String,
    pub timeouts: Timeouts,
    pub login_attempts: u32,
    pub xferlog: Option<PathBuf>,
    pub log: log::LevelFilter,
    /// None: where the process could bind port 20.
    pub active_from_port_20: Option<bool>,
    pub accounts: Accounts,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange { pub low: u16, pub high: u16 }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts { pub idle: Duration, pub login: Duration, pub data_connect: Duration, pub stalled: Duration, pub shutdown_grace: Duration }
