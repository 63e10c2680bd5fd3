//! Line ends, NUL, Telnet commands and a terminal's escape sequences, in names that lie there and in arguments, through
//! every reply, listing and log: whatever they hold, one reply stays one reply and one line one line.

use crate::common::{Client, PASSWORD, Server, USER, eventually};
use crate::scene::{Case, Scene, case};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

/// Names as an enemy with an account of its own on the host would make them.
const NAMES: &[&[u8]] = &[
    b"a\r\n226 Done.\r\n",
    b"b\n550 Forged",
    b"c\rd",
    b"d\n-rw-r--r--   1 root root  5 Jan  1 00:00 forged",
    b"e\ntype=file;size=1; forged",
    b"f\x1b[2J\x1b]0;owned\x07",
    b"g\x1b[31mred",
    b"h\x9b31m",
    b"i\x08\x08\x08gone",
    b"j\x7f",
    b"k\xff\xf4\xff\xfd\x06",
    b"l\xff\xffm",
    b"m\"quoted\" \"",
    b"n\t\x0b\x0c",
    b"o%s%n%x",
    b"p;type=dir; q",
    b"q -> /etc/shadow",
    b"r' OR 1=1 --",
    b"s$(reboot)`reboot`",
    b"\xe2\x80\xaegnp.exe",
    b"\xc0\x8d\xc0\x8anewline",
    b"\xe5\x98\x8a\xe5\x98\x8dtruncated",
    b" leading and trailing ",
    b"-rf",
    b"221 Goodbye.",
];

/// Every byte a reply or listing may hold: what a terminal prints or UTF-8 is made of.
fn is_clean(line: &[u8]) -> bool {
    line.iter().all(|&byte| byte >= b' ' && byte != 0x7f)
}

fn furnish(scene: &Scene) {
    for name in NAMES {
        let path = scene.server.path("odd").join(OsStr::from_bytes(name));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("inner"), "x").unwrap();
    }
}

/// As a client has to write it on the control connection, where it can: a line end cannot be written.
fn telnet(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in bytes {
        out.push(byte);
        if byte == 0xff {
            out.push(byte);
        } else if byte == b'\r' {
            out.push(0);
        }
    }
    out
}

/// The log is whole lines of ours, without a byte that a terminal would obey.
fn log_is_clean(server: &Server) {
    let log = server.log_text();
    for line in log.lines() {
        assert!(is_clean(line.as_bytes()), "{line:?}");
        assert!(
            !line.starts_with("226") && !line.starts_with("forged"),
            "{line:?}"
        );
    }
    assert!(!log.contains('\u{1b}'));
}

