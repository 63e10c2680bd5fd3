//! A client that goes away is told nothing, and what it sent is not taken for the file: between its two connections, within
//! the last flush, beside other sessions, and where the server dies too.

mod common;
#[allow(dead_code)]
#[path = "common/shelf.rs"]
mod shelf;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::mounts::may_mount;
use common::secure::{Secure, TlsStream, client_config, close_notify};
use common::{Client, PASSWORD, Server, USER, assert_same_bytes, eventually, noise, the_program};
use nix::sys::signal::Signal;
use rustls::version::TLS13;
use shelf::{Abilities, DISKS, Gate, Gated, Shelf};
use thriftpd::accounts::Password;

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
    is_continued_by(&mut server.client(), name, contents, arrived);
    assert_same_bytes(&server.read(name), contents);
}

#[track_caller]
fn is_continued_by(client: &mut Client, name: &str, contents: &[u8], arrived: usize) {
    eventually("it can be continued", || {
        client.expect(format!("REST {arrived}"), 350);
        let reply = client.upload(format!("STOR {name}"), &contents[arrived..]);
        assert!(matches!(reply.code, 226 | 450), "{}", reply.text());
        reply.code == 226
    });
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

/// What has the name behind the next start: the old file, for nobody has heard that the new one is stored. Without attributes the
/// two cannot be told apart.
fn left_by_a_kill<'a>(server: &Server, kind: &str, old: &'a [u8], new: &'a [u8]) -> &'a [u8] {
    if kind.contains("without attributes") {
        return new;
    }
    server.wait_for_log("old has its name back");
    old
}

#[test]
fn a_server_that_is_killed_in_its_last_flush_has_the_old_file_where_the_two_can_be_told_apart() {
    let attempt = |kind: &str, server: &Server, gate: &Gate| {
        eprintln!("on {kind}");
        let (old, contents) = (noise(300_000), noise(200_000));
        server.client().stor("old", &old);
        let mut client = server.client();
        into_the_last_flush(server, &mut client, gate, "old", &contents);
        let server = killed(server, gate);
        let left = left_by_a_kill(&server, kind, &old, &contents);
        assert_same_bytes(&server.read("old"), left);
        // Whatever could be continued, a whole upload begins anew.
        server.client().stor("old", b"whole");
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
        let left = left_by_a_kill(&server, kind, &old, &contents);
        server.client().stor("old", b"anew");
        assert_eq!(server.read("old"), b"anew");
        let kept = fs::read_dir(server.path(".thriftpd-versions/old")).unwrap();
        let mut kept: Vec<_> = kept.map(|kept| kept.unwrap().path()).collect();
        kept.sort();
        let kept: Vec<_> = kept.iter().map(|kept| fs::read(kept).unwrap()).collect();
        assert_same_bytes(&kept[0], &old);
        assert_same_bytes(kept.last().unwrap(), left);
    };
    on_each_disk("versions = 3\n", attempt);
    on_each_shelf("versions = 3\n", attempt);
}

#[test]
fn a_client_that_goes_before_the_last_flush_leaves_the_old_file_where_names_cannot_be_exchanged() {
    if !may_mount() {
        return;
    }
    for keys in ["", "versions = 5\n"] {
        let builder = Server::build().keys(keys);
        let abilities = Abilities::ALL.without_rename_flags();
        let Some(disk) = Shelf::mount(builder.root(), abilities) else {
            return;
        };
        let server = builder.start();
        let (old, contents) = (noise(300_000), noise(500_000));
        server.client().stor("old", &old);
        for name in ["old", "new"] {
            let mut client = server.client();
            disk.gate.close();
            drop(client.begin_upload(format!("STOR {name}"), &contents[..ARRIVED]));
            disk.gate.wait();
            drop(client);
            disk.gate.open();
            is_cut_off(&server, name, ARRIVED);
            match name {
                "old" => assert_same_bytes(&server.read("old"), &old),
                _ => assert!(!server.exists("new")),
            }
            is_continued(&server, name, &contents, ARRIVED);
            server.client().stor(name, b"anew");
            assert_eq!(server.read(name), b"anew");
            assert_eq!(hidden(&server), 0);
        }
        if !keys.is_empty() {
            // Each of them once.
            let kept = fs::read_dir(server.path(".thriftpd-versions/old")).unwrap();
            assert_eq!(kept.count(), 2);
        }
    }
}

/// Bytes and files that the quota counts.
#[track_caller]
fn counted(client: &mut Client) -> (u64, u64) {
    let text = client.expect("SITE QUOTA", 200).text();
    let number = |what: &str| -> u64 {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(what));
        let digits = line.unwrap().trim().split(|c: char| !c.is_ascii_digit());
        digits.into_iter().next().unwrap().parse().unwrap()
    };
    (number("Bytes:"), number("Files:"))
}

