//! Symbolic links: out of the root, in circles, in long rows, in great number.

use crate::scene::{Case, Scene, case};
use std::fs;
use std::os::unix::fs::symlink;

/// Links in a row, and in one directory.
const MANY: usize = 100_000;

/// What a client does with a link that leads to a file outside, and how it is answered.
const AT_A_FILE: &[(&str, u16)] = &[
    ("SIZE link-file", 550),
    ("MDTM link-file", 550),
    ("MDTM 20260101000000 link-file", 550),
    ("MFMT 20260101000000 link-file", 550),
    ("MFF Modify=20260101000000;UNIX.mode=0777; link-file", 550),
    ("SITE CHMOD 777 link-file", 550),
    ("SITE UTIME 202601010000 link-file", 550),
    ("CWD link-file", 550),
    ("RMD link-file", 550),
    ("RMDA link-file", 550),
    ("MKD link-file", 550),
    ("CWD link-dir", 550),
    ("CWD link-chain", 550),
    ("CWD link-abs", 550),
    ("RMD link-dir", 550),
    ("RMDA link-dir", 550),
    ("RMD link-dir/empty", 550),
    ("RMDA link-dir/dir", 550),
    ("MKD link-dir/new", 550),
    ("RNFR link-dir/secret", 550),
    ("DELE link-dir/secret", 550),
    ("AVBL link-dir", 550),
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = AT_A_FILE
        .iter()
        .map(|&(line, code)| case(line, move |scene| drop(scene.client.expect(line, code))))
        .collect();
    cases.extend([
        case("RETR through a link out", |scene| {
            for path in [
                "link-file",
                "link-dir/secret",
                "link-chain/dir/hidden",
                "link-abs/secret",
            ] {
                let (bytes, reply) = scene.client.download(format!("RETR {path}"));
                reply.expect(550);
                assert!(bytes.is_empty());
            }
        }),
        case("STOR and APPE through a link out", |scene| {
            for verb in ["STOR", "APPE"] {
                for path in [
                    "link-file",
                    "link-dir/secret",
                    "link-dir/new",
                    "link-abs/new",
                ] {
                    scene
                        .client
                        .upload(format!("{verb} {path}"), b"hostile")
                        .expect(550);
                }
            }
        }),
        case(
            "STOR and MKD at a link that leads to nothing outside",
            |scene| {
                symlink("../outside/ghost", scene.server.path("ghost")).unwrap();
                scene.client.upload("STOR ghost", b"hostile").expect(550);
                scene.client.upload("APPE ghost", b"hostile").expect(550);
                scene.client.expect("MKD ghost", 550);
            },
        ),
        case("DELE takes the link and nothing else", |scene| {
            symlink("../outside/secret", scene.server.path("mine")).unwrap();
            scene.client.expect("DELE mine", 250);
            assert!(!scene.server.exists("mine"));
        }),
        case(
            "a link that is renamed leads out no more than before",
            |scene| {
                symlink("../../outside/secret", scene.server.path("mine")).unwrap();
                scene.client.expect("RNFR mine", 350);
                scene.client.expect("RNTO dir/mine", 250);
                let (_, reply) = scene.client.download("RETR dir/mine");
                reply.expect(550);
            },
        ),
        case("RNTO over a link out replaces the link alone", |scene| {
            fs::write(scene.server.path("mine"), "mine").unwrap();
            symlink("../outside/secret", scene.server.path("aim")).unwrap();
            scene.client.expect("RNFR mine", 350);
            scene.client.expect("RNTO aim", 250);
            assert_eq!(scene.server.read("aim"), b"mine");
        }),
        case("RMDA of a directory full of links out", |scene| {
            let top = scene.server.path("full");
            fs::create_dir_all(top.join("deeper")).unwrap();
            for n in 0..1000 {
                symlink("../../outside", top.join(format!("deeper/{n}"))).unwrap();
                symlink(scene.outside(), top.join(n.to_string())).unwrap();
            }
            scene.client.expect("RMDA full", 250);
            assert!(!top.exists());
        }),
        case(
            "listings tell of a link and not of what it leads to",
            |scene| {
                for line in [
                    "LIST",
                    "LIST -R",
                    "NLST",
                    "MLSD",
                    "LIST link-dir",
                    "LIST link-file",
                    "NLST link-*",
                    "LIST link-*/*",
                ] {
                    let (bytes, _) = scene.client.download(line);
                    Scene::no_secret_in(&bytes);
                    let text = String::from_utf8_lossy(&bytes);
                    assert!(!text.contains("hidden"), "{line}: {text}");
                }
                let reply = scene.client.command("STAT link-dir/");
                assert!(!reply.text().contains("hidden"), "{}", reply.text());
            },
        ),
        case(
            "a link to the parent of the root leads to the root",
            |scene| {
                scene.client.expect("CWD link-up", 250);
                assert!(scene.client.list("NLST").contains(&"file".to_owned()));
                scene.client.expect("CWD dir/link-far", 250);
                assert!(scene.client.list("NLST").contains(&"file".to_owned()));
                assert_eq!(scene.client.retr("dir/link-far/file"), b"inside");
            },
        ),
        case("magic links of proc lead nowhere", |scene| {
            for (name, target) in [
                ("a", "/proc/self/root"),
                ("b", "/proc/1/root"),
                ("c", "/dev/fd/0"),
                ("d", "/proc/self/cwd"),
            ] {
                symlink(target, scene.server.path(name)).unwrap();
                scene.client.expect(format!("CWD {name}"), 550);
                let (_, reply) = scene.client.download(format!("RETR {name}"));
                reply.expect(550);
            }
        }),
        case("circles of links", |scene| {
            symlink("self", scene.server.path("self")).unwrap();
            symlink("ping", scene.server.path("pong")).unwrap();
            symlink("pong", scene.server.path("ping")).unwrap();
            symlink("round/x", scene.server.path("round")).unwrap();
            for name in ["self", "ping", "round"] {
                for line in [
                    "CWD {}",
                    "SIZE {}",
                    "MKD {}/x",
                    "RMD {}",
                    "RMDA {}",
                    "SITE CHMOD 777 {}",
                    "MFMT 20260101000000 {}",
                ] {
                    scene.client.expect(line.replace("{}", name), 550);
                }
                scene
                    .client
                    .upload(format!("STOR {name}"), b"x")
                    .expect(550);
                scene.client.download(format!("RETR {name}")).1.expect(550);
                // The link itself is all there is to be listed.
                assert_eq!(scene.client.list(format!("LIST -R {name}/")).len(), 1);
            }
        }),
        case("a directory that holds itself is listed once", |scene| {
            symlink(".", scene.server.path("dir/again")).unwrap();
            let lines = scene.client.list("LIST -R dir");
            assert_eq!(
                lines.iter().filter(|line| line.ends_with(" inner")).count(),
                1
            );
            let path = "again/".repeat(500);
            scene.client.expect(format!("SIZE dir/{path}inner"), 550);
            scene
                .client
                .expect(format!("SIZE dir/{}inner", "again/".repeat(30)), 213);
        }),
        case(
            "a hundred thousand links in a row, in one directory",
            a_hundred_thousand_links,
        ),
        case("targets of links forge no line", |scene| {
            let target = "x\r\n-rw-r--r-- 1 root root 5 Jan  1 00:00 forged\r\n\u{1b}[2J";
            fs::create_dir(scene.server.path("odd")).unwrap();
            symlink(target, scene.server.path("odd/link")).unwrap();
            for line in ["LIST odd", "LIST -R odd", "MLSD odd", "NLST -l odd"] {
                let (bytes, reply) = scene.client.download(line);
                reply.expect(226);
                let odd = |byte: &u8| *byte < b' ' && !b"\r\n".contains(byte);
                assert!(!bytes.iter().any(odd) && !bytes.windows(9).any(|w| w == b"\n-rw-r--r"));
            }
            let reply = scene.client.expect("STAT odd", 212);
            assert!(reply.lines.iter().all(|line| !line.starts_with(b"-rw")));
        }),
    ]);
    cases
}

fn a_hundred_thousand_links(scene: &mut Scene) {
    let top = scene.server.path("row");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("0"), "the end of the row").unwrap();
    for n in 1..MANY {
        symlink((n - 1).to_string(), top.join(n.to_string())).unwrap();
    }
    // Forty links are as many as the kernel follows.
    assert_eq!(scene.client.retr("row/40"), b"the end of the row");
    for n in [41, 1000, MANY - 1] {
        scene.client.download(format!("RETR row/{n}")).1.expect(550);
        scene
            .client
            .upload(format!("STOR row/{n}"), b"x")
            .expect(550);
        scene.client.expect(format!("CWD row/{n}"), 550);
    }
    for line in ["LIST row", "NLST row"] {
        let lines = scene.client.list(line);
        assert!(lines.len() >= MANY, "{line}: {} lines", lines.len());
    }
    // And the directory itself with its parent.
    assert_eq!(scene.client.list("MLSD row").len(), MANY + 2);
    scene.client.expect("RMDA row", 250);
    assert!(!top.exists());
}
