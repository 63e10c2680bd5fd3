//! Checksums: HASH and RANG, XCRC and its kin, what is stored with a file, and what happens while one is computed.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{
    Client, PASSWORD, Server, USER, assert_same_bytes, eventually, noise, run_client, skip,
    the_program,
};
use nix::sys::signal::Signal;
use thriftpd::storage::integrity::checksum;

/// A digest that no file has.
const WRONG: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

/// More than can be read within any test: 1 TiB.
const ENDLESS: u64 = 1 << 40;

/// What the system's own program says of a file.
fn by_program(program: &str, path: &Path) -> String {
    let home = path.parent().unwrap();
    let finished = run_client(the_program(program, home).arg(path), 60).succeeded();
    let text = finished.text();
    text.split_whitespace().next().unwrap().to_owned()
}

fn crc32(path: &Path) -> String {
    let script = "import sys, zlib; print('%08x' % zlib.crc32(open(sys.argv[1], 'rb').read()))";
    let mut command = the_program("python3", path.parent().unwrap());
    let finished = run_client(command.args(["-c", script]).arg(path), 60).succeeded();
    finished.text().trim().to_owned()
}

/// SHA-256 of these bytes, by the system's own program.
fn sha256(server: &Server, bytes: &[u8]) -> String {
    let path = server.directory("expected").join("bytes");
    fs::write(&path, bytes).unwrap();
    by_program("sha256sum", &path)
}

fn text(client: &mut Client, line: &str, code: u16) -> String {
    let reply = client.expect(line, code);
    String::from_utf8_lossy(reply.last()).into_owned()
}

/// Sends a command that computes for longer than any test, and waits until it is at it.
fn begin_endless(server: &Server, client: &mut Client, command: &str) {
    let file = File::create(server.path("endless")).unwrap();
    file.set_len(ENDLESS).unwrap();
    let before = server.worked();
    client.send(format!("{command} endless"));
    // A command that comes before the work has begun waits for its end.
    eventually("the server computes", || server.worked() > before + 2);
}

// ---- what is computed

#[test]
fn checksums_are_those_that_other_programs_compute() {
    let server = Server::start();
    let mut client = server.connect();
    // HASH is of the bytes as they are, in the default type too, which is ASCII.
    client.login();
    for size in [0, 1, 131_072, 300_001] {
        let name = format!("file-{size}");
        server.write(&name, noise(size));
        let path = server.path(&name);
        let last = size.saturating_sub(1);
        for (algorithm, verb, expected) in [
            ("SHA-256", "XSHA256", by_program("sha256sum", &path)),
            ("SHA-512", "XSHA512", by_program("sha512sum", &path)),
            ("SHA-1", "XSHA1", by_program("sha1sum", &path)),
            ("MD5", "XMD5", by_program("md5sum", &path)),
            ("CRC32", "XCRC", crc32(&path)),
        ] {
            client.expect(format!("OPTS HASH {algorithm}"), 200);
            let told = text(&mut client, &format!("HASH {name}"), 213);
            assert_eq!(told, format!("{algorithm} 0-{last} {expected} {name}"));
            assert_eq!(text(&mut client, &format!("{verb} {name}"), 250), expected);
        }
    }
}

#[test]
fn the_algorithm_is_selected_for_the_session() {
    let server = Server::start();
    server.write("abc", "abc");
    let mut client = server.client();
    let feat = |client: &mut Client| {
        let text = client.expect("FEAT", 211).text();
        let line = text.lines().find(|line| line.starts_with(" HASH "));
        line.unwrap().to_owned()
    };
    assert_eq!(feat(&mut client), " HASH SHA-256*;SHA-512;SHA-1;MD5;CRC32");
    assert_eq!(text(&mut client, "OPTS HASH", 200), "SHA-256");
    assert_eq!(text(&mut client, "OPTS hash sha-1", 200), "SHA-1");
    assert_eq!(text(&mut client, "OPTS HASH", 200), "SHA-1");
    assert_eq!(feat(&mut client), " HASH SHA-256;SHA-512;SHA-1*;MD5;CRC32");
    for unknown in ["CRC-37", "SHA1", "SHA-1 MD5"] {
        client
            .expect(format!("OPTS HASH {unknown}"), 501)
            .says("SHA-1");
    }
    assert_eq!(
        text(&mut client, "HASH abc", 213),
        "SHA-1 0-2 a9993e364706816aba3e25717850c26c9cd0d89d abc"
    );
    // Another session has its own.
    assert_eq!(text(&mut server.client(), "OPTS HASH", 200), "SHA-256");
    client.expect("REIN", 220);
    assert_eq!(text(&mut client, "OPTS HASH", 200), "SHA-256");
}

