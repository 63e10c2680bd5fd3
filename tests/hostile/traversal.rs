//! Every verb that takes a path, with every way to write one that leads out.

use crate::common::Reply;
use crate::scene::{Case, Scene, case};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

/// What is done with the path.
#[derive(Clone, Copy, PartialEq)]
enum What {
    /// Asks or changes what would have to be there: always refused.
    Refused,
    /// Sends over a data connection what would have to be there.
    Sends,
    /// Makes something new: a strange name is as good as any, inside.
    Makes,
    /// Takes a file.
    Takes,
}
use What::{Makes, Refused, Sends, Takes};

/// The commands, `{}` where the path stands.
const FORMS: &[(&str, What)] = &[
    ("CWD {}", Refused),
    ("XCWD {}", Refused),
    ("MKD {}", Makes),
    ("XMKD {}", Makes),
    ("RMD {}", Refused),
    ("XRMD {}", Refused),
    ("RMDA {}", Refused),
    ("LIST {}", Sends),
    ("LIST -alR {}", Sends),
    ("NLST {}", Sends),
    ("NLST -a {}", Sends),
    ("MLSD {}", Sends),
    ("MLST {}", Refused),
    ("STAT {}", Refused),
    ("STAT -la {}", Refused),
    ("RETR {}", Sends),
    ("STOR {}", Takes),
    ("APPE {}", Takes),
    ("RNFR {}", Refused),
    ("RNTO {}", Makes),
    ("DELE {}", Refused),
    ("SIZE {}", Refused),
    ("MDTM {}", Refused),
    ("MDTM 20260101000000 {}", Refused),
    ("MFMT 20260101000000 {}", Refused),
    ("MFCT 20260101000000 {}", Refused),
    ("MFF Modify=20260101000000; {}", Refused),
    ("MFF UNIX.mode=0777; {}", Refused),
    ("AVBL {}", Refused),
    ("SITE CHMOD 777 {}", Refused),
    ("SITE UTIME 202601010000 {}", Refused),
    (
        "SITE UTIME {} 20260101000000 20260101000000 20260101000000 UTC",
        Refused,
    ),
];

/// Ways to write where the secrets lie, seen from the root; `absolute` is where they lie on the host.
fn spellings(absolute: &[u8], name: &str) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "../outside/{}",
        "../outside/{}/",
        "/../outside/{}",
        "/../../../../../../outside/{}",
        "./.././../outside/{}",
        "dir/../../outside/{}",
        "dir/deep/../../../outside/{}",
        "dir/link-far/../outside/{}",
        "file/../../outside/{}",
        "missing/../../outside/{}",
        "//..//..//outside//{}",
        "...//outside/{}",
        "....//....//outside/{}",
        "%2e%2e/outside/{}",
        "..%2foutside%2f{}",
        "%252e%252e%252foutside%252f{}",
        "..\\outside\\{}",
        "..\\/outside/{}",
        "..;/outside/{}",
        ".. /outside/{}",
        " ../outside/{}",
        "\"../outside/{}\"",
        "'../outside/{}'",
        "~/../outside/{}",
        "~root/{}",
        "$HOME/{}",
        "`id`/{}",
        "C:\\outside\\{}",
        "\\\\host\\outside\\{}",
        "file:///outside/{}",
        "link-dir/{}",
        "link-chain/{}",
        "link-abs/{}",
        "link-up/outside/{}",
        "link-up/../outside/{}",
        "dir/link-far/outside/{}",
        "/proc/self/cwd/../outside/{}",
        "\u{ff0e}\u{ff0e}/outside/{}",
        "..\u{2215}outside\u{2215}{}",
        "..\u{202e}/outside/{}",
    ]
    .iter()
    .map(|spelling| spelling.replace("{}", name).into_bytes())
    .collect();
    let bytes: [&[u8]; 9] = [
        // UTF-8 that is longer than it may be: a dot, a slash.
        b"\xc0\xae\xc0\xae/outside/",
        b"\xe0\x80\xae\xe0\x80\xae/outside/",
        b"\xf0\x80\x80\xae\xf0\x80\x80\xae/outside/",
        b"..\xc0\xafoutside\xc0\xaf",
        b"..\xe0\x80\xafoutside\xe0\x80\xaf",
        // Telnet commands between the dots are taken out; what is left is plain.
        b".\xff\xf1./outside/",
        b"..\xff\xf9/outside/",
        b"..\xff\xff/outside/",
        b"..\r/outside/",
    ];
    all.extend(bytes.iter().map(|front| [front, name.as_bytes()].concat()));
    all.push([b"../outside/", name.as_bytes(), b"\0.txt"].concat());
    all.push([absolute, b"/", name.as_bytes()].concat());
    all.push([b"/proc/self/root", absolute, b"/", name.as_bytes()].concat());
    all.push(["../".repeat(1000).as_bytes(), b"outside/", name.as_bytes()].concat());
    all.push(["../".repeat(2000).as_bytes(), b"outside/", name.as_bytes()].concat());
    all
}

pub fn cases() -> Vec<Case> {
    FORMS
        .iter()
        .map(|&(form, what)| case(form, move |scene| try_all(scene, form, what)))
        .collect()
}

fn try_all(scene: &mut Scene, form: &str, what: What) {
    let outside = scene.outside();
    for name in ["secret", "dir", "dir/empty", "new"] {
        for spelling in spellings(outside.as_os_str().as_bytes(), name) {
            let (before, after) = form.split_once("{}").unwrap();
            let line = [before.as_bytes(), &spelling, after.as_bytes()].concat();
            let reply = send(scene, &line, form, what);
            let may = match what {
                Refused | Sends => 400..=599,
                Makes | Takes => 200..=599,
            };
            let shown = String::from_utf8_lossy(&line).into_owned();
            assert!(may.contains(&reply.code), "{shown:?}: {}", reply.text());
            Scene::no_secret_in(reply.text().as_bytes());
        }
    }
}

fn send(scene: &mut Scene, line: &[u8], form: &str, what: What) -> Reply {
    if form.starts_with("RNTO") {
        fs::write(scene.server.path("scratch"), "moved about").unwrap();
        scene.client.expect("RNFR scratch", 350);
    }
    match what {
        Refused | Makes => scene.client.command(line),
        Sends => {
            let (bytes, reply) = scene.client.download(line);
            Scene::no_secret_in(&bytes);
            reply
        }
        Takes => scene.client.upload(line, b"hostile"),
    }
}
