//! The directories of the host that users have, and as whom the server works in them.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::accounts::SystemUser;
use crate::config::Config;
use crate::observe::printable;
use crate::server::identity::act_as;
use crate::storage::is_mounted;

/// The directories of the host that users may upload to, without those whose disk must be mounted and is not.
pub fn directories(config: &Config) -> BTreeSet<PathBuf> {
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    accounts
        .flat_map(|account| account.view.directories())
        .filter(|(directory, rules)| !rules.require_mount || is_mounted(directory))
        .map(|(directory, _)| directory.clone())
        .collect()
}

/// All directories in which something is counted for quotas.
pub fn counted(config: &Config) -> BTreeSet<PathBuf> {
    let mut accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let counted = accounts
        .next()
        .map(|account| account.view.metered.counted.iter().cloned());
    counted.into_iter().flatten().collect()
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
