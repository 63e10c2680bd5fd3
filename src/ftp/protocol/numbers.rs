//! Numbers in arguments: digits only, no sign, no space, never wrapped. And numbers in listings.

/// # Returns
/// None for anything but digits, and beyond 2^64-1.
pub fn parse_decimal(text: &[u8]) -> Option<u64> {
    parse(text, 10)
}

/// A file mode of one to five octal digits up to 7777.
pub fn parse_octal_mode(text: &[u8]) -> Option<u32> {
    let mode = parse(text, 8).filter(|_| text.len() <= 5)?;
    u32::try_from(mode).ok().filter(|&mode| mode <= 0o7777)
}

/// The argument of ALLO: `n`, or `n R m` (RFC 959 §4.1.3), of which the record size has no meaning for files.
pub fn parse_allo(argument: &[u8]) -> Option<u64> {
    let words: Vec<&[u8]> = argument
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty())
        .collect();
    match words.as_slice() {
        [bytes] => parse_decimal(bytes),
        [bytes, r, record] if r.eq_ignore_ascii_case(b"R") => {
            parse_decimal(record).and(parse_decimal(bytes))
        }
        _ => None,
    }
}

fn parse(text: &[u8], radix: u32) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, &byte| {
        let digit = char::from(byte).to_digit(radix)?;
        value
            .checked_mul(u64::from(radix))?
            .checked_add(u64::from(digit))
    })
}

/// Writes the number in base `RADIX` (up to 16), filled up from the left to so many columns: without the formatter and the
/// memory of `format!`, of which a listing needs several a line.
pub fn number_into<const RADIX: u64>(mut value: u64, width: usize, fill: u8, out: &mut Vec<u8>) {
    // As many as 2^64-1 has in base 2.
    let mut digits = [0; 64];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(value % RADIX) as usize];
        value /= RADIX;
        if value == 0 {
            break;
        }
    }
    let digits = &digits[at..];
    out.resize(out.len() + width.saturating_sub(digits.len()), fill);
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_formatter_does() {
        for value in [0, 7, 8, 9, 10, 99, 100, 4095, 1 << 40, u64::MAX] {
            let mut out = Vec::new();
            number_into::<10>(value, 5, b' ', &mut out);
            assert_eq!(out, format!("{value:>5}").as_bytes());
            out.clear();
            number_into::<8>(value, 4, b'0', &mut out);
            assert_eq!(out, format!("{value:04o}").as_bytes());
            out.clear();
            number_into::<16>(value, 0, b'0', &mut out);
            assert_eq!(out, format!("{value:x}").as_bytes());
        }
    }

    #[test]
    fn only_digits_within_range_are_numbers() {
        assert_eq!(parse_decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in [
            &b""[..],
            b"18446744073709551616",
            b"-1",
            b"+1",
            b" 1",
            b"1 ",
            b"0x1",
            b"1\xc2\xb2",
        ] {
            assert_eq!(parse_decimal(bad), None, "{bad:?}");
        }
        assert_eq!(parse_octal_mode(b"0644"), Some(0o644));
        assert_eq!(parse_octal_mode(b"10000"), None);
        assert_eq!(parse_octal_mode(b"8"), None);
    }

    #[test]
    fn allo_takes_a_record_size_and_forgets_it() {
        assert_eq!(parse_allo(b"100"), Some(100));
        assert_eq!(parse_allo(b"100 R 512"), Some(100));
        assert_eq!(parse_allo(b"100 512"), None);
        assert_eq!(parse_allo(b"R 512"), None);
    }
}
