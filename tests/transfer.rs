//! RETR, STOR, APPE, STOU, REST, TYPE, MODE, STRU, ALLO (RFC 959 §4.1.2-3, RFC 3659 §5): bytes arrive as they left.

mod common;

use common::{Server, assert_same_bytes, data_connection, noise};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

#[test]
fn what_is_stored_comes_back() {
    let server = Server::start();
    let mut client = server.client();
    for length in [0, 1, 4095, 65_536, 1_000_003, 5 << 20] {
        let bytes = noise(length);
        client.stor("file", &bytes);
        assert_same_bytes(&server.read("file"), &bytes);
        assert_same_bytes(&client.retr("file"), &bytes);
    }
}

#[test]
fn an_empty_file_is_a_file() {
    let server = Server::start();
    let mut client = server.client();
    client.stor("empty", b"");
    assert!(server.read("empty").is_empty());
    assert!(client.retr("empty").is_empty());
}

#[test]
fn a_new_file_replaces_the_old_one_whole() {
    let server = Server::start();
    server.write("file", noise(100_000));
    let mut client = server.client();
    client.stor("file", b"short");
    assert_eq!(server.read("file"), b"short");
}

#[test]
fn appe_adds_to_the_end_and_makes_what_is_missing() {
    let server = Server::start();
    let mut client = server.client();
    client.upload("APPE log", b"one ").expect(226);
    client.upload("APPE log", b"two").expect(226);
    assert_eq!(server.read("log"), b"one two");
}

#[test]
fn stou_makes_a_new_name_and_tells_it() {
    let server = Server::start();
    let mut client = server.client();
    let mut names = Vec::new();
    for content in [b"first", b"other"] {
        let mut data = client.epsv();
        // RFC 1123 §4.1.2.9: the name comes in the 150 reply as `FILE: name`.
        let opening = client.command("STOU").expect_one_of(&[125, 150]);
        let text = opening.text();
        let name = text
            .split("FILE: ")
            .nth(1)
            .unwrap_or_else(|| panic!("no FILE: in {text}"))
            .trim()
            .to_owned();
        data.write_all(content).unwrap();
        drop(data);
        client.reply().expect_one_of(&[226, 250]);
        assert_eq!(server.read(name.trim_start_matches('/')), content);
        names.push(name);
    }
    assert_ne!(names[0], names[1]);
}

#[test]
fn stou_finds_a_name_at_once_however_many_are_taken() {
    let server = Server::start();
    server.write("file", "the first");
    for number in 1..=12_000 {
        server.write(format!("file.{number}"), "");
    }
    let mut client = server.client();
    let mut names = std::collections::BTreeSet::new();
    for number in 0..20 {
        let data = client.epsv();
        let opening = client.expect("STOU", 150);
        let name = opening.text().replace("150 FILE: ", "");
        assert!(name.starts_with("file."), "{name}");
        let contents = format!("content {number}");
        (&data).write_all(contents.as_bytes()).unwrap();
        drop(data);
        client.reply().expect(226);
        assert_eq!(server.read(&name), contents.as_bytes());
        names.insert(name);
    }
    assert_eq!(names.len(), 20);
    assert_eq!(server.read("file"), b"the first");
}

#[test]
fn rest_resumes_a_download() {
    let server = Server::start();
    let bytes = noise(300_000);
    server.write("file", &bytes);
    let mut client = server.client();
    for offset in [0, 1, 123_456, 299_999, 300_000] {
        client.expect(format!("REST {offset}"), 350);
        assert_same_bytes(&client.retr("file"), &bytes[offset..]);
    }
}

#[test]
fn rest_is_for_one_transfer_only() {
    let server = Server::start();
    server.write("file", "0123456789");
    let mut client = server.client();
    client.expect("REST 5", 350);
    assert_eq!(client.retr("file"), b"56789");
    assert_eq!(client.retr("file"), b"0123456789");
}

#[test]
fn rest_survives_what_prepares_the_transfer() {
    let server = Server::start();
    server.write("file", "0123456789");
    let mut client = server.client();
    client.expect("REST 5", 350);
    client.expect("TYPE I", 200);
    let data = client.pasv();
    drop(data);
    let data = client.epsv();
    let (bytes, reply) = client.download_over(data, "RETR file");
    reply.expect(226);
    assert_eq!(bytes, b"56789");
}

