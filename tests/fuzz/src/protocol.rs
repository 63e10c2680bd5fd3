//! The grammars of commands and their arguments.
use std::net::SocketAddr;

use thriftpd::ftp::protocol::ascii::{FromNetwork, ToNetwork, network_length};
use thriftpd::ftp::protocol::command::{Command, is_http_request};
use thriftpd::ftp::protocol::facts::Facts;
use thriftpd::ftp::protocol::glob::{Pattern, is_pattern};
use thriftpd::ftp::protocol::host::parse_host;
use thriftpd::ftp::protocol::hostport::{epsv_text, parse_eprt, parse_epsv, parse_port, pasv_text};
use thriftpd::ftp::protocol::line::{LONGEST, Line, LineDecoder};
use thriftpd::ftp::protocol::list::parse_list_argument;
use thriftpd::ftp::protocol::mff::{Fact, parse_mff};
use thriftpd::ftp::protocol::numbers::{parse_allo, parse_decimal, parse_octal_mode};
use thriftpd::ftp::protocol::reply::{Reply, quote_path};
use thriftpd::ftp::protocol::site_utime::parse_site_utime;
use thriftpd::ftp::protocol::time::{
    format_timeval, list_time_into, parse_timeval, parse_utime_short,
};
use thriftpd::storage::VirtualPath;

use super::{number, split_at_byte};

/// The lines are the same wherever segments are cut (the first byte says how), and none is longer than may be.
pub fn lines(data: &[u8]) {
    let (size, bytes) = match data.split_first() {
        Some((&size, bytes)) => (usize::from(size).max(1), bytes),
        None => return,
    };
    let decoded = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut lines) = (LineDecoder::new(), Vec::new());
        for piece in pieces {
            decoder.feed(piece);
            lines.extend(std::iter::from_fn(|| decoder.next_line()));
            decoder.shrink();
            assert!(
                decoder.pending() <= LONGEST + 2,
                "an endless line takes memory"
            );
        }
        lines
    };
    let whole = decoded(&mut std::iter::once(bytes));
    assert_eq!(decoded(&mut bytes.chunks(size)), whole);
    for line in whole {
        if let Line::Command(line) = line {
            assert!(line.len() <= LONGEST && !line.contains(&b'\n') && !line.contains(&0));
            command(&line);
        }
    }
}

/// A command is told back in one reply that nothing in it can forge.
pub fn command(data: &[u8]) {
    if let Ok(command) = Command::parse(data) {
        is_http_request(&command);
        assert!(!command.verb.is_empty() && command.verb.len() <= 16);
        assert!(data.ends_with(&command.argument));
    }
    let mut out = Vec::new();
    Reply::new(257, quote_path(data)).encode_into(&mut out);
    is_a_reply(&out, b"257 ");
    out.clear();
    let (first, rest) = split_at_byte(data, b'\n');
    Reply::multi(
        211,
        first,
        rest.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect(),
        first,
    )
    .encode_into(&mut out);
    is_a_reply(&out, b"211 ");
}

fn is_a_reply(bytes: &[u8], last: &[u8]) {
    let text = bytes.strip_suffix(b"\r\n").expect("CRLF at the end");
    let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    assert!(lines.pop().is_some_and(|line| line.starts_with(last)));
    assert!(
        lines
            .iter()
            .all(|line| !line.starts_with(last) && line.ends_with(b"\r"))
    );
    let odd = |byte: &u8| (*byte < b' ' && !b"\r\n".contains(byte)) || *byte == 0x7f;
    assert!(!bytes.iter().any(odd), "a control character in a reply");
}

/// Addresses: what is taken can be written and read back, and has a port.
pub fn host_port(data: &[u8]) {
    if let Ok(address) = parse_port(data) {
        assert_ne!(address.port(), 0);
        let text = pasv_text(address);
        assert_eq!(parse_port(&text.as_bytes()[1..text.len() - 1]), Ok(address));
    }
    if let Ok(address) = parse_eprt(data) {
        assert_ne!(address.port(), 0);
        let family = if matches!(address, SocketAddr::V4(_)) {
            1
        } else {
            2
        };
        let text = format!("|{family}|{}|{}|", address.ip(), address.port());
        assert_eq!(parse_eprt(text.as_bytes()), Ok(address));
        assert!(epsv_text(address.port()).contains(&address.port().to_string()));
    }
    let _ = (parse_epsv(data), parse_host(data));
}

