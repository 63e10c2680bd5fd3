//! What is taken away stays as an old version, whichever way a client takes it away, and what stays makes none.

mod common;
#[allow(dead_code)]
#[path = "common/shelf.rs"]
mod shelf;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::mounts::{Mount, may_mount};
use common::{Client, PASSWORD, Server, USER, eventually, lftp, noise, rclone, run_client};
use shelf::{Abilities, Shelf};
use thriftpd::accounts::Password;

fn server(keys: &str) -> Server {
    Server::build().anonymous(keys).start()
}

/// Of the usual user, with these keys.
fn server_of_user(keys: &str) -> Server {
    Server::build().keys(keys).start()
}

/// What the versions of a file hold, the oldest first.
fn versions(server: &Server, file: &str) -> Vec<String> {
    let directory = server.path(".thriftpd-versions").join(file);
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    let contents = paths.iter().map(|path| fs::read_to_string(path).unwrap());
    contents.collect()
}

fn rename(client: &mut Client, from: &str, to: &str) -> common::Reply {
    client.expect(format!("RNFR {from}"), 350);
    client.command(format!("RNTO {to}"))
}

// ---- every way to take a file away

#[test]
fn what_dele_rmda_and_rnto_take_away_becomes_a_version() {
    let server = server("versions = 2");
    let mut client = server.visitor();
    client.stor("deleted", b"one");
    client.expect("DELE deleted", 250);
    client.stor("deleted", b"two");
    client.stor("deleted", b"three");
    client.expect("DELE deleted", 250);
    assert_eq!(versions(&server, "deleted"), ["two", "three"]);
    client.expect("MKD tree", 257);
    client.expect("MKD tree/deep", 257);
    client.stor("tree/a", b"a");
    client.stor("tree/deep/b", b"b");
    std::os::unix::fs::symlink("a", server.path("tree/link")).unwrap();
    client.expect("RMDA tree", 250);
    assert!(!server.exists("tree"));
    assert_eq!(versions(&server, "tree/a"), ["a"]);
    assert_eq!(versions(&server, "tree/deep/b"), ["b"]);
    assert!(versions(&server, "tree/link").is_empty());
    client.stor("over", b"old");
    client.stor("new", b"new");
    rename(&mut client, "new", "over").expect(250);
    assert_eq!(versions(&server, "over"), ["old"]);
    assert_eq!(server.read("over"), b"new");
    // Moved, it is not taken away.
    assert!(versions(&server, "new").is_empty());
    // What an upload has left is no version of anything.
    client.cut_off_upload("STOR part", b"half");
    client.expect("DELE part", 250);
    assert!(versions(&server, "part").is_empty());
}

/// A file on a file system of its own cannot have a second name among the versions.
#[test]
fn where_a_file_cannot_have_a_second_name_a_copy_becomes_the_version() {
    if !may_mount() {
        return;
    }
    let builder = Server::build().anonymous("versions = 3\nquota = \"1MB\"");
    let inner = builder.root().join("disk");
    fs::create_dir(&inner).unwrap();
    let _disk = Mount::memory(&inner, "size=4m");
    let server = builder.start();
    let mut client = server.visitor();
    for contents in ["one", "two", "three"] {
        client.stor("disk/file", contents.as_bytes());
    }
    assert_eq!(versions(&server, "disk/file"), ["one", "two"]);
    client.stor("disk/other", b"four");
    rename(&mut client, "disk/other", "disk/file").expect(250);
    assert_eq!(versions(&server, "disk/file"), ["one", "two", "three"]);
    client.expect("DELE disk/file", 250);
    assert_eq!(versions(&server, "disk/file"), ["two", "three", "four"]);
    client.expect("MKD disk/tree", 257);
    client.stor("disk/tree/a", b"a");
    client.expect("RMDA disk/tree", 250);
    assert_eq!(versions(&server, "disk/tree/a"), ["a"]);
    // Nothing half-made is left.
    let left = fs::read_dir(server.path(".thriftpd-versions/disk/file")).unwrap();
    assert_eq!(left.count(), 3);
}

#[test]
fn a_copy_that_would_take_what_has_to_stay_free_is_not_made_and_the_file_stays() {
    if !may_mount() {
        return;
    }
    let builder = Server::build()
        .anonymous("versions = 3")
        .keys("min_free = \"99%\"\n");
    let inner = builder.root().join("disk");
    fs::create_dir(&inner).unwrap();
    let _disk = Mount::memory(&inner, "size=4m");
    fs::write(inner.join("file"), "file").unwrap();
    let server = builder.start();
    let mut client = server.visitor();
    client
        .expect("DELE disk/file", 452)
        .says("the disk is full");
    assert!(server.exists("disk/file"));
}

/// A file system where no file has a second name, as exFAT.
fn on_a_shelf_without_links(keys: &str) -> Option<(Server, Shelf)> {
    if !may_mount() {
        return None;
    }
    let builder = Server::build().anonymous(keys);
    let shelf = Shelf::mount(builder.root(), Abilities::ALL.without_links())?;
    Some((builder.start(), shelf))
}