#[test]
fn rest_is_used_up_by_a_transfer_that_fails() {
    let server = Server::start();
    server.write("file", "0123456789");
    let mut client = server.client();
    client.expect("REST 5", 350);
    client.download("RETR missing").1.expect(550);
    assert_eq!(client.retr("file"), b"0123456789");
    client.expect("REST 5", 350);
    client.download("STOR no/such/directory").1.expect(550);
    client.stor("file", b"all of it");
    assert_eq!(server.read("file"), b"all of it");
}

#[test]
fn no_command_drops_what_rest_has_said_before_the_next_stor() {
    let server = Server::start();
    let mut client = server.client();
    for command in [
        "ALLO 10",
        "ALLO 5",
        "NOOP",
        "PWD",
        "CWD /",
        "SIZE file",
        "MDTM file",
        "MLST file",
        "STAT",
        "FEAT",
        "SYST",
        "OPTS UTF8 ON",
        "MODE S",
        "STRU F",
        "TYPE I",
        "SITE HELP",
        "AVBL",
        "HELP",
        "CLNT test",
        "UNKNOWN",
        "LIST",
        "MKD file",
        "RNFR file",
        "DELE missing",
        "ABOR",
        "XCRC file",
    ] {
        client.stor("file", b"0123456789");
        client.expect("REST 5", 350);
        if command == "LIST" {
            client.list(command);
        } else {
            client.command(command);
        }
        client.upload("STOR file", b"xyz").expect(226);
        assert_eq!(server.read("file"), b"01234xyz", "{command}");
    }
}

#[test]
fn rest_0_a_refused_rest_and_a_new_login_take_the_marker_away() {
    let server = Server::start();
    let mut client = server.client();
    for commands in [&["REST 0"][..], &["REST much"], &["RANG 1 0"], &["REIN"]] {
        client.stor("file", b"0123456789");
        client.expect("REST 5", 350);
        for command in commands {
            client.command(command);
        }
        if commands == ["REIN"] {
            client.login();
            client.expect("TYPE I", 200);
        }
        client.stor("file", b"all");
        assert_eq!(server.read("file"), b"all", "{commands:?}");
    }
}

#[test]
fn a_marker_that_cannot_be_kept_to_is_refused_and_not_dropped() {
    let server = Server::start();
    server.write("file", "0123456789");
    let mut client = server.client();
    // STOU makes a new file.
    client.expect("REST 5", 350);
    client.expect("NOOP", 200);
    client.upload("STOU", b"rest").expect(554);
    // In ASCII offsets have no meaning.
    client.expect("REST 5", 350);
    client.expect("TYPE A", 200);
    client.upload("STOR file", b"rest").expect(504);
    assert_eq!(server.read("file"), b"0123456789");
}

#[test]
fn rest_beyond_the_end_is_refused_at_the_transfer() {
    let server = Server::start();
    server.write("file", "0123456789");
    let mut client = server.client();
    client.expect("REST 11", 350);
    let (bytes, reply) = client.download("RETR file");
    assert!(bytes.is_empty());
    reply.expect_one_of(&[550, 551, 554]);
}

#[test]
fn rest_takes_only_a_number() {
    let server = Server::start();
    let mut client = server.client();
    for bad in [
        "REST",
        "REST x",
        "REST -1",
        "REST 1 2",
        "REST 99999999999999999999999",
        "REST 0x10",
        "REST +1",
    ] {
        client.expect(bad, 501);
    }
}

#[test]
fn stor_after_rest_continues_the_file() {
    let server = Server::start();
    let bytes = noise(200_000);
    server.write("file", &bytes[..150_000]);
    let mut client = server.client();
    client.expect("REST 150000", 350);
    client.stor("file", &bytes[150_000..]);
    assert_same_bytes(&server.read("file"), &bytes);
}

#[test]
fn stor_after_rest_can_rewrite_an_end() {
    let server = Server::start();
    server.write("file", "0123456789");
    let mut client = server.client();
    client.expect("REST 4", 350);
    client.stor("file", b"abcdef");
    assert_eq!(server.read("file"), b"0123abcdef");
}

