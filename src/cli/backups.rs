//! `thriftpd backups`: who has uploaded what of late, and whose backups fail to come (setting: `expect_every`): to be run by
//! cron, which mails what is said on standard error.
use std::collections::BTreeMap;
use std::path::PathBuf;

use argh::FromArgs;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Outcome;
use crate::accounts::Account;
use crate::config::Config;
use crate::observe::printable;
use crate::storage::{LastUpload, Uploaded, uploaded};

/// tell what was uploaded last, and fail where uploads are overdue
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "backups")]
pub struct BackupsArguments {
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: PathBuf,
}

/// # Errors
/// How many users' uploads are overdue, and how many directories cannot be read; each was named on standard error.
pub fn run(arguments: &BackupsArguments) -> Outcome {
    let config = Config::load(&arguments.config).map_err(|error| error.to_string())?;
    let (zone, now) = (TimeZone::system(), Timestamp::now());
    let (mut overdue, mut missing) = (0, 0);
    for account in config.accounts.iter().chain(config.accounts.anonymous()) {
        let (uploaded, unread) = of_account(account);
        missing += unread;
        print(&account.name, &uploaded, &zone, now);
        let is_known = uploaded.last.is_some() || unread == 0;
        let what = what_is_overdue(account, uploaded.last.as_ref(), now);
        if let Some(what) = what.filter(|_| is_known) {
            eprintln!("thriftpd: {what}");
            overdue += 1;
        }
    }
    let overdue = (overdue > 0).then(|| {
        let users = counted(overdue, "user");
        format!("the uploads of {users} are overdue")
    });
    let missing = match missing {
        0 => None,
        1 => Some("1 root or folder cannot be read".to_owned()),
        count => Some(format!("{count} roots and folders cannot be read")),
    };
    let wrong: Vec<String> = overdue.into_iter().chain(missing).collect();
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(wrong.join("; ")),
    }
}

/// What is remembered of the user, wherever that is, and how many directories could not be read, each of which is told on
/// standard error: a disk that is not mounted may hold the last upload.
fn of_account(account: &Account) -> (Uploaded, u32) {
    let directories = account.view.directories();
    let roots: BTreeMap<PathBuf, bool> = directories
        .map(|(root, rules)| {
            let real = root.canonicalize().unwrap_or_else(|_| root.clone());
            (real, rules.require_mount)
        })
        .collect();
    let (mut all, mut unread) = (Uploaded::default(), 0);
    for (root, require_mount) in roots {
        match uploaded(&root, require_mount, &account.name) {
            Ok(uploaded) => all.merge(uploaded),
            Err(error) => {
                unread += 1;
                eprintln!(
                    "thriftpd: {}: what {} has uploaded cannot be told: {error}",
                    printable(root.as_os_str().as_encoded_bytes()),
                    account.name
                );
            }
        }
    }
    (all, unread)
}

fn print(user: &str, uploaded: &Uploaded, zone: &TimeZone, now: Timestamp) {
    match &uploaded.last {
        None => println!("{user}: no upload is known"),
        Some(LastUpload { time, size, path }) => println!(
            "{user}: {}, {}: {}, {size} bytes",
            local(*time, zone),
            ago(now.as_second().saturating_sub(*time)),
            printable(path)
        ),
    }
    for (what, hours) in [("day", 24), ("week", 7 * 24)] {
        let usage = uploaded.within(hours, now.as_second());
        println!(
            "  last {what}: {} in {}",
            counted(usage.bytes, "byte"),
            counted(usage.files, "file")
        );
    }
}

fn local(time: i64, zone: &TimeZone) -> String {
    match Timestamp::from_second(time) {
        Ok(time) => time
            .to_zoned(zone.clone())
            .strftime("%Y-%m-%d %H:%M:%S %Z")
            .to_string(),
        Err(_) => format!("{time} s after 1970"),
    }
}

fn ago(seconds: i64) -> String {
    if seconds < 0 {
        return format!("{} from now (is the clock right?)", in_words(-seconds));
    }
    format!("{} ago", in_words(seconds))
}

/// The largest unit of which there are at least two, so that `90 minutes` are no `1 hour`.
fn in_words(seconds: i64) -> String {
    const UNITS: [(i64, &str); 3] = [(24 * 3600, "day"), (3600, "hour"), (60, "minute")];
    let fitting = UNITS.into_iter().find(|(length, _)| seconds >= 2 * length);
    let (length, unit) = fitting.unwrap_or((1, "second"));
    counted(u64::try_from(seconds / length).unwrap_or(0), unit)
}

fn counted(count: u64, unit: &str) -> String {
    let many = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{many}")
}

/// The sentence about a user whose last upload is longer ago than it should be.
fn what_is_overdue(account: &Account, last: Option<&LastUpload>, now: Timestamp) -> Option<String> {
    let expected = i64::try_from(account.expect_every?.as_secs()).unwrap_or(i64::MAX);
    let (last, now) = (last.map(|last| last.time), now.as_second());
    let came = match last {
        Some(last) => format!("the last came {}", ago(now.saturating_sub(last))),
        None => "none has come yet".to_owned(),
    };
    account.is_overdue(last, now).then(|| {
        format!(
            "{}: overdue: an upload is expected every {}, and {came}",
            account.name,
            in_words(expected)
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::accounts::Password;
    use crate::config::plain_view;
    use crate::storage::Permissions;

    #[test]
    fn ages_are_told_in_the_unit_that_says_most() {
        for (seconds, words) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (119, "119 seconds"),
            (120, "2 minutes"),
            (7199, "119 minutes"),
            (26 * 3600, "26 hours"),
            (48 * 3600, "2 days"),
            (400 * 24 * 3600, "400 days"),
        ] {
            assert_eq!(in_words(seconds), words);
        }
        assert!(ago(-7200).starts_with("2 hours from now"));
    }

    #[test]
    fn only_who_is_expected_can_be_overdue() {
        let view = plain_view("/nowhere".into(), Permissions::ALL);
        let mut account = Account::new("anna", Password::none(), view);
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |time| LastUpload {
            time,
            size: 1,
            path: b"/f".to_vec(),
        };
        assert_eq!(what_is_overdue(&account, None, now), None);
        account.expect_every = Some(Duration::from_secs(26 * 3600));
        for (time, overdue) in [
            (1_000_000, false),
            (1_000_000 - 26 * 3600, false),
            (1_000_000 - 26 * 3600 - 1, true),
            (1_000_000 + 60, false),
            (1_000_000 + 27 * 3600, true),
        ] {
            let what = what_is_overdue(&account, Some(&at(time)), now);
            assert_eq!(what.is_some(), overdue, "{time}: {what:?}");
        }
        let never = what_is_overdue(&account, None, now).unwrap();
        assert_eq!(
            never,
            "anna: overdue: an upload is expected every 26 hours, and none has come yet"
        );
    }
}
