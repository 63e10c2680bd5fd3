//! A command line: verb, one space, argument (RFC 959 §5.3). Verbs are case-insensitive; every further space belongs
//! to the argument, for names may begin and end with spaces.
use std::fmt;

use zeroize::Zeroize as _;

/// The longest verb that is looked at, in bytes.
const LONGEST_VERB: usize = 16;

/// A verb in upper case and its argument as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub verb: Vec<u8>,
    pub argument: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    Empty,
    /// Longer than any verb there is.
    VerbTooLong,
    /// Something other than letters and digits.
    NotAVerb,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the line is empty",
            Self::VerbTooLong => "the verb is too long",
            Self::NotAVerb => "a verb has letters only",
        })
    }
}

impl Command {
    /// Wipes the argument: it may have been a password.
    pub fn wipe(&mut self) {
        self.argument.zeroize();
    }

    /// # Errors
    /// What is wrong with the verb; an argument can be anything.
    pub fn parse(line: &[u8]) -> Result<Self, ParseError> {
        // What is left of Telnet's interrupt where a client leaves out an IAC, as before ABOR: no verb begins so.
        let is_stray = |byte: &u8| *byte >= 0xf0 || byte.is_ascii_whitespace();
        let start = line.iter().position(|byte| !is_stray(byte));
        let line = &line[start.unwrap_or(line.len())..];
        let end = line
            .iter()
            .position(|&byte| byte == b' ')
            .unwrap_or(line.len());
        let verb = &line[..end];
        if verb.is_empty() {
            return Err(ParseError::Empty);
        }
        if verb.len() > LONGEST_VERB {
            return Err(ParseError::VerbTooLong);
        }
        if !verb.iter().all(u8::is_ascii_alphanumeric) {
            return Err(ParseError::NotAVerb);
        }
        let argument = line.get(end + 1..).unwrap_or_default();
        Ok(Self {
            verb: verb.to_ascii_uppercase(),
            argument: argument.to_vec(),
        })
    }
}

/// Whether a line whose verb is none of FTP is the request line of HTTP/1 (RFC 9112 §3): a browser, or a form that was made to
/// talk to an FTP server across protocols.
pub fn is_http_request(command: &Command) -> bool {
    let mut words = command.argument.rsplit(|&byte| byte == b' ');
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    let is_version = matches!(version, Some([major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit());
    is_version && words.count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verb_is_folded_and_the_argument_kept() {
        let command = Command::parse(b"retr  two  spaces ").unwrap();
        assert_eq!(
            (command.verb.as_slice(), command.argument.as_slice()),
            (&b"RETR"[..], &b" two  spaces "[..])
        );
        assert_eq!(Command::parse(b"NOOP").unwrap().argument, b"");
        assert_eq!(Command::parse(b"NOOP ").unwrap().argument, b"");
        for stray in [&b"\xf2"[..], b"\xff\xf4", b" \xf2 \xf0"] {
            let command = Command::parse(&[stray, b"ABOR"].concat()).unwrap();
            assert_eq!(command.verb, b"ABOR");
        }
    }

    #[test]
    fn what_is_no_verb_is_refused() {
        assert_eq!(Command::parse(b""), Err(ParseError::Empty));
        assert_eq!(Command::parse(b"   "), Err(ParseError::Empty));
        assert_eq!(Command::parse(b"R\xc3\xa9TR x"), Err(ParseError::NotAVerb));
        assert_eq!(Command::parse(&[b'A'; 17]), Err(ParseError::VerbTooLong));
    }

    #[test]
    fn an_http_request_is_known_by_its_version() {
        let is_http = |line: &str| is_http_request(&Command::parse(line.as_bytes()).unwrap());
        assert!(is_http("GET / HTTP/1.1") && is_http("POST /x HTTP/1.0"));
        for line in [
            "GET HTTP/1.1",
            "GET / HTTP/1.1 x",
            "GET / HTTP/index.html",
            "GET / http/1.1",
            "NOOP",
        ] {
            assert!(!is_http(line), "{line}");
        }
    }
}