fn listing(name: &'static str, line: &'static str) -> Case {
    case(name, move |scene| {
        furnish(scene);
        let (bytes, reply) = scene.client.download(line);
        reply.expect(226);
        let text = bytes.strip_suffix(b"\r\n").unwrap();
        let lines: Vec<&[u8]> = text
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .collect();
        assert!(
            lines.iter().all(|line| is_clean(line)),
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
        assert!(lines.len() <= 5 * NAMES.len() + 3, "{} lines", lines.len());
        for forged in [
            &b"-rw-r--r--"[..],
            b"type=file;size=1; forged",
            b"226",
            b"550",
        ] {
            let inner = |line: &&[u8]| line.ends_with(b"inner");
            assert!(
                !lines
                    .iter()
                    .any(|line| line.starts_with(forged) && !inner(line)),
                "{:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
        log_is_clean(&scene.server);
    })
}

/// Sends `before`, each name, `after`: one clean reply each, of a code that is no success where it must not be.
fn argument(name: &'static str, before: &'static str, after: &'static str) -> Case {
    case(name, move |scene| {
        furnish(scene);
        for name in NAMES.iter().filter(|name| !name.contains(&b'\n')) {
            let line = [before.as_bytes(), &telnet(name), after.as_bytes()].concat();
            one_reply(&mut scene.client, &line);
            // In step still.
            scene.client.expect("NOOP", 200);
        }
        log_is_clean(&scene.server);
    })
}

fn one_reply(client: &mut Client, line: &[u8]) {
    let reply = client.command(line);
    assert!(reply.lines.iter().all(|line| is_clean(line)), "{reply:?}");
}

pub fn cases() -> Vec<Case> {
    vec![
        listing("LIST", "LIST odd"),
        listing("LIST -R", "LIST -R odd"),
        listing("LIST -laF1h", "LIST -laFh odd"),
        listing("LIST of a pattern", "LIST odd/*"),
        listing("NLST", "NLST odd"),
        listing("NLST of a pattern", "NLST odd/*"),
        listing("NLST -l", "NLST -l odd"),
        listing("MLSD", "MLSD odd"),
        case("STAT of a directory", |scene| {
            furnish(scene);
            for line in ["STAT odd", "STAT -R odd", "STAT odd/*"] {
                let reply = scene.client.expect_one_of_codes(line);
                assert!(reply.lines.iter().all(|line| is_clean(line)));
                assert!(
                    reply.lines[1..reply.lines.len() - 1]
                        .iter()
                        .all(|line| !line.starts_with(b"2") && !line.starts_with(b"5"))
                );
            }
        }),
        case("PWD and CWD", |scene| {
            furnish(scene);
            for name in NAMES.iter().filter(|name| !name.contains(&b'\n')) {
                let path = [b"CWD /odd/", &telnet(name)[..]].concat();
                scene.client.expect(path, 250);
                for line in ["PWD", "STAT", "MLST", "MLST inner", "SITE WHO"] {
                    one_reply(&mut scene.client, line.as_bytes());
                }
                scene.client.expect("CWD /", 250);
            }
        }),
        argument("MLST", "MLST odd/", ""),
        argument("SIZE", "SIZE odd/", ""),
        argument("RETR", "RETR odd/", ""),
        argument("DELE", "DELE odd/", ""),
        argument("RNFR", "RNFR odd/", "/none"),
        argument("MKD", "MKD made-", ""),
        argument("RMD", "RMD ", ""),
        argument("MDTM", "MDTM odd/", ""),
        argument("MFMT", "MFMT 20260101000000 odd/", ""),
        argument("MFF", "MFF Modify=20260101000000; odd/", ""),
        argument("MFF of an unknown fact", "MFF x", "=1; file"),
        argument("AVBL", "AVBL odd/", ""),
        argument("SITE CHMOD", "SITE CHMOD 755 odd/", ""),
        argument("SITE UTIME", "SITE UTIME 202601010000 odd/", ""),
        argument("unknown SITE commands", "SITE ", ""),
        argument("HELP", "HELP ", ""),
        argument("OPTS", "OPTS ", ""),
        argument("OPTS MLST", "OPTS MLST ", ""),
        argument("CLNT", "CLNT ", ""),
        argument("CSID", "CSID Name=", ";"),
        argument("LANG", "LANG ", ""),
        argument("TYPE", "TYPE ", ""),
        argument("AUTH", "AUTH ", ""),
        argument("ACCT", "ACCT ", ""),
        argument("unknown verbs", "X", " y"),
        argument("verbs of odd bytes", "", ""),
        case("uploads under odd names", |scene| {
            for name in NAMES.iter().filter(|name| !name.contains(&b'\n')) {
                let line = [b"STOR up-", &telnet(name)[..]].concat();
                let reply = scene.client.upload(line, b"x");
                assert!(reply.lines.iter().all(|line| is_clean(line)));
                let line = [b"RETR up-", &telnet(name)[..]].concat();
                scene.client.download(line);
                scene
                    .client
                    .upload([b"STOU ", &telnet(name)[..]].concat(), b"x");
            }
            log_is_clean(&scene.server);
        }),
        case("names to log in with", |scene| {
            for name in [
                &b"\x1b[2Jx"[..],
                b"x\x9b1m",
                b"t\xff\xff",
                b"a\x7f\x08",
                b"admin' --",
                b"t logged in",
            ] {
                let mut stranger = scene.server.connect();
                one_reply(&mut stranger, &[b"USER ", name].concat());
                one_reply(&mut stranger, b"NOOP");
                one_reply(&mut stranger, &[b"HOST ", name].concat());
            }
            log_is_clean(&scene.server);
        }),
        case(
            "a line end in the middle is the end of the command",
            |scene| {
                // Both are commands then, and each has its reply; nothing of the second is part of the first's.
                scene.client.send_raw(b"MKD made\nDELE file2\r\n");
                scene.client.reply().expect(257);
                scene.client.reply().expect(550);
                scene.client.send_raw(b"SIZE a\r\n226 Done.\r\n");
                scene.client.reply().expect(550);
                scene.client.reply().expect(500);
            },
        ),
        case("NUL in every argument", |scene| {
            for verb in [
                "CWD",
                "RETR",
                "STOR",
                "DELE",
                "MKD",
                "SITE CHMOD 777",
                "MFMT 20260101000000",
                "RNFR",
                "USER",
                "OPTS",
            ] {
                for argument in ["file\0", "\0file", "fi\0le", "file\0.txt", "\0"] {
                    scene.client.expect(format!("{verb} {argument}"), 500);
                }
            }
            scene.client.expect("NO\0OP", 500);
        }),
        case("Telnet sequences in every place", |scene| {
            let sequences: [&[u8]; 8] = [
                b"\xff\xf1",
                b"\xff\xf4",
                b"\xff\xf9",
                b"\xff\xfb\x01",
                b"\xff\xfd\x22",
                b"\xff\xfa\x18\x00x\xff\xf0",
                b"\xff\xf4\xff\xf2",
                b"\xff\xfe\xff",
            ];
            for sequence in sequences {
                for (before, after) in [
                    ("", "NOOP\r\n"),
                    ("NO", "OP\r\n"),
                    ("NOOP", "\r\n"),
                    ("NOOP\r", "\n"),
                ] {
                    scene
                        .client
                        .send_raw([before.as_bytes(), sequence, after.as_bytes()].concat());
                    scene.client.reply_past_telnet().expect_one_of(&[200, 500]);
                }
            }
            // Its answers may follow the reply.
            scene.client.send("NOOP");
            scene.client.reply_past_telnet().expect(200);
        }),
        case("Telnet sequences without an end", |scene| {
            for unfinished in [&b"\xff"[..], b"\xff\xfa", b"\xff\xfa\x18\xff", b"\xff\xfb"] {
                let mut stranger = scene.server.connect();
                stranger.send_raw(unfinished);
                stranger.send_raw([b'x'; 10_000]);
                stranger.end_of_input();
                while stranger.reply_or_end().is_some() {}
            }
        }),
        case("the transfer log", |scene| {
            let server = Server::build()
                .configuration("xferlog = \"{home}/xferlog\"\n")
                .with_flag_user()
                .start();
            let mut client = server.connect();
            client.login_as(USER, PASSWORD).expect(230);
            client.expect("TYPE I", 200);
            let mut stored = 0;
            for name in NAMES.iter().filter(|name| !name.contains(&b'\n')) {
                let line = [b"STOR up-", &telnet(name)[..]].concat();
                stored += usize::from(client.upload(line, b"x").code == 226);
            }
            let read = || fs::read(server.home().join("xferlog")).unwrap();
            eventually("all are in the transfer log", || {
                read().iter().filter(|&&byte| byte == b'\n').count() >= stored
            });
            let log = read();
            let lines: Vec<&[u8]> = log
                .strip_suffix(b"\n")
                .unwrap()
                .split(|&byte| byte == b'\n')
                .collect();
            assert_eq!(lines.len(), stored);
            assert!(lines.iter().all(|line| is_clean(line)));
            log_is_clean(&server);
            scene.client.expect("NOOP", 200);
        }),
    ]
}

trait Codes {
    fn expect_one_of_codes(&mut self, line: &str) -> crate::common::Reply;
}

impl Codes for Client {
    /// STAT with a path: 212 or 213, by what it is of (RFC 959 §4.2).
    fn expect_one_of_codes(&mut self, line: &str) -> crate::common::Reply {
        self.command(line).expect_one_of(&[211, 212, 213])
    }
}
