//! What is done with the directories of users beside their sessions: once a day the server takes away what unfinished uploads
//! have left, and old files (`prune`); counts for quotas are made up for at the start and closed at the end.
pub mod areas;
pub mod prune;

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::observe::printable;
use crate::storage::{Error, Partials, close_counts, recover_counts, remove_old_partials};
use areas::{as_owner, counted, directories};
use prune::prune_all;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Starts a thread that sleeps the day over and ends with the process; without it everything else works. `config` yields the
/// settings of the moment. `identities`: what is a user's is touched as that user of the system.
pub fn start(config: impl Fn() -> Arc<Config> + Send + 'static, identities: bool) {
    let started = std::thread::Builder::new()
        .name("upkeep".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            loop {
                let settings = config();
                sweep(&settings, identities);
                prune_all(&settings, identities);
                // For a day nobody needs them.
                drop(settings);
                std::thread::sleep(DAY);
            }
        });
    if let Err(error) = started {
        log::warn!("nothing is taken away once a day: {error}");
    }
}

/// Counts anew for quotas what a crash has left uncounted.
pub fn recover(config: &Config, identities: bool) {
    for area in counted(config) {
        as_owner(config, &area, identities, || {
            recover_counts(std::slice::from_ref(&area));
        });
    }
}

/// At the end of the server: what it has counted is all there is.
pub fn close(config: &Config, identities: bool) {
    for area in counted(config) {
        as_owner(config, &area, identities, || {
            close_counts(std::slice::from_ref(&area));
        });
    }
}

fn sweep(config: &Config, identities: bool) {
    let mut accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let metered = accounts
        .next()
        .map(|account| account.view.metered.clone())
        .unwrap_or_default();
    for directory in directories(config) {
        let shown = printable(directory.as_os_str().as_encoded_bytes()).to_string();
        as_owner(config, &directory, identities, || {
            report(
                &shown,
                remove_old_partials(&directory, config.keep_partial, &metered),
            );
        });
    }
}

fn report(shown: &str, removed: Result<Partials, Error>) {
    match removed {
        Ok(removed) if removed.files > 0 => log::info!(
            "{shown}: removed {} unfinished uploads of {} bytes (setting: keep_partial)",
            removed.files,
            removed.bytes
        ),
        Ok(_) => {}
        // A disk that is not there today may be tomorrow.
        Err(error) => log::warn!("{shown}: cannot look for unfinished uploads: {error}"),
    }
}
