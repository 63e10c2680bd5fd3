//! What all sessions share.
use std::sync::Arc;

use super::heavy::Heavy;
use super::rates::Buckets;
use crate::config::Config;
use crate::observe::transfer_log::TransferLog;
use crate::server::bans::{self, Bans};
use crate::server::hooks::orders::Hooks;
use crate::server::lookup::Lookup;
use crate::server::sessions::Sessions;
use crate::tls::Kept;

/// One for the whole front end.
#[derive(Debug)]
pub struct Shared {
    pub sessions: Sessions,
    pub heavy: Heavy,
    pub bans: Bans,
    /// What flows from clients, and to them.
    pub up: Buckets,
    pub down: Buckets,
    pub transfer_log: Option<TransferLog>,
    /// Those that are run behind uploads.
    pub programs: Arc<Hooks>,
    /// The host names of `external_address`.
    pub lookup: Arc<Lookup>,
    /// Active data connections can come from port 20.
    pub may_bind_low_ports: bool,
    /// Sessions at once that the limit on open files allows, whatever is configured.
    pub most_sessions: usize,
    /// The self-made certificate, where it lacks an address by which clients may come.
    pub certificate: Option<Arc<Kept>>,
    /// Sessions act as the users of the system that they belong to.
    pub identities: bool,
}

/// When somebody is banned, as configured.
pub fn ban_rules(config: &Config) -> bans::Rules {
    bans::Rules {
        after: config.abuse.ban_after,
        time: config.abuse.ban_for,
        loopback: config.abuse.ban_loopback,
    }
}
