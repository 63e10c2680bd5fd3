//! Facts of MLSD and MLST (RFC 3659 §7): which are asked for, and the lines that tell them.
use super::numbers::number_into;
use super::time::timeval_into;
use super::{visible, visible_into, word_into};

/// Which facts a session wants told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub kind: bool,
    pub size: bool,
    pub modify: bool,
    /// Costs a call a file, so only on request.
    pub create: bool,
    pub perm: bool,
    pub unique: bool,
    pub unix_mode: bool,
    pub unix_owner: bool,
    pub unix_group: bool,
}

impl Default for Facts {
    /// All that cost nothing extra.
    fn default() -> Self {
        let mut facts = Self::all(true);
        facts.create = false;
        facts
    }
}

impl Facts {
    const fn all(on: bool) -> Self {
        Self {
            kind: on,
            size: on,
            modify: on,
            create: on,
            perm: on,
            unique: on,
            unix_mode: on,
            unix_owner: on,
            unix_group: on,
        }
    }

    fn named(&self) -> [(&'static str, bool); 9] {
        [
            ("type", self.kind),
            ("size", self.size),
            ("modify", self.modify),
            ("create", self.create),
            ("perm", self.perm),
            ("unique", self.unique),
            ("UNIX.mode", self.unix_mode),
            ("UNIX.owner", self.unix_owner),
            ("UNIX.group", self.unix_group),
        ]
    }

    /// The argument of OPTS MLST: names with `;` behind each; unknown ones are passed over (RFC 3659 §7.9).
    pub fn parse_options(argument: &[u8]) -> Self {
        let wanted: Vec<&[u8]> = argument
            .split(|&byte| byte == b';')
            .map(<[u8]>::trim_ascii)
            .collect();
        let on = |name: &str| {
            wanted
                .iter()
                .any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
        };
        Self {
            kind: on("type"),
            size: on("size"),
            modify: on("modify"),
            create: on("create"),
            perm: on("perm"),
            unique: on("unique"),
            unix_mode: on("UNIX.mode"),
            unix_owner: on("UNIX.owner"),
            unix_group: on("UNIX.group"),
        }
    }

    /// The line in FEAT (RFC 3659 §7.8).
    pub fn feat_line(&self) -> String {
        let facts = self
            .named()
            .map(|(name, on)| format!("{name}{};", if on { "*" } else { "" }));
        format!("MLST {}", facts.concat())
    }

    /// The reply to OPTS MLST (RFC 3659 §7.9).
    pub fn options_reply(&self) -> String {
        let facts: String = self
            .named()
            .iter()
            .filter(|(_, on)| *on)
            .map(|(name, _)| format!("{name};"))
            .collect();
        format!("MLST OPTS {facts}").trim_end().to_owned()
    }
}

/// The `type` fact (RFC 3659 §7.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactType {
    File,
    Dir,
    Cdir,
    Pdir,
    Link,
    Other,
}

impl FactType {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Cdir => "cdir",
            Self::Pdir => "pdir",
            Self::Link => "OS.unix=symlink",
            Self::Other => "OS.unix=other",
        }
    }
}

/// What one line tells.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub kind: FactType,
    /// In bytes; told of files only.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
    /// Seconds since 1970, where the file system knows it.
    pub created: Option<i64>,
    pub perm: &'a str,
    /// Device and inode.
    pub unique: (u64, u64),
    pub mode: u32,
    pub owner: &'a str,
    pub group: &'a str,
    pub name: &'a [u8],
}

/// Whether a line can carry the name as it is, for clients use it as a path: it has no control characters.
pub fn name_fits_mlsd(name: &[u8]) -> bool {
    name.iter().all(|&byte| visible(byte) == byte)
}

/// One line: facts, a space, the name.
pub fn entry_into(facts: &Facts, entry: &Entry<'_>, out: &mut Vec<u8>) {
    let mut fact = |on: bool, name: &str, value: &dyn Fn(&mut Vec<u8>)| {
        if on {
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            value(out);
            out.push(b';');
        }
    };
    fact(facts.kind, "type", &|out| {
        out.extend_from_slice(entry.kind.name().as_bytes());
    });
    let has_size = entry.kind == FactType::File;
    fact(facts.size && has_size, "size", &|out| {
        number_into::<10>(entry.size, 0, b' ', out);
    });
    fact(facts.modify, "modify", &|out| {
        timeval_into(entry.modified, out);
    });
    if let Some(created) = entry.created {
        fact(facts.create, "create", &|out| timeval_into(created, out));
    }
    fact(facts.perm, "perm", &|out| {
        out.extend_from_slice(entry.perm.as_bytes());
    });
    fact(facts.unique, "unique", &|out| {
        let (device, inode) = entry.unique;
        number_into::<16>(device, 0, b' ', out);
        out.push(b'g');
        number_into::<16>(inode, 0, b' ', out);
    });
    fact(facts.unix_mode, "UNIX.mode", &|out| {
        number_into::<8>(u64::from(entry.mode & 0o7777), 4, b'0', out);
    });
    fact(facts.unix_owner, "UNIX.owner", &|out| {
        value_into(entry.owner, out)
    });
    fact(facts.unix_group, "UNIX.group", &|out| {
        value_into(entry.group, out)
    });
    out.push(b' ');
    visible_into(entry.name, out);
    out.extend_from_slice(b"\r\n");
}

/// A fact's value holds no `;`, space or control character (RFC 3659 §7.2).
fn value_into(text: &str, out: &mut Vec<u8>) {
    word_into(
        text,
        |c| c == ';' || c.is_whitespace() || c.is_control(),
        out,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_facts_that_are_on() {
        let entry = Entry {
            kind: FactType::File,
            size: 3,
            modified: 0,
            created: Some(1),
            perm: "rw",
            unique: (0xfd01, 42),
            mode: 0o100_644,
            owner: "a b;",
            group: "g",
            name: b" x;y",
        };
        let mut out = Vec::new();
        entry_into(&Facts::default(), &entry, &mut out);
        let expected = "type=file;size=3;modify=19700101000000;perm=rw;unique=fd01g2a;UNIX.mode=0644;UNIX.owner=a_b_;UNIX.group=g;  x;y\r\n";
        assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
        out.clear();
        entry_into(&Facts::all(false), &entry, &mut out);
        assert_eq!(out, b"  x;y\r\n");
    }

    #[test]
    fn options_choose_the_facts_and_feat_marks_them() {
        let facts = Facts::parse_options(b"Type;SIZE;nonsense;unix.mode;");
        assert_eq!(facts.options_reply(), "MLST OPTS type;size;UNIX.mode;");
        assert_eq!(Facts::parse_options(b"").options_reply(), "MLST OPTS");
        assert!(
            facts
                .feat_line()
                .starts_with("MLST type*;size*;modify;create;perm;unique;UNIX.mode*;")
        );
    }

    #[test]
    fn a_name_with_a_line_end_does_not_fit() {
        assert!(
            name_fits_mlsd(b"a b\xff")
                && !name_fits_mlsd(b"a\x1bb")
                && !name_fits_mlsd(b"a\nb")
                && !name_fits_mlsd(b"\r")
        );
    }
}
