//! The argument of RANG (draft-bryan-ftp-range §3): two octets of a file, the first and the last.
use super::numbers::parse_decimal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// `1 0`: the whole file again.
    Whole,
    /// Offsets of bytes; the last one is part of the range.
    Octets { first: u64, last: u64 },
}

/// None for anything but two numbers below 2^63, the first not larger than the second.
pub fn parse_range(argument: &[u8]) -> Option<Range> {
    let space = argument.iter().position(|&byte| byte == b' ')?;
    let (first, last) = (
        parse_decimal(&argument[..space])?,
        parse_decimal(&argument[space + 1..])?,
    );
    match (first, last) {
        (1, 0) => Some(Range::Whole),
        // Files have sizes below 2^63.
        _ if first > last || i64::try_from(last).is_err() => None,
        _ => Some(Range::Octets { first, last }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_octets_and_one_means_the_whole() {
        let range = |first, last| Some(Range::Octets { first, last });
        assert_eq!(parse_range(b"0 49"), range(0, 49));
        assert_eq!(parse_range(b"7 7"), range(7, 7));
        assert_eq!(
            parse_range(b"0 9223372036854775807"),
            range(0, (1 << 63) - 1)
        );
        assert_eq!(parse_range(b"1 0"), Some(Range::Whole));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &b""[..],
            b"5",
            b"5 ",
            b" 5",
            b"5 4",
            b"2 0",
            b"0  5",
            b"0 5 ",
            b"0 5 6",
            b"-1 5",
            b"0 -1",
            b"0-5",
            b"a b",
            b"0 9223372036854775808",
            b"0 99999999999999999999",
        ] {
            assert_eq!(parse_range(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
