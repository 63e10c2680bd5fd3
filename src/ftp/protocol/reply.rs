//! Replies (RFC 959 §4.2): a code of three digits and text, on one line or more. Nothing that a client or a file name
//! brings into a text can end a line or look like another reply.
use super::numbers::number_into;
use super::visible;

/// Byte 255, which begins Telnet commands and stands for itself when doubled (RFC 854).
const IAC: u8 = 255;

/// The only thing that is written on the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    first: Vec<u8>,
    /// The lines between and the last one, where there is more than one.
    rest: Option<(Vec<Vec<u8>>, Vec<u8>)>,
}

impl Reply {
    pub fn new(code: u16, text: impl AsRef<[u8]>) -> Self {
        Self {
            code,
            first: text.as_ref().to_vec(),
            rest: None,
        }
    }

    pub fn multi(
        code: u16,
        first: impl AsRef<[u8]>,
        middle: Vec<Vec<u8>>,
        last: impl AsRef<[u8]>,
    ) -> Self {
        Self {
            code,
            first: first.as_ref().to_vec(),
            rest: Some((middle, last.as_ref().to_vec())),
        }
    }

    pub fn code(&self) -> u16 {
        self.code
    }

    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let Some((middle, last)) = &self.rest else {
            line_into(self.code, b' ', &self.first, out);
            return;
        };
        opening_line_into(self.code, &self.first, out);
        for line in middle {
            middle_line_into(out, line);
        }
        line_into(self.code, b' ', last, out);
    }
}

/// The first line of a reply that has more: code, hyphen, text.
pub fn opening_line_into(code: u16, text: impl AsRef<[u8]>, out: &mut Vec<u8>) {
    line_into(code, b'-', text.as_ref(), out);
}

/// A line between: the space in front keeps it from being taken for the last one.
pub fn middle_line_into(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b' ');
    text_into(text, out);
}

fn line_into(code: u16, separator: u8, text: &[u8], out: &mut Vec<u8>) {
    number_into::<10>(u64::from(code), 3, b'0', out);
    out.push(separator);
    text_into(text, out);
}

fn text_into(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        out.push(visible(byte));
        if byte == IAC {
            out.push(IAC);
        }
    }
    out.extend(b"\r\n");
}

/// A path in quotes, those within doubled (RFC 959 appendix II).
pub fn quote_path(path: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for &byte in path {
        quoted.push(byte);
        if byte == b'"' {
            quoted.push(b'"');
        }
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: &Reply) -> Vec<u8> {
        let mut out = Vec::new();
        reply.encode_into(&mut out);
        out
    }

    #[test]
    fn a_line_is_a_code_and_text() {
        assert_eq!(encoded(&Reply::new(226, "Done.")), b"226 Done.\r\n");
        let lines = vec![b"211 forged".to_vec(), b"b".to_vec()];
        assert_eq!(
            encoded(&Reply::multi(211, "One", lines, "End")),
            b"211-One\r\n 211 forged\r\n b\r\n211 End\r\n"
        );
    }

    #[test]
    fn no_text_ends_its_line_early_and_255_is_doubled() {
        assert_eq!(
            encoded(&Reply::new(250, b"a\r\n226 x\0\xff")),
            b"250 a??226 x?\xff\xff\r\n"
        );
    }

    #[test]
    fn quotes_in_a_path_are_doubled() {
        assert_eq!(quote_path(br#"/a"b"#), br#""/a""b""#);
    }
}