#[test]
fn stor_far_beyond_the_end_makes_no_file_with_a_hole() {
    let server = Server::start();
    server.write("file", "0123456789");
    let mut client = server.client();
    client.expect("REST 1000", 350);
    client
        .upload("STOR file", b"x")
        .expect_one_of(&[550, 551, 553, 554]);
    assert_eq!(server.read("file"), b"0123456789");
}

#[test]
fn a_file_past_4_gib_resumes_near_its_end() {
    let server = Server::start();
    let size = 5_u64 << 30;
    let tail = noise(100_000);
    let file = std::fs::File::create(server.path("big")).unwrap();
    file.set_len(size).unwrap();
    let offset = size - tail.len() as u64;
    file.write_all_at(&tail, offset).unwrap();
    let mut client = server.client();
    client.expect("SIZE big", 213).says(&size.to_string());
    client.expect(format!("REST {offset}"), 350);
    assert_same_bytes(&client.retr("big"), &tail);
    // Upwards too: the next bytes go behind the last.
    client.expect(format!("REST {size}"), 350);
    client.stor("big", b"and more");
    let mut end = [0; 8];
    let file = std::fs::File::open(server.path("big")).unwrap();
    file.read_exact_at(&mut end, size).unwrap();
    assert_eq!(
        (&end, file.metadata().unwrap().len()),
        (b"and more", size + 8)
    );
}

#[test]
fn a_file_that_grows_is_sent_to_its_size_at_the_start() {
    let server = Server::start();
    let bytes = noise(30 << 20);
    server.write("file", &bytes);
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("RETR file").expect_one_of(&[125, 150]);
    let mut received = vec![0; 1000];
    data.read_exact(&mut received).unwrap();
    std::fs::File::options()
        .append(true)
        .open(server.path("file"))
        .unwrap()
        .write_all(b"later")
        .unwrap();
    data.read_to_end(&mut received).unwrap();
    client.reply().expect(226);
    assert_same_bytes(&received, &bytes);
}

