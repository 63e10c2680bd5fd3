//! What the settings of all users come to when old files are taken away, and how that is told: by the running server once a day,
//! and by `thriftpd prune`.
//!
//! Where several users' roots and folders are one directory, the rules that keep most win: the most days and the least room,
//! of those who may upload there; one of them without such a rule keeps everything. A lock holds whoever has it. A root or
//! folder that lies in another is none of the outer one's business.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::accounts::Account;
use crate::config::Config;
use crate::observe::printable;
use crate::server::upkeep::areas::as_owner;
use crate::storage::{Fate, Permission, Pruned, Pruning, Rules, prune};

/// Failures that are told one by one.
const MOST_FAILURES: usize = 20;

/// Takes away what is to go, for the running server, and tells that in the log.
pub fn prune_all(config: &Config, identities: bool) {
    for plan in plans(config) {
        if let Some(note) = &plan.note {
            log::warn!("{note}");
        }
        as_owner(config, &plan.pruning.top, identities, || {
            let done = carry_out(&plan.pruning, &mut |said| match said {
                Said::Gone(line) => log::debug!("{line}"),
                Said::Trouble(line) => log::warn!("{line}"),
            });
            if let Some(done) = done.filter(|done| done.files > 0) {
                log::info!("{}", summary(&plan.pruning, &done));
            }
        });
    }
}

/// What there is to do in one directory.
#[derive(Debug)]
pub struct Plan {
    pub pruning: Pruning,
    /// Why less is taken away than somebody may expect.
    pub note: Option<String>,
}

/// A line for a person.
pub enum Said {
    Gone(String),
    Trouble(String),
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes()).to_string()
}

/// All directories that somebody has a rule for.
pub fn plans(config: &Config) -> Vec<Plan> {
    let mut found: BTreeMap<PathBuf, Vec<(&str, &Rules)>> = BTreeMap::new();
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let accounts: Vec<&Account> = accounts.collect();
    for account in &accounts {
        for (directory, rules) in account.view.directories() {
            let real = directory.canonicalize();
            let real = real.unwrap_or_else(|_| directory.clone());
            found.entry(real).or_default().push((&account.name, rules));
        }
    }
    let metered = accounts.first().map(|account| &account.view.metered);
    let within = |top: &PathBuf| {
        let others = found.keys().cloned();
        let within = others.filter(|other| other != top && other.starts_with(top));
        within.collect()
    };
    let plan = |(top, rules): (&PathBuf, &Vec<(&str, &Rules)>)| {
        let mut plan = plan(top, rules)?;
        plan.pruning.apart = within(top);
        plan.pruning.metered = metered.cloned().unwrap_or_default();
        Some(plan)
    };
    found.iter().filter_map(plan).collect()
}

/// What the rules of all users of one directory come to; None where none of them takes anything away.
fn plan(top: &Path, all: &[(&str, &Rules)]) -> Option<Plan> {
    if all.iter().all(|(_, rules)| rules.keep.is_everything()) {
        return None;
    }
    let may_upload = |rules: &Rules| rules.permissions.contains(Permission::Upload);
    let uploaders = all.iter().filter(|(_, rules)| may_upload(rules));
    let mut voters: Vec<&(&str, &Rules)> = uploaders.collect();
    if voters.is_empty() {
        voters = all.iter().collect();
    }
    let days: Option<Vec<u32>> = voters.iter().map(|(_, rules)| rules.keep.days).collect();
    let free = voters.iter().map(|(_, rules)| rules.keep.free).collect();
    let pruning = Pruning {
        top: top.to_owned(),
        days: days.and_then(|days| days.into_iter().max()),
        free: Option::<Vec<_>>::unwrap_or_default(free),
        lock: all.iter().filter_map(|(_, rules)| rules.lock).max(),
        require_mount: all.iter().any(|(_, rules)| rules.require_mount),
        ..Pruning::default()
    };
    let said = |says: &dyn Fn(&Rules) -> bool| all.iter().any(|(_, rules)| says(rules));
    let mut ignored = Vec::new();
    if pruning.days.is_none() && said(&|rules| rules.keep.days.is_some()) {
        ignored.push("keep_days");
    }
    if pruning.free.is_empty() && said(&|rules| rules.keep.free.is_some()) {
        ignored.push("keep_free");
    }
    let note = (!ignored.is_empty()).then(|| {
        let users: Vec<&str> = voters.iter().map(|(user, _)| *user).collect();
        format!(
            "{}: {} is not obeyed, for not all who may upload there have it ({})",
            shown(top),
            ignored.join(", "),
            users.join(", ")
        )
    });
    Some(Plan { pruning, note })
}