/// Lets flushes through until one waits while this holds.
fn until_it_waits(shelf: &Shelf, holds: &dyn Fn() -> bool) {
    loop {
        shelf.gate.wait();
        if holds() {
            return;
        }
        shelf.gate.pass();
    }
}

#[test]
fn where_there_are_no_links_every_way_to_take_a_file_away_leaves_a_version() {
    let Some((server, _shelf)) = on_a_shelf_without_links("versions = 4") else {
        return;
    };
    let mut client = server.visitor();
    client.stor("file", b"one");
    client.stor("file", b"two");
    client.stor("other", b"three");
    rename(&mut client, "other", "file").expect(250);
    client.expect("DELE file", 250);
    assert_eq!(versions(&server, "file"), ["one", "two", "three"]);
    let left = fs::read_dir(server.path(".thriftpd-versions/file")).unwrap();
    assert_eq!(left.count(), 3);
}

#[test]
fn a_copy_is_made_while_nobody_waits_for_the_name() {
    let Some((server, shelf)) = on_a_shelf_without_links("versions = 4") else {
        return;
    };
    let mut other = server.visitor();
    other.stor("file", b"one");
    let mut client = server.visitor();
    shelf.gate.close();
    drop(client.begin_upload("STOR file", b"two"));
    // Its own bytes are flushed, and then the copy of what it replaces.
    let is_copied = || {
        let made = fs::read_dir(server.path(".thriftpd-versions/file"));
        made.is_ok_and(|mut made| made.next().is_some())
    };
    until_it_waits(&shelf, &is_copied);
    assert!(!client.has_reply_waiting());
    other.expect("DELE file", 250);
    shelf.gate.open();
    client.reply().expect(226);
    assert_eq!(server.read("file"), b"two");
    // What was deleted meanwhile is one version, and the copy none.
    assert_eq!(versions(&server, "file"), ["one"]);
    let left = fs::read_dir(server.path(".thriftpd-versions/file")).unwrap();
    assert_eq!(left.count(), 1);
}

// ---- what stays makes no version

#[test]
fn an_upload_whose_client_goes_during_the_last_flush_makes_no_version_and_thins_none() {
    if !may_mount() {
        return;
    }
    for abilities in [Abilities::ALL, Abilities::ALL.without_links()] {
        let builder = Server::build().anonymous("versions = 1");
        let Some(shelf) = Shelf::mount(builder.root(), abilities) else {
            return;
        };
        let server = builder.start();
        let mut client = server.visitor();
        client.stor("file", b"one");
        client.stor("file", b"two");
        let mut dying = server.visitor();
        shelf.gate.close();
        drop(dying.begin_upload("STOR file", b"three"));
        // It has its name by then.
        until_it_waits(&shelf, &|| server.read("file") == b"three");
        drop(dying);
        shelf.gate.open();
        server.wait_for_log("control connection lost");
        assert_eq!(server.read("file"), b"two");
        assert_eq!(versions(&server, "file"), ["one"]);
    }
}

#[test]
fn a_rename_that_fails_makes_no_version_and_thins_none() {
    let server = server("versions = 1");
    let mut client = server.visitor();
    client.stor("file", b"one");
    client.stor("file", b"two");
    client.expect("MKD directory", 257);
    // What is there is a file, and a directory cannot take its place.
    rename(&mut client, "directory", "file").expect(550);
    assert_eq!(versions(&server, "file"), ["one"]);
    assert_eq!(server.read("file"), b"two");
    rename(&mut client, "file", "file").expect(250);
    assert_eq!(versions(&server, "file"), ["one"]);
}

#[test]
fn an_upload_whose_client_is_gone_makes_no_version_and_thins_none() {
    let server = Server::build().user("versions = 1").start();
    let mut client = server.client();
    client.stor("file", b"one");
    client.stor("file", b"two");
    for _ in 0..10 {
        let mut dying = server.client();
        let data = dying.begin_upload("STOR file", b"three");
        drop(data);
        drop(dying);
    }
    eventually("all of them are noticed", || {
        server.log_text().matches("bytes").count() >= 12
    });
    assert_eq!(versions(&server, "file"), ["one"]);
    assert_eq!(server.read("file"), b"two");
}

#[test]
fn an_upload_in_place_that_brings_nothing_makes_no_version_and_counts_none() {
    let server = server("versions = 1\nuploads = \"direct\"\nquota = \"1MB\"");
    let mut client = server.visitor();
    client.stor("file", b"one");
    client.stor("file", b"two");
    let data = client.epsv();
    client.expect("STOR file", 150);
    client.abort();
    drop(data);
    assert_eq!(versions(&server, "file"), ["one"]);
    assert_eq!(server.read("file"), b"two");
    client.expect("SITE QUOTA", 200).says("Bytes: 6 of");
}

// ---- quotas

