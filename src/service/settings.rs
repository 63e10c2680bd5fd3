//! The settings that new sessions take, reading them again, and who is answered by them. Running sessions keep what they took.
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::shared::{Shared, ban_rules};
use crate::config::{Config, TlsMode};
use crate::server::admission::Refused;
use crate::server::{Limits, Policy};
use crate::tls::Tls;

/// What the client of a user that was removed hears.
pub const REMOVED: &str = "Your account was removed; closing.";

/// Reads the configuration again; the error is what is wrong with it.
pub type Reload = dyn Fn() -> Result<Config, String> + Send + Sync;

/// What a session takes when it begins.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Arc<Config>,
    /// None: nothing is encrypted.
    pub tls: Option<Arc<Tls>>,
}

/// One for the whole server: all front ends serve by it.
pub struct Service {
    settings: Mutex<Settings>,
    pub shared: Arc<Shared>,
    reload: Box<Reload>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

impl Service {
    pub fn new(config: Config, tls: Option<Tls>, shared: Shared, reload: Box<Reload>) -> Self {
        Self {
            settings: Mutex::new(Settings {
                config: Arc::new(config),
                tls: tls.map(Arc::new),
            }),
            shared: Arc::new(shared),
            reload,
        }
    }

    /// The configuration that new sessions get.
    pub fn config(&self) -> Arc<Config> {
        self.settings().config
    }

    pub fn settings(&self) -> Settings {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.clone()
    }

    /// Whoever is a user no more has no session any more.
    fn log_out_removed(&self, config: &Config) {
        let ended = self
            .shared
            .sessions
            .end_of_users(|user| !config.accounts.has(user), REMOVED);
        if ended > 0 {
            log::info!("ended {ended} sessions of users that the configuration has no more");
        }
    }

    /// Certificates by a new configuration; where they are of no use, the old ones stay.
    fn certificates_of(&self, config: &Config) -> Option<Arc<Tls>> {
        if config.tls.mode == TlsMode::Off {
            return None;
        }
        let settings = config.tls.service.clone();
        let old = self.settings().tls;
        let opened = match &old {
            Some(old) => old.reopened(settings),
            None => Tls::open(settings),
        };
        match opened {
            Ok(tls) => {
                log::info!(
                    "certificate for new connections: SHA-256 {}",
                    tls.fingerprint()
                );
                Some(Arc::new(tls))
            }
            Err(error) => {
                log::error!("the certificates stay as they were: {error}");
                old
            }
        }
    }
}

impl Policy for Service {
    fn limits(&self) -> Limits {
        let config = self.config();
        let sessions = config.sessions.min(self.shared.most_sessions);
        Limits {
            sessions,
            sessions_per_address: config.sessions_per_ip,
            before_login: config.abuse.before_login(sessions),
            login: config.timeouts.login,
        }
    }

    fn screen(&self, peer: IpAddr, local: IpAddr) -> Result<(), Refused> {
        let config = self.config();
        if let Some(setting) = config.abuse.reach.refusal(peer, local) {
            return Err(Refused::Network(setting));
        }
        if let Some(left) = self.shared.bans.remaining(peer, ban_rules(&config)) {
            return Err(Refused::Banned(left));
        }
        if let Some(certificate) = &self.shared.certificate {
            certificate.is_reached_at(local);
        }
        Ok(())
    }

    fn reload(&self) {
        if let Some(log) = &self.shared.transfer_log {
            match log.reopen() {
                Ok(()) => log::info!("opened the transfer log {} again", log.path().display()),
                Err(error) => log::error!(
                    "cannot open the transfer log {} again: {error}",
                    log.path().display()
                ),
            }
        }
        match (self.reload)() {
            Ok(config) => {
                let tls = self.certificates_of(&config);
                let config = Arc::new(config);
                *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Settings {
                    config: Arc::clone(&config),
                    tls,
                };
                log::info!("the configuration was read again; it holds for new sessions");
                // Behind that: who logs in from now on is looked up there.
                self.log_out_removed(&config);
            }
            Err(error) => log::error!("the configuration stays as it was: {error}"),
        }
    }
}
