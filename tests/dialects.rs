//! What clients say beside the standard, each line as a real one sends it.

mod common;

use common::Server;

fn writable() -> Server {
    Server::build().anonymous("").start()
}

#[test]
fn blanks_around_words_of_the_protocol_are_no_part_of_them() {
    let server = writable();
    let mut client = server.visitor();
    for (line, code) in [
        ("TYPE I ", 200),
        ("TYPE  I", 200),
        ("TYPE AN", 200),
        ("TYPE A  N ", 200),
        ("TYPE L8 ", 200),
        ("MODE S ", 200),
        ("STRU  F", 200),
        ("REST 0 ", 350),
        ("ALLO 10 ", 200),
        ("EPSV 1 ", 229),
        ("OPTS  UTF8 ON", 200),
        ("OPTS UTF8  ON ", 200),
        ("HELP  NOOP ", 214),
        ("LANG EN ", 200),
        ("TYPE ", 501),
        ("TYPE  ", 501),
        ("TYPE X ", 501),
        ("TYPE E ", 504),
        ("REST 1 2", 501),
    ] {
        client.expect(line, code);
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (high, low) = (port / 256, port % 256);
    client.expect(format!("PORT 127,0,0,1,{high},{low} "), 200);
    client.expect(format!("EPRT |1|127.0.0.1|{port}| "), 200);
}

#[test]
fn blanks_in_names_stay() {
    let server = writable();
    let mut client = server.visitor();
    client.stor(" both ", b"x");
    assert_eq!(client.list("NLST"), [" both "]);
    client.expect("SIZE  both ", 213);
    client.expect("DELE both", 550);
    client.expect("DELE  both ", 250);
}

#[test]
fn a_word_behind_a_dash_is_flags_unless_something_has_that_name() {
    let server = writable();
    let mut client = server.visitor();
    client.expect("MKD dir", 257);
    client.stor("dir/file", b"x");
    let plain = client.list("LIST dir");
    for flags in [
        "-alT",
        "-laX",
        "-alisk",
        "-la --time-style=full-iso",
        "-z9",
        "--full-time",
    ] {
        let mut listed = client.list(format!("LIST {flags} dir"));
        listed.retain(|line| !line.ends_with(" .") && !line.ends_with(" .."));
        assert_eq!(listed, plain, "{flags}");
        assert_eq!(client.list(format!("NLST {flags} dir")).len(), names(flags));
        client.expect(format!("STAT {flags} dir"), 212).says("file");
        assert!(
            client
                .list(format!("MLSD {flags} dir"))
                .iter()
                .any(|line| line.ends_with(" file"))
        );
    }
    client.stor("-alT", b"xyz");
    let named = client.list("LIST -alT");
    assert_eq!(named.len(), 1);
    assert!(named[0].ends_with(" -alT"));
    let (_, reply) = client.download("LIST -a/b");
    reply.expect(550);
}

/// With `.` and `..` where all is asked for.
fn names(flags: &str) -> usize {
    if flags.split(' ').next().unwrap().contains('a') {
        3
    } else {
        1
    }
}

#[test]
fn a_tilde_is_the_home_where_nothing_has_that_name() {
    let server = writable();
    let mut client = server.visitor();
    client.expect("MKD sub", 257);
    for line in ["CWD ~", "CWD ~/", "CWD", "CWD "] {
        client.expect("CWD /sub", 250);
        client.expect(line, 250);
        client.expect("PWD", 257).says("\"/\"");
        client.expect("CWD sub", 250);
        client.expect(line, 250);
    }
    client.expect("CWD /sub", 250);
    client.stor("~/file", b"12345");
    client.expect("SIZE ~/file", 213).says("5");
    client.expect("MLST ~", 250);
    client.expect("MDTM ~/file", 213);
    client.expect("SITE CHMOD 600 ~/file", 200);
    client.expect("RNFR ~/file", 350);
    client.expect("RNTO ~/other", 250);
    assert_eq!(client.retr("/other"), b"12345");
    assert_eq!(client.list("NLST ~/o*"), ["/other"]);
    assert_eq!(client.list("NLST ~"), ["/other", "/sub"]);
    client.expect("MKD ./~", 257);
    client.expect("CWD ~", 250);
    client.expect("PWD", 257).says("\"/sub/~\"");
    client.expect("CWD /sub", 250);
    client.stor("~/file", b"1");
    client.expect("SIZE /sub/~/file", 213);
    // No other user's home, and no name that only begins so.
    client.expect("CWD ~root", 550);
    client.stor("~$draft", b"1");
    client.expect("DELE ~$draft", 250);
}

#[test]
fn files_of_a_client_that_never_says_type_travel_as_they_are() {
    let server = writable();
    let mut client = server.visitor();
    let text = b"line\r\nline\nline\r".repeat(50);
    client.stor("file", &text);
    assert_eq!(std::fs::read(server.path("file")).unwrap(), text);
    assert_eq!(client.retr("file"), text);
    client
        .expect("SIZE file", 213)
        .says(&text.len().to_string());
    client.expect("REST 10", 350);
    let (bytes, reply) = client.download("RETR file");
    reply.expect(226);
    assert_eq!(bytes, text[10..]);
    client.expect("REST 10", 350);
    client.expect("TYPE A", 200);
    client.download("RETR file").1.expect(504);
    client.expect("REST 10", 504);
    // A new login begins anew.
    client.expect("REIN", 220);
    client.expect("USER anonymous", 331);
    client.expect("PASS x", 230);
    client.expect("REST 10", 350);
}

#[test]
fn what_is_answered_at_once_may_come_between_the_two_names_of_a_rename() {
    let server = writable();
    let mut client = server.visitor();
    client.stor("one", b"1");
    for (between, code, renamed) in [
        ("NOOP", 200, 250),
        ("STAT", 211, 250),
        ("PWD", 257, 503),
        ("NOSUCH", 500, 503),
    ] {
        client.expect("RNFR one", 350);
        client.expect(between, code);
        client.expect("RNTO two", renamed);
        if renamed == 250 {
            client.expect("RNTO three", 503);
            client.expect("RNFR two", 350);
            client.expect("RNTO one", 250);
        }
    }
    client.expect("SITE CPFR one", 350);
    client.expect("NOOP", 200);
    client.expect("SITE CPTO two", 250);
}

#[test]
fn names_that_look_like_http_are_names() {
    let server = writable();
    let mut client = server.visitor();
    client.expect("MKD HTTP", 257);
    client.expect("MKD HTTP/sub", 257);
    client.stor("HTTP/1.1", b"x");
    assert_eq!(client.retr("HTTP/1.1"), b"x");
    client.expect("DELE a HTTP/1.1", 550);
    client.expect("GET HTTP/1.1", 500);
    client.expect("GET / HTTP/index.html", 500);
    client.expect("GET / HTTP/1.1", 421);
}
