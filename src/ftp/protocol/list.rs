//! LIST: lines in the form of `ls -l`, which is what clients parse though no standard says so, and the flags that
//! clients send as if the server were `ls`.
use super::numbers::number_into;
use super::time::list_time_into;
use super::{visible_into, word_into};

/// What one line shows.
#[derive(Clone, Copy, Debug)]
pub struct ListLine<'a> {
    /// The first letter of the mode: `-`, `d`, `l`, ...
    pub kind: u8,
    pub mode: u32,
    pub links: u64,
    pub owner: &'a str,
    pub group: &'a str,
    /// In bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
    pub name: &'a [u8],
    /// Where a symbolic link leads.
    pub target: Option<&'a [u8]>,
}

/// The flags that have a meaning here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListFlags {
    /// `-a`: also `.` and `..`; names with a leading dot are always listed.
    pub all: bool,
    /// `-l`: makes NLST a LIST.
    pub long: bool,
    /// `-R`
    pub recursive: bool,
    /// `-d`: the directory itself.
    pub directory: bool,
    /// `-1`: names only in LIST; NLST has one a line anyway.
    pub one: bool,
    /// `-F`: a mark behind directories, links and programs.
    pub classify: bool,
    /// `-h`: sizes in K, M, G.
    pub human: bool,
}

/// Splits flags from the path. A word of letters behind `-` is flags, those unknown here change nothing, and so do options such
/// as `--time-style=full-iso`. What follows `--` is a path.
pub fn parse_list_argument(argument: &[u8]) -> (ListFlags, &[u8]) {
    let mut flags = ListFlags::default();
    let mut rest = argument;
    while let [b'-', letters @ ..] = rest {
        let end = letters
            .iter()
            .position(|&byte| byte == b' ')
            .unwrap_or(letters.len());
        let (word, behind) = letters.split_at(end);
        let behind = behind.strip_prefix(b" ").unwrap_or(behind);
        if word == b"-" {
            return (flags, behind);
        }
        if word.starts_with(b"-") {
            rest = behind;
            continue;
        }
        if word.is_empty() || !word.iter().all(u8::is_ascii_alphanumeric) {
            break;
        }
        for letter in word {
            flags.set(*letter);
        }
        rest = behind;
    }
    (flags, rest)
}

impl ListFlags {
    fn set(&mut self, letter: u8) {
        match letter {
            b'a' => self.all = true,
            b'l' => self.long = true,
            b'R' => self.recursive = true,
            b'd' => self.directory = true,
            b'1' => self.one = true,
            b'F' => self.classify = true,
            b'h' => self.human = true,
            _ => {}
        }
    }
}

/// One line of LIST.
pub fn long_line_into(
    line: &ListLine<'_>,
    now: i64,
    human: bool,
    classify: bool,
    out: &mut Vec<u8>,
) {
    out.push(line.kind);
    out.extend_from_slice(&mode_letters(line.mode));
    out.push(b' ');
    number_into::<10>(line.links, 3, b' ', out);
    for name in [line.owner, line.group] {
        out.push(b' ');
        column_into(name, 8, out);
    }
    out.push(b' ');
    if human {
        out.extend(format!("{:>12}", human_size(line.size)).into_bytes());
    } else {
        number_into::<10>(line.size, 12, b' ', out);
    }
    out.push(b' ');
    list_time_into(line.modified, now, out);
    out.push(b' ');
    visible_into(line.name, out);
    if let Some(target) = line.target {
        out.extend(b" -> ");
        visible_into(target, out);
    } else if classify {
        out.extend(mark(line.kind, line.mode));
    }
    out.extend_from_slice(b"\r\n");
}

/// One line of NLST.
pub fn name_line_into(name: &[u8], kind: u8, mode: u32, classify: bool, out: &mut Vec<u8>) {
    visible_into(name, out);
    if classify {
        out.extend(mark(kind, mode));
    }
    out.extend_from_slice(b"\r\n");
}

/// What `-F` puts behind a name.
fn mark(kind: u8, mode: u32) -> Option<u8> {
    match kind {
        b'd' => Some(b'/'),
        b'l' => Some(b'@'),
        b'-' if mode & 0o111 != 0 => Some(b'*'),
        _ => None,
    }
}