/// Bytes and files that are there.
fn there(server: &Server) -> (u64, u64) {
    let entries = fs::read_dir(server.path("")).unwrap().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok().filter(|it| it.is_file()));
    let sizes: Vec<u64> = files.map(|file| file.len()).collect();
    (sizes.iter().sum(), sizes.len() as u64)
}

#[test]
fn a_quota_is_exact_and_a_lock_in_nobodys_way_when_the_client_goes_during_the_last_flush() {
    if !may_mount() {
        return;
    }
    for (kind, mkfs, size) in DISKS {
        for keys in ["quota = \"10MB\"", "quota = \"10MB\"\nlock = \"30d\""] {
            let builder = Server::build().user(keys);
            let Some(disk) = Gated::mount(kind, mkfs, size, builder.root()) else {
                continue;
            };
            let server = builder.start();
            let contents = noise(500_000);
            server.client().stor("old", &noise(300_000));
            let names: &[&str] = match keys.contains("lock") {
                true => &["new"],
                false => &["old", "new"],
            };
            for name in names {
                for others in [0, 1] {
                    eprintln!("{name} on {kind} with {others} others");
                    let mut client = server.client();
                    let gate = disk.gate();
                    into_the_last_flush(&server, &mut client, gate, name, &contents[..ARRIVED]);
                    let mut other = server.client();
                    if others > 0 {
                        drop(other.begin_upload(format!("STOR {name}"), &contents[..100_000]));
                    }
                    drop(client);
                    gate.open();
                    server.wait_for_log(&format!("/{name} {ARRIVED} bytes"));
                    if others > 0 {
                        other.reply().expect(226);
                    }
                    let mut client = server.client();
                    eventually("the count is right", || {
                        counted(&mut client) == there(&server)
                    });
                    if others == 0 {
                        is_continued_by(&mut client, name, &contents, ARRIVED);
                        assert_same_bytes(&server.read(name), &contents);
                        assert_eq!(counted(&mut client), there(&server));
                        if keys.contains("lock") {
                            break;
                        }
                    }
                }
            }
        }
    }
}

// ---- between the two connections

/// How often something is tried whose outcome is a matter of time.
fn tries(usual: usize) -> usize {
    let told = std::env::var("THRIFTPD_TEST_HANG_UPS").ok();
    told.map_or(usual, |told| told.parse().unwrap())
}

/// A client that has sent its bytes, in the clear or not.
enum Sender {
    Clear(Client, TcpStream),
    Encrypted(Box<(Secure, TlsStream)>),
}

impl Sender {
    #[track_caller]
    fn begin(server: &Server, encrypted: bool, name: &str, bytes: &[u8]) -> Self {
        let line = format!("STOR {name}");
        if !encrypted {
            let mut client = server.client();
            let data = client.begin_upload(line, bytes);
            return Self::Clear(client, data);
        }
        let mut client = Secure::client(server, client_config(&TLS13));
        let mut data = client.open(line);
        data.write_all(bytes).unwrap();
        data.flush().unwrap();
        Self::Encrypted(Box::new((client, data)))
    }

    /// Ends one connection in order, waits, and ends the other; tells how long it took.
    fn hang_up(self, wait: Duration) -> Duration {
        match self {
            Self::Clear(client, data) => {
                let then = Instant::now();
                drop(data);
                pause(wait);
                drop(client);
                then.elapsed()
            }
            Self::Encrypted(both) => {
                let (client, mut data) = *both;
                let then = Instant::now();
                close_notify(&mut data);
                drop(data);
                pause(wait);
                client.close_notify();
                then.elapsed()
            }
        }
    }
}

/// Sleeps are too long by some.
fn pause(wait: Duration) {
    let until = Instant::now() + wait;
    if wait >= Duration::from_millis(1) {
        std::thread::sleep(wait - Duration::from_micros(500));
    }
    while Instant::now() < until {}
}

