//! Settings that protect less than they seem to, told at the start and by `thriftpd check`.
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::accounts::Account;
use crate::config::Config;
use crate::observe::printable;
use crate::storage::{Permission, Permissions, Rules};

/// What takes from a file what it holds, or the file from where it is.
const HURTS: [Permission; 4] = [
    Permission::Overwrite,
    Permission::Append,
    Permission::Delete,
    Permission::Rename,
];

/// A root or folder of somebody.
struct Share<'a> {
    account: &'a Account,
    /// Without links.
    directory: PathBuf,
    rules: &'a Rules,
}

/// One sentence each.
pub fn warnings(config: &Config) -> Vec<String> {
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let shares: Vec<Share<'_>> = accounts
        .flat_map(|account| {
            let directories = account.view.directories();
            directories.map(move |(directory, rules)| Share {
                account,
                directory: directory
                    .canonicalize()
                    .unwrap_or_else(|_| directory.clone()),
                rules,
            })
        })
        .collect();
    let mut warnings = Vec::new();
    for share in &shares {
        warnings.extend(shares.iter().filter_map(|other| not_bound(share, other)));
        warnings.extend(fills(share));
        warnings.extend(stays(share));
    }
    warnings
}

/// A lock binds nobody but those who have it.
fn not_bound(locked: &Share<'_>, other: &Share<'_>) -> Option<String> {
    let lock = locked.rules.lock?;
    let (ours, theirs) = (&locked.directory, &other.directory);
    let is_shared = ours.starts_with(theirs) || theirs.starts_with(ours);
    let is_other = locked.account.name != other.account.name;
    let can: Vec<&str> = HURTS
        .into_iter()
        .filter(|&permission| other.rules.permissions.contains(permission))
        .flat_map(|permission| Permissions::NONE.with(permission).names())
        .collect();
    if !is_shared || !is_other || can.is_empty() || other.rules.lock.is_some_and(|has| has >= lock)
    {
        return None;
    }
    let has = match other.rules.lock {
        None => "has no lock there".to_owned(),
        Some(shorter) => format!("has a lock of {} there", in_words(shorter)),
    };
    Some(format!(
        "lock: what {} has locked for {} in {} is open to {}, who {has} and may {}",
        locked.account.name,
        in_words(lock),
        shown(ours.max(theirs)),
        other.account.name,
        can.join(", ")
    ))
}

/// Who can only add can make room all the same, by filling the disk.
fn fills(share: &Share<'_>) -> Option<String> {
    let (rules, quota) = (share.rules, share.account.view.metered.limit);
    let may = |permission| rules.permissions.contains(permission);
    let only_adds =
        may(Permission::Upload) && !may(Permission::Overwrite) && !may(Permission::Delete);
    let takes = only_adds && rules.expiry.free.is_some() && quota.bytes.is_none();
    takes.then(|| {
        format!(
            "keep_free: {} may only add files to {}, but who fills the disk there makes the server remove old ones: give {0} a `quota`",
            share.account.name,
            shown(&share.directory)
        )
    })
}

/// What is removed becomes an old version, and that is for good where nothing takes versions away.
fn stays(share: &Share<'_>) -> Option<String> {
    let rules = share.rules;
    let removes = rules.permissions.contains(Permission::Delete);
    let stays = removes && rules.versions > 0 && !rules.expiry.takes_anything();
    stays.then(|| {
        format!(
            "versions: what {} removes in {} goes on taking room as an old version, and nothing takes it away: set `keep_days` or `keep_free`",
            share.account.name,
            shown(&share.directory)
        )
    })
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes()).to_string()
}

fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds % 86_400 == 0 => format!("{} d", seconds / 86_400),
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings_of(text: &str) -> Vec<String> {
        let config = Config::parse(Path::new("/nowhere/thriftpd.toml"), text).unwrap();
        warnings(&config)
    }

    fn user(name: &str, keys: &str) -> String {
        let hash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$bm90IGEgcmVhbCBkaWdlc3QgYXQgYWxsLi4uLi4";
        format!("[[user]]\nname = \"{name}\"\npassword = \"{hash}\"\n{keys}\n")
    }

    #[test]
    fn who_is_not_bound_by_a_lock_is_named() {
        let anna = user("anna", "root = \"/srv/a\"\nlock = \"30d\"");
        for (keys, has) in [
            ("root = \"/srv/a\"", "has no lock there"),
            ("root = \"/srv\"", "has no lock there"),
            (
                "root = \"/srv/a/b\"\nlock = \"12h\"",
                "has a lock of 12 h there",
            ),
        ] {
            let told = warnings_of(&[anna.clone(), user("bert", keys)].concat());
            let place = if keys.contains("/b") {
                "/srv/a/b"
            } else {
                "/srv/a"
            };
            let expected = format!(
                "lock: what anna has locked for 30 d in {place} is open to bert, who {has} and may overwrite, append, delete, rename"
            );
            assert_eq!(told, [expected]);
        }
        for keys in [
            "root = \"/srv/a\"\nlock = \"30d\"",
            "root = \"/srv/ab\"",
            "root = \"/srv/a\"\naccess = \"add-only\"",
            "root = \"/srv/a\"\naccess = \"read-only\"",
        ] {
            let told = warnings_of(&[anna.clone(), user("bert", keys)].concat());
            assert_eq!(told, [""; 0], "{keys}");
        }
    }

    #[test]
    fn who_only_adds_and_can_fill_the_disk_is_named() {
        let keys = "root = \"/srv\"\naccess = \"add-only\"\nkeep_free = \"10%\"";
        let told = warnings_of(&user("cam", keys));
        assert!(
            told.len() == 1 && told[0].starts_with("keep_free: cam may only add files to /srv")
        );
        assert!(told[0].ends_with("give cam a `quota`"), "{told:?}");
        let limited = format!("{keys}\nquota = \"1GB\"");
        let whole = keys.replace("add-only", "read-write");
        let ages = keys.replace("keep_free = \"10%\"", "keep_days = 10");
        for keys in [limited, whole, ages] {
            assert_eq!(warnings_of(&user("cam", &keys)), [""; 0], "{keys}");
        }
    }

    #[test]
    fn whose_removed_files_stay_for_good_is_named() {
        let keys = "root = \"/srv\"\nversions = 2";
        let told = warnings_of(&user("anna", keys));
        assert!(told.len() == 1 && told[0].starts_with("versions: what anna removes in /srv"));
        for keys in [
            format!("{keys}\nkeep_days = 100"),
            format!("{keys}\naccess = \"add-only\""),
        ] {
            assert_eq!(warnings_of(&user("anna", &keys)), [""; 0], "{keys}");
        }
    }
}
