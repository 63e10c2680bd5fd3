//! The user of the system that an account stands for, with `run_as = "session"`. Read from /etc/passwd and /etc/group:
//! name services need more of the system than a confined server has.
use super::Account;
use crate::os::users::Users;

/// Who owns what an account stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemUser {
    pub uid: u32,
    pub gid: u32,
    /// All groups, that one too.
    pub groups: Vec<u32>,
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
        // The files may have been replaced by ones that the sandbox knows nothing of.
        let names = Users::read();
        let names = names.as_ref().unwrap_or_else(|_| Users::at_start());
        match find(wanted, names) {
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

fn find(wanted: &str, names: &Users) -> Option<SystemUser> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group.parse().ok()?)),
        None => (wanted, None),
    };
    let number: Option<u32> = user.parse().ok();
    let known = names.named(user).or_else(|| names.with_uid(number?));
    let (name, uid, own_group) = match (known, number) {
        (Some(known), _) => (Some(known.name.as_str()), known.uid, known.gid),
        // Numbers need no name.
        (None, Some(uid)) => (None, uid, uid),
        (None, None) => return None,
    };
    let gid = group.unwrap_or(own_group);
    Some(SystemUser {
        uid,
        gid,
        groups: names.groups_of(name, gid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups() {
        let users = "root:x:0:0::/:/bin/sh\nanna:x:1000:1001::/:/bin/sh\nbad line\n";
        let groups = "wheel:x:10:anna,ben\nusers:x:100:ben\nmedia:x:200:anna\n";
        let names = Users::parse(users.as_bytes(), groups.as_bytes());
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
