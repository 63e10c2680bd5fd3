//! The argument of XCRC, XMD5, XSHA1 and their kin, by convention: a path, and after it where to start and where to end.
//!
//! The path may stand in quotes, with those within doubled. Without quotes it may hold spaces all the same, as long as it does
//! not end in what looks like a start or an end.
use super::numbers::parse_decimal;

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRange {
    pub path: Vec<u8>,
    /// The first byte.
    pub start: u64,
    /// The byte behind the last one; None is the end of the file.
    pub end: Option<u64>,
}

/// None for an empty path, quotes that do not end, anything but numbers behind quotes, and an end before the start.
pub fn parse_file_range(argument: &[u8]) -> Option<FileRange> {
    let (path, numbers) = match argument.strip_prefix(b"\"") {
        Some(quoted) => {
            let (path, behind) = unquote(quoted)?;
            (path, all_numbers(behind)?)
        }
        None => {
            let (path, numbers) = split_numbers(argument);
            (path.to_vec(), numbers)
        }
    };
    let (start, end) = match numbers.as_slice() {
        [] => (0, None),
        [start] => (*start, None),
        [start, end] if start <= end => (*start, Some(*end)),
        _ => return None,
    };
    (!path.is_empty()).then_some(FileRange { path, start, end })
}

/// What is in the quotes, the first of which is gone, and what follows them.
fn unquote(quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut path = Vec::new();
    let mut rest = quoted;
    loop {
        let quote = rest.iter().position(|&byte| byte == b'"')?;
        path.extend(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.strip_prefix(b"\"") {
            Some(behind) => {
                path.push(b'"');
                rest = behind;
            }
            None => return Some((path, rest)),
        }
    }
}

/// Up to two numbers, each behind spaces.
fn all_numbers(text: &[u8]) -> Option<Vec<u64>> {
    if !text.is_empty() && !text.starts_with(b" ") {
        return None;
    }
    let words = text.split(|&byte| byte == b' ');
    let words = words.filter(|word| !word.is_empty());
    words.map(parse_decimal).collect()
}

/// Takes up to two numbers from the end, but not all there is.
fn split_numbers(argument: &[u8]) -> (&[u8], Vec<u64>) {
    let mut path = argument;
    let mut numbers = Vec::new();
    while numbers.len() < 2 {
        let Some(space) = path.iter().rposition(|&byte| byte == b' ') else {
            break;
        };
        let Some(number) = parse_decimal(&path[space + 1..]).filter(|_| space > 0) else {
            break;
        };
        numbers.insert(0, number);
        path = &path[..space];
    }
    (path, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(argument: &str) -> Option<(String, u64, Option<u64>)> {
        let FileRange { path, start, end } = parse_file_range(argument.as_bytes())?;
        Some((String::from_utf8(path).unwrap(), start, end))
    }

    #[test]
    fn a_path_comes_with_up_to_two_numbers() {
        for (argument, path, start, end) in [
            ("file", "file", 0, None),
            ("file 5", "file", 5, None),
            ("file 5 9", "file", 5, Some(9)),
            ("file 0 0", "file", 0, Some(0)),
            ("a b c", "a b c", 0, None),
            ("a b 7", "a b", 7, None),
            ("a 1 2 3", "a 1", 2, Some(3)),
            ("2024", "2024", 0, None),
            ("2024 5", "2024", 5, None),
            ("a 5 b", "a 5 b", 0, None),
            ("a -5", "a -5", 0, None),
            ("a 99999999999999999999", "a 99999999999999999999", 0, None),
            (r#""a 1""#, "a 1", 0, None),
            (r#""a 1" 2"#, "a 1", 2, None),
            (r#""a 1"  2  3"#, "a 1", 2, Some(3)),
            (r#""say ""a""" 2"#, r#"say "a""#, 2, None),
            (r#"a "b" 2"#, r#"a "b""#, 2, None),
        ] {
            assert_eq!(
                parsed(argument),
                Some((path.into(), start, end)),
                "{argument}"
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            r#"""#,
            r#""""#,
            r#""" 5"#,
            r#""a"#,
            r#""a"" 5"#,
            r#""a"b"#,
            r#""a"5"#,
            r#""a" b"#,
            r#""a" 1 2 3"#,
            r#""a" -1"#,
            r#""a" 99999999999999999999"#,
            r#""a" 5 4"#,
            "a 5 4",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
