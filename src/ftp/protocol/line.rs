//! Lines on the control connection: Telnet strings as RFC 959 §5.3 and RFC 1123 §4.1.2.10 profile RFC 854. Telnet's own
//! commands are taken out, bytes above 127 stay what they are, and no line makes memory grow beyond its limit. Passwords
//! come this way: what was read is wiped wherever it lay.

use zeroize::Zeroize as _;

/// The longest command line, in bytes without its end.
pub const LONGEST: usize = 4096;

const IAC: u8 = 255;
const SE: u8 = 240;
const DM: u8 = 242;
const IP: u8 = 244;
const SB: u8 = 250;
const WILL: u8 = 251;
const DONT: u8 = 254;

/// A line, or what is wrong with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Command(Vec<u8>),
    /// Longer than [`LONGEST`]; told when the limit is passed, and the rest is discarded.
    TooLong,
    /// A NUL stood in it (RFC 854 allows it behind CR only).
    HoldsNul,
}

/// Where in a Telnet sequence the last byte was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Telnet {
    #[default]
    Text,
    Iac,
    /// WILL, WONT, DO or DONT: an option follows.
    Option,
    Subnegotiation,
    SubnegotiationIac,
}

impl Line {
    /// Wipes what was said.
    pub fn wipe(&mut self) {
        if let Self::Command(line) = self {
            line.zeroize();
        }
    }
}

/// Takes bytes as they come and gives lines.
#[derive(Debug, Default)]
pub struct LineDecoder {
    /// Bytes not looked at yet; what lies before `start` is done.
    input: Vec<u8>,
    start: usize,
    /// The line so far.
    line: Vec<u8>,
    telnet: Telnet,
    after_cr: bool,
    holds_nul: bool,
    /// The line was too long and that was told: skip to its end.
    discarding: bool,
}

