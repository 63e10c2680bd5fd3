//! What the owner of the server can see of it: log lines and the transfer log.
//!
//! Knows no protocol. Whatever a client sent passes through [`printable`] before a person reads it.
pub mod limit;
pub mod log_lines;
pub mod origin;
pub mod queue;
pub mod transfer_log;

use std::fmt::{self, Display, Write as _};

/// Bytes from a client or a file system made safe for a terminal and a log: valid UTF-8 text stays as it is; control
/// characters, the bidirectional overrides of Unicode, backslashes and bytes that are not UTF-8 become escapes.
pub fn printable(bytes: &[u8]) -> impl Display + '_ {
    Printable(bytes)
}

struct Printable<'a>(&'a [u8]);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => f.write_str("\\\\")?,
                    c if is_unsafe_to_show(c) => write!(f, "{}", c.escape_unicode())?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Control characters, line separators and what reorders text on a terminal.
fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_stray_bytes_are_escaped_and_text_is_kept() {
        assert_eq!(printable("größe 写".as_bytes()).to_string(), "größe 写");
        assert_eq!(
            printable(b"a\r\nb\x1b[31m\x7f").to_string(),
            "a\\u{d}\\u{a}b\\u{1b}[31m\\u{7f}"
        );
        assert_eq!(printable(b"\xff\\").to_string(), "\\xff\\\\");
        assert_eq!(printable("\u{202e}".as_bytes()).to_string(), "\\u{202e}");
    }
}