pub fn carry_out(pruning: &Pruning, say: &mut dyn FnMut(Said)) -> Option<Pruned> {
    if pruning.days.is_none() && pruning.free.is_empty() {
        return None;
    }
    let mut failures = 0;
    let verb = if pruning.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let done = prune(pruning, &mut |fate| match fate {
        Fate::Gone(path, size) => say(Said::Gone(format!("{verb} {} ({size} bytes)", shown(path)))),
        Fate::Failed(path, why) => {
            failures += 1;
            if failures <= MOST_FAILURES {
                say(Said::Trouble(format!("{}: {why}", shown(path))));
            }
        }
    });
    let top = shown(&pruning.top);
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            say(Said::Trouble(format!(
                "{top}: nothing is taken away: {error}"
            )));
            return None;
        }
    };
    if failures > MOST_FAILURES {
        say(Said::Trouble(format!(
            "{top}: {failures} files or directories in all could not be removed or read"
        )));
    }
    if done.missing > 0 {
        let why = match done.locked {
            0 => String::new(),
            files => format!("; {files} files are too young to go (setting: lock)"),
        };
        say(Said::Trouble(format!(
            "{top}: {} bytes too few are free of what should be (setting: keep_free){why}",
            done.missing
        )));
    }
    Some(done)
}

pub fn summary(pruning: &Pruning, done: &Pruned) -> String {
    let Pruned {
        files,
        bytes,
        directories,
        ..
    } = done;
    let top = shown(&pruning.top);
    if pruning.dry_run {
        return format!("{top}: would remove {files} files of {bytes} bytes");
    }
    format!(
        "{top}: removed {files} files of {bytes} bytes and {directories} directories that were empty then (settings: keep_days, keep_free)"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::storage::{Keep, Permissions, Room};

    fn rules(permissions: Permissions, days: Option<u32>, percent: Option<u8>) -> Rules {
        let free = percent.map(|percent| Room {
            bytes: None,
            percent: Some(percent),
        });
        Rules {
            keep: Keep { days, free },
            ..Rules::plain(permissions)
        }
    }

    #[test]
    fn the_rules_that_keep_most_win_where_several_share_a_directory() {
        let (all, read) = (Permissions::ALL, Permissions::READ_ONLY);
        let week = rules(all, Some(7), Some(10));
        let month = Rules {
            lock: Some(Duration::from_secs(60)),
            ..rules(all, Some(30), Some(5))
        };
        let silent = rules(all, None, None);
        let reader = Rules {
            lock: Some(Duration::from_secs(600)),
            require_mount: true,
            ..rules(read, None, None)
        };
        let plan_of = |rules: &[(&str, &Rules)]| plan(Path::new("/srv"), rules);
        assert!(plan_of(&[("silent", &silent), ("reader", &reader)]).is_none());
        let plan = plan_of(&[("a", &week), ("b", &month), ("reader", &reader)]).unwrap();
        assert_eq!((plan.pruning.days, plan.note), (Some(30), None));
        assert_eq!(plan.pruning.free.len(), 2);
        assert_eq!(plan.pruning.lock, Some(Duration::from_secs(600)));
        assert!(plan.pruning.require_mount);
        let plan = plan_of(&[("a", &week), ("silent", &silent)]).unwrap();
        assert_eq!((plan.pruning.days, plan.pruning.free.len()), (None, 0));
        let note = plan.note.unwrap();
        assert!(note.contains("keep_days, keep_free is not obeyed") && note.contains("a, silent"));
        let of_reader = rules(read, Some(3), None);
        assert_eq!(
            plan_of(&[("reader", &of_reader)]).unwrap().pruning.days,
            Some(3)
        );
    }
}
