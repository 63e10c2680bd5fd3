//! Two names in one argument, which no standard has: each as it is, without spaces, or in quotes, with those within doubled
//! as in the replies of RFC 959 appendix II. One space separates them.

/// Both names; None for anything else.
pub fn parse_two_names(argument: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (first, rest) = name(argument)?;
    let (second, rest) = name(rest.strip_prefix(b" ")?)?;
    rest.is_empty().then_some((first, second))
}

/// The name in front, and what follows it.
fn name(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (name, rest) = match text.strip_prefix(b"\"") {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = text.iter().position(|&byte| byte == b' ');
            let (name, rest) = text.split_at(end.unwrap_or(text.len()));
            (name.to_vec(), rest)
        }
    };
    (!name.is_empty()).then_some((name, rest))
}

fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut name = Vec::new();
    let mut rest = text;
    loop {
        let quote = rest.iter().position(|&byte| byte == b'"')?;
        name.extend(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.strip_prefix(b"\"") {
            Some(further) => {
                name.push(b'"');
                rest = further;
            }
            None => return Some((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_quoted_or_not() {
        for (argument, first, second) in [
            ("a b", "a", "b"),
            ("\"a b\" c", "a b", "c"),
            ("a \"b c\"", "a", "b c"),
            ("\"a\"\"b\" \" \"", "a\"b", " "),
            ("a\"b c\"", "a\"b", "c\""),
            ("/x/y ../z", "/x/y", "../z"),
        ] {
            let parsed = parse_two_names(argument.as_bytes());
            let expected = (first.as_bytes().to_vec(), second.as_bytes().to_vec());
            assert_eq!(parsed, Some(expected), "{argument}");
        }
        for malformed in [
            "", "a", "a ", " a", "a  b", "a b c", "a b ", "\"a b", "\"a\"b", "\"a\"b c", "\"\" b",
            "a \"b\" ", "a \"b\"c", "\"a\"  b",
        ] {
            assert_eq!(parse_two_names(malformed.as_bytes()), None, "{malformed}");
        }
    }
}
