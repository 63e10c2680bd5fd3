//! The user of the system that an account stands for, with `run_as = "session"`. Read from /etc/passwd and /etc/group:
//! name services need more of the system than a confined server has.
use std::fs;
use std::sync::OnceLock;

use super::Account;

/// Who owns what an account stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemUser {
    pub uid: u32,
    pub gid: u32,
    /// All groups, that one too.
    pub groups: Vec<u32>,
}

/// passwd(5) and group(5).
type Names = (String, String);

static AT_START: OnceLock<Names> = OnceLock::new();

/// Reads them once, for the time when the files have been replaced by ones that the sandbox knows nothing of.
pub fn remember_names() {
    AT_START.get_or_init(|| {
        (
            text("/etc/passwd").unwrap_or_default(),
            text("/etc/group").unwrap_or_default(),
        )
    });
}

fn text(path: &str) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

impl SystemUser {
    /// The one that the account names, or that has its name; for the anonymous one, `nobody`.
    ///
    /// # Errors
    /// Why there is none, with the setting.
    pub fn of(account: &Account, is_anonymous: bool) -> Result<Self, String> {
        let own = if is_anonymous {
            "nobody"
        } else {
            &account.name
        };
        let wanted = account.system_user.as_deref().unwrap_or(own);
        let names = match (text("/etc/passwd"), text("/etc/group")) {
            (Some(users), Some(groups)) => (users, groups),
            _ => AT_START.get().cloned().unwrap_or_default(),
        };
        match find(wanted, &names) {
            Some(user) if user.uid != 0 && user.uid != u32::MAX => Ok(user),
            Some(_) => Err(format!(
                "{} would act as root (setting: system_user)",
                account.name
            )),
            None => Err(format!(
                "there is no system user {wanted} for {} (setting: system_user)",
                account.name
            )),
        }
    }
}

fn find(wanted: &str, (users, groups): &Names) -> Option<SystemUser> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group.parse().ok()?)),
        None => (wanted, None),
    };
    let number: Option<u32> = user.parse().ok();
    let known = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields[..] else {
            return None;
        };
        let (uid, gid): (u32, u32) = (uid.parse().ok()?, gid.parse().ok()?);
        (name == user || number == Some(uid)).then_some((name, uid, gid))
    });
    let (name, uid, own_group) = match (known, number) {
        (Some((name, uid, gid)), _) => (Some(name), uid, gid),
        // Numbers need no name.
        (None, Some(uid)) => (None, uid, uid),
        (None, None) => return None,
    };
    let gid = group.unwrap_or(own_group);
    let mut all = vec![gid];
    let further = groups.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members, ..] = fields[..] else {
            return None;
        };
        let is_member = name.is_some_and(|name| members.split(',').any(|member| member == name));
        is_member.then(|| gid.parse::<u32>().ok())?
    });
    all.extend(further);
    all.sort_unstable();
    all.dedup();
    Some(SystemUser {
        uid,
        gid,
        groups: all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups() {
        let users = "root:x:0:0::/:/bin/sh\nanna:x:1000:1001::/:/bin/sh\nbad line\n";
        let groups = "wheel:x:10:anna,ben\nusers:x:100:ben\nmedia:x:200:anna\n";
        let names = (users.to_owned(), groups.to_owned());
        let user =
            |wanted: &str| find(wanted, &names).map(|user| (user.uid, user.gid, user.groups));
        let anna = Some((1000, 1001, vec![10, 200, 1001]));
        assert_eq!(user("anna"), anna);
        assert_eq!(user("1000"), anna);
        assert_eq!(user("12345"), Some((12345, 12345, vec![12345])));
        assert_eq!(user("12345:7"), Some((12345, 7, vec![7])));
        assert_eq!(user("anna:x"), None);
        assert_eq!(user("nemo"), None);
        let account = |name: &str| Account {
            system_user: Some(name.into()),
            ..Account::new(
                "a",
                super::super::Password::none(),
                crate::config::plain_view("/".into(), crate::storage::Permissions::ALL),
            )
        };
        let refused = SystemUser::of(&account("0:5"), false).unwrap_err();
        assert!(refused.contains("root"), "{refused}");
    }
}
