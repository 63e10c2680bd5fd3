//! Names of the server's own files among those of users. Clients neither see nor say them, but for the old versions where
//! those are shown.

/// In each root: what is remembered of it (quota, last uploads). A directory.
pub const STATE: &[u8] = b".thriftpd";

/// In each root: old versions of overwritten files. A directory.
pub const VERSIONS: &[u8] = b".thriftpd-versions";

/// What all other names of ours begin with.
pub const PREFIX: &[u8] = b".thriftpd-";

/// What names of partial files end with.
pub const PARTIAL: &[u8] = b".partial";

/// Whether a name is that of a partial file.
pub fn is_partial_name(name: &[u8]) -> bool {
    name.starts_with(PREFIX) && name.ends_with(PARTIAL)
}

/// Whether the name is the server's own, or may lead to one that is: file systems that fold case, drop dots and spaces at the
/// end, or make short names (vfat, exFAT; `THRIFT~1`, `TH1A2B~1`) find it under more spellings than one. Those that fold case by
/// Unicode (ext4 and f2fs with `casefold`, ZFS, shares of other systems) also pass over characters that are not seen, such as
/// U+200D and U+00AD, and some take a wide letter for a plain one. Which ones differs by version; so no character beyond ASCII
/// tells a name from ours, and wide ones are plain.
pub fn is_reserved(name: &[u8]) -> bool {
    if name.is_ascii() {
        return is_own(name);
    }
    is_own(&plain(name))
}

/// The name with wide characters (U+FF01 to U+FF5E) made plain and all others beyond ASCII left out.
fn plain(name: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(name);
    let plain = text.chars().filter_map(|character| match character {
        '\u{ff01}'..='\u{ff5e}' => u8::try_from(u32::from(character) - 0xfee0).ok(),
        other => u8::try_from(other).ok().filter(u8::is_ascii),
    });
    plain.collect()
}

fn is_own(name: &[u8]) -> bool {
    let begins = |front: &[u8]| {
        let own = name.get(..front.len());
        own.is_some_and(|own| own.eq_ignore_ascii_case(front))
    };
    let is_state = begins(STATE)
        && name[STATE.len()..]
            .iter()
            .all(|byte| matches!(byte, b'.' | b' '));
    is_state || begins(PREFIX) || is_short(name)
}

fn is_short(name: &[u8]) -> bool {
    let (stem, number) = match name.iter().position(|&byte| byte == b'~') {
        Some(tilde) => (&name[..tilde], &name[tilde + 1..]),
        None => return false,
    };
    let digits = number.iter().take_while(|byte| byte.is_ascii_digit());
    let hashed = |stem: &[u8]| {
        stem.len() == 6
            && stem[..2].eq_ignore_ascii_case(b"th")
            && stem[2..].iter().all(u8::is_ascii_hexdigit)
    };
    digits.count() > 0 && (stem.eq_ignore_ascii_case(b"thrift") || hashed(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ours_however_they_are_spelt() {
        for ours in [
            &b".thriftpd"[..],
            b".ThriftPD",
            b".thriftpd.",
            b".thriftpd. .",
            b".thriftpd-versions",
            b".THRIFTPD-VERSIONS",
            b".thriftpd-x.partial",
            b"THRIFT~1",
            b"thrift~2.PAR",
            b"TH1a2B~1",
            ".thri\u{200d}ftpd-versions".as_bytes(),
            ".thriftpd\u{ad}".as_bytes(),
            "\u{feff}.THRIFTPD\u{2060}-x.partial".as_bytes(),
            ".t\u{fe0f}h\u{34f}r\u{e0001}ift\u{180b}pd-".as_bytes(),
            "\u{ff0e}thriftpd".as_bytes(),
            "\u{ff34}hrift~1".as_bytes(),
            b".thri\xffftpd-x",
        ] {
            assert!(is_reserved(ours), "{}", String::from_utf8_lossy(ours));
        }
        for other in [
            &b"thriftpd"[..],
            b".thrift",
            b".thriftpdx",
            b".thriftpd.toml",
            b"thrift~",
            b"thrift~x",
            b"th1a2x~1",
            "\u{200d}.thrift".as_bytes(),
            ".thr\u{200d}iftpdx".as_bytes(),
            "Gr\u{fc}\u{df}e".as_bytes(),
            b"\xff\xfe",
            b"",
        ] {
            assert!(!is_reserved(other), "{}", String::from_utf8_lossy(other));
        }
    }
}
