//! What is done once a day while the server runs: taking away what unfinished uploads have left, and old files.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::prune::prune_all;
use super::quota;
use crate::accounts::SystemUser;
use crate::config::Config;
use crate::ftp::Ftp;
use crate::observe::printable;
use crate::server::identity::act_as;
use crate::storage::{
    Error, Partials, close_counts, is_mounted, recover_counts, remove_old_partials,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A thread of its own, which sleeps the day over and ends with the process. Without it everything else works.
/// `identities`: what is a user's is touched as that user of the system.
pub fn start(ftp: Arc<Ftp>, identities: bool) {
    let keeper = std::thread::Builder::new()
        .name("keeper".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            loop {
                let config = ftp.config();
                sweep(&config, identities);
                prune_all(&config, identities);
                // For a day nobody needs it.
                drop(config);
                std::thread::sleep(DAY);
            }
        });
    if let Err(error) = keeper {
        log::warn!("nothing is taken away once a day: {error}");
    }
}

/// Counts anew for quotas what a crash has left uncounted.
pub fn recover(config: &Config, identities: bool) {
    for area in quota::areas(config) {
        as_owner(config, &area, identities, || {
            recover_counts(std::slice::from_ref(&area));
        });
    }
}

/// At the end of the server: what it has counted is all there is.
pub fn close(config: &Config, identities: bool) {
    for area in quota::areas(config) {
        as_owner(config, &area, identities, || {
            close_counts(std::slice::from_ref(&area));
        });
    }
}

/// Does the work as the system user of the first account that has the directory.
pub fn as_owner(config: &Config, directory: &Path, identities: bool, work: impl FnOnce()) {
    let _acting = if identities {
        let mut accounts = config.accounts.iter().chain(config.accounts.anonymous());
        let owner = accounts.find(|account| {
            let view = &account.view;
            let has = |root: &Path| {
                root == directory || root.canonicalize().is_ok_and(|real| real == directory)
            };
            has(&view.root) || view.folders.iter().any(|folder| has(&folder.root))
        });
        let Some(owner) = owner else { return };
        let is_anonymous = config
            .accounts
            .anonymous()
            .is_some_and(|anonymous| std::ptr::eq(anonymous, owner));
        let acting = SystemUser::of(owner, is_anonymous).and_then(|user| {
            act_as(user.uid, user.gid, &user.groups).map_err(|errno| errno.to_string())
        });
        match acting {
            Ok(acting) => Some(acting),
            Err(why) => {
                log::warn!(
                    "{}: not looked after: {why}",
                    printable(directory.as_os_str().as_encoded_bytes())
                );
                return;
            }
        }
    } else {
        None
    };
    work();
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
