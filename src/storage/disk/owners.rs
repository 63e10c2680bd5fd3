//! Names of users and groups, read from /etc/passwd and /etc/group once: listings must not wait for a name service.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

/// Few, and looked up for every line of a listing.
type Names = BTreeMap<u32, String>;

static USERS: OnceLock<Names> = OnceLock::new();
static GROUPS: OnceLock<Names> = OnceLock::new();

/// The user's name, or the number where it has none.
pub fn user_name(uid: u32) -> Cow<'static, str> {
    name(USERS.get_or_init(|| read("/etc/passwd")), uid)
}

/// The group's name, or the number where it has none.
pub fn group_name(gid: u32) -> Cow<'static, str> {
    name(GROUPS.get_or_init(|| read("/etc/group")), gid)
}

/// The number of a group given by name or number.
pub fn group_id(group: &str) -> Option<u32> {
    let names = GROUPS.get_or_init(|| read("/etc/group"));
    names
        .iter()
        .find(|(_, name)| *name == group)
        .map(|(gid, _)| *gid)
        .or_else(|| group.parse().ok())
}

fn name(names: &Names, id: u32) -> Cow<'_, str> {
    match names.get(&id) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(id.to_string()),
    }
}

fn read(path: &str) -> Names {
    parse(&fs::read(path).unwrap_or_default())
}

/// `name:password:id:...` of passwd(5) and group(5); the first name of an id counts.
pub(in crate::storage) fn parse(text: &[u8]) -> Names {
    let mut names = Names::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(Ok(id))) =
            (fields.next(), fields.next(), fields.next().map(str::parse))
        else {
            continue;
        };
        if !name.is_empty() {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines_are_passed_over() {
        let names = parse(
            b"root:x:0:0::/:/bin/sh\n# no\n:x:5:\nbad:x:y:\nanna:x:1000:1000\nother:x:1000:\n",
        );
        assert_eq!(names.len(), 2);
        assert_eq!(names[&1000], "anna");
        assert_eq!(name(&names, 77), "77");
    }
}
