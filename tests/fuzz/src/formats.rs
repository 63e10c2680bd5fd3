//! Listings, the configuration file, and the records that lie beside files.
use std::path::Path;

use thriftpd::config::Config;
use thriftpd::ftp::protocol::facts::{Entry, FactType, Facts, entry_into, name_fits_mlsd};
use thriftpd::ftp::protocol::list::{ListLine, long_line_into, name_line_into};
use thriftpd::os::users::Users;
use thriftpd::storage::fuzzing;

use super::{number, split_at_byte};

/// Whatever a file is called and whatever it is, its line is one line without control characters.
pub fn listing(data: &[u8]) {
    let (mode, rest) = number(data);
    let (size, rest) = number(rest);
    let (modified, rest) = number(rest);
    let (now, rest) = number(rest);
    let (owner, rest) = split_at_byte(rest, b'\n');
    let (name, target) = split_at_byte(rest, b'/');
    let owner = String::from_utf8_lossy(owner);
    let (mode, flags) = ((mode >> 32) as u32, mode as u32);
    let (modified, now) = (modified as i64, now as i64);
    let kind = b"-dlp"[(flags & 3) as usize];
    let line = ListLine {
        kind,
        mode,
        links: size,
        owner: &owner,
        group: &owner,
        size,
        modified,
        name,
        target: (flags & 4 != 0).then_some(target),
    };
    let mut out = Vec::new();
    long_line_into(&line, now, flags & 8 != 0, flags & 16 != 0, &mut out);
    is_one_line(&out);
    let words = out
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty());
    // An id without a name is shown by its number: no owner is nameless.
    assert!(
        owner.is_empty() || words.count() >= 8,
        "a column is missing"
    );
    out.clear();
    name_line_into(name, kind, mode, flags & 16 != 0, &mut out);
    is_one_line(&out);
    out.clear();
    let entry = Entry {
        kind: [
            FactType::File,
            FactType::Dir,
            FactType::Link,
            FactType::Other,
        ][(flags & 3) as usize],
        size,
        modified,
        created: (flags & 4 != 0).then_some(now),
        perm: "adfr",
        unique: (size, u64::from(mode)),
        mode,
        owner: &owner,
        group: &owner,
        name,
    };
    let all = b"type;size;modify;create;perm;unique;unix.mode;unix.owner;unix.group;";
    entry_into(&Facts::parse_options(all), &entry, &mut out);
    is_one_line(&out);
    let line = &out[..out.len() - 2];
    let (facts, shown) = split_at_byte(line, b' ');
    assert!(facts.ends_with(b";"));
    assert_eq!(shown == name, name_fits_mlsd(name));
}

fn is_one_line(out: &[u8]) {
    let line = out.strip_suffix(b"\r\n").expect("CRLF at the end");
    assert!(line.iter().all(|&byte| byte >= b' ' && byte != 0x7f));
}

/// The configuration file: settings or an error that says where.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::parse(Path::new("/nowhere/thriftpd.toml"), text) {
        Ok(config) => {
            assert!(config.sessions > 0 && config.sessions_per_ip > 0);
            assert!(config.passive_ports.low <= config.passive_ports.high);
            assert!(!config.banner.contains(['\r', '\n']));
        }
        Err(error) => assert!(error.to_string().contains("thriftpd.toml")),
    }
}

/// The records of checksums and quotas, and the files of users and groups: what is taken is what would have been written.
pub fn records(data: &[u8]) {
    if let Some(written) = fuzzing::checksum_record(data) {
        assert_eq!(written.as_bytes(), data);
    }
    if let Some(written) = fuzzing::quota_record(data) {
        assert_eq!(fuzzing::quota_record(written.as_bytes()), Some(written));
    }
    assert!(Users::parse(data, data).len() <= data.len());
}
