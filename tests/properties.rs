//! Arbitrary bytes into every parser and formatter: never a panic, and what comes out is always well-formed.

use proptest::collection::vec;
use proptest::prelude::*;
use thriftpd::ftp::protocol::ascii::{FromNetwork, ToNetwork, network_length};
use thriftpd::ftp::protocol::command::{Command, is_http_request};
use thriftpd::ftp::protocol::facts::{Entry, FactType, Facts, entry_into, name_fits_mlsd};
use thriftpd::ftp::protocol::glob::Pattern;
use thriftpd::ftp::protocol::hash;
use thriftpd::ftp::protocol::host::parse_host;
use thriftpd::ftp::protocol::hostport::{epsv_text, parse_eprt, parse_epsv, parse_port, pasv_text};
use thriftpd::ftp::protocol::line::{LONGEST, Line, LineDecoder};
use thriftpd::ftp::protocol::list::{
    ListLine, long_line_into, name_line_into, parse_list_argument,
};
use thriftpd::ftp::protocol::mff::parse_mff;
use thriftpd::ftp::protocol::numbers::{parse_allo, parse_decimal, parse_octal_mode};
use thriftpd::ftp::protocol::range::{Range, parse_range};
use thriftpd::ftp::protocol::reply::{Reply, quote_path};
use thriftpd::ftp::protocol::site_utime::parse_site_utime;
use thriftpd::ftp::protocol::time::{format_timeval, list_time_into, parse_timeval};
use thriftpd::ftp::protocol::xcrc::{FileRange, parse_file_range};
use thriftpd::storage::VirtualPath;

/// Bytes as a hostile client would choose them: line ends, Telnet and NUL more often than chance has them.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => any::<u8>(),
        2 => prop::sample::select(b"\r\n\0\xff\xf4\xf2\xfa\xf0 /.;=|,*?[]\\-\"".to_vec()),
        4 => 0x20..0x7f_u8,
    ];
    vec(byte, 0..300)
}

fn lines_of(chunks: &[&[u8]]) -> Vec<Line> {
    let mut decoder = LineDecoder::new();
    let mut lines = Vec::new();
    for chunk in chunks {
        decoder.feed(chunk);
        lines.extend(std::iter::from_fn(|| decoder.next_line()));
        decoder.shrink();
        assert!(decoder.pending() <= LONGEST + 2);
    }
    lines
}

/// What RFC 959 §4.2 calls a reply: each line ends with CRLF, the last begins with code and space, and none between
/// could be taken for it.
fn is_one_reply(bytes: &[u8], code: u16) -> bool {
    let Some(text) = bytes.strip_suffix(b"\r\n") else {
        return false;
    };
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    let (last, before) = lines.split_last().unwrap();
    let code = code.to_string();
    let begins = |line: &[u8], separator: u8| {
        line.starts_with(code.as_bytes()) && line.get(3) == Some(&separator)
    };
    let body = |line: &[u8]| {
        line.strip_suffix(b"\r")
            .unwrap_or(line)
            .iter()
            .all(|&byte| byte >= b' ' && byte != 0x7f)
    };
    begins(last, b' ')
        && lines.iter().all(|line| body(line))
        && before.first().is_none_or(|first| begins(first, b'-'))
        && before.iter().skip(1).all(|line| line.starts_with(b" "))
}

