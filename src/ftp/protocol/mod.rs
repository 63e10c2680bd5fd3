//! The grammars of FTP: bytes in, values out. No sockets, no files, no other room of the house.
//!
//! | file | grammar |
//! |---|---|
//! | `line` | Telnet lines on the control connection: RFC 854, RFC 959 §5.3, RFC 1123 §4.1.2.10 |
//! | `command` | verb and argument: RFC 959 §5.3 |
//! | `reply` | replies: RFC 959 §4.2 |
//! | `hostport` | PORT and PASV: RFC 959 §5.3.2; EPRT and EPSV: RFC 2428 |
//! | `host` | HOST: RFC 7151 §3.1 |
//! | `list` | the `ls -l` form of LIST, and its flags |
//! | `facts` | MLSD and MLST: RFC 3659 §7 |
//! | `mff` | MFF: draft-somers-ftp-mfxx §5 |
//! | `site_utime` | SITE UTIME, by convention |
//! | `two_names` | arguments of SITE COPY and SITE SYMLINK |
//! | `time` | time values: RFC 3659 §2.3; dates in listings |
//! | `hash` | HASH: draft-bryan-ftpext-hash §3 |
//! | `range` | RANG: draft-bryan-ftp-range §3 |
//! | `xcrc` | XCRC and its kin, by convention |
//! | `ascii` | the ASCII type: RFC 959 §3.1.1.1 |
//! | `glob` | patterns in LIST and NLST |
//! | `numbers` | numbers |
pub mod ascii;
pub mod command;
pub mod facts;
pub mod glob;
pub mod hash;
pub mod host;
pub mod hostport;
pub mod line;
pub mod list;
pub mod mff;
pub mod numbers;
pub mod range;
pub mod reply;
pub mod site_utime;
pub mod time;
pub mod two_names;
pub mod xcrc;

/// A byte as a listing or reply may carry it: control characters become `?`, so that no name forges a line.
fn visible(byte: u8) -> u8 {
    if byte < b' ' || byte == 0x7f {
        b'?'
    } else {
        byte
    }
}

/// A name as a listing or reply may carry it.
pub fn visible_into(name: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    out.extend_from_slice(name);
    for byte in &mut out[from..] {
        *byte = visible(*byte);
    }
}

/// A name of the host's that must stay one word: characters that satisfy the test become `_`.
fn word_into(name: &str, divides: impl Fn(char) -> bool, out: &mut Vec<u8>) {
    // Nearly all are like this, and stand in every line of a listing.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.bytes().all(is_plain) {
        out.extend_from_slice(name.as_bytes());
        return;
    }
    for c in name.chars() {
        let c = if divides(c) { '_' } else { c };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}