// ---- parts of files

#[test]
fn a_range_holds_for_the_next_hash_or_retr_only() {
    let server = Server::start();
    let bytes = noise(1000);
    server.write("file", &bytes);
    let mut client = server.client();
    let whole = format!("SHA-256 0-999 {} file", sha256(&server, &bytes));
    let told =
        |range: &str, bytes: &[u8]| format!("SHA-256 {range} {} file", sha256(&server, bytes));

    client.expect("RANG 0 49", 350);
    assert_eq!(
        text(&mut client, "HASH file", 213),
        told("0-49", &bytes[..50])
    );
    assert_eq!(text(&mut client, "HASH file", 213), whole);
    client.expect("RANG 999 999", 350);
    assert_eq!(
        text(&mut client, "HASH file", 213),
        told("999-999", &bytes[999..])
    );
    client.expect("REST 600", 350);
    assert_eq!(
        text(&mut client, "HASH file", 213),
        told("600-999", &bytes[600..])
    );

    // The one that comes last counts, whichever it is.
    client.expect("RANG 0 49", 350);
    client.expect("REST 600", 350);
    assert_eq!(
        text(&mut client, "HASH file", 213),
        told("600-999", &bytes[600..])
    );
    client.expect("REST 600", 350);
    client.expect("RANG 1 0", 350);
    assert_eq!(text(&mut client, "HASH file", 213), whole);
    client.expect("RANG 0 49", 350);
    client.expect("RANG 1 0", 350);
    assert_eq!(text(&mut client, "HASH file", 213), whole);
    // What does not use it takes it away, and so does a wrong one.
    client.expect("RANG 0 49", 350);
    client.expect("PWD", 257);
    assert_eq!(text(&mut client, "HASH file", 213), whole);
    client.expect("RANG 0 49", 350);
    client.expect("RANG 9 8", 501);
    assert_eq!(text(&mut client, "HASH file", 213), whole);

    client.expect("RANG 100 199", 350);
    assert_same_bytes(&client.retr("file"), &bytes[100..200]);
    assert_same_bytes(&client.retr("file"), &bytes);
    client.expect("RANG 100 199", 350);
    client.expect("REIN", 220);
    client.login();
    client.expect("TYPE I", 200);
    assert_same_bytes(&client.retr("file"), &bytes);
}

#[test]
fn what_is_no_range_of_the_file_is_refused() {
    let server = Server::start();
    server.write("file", noise(100));
    server.write("empty", "");
    let mut client = server.client();
    for malformed in [
        "RANG",
        "RANG 5",
        "RANG 5 4",
        "RANG 2 0",
        "RANG a b",
        "RANG 0 1 2",
        "RANG -1 5",
    ] {
        client.expect(malformed, 501);
    }
    for beyond in ["RANG 0 100", "RANG 100 100", "RANG 200 300"] {
        client.expect(beyond, 350);
        client.expect("HASH file", 554).says("100 bytes");
        let data = client.epsv();
        client.expect(beyond, 350);
        client.expect("RETR file", 554).says("100 bytes");
        drop(data);
        // Refused, it is used up all the same.
        client.expect("HASH file", 213).says("0-99");
    }
    client.expect("REST 100", 350);
    client.expect("HASH file", 554);
    client.expect("RANG 0 0", 350);
    client.expect("HASH empty", 554);
    for beyond in ["101", "0 101", "100 101"] {
        client
            .expect(format!("XCRC file {beyond}"), 554)
            .says("100 bytes");
    }
    for malformed in [
        "XCRC file 5 4",
        "XCRC \"file",
        "XCRC \"file\" x",
        "XCRC \"\"",
        "XCRC",
        "HASH",
    ] {
        client.expect(malformed, 501);
    }
    // In ASCII the client counts other bytes.
    client.expect("TYPE A", 200);
    let data = client.epsv();
    client.expect("RANG 0 9", 350);
    client.expect("RETR file", 504);
    drop(data);
    client.expect("RANG 0 9", 350);
    client.expect("HASH file", 213).says("0-9");
}

