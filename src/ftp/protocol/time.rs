//! Times: the `time-val` of RFC 3659 §2.3 in UTC, the shorter form of SITE UTIME, and dates in LIST.
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};

use super::numbers::number_into;

/// A date is shown with its time while it is at most this old, in seconds (half a year, as `ls` has it).
const RECENT: i64 = 182 * 24 * 3600;

/// Seconds since 1970 as a calendar date in UTC; out of jiff's range the nearest it knows.
fn civil(seconds: i64) -> DateTime {
    let bounded = seconds.clamp(-62_135_596_800, 253_402_207_200);
    let timestamp = Timestamp::from_second(bounded).unwrap_or(Timestamp::UNIX_EPOCH);
    Offset::UTC.to_datetime(timestamp)
}

/// `YYYYMMDDhhmmss`.
pub fn format_timeval(seconds: i64) -> String {
    let mut text = Vec::with_capacity(14);
    timeval_into(seconds, &mut text);
    // Digits only.
    String::from_utf8(text).unwrap_or_default()
}

/// The same, written behind what is there.
pub fn timeval_into(seconds: i64, out: &mut Vec<u8>) {
    let t = civil(seconds);
    number_into::<10>(u64::from(t.year().unsigned_abs()), 4, b'0', out);
    for part in [t.month(), t.day(), t.hour(), t.minute(), t.second()] {
        number_into::<10>(u64::from(part.unsigned_abs()), 2, b'0', out);
    }
}

/// `YYYYMMDDhhmmss` with an optional fraction, as seconds since 1970 and nanoseconds. A leap second is the second
/// before it. None for anything that is no date.
pub fn parse_timeval(text: &[u8]) -> Option<(i64, u32)> {
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], Some(&text[dot + 1..])),
        None => (text, None),
    };
    let nanoseconds = match fraction {
        None => 0,
        Some(digits) if (1..=9).contains(&digits.len()) => {
            number(digits)? * 10_u32.pow(9 - u32::try_from(digits.len()).ok()?)
        }
        Some(_) => return None,
    };
    if whole.len() != 14 {
        return None;
    }
    Some((seconds_of(whole)?, nanoseconds))
}

/// `YYYYMMDDhhmm` or `YYYYMMDDhhmmss`, as SITE UTIME has it.
pub fn parse_utime_short(text: &[u8]) -> Option<i64> {
    match text.len() {
        12 => seconds_of(&[text, b"00"].concat()),
        14 => seconds_of(text),
        _ => None,
    }
}

fn seconds_of(digits: &[u8]) -> Option<i64> {
    let part = |from: usize, to: usize| number(&digits[from..to]);
    let small = |from, to| part(from, to).and_then(|n| i8::try_from(n).ok());
    // The year before the first is no year of this calendar, and could not be shown again.
    let year = i16::try_from(part(0, 4)?).ok().filter(|&year| year > 0)?;
    let date = Date::new(year, small(4, 6)?, small(6, 8)?).ok()?;
    let second = match small(12, 14)? {
        60 => 59,
        second => second,
    };
    let time = jiff::civil::Time::new(small(8, 10)?, small(10, 12)?, second, 0).ok()?;
    Some(
        TimeZone::UTC
            .to_timestamp(date.to_datetime(time))
            .ok()?
            .as_second(),
    )
}

/// At most nine digits.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |value, &byte| {
        byte.is_ascii_digit()
            .then(|| value.checked_mul(10)?.checked_add(u32::from(byte - b'0')))?
    })
}

/// Twelve columns: `Nov 24 12:27` for the last half year, `Nov 24  2025` for what is older or in the future, so that a
/// clock set wrong never makes a client guess the year.
pub fn list_time_into(modified: i64, now: i64, out: &mut Vec<u8>) {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let t = civil(modified);
    let month = MONTHS
        .get(usize::from(t.month().unsigned_abs()).wrapping_sub(1))
        .unwrap_or(&"Jan");
    out.extend_from_slice(month.as_bytes());
    let mut number = |before: &[u8], value: u64, width, fill| {
        out.extend_from_slice(before);
        number_into::<10>(value, width, fill, out);
    };
    let small = |value: i8| u64::from(value.unsigned_abs());
    number(b" ", small(t.day()), 2, b' ');
    if modified <= now && now.saturating_sub(modified) <= RECENT {
        number(b" ", small(t.hour()), 2, b'0');
        number(b":", small(t.minute()), 2, b'0');
    } else {
        number(b"  ", u64::from(t.year().unsigned_abs()), 4, b'0');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_time(modified: i64, now: i64) -> String {
        let mut text = Vec::new();
        list_time_into(modified, now, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_time_value_goes_both_ways() {
        assert_eq!(parse_timeval(b"20261124122700"), Some((1_795_523_220, 0)));
        assert_eq!(format_timeval(1_795_523_220), "20261124122700");
        assert_eq!(parse_timeval(b"19700101000000.5"), Some((0, 500_000_000)));
        assert_eq!(
            parse_timeval(b"20161231235960"),
            parse_timeval(b"20161231235959")
        );
        assert_eq!(
            parse_timeval(b"20240229000000")
                .map(|(seconds, _)| format_timeval(seconds))
                .unwrap(),
            "20240229000000"
        );
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in [
            &b""[..],
            b"2026112412270",
            b"202611241227000",
            b"20261324122700",
            b"20260230000000",
            b"20261124250000",
            b"20261124126000",
            b"20261124120061",
            b"2026112412270x",
            b"20261124122700.",
            b"20261124122700.1234567890",
            b"-0261124122700",
            b"00000226165923",
        ] {
            assert_eq!(parse_timeval(bad), None, "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(parse_utime_short(b"2026112412"), None);
    }

    #[test]
    fn any_time_can_be_shown() {
        for seconds in [i64::MIN, -1, 0, i64::MAX] {
            assert_eq!(format_timeval(seconds).len(), 14);
            assert_eq!(list_time(seconds, 0).len(), 12);
        }
    }

    #[test]
    fn old_and_future_dates_show_the_year() {
        let now = 1_795_523_220;
        assert_eq!(list_time(now, now), "Nov 24 12:27");
        assert_eq!(list_time(now - RECENT, now), "May 26 12:27");
        assert_eq!(list_time(now - RECENT - 1, now), "May 26  2026");
        assert_eq!(list_time(now + 60, now), "Nov 24  2026");
    }
}
