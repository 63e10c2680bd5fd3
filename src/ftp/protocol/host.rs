//! The argument of HOST (RFC 7151 §3.1): a host name, an IPv4 address, or an IPv6 address in brackets.
use std::net::{Ipv4Addr, Ipv6Addr};

/// The name in lower case, or None where it is none.
pub fn parse_host(argument: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(argument).ok()?;
    if let Some(address) = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        return address
            .parse::<Ipv6Addr>()
            .ok()
            .map(|address| format!("[{address}]"));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(address.to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let inner = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    (name.len() <= 253 && name.split('.').all(is_label)).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_taken_and_the_rest_is_not() {
        assert_eq!(parse_host(b"NAS.local").as_deref(), Some("nas.local"));
        assert_eq!(parse_host(b"[::1]").as_deref(), Some("[::1]"));
        assert_eq!(parse_host(b"127.0.0.1").as_deref(), Some("127.0.0.1"));
        for bad in [
            &b""[..],
            b"a b",
            b"-a",
            b"a..b",
            b"::1",
            b"[x]",
            b"a\xff",
            &[b'a'; 64],
        ] {
            assert_eq!(parse_host(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
