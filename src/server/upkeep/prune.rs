//! What the settings of all users come to when old files are taken away, and how that is told: by the running server once a day,
//! and by `thriftpd prune`.
//!
//! Nothing is taken away while the clock is not believed, and nothing by its age from who is overdue: when backups fail to come,
//! the last ones are worth most. Where several users' roots and folders are one directory, the rules that keep most win: the most days and the least room,
//! of those who may upload there; one of them without such a rule keeps everything. A lock holds whoever has it. A root or
//! folder that lies in another is none of the outer one's business.
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::accounts::Account;
use crate::config::Config;
use crate::observe::printable;
use crate::os::clock::Moment;
use crate::server::upkeep::areas::as_owner;
use crate::storage::{Clock, Fate, Permission, Pruned, Pruning, Rules, believed, prune, uploaded};

/// Failures that are told one by one.
const MOST_FAILURES: usize = 20;

/// Takes away what is to go, for the running server, and tells that in the log. False where the clock was not believed.
pub fn prune_all(config: &Config, clock: &Clock, identities: bool) -> bool {
    let mut is_believed = true;
    for plan in plans(config, clock.now.time, identities) {
        if let Some(note) = &plan.note {
            log::warn!("{note}");
        }
        as_owner(config, &plan.pruning.top, identities, || {
            let done = carry_out(&plan.pruning, clock, &mut |said| match said {
                Said::Gone(line) => log::debug!("{line}"),
                Said::Trouble(line) => log::warn!("{line}"),
                Said::Doubt(line) => {
                    is_believed = false;
                    log::warn!("{line} ({CLOCK_ADVICE})");
                }
            });
            if let Some(done) = done.filter(|done| done.files > 0) {
                log::info!("{}", summary(&plan.pruning, &done));
            }
        });
    }
    is_believed
}

/// What the owner of a clock that is not believed does.
pub const CLOCK_ADVICE: &str =
    "set the clock; if it is right, say `thriftpd prune --believe-clock --config FILE` once";

/// The directories in which the clock that was believed last is remembered.
pub fn tops(config: &Config) -> Vec<(PathBuf, bool)> {
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let directories = accounts.flat_map(|account| account.view.directories());
    let pruned = directories.filter(|(_, rules)| rules.expiry.takes_anything());
    pruned
        .map(|(directory, rules)| (directory.clone(), rules.require_mount))
        .collect()
}

/// The last moment that was believed in any of them.
pub fn last_believed(config: &Config) -> Option<Moment> {
    let tops = tops(config);
    believed(tops.iter().map(|(top, _)| top.as_path()))
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
    /// The clock is not believed.
    Doubt(String),
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes()).to_string()
}

/// All directories that somebody has a rule for; `now` is in seconds since 1970.
pub fn plans(config: &Config, now: i64, identities: bool) -> Vec<Plan> {
    let mut found: BTreeMap<PathBuf, Vec<Share<'_>>> = BTreeMap::new();
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let accounts: Vec<&Account> = accounts.collect();
    for account in &accounts {
        let is_overdue = is_overdue(config, account, now, identities);
        for (directory, rules) in account.view.directories() {
            let real = directory.canonicalize();
            let real = real.unwrap_or_else(|_| directory.clone());
            found.entry(real).or_default().push(Share {
                user: &account.name,
                rules,
                is_overdue,
            });
        }
    }
    let metered = accounts.first().map(|account| &account.view.metered);
    let within = |top: &PathBuf| {
        let others = found.keys().cloned();
        let within = others.filter(|other| other != top && other.starts_with(top));
        within.collect()
    };
    let plan = |(top, shares): (&PathBuf, &Vec<Share<'_>>)| {
        let mut plan = plan(top, shares)?;
        plan.pruning.apart = within(top);
        plan.pruning.metered = metered.cloned().unwrap_or_default();
        Some(plan)
    };
    found.iter().filter_map(plan).collect()
}

