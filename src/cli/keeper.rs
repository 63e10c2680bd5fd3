//! What is done once a day while the server runs: taking away what unfinished uploads have left, and old files.
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::prune::prune_all;
use crate::config::Config;
use crate::ftp::Ftp;
use crate::observe::printable;
use crate::storage::{is_mounted, remove_old_partials};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A thread of its own, which sleeps the day over and ends with the process. Without it everything else works.
pub fn start(ftp: Arc<Ftp>) {
    let keeper = std::thread::Builder::new()
        .name("keeper".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            loop {
                let config = ftp.config();
                sweep(&config);
                prune_all(&config);
                // For a day nobody needs it.
                drop(config);
                std::thread::sleep(DAY);
            }
        });
    if let Err(error) = keeper {
        log::warn!("nothing is taken away once a day: {error}");
    }
}

/// The directories of the host that users may upload to, without those whose disk must be mounted and is not.
pub fn directories(config: &Config) -> BTreeSet<PathBuf> {
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    accounts
        .flat_map(|account| account.view.directories())
        .filter(|(directory, rules)| !rules.require_mount || is_mounted(directory))
        .map(|(directory, _)| directory.clone())
        .collect()
}

fn sweep(config: &Config) {
    let mut accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let metered = accounts
        .next()
        .map(|account| account.view.metered.clone())
        .unwrap_or_default();
    for directory in directories(config) {
        let shown = printable(directory.as_os_str().as_encoded_bytes()).to_string();
        match remove_old_partials(&directory, config.keep_partial, &metered) {
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
}
