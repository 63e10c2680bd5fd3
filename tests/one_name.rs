//! Several who change what one name stands for at the same time: nothing that was acknowledged is lost, and nothing is mixed.

mod common;

use std::fs;
use std::io::Write;

use common::{Mounted, Server, assert_same_bytes, eventually, noise, told};
use thriftpd::accounts::Password;

/// File systems that are tried where they can be mounted.
const KINDS: [(&str, &[&str], u64); 3] = [
    ("ext4", &["mkfs.ext4", "-q"], 64 << 20),
    ("btrfs", &["mkfs.btrfs", "-q"], 200 << 20),
    ("xfs", &["mkfs.xfs", "-q"], 400 << 20),
];

/// What is tried where finished files are continued in place, and where in a clone.
fn on_each_kind(keys: &str, attempt: impl Fn(&Server, &str)) {
    attempt(&Server::build().keys(keys).start(), "the usual");
    for (kind, mkfs, size) in KINDS {
        let builder = Server::build().keys(keys);
        let Some(_disk) = Mounted::with(kind, mkfs, size, &builder) else {
            continue;
        };
        attempt(&builder.start(), kind);
    }
}

fn hidden(server: &Server) -> usize {
    let names = fs::read_dir(server.path("")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".partial")).count()
}

fn has_arrived(server: &Server, name: &str, bytes: usize) {
    let mut looking = server.client();
    eventually("the bytes have arrived", || {
        let reply = looking.command(format!("SIZE {name}"));
        reply.code == 213 && reply.text().contains(&told(bytes).to_string())
    });
}

#[test]
fn what_somebody_still_uploads_is_not_continued_by_another() {
    let server = Server::start();
    let contents = noise(100_004);
    let (mut first, mut second) = (server.client(), server.client());
    let data = first.begin_upload("STOR file", &contents[..100_000]);
    has_arrived(&server, "file", 100_000);
    // As a client does whose connection was lost, which the server has not heard of.
    second
        .upload("APPE file", &contents[told(100_000)..])
        .expect(450)
        .says("in use");
    second.expect("REST 100000", 350);
    second.upload("STOR file", &contents[100_000..]).expect(450);
    assert!(!server.exists("file"));
    first.reset();
    drop(data);
    eventually("it can be continued", || {
        let reply = second.upload("APPE file", &contents[told(100_000)..]);
        assert!(matches!(reply.code, 450 | 226), "{reply:?}");
        reply.code == 226
    });
    assert_same_bytes(&server.read("file"), &contents);
}

#[test]
fn of_two_who_continue_one_file_nobodys_acknowledged_bytes_are_lost() {
    on_each_kind("", |server, kind| {
        let (mut one, mut other) = (server.client(), server.client());
        one.stor("file", b"0123456789");
        let mut data = one.begin_upload("APPE file", b"aaa");
        let others = other
            .upload("APPE file", b"bbbbb")
            .expect_one_of(&[226, 450]);
        data.write_all(b"aa").unwrap();
        drop(data);
        let ones = one.reply().expect_one_of(&[226, 450]);
        let mut expected = b"0123456789".to_vec();
        if others.code == 226 {
            expected.extend(b"bbbbb");
        }
        if ones.code == 226 {
            expected.extend(b"aaaaa");
        }
        assert!(ones.code == 226 || others.code == 226, "{kind}");
        assert_eq!(server.read("file"), expected, "{kind}");
        assert_eq!(hidden(server), 0, "{kind}");
    });
}

#[test]
fn what_replaces_a_file_that_somebody_continues_is_what_stays() {
    on_each_kind("", |server, kind| {
        let (mut one, mut other) = (server.client(), server.client());
        one.stor("file", b"old contents");
        let mut data = one.begin_upload("APPE file", b" and ");
        other.stor("file", b"new version");
        data.write_all(b"more").unwrap();
        drop(data);
        one.reply().expect(450);
        assert_eq!(server.read("file"), b"new version", "{kind}");
        assert_eq!(hidden(server), 0, "{kind}");
        one.upload("APPE file", b", continued").expect(226);
        assert_eq!(server.read("file"), b"new version, continued", "{kind}");
    });
}

#[test]
fn what_is_removed_or_renamed_while_somebody_continues_it_is_not_acknowledged_under_its_name() {
    for keys in ["", "uploads = \"direct\"\n"] {
        on_each_kind(keys, |server, kind| {
            for commands in [&["DELE file"][..], &["RNFR file", "RNTO other"]] {
                let (mut one, mut other) = (server.client(), server.client());
                one.stor("file", b"old contents");
                let mut data = one.begin_upload("APPE file", b" and ");
                for command in commands {
                    other.command(command).expect_one_of(&[250, 350]);
                }
                data.write_all(b"more").unwrap();
                drop(data);
                one.reply().expect(450);
                assert!(!server.exists("file"), "{kind}: {commands:?}");
            }
        });
    }
}