/// A path, up to the first line end, and an argument seen from it: normal or refused.
pub fn path(data: &[u8]) {
    let (from, argument) = split_at_byte(data, b'\n');
    let Ok(from) = VirtualPath::root().join(from) else {
        return;
    };
    let Ok(path) = from.join(argument) else {
        return;
    };
    let bytes = path.as_bytes();
    assert!(bytes.starts_with(b"/") && bytes.len() <= 4095 && !bytes.contains(&0));
    for component in bytes[1..]
        .split(|&byte| byte == b'/')
        .filter(|_| bytes.len() > 1)
    {
        assert!(!matches!(component, b"" | b"." | b"..") && component.len() <= 255);
    }
    assert_eq!(VirtualPath::root().join(bytes).unwrap(), path);
    assert_eq!(path.join(b".").unwrap(), path);
    assert!(path.below(&VirtualPath::root()).is_some());
    match path.file_name() {
        None => assert_eq!(path, VirtualPath::root()),
        // The one name of ours that may be said is said component by component.
        Some(name) => assert_eq!(path.parent().join_name(name).unwrap(), path),
    }
}

/// A pattern, up to the first line end, and a name.
pub fn glob(data: &[u8]) {
    let (pattern, name) = split_at_byte(data, b'\n');
    let (pattern, name) = (
        &pattern[..pattern.len().min(4096)],
        &name[..name.len().min(255)],
    );
    let matched = Pattern::new(pattern).matches(name);
    let plain = !is_pattern(pattern) && !pattern.contains(&b'\\');
    if plain {
        assert_eq!(matched, pattern == name);
    }
    let escaped: Vec<u8> = name.iter().flat_map(|&byte| [b'\\', byte]).collect();
    assert!(
        Pattern::new(&escaped).matches(name),
        "every name can be escaped"
    );
    let (flags, rest) = parse_list_argument(data);
    assert!(data.ends_with(rest) && format!("{flags:?}").len() > 1);
}

/// Times and numbers in arguments: what is taken is in its range and can be written and read back.
pub fn times(data: &[u8]) {
    if let Some((seconds, nanoseconds)) = parse_timeval(data) {
        assert!(nanoseconds < 1_000_000_000);
        assert_eq!(
            parse_timeval(format_timeval(seconds).as_bytes()),
            Some((seconds, 0))
        );
    }
    let _ = parse_utime_short(data);
    if let Some(utime) = parse_site_utime(data) {
        assert_eq!(format_timeval(utime.modified).len(), 14);
    }
    if let Some(mode) = parse_octal_mode(data) {
        assert!(mode <= 0o7777);
    }
    let _ = parse_allo(data);
    if let Some(n) = parse_decimal(data) {
        assert_eq!(parse_decimal(n.to_string().as_bytes()), Some(n));
    }
    let (one, rest) = number(data);
    let (other, _) = number(rest);
    let (one, other) = (one as i64, other as i64);
    assert_eq!(format_timeval(one).len(), 14);
    let mut shown = Vec::new();
    list_time_into(one, other, &mut shown);
    assert_eq!(shown.len(), 12);
}

/// MFF and OPTS MLST.
pub fn facts(data: &[u8]) {
    if let Ok((facts, path)) = parse_mff(data) {
        assert!(data.ends_with(path) && !facts.is_empty());
        for fact in facts {
            if let Fact::UnixMode(mode) = fact {
                assert!(mode <= 0o7777);
            }
        }
    }
    let facts = Facts::parse_options(data);
    let told = facts.options_reply();
    assert!(told.is_ascii() && facts.feat_line().is_ascii());
    let again = told.rsplit(' ').next().unwrap_or_default();
    assert_eq!(Facts::parse_options(again.as_bytes()).options_reply(), told);
}

/// ASCII: bytes go to the network and back in any pieces (the first byte says how large).
pub fn ascii(data: &[u8]) {
    let Some((&size, text)) = data.split_first() else {
        return;
    };
    let mut sent = Vec::new();
    ToNetwork.convert(text, &mut sent);
    assert_eq!(sent.len() as u64, network_length(text));
    for bytes in [&sent, text] {
        let converted = |size: usize| {
            let (mut back, mut convert) = (Vec::new(), FromNetwork::default());
            bytes
                .chunks(size)
                .for_each(|chunk| convert.convert(chunk, &mut back));
            convert.finish(&mut back);
            back
        };
        let whole = converted(usize::MAX);
        assert_eq!(converted(usize::from(size).max(1)), whole);
        assert!(bytes != sent || whole == text);
    }
}