impl LineDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        // Moving the rest to the front pays once at least as much has been read as remains.
        let moves = self.start > 0 && self.start * 2 >= self.input.len();
        let room = self.input.capacity() - self.input.len();
        if moves || room < bytes.len() {
            let rest = &self.input[self.start..];
            let mut input = Vec::with_capacity(rest.len() + bytes.len());
            input.extend_from_slice(rest);
            self.input.zeroize();
            (self.input, self.start) = (input, 0);
        }
        self.input.extend_from_slice(bytes);
    }

    /// Bytes held that are not part of a line given out.
    pub fn pending(&self) -> usize {
        self.input.len() - self.start + self.line.len()
    }

    /// Gives memory back that only a burst needed.
    pub fn shrink(&mut self) {
        if self.start == self.input.len() {
            self.input.zeroize();
            self.input = Vec::new();
            self.start = 0;
        }
        if self.line.is_empty() {
            self.line = Vec::new();
        }
    }

    /// The next whole line, or None until more bytes are fed.
    pub fn next_line(&mut self) -> Option<Line> {
        while self.start < self.input.len() {
            let byte = std::mem::take(&mut self.input[self.start]);
            self.start += 1;
            let text = self.without_telnet(byte);
            if let Some(line) = text.and_then(|byte| self.take(byte)) {
                return Some(line);
            }
        }
        None
    }

    /// The byte where it is text; None where it belongs to a Telnet command.
    fn without_telnet(&mut self, byte: u8) -> Option<u8> {
        let (next, text) = match (self.telnet, byte) {
            (Telnet::Text, IAC) => (Telnet::Iac, None),
            (Telnet::Text, byte) | (Telnet::Iac, byte @ IAC) => (Telnet::Text, Some(byte)),
            (Telnet::Iac, WILL..=DONT) => (Telnet::Option, None),
            (Telnet::Iac, SB) => (Telnet::Subnegotiation, None),
            // Whoever interrupts has not finished the line before (RFC 854: the Synch discards what was said).
            (Telnet::Iac, IP | DM) => {
                self.line.zeroize();
                (self.after_cr, self.holds_nul) = (false, false);
                (Telnet::Text, None)
            }
            // No command of Telnet: its sender knows nothing of Telnet, and means text.
            (Telnet::Iac, byte) if byte < SE => (Telnet::Text, Some(byte)),
            // AO, AYT and the rest are two bytes long.
            (Telnet::Iac, _) | (Telnet::Option, _) | (Telnet::SubnegotiationIac, SE) => {
                (Telnet::Text, None)
            }
            (Telnet::Subnegotiation, IAC) => (Telnet::SubnegotiationIac, None),
            (Telnet::Subnegotiation | Telnet::SubnegotiationIac, _) => {
                (Telnet::Subnegotiation, None)
            }
        };
        self.telnet = next;
        text
    }

    fn take(&mut self, byte: u8) -> Option<Line> {
        let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
        match byte {
            b'\n' => return self.end(after_cr),
            _ if self.discarding => return None,
            // RFC 854: CR NUL is a bare CR.
            0 if after_cr => {}
            0 => self.holds_nul = true,
            byte => self.push(byte),
        }
        if self.line.len() > LONGEST + 1 {
            self.discarding = true;
            self.line.zeroize();
            return Some(Line::TooLong);
        }
        None
    }

    /// Grows the line without leaving its beginning in freed memory.
    fn push(&mut self, byte: u8) {
        if self.line.len() == self.line.capacity() {
            let mut longer = Vec::with_capacity((self.line.len() * 2).max(64));
            longer.extend_from_slice(&self.line);
            self.line.zeroize();
            self.line = longer;
        }
        self.line.push(byte);
    }

    fn end(&mut self, after_cr: bool) -> Option<Line> {
        if std::mem::take(&mut self.discarding) {
            self.holds_nul = false;
            return None;
        }
        if after_cr {
            self.line.pop();
        }
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.holds_nul) {
            line.zeroize();
            return Some(Line::HoldsNul);
        }
        // One byte more was let in, for it could have been the CR.
        Some(if line.len() > LONGEST {
            Line::TooLong
        } else {
            Line::Command(line)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Line> {
        let mut decoder = LineDecoder::new();
        decoder.feed(bytes);
        std::iter::from_fn(|| decoder.next_line()).collect()
    }

    fn command(text: &[u8]) -> Line {
        Line::Command(text.to_vec())
    }

    #[test]
    fn lines_end_with_crlf_or_a_bare_lf_and_keep_a_bare_cr() {
        assert_eq!(
            lines(b"A\r\nB\nC\rD\r\n\r\npart"),
            [command(b"A"), command(b"B"), command(b"C\rD"), command(b"")]
        );
    }

    #[test]
    fn telnet_commands_vanish_and_a_doubled_255_is_a_byte() {
        assert_eq!(lines(b"\xff\xf4\xff\xf2ABOR\r\n"), [command(b"ABOR")]);
        assert_eq!(lines(b"RETR a\xff\xffb\r\n"), [command(b"RETR a\xffb")]);
        assert_eq!(
            lines(b"NO\xff\xfb\x01OP\xff\xfa\x18\x00\xff\xff\xff\xf0\r\n"),
            [command(b"NOOP")]
        );
    }

    #[test]
    fn a_nul_spoils_its_line_only_unless_it_follows_a_cr() {
        assert_eq!(
            lines(b"DELE a\0b\r\nNOOP\r\n"),
            [Line::HoldsNul, command(b"NOOP")]
        );
        assert_eq!(lines(b"A\r\0B\r\n"), [command(b"A\rB")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_once_and_the_next_one_is_whole() {
        let mut bytes = vec![b'x'; LONGEST];
        bytes.extend(b"\r\n");
        assert_eq!(lines(&bytes), [command(&bytes[..LONGEST])]);
        for length in [LONGEST + 1, LONGEST + 2, 100_000] {
            let mut bytes = vec![b'x'; length];
            bytes.extend(b"\0\r\nNOOP\r\n");
            let got = lines(&bytes);
            assert_eq!(got.len(), 2, "{length}");
            assert!(matches!(got[0], Line::TooLong | Line::HoldsNul));
            assert_eq!(got[1], command(b"NOOP"));
        }
    }

    #[test]
    fn what_was_given_out_is_wiped_where_it_lay() {
        let mut decoder = LineDecoder::new();
        decoder.feed(b"PASS sec");
        assert_eq!(decoder.next_line(), None);
        decoder.feed(b"ret\r\nNOOP");
        let mut line = decoder.next_line().unwrap();
        assert_eq!(line, command(b"PASS secret"));
        assert!(decoder.input[..decoder.start].iter().all(|&byte| byte == 0));
        assert!(decoder.line.is_empty());
        line.wipe();
        assert_eq!(line, command(b""));
        decoder.feed(b"\r\n");
        assert_eq!(decoder.next_line(), Some(command(b"NOOP")));
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut decoder = LineDecoder::new();
        let mut told = 0;
        for _ in 0..1000 {
            decoder.feed(&[b'x'; 4096]);
            told += std::iter::from_fn(|| decoder.next_line()).count();
        }
        assert_eq!(told, 1);
        assert_eq!(decoder.pending(), 0);
        decoder.shrink();
        assert_eq!(decoder.input.capacity(), 0);
    }
}
