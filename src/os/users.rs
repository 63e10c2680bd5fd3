//! Users and groups of the system, read from passwd(5) and group(5): a confined server reaches no name service, and nobody is to
//! wait for one. They are read once, before the sandbox; where accounts are to be found that came later they are read again.
use std::borrow::Cow;
use std::fs;
use std::io;
use std::sync::OnceLock;

/// One line of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// One line of group(5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Both files, in their order: the first of a name or a number counts.
#[derive(Clone, Debug, Default)]
pub struct Users {
    users: Vec<User>,
    groups: Vec<Group>,
}

impl Users {
    /// As they are now.
    ///
    /// # Errors
    /// Those of reading the files.
    pub fn read() -> io::Result<Self> {
        let (users, groups) = (fs::read("/etc/passwd")?, fs::read("/etc/group")?);
        Ok(Self::parse(&users, &groups))
    }

    /// As they were at the first call; none where they could not be read.
    pub fn at_start() -> &'static Self {
        static AT_START: OnceLock<Users> = OnceLock::new();
        AT_START.get_or_init(|| Self::read().unwrap_or_default())
    }

    /// Lines that are none are passed over.
    pub fn parse(users: &[u8], groups: &[u8]) -> Self {
        let (users, groups) = [users, groups].map(String::from_utf8_lossy).into();
        let user = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            let (_, uid, gid) = (fields.next()?, fields.next()?, fields.next()?);
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            Some(User { name, uid, gid })
        };
        let group = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            let (_, gid) = (fields.next()?, fields.next()?.parse().ok()?);
            let members = fields.next().unwrap_or_default().split(',');
            let members = members.filter(|member| !member.is_empty());
            let members = members.map(str::to_owned).collect();
            Some(Group { name, gid, members })
        };
        Self {
            users: users.lines().filter_map(user).collect(),
            groups: groups.lines().filter_map(group).collect(),
        }
    }

    pub fn named(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    pub fn with_uid(&self, uid: u32) -> Option<&User> {
        self.users.iter().find(|user| user.uid == uid)
    }

    /// The number of a group given by name or number.
    pub fn group_id(&self, group: &str) -> Option<u32> {
        let known = self.groups.iter().find(|known| known.name == group);
        known.map(|known| known.gid).or_else(|| group.parse().ok())
    }

    /// All groups of a user who has this one: that one too, each once.
    pub fn groups_of(&self, name: Option<&str>, gid: u32) -> Vec<u32> {
        let is_member =
            |group: &&Group| name.is_some_and(|name| group.members.iter().any(|one| one == name));
        let further = self.groups.iter().filter(is_member);
        let mut all: Vec<u32> = further.map(|group| group.gid).chain([gid]).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How many there are, for the fuzz targets.
    pub fn len(&self) -> usize {
        self.users.len() + self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The user's name, or the number where it has none.
pub fn user_name(uid: u32) -> Cow<'static, str> {
    let known = Users::at_start().with_uid(uid);
    known.map_or_else(|| uid.to_string().into(), |user| user.name.as_str().into())
}

/// The group's name, or the number where it has none.
pub fn group_name(gid: u32) -> Cow<'static, str> {
    let mut groups = Users::at_start().groups.iter();
    let known = groups.find(|group| group.gid == gid);
    known.map_or_else(
        || gid.to_string().into(),
        |group| group.name.as_str().into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups_and_broken_lines_are_passed_over() {
        let users = Users::parse(
            b"root:x:0:0::/:/bin/sh\n# no\n:x:5:6:\nbad:x:y:1\nshort:x:3\nanna:x:1000:1001:\xff:/:/bin/sh\nother:x:1000:1:\n",
            b"wheel:x:10:anna,ben\nusers:x:100:ben\nmedia:x:200:,anna\nempty:x:300:\nno:x:z:\n",
        );
        assert_eq!(users.len(), 3 + 4);
        let anna = users.named("anna").unwrap();
        assert_eq!((anna.uid, anna.gid), (1000, 1001));
        assert_eq!(users.with_uid(1000), Some(anna), "the first one");
        assert_eq!(users.groups_of(Some("anna"), 1001), [10, 200, 1001]);
        assert_eq!(users.groups_of(None, 7), [7]);
        assert_eq!((users.named("bad"), users.with_uid(5)), (None, None));
        let groups = ["users", "77", "nobodys"].map(|group| users.group_id(group));
        assert_eq!(groups, [Some(100), Some(77), None]);
    }

    #[test]
    fn whoever_has_no_name_is_a_number() {
        assert_eq!(user_name(4_000_000_123), "4000000123");
        assert_eq!(group_name(4_000_000_123), "4000000123");
        assert_eq!(user_name(0), "root");
    }
}
