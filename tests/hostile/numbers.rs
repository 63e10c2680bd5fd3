//! Numbers that are too large, too small, or no numbers, wherever a command takes one.

use crate::scene::{Case, case};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "-0",
    "-1",
    "-9223372036854775808",
    "-9223372036854775809",
    "+1",
    "1.5",
    "1e9",
    "0x10",
    "010",
    "00000000000000000000000000000001",
    "1 ",
    " 1",
    "1,000",
    "NaN",
    "inf",
    "",
    "\u{ff11}",
    "\u{661}",
    "1\u{200b}",
    "%d",
    "99999999999999999999999999999999999999999999999999999999999999999999999999999999",
];

/// Sends the command with each number in the place of `#`: one reply each, and the session is in step.
fn everywhere(line: &'static str, may: &'static [u16]) -> Case {
    case(line, move |scene| {
        for number in NUMBERS
            .iter()
            .map(|number| (*number).to_owned())
            .chain(["9".repeat(3000), "0".repeat(3000)])
        {
            let line = line.replace('#', &number);
            let reply = scene.client.command(&line);
            assert!(
                (may.contains(&reply.code) || line.len() > 4096 && reply.code == 500),
                "{line}: {}",
                reply.text()
            );
            scene.client.expect("NOOP", 200);
        }
        scene.client.expect("SITE IDLE 900", 200);
        scene.client.expect("TYPE I", 200);
        scene.client.expect("REST 0", 350);
    })
}