#[test]
fn what_was_taken_away_counts_while_it_is_a_version() {
    let server = server("versions = 1\nquota = \"100B\"");
    let mut client = server.visitor();
    client.stor("file", &[b'x'; 60]);
    client.expect("DELE file", 250);
    client.expect("SITE QUOTA", 200).says("Bytes: 60 of");
    client.upload("STOR other", &[b'y'; 60]).expect(552);
    // The next version takes the place of the last.
    client.stor("file", &[b'z'; 30]);
    client.expect("DELE file", 250);
    let counted = client.expect("SITE QUOTA", 200).text();
    assert!(counted.contains("Bytes: 30 of"), "{counted}");
    drop(client);
    eventually("nothing is under way", || {
        rescan(server.home()).contains("30 bytes in 1 files")
    });
}

fn rescan(home: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
    command.args(["quota", "--rescan", "--config"]);
    run_client(command.arg(home.join("thriftpd.toml")), 60).text()
}

// ---- real clients

#[test]
fn lftp_that_mirrors_leaves_what_it_replaces_and_removes() {
    let server = server_of_user("versions = 3\n");
    let local = server.directory("local");
    let write = |name: &str, contents: &str, seconds: u64| {
        fs::write(local.join(name), contents).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_600_000_000 + seconds);
        fs::File::open(local.join(name))
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    write("changed", "first", 0);
    write("removed", "gone", 0);
    let mirror = |options: &str| {
        let script = format!("mirror -R {options} {} up", local.to_str().unwrap());
        lftp(&server, &script).succeeded();
    };
    mirror("");
    write("changed", "second and longer", 1000);
    fs::remove_file(local.join("removed")).unwrap();
    mirror("--delete");
    assert_eq!(server.read("up/changed"), b"second and longer");
    assert_eq!(versions(&server, "up/changed"), ["first"]);
    assert_eq!(versions(&server, "up/removed"), ["gone"]);
    assert!(!server.exists("up/removed"));
    // What it removes before it stores again is there all the same.
    write("changed", "third", 2000);
    mirror("--delete-first");
    lftp(&server, "rm -r up").succeeded();
    assert_eq!(
        versions(&server, "up/changed"),
        ["first", "second and longer", "third"]
    );
}

#[test]
fn rclone_that_syncs_leaves_what_it_replaces_and_removes() {
    let server = server_of_user("versions = 3\n");
    let local = server.directory("local");
    fs::write(local.join("changed"), "first").unwrap();
    fs::write(local.join("removed"), "gone").unwrap();
    let from = local.to_str().unwrap();
    rclone(&server, &["sync", from, ":ftp:up"]).succeeded();
    fs::write(local.join("changed"), "second and longer").unwrap();
    fs::remove_file(local.join("removed")).unwrap();
    rclone(&server, &["sync", from, ":ftp:up"]).succeeded();
    assert_eq!(server.read("up/changed"), b"second and longer");
    assert_eq!(versions(&server, "up/changed"), ["first"]);
    assert_eq!(versions(&server, "up/removed"), ["gone"]);
    rclone(&server, &["purge", ":ftp:up"]).succeeded();
    assert_eq!(
        versions(&server, "up/changed"),
        ["first", "second and longer"]
    );
}

/// A replacement that fails is deleted by the client, and with it what it was to replace.
#[test]
fn rclone_that_deletes_after_a_failed_replacement_leaves_the_old_file_among_the_versions() {
    let hash = Password::from_clear(PASSWORD).unwrap();
    let hash = hash.to_phc();
    let server = Server::build()
        .configuration(&format!(
            "[[user]]\nname = \"{USER}\"\npassword = \"{hash}\"\nroot = \"{{root}}\"\nversions = 3\nquota = \"1MB\"\n"
        ))
        .start();
    let local = server.directory("local");
    let from = local.to_str().unwrap();
    fs::write(local.join("file"), "first").unwrap();
    rclone(&server, &["copy", from, ":ftp:up"]).succeeded();
    fs::write(local.join("file"), noise(2_000_000)).unwrap();
    rclone(&server, &["copy", from, ":ftp:up"]).failed();
    let there = server.exists("up/file").then(|| server.read("up/file"));
    let kept = versions(&server, "up/file");
    assert!(
        there.as_deref() == Some(b"first") || kept == ["first"],
        "{there:?} {kept:?}"
    );
}

/// Of a clock that was ahead: what is made now is the newest all the same.
#[test]
fn versions_with_names_from_the_future_take_no_new_one_away() {
    let server = server("versions = 2");
    let mut client = server.visitor();
    for contents in ["one", "two", "three"] {
        client.stor("file", contents.as_bytes());
    }
    let directory = server.path(".thriftpd-versions/file");
    for (number, entry) in fs::read_dir(&directory).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let later = format!("209{number}{}", &name[4..]);
        fs::rename(directory.join(&name), directory.join(later)).unwrap();
    }
    client.stor("file", b"four");
    client.expect("DELE file", 250);
    let contents = |entry: std::io::Result<fs::DirEntry>| fs::read(entry.unwrap().path()).unwrap();
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(contents).collect();
    assert!(left.contains(&b"four".to_vec()), "{left:?}");
    assert_eq!(left.len(), 2);
}
