//! A client that goes away is told nothing, and what it sent is not taken for the file: between its two connections, within
//! the last flush, beside other sessions, and where the server dies too.

mod common;
#[path = "common/shelf.rs"]
mod shelf;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::mounts::may_mount;
use common::secure::{Secure, client_config, close_notify};
use common::{Client, Server, assert_same_bytes, eventually, noise, the_program};
use nix::sys::signal::Signal;
use rustls::version::TLS13;
use shelf::{Abilities, DISKS, Gate, Gated, Shelf};

// ---- a flush that lasts as long as the test wants it to

/// Tries something on each file system that flushes at a gate: where a name is given before the last flush and behind it.
fn on_each_disk(keys: &str, attempt: impl Fn(&str, &Server, &Gate)) {
    if !may_mount() {
        return;
    }
    for (kind, mkfs, size) in DISKS {
        let builder = Server::build().keys(keys);
        let Some(disk) = Gated::mount(kind, mkfs, size, builder.root()) else {
            continue;
        };
        let server = builder.start();
        attempt(kind, &server, disk.gate());
    }
}

/// The same where nobody else gets at the directory during a flush, with and without what not every file system can do.
fn on_each_shelf(keys: &str, attempt: impl Fn(&str, &Server, &Gate)) {
    if !may_mount() {
        return;
    }
    for (kind, abilities) in [
        ("FUSE", Abilities::ALL),
        (
            "FUSE without attributes",
            Abilities::ALL.without_attributes(),
        ),
    ] {
        let builder = Server::build().keys(keys);
        let Some(disk) = Shelf::mount(builder.root(), abilities) else {
            return;
        };
        let server = builder.start();
        attempt(kind, &server, &disk.gate);
    }
}

/// The inode that the name stands for.
fn inode(server: &Server, name: &str) -> Option<u64> {
    let metadata = fs::symlink_metadata(server.path(name));
    metadata.ok().map(|metadata| metadata.ino())
}

/// Sends all of a file, so that the server flushes it at the closed gate and it has its name by then.
#[track_caller]
fn into_the_last_flush(
    server: &Server,
    client: &mut Client,
    gate: &Gate,
    name: &str,
    contents: &[u8],
) {
    let had = inode(server, name);
    gate.close();
    drop(client.begin_upload(format!("STOR {name}"), contents));
    let deadline = Instant::now() + common::PATIENCE;
    loop {
        gate.wait();
        let is_named = gate.pass_unless(&|| {
            let has = inode(server, name);
            has.is_some() && has != had
        });
        if is_named {
            return;
        }
        assert!(Instant::now() < deadline, "it is never given its name");
    }
}

/// The server sees that the client is gone.
#[track_caller]
fn is_cut_off(server: &Server, name: &str, bytes: usize) {
    let line = server.wait_for_log(&format!("/{name} {bytes} bytes"));
    assert!(line.contains("control connection lost"), "{line}");
}

/// What was sent of a file is continued where it ended.
#[track_caller]
fn is_continued(server: &Server, name: &str, contents: &[u8], arrived: usize) {
    let mut client = server.client();
    eventually("it can be continued", || {
        client.expect(format!("REST {arrived}"), 350);
        let reply = client.upload(format!("STOR {name}"), &contents[arrived..]);
        assert!(matches!(reply.code, 226 | 450), "{}", reply.text());
        reply.code == 226
    });
    assert_same_bytes(&server.read(name), contents);
}

/// Files whose names are those of the server's own.
fn hidden(server: &Server) -> usize {
    let names = fs::read_dir(server.path("")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".partial")).count()
}

const ARRIVED: usize = 200_000;