/// The line of the log that tells of the upload's end, and holds this.
#[track_caller]
fn how_it_ended(server: &Server, part: &str, seen: usize) -> String {
    let mut found = None;
    eventually("the upload ends", || {
        let text = server.log_text();
        let mut lines = text.lines().skip(seen);
        found = lines.find(|line| line.contains(part)).map(str::to_owned);
        found.is_some()
    });
    found.unwrap()
}

const BETWEEN: [u64; 4] = [0, 300, 1000, 5000];

/// Hangs up so often between the two connections, within `limit`, and looks what has become of it.
fn hangs_up(
    server: &Server,
    encrypted: bool,
    name: &str,
    (waits, limit): (&[u64], Duration),
    (set_up, mut look): (impl Fn(), impl FnMut(&str)),
) {
    let contents = noise(100_000);
    for &wait in waits {
        let (wanted, mut valid) = (tries(10), 0);
        for _ in 0..20 * wanted {
            set_up();
            let seen = server.log_text().lines().count();
            let sender = Sender::begin(server, encrypted, name, &contents);
            let took = sender.hang_up(Duration::from_micros(wait));
            let ended = how_it_ended(server, &format!("/{name} 100000 bytes"), seen);
            if took < limit {
                look(&format!("{took:?}: {ended}"));
                valid += 1;
            }
            if valid == wanted {
                break;
            }
        }
        // A machine that is too busy shows nothing.
        assert!(valid > 0, "nothing was as fast as it was to be");
        eprintln!("{name}, encrypted: {encrypted}, {wait} us between: {valid} of {wanted}");
    }
}

#[test]
fn a_client_that_ends_both_connections_replaces_nothing() {
    for keys in ["", "durable = false\n"] {
        let server = Server::build().keys(keys).start();
        let old = noise(150_000);
        server.client().stor("old", &old);
        for encrypted in [false, true] {
            let limits = (&BETWEEN[..], Duration::from_millis(8));
            // A try that was too slow may have replaced it.
            let set_up = || match server.read("old") == old {
                true => (),
                false => server.client().stor("old", &old),
            };
            let look = |ended: &str| {
                assert!(ended.contains("control connection lost"), "{ended}");
                assert_same_bytes(&server.read("old"), &old);
            };
            hangs_up(&server, encrypted, "old", limits, (set_up, look));
            let contents = noise(100_000);
            let more = [&contents[..], b"more"].concat();
            is_continued(&server, "old", &more, 100_000);
            eventually("it is the old one again", || {
                server.client().stor("old", &old);
                hidden(&server) == 0
            });
        }
    }
}

#[test]
fn a_client_that_ends_both_connections_makes_no_new_file() {
    for (keys, waits, limit) in [
        ("", &BETWEEN[..2], Duration::from_micros(750)),
        ("durable = false\n", &BETWEEN[..], Duration::from_millis(8)),
    ] {
        let server = Server::build().keys(keys).start();
        for encrypted in [false, true] {
            let name = format!("new-{encrypted}");
            let limits = (waits, limit);
            let set_up = || drop(fs::remove_file(server.path(&name)));
            let look = |ended: &str| {
                assert!(ended.contains("control connection lost"), "{ended}");
                assert!(!server.exists(&name));
            };
            hangs_up(&server, encrypted, &name, limits, (set_up, look));
        }
    }
}

#[test]
fn an_upload_in_place_whose_client_ends_both_connections_is_not_complete() {
    for keys in ["", "durable = false\n"] {
        let keys = format!("uploads = \"direct\"\n{keys}");
        let server = Server::build().keys(&keys).start();
        server.client().stor("old", b"old");
        for name in ["old", "new"] {
            let limits = (&BETWEEN[..], Duration::from_millis(8));
            let look = |ended: &str| {
                assert!(ended.contains("control connection lost"), "{ended}");
            };
            hangs_up(&server, false, name, limits, (|| (), look));
        }
    }
}

#[test]
fn a_client_that_may_hang_up_is_taken_at_its_word() {
    for keys in ["", "durable = false\n"] {
        let text = format!(
            "{keys}[[user]]\nname = \"{USER}\"\npassword = \"{}\"\nroot = \"{{root}}\"\naccept_hangup = true\n",
            Password::from_clear(PASSWORD).unwrap().to_phc()
        );
        let server = Server::build().configuration(&text).start();
        for encrypted in [false, true] {
            let limits = (&BETWEEN[..], Duration::from_secs(1));
            let look = |ended: &str| {
                assert!(ended.contains("complete"), "{ended}");
                assert_same_bytes(&server.read("file"), &noise(100_000));
            };
            hangs_up(&server, encrypted, "file", limits, (|| (), look));
        }
    }
}

