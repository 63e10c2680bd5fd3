//! The control connection (RFC 959 §4.1, §5.4, RFC 854): every command gets its one reply in order, whatever comes,
//! however it comes, and also while data flows.

mod common;

use common::{Client, Server, eventually, noise};
use std::io::{Read, Write};
use std::net::TcpStream;

/// More than all socket buffers hold, so that a transfer stays under way for as long as nobody reads.
const MUCH: usize = 64 << 20;

/// A session in the middle of a download, and the data connection.
fn downloading(server: &Server) -> (Client, TcpStream) {
    let file = std::fs::File::create(server.path("much")).unwrap();
    file.set_len(MUCH as u64).unwrap();
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("RETR much").expect_one_of(&[125, 150]);
    data.read_exact(&mut [0; 1000]).unwrap();
    (client, data)
}

#[test]
fn thousands_of_commands_at_once_get_their_replies_in_order() {
    let server = Server::start();
    let mut client = server.client();
    let mut writer = client.stream().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let commands: String = (0..5_000)
            .map(|number| format!("NOOP\r\nREST {number}\r\nPWD\r\n"))
            .collect();
        writer.write_all(commands.as_bytes()).unwrap();
    });
    for number in 0..5_000 {
        client.reply().expect(200);
        client.reply().expect(350).says(&number.to_string());
        client.reply().expect(257);
    }
    sender.join().unwrap();
    client.expect("NOOP", 200);
}

#[test]
fn commands_behind_a_transfer_wait_for_its_end() {
    let server = Server::start();
    server.write("file", "content");
    let mut client = server.client();
    let mut data = client.epsv();
    client.send_raw("RETR file\r\nPWD\r\nCWD missing\r\nSYST\r\n");
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).unwrap();
    for code in [150, 226, 257, 550, 215] {
        let reply = client.reply();
        assert!(
            reply.code == code || (code == 150 && reply.code == 125),
            "{} instead of {code}",
            reply.text()
        );
    }
}

#[test]
fn a_pipelined_login_works() {
    let server = Server::start();
    let mut client = server.connect();
    client.send_raw("USER t\r\nPASS pw\r\nTYPE I\r\nPWD\r\nQUIT\r\n");
    for code in [331, 230, 200, 257, 221] {
        client.reply().expect(code);
    }
    client.expect_end();
}

#[test]
fn commands_may_come_byte_by_byte() {
    let server = Server::start();
    let mut client = server.client();
    for byte in "NOOP\r\nPWD\r\n".bytes() {
        client.send_raw([byte]);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    client.reply().expect(200);
    client.reply().expect(257);
}

#[test]
fn a_bare_lf_ends_a_line_too() {
    let server = Server::start();
    let mut client = server.client();
    client.send_raw("NOOP\nPWD\nNOOP\r\n");
    client.reply().expect(200);
    client.reply().expect(257);
    client.reply().expect(200);
}

#[test]
fn a_line_too_long_is_one_500_and_the_rest_of_it_is_no_command() {
    let server = Server::start();
    let mut client = server.client();
    for length in [4_097, 5_000, 100_000] {
        let mut line = "x".repeat(length);
        line.push_str(" QUIT");
        client.expect(line, 500);
        client.expect("NOOP", 200);
    }
}

#[test]
fn a_line_of_4096_bytes_is_heard() {
    let server = Server::start();
    let mut client = server.client();
    // A path this long: many slashes and one directory.
    let path = format!("{}.", "/".repeat(4_000));
    client.expect(format!("CWD {path}"), 250);
}

#[test]
fn an_endless_line_takes_no_memory() {
    let server = Server::start();
    let mut client = server.client();
    let before = server.resident_bytes();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..32 {
        client.send_raw(&chunk);
    }
    client.send("");
    client.reply().expect(500);
    client.expect("NOOP", 200);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
}

#[test]
fn a_nul_in_a_command_is_refused() {
    let server = Server::start();
    server.write("file", "x");
    let mut client = server.client();
    client.send_raw(b"SIZE file\0.txt\r\n");
    client.reply().expect_one_of(&[500, 501]);
    client.send_raw(b"MKD a\0b\r\n");
    client.reply().expect_one_of(&[500, 501]);
    assert!(!server.exists("a"));
    client.expect("NOOP", 200);
}

#[test]
fn telnet_sequences_are_taken_out() {
    let server = Server::start();
    let mut client = server.client();
    // IAC NOP inside a word, IAC DO 1 before one, IAC WILL split across segments.
    client.send_raw(b"NO\xff\xf1OP\r\n");
    client.reply().expect(200);
    client.send_raw(b"\xff\xfd\x01PWD\r\n");
    client.reply_past_telnet().expect(257);
    client.send_raw(b"\xff");
    client.send_raw(b"\xfb");
    client.send_raw(b"\x03NOOP\r\n");
    client.reply_past_telnet().expect(200);
}

#[test]
fn a_doubled_iac_is_the_byte_255() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(b"MKD a\xff\xffb", 257);
    use std::os::unix::ffi::OsStrExt;
    assert!(server.exists(std::ffi::OsStr::from_bytes(b"a\xffb")));
}