#[test]
fn a_client_that_goes_during_the_last_flush_leaves_the_old_file_or_none() {
    let attempt = |kind: &str, server: &Server, gate: &Gate| {
        eprintln!("on {kind}");
        let (old, contents) = (noise(300_000), noise(500_000));
        server.client().stor("old", &old);
        for name in ["old", "new"] {
            let mut client = server.client();
            into_the_last_flush(server, &mut client, gate, name, &contents[..ARRIVED]);
            drop(client);
            gate.open();
            is_cut_off(server, name, ARRIVED);
            match name {
                "old" => assert_same_bytes(&server.read(name), &old),
                _ => assert!(!server.exists(name), "{kind}"),
            }
            is_continued(server, name, &contents, ARRIVED);
            assert_eq!(hidden(server), 0, "{kind}");
        }
    };
    on_each_disk("", attempt);
    on_each_shelf("", attempt);
}

#[test]
fn a_client_that_stays_during_the_last_flush_is_told_that_it_is_stored() {
    let attempt = |kind: &str, server: &Server, gate: &Gate| {
        let (old, contents) = (noise(300_000), noise(500_000));
        server.client().stor("old", &old);
        for name in ["old", "new"] {
            let mut client = server.client();
            into_the_last_flush(server, &mut client, gate, name, &contents);
            assert!(!client.has_reply_waiting(), "{kind}");
            gate.open();
            client.reply().expect(226);
            assert_same_bytes(&server.read(name), &contents);
            assert_eq!(hidden(server), 0, "{kind}");
        }
    };
    on_each_disk("", attempt);
    on_each_shelf("", attempt);
}

#[test]
fn a_client_that_begins_again_during_the_last_flush_keeps_no_broken_file() {
    on_each_disk("", |kind, server, gate| {
        let (old, contents) = (noise(300_000), noise(500_000));
        server.client().stor("old", &old);
        for name in ["old", "new"] {
            let mut client = server.client();
            into_the_last_flush(server, &mut client, gate, name, &contents[..ARRIVED]);
            let mut again = server.client();
            let data = again.begin_upload(format!("STOR {name}"), &contents[..ARRIVED]);
            eventually("it is under way", || {
                hidden(server) > usize::from(name == "old")
            });
            drop(client);
            gate.open();
            server.wait_for_log(&format!("/{name} {ARRIVED} bytes"));
            match name {
                "old" => assert_same_bytes(&server.read(name), &old),
                _ => assert!(!server.exists(name), "{kind}"),
            }
            (&data).write_all(&contents[ARRIVED..]).unwrap();
            drop(data);
            again.reply().expect(226);
            assert_same_bytes(&server.read(name), &contents);
            eventually("nothing is left", || hidden(server) == 0);
        }
    });
}

/// What another session does to the name meanwhile.
const MEANWHILE: [&[&str]; 3] = [&["STOR old"], &["DELE old"], &["RNFR old", "RNTO other"]];

#[test]
fn what_others_do_to_the_name_during_the_last_flush_is_not_lost() {
    on_each_disk("", |kind, server, gate| {
        for commands in MEANWHILE {
            for stays in [false, true] {
                eprintln!("{commands:?} on {kind}, the client stays: {stays}");
                let (old, contents, others) = (noise(300_000), noise(200_000), noise(100_000));
                server.client().stor("old", &old);
                let mut client = server.client();
                into_the_last_flush(server, &mut client, gate, "old", &contents);
                let seen = server.log_text().lines().count();
                let mut other = server.client();
                let last = match commands {
                    ["STOR old"] => {
                        drop(other.begin_upload("STOR old", &others));
                        226
                    }
                    [first, last] => {
                        other.expect(first, 350);
                        other.send(last);
                        250
                    }
                    _ => {
                        other.send(commands[0]);
                        250
                    }
                };
                if stays {
                    gate.open();
                    client.reply().expect(226);
                } else {
                    drop(client);
                    gate.open();
                    eventually("the client is gone", || {
                        let text = server.log_text();
                        let mut lines = text.lines().skip(seen);
                        lines.any(|line| line.contains("control connection lost"))
                    });
                }
                other.reply().expect(last);
                let survives = if stays { &contents } else { &old };
                match commands {
                    ["STOR old"] => assert_same_bytes(&server.read("old"), &others),
                    ["DELE old"] => assert!(!server.exists("old"), "{kind}"),
                    _ => {
                        assert!(!server.exists("old"), "{kind}");
                        assert_same_bytes(&server.read("other"), survives);
                    }
                }
                let mut clean = server.client();
                for name in ["old", "other"] {
                    clean.command(format!("DELE {name}"));
                }
                eventually("nothing is left", || {
                    clean.command("DELE old");
                    hidden(server) == 0
                });
            }
        }
    });
}

