//! ABOR (RFC 959 §4.1.3) is heard whatever comes before it, and what else was said is answered in its turn.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use common::{Client, Server, eventually, noise};

/// What clients put before ABOR, and the replies that this gets behind those to ABOR.
const BEFORE: [(&[u8], &[u16]); 9] = [
    (b"PW\xff\xf4\xff\xf2", &[]),
    (b"", &[]),
    (b"\xff\xf4\xff\xf2", &[]),
    (b"\xff\xf4\xf2", &[]),
    (b"\xff\xf4\xff", &[]),
    (b"\xf4\xf2", &[]),
    (b"\r\n", &[500]),
    (b"NOSUCH\r\nPWD\r\n", &[500, 257]),
    (b"PWD\r\nNOOP\r\nTYPE I\r\n", &[257, 200, 200]),
];

/// ABOR ends the transfer at once: one reply for each, and then those to what was held.
#[track_caller]
fn expect_aborted(client: &mut Client, before: &[u8], replies: &[u16]) {
    let said = Instant::now();
    client.send_raw([before, b"ABOR\r\n"].concat());
    client.reply().expect(426);
    client.reply().expect(226);
    assert!(
        said.elapsed() < Duration::from_secs(10),
        "a time-out ended it"
    );
    for code in replies {
        client.reply().expect(*code);
    }
    client.expect("NOOP", 200);
}

#[test]
fn a_download_that_the_client_does_not_read_ends() {
    let server = Server::start();
    server.write("large", noise(30_000_000));
    let mut client = server.client();
    for (before, replies) in BEFORE {
        let data = client.epsv();
        client.expect("RETR large", 150);
        expect_aborted(&mut client, before, replies);
        drop(data);
    }
}

#[test]
fn an_upload_ends_and_what_had_come_can_be_continued() {
    let server = Server::start();
    let mut client = server.client();
    for (number, (before, replies)) in BEFORE.into_iter().enumerate() {
        let data = client.begin_upload(format!("STOR file{number}"), &noise(100_000));
        eventually("it has come", || {
            client.expect("STAT", 211).text().contains(" 100000 bytes")
        });
        expect_aborted(&mut client, before, replies);
        drop(data);
        client
            .expect(format!("SIZE file{number}"), 213)
            .says("98304");
    }
}

#[test]
fn the_wait_for_a_data_connection_ends() {
    let server = Server::start();
    server.write("file", "x");
    let mut client = server.client();
    for (before, replies) in BEFORE {
        for line in ["RETR file", "STOR new", "LIST"] {
            client.epsv_address();
            client.expect(line, 150);
            expect_aborted(&mut client, before, replies);
        }
    }
    assert!(!server.exists("new"));
}

#[test]
fn what_is_held_is_bounded_and_answered_in_its_order() {
    let server = Server::start();
    server.write("large", noise(30_000_000));
    let mut client = server.client();
    let data = client.epsv();
    client.expect("RETR large", 150);
    // More than is held: the rest stays in the sockets, and the ABOR behind it is heard when the transfer is over.
    let many = 20_000;
    let mut writer = client.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let line = b"PWD\r\nSYST\r\n".repeat(many);
        writer.write_all(&line).unwrap();
        writer.write_all(b"ABOR\r\n").unwrap();
    });
    drop(data);
    client.reply().expect(426);
    for _ in 0..many {
        client.reply().expect(257);
        client.reply().expect(215);
    }
    client.reply().expect(226);
    writing.join().unwrap();
}

fn tree(server: &Server, files: usize) {
    fs::create_dir(server.path("tree")).unwrap();
    for number in 0..files {
        server.write(format!("tree/{number}"), "x");
    }
}

#[test]
fn the_removal_of_a_tree_and_a_long_reply_end() {
    let server = Server::start();
    tree(&server, 2000);
    let mut client = server.client();
    client.send_raw("RMDA tree\r\nPWD\r\nABOR\r\n");
    client.reply().expect(426);
    client.reply().expect(226);
    client.reply().expect(257);
    assert!(server.exists("tree"));
    client.send_raw("STAT -R tree\r\nPWD\r\nABOR\r\n");
    client.reply().expect(212).says("aborted");
    client.reply().expect(226);
    client.reply().expect(257);
    client.expect("STAT -R tree", 212).says("1999");
}

#[test]
fn a_client_that_goes_ends_the_removal_of_a_tree_and_a_long_reply() {
    let server = Server::start();
    tree(&server, 3000);
    for line in ["RMDA tree\r\n", "STAT -R tree\r\n"] {
        let mut stream = server.client().into_stream();
        stream.write_all(line.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
    server.wait_for_log("only in part: control connection lost");
    assert!(server.exists("tree"));
}

#[test]
fn user_rein_and_quit_wait_for_the_end_of_a_transfer() {
    let server = Server::start();
    let bytes = noise(3_000_000);
    server.write("file", &bytes);
    for (line, code) in [("USER other", 331), ("REIN", 220), ("QUIT", 221)] {
        let mut client = server.client();
        let data = client.epsv();
        client.expect("RETR file", 150);
        client.send(line);
        let mut got = Vec::new();
        (&data).read_to_end(&mut got).unwrap();
        assert!(got == bytes, "{line}");
        client.reply().expect(226);
        client.reply().expect(code);
    }
}