/// What one user has to do with a directory.
#[derive(Clone, Copy)]
struct Share<'a> {
    user: &'a str,
    rules: &'a Rules,
    is_overdue: bool,
}

/// Whether uploads of the account fail to come (setting: `expect_every`), by what is remembered in its directories; what cannot be
/// read has not come.
fn is_overdue(config: &Config, account: &Account, now: i64, identities: bool) -> bool {
    let expires = |rules: &Rules| rules.expiry.days.is_some();
    let mut directories = account.view.directories();
    if account.expect_every.is_none() || !directories.any(|(_, rules)| expires(rules)) {
        return false;
    }
    let mut last = None;
    for (directory, rules) in account.view.directories() {
        as_owner(config, directory, identities, || {
            let uploaded = uploaded(directory, rules.require_mount, &account.name);
            let time = uploaded.ok().and_then(|uploaded| uploaded.last);
            last = last.max(time.map(|last| last.time));
        });
    }
    account.is_overdue(last, now)
}

/// What the rules of all users of one directory come to; None where none of them takes anything away.
fn plan(top: &Path, all: &[Share<'_>]) -> Option<Plan> {
    if !all.iter().any(|share| share.rules.expiry.takes_anything()) {
        return None;
    }
    let may_upload = |share: &&Share<'_>| share.rules.permissions.contains(Permission::Upload);
    let mut voters: Vec<Share<'_>> = all.iter().filter(may_upload).copied().collect();
    if voters.is_empty() {
        voters = all.to_vec();
    }
    let expiry = || voters.iter().map(|share| share.rules.expiry);
    let days: Option<Vec<u32>> = expiry().map(|expiry| expiry.days).collect();
    let free: Option<Vec<_>> = expiry().map(|expiry| expiry.free).collect();
    let spared = all.iter().map(|share| share.rules.expiry.spared).max();
    let overdue: Vec<Share<'_>> = voters
        .iter()
        .filter(|share| share.is_overdue)
        .copied()
        .collect();
    let pruning = Pruning {
        top: top.to_owned(),
        days: days
            .and_then(|days| days.into_iter().max())
            .filter(|_| overdue.is_empty()),
        free: free.unwrap_or_default(),
        spared: spared
            .and_then(|spared| usize::try_from(spared).ok())
            .unwrap_or(0),
        lock: all.iter().filter_map(|share| share.rules.lock).max(),
        require_mount: all.iter().any(|share| share.rules.require_mount),
        ..Pruning::default()
    };
    let said = |says: &dyn Fn(&Rules) -> bool| all.iter().any(|share| says(share.rules));
    let names = |shares: &[Share<'_>]| {
        let names: Vec<&str> = shares.iter().map(|share| share.user).collect();
        names.join(", ")
    };
    let mut notes = Vec::new();
    let mut ignored = Vec::new();
    if !overdue.is_empty() {
        notes.push(format!(
            "keep_days is not obeyed while uploads are overdue ({}; setting: expect_every)",
            names(&overdue)
        ));
    } else if pruning.days.is_none() && said(&|rules| rules.expiry.days.is_some()) {
        ignored.push("keep_days");
    }
    if pruning.free.is_empty() && said(&|rules| rules.expiry.free.is_some()) {
        ignored.push("keep_free");
    }
    if !ignored.is_empty() {
        notes.push(format!(
            "{} is not obeyed, for not all who may upload there have it ({})",
            ignored.join(", "),
            names(&voters)
        ));
    }
    let note = (!notes.is_empty()).then(|| format!("{}: {}", shown(top), notes.join("; ")));
    Some(Plan { pruning, note })
}

pub fn carry_out(pruning: &Pruning, clock: &Clock, say: &mut dyn FnMut(Said)) -> Option<Pruned> {
    let mut failures = 0;
    let verb = if pruning.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let done = prune(pruning, clock, &mut |fate| match fate {
        Fate::Gone(path, size) => say(Said::Gone(format!("{verb} {} ({size} bytes)", shown(path)))),
        Fate::Failed(path, why) => {
            failures += 1;
            if failures <= MOST_FAILURES {
                say(Said::Trouble(format!("{}: {why}", shown(path))));
            }
        }
    });
    let top = shown(&pruning.top);
    let nothing = |why: &dyn Display| format!("{top}: nothing is taken away: {why}");
    let done = match done {
        Ok(Ok(done)) => done,
        Ok(Err(doubt)) => {
            say(Said::Doubt(nothing(&doubt)));
            return None;
        }
        Err(error) => {
            say(Said::Trouble(nothing(&error)));
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
    use crate::storage::{Expiry, Permissions, Room};

    fn rules(permissions: Permissions, days: Option<u32>, percent: Option<u8>) -> Rules {
        let free = percent.map(|percent| Room {
            bytes: None,
            percent: Some(percent),
        });
        Rules {
            expiry: Expiry {
                days,
                free,
                spared: 0,
            },
            ..Rules::plain(permissions)
        }
    }

    fn plan_of(all: &[(&str, &Rules)]) -> Option<Plan> {
        let shares = all.iter().map(|&(user, rules)| Share {
            user,
            rules,
            is_overdue: user.starts_with("overdue"),
        });
        let shares: Vec<Share<'_>> = shares.collect();
        plan(Path::new("/srv"), &shares)
    }

    #[test]
    fn the_rules_that_keep_most_win_where_several_share_a_directory() {
        let (all, read) = (Permissions::ALL, Permissions::READ_ONLY);
        let week = rules(all, Some(7), Some(10));
        let mut month = Rules {
            lock: Some(Duration::from_secs(60)),
            ..rules(all, Some(30), Some(5))
        };
        month.expiry.spared = 3;
        let silent = rules(all, None, None);
        let mut reader = Rules {
            lock: Some(Duration::from_secs(600)),
            require_mount: true,
            ..rules(read, None, None)
        };
        reader.expiry.spared = 2;
        // To spare some is no reason to take others away.
        assert!(plan_of(&[("silent", &silent), ("reader", &reader)]).is_none());
        let plan = plan_of(&[("a", &week), ("b", &month), ("reader", &reader)]).unwrap();
        assert_eq!((plan.pruning.days, plan.note), (Some(30), None));
        assert_eq!((plan.pruning.free.len(), plan.pruning.spared), (2, 3));
        assert_eq!(plan.pruning.lock, Some(Duration::from_secs(600)));
        assert!(plan.pruning.require_mount);
        let plan = plan_of(&[("a", &week), ("silent", &silent)]).unwrap();
        assert_eq!((plan.pruning.days, plan.pruning.free.len()), (None, 0));
        let note = plan.note.unwrap();
        assert!(note.contains("keep_days, keep_free is not obeyed") && note.contains("a, silent"));
        let of_reader = rules(read, Some(3), None);
        let plan = plan_of(&[("reader", &of_reader)]).unwrap();
        assert_eq!(plan.pruning.days, Some(3));
    }

    #[test]
    fn nothing_goes_by_its_age_while_one_who_may_upload_is_overdue() {
        let week = rules(Permissions::ALL, Some(7), Some(10));
        let plan = plan_of(&[("a", &week), ("overdue", &week)]).unwrap();
        assert_eq!((plan.pruning.days, plan.pruning.free.len()), (None, 2));
        let note = "/srv: keep_days is not obeyed while uploads are overdue (overdue; setting: expect_every)";
        assert_eq!(plan.note.as_deref(), Some(note));
        // Who only reads has nothing to upload.
        let read = rules(Permissions::READ_ONLY, Some(7), Some(10));
        let plan = plan_of(&[("a", &week), ("overdue reader", &read)]).unwrap();
        assert_eq!((plan.pruning.days, plan.note), (Some(7), None));
    }
}