#[test]
fn who_removes_a_tree_takes_no_upload_under_way() {
    let server = Server::start();
    let (mut one, mut other, mut third) = (server.client(), server.client(), server.client());
    one.expect("MKD dir", 257);
    let half = noise(5000);
    let mut data = one.begin_upload("STOR dir/file", &half);
    has_arrived(&server, "dir/file", 5000);
    other.expect("RMDA dir", 450);
    let _third = third.begin_upload("STOR dir/file", b"something else");
    data.write_all(b"and the rest").unwrap();
    drop(data);
    one.reply().expect(226);
    assert_eq!(
        server.read("dir/file"),
        [&half[..], b"and the rest"].concat()
    );
}

#[test]
fn what_others_have_overtaken_is_not_continued_later() {
    let server = Server::start();
    let (mut slow, mut quick) = (server.client(), server.client());
    let data = slow.begin_upload("STOR file", &noise(5000));
    has_arrived(&server, "file", 5000);
    quick.stor("file", b"whole");
    slow.reset();
    drop(data);
    eventually("nothing is left", || hidden(&server) == 0);
    fs::rename(server.path("file"), server.path("elsewhere")).unwrap();
    quick.expect("SIZE file", 550);
    quick.upload("APPE file", b"new").expect(226);
    assert_eq!(server.read("file"), b"new");
}

#[test]
fn who_renames_a_file_leaves_nothing_to_be_continued_under_either_name() {
    let server = Server::start();
    let mut client = server.client();
    for name in ["file", "other"] {
        client.stor("file", b"whole");
        client.cut_off_upload(format!("STOR {name}"), &noise(700));
        assert_eq!(hidden(&server), 1);
        client.expect("RNFR file", 350);
        client.expect("RNTO other", 250);
        assert_eq!(hidden(&server), 0, "{name}");
        client.expect("SIZE file", 550);
        client.expect("DELE other", 250);
        client.expect("SIZE other", 550);
    }
}

#[test]
fn what_lies_behind_a_restart_marker_is_no_part_of_what_is_continued() {
    let server = Server::start();
    let mut client = server.client();
    let (old, new) = (noise(100_000), vec![7; 60_000]);
    for (command, bytes) in [(None, &old[..]), (Some("REST 40000"), &new[..5_000])] {
        if let Some(command) = command {
            client.expect(command, 350);
        }
        client.cut_off_upload("STOR file", bytes);
    }
    let end = told(45_000);
    client.expect("SIZE file", 213).says(&end.to_string());
    client.upload("APPE file", &new[end - 40_000..]).expect(226);
    assert_same_bytes(&server.read("file"), &[&old[..40_000], &new].concat());
}

#[test]
fn old_versions_of_what_is_changed_in_place_count_for_the_quota() {
    let hash = Password::from_clear("right").unwrap();
    let user = format!(
        "uploads = \"direct\"\nversions = 10\n[[user]]\nname = \"anna\"\npassword = \"{}\"\nroot = \"{{root}}\"\nquota = \"1MB\"\n",
        hash.to_phc()
    );
    let server = Server::build().configuration(&user).start();
    let mut client = server.connect();
    client.login_as("anna", "right").expect(230);
    client.expect("TYPE I", 200);
    let contents = noise(900_000);
    client.stor("file", &contents);
    for _ in 0..3 {
        client.expect("REST 899999", 350);
        client.upload("STOR file", b"x").expect(552);
    }
    assert_same_bytes(&server.read("file"), &contents);
    client.expect("DELE file", 250);
    // It is an old version now.
    client.upload("STOR again", &contents).expect(552);
    // What came of it before that shows stays, and the rest of the room is there still.
    let came = fs::metadata(server.path("again")).map_or(0, |file| file.len());
    let left = 100_000 - usize::try_from(came).unwrap();
    client.stor("small", &contents[..left]);
}

#[test]
fn a_checksum_does_not_outlive_what_it_was_made_of() {
    let keys = "uploads = \"direct\"\nchecksums = true\n";
    let server = Server::build().keys(keys).start();
    let mut client = server.client();
    client.stor("file", b"0123456789");
    let before = client.expect("HASH file", 213).text();
    client.expect("MFMT 20200101000000 file", 213);
    client.cut_off_upload("STOR file", b"abcdefghij");
    fs::write(server.path("file"), b"abcdefghij").unwrap();
    client.expect("MFMT 20200101000000 file", 213);
    assert_ne!(client.expect("HASH file", 213).text(), before);
}

#[test]
fn what_is_written_in_place_stays_as_it_is_until_a_byte_comes() {
    let server = Server::build().keys("uploads = \"direct\"\n").start();
    let mut client = server.client();
    client.stor("file", b"contents");
    // Nobody listens there any more.
    drop(client.eprt());
    client.send("STOR file");
    while client.reply().expect_one_of(&[150, 425]).code != 425 {}
    assert_eq!(server.read("file"), b"contents");
    client.cut_off_upload("STOR file", b"");
    assert_eq!(server.read("file"), b"contents");
    // An empty file is one that was sent.
    client.stor("file", b"");
    assert_eq!(server.read("file"), b"");
}
