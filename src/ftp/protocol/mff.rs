//! The argument of MFF (draft-somers-ftp-mfxx §5): `fact=value;...`, a space, a path.
use super::numbers::parse_octal_mode;
use super::time::parse_timeval;

/// A fact to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Seconds since 1970 and nanoseconds.
    Modify(i64, u32),
    UnixMode(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MffError {
    /// Answered 501.
    Syntax,
    /// Answered 504.
    UnsupportedFact(String),
}

/// The facts and the path.
///
/// # Errors
/// The first fact that is unknown, or that something is malformed; then nothing must be set.
pub fn parse_mff(argument: &[u8]) -> Result<(Vec<Fact>, &[u8]), MffError> {
    let space = argument
        .iter()
        .position(|&byte| byte == b' ')
        .ok_or(MffError::Syntax)?;
    let (facts, path) = (&argument[..space], &argument[space + 1..]);
    let facts = facts.strip_suffix(b";").ok_or(MffError::Syntax)?;
    if path.is_empty() {
        return Err(MffError::Syntax);
    }
    let facts: Result<Vec<Fact>, MffError> = facts.split(|&byte| byte == b';').map(fact).collect();
    Ok((facts?, path))
}

fn fact(text: &[u8]) -> Result<Fact, MffError> {
    let equals = text
        .iter()
        .position(|&byte| byte == b'=')
        .ok_or(MffError::Syntax)?;
    let (name, value) = (&text[..equals], &text[equals + 1..]);
    match name.to_ascii_lowercase().as_slice() {
        b"modify" => {
            let (seconds, nanoseconds) = parse_timeval(value).ok_or(MffError::Syntax)?;
            Ok(Fact::Modify(seconds, nanoseconds))
        }
        b"unix.mode" => {
            let mode = parse_octal_mode(value).filter(|&mode| mode <= 0o777);
            mode.map(Fact::UnixMode).ok_or(MffError::Syntax)
        }
        _ => Err(MffError::UnsupportedFact(
            String::from_utf8_lossy(name).into_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_followed_by_a_path() {
        let (facts, path) = parse_mff(b"Modify=19700101000001;UNIX.mode=0600; a b").unwrap();
        assert_eq!(
            (facts.as_slice(), path),
            (
                &[Fact::Modify(1, 0), Fact::UnixMode(0o600)][..],
                &b"a b"[..]
            )
        );
    }

    #[test]
    fn what_is_malformed_or_unknown_is_refused() {
        for bad in [
            &b""[..],
            b"Modify=19700101000001;",
            b"Modify=19700101000001 x",
            b"Modify=x; x",
            b"; x",
            b"UNIX.mode=4755; x",
            b"Modify=19700101000001; ",
        ] {
            assert_eq!(
                parse_mff(bad),
                Err(MffError::Syntax),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
        assert_eq!(
            parse_mff(b"Create=1; x"),
            Err(MffError::UnsupportedFact("Create".into()))
        );
    }
}