#[test]
fn an_http_request_closes_the_connection() {
    let server = Server::start();
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /x HTTP/1.0\r\n\r\nUSER t\r\nPASS pw\r\n",
    ] {
        let mut client = server.connect();
        client.send_raw(request);
        let mut replies = 0;
        while let Some(reply) = client.reply_or_end() {
            reply.expect_one_of(&[421, 500, 501]);
            replies += 1;
        }
        assert!(replies <= 1, "{replies} replies to {request:?}");
    }
    server.client();
}

#[test]
fn unknown_verbs_are_500() {
    let server = Server::start();
    let mut client = server.client();
    for unknown in [
        "FOO",
        "FOO bar",
        "X",
        "NOOPE",
        "RETRX file",
        "12345",
        "\u{e4}\u{f6}",
        "-",
        "A B C",
    ] {
        client.expect(unknown, 500);
    }
}

#[test]
fn an_empty_line_gets_one_reply_or_none() {
    let server = Server::start();
    let mut client = server.client();
    client.send_raw("\r\nPWD\r\n");
    let first = client.reply().expect_one_of(&[500, 501, 257]);
    if first.code != 257 {
        client.reply().expect(257);
    }
}

#[test]
fn known_verbs_that_are_not_offered_are_502() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("SMNT /x", 502);
}

#[test]
fn arguments_where_none_belong_and_none_where_some_do_are_501() {
    let server = Server::start();
    let mut client = server.client();
    for command in [
        "RETR", "STOR", "APPE", "DELE", "MKD", "RMD", "RNFR", "RNTO", "SIZE", "MDTM", "TYPE",
        "USER",
    ] {
        client.command(command).expect_one_of(&[501, 503]);
    }
    client.expect("NOOP", 200);
}

#[test]
fn syst_and_help_and_feat_and_noop_answer() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("SYST", 215).says("UNIX Type: L8");
    client.expect("NOOP", 200);
    client.expect("HELP", 214).says("RETR");
    client.expect("HELP RETR", 214).says("RETR");
    client
        .command("HELP NONSENSE")
        .expect_one_of(&[501, 502, 504]);
    client.expect("SITE HELP", 214).says("CHMOD");
    let features = client.expect("FEAT", 211);
    for feature in [
        "EPSV",
        "EPRT",
        "MDTM",
        "MFMT",
        "MLST",
        "REST STREAM",
        "SIZE",
        "UTF8",
        "TVFS",
    ] {
        features.clone().says(feature);
    }
    assert!(
        features.lines[1..features.lines.len() - 1]
            .iter()
            .all(|line| line.starts_with(b" "))
    );
}

#[test]
fn feat_offers_only_what_works() {
    let server = Server::start();
    let mut client = server.client();
    let features = client.expect("FEAT", 211).text();
    for (feature, command) in [("MODE Z", "MODE Z"), ("AUTH TLS", "AUTH TLS")] {
        let offered = features
            .lines()
            .any(|line| line.trim().starts_with(feature));
        let answer = client.command(command).code;
        assert_eq!(
            offered,
            answer < 500,
            "{feature}: {command} is answered {answer}"
        );
    }
}

#[test]
fn opts_takes_utf8_and_refuses_the_rest() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("OPTS UTF8 ON", 200);
    client.expect("opts utf8 on", 200);
    client
        .command("OPTS NONSENSE")
        .expect_one_of(&[501, 502, 504]);
    client.expect("OPTS", 501);
}

#[test]
fn clnt_and_csid_are_taken_note_of() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("CLNT Tester 1.0", 200);
    client
        .command("CSID Name=Tester; Version=1.0;")
        .expect_one_of(&[200, 215])
        .says("thriftpd");
}

#[test]
fn abor_without_a_transfer_is_226() {
    let server = Server::start();
    let mut client = server.client();
    client.command("ABOR").expect_one_of(&[225, 226]);
    client.expect("NOOP", 200);
}

#[test]
fn abor_in_a_download_is_426_and_then_226() {
    let server = Server::start();
    let (mut client, data) = downloading(&server);
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    drop(data);
    client.expect("NOOP", 200);
    client.stor("after", b"still works");
}

#[test]
fn abor_in_an_upload_leaves_the_old_file() {
    let server = Server::start();
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("STOR new").expect_one_of(&[125, 150]);
    data.write_all(&noise(100_000)).unwrap();
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    client.expect("NOOP", 200);
}

#[test]
fn abor_as_urgent_data_behind_telnet_ip_and_synch_is_heard() {
    let server = Server::start();
    let (mut client, data) = downloading(&server);
    // RFC 959 §4.1.3: IAC IP, then the Synch signal, IAC with DM as urgent data, then the command.
    client.send_raw(b"\xff\xf4\xff");
    client.send_urgent(0xf2);
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    drop(data);
    client.expect("NOOP", 200);
}

