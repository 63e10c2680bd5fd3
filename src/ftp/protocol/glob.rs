//! Patterns in LIST and NLST: `*`, `?`, `[a-z]`, `[!a]`, and `\` before a character that is meant itself. The time for a
//! match grows with pattern times name at most, never faster.

/// Whether the argument has something to match in it.
pub fn is_pattern(argument: &[u8]) -> bool {
    argument
        .iter()
        .any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// One character, or one byte of what is not UTF-8.
    AnyOne,
    /// Anything.
    AnyMany,
    /// One of these ranges of characters, or none of them.
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A pattern for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

impl Pattern {
    /// Every sequence of bytes is a pattern; a `[` that is not closed is itself.
    pub fn new(pattern: &[u8]) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = behind;
            tokens.push(match byte {
                b'*' => Token::AnyMany,
                b'?' => Token::AnyOne,
                b'\\' if !rest.is_empty() => {
                    let escaped = rest[0];
                    rest = &rest[1..];
                    Token::Byte(escaped)
                }
                b'[' => match set(rest) {
                    Some((set, behind)) => {
                        rest = behind;
                        set
                    }
                    None => Token::Byte(b'['),
                },
                byte => Token::Byte(byte),
            });
        }
        tokens.dedup_by(|a, b| *a == Token::AnyMany && *b == Token::AnyMany);
        Self(tokens)
    }

    /// A leading dot is matched by a dot only, as in a shell.
    pub fn matches(&self, name: &[u8]) -> bool {
        if name.first() == Some(&b'.') && self.0.first() != Some(&Token::Byte(b'.')) {
            return false;
        }
        let (mut token, mut at) = (0, 0);
        // Where to go on when the rest does not fit: the last star, and the byte it gives up next.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let step = match self.0.get(token) {
                None if at == name.len() => return true,
                Some(Token::AnyMany) => {
                    retry = Some((token, at));
                    token += 1;
                    continue;
                }
                Some(one) => one.step(&name[at..]),
                None => None,
            };
            if let Some(length) = step {
                token += 1;
                at += length;
                continue;
            }
            match retry {
                Some((star, from)) if from < name.len() => {
                    retry = Some((star, from + 1));
                    (token, at) = (star + 1, from + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    /// How many bytes at the front of `rest` this takes; None when it does not fit.
    fn step(&self, rest: &[u8]) -> Option<usize> {
        let &first = rest.first()?;
        match self {
            Self::Byte(byte) => (first == *byte).then_some(1),
            Self::AnyOne => Some(character(rest).map_or(1, char::len_utf8)),
            Self::Set { negated, ranges } => {
                let c = character(rest);
                let held =
                    c.is_some_and(|c| ranges.iter().any(|&(low, high)| (low..=high).contains(&c)));
                (held != *negated).then(|| c.map_or(1, char::len_utf8))
            }
            Self::AnyMany => None,
        }
    }
}

/// The character at the front, if it is valid UTF-8.
fn character(bytes: &[u8]) -> Option<char> {
    let front = &bytes[..bytes.len().min(4)];
    front.utf8_chunks().next()?.valid().chars().next()
}

/// What stands behind a `[`, and what stands behind its `]`.
fn set(bytes: &[u8]) -> Option<(Token, &[u8])> {
    let (negated, body) = match bytes {
        [b'!' | b'^', body @ ..] => (true, body),
        body => (false, body),
    };
    // A `]` at the very front is a member.
    let end = body.iter().skip(1).position(|&byte| byte == b']')? + 1;
    let members: Vec<char> = std::str::from_utf8(&body[..end]).ok()?.chars().collect();
    let mut ranges = Vec::new();
    let mut members = members.as_slice();
    loop {
        members = match members {
            [low, '-', high, behind @ ..] => {
                ranges.push((*low, *high));
                behind
            }
            [one, behind @ ..] => {
                ranges.push((*one, *one));
                behind
            }
            [] => break,
        };
    }
    Some((Token::Set { negated, ranges }, &body[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern.as_bytes()).matches(name.as_bytes())
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name) in [
            ("*", "x"),
            ("*.jpg", "a.b.jpg"),
            ("a?c", "aéc"),
            ("[a-c]x", "bx"),
            ("[!a]x", "bx"),
            ("[]]", "]"),
            ("a\\*", "a*"),
            ("[x", "[x"),
            ("**a**", "bab"),
            (".*", ".x"),
            ("*é", "né"),
            ("", ""),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*", ".x"),
            ("?", ".x"),
            ("*.jpg", "a.jpeg"),
            ("a?c", "ac"),
            ("[a-c]", "d"),
            ("a\\*", "ab"),
            ("[!a]", "a"),
            ("", "x"),
            ("[.]x", ".x"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(Pattern::new(b"a?").matches(b"a\xff"));
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches(&"*a".repeat(100), &"a".repeat(99)));
        assert!(!Pattern::new(&b"*a*a*a*a*a*a*a*a*b".repeat(20)).matches(&[b'a'; 255]));
    }
}
