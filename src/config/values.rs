//! Values as people write them in the configuration and on the command line.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::PortRange;
use super::file::Seconds;
use crate::storage::{Uploads, group_id};

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

/// # Errors
/// What was expected.
pub fn parse_v4(text: &str) -> Result<Ipv4Addr, String> {
    text.parse()
        .map_err(|_| "expected an IPv4 address (names are not looked up)".into())
}

/// # Errors
/// What was expected.
pub fn parse_level(text: &str) -> Result<log::LevelFilter, String> {
    text.parse()
        .map_err(|_| "expected one of off, error, warn, info, debug, trace".into())
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

/// A group of this host, by name or number.
///
/// # Errors
/// What was expected.
pub fn parse_group(text: &str) -> Result<u32, String> {
    group_id(text).ok_or_else(|| format!("there is no group {text:?} on this host"))
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