/// An owner's name must stay one column.
fn column_into(name: &str, width: usize, out: &mut Vec<u8>) {
    word_into(name, |c| c.is_whitespace() || c.is_control(), out);
    let missing = width.saturating_sub(name.chars().count());
    out.resize(out.len() + missing, b' ');
}

/// `rwxr-xr-x`, with s, S, t and T for the special bits.
fn mode_letters(mode: u32) -> [u8; 9] {
    let mut letters = *b"---------";
    for (index, letter) in letters.iter_mut().enumerate() {
        if mode & (0o400 >> index) != 0 {
            *letter = b"rwx"[index % 3];
        }
    }
    for (bit, index, set, alone) in [
        (0o4000, 2, b's', b'S'),
        (0o2000, 5, b's', b'S'),
        (0o1000, 8, b't', b'T'),
    ] {
        if mode & bit != 0 {
            letters[index] = if letters[index] == b'x' { set } else { alone };
        }
    }
    letters
}

/// At most four characters, rounded up as `ls -h` does.
fn human_size(bytes: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut unit = 1_u128;
    for letter in UNITS {
        unit *= 1024;
        let tenths = (u128::from(bytes) * 10).div_ceil(unit);
        if tenths < 100 {
            return format!("{}.{}{letter}", tenths / 10, tenths % 10);
        }
        let whole = u128::from(bytes).div_ceil(unit);
        if whole < 1024 {
            return format!("{whole}{letter}");
        }
    }
    format!("{}E", bytes >> 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &[u8], target: Option<&[u8]>) -> Vec<u8> {
        let line = ListLine {
            kind: b'-',
            mode: 0o644,
            links: 1,
            owner: "anna",
            group: "users",
            size: 42,
            modified: 0,
            name,
            target,
        };
        let mut out = Vec::new();
        long_line_into(&line, 3600, false, false, &mut out);
        out
    }

    #[test]
    fn a_line_is_what_ls_would_print() {
        let expected = b"-rw-r--r--   1 anna     users              42 Jan  1 00:00 a b\r\n";
        assert_eq!(line(b"a b", None), expected);
        assert!(line(b"l", Some(b"to")).ends_with(b" l -> to\r\n"));
    }

    #[test]
    fn no_name_forges_a_line() {
        let out = line(b"x\r\n-rw-r--r-- 1 a b 1 Jan 1 00:00 y\x1b", Some(b"\n"));
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert!(!out.contains(&0x1b));
    }

    #[test]
    fn special_bits_show_in_the_mode() {
        assert_eq!(&mode_letters(0o4755), b"rwsr-xr-x");
        assert_eq!(&mode_letters(0o6644), b"rwSr-Sr--");
        assert_eq!(&mode_letters(0o1777), b"rwxrwxrwt");
    }

    #[test]
    fn flags_come_before_the_path_and_unknown_ones_change_nothing() {
        let (flags, path) = parse_list_argument(b"-la dir with spaces");
        assert!(flags.all && flags.long && path == b"dir with spaces");
        for (argument, path) in [
            ("-x9", ""),
            ("-", "-"),
            ("-x/y", "-x/y"),
            ("--full-time --time-style=full-iso dir", "dir"),
            ("-x - y", "- y"),
        ] {
            assert_eq!(
                parse_list_argument(argument.as_bytes()),
                (ListFlags::default(), path.as_bytes())
            );
        }
        let (flags, path) = parse_list_argument(b"-alisk dir");
        assert!(flags.all && flags.long && path == b"dir");
        let (flags, path) = parse_list_argument(b"-R -- -a");
        assert!(flags.recursive && path == b"-a");
        assert_eq!(parse_list_argument(b"-a").1, b"");
    }

    #[test]
    fn human_sizes_are_rounded_up() {
        let shown: Vec<String> = [0, 1023, 1024, 1025, 10_240, 1_048_575, u64::MAX]
            .map(human_size)
            .into();
        assert_eq!(shown, ["0", "1023", "1.0K", "1.1K", "10K", "1.0M", "16E"]);
    }
}