#[test]
fn what_is_missing_or_no_regular_file_cannot_be_retrieved() {
    let server = Server::start();
    std::fs::create_dir(server.path("dir")).unwrap();
    nix::unistd::mkfifo(&server.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(server.path("socket")).unwrap();
    let mut client = server.client();
    for name in ["missing", "dir", "fifo", "socket", "missing/file"] {
        client.download(format!("RETR {name}")).1.expect(550);
    }
    client.expect("RETR", 501);
}

#[test]
fn nothing_is_stored_over_a_directory_or_a_fifo_or_below_a_file() {
    let server = Server::start();
    std::fs::create_dir(server.path("dir")).unwrap();
    server.write("file", "x");
    nix::unistd::mkfifo(&server.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut client = server.client();
    for name in ["dir", "fifo", "file/below", "missing/below", "/", "..", "."] {
        client
            .upload(format!("STOR {name}"), b"x")
            .expect_one_of(&[501, 550, 553]);
    }
    client.expect("STOR", 501);
    client.expect("APPE", 501);
    assert_eq!(server.read("file"), b"x");
}

#[test]
fn a_name_of_255_bytes_can_be_stored_and_256_not() {
    let server = Server::start();
    let mut client = server.client();
    let name = "n".repeat(255);
    client.stor(&name, b"long");
    assert_eq!(server.read(&name), b"long");
    assert_eq!(client.retr(&name), b"long");
    client
        .upload(format!("STOR {name}n"), b"x")
        .expect_one_of(&[501, 550, 553]);
}

#[test]
fn names_of_every_kind_can_be_stored_and_retrieved() {
    let server = Server::start();
    let mut client = server.client();
    let names: [&[u8]; 9] = [
        b" leading",
        b"trailing ",
        b"-dash",
        b"a*?[]{}b",
        "\u{fc}ml\u{e4}ut \u{20ac}".as_bytes(),
        b"latin\xe9\x80",
        b"quo\"te' `$(x)`",
        b"back\\slash",
        b"~x",
    ];
    for name in names {
        client.upload([b"STOR ", name].concat(), name).expect(226);
        let (bytes, reply) = client.download([b"RETR ", name].concat());
        reply.expect(226);
        assert_eq!(bytes, name);
    }
    let stored = std::fs::read_dir(server.path("")).unwrap();
    let stored = stored.filter(|entry| entry.as_ref().unwrap().file_name() != ".thriftpd");
    assert_eq!(stored.count(), names.len());
}

#[test]
fn type_and_mode_and_stru_take_what_is_offered_only() {
    let server = Server::start();
    let mut client = server.client();
    for good in [
        "TYPE A", "TYPE A N", "TYPE I", "TYPE L 8", "TYPE a", "TYPE i", "MODE S", "STRU F",
        "mode s",
    ] {
        client.expect(good, 200);
    }
    for known in [
        "TYPE E", "MODE B", "MODE C", "STRU R", "STRU P", "TYPE L 7", "TYPE A T", "TYPE A C",
    ] {
        client.expect(known, 504);
    }
    for bad in ["TYPE", "MODE", "STRU", "TYPE Q", "MODE Q", "STRU Q"] {
        client.command(bad).expect_one_of(&[501, 504]);
    }
}

#[test]
fn ascii_downloads_have_crlf_for_each_line_end() {
    let server = Server::start();
    server.write("text", "one\ntwo\r\nthree\r\rfour\n\nfive");
    let mut client = server.client();
    client.expect("TYPE A", 200);
    let bytes = client.retr("text");
    // Each LF becomes CRLF; what a CR before it means is the file's own business, so it stays.
    let expected: &[&[u8]] = &[
        b"one\r\ntwo\r\r\nthree\r\rfour\r\n\r\nfive",
        b"one\r\ntwo\r\nthree\r\rfour\r\n\r\nfive",
    ];
    assert!(
        expected.contains(&bytes.as_slice()),
        "{:?}",
        String::from_utf8_lossy(&bytes)
    );
    client
        .expect("SIZE text", 213)
        .says(&bytes.len().to_string());
}

#[test]
fn ascii_uploads_have_lf_for_each_crlf_even_across_segments() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("TYPE A", 200);
    let mut data = client.epsv();
    data.set_nodelay(true).unwrap();
    client.command("STOR text").expect_one_of(&[125, 150]);
    for part in ["one\r", "\ntwo\rthree\r", "\r", "\nfour\nfive\r"] {
        data.write_all(part.as_bytes()).unwrap();
        // So that each part is a segment of its own.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(data);
    client.reply().expect(226);
    assert_eq!(server.read("text"), b"one\ntwo\rthree\r\nfour\nfive\r");
}

#[test]
fn a_large_text_comes_through_ascii_both_ways() {
    let server = Server::start();
    let mut text = Vec::new();
    for number in 0..60_000 {
        text.extend_from_slice(format!("line {number} {}\n", "x".repeat(number % 70)).as_bytes());
    }
    server.write("text", &text);
    let mut client = server.client();
    client.expect("TYPE A", 200);
    let sent = client.retr("text");
    let expected = String::from_utf8(text.clone())
        .unwrap()
        .replace('\n', "\r\n");
    assert_same_bytes(&sent, expected.as_bytes());
    client.stor("back", &sent);
    assert_same_bytes(&server.read("back"), &text);
}

#[test]
fn rest_in_ascii_is_refused() {
    let server = Server::start();
    server.write("text", "one\ntwo\n");
    let mut client = server.client();
    client.expect("TYPE A", 200);
    let reply = client.command("REST 3");
    if reply.code == 350 {
        client
            .download("RETR text")
            .1
            .expect_one_of(&[501, 504, 550, 551, 554]);
    } else {
        reply.expect_one_of(&[501, 503, 504, 550, 554]);
    }
}

#[test]
fn allo_promises_only_what_there_is() {
    let server = Server::start();
    let mut client = server.client();
    client.command("ALLO 1000").expect_one_of(&[200, 202]);
    client
        .command("ALLO 1000 R 10")
        .expect_one_of(&[200, 202, 504]);
    client
        .command("ALLO 9000000000000000000")
        .expect_one_of(&[452, 552]);
    client.expect("ALLO", 501);
    client.expect("ALLO many", 501);
}

#[test]
fn allo_for_more_than_comes_does_not_spoil_the_upload() {
    let server = Server::start();
    let mut client = server.client();
    client.command("ALLO 1000").expect(200);
    client.stor("file", b"fewer");
    assert_eq!(server.read("file"), b"fewer");
}

#[test]
fn allo_tells_the_whole_file_or_what_follows_rest() {
    let server = Server::build().anonymous("strict_allo = true").start();
    let contents = noise(200_000);
    // What is announced, and what is not yet there of it when all but a byte has come.
    for (announced, whole) in [(200_000, true), (50_000, true), (200_000, false)] {
        for order in [["REST 150000", "ALLO"], ["ALLO", "REST 150000"]] {
            let mut client = server.visitor();
            client.cut_off_upload("STOR file", &contents[..150_000]);
            for command in order {
                match command {
                    "ALLO" => client.expect(format!("ALLO {announced}"), 200),
                    rest => client.expect(rest, 350),
                };
            }
            let end = if whole { 200_000 } else { 199_999 };
            let reply = client.upload("STOR file", &contents[150_000..end]);
            if whole {
                reply.expect(226);
                assert_same_bytes(&server.read("file"), &contents);
                client.expect("DELE file", 250);
            } else {
                reply
                    .expect(426)
                    .says("announced 200000 bytes, 50000 of them were to come, 49999 came");
                assert!(!server.exists("file"));
                client.expect("DELE file", 250);
            }
        }
    }
}

#[test]
fn allo_of_the_rest_needs_all_of_the_rest() {
    let server = Server::build().anonymous("strict_allo = true").start();
    let mut client = server.visitor();
    client.cut_off_upload("STOR file", &noise(150_000));
    client.expect("REST 150000", 350);
    client.expect("ALLO 1000", 200);
    client.upload("STOR file", &noise(999)).expect(426);
    client.expect("REST 150000", 350);
    client.expect("ALLO 1000", 200);
    client.upload("STOR file", &noise(1000)).expect(226);
    assert_eq!(server.read("file").len(), 151_000);
}

#[test]
fn a_hundred_small_files_need_no_pauses() {
    let server = Server::start();
    let mut client = server.client();
    for number in 0..100 {
        client.stor(
            &format!("f{number}"),
            format!("content {number}").as_bytes(),
        );
    }
    for number in 0..100 {
        assert_eq!(
            client.retr(&format!("f{number}")),
            format!("content {number}").as_bytes()
        );
    }
}

#[test]
fn a_transfer_is_logged_with_user_verb_path_bytes_and_peer() {
    let server = Server::start();
    let mut client = server.client();
    client.stor("logged file", &noise(12_345));
    let line = server.wait_for_log("logged file");
    for part in ["STOR", "12345", "127.0.0.1", "t"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    client.retr("logged file");
    server.wait_for_log("RETR");
}

#[test]
fn a_name_in_the_transfer_log_cannot_forge_a_line() {
    let server = Server::start();
    let mut client = server.client();
    client.upload("STOR esc\x1b[2Japed", b"x").expect(226);
    let line = server.wait_for_log("[2Japed");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

#[test]
fn four_sessions_move_files_at_once() {
    let server = Server::start();
    let bytes = noise(8 << 20);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (server, bytes) = (&server, &bytes);
            scope.spawn(move || {
                let mut client = server.client();
                let name = format!("file{number}");
                client.stor(&name, bytes);
                assert_same_bytes(&client.retr(&name), bytes);
            });
        }
    });
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let server = Server::start();
    let bytes = noise(2 << 20);
    server.write("file", &bytes);
    let mut client = server.client();
    let address = client.epsv_address();
    let mut data = data_connection(address);
    client.command("RETR file").expect_one_of(&[125, 150]);
    let mut received = Vec::new();
    let mut buffer = vec![0; 100_000];
    loop {
        let count = data.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        received.extend_from_slice(&buffer[..count]);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    client.reply().expect(226);
    assert_same_bytes(&received, &bytes);
}
