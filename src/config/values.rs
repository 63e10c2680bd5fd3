//! Values as people write them in the configuration and on the command line.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::file::Seconds;
use super::{Host, PortRange};
use crate::os::users::Users;
use crate::storage::{Room, Uploads};

/// Whether a user can be called so.
pub fn is_user_name(name: &str) -> bool {
    let fits = |c: char| !c.is_control() && !c.is_whitespace() && c != ':';
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

/// `127.0.0.1:2121`, `[::]:2121`, `:2121` or `2121`: a port alone means everywhere.
///
/// # Errors
/// What was expected.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let port_alone = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port_alone.parse::<u16>() {
        return Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    }
    text.parse().map_err(|_| format!("expected an address and a port such as \"[::]:2121\" or \"127.0.0.1:2121\", not {text:?}"))
}

/// `50000-50999`.
///
/// # Errors
/// What was expected.
pub fn parse_ports(text: &str) -> Result<PortRange, String> {
    let ports = text
        .split_once('-')
        .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
    match ports {
        Some((low, high)) if low >= 1024 && low <= high => Ok(PortRange { low, high }),
        _ => Err(format!(
            "expected two ports from 1024 to 65535 such as \"50000-50999\", the lower one first, not {text:?}"
        )),
    }
}

/// An IPv4 address, or a host name with a letter in it (RFC 1123 §2.1).
///
/// # Errors
/// What was expected.
pub fn parse_host(text: &str) -> Result<Host, String> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        let is_hosts =
            !(address.is_unspecified() || address.is_broadcast() || address.is_multicast());
        return match is_hosts {
            true => Ok(Host::Address(address)),
            false => Err("expected the address of a host".into()),
        };
    }
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-')
    };
    let labels = text.strip_suffix('.').unwrap_or(text);
    let is_name = labels.len() <= 253
        && labels.split('.').all(is_label)
        && labels.bytes().any(|byte| byte.is_ascii_alphabetic());
    match is_name {
        true => Ok(Host::Name(text.to_owned())),
        false => Err("expected an IPv4 address or a host name".into()),
    }
}

/// # Errors
/// What was expected.
pub fn parse_level(text: &str) -> Result<log::LevelFilter, String> {
    text.parse()
        .map_err(|_| "expected one of off, error, warn, info, debug, trace".into())
}

/// # Errors
/// What was expected.
pub fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected \"on\" or \"off\"".into()),
    }
}

/// An octal mode.
///
/// # Errors
/// What was expected.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|&mode| mode <= 0o777 && !text.starts_with('+'));
    mode.ok_or_else(|| "expected an octal mode in quotes from \"0\" to \"0777\"".into())
}

/// # Errors
/// What was expected.
pub fn parse_uploads(text: &str) -> Result<Uploads, String> {
    match text {
        "atomic" => Ok(Uploads::Atomic),
        "direct" => Ok(Uploads::Direct),
        _ => Err("expected \"atomic\" or \"direct\"".into()),
    }
}

/// Bytes, such as `500MB`, `2 GiB` or `1000000`: powers of ten, or with an `i` of two.
///
/// # Errors
/// What was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let (letter, power): (&str, u32) = match unit.trim_end_matches('b') {
        "" => ("", 0),
        "k" => ("k", 1),
        "m" => ("m", 2),
        "g" => ("g", 3),
        "t" => ("t", 4),
        "ki" => ("ki", 1),
        "mi" => ("mi", 2),
        "gi" => ("gi", 3),
        "ti" => ("ti", 4),
        _ => ("?", 0),
    };
    let base: u64 = if letter.ends_with('i') { 1024 } else { 1000 };
    let bytes = number.parse::<u64>().ok();
    let bytes = bytes.and_then(|number| number.checked_mul(base.pow(power)));
    bytes
        .filter(|_| letter != "?" && unit.len() <= letter.len() + 1)
        .ok_or_else(|| format!("expected a size such as \"500MB\" or \"2GiB\", not {text:?}"))
}

/// A part of a disk: a size, or `5%`.
///
/// # Errors
/// What was expected.
pub fn parse_room(text: &str) -> Result<Room, String> {
    let Some(number) = text.trim().strip_suffix('%') else {
        return match parse_size(text) {
            Ok(bytes) => Ok(Room {
                bytes: Some(bytes),
                percent: None,
            }),
            Err(_) => Err(format!(
                "expected a size such as \"500MB\" or a part of the disk such as \"5%\", not {text:?}"
            )),
        };
    };
    match number.trim().parse::<u8>() {
        Ok(percent) if percent < 100 => Ok(Room {
            bytes: None,
            percent: Some(percent),
        }),
        _ => Err("expected a part of the disk from \"0%\" to \"99%\"".into()),
    }
}

/// A group of this host, by name or number.
///
/// # Errors
/// What was expected.
pub fn parse_group(text: &str) -> Result<u32, String> {
    Users::at_start()
        .group_id(text)
        .ok_or_else(|| format!("there is no group {text:?} on this host"))
}

/// A time on the command line: `90s`, `15m`, `30d`.
///
/// # Errors
/// What was expected.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    seconds(&Seconds::Text(text.to_owned()))
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("expected a time such as 15m, 2h or 30d, not {text:?}"))
}

/// A time in seconds; None for what is none.
pub fn seconds(value: &Seconds) -> Option<u64> {
    let text = match value {
        Seconds::Number(seconds) => return u64::try_from(*seconds).ok(),
        Seconds::Text(text) => text.trim(),
    };
    let (number, unit) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        b'd' => (&text[..text.len() - 1], 24 * 3600),
        _ => (text, 1),
    };
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_listens_everywhere() {
        assert_eq!(parse_listen("2121").unwrap().to_string(), "[::]:2121");
        assert_eq!(parse_listen(":2121").unwrap().to_string(), "[::]:2121");
        assert!(parse_listen("70000").is_err() && parse_listen("").is_err());
    }

    #[test]
    fn sizes_have_units_and_parts_of_a_disk_a_percent_sign() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("500MB", 500_000_000),
            ("2 GiB", 2 << 30),
            ("3k", 3000),
            ("1ti", 1 << 40),
            ("7b", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "-1", "1.5GB", "1 XB", "1bb", "20000000000GB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_room("5%").unwrap().of(1000), 50);
        assert_eq!(parse_room("1GB").unwrap().of(1), 1_000_000_000);
        assert!(parse_room("100%").is_err() && parse_room("all").is_err());
    }

    #[test]
    fn times_have_units() {
        let value = |text: &str| seconds(&Seconds::Text(text.into()));
        assert_eq!(
            (value("90s"), value("15m"), value("2h"), value("7")),
            (Some(90), Some(900), Some(7200), Some(7))
        );
        assert_eq!(
            (
                value(""),
                value("m"),
                value("-1s"),
                value("99999999999999999999h")
            ),
            (None, None, None, None)
        );
    }
}