pub fn cases() -> Vec<Case> {
    vec![
        everywhere("REST #", &[350, 501, 504]),
        everywhere("ALLO #", &[200, 202, 501, 552]),
        everywhere("ALLO # R #", &[200, 202, 501, 552]),
        everywhere("ALLO 1 R #", &[200, 202, 501, 552]),
        everywhere("MODE #", &[501, 504]),
        everywhere("STRU #", &[501, 504]),
        everywhere("TYPE #", &[501, 504]),
        everywhere("TYPE L #", &[200, 501, 504]),
        everywhere("MDTM # file", &[501, 550, 553]),
        everywhere("MDTM # # file", &[501, 550, 553]),
        everywhere("MFMT # missing", &[501, 550]),
        everywhere("MFMT 2026010100000# missing", &[501, 550]),
        everywhere("MFMT 20260101000000.# missing", &[501, 550]),
        everywhere("MFF Modify=#; missing", &[501, 504, 550]),
        everywhere("MFF UNIX.mode=#; missing", &[501, 504, 550]),
        everywhere("RANG # #", &[500, 501, 502, 350, 551]),
        everywhere("RANG 1 #", &[500, 501, 502, 350, 551]),
        everywhere("SITE IDLE #", &[200, 501]),
        everywhere("SITE CHMOD # missing", &[501, 504, 550]),
        everywhere("SITE UTIME # missing", &[501, 550]),
        everywhere("SITE UTIME missing # # # UTC", &[501, 550]),
        everywhere("PORT 127,0,0,1,#,#", &[200, 501]),
        everywhere("PORT #,0,0,1,4,1", &[501]),
        everywhere("PORT 127,0,0,1,255,255,#", &[501]),
        everywhere("EPRT |#|127.0.0.1|4000|", &[200, 501, 522]),
        everywhere("EPRT |1|#|4000|", &[501]),
        everywhere("EPRT |1|127.0.0.1|#|", &[200, 501]),
        everywhere("EPRT |1|127.0.0.1|4000|#", &[200, 501]),
        everywhere("EPSV #", &[229, 501, 522]),
        everywhere("PBSZ #", &[200, 501, 503]),
        everywhere("PROT #", &[501, 503, 504, 536]),
        case("the largest offset and every way to use it", |scene| {
            scene.server.write("mine", "mine");
            for offset in ["5", "4294967296", "9223372036854775807"] {
                for line in ["RETR mine", "STOR mine", "STOR new"] {
                    let data = scene.client.epsv();
                    scene.client.expect(format!("REST {offset}"), 350);
                    scene.client.expect(line, 554);
                    drop(data);
                }
                scene.client.expect(format!("REST {offset}"), 350);
                scene.client.upload("APPE mine", b"").expect(226);
                scene.client.expect(format!("REST {offset}"), 350);
                scene.client.list("LIST");
                scene.client.expect("REST 0", 350);
            }
            assert_eq!(scene.server.read("mine"), b"mine");
            assert!(!scene.server.exists("new"));
        }),
        case("room announced and never used", |scene| {
            for bytes in ["0", "1000000", "18446744073709551615"] {
                let asked = scene.client.command(format!("ALLO {bytes}"));
                asked.expect_one_of(&[200, 202, 552]);
                scene.client.upload("STOR new", b"five!").expect(226);
                assert_eq!(scene.server.read("new"), b"five!");
            }
            assert!(
                fs::metadata(scene.server.path("new")).unwrap().blocks() < 64,
                "room was kept"
            );
        }),
        case("times at the ends of what there is", |scene| {
            scene.server.write("mine", "mine");
            for time in [
                "00000000000000",
                "00010101000000",
                "19010101000000",
                "19691231235959",
                "20380119031408",
                "21060207062816",
                "99991231235959",
            ] {
                let told = scene
                    .client
                    .command(format!("MFMT {time} mine"))
                    .expect_one_of(&[213, 501, 550]);
                if told.code == 213 {
                    // What was told is what is there, even where the file system could not keep what was asked.
                    let now = scene.client.expect("MDTM mine", 213).text();
                    assert!(now.len() >= 18, "{now}");
                }
                for line in ["LIST mine", "NLST -l mine"] {
                    assert_eq!(scene.client.list(line).len(), 1);
                }
                scene.client.expect("MLST mine", 250);
            }
            for time in [
                "20260230000000",
                "20261301000000",
                "20260101240000",
                "20260101006000",
                "20260101000060",
                "2026010100000",
                "202601010000000",
            ] {
                scene
                    .client
                    .command(format!("MFMT {time} mine"))
                    .expect_one_of(&[501, 213]);
            }
        }),
        case(
            "files that the host has dated at the ends of time",
            |scene| {
                use nix::sys::stat::{UtimensatFlags, utimensat};
                use nix::sys::time::TimeSpec;
                let path = scene.server.path("mine");
                fs::write(&path, "mine").unwrap();
                for seconds in [
                    i64::MIN,
                    i64::MIN / 2,
                    -62_135_596_801,
                    -1,
                    0,
                    253_402_300_800,
                    i64::MAX / 2,
                    i64::MAX,
                ] {
                    let time = TimeSpec::new(seconds, 0);
                    if utimensat(
                        nix::fcntl::AT_FDCWD,
                        &path,
                        &time,
                        &time,
                        UtimensatFlags::FollowSymlink,
                    )
                    .is_err()
                    {
                        continue;
                    }
                    for line in ["LIST mine", "LIST -l"] {
                        assert!(!scene.client.list(line).is_empty());
                    }
                    scene.client.expect("MLST mine", 250);
                    scene.client.expect("MDTM mine", 213);
                    scene.client.download("MLSD").1.expect(226);
                }
            },
        ),
        case(
            "a sparse file of eight exabytes is told and not read",
            |scene| {
                let path = scene.server.path("huge");
                let file = fs::File::create(&path).unwrap();
                let largest = [i64::MAX as u64, 1 << 44, 1 << 42]
                    .into_iter()
                    .find(|&size| file.set_len(size).is_ok())
                    .unwrap();
                scene
                    .client
                    .expect("SIZE huge", 213)
                    .says(&largest.to_string());
                scene.client.expect(format!("REST {largest}"), 350);
                assert_eq!(scene.client.retr("huge"), b"");
                scene.client.expect("TYPE A", 200);
                scene.client.expect("SIZE huge", 550);
                scene.client.expect("TYPE I", 200);
                scene.client.list("LIST huge");
                // The end is reached and no room is left behind it.
                scene
                    .client
                    .upload("APPE huge", b"")
                    .expect_one_of(&[226, 550, 552, 554]);
            },
        ),
    ]
}