// ---- real clients

const OLD: usize = 30 << 20;

/// Has a program upload over an old file so often, and ends it by `end`, whose argument is the number of the try.
fn is_never_replaced(
    keys: &str,
    often: usize,
    program: impl Fn(&Server, &Path) -> Command,
    end: impl Fn(&Server, &mut Child, usize),
) {
    let server = Server::build().keys(keys).start();
    let old = noise(OLD);
    server.client().stor("old", &old);
    server.wait_for_log(&format!("/old {OLD} bytes"));
    let local = server.directory("local").join("old");
    fs::write(&local, noise(OLD + 1)).unwrap();
    for number in 0..often {
        let seen = server.log_text().lines().count();
        let mut command = program(&server, &local);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        end(&server, &mut child, number);
        child.wait().unwrap();
        let ended = how_it_ended(&server, "/old ", seen);
        assert!(!ended.contains("complete"), "try {number}: {ended}");
        assert_same_bytes(&server.read("old"), &old);
    }
    server.client().stor("old", &old);
    assert_eq!(hidden(&server), 0);
}

/// Kills it when some of the upload has arrived.
fn killed_in_the_middle(server: &Server, child: &mut Child, number: usize) {
    let at = (1 + number as u64 % 9) << 20;
    let begun = SystemTime::now();
    eventually("some of it has arrived", || {
        let mut entries = fs::read_dir(server.path("")).unwrap().flatten();
        entries.any(|entry| {
            let is_one = entry.file_name().to_string_lossy().ends_with(".partial");
            // What the last try has left is there until the first byte of this one.
            let is_new = |it: &fs::Metadata| it.modified().unwrap() > begun && it.len() >= at;
            is_one && entry.metadata().is_ok_and(|it| is_new(&it))
        })
    });
    child.kill().unwrap();
}

#[test]
fn curl_that_is_killed_makes_no_new_file() {
    let server = Server::start();
    let local = server.directory("local").join("new");
    fs::write(&local, noise(OLD)).unwrap();
    for number in 0..tries(10) {
        let name = format!("new-{number}");
        let mut command = the_program("curl", server.home());
        command
            .args(["-sS", "--limit-rate", "20M", "-T"])
            .arg(&local);
        let command = command.arg(server.url(&name)).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        killed_in_the_middle(&server, &mut child, number);
        child.wait().unwrap();
        let ended = how_it_ended(&server, &format!("/{name} "), 0);
        assert!(!ended.contains("complete"), "try {number}: {ended}");
        assert!(!server.exists(&name));
    }
}

fn curl(server: &Server, local: &Path, arguments: &[&str]) -> Command {
    let mut curl = the_program("curl", server.home());
    curl.args(["-sS", "-T"]).arg(local).args(arguments);
    curl.arg(server.url("old"));
    curl
}

#[test]
fn curl_that_is_killed_replaces_nothing() {
    for keys in ["", "durable = false\n"] {
        is_never_replaced(
            keys,
            tries(10),
            |server, local| curl(server, local, &["--limit-rate", "20M"]),
            killed_in_the_middle,
        );
    }
}

#[test]
fn curl_whose_time_is_over_replaces_nothing() {
    for encrypted in [&["--ssl-reqd", "-k"][..], &[]] {
        is_never_replaced(
            "",
            tries(10).div_ceil(3),
            |server, local| {
                let slow = [&["--limit-rate", "10M", "-m", "0.6"], encrypted].concat();
                curl(server, local, &slow)
            },
            |_, _, _| (),
        );
    }
}

#[test]
fn lftp_that_is_killed_replaces_nothing() {
    is_never_replaced(
        "",
        tries(10).div_ceil(3),
        |server, local| {
            let mut lftp = the_program("lftp", server.home());
            let script = format!(
                "set ftp:ssl-allow no; set net:limit-rate 0:20000000; open -u {USER},{PASSWORD} ftp://{}; put {}",
                server.address(),
                local.display()
            );
            lftp.args(["-c", &script]);
            lftp
        },
        killed_in_the_middle,
    );
}