#[test]
fn two_clients_that_go_during_their_last_flushes_leave_the_old_file() {
    on_each_disk("", |kind, server, gate| {
        let (old, contents) = (noise(300_000), noise(200_000));
        server.client().stor("old", &old);
        let mut one = server.client();
        into_the_last_flush(server, &mut one, gate, "old", &contents);
        let mut other = server.client();
        let data = other.begin_upload("STOR old", &contents[..100_000]);
        eventually("it has arrived", || hidden(server) == 2);
        drop(data);
        // Time to get its name, for a server that would give it.
        let has = inode(server, "old");
        for _ in 0..20 {
            if inode(server, "old") != has {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(one);
        drop(other);
        gate.open();
        server.wait_for_log("/old 200000 bytes");
        server.wait_for_log("/old 100000 bytes");
        assert_same_bytes(&server.read("old"), &old);
        eprintln!("{kind} done");
    });
}

/// Kills the server in its flush, and starts it again.
fn killed(server: &Server, gate: &Gate) -> Server {
    server.signal(Signal::SIGKILL);
    gate.open();
    server.wait();
    server.restart()
}

#[test]
fn a_server_that_is_killed_in_its_last_flush_has_one_of_both_and_continues_neither_with_the_other()
{
    let attempt = |kind: &str, server: &Server, gate: &Gate| {
        eprintln!("on {kind}");
        let (old, contents) = (noise(300_000), noise(200_000));
        server.client().stor("old", &old);
        let mut client = server.client();
        into_the_last_flush(server, &mut client, gate, "old", &contents);
        let server = killed(server, gate);
        assert_same_bytes(&server.read("old"), &contents);
        // Taken away from outside, it is not there any more, nor is anything that could be continued.
        fs::remove_file(server.path("old")).unwrap();
        let mut client = server.client();
        client.expect("SIZE old", 550);
        client.expect("REST 4096", 350);
        client.upload("STOR old", b"tail").expect(554);
        client.upload("APPE old", b"whole").expect(226);
        assert_eq!(server.read("old"), b"whole", "{kind}");
    };
    on_each_disk("", attempt);
    on_each_shelf("", attempt);
}

#[test]
fn a_version_outlives_a_server_that_is_killed_in_its_last_flush() {
    let attempt = |kind: &str, server: &Server, gate: &Gate| {
        eprintln!("on {kind}");
        let (old, contents) = (noise(300_000), noise(200_000));
        server.client().stor("old", &old);
        let mut client = server.client();
        into_the_last_flush(server, &mut client, gate, "old", &contents);
        let server = killed(server, gate);
        server.client().stor("old", b"anew");
        assert_eq!(server.read("old"), b"anew");
        let kept = fs::read_dir(server.path(".thriftpd-versions/old")).unwrap();
        let mut kept: Vec<_> = kept.map(|kept| kept.unwrap().path()).collect();
        kept.sort();
        let kept: Vec<_> = kept.iter().map(|kept| fs::read(kept).unwrap()).collect();
        assert_eq!(kept.len(), 2, "{kind}");
        assert_same_bytes(&kept[0], &old);
        assert_same_bytes(&kept[1], &contents);
    };
    on_each_disk("versions = 3\n", attempt);
    on_each_shelf("versions = 3\n", attempt);
}