#[test]
fn a_range_never_cuts_an_upload() {
    let server = Server::start();
    let bytes = noise(1000);
    server.write("file", &bytes);
    let mut client = server.client();
    for verb in ["STOR file", "APPE file", "STOU"] {
        let data = client.epsv();
        client.expect("RANG 10 19", 350);
        client.expect(verb, 504).says("RANG");
        drop(data);
    }
    assert_same_bytes(&server.read("file"), &bytes);
    client.stor("file", b"new");
    assert_same_bytes(&server.read("file"), b"new");
}

#[test]
fn older_verbs_take_quoted_names_and_where_to_start_and_to_end() {
    let server = Server::start();
    let bytes = noise(1000);
    for name in ["file", "two words", "in 2024", "say \"a\"", " lead"] {
        server.write(name, &bytes);
    }
    let mut client = server.client();
    let whole = sha256(&server, &bytes);
    let from = sha256(&server, &bytes[100..]);
    let part = sha256(&server, &bytes[100..200]);
    let none = sha256(&server, b"");
    for (argument, expected) in [
        ("file", &whole),
        ("/file", &whole),
        ("file 100", &from),
        ("file 100 200", &part),
        ("file 0 1000", &whole),
        ("file 7 7", &none),
        ("two words", &whole),
        ("two words 100 200", &part),
        ("\"two words\" 100", &from),
        ("\"in 2024\"", &whole),
        ("\"in 2024\" 100 200", &part),
        ("\"say \"\"a\"\"\" 100", &from),
        ("say \"a\"", &whole),
        (" lead", &whole),
    ] {
        assert_eq!(
            &text(&mut client, &format!("XSHA256 {argument}"), 250),
            expected,
            "{argument}"
        );
    }
    client.expect("XSHA256 in 2024", 550);
    // They have their own way to say where, and leave RANG and REST to others.
    client.expect("RANG 0 9", 350);
    assert_eq!(text(&mut client, "XSHA256 file", 250), whole);
    client.expect("HASH file", 213).says("0-999");
}

// ---- who and what