proptest! {
    #[test]
    fn lines_are_the_same_wherever_the_segments_are_cut(bytes in hostile(), cuts in vec(0_usize..300, 0..8)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let whole = lines_of(&[&bytes]);
        prop_assert_eq!(&lines_of(&chunks), &whole);
        for line in whole {
            if let Line::Command(line) = line {
                prop_assert!(line.len() <= LONGEST && !line.contains(&b'\n') && !line.contains(&0));
            }
        }
    }

    #[test]
    fn a_line_sent_by_the_rules_arrives_as_it_was(text in vec(any::<u8>(), 0..200)) {
        let text: Vec<u8> = text.into_iter().filter(|byte| !b"\r\n\0".contains(byte)).collect();
        let mut sent = Vec::new();
        for byte in &text {
            sent.push(*byte);
            if *byte == 255 {
                sent.push(255);
            }
        }
        sent.extend(b"\r\n");
        prop_assert_eq!(lines_of(&[&sent]), [Line::Command(text)]);
    }

    #[test]
    fn a_command_keeps_every_byte_of_its_argument(verb in "[A-Za-z]{1,16}", argument in hostile()) {
        let line = [verb.as_bytes(), b" ", &argument].concat();
        let command = Command::parse(&line).unwrap();
        prop_assert_eq!(command.verb, verb.to_uppercase().into_bytes());
        prop_assert_eq!(command.argument, argument);
    }

    #[test]
    fn no_bytes_make_a_parser_fall(bytes in hostile()) {
        if let Ok(command) = Command::parse(&bytes) {
            prop_assert!(command.verb.len() <= 16);
            is_http_request(&command);
        }
        let _ = (parse_epsv(&bytes), parse_host(&bytes), parse_allo(&bytes), parse_octal_mode(&bytes));
        let _ = (parse_mff(&bytes), parse_site_utime(&bytes), parse_timeval(&bytes), Facts::parse_options(&bytes));
        let _ = (parse_range(&bytes), hash::parse_options(&bytes));
        if let Some(FileRange { path, start, end }) = parse_file_range(&bytes) {
            prop_assert!(!path.is_empty() && end.is_none_or(|end| start <= end));
        }
        let (_, path) = parse_list_argument(&bytes);
        prop_assert!(bytes.ends_with(path));
        if let Ok(address) = parse_port(&bytes) {
            prop_assert!(address.port() != 0);
        }
        if let Ok(address) = parse_eprt(&bytes) {
            prop_assert!(address.port() != 0);
        }
    }

    #[test]
    fn addresses_go_both_ways(octets: [u8; 4], port in 1_u16.., v6: [u8; 16]) {
        let v4 = std::net::SocketAddrV4::new(octets.into(), port);
        let text = pasv_text(v4);
        prop_assert_eq!(parse_port(text.trim_matches(['(', ')']).as_bytes()), Ok(v4));
        let eprt = format!("|1|{}|{port}|", v4.ip());
        prop_assert_eq!(parse_eprt(eprt.as_bytes()), Ok(v4.into()));
        let v6 = std::net::Ipv6Addr::from(v6);
        let eprt = format!("!2!{v6}!{port}!");
        prop_assert_eq!(parse_eprt(eprt.as_bytes()), Ok((v6, port).into()));
        prop_assert_eq!(epsv_text(port), format!("(|||{port}|)"));
    }

    #[test]
    fn numbers_are_what_they_say(number: u64, junk in "[^0-9]{1,5}") {
        prop_assert_eq!(parse_decimal(number.to_string().as_bytes()), Some(number));
        prop_assert_eq!(parse_decimal(format!("{number}{junk}").as_bytes()), None);
        prop_assert_eq!(parse_decimal(format!("{junk}{number}").as_bytes()), None);
    }

    #[test]
    fn any_text_makes_one_reply(code in 100_u16..600, first in hostile(), middle in vec(hostile(), 0..4), last in hostile()) {
        let mut out = Vec::new();
        Reply::new(code, &first).encode_into(&mut out);
        prop_assert!(is_one_reply(&out, code), "{}", String::from_utf8_lossy(&out));
        out.clear();
        Reply::multi(code, &first, middle, &last).encode_into(&mut out);
        prop_assert!(is_one_reply(&out, code), "{}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn a_quoted_path_can_be_read_back(path in hostile()) {
        let quoted = quote_path(&path);
        let inner = &quoted[1..quoted.len() - 1];
        let text = inner.split(|&byte| byte == b'"').collect::<Vec<_>>();
        // Quotes stand in pairs only: every second piece between them is empty.
        prop_assert!(text.iter().skip(1).step_by(2).all(|piece| piece.is_empty()));
        let pieces: Vec<&[u8]> = text.into_iter().step_by(2).collect();
        prop_assert_eq!(pieces.join(&b'"'), path);
    }

    #[test]
    fn a_quoted_path_is_a_path_whatever_numbers_it_ends_in(path in hostile(), tail in 0..99_u64, start in 0..1000_u64, more in 0..1000_u64) {
        let path = [path, format!("x {tail}").into_bytes()].concat();
        let mut argument = quote_path(&path);
        prop_assert_eq!(parse_file_range(&argument), Some(FileRange { path: path.clone(), start: 0, end: None }));
        argument.extend(format!(" {start} {}", start + more).into_bytes());
        prop_assert_eq!(parse_file_range(&argument), Some(FileRange { path, start, end: Some(start + more) }));
        let octets = format!("{start} {}", start + more);
        prop_assert_eq!(parse_range(octets.as_bytes()), Some(Range::Octets { first: start, last: start + more }));
    }

    #[test]
    fn any_name_is_one_line_of_a_listing(name in hostile(), target in proptest::option::of(hostile()), mode: u32, size: u64,
                                         modified: i64, now: i64, human: bool, classify: bool) {
        let kind = b"-dlp"[(mode % 4) as usize];
        let line = ListLine { kind, mode, links: size, owner: "o w", group: "g\n", size, modified, name: &name, target: target.as_deref() };
        let mut out = Vec::new();
        long_line_into(&line, now, human, classify, &mut out);
        let text = out.strip_suffix(b"\r\n").unwrap();
        prop_assert!(text.iter().all(|&byte| byte >= b' ' && byte != 0x7f));
        // Eight columns of one word each, then the name.
        prop_assert!(text.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).count() >= 8);
        out.clear();
        name_line_into(&name, kind, mode, classify, &mut out);
        prop_assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
    }

    #[test]
    fn any_entry_is_one_line_of_facts(name in hostile(), size: u64, modified: i64, mode: u32, unique: (u64, u64), owner in ".{0,20}") {
        let entry = Entry { kind: FactType::File, size, modified, created: Some(modified), perm: "r", unique, mode,
            owner: &owner, group: &owner, name: &name };
        let mut out = Vec::new();
        entry_into(&Facts::parse_options(b"type;size;modify;create;perm;unique;unix.mode;unix.owner;unix.group;"), &entry, &mut out);
        let line = out.strip_suffix(b"\r\n").unwrap();
        let space = line.iter().position(|&byte| byte == b' ').unwrap();
        let (facts, shown) = (&line[..space], &line[space + 1..]);
        prop_assert!(facts.ends_with(b";") && facts.split(|&byte| byte == b';').count() == 10);
        prop_assert_eq!(shown == name, name_fits_mlsd(&name));
        prop_assert!(shown.iter().all(|&byte| byte >= b' ' && byte != 0x7f));
    }

    #[test]
    fn times_go_both_ways(seconds in -62_135_596_800_i64..253_402_207_200, any_seconds: i64, now: i64) {
        prop_assert_eq!(parse_timeval(format_timeval(seconds).as_bytes()), Some((seconds, 0)));
        let mut shown = Vec::new();
        list_time_into(any_seconds, now, &mut shown);
        prop_assert_eq!(shown.len(), 12);
        prop_assert_eq!(format_timeval(any_seconds).len(), 14);
    }

    #[test]
    fn ascii_goes_both_ways_in_any_pieces(text in hostile(), size in 1_usize..50) {
        let mut sent = Vec::new();
        ToNetwork.convert(&text, &mut sent);
        prop_assert_eq!(sent.len() as u64, network_length(&text));
        let (mut back, mut convert) = (Vec::new(), FromNetwork::default());
        sent.chunks(size).for_each(|chunk| convert.convert(chunk, &mut back));
        convert.finish(&mut back);
        prop_assert_eq!(back, text);
    }

    #[test]
    fn any_pattern_matches_or_not(pattern in hostile(), name in hostile()) {
        Pattern::new(&pattern).matches(&name);
        if !name.is_empty() && name[0] != b'.' {
            prop_assert!(Pattern::new(b"*").matches(&name));
        }
        let escaped: Vec<u8> = name.iter().flat_map(|&byte| [b'\\', byte]).collect();
        prop_assert!(Pattern::new(&escaped).matches(&name));
    }

    #[test]
    fn any_argument_makes_a_normal_path_or_none(from in hostile(), argument in hostile()) {
        let Ok(from) = VirtualPath::root().join(&from) else { return Ok(()) };
        let Ok(path) = from.join(&argument) else { return Ok(()) };
        let bytes = path.as_bytes();
        prop_assert!(bytes.starts_with(b"/") && bytes.len() <= 4095 && !bytes.contains(&0));
        if bytes.len() > 1 {
            for component in bytes[1..].split(|&byte| byte == b'/') {
                prop_assert!(!matches!(component, b"" | b"." | b"..") && component.len() <= 255);
            }
        }
        prop_assert_eq!(VirtualPath::root().join(bytes).unwrap(), path.clone());
        prop_assert_eq!(path.join(b".").unwrap(), path.clone());
        prop_assert_eq!(path.join(b"x/..").unwrap_or(path.clone()), path);
    }
}