#[test]
fn abor_as_curl_and_others_send_it_all_urgent_is_heard() {
    let server = Server::start();
    let (mut client, data) = downloading(&server);
    client.send_urgent(0xff);
    client.send_urgent(0xf4);
    client.send_urgent(0xff);
    client.send_raw(b"\xf2ABOR\r\n");
    client.reply().expect(426);
    client.reply().expect(226);
    drop(data);
    client.expect("NOOP", 200);
}

#[test]
fn abor_while_the_server_waits_for_the_data_connection_is_heard() {
    let server = Server::start();
    server.write("file", "x");
    let mut client = server.client();
    client.epsv_address();
    client.send("RETR file");
    client.send("ABOR");
    let mut codes = Vec::new();
    while codes.last() != Some(&226) {
        codes.push(
            client
                .reply()
                .expect_one_of(&[125, 150, 425, 426, 226])
                .code,
        );
    }
    assert!(codes.contains(&426) || codes.contains(&425), "{codes:?}");
    client.expect("NOOP", 200);
}

#[test]
fn noop_and_stat_are_answered_while_data_flows() {
    let server = Server::start();
    let (mut client, mut data) = downloading(&server);
    client.expect("NOOP", 200);
    client.command("STAT").expect_one_of(&[211, 213]);
    client.expect("NOOP", 200);
    let mut rest = Vec::new();
    data.read_to_end(&mut rest).unwrap();
    client.reply().expect(226);
    assert_eq!(rest.len(), MUCH - 1000);
}

#[test]
fn stat_without_a_transfer_tells_of_the_session() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("STAT", 211).says("127.0.0.1");
}

#[test]
fn other_commands_wait_while_data_flows() {
    let server = Server::start();
    let (mut client, mut data) = downloading(&server);
    client.send("PWD");
    client.send("SYST");
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!client.has_reply_waiting(), "{:?}", client.reply());
    let mut rest = Vec::new();
    data.read_to_end(&mut rest).unwrap();
    client.reply().expect(226);
    client.reply().expect(257);
    client.reply().expect(215);
}

#[test]
fn a_waiting_command_does_not_make_the_server_spin() {
    let server = Server::start();
    let (mut client, data) = downloading(&server);
    client.send("PWD");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let before = server.worked();
    std::thread::sleep(std::time::Duration::from_secs(1));
    // A hundred ticks a second: a spinning thread would have used most of them.
    let worked = server.worked() - before;
    assert!(worked < 30, "{worked} ticks");
    drop(data);
    client.reply().expect_one_of(&[226, 426]);
    client.reply().expect(257);
}

#[test]
fn quit_in_a_download_lets_it_finish() {
    let server = Server::start();
    let (mut client, mut data) = downloading(&server);
    client.send("QUIT");
    let mut rest = Vec::new();
    data.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), MUCH - 1000);
    client.reply().expect(226);
    client.reply().expect(221);
    client.expect_end();
}

#[test]
fn a_control_connection_that_drops_ends_the_transfer() {
    let server = Server::start();
    if !server.counts_descriptors() {
        return;
    }
    let before = server.descriptors();
    let (client, mut data) = downloading(&server);
    client.reset();
    let mut rest = Vec::new();
    let complete = data.read_to_end(&mut rest).is_ok() && rest.len() == MUCH - 1000;
    assert!(!complete, "the whole file came after the client's death");
    drop(data);
    eventually("everything of the session is closed", || {
        server.descriptors() <= before
    });
}

#[test]
fn a_client_that_reads_no_replies_is_not_the_others_problem() {
    let server = Server::start();
    let mute = server.client();
    let mut writer = mute.stream().try_clone().unwrap();
    writer.set_nonblocking(true).unwrap();
    let flood = "HELP\r\n".repeat(10_000);
    for _ in 0..100 {
        if writer.write(flood.as_bytes()).is_err() {
            break;
        }
    }
    let mut client = server.client();
    client.stor("file", b"x");
    assert_eq!(client.retr("file"), b"x");
}

#[test]
fn arbitrary_bytes_never_hurt_the_server() {
    // Nobody is slowed down.
    let keys = "commands_before_login = 10000\n";
    let server = Server::build().keys(keys).start();
    for seed in 1..20 {
        let client = if seed % 2 == 0 {
            server.client()
        } else {
            server.connect()
        };
        let garbage: Vec<u8> = noise(seed * 1_111)
            .iter()
            .map(|byte| if byte % 37 == 0 { b'\n' } else { *byte })
            .collect();
        let mut writer = client.stream().try_clone().unwrap();
        drop(writer.write_all(&garbage));
        drop(writer.write_all(b"\r\nQUIT\r\n"));
        client.end_of_input();
        let mut answer = Vec::new();
        drop(
            client
                .stream()
                .try_clone()
                .unwrap()
                .read_to_end(&mut answer),
        );
        drop(client);
    }
    assert!(server.is_running());
    assert!(
        !server.log_text().contains("panick"),
        "{}",
        server.log_text()
    );
    server.client();
}