#[test]
fn what_is_no_file_or_not_permitted_is_refused() {
    let server = Server::build()
        .with_flag_user()
        .configuration("[anonymous]\nroot = \"{root}\"\naccess = \"upload-only\"\n")
        .start();
    fs::create_dir(server.path("dir")).unwrap();
    nix::unistd::mkfifo(&server.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", server.path("out")).unwrap();
    server.write("file", "abc");
    let verbs = ["HASH", "XCRC", "XMD5", "XSHA1", "XSHA256", "XSHA512"];
    let mut stranger = server.connect();
    let mut client = server.client();
    let mut uploader = server.connect();
    uploader.login_as("anonymous", "a@b").expect(230);
    for verb in verbs {
        stranger.expect(format!("{verb} file"), 530);
        uploader
            .expect(format!("{verb} file"), 550)
            .says("download");
        client.expect(verb, 501);
        for refused in ["dir", "/", "fifo", "none", "out", "dir/none"] {
            client.expect(format!("{verb} {refused}"), 550);
        }
    }
    stranger.expect("RANG 0 9", 530);
    uploader.expect("RANG 0 9", 550).says("download");
    // Nobody hangs at the FIFO.
    client.expect("HASH file", 213);
}

#[test]
fn old_verbs_and_ranges_are_features() {
    let server = Server::start();
    let feat = server.connect().expect("FEAT", 211).text();
    for line in ["RANG STREAM", "XCRC", "XMD5", "XSHA1", "XSHA256", "XSHA512"] {
        assert!(
            feat.lines().any(|told| told == format!(" {line}")),
            "{line}: {feat}"
        );
    }
}

#[test]
fn lftp_and_python_get_their_checksums() {
    let server = Server::start();
    let bytes = noise(5000);
    server.write("a file", &bytes);
    let expected = sha256(&server, &bytes);
    let home = server.directory("home");
    let script = format!(
        "set ftp:ssl-allow no; open -u {USER},{PASSWORD} ftp://{}; quote XSHA256 \"a file\"; quote HASH a file",
        server.address()
    );
    let lftp = run_client(the_program("lftp", &home).args(["-c", &script]), 60).succeeded();
    assert_eq!(lftp.text().matches(&expected).count(), 2, "{}", lftp.text());
    let script = "import ftplib, sys\n\
        ftp = ftplib.FTP()\n\
        ftp.connect('127.0.0.1', int(sys.argv[1]))\n\
        ftp.login(sys.argv[2], sys.argv[3])\n\
        print(ftp.sendcmd('HASH a file'))\n\
        print(ftp.sendcmd('OPTS HASH MD5'))\n\
        print(ftp.sendcmd('HASH a file'))\n";
    let mut command: Command = the_program("python3", &home);
    command.args(["-c", script, &server.port().to_string(), USER, PASSWORD]);
    let told = run_client(&mut command, 60).succeeded().text();
    let md5 = by_program("md5sum", &server.path("a file"));
    let lines =
        format!("213 SHA-256 0-4999 {expected} a file\n200 MD5\n213 MD5 0-4999 {md5} a file\n");
    assert_eq!(told, lines);
}

// ---- while one is computed

#[test]
fn a_checksum_under_way_is_aborted_and_meanwhile_noop_is_answered() {
    let server = Server::start();
    server.write("small", "abc");
    let mut client = server.client();
    for command in ["HASH", "XMD5"] {
        begin_endless(&server, &mut client, command);
        client.expect("NOOP", 200);
        client
            .expect("STAT", 211)
            .says(command)
            .says("bytes so far");
        client.expect("ABOR", 426);
        client.reply().expect(226);
        client.expect("HASH small", 213);
    }
    server.wait_for_log("HASH endless: aborted by the client");
}

#[test]
fn other_commands_wait_for_their_turn() {
    let server = Server::start();
    server.write("file", noise(3_000_000));
    let mut client = server.client();
    client.send_raw("OPTS HASH SHA-1\r\nHASH file\r\nPWD\r\nNOOP\r\nQUIT\r\n");
    for code in [200, 213, 257, 200, 221] {
        client.reply().expect(code);
    }
    client.expect_end();
}

#[test]
fn an_abort_that_came_before_the_work_began_ends_it() {
    let server = Server::start();
    File::create(server.path("endless"))
        .unwrap()
        .set_len(ENDLESS)
        .unwrap();
    let mut client = server.client();
    client.send_raw("HASH endless\r\nABOR\r\n");
    client.reply().expect(426);
    client.reply().expect(226);
    client.expect("NOOP", 200);
}

#[test]
fn a_client_that_is_gone_ends_the_work() {
    let server = Server::start();
    if !server.counts_descriptors() {
        return;
    }
    let idle = server.client();
    let (threads, descriptors) = (server.threads(), server.descriptors());
    for hard in [false, true] {
        let mut client = server.client();
        begin_endless(&server, &mut client, "HASH");
        if hard {
            client.reset();
        } else {
            drop(client);
        }
        eventually("the session is over", || {
            server.descriptors() <= descriptors
        });
    }
    assert!(
        server.threads() <= threads + 1,
        "one worker waits for the next"
    );
    server.wait_for_log("control connection lost");
    drop(idle);
}

#[test]
fn the_shutdown_ends_the_work() {
    let server = Server::build()
        .with_flag_user()
        .configuration("[timeouts]\nshutdown_grace = \"1s\"\n")
        .start();
    let mut client = server.client();
    begin_endless(&server, &mut client, "HASH");
    server.signal(Signal::SIGTERM);
    client.reply().expect(426).says("shutting down");
    assert!(server.wait().success());
}

#[test]
fn memory_does_not_grow_with_the_file() {
    let server = Server::start();
    let mut client = server.client();
    server.write("small", noise(200_000));
    client.expect("HASH small", 213);
    let before = server.resident_bytes();
    let file = File::create(server.path("large")).unwrap();
    file.set_len(200 << 20).unwrap();
    client
        .expect("HASH large", 213)
        .says(&format!("0-{}", (200 << 20) - 1));
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
}

// ---- what is stored with the file

/// Stores a digest with a file as an upload does; false, and the test is skipped, where the file system cannot.
#[track_caller]
fn store(path: &Path, digest: &str) -> bool {
    let stored = checksum::store(&File::open(path).unwrap(), digest);
    if !stored {
        skip(format_args!("no extended attributes in {}", path.display()));
    }
    stored
}

#[test]
fn a_stored_checksum_is_told_at_once_and_only_while_it_holds() {
    let server = Server::start();
    let mut client = server.client();
    // Longer than can be read: the answer is what was stored.
    let path = server.path("endless");
    File::create(&path).unwrap().set_len(ENDLESS).unwrap();
    if !store(&path, WRONG) {
        return;
    }
    let last = ENDLESS - 1;
    assert_eq!(
        text(&mut client, "HASH endless", 213),
        format!("SHA-256 0-{last} {WRONG} endless")
    );
    assert_eq!(text(&mut client, "XSHA256 endless", 250), WRONG);

    // It says nothing of a part, nor of another algorithm.
    server.write("file", "abc");
    assert!(store(&server.path("file"), WRONG));
    client.expect("HASH file", 213).says(WRONG);
    client.expect("RANG 0 1", 350);
    let part = client.expect("HASH file", 213).text();
    assert!(!part.contains(WRONG), "{part}");
    client
        .expect("XMD5 file", 250)
        .says("900150983cd24fb0d6963f7d28e17f72");

    // A program on the host writes to the file.
    fs::write(server.path("file"), "abc").unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    File::open(server.path("file"))
        .unwrap()
        .set_modified(later)
        .unwrap();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    client.expect("HASH file", 213).says(abc);
    // So does a client.
    assert!(store(&server.path("file"), WRONG));
    client.upload("APPE file", b"d").expect(226);
    let told = client.expect("HASH file", 213).text();
    assert!(!told.contains(WRONG), "{told}");
    client.stor("file", b"abc");
    client.expect("HASH file", 213).says(abc);
}

#[test]
fn setting_the_time_keeps_a_stored_checksum_that_held() {
    let server = Server::start();
    let mut client = server.client();
    server.write("file", "abc");
    let path = server.path("file");
    if !store(&path, WRONG) {
        return;
    }
    for command in [
        "MFMT 20200102030405 file",
        "MFF Modify=20210102030405; file",
        "MDTM 20220102030405 file",
    ] {
        client.expect(command, 213);
        client.expect("HASH file", 213).says(WRONG);
    }
    client.expect("SITE UTIME 20230102030405 file", 200);
    client.expect("HASH file", 213).says(WRONG);
    // One that no longer held stays without effect, whatever time is set.
    File::open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
    client.expect("MFMT 20240102030405 file", 213);
    let told = client.expect("HASH file", 213).text();
    assert!(told.contains("ba7816bf"), "{told}");
}

#[test]
fn what_is_stored_is_digest_size_and_time() {
    let server = Server::start();
    let mut client = server.client();
    server.write("file", "abc");
    let path = server.path("file");
    File::open(&path)
        .unwrap()
        .set_modified(UNIX_EPOCH + Duration::new(1_700_000_000, 12_345))
        .unwrap();
    let python = |script: &str, value: &str| {
        let mut command = the_program("python3", server.home());
        command.args(["-c", script]).arg(&path).arg(value);
        run_client(&mut command, 60)
    };
    let set = "import os, sys\n\
        try: os.setxattr(sys.argv[1], 'user.thriftpd.sha256', sys.argv[2].encode())\n\
        except OSError: sys.exit(7)";
    let get =
        "import os, sys; print(os.getxattr(sys.argv[1], 'user.thriftpd.sha256').decode(), end='')";
    let value = format!("{WRONG} 3 1700000000.000012345");
    if python(set, &value).status.code() == Some(7) {
        return skip(format_args!("no extended attributes in {}", path.display()));
    }
    client.expect("HASH file", 213).says(WRONG);
    for other in [
        format!("{WRONG} 4 1700000000.000012345"),
        format!("{WRONG} 3 1700000000.000012346"),
        format!("{WRONG} 3 1700000001.000012345"),
        format!("{WRONG} 3"),
        "nonsense".to_owned(),
        "x".repeat(999),
    ] {
        python(set, &other).succeeded();
        client.expect("HASH file", 213).says("ba7816bf");
    }
    assert!(store(&path, WRONG));
    assert_eq!(python(get, "").succeeded().text(), value);
    client.expect("MFMT 20231114221321 file", 213);
    assert_eq!(
        python(get, "").succeeded().text(),
        format!("{WRONG} 3 1700000001.000000000")
    );
}

#[test]
fn only_so_much_heavy_work_is_done_at_once() {
    let server = Server::build()
        .configuration("heavy_at_once = 1\n")
        .with_flag_user()
        .start();
    let (mut first, mut second) = (server.client(), server.client());
    begin_endless(&server, &mut first, "HASH");
    server.write("file", "abc");
    second.expect("HASH file", 450).says("try again");
    second.expect("XMD5 file", 450);
    second.expect("SITE COPY file other", 450);
    server.wait_for_log("setting: heavy_at_once");
    first.send("ABOR");
    first.reply().expect(426);
    first.reply().expect(226);
    second.expect("HASH file", 213);
}
