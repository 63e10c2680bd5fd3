//! HASH (draft-bryan-ftpext-hash §3): its reply, its line in FEAT, and what OPTS HASH says.

/// The text of the reply 213: algorithm, first and last byte of the range, digest, the path as the client gave it. An empty
/// range has no last byte; it is told as `0-0`, for the form wants an end that is not before the start.
pub fn reply_text(algorithm: &str, first: u64, end: u64, digest: &str, path: &[u8]) -> Vec<u8> {
    let last = end.saturating_sub(1).max(first);
    let mut text = format!("{algorithm} {first}-{last} {digest} ").into_bytes();
    text.extend(path);
    text
}

/// The line in FEAT (§3.1): all names, with a star at the selected one.
pub fn feat_line(names: &[&str], selected: &str) -> String {
    let marked = names.iter().map(|name| {
        let star = if *name == selected { "*" } else { "" };
        format!("{name}{star}")
    });
    format!("HASH {}", marked.collect::<Vec<_>>().join(";"))
}

/// The argument behind OPTS HASH (§3.2): nothing, which asks for the selected algorithm, or one name.
///
/// # Errors
/// When it cannot be a name: letters, digits and `-_/.,` (§3).
pub fn parse_options(argument: &[u8]) -> Result<Option<&[u8]>, NotAName> {
    let name = argument.trim_ascii();
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_/.,".contains(byte);
    match name {
        b"" => Ok(None),
        name if name.iter().all(fits) => Ok(Some(name)),
        _ => Err(NotAName),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAName;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_tells_first_and_last_byte() {
        let text = |first, end| {
            let text = reply_text("SHA-256", first, end, "ab12", b"a b");
            String::from_utf8(text).unwrap()
        };
        assert_eq!(text(0, 50), "SHA-256 0-49 ab12 a b");
        assert_eq!(text(7, 8), "SHA-256 7-7 ab12 a b");
        assert_eq!(text(0, 0), "SHA-256 0-0 ab12 a b");
    }

    #[test]
    fn feat_marks_the_selected_one() {
        let names = ["SHA-256", "SHA-512", "MD5"];
        assert_eq!(feat_line(&names, "SHA-256"), "HASH SHA-256*;SHA-512;MD5");
        assert_eq!(feat_line(&names, "MD5"), "HASH SHA-256;SHA-512;MD5*");
    }

    #[test]
    fn options_are_one_name_or_none() {
        assert_eq!(parse_options(b""), Ok(None));
        assert_eq!(parse_options(b" "), Ok(None));
        assert_eq!(parse_options(b"sha-1 "), Ok(Some(&b"sha-1"[..])));
        for bad in [&b"SHA-1 MD5"[..], b"SHA-1;", b"SHA-1*", b"\xff"] {
            assert_eq!(parse_options(bad), Err(NotAName), "{bad:?}");
        }
    }
}
