//! Addresses of data connections: PORT and PASV (RFC 959 §5.3.2), EPRT and EPSV (RFC 2428 §2, §3).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use super::numbers::parse_decimal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPortError {
    /// Answered 501.
    Syntax,
    /// A network protocol other than IPv4 and IPv6; answered 522 (RFC 2428 §2).
    UnsupportedProtocol,
}

/// What EPSV was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpsvArgument {
    Any,
    V4,
    V6,
    All,
}

/// `h1,h2,h3,h4,p1,p2`.
///
/// # Errors
/// Anything but six numbers from 0 to 255, and port 0.
pub fn parse_port(argument: &[u8]) -> Result<SocketAddrV4, HostPortError> {
    let mut numbers = [0; 6];
    let mut parts = argument.split(|&byte| byte == b',');
    for number in &mut numbers {
        let part = parts.next().ok_or(HostPortError::Syntax)?;
        *number = parse_decimal(part)
            .and_then(|n| u8::try_from(n).ok())
            .ok_or(HostPortError::Syntax)?;
    }
    let [a, b, c, d, high, low] = numbers;
    let port = u16::from_be_bytes([high, low]);
    if parts.next().is_some() || port == 0 {
        return Err(HostPortError::Syntax);
    }
    Ok(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
}

/// `|1|127.0.0.1|6275|`, with any printable character for the bar.
///
/// # Errors
/// `Syntax`, also for an address with a scope and for port 0; `UnsupportedProtocol` for numbers other than 1 and 2.
pub fn parse_eprt(argument: &[u8]) -> Result<SocketAddr, HostPortError> {
    let (&delimiter, fields) = argument.split_first().ok_or(HostPortError::Syntax)?;
    let fields = fields
        .strip_suffix(&[delimiter])
        .ok_or(HostPortError::Syntax)?;
    let fields: Vec<&[u8]> = fields.split(|&byte| byte == delimiter).collect();
    let &[protocol, address, port] = fields.as_slice() else {
        return Err(HostPortError::Syntax);
    };
    if !(33..=126).contains(&delimiter) {
        return Err(HostPortError::Syntax);
    }
    let text = std::str::from_utf8(address).map_err(|_| HostPortError::Syntax)?;
    let address: IpAddr = match parse_decimal(protocol).ok_or(HostPortError::Syntax)? {
        1 => text
            .parse::<Ipv4Addr>()
            .map_err(|_| HostPortError::Syntax)?
            .into(),
        2 => text
            .parse::<Ipv6Addr>()
            .map_err(|_| HostPortError::Syntax)?
            .into(),
        _ => return Err(HostPortError::UnsupportedProtocol),
    };
    let port = parse_decimal(port)
        .and_then(|n| u16::try_from(n).ok())
        .filter(|&port| port != 0);
    Ok(SocketAddr::new(address, port.ok_or(HostPortError::Syntax)?))
}

/// Nothing, `1`, `2` or `ALL`.
///
/// # Errors
/// `UnsupportedProtocol` for another number, `Syntax` for anything else.
pub fn parse_epsv(argument: &[u8]) -> Result<EpsvArgument, HostPortError> {
    match argument {
        b"" => Ok(EpsvArgument::Any),
        b"1" => Ok(EpsvArgument::V4),
        b"2" => Ok(EpsvArgument::V6),
        all if all.eq_ignore_ascii_case(b"ALL") => Ok(EpsvArgument::All),
        number if parse_decimal(number).is_some() => Err(HostPortError::UnsupportedProtocol),
        _ => Err(HostPortError::Syntax),
    }
}

/// What stands in a 227 reply.
pub fn pasv_text(address: SocketAddrV4) -> String {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    format!("({a},{b},{c},{d},{high},{low})")
}

/// What stands in a 229 reply.
pub fn epsv_text(port: u16) -> String {
    format!("(|||{port}|)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_takes_six_numbers_and_nothing_else() {
        assert_eq!(
            parse_port(b"127,0,0,1,4,1"),
            Ok("127.0.0.1:1025".parse().unwrap())
        );
        for bad in [
            &b""[..],
            b"127,0,0,1,4",
            b"127,0,0,1,4,1,",
            b"127,0,0,256,4,1",
            b"127,0,0,1,4,-1",
            b"127,0,0,1,0,0",
            b"127.0.0.1,4,1",
            b" 127,0,0,1,4,1",
            b"127,0,0,1,99999999999999999999,1",
        ] {
            assert_eq!(parse_port(bad), Err(HostPortError::Syntax), "{bad:?}");
        }
    }

    #[test]
    fn eprt_takes_both_families_and_any_delimiter() {
        assert_eq!(
            parse_eprt(b"|1|127.0.0.1|1025|"),
            Ok("127.0.0.1:1025".parse().unwrap())
        );
        assert_eq!(
            parse_eprt(b"!2!::1!1025!"),
            Ok("[::1]:1025".parse().unwrap())
        );
        assert_eq!(
            parse_eprt(b"|3|x|1025|"),
            Err(HostPortError::UnsupportedProtocol)
        );
        for bad in [
            &b""[..],
            b"|",
            b"|1|127.0.0.1|1025",
            b"|2|127.0.0.1|1025|",
            b"|2|::1%lo|1025|",
            b"|1|127.0.0.1|65536|",
            b"|1|127.0.0.1|0|",
            b"|1|127.0.0.1|1025|x|",
            b" 1 127.0.0.1 1025 ",
        ] {
            assert_eq!(parse_eprt(bad), Err(HostPortError::Syntax), "{bad:?}");
        }
    }

    #[test]
    fn epsv_knows_all_and_two_families() {
        assert_eq!(parse_epsv(b"all"), Ok(EpsvArgument::All));
        assert_eq!(parse_epsv(b"2"), Ok(EpsvArgument::V6));
        assert_eq!(parse_epsv(b"7"), Err(HostPortError::UnsupportedProtocol));
        assert_eq!(parse_epsv(b"x"), Err(HostPortError::Syntax));
    }

    #[test]
    fn replies_carry_the_port_as_the_standards_write_it() {
        assert_eq!(
            pasv_text("127.0.0.1:50001".parse().unwrap()),
            "(127,0,0,1,195,81)"
        );
        assert_eq!(epsv_text(50001), "(|||50001|)");
    }
}
