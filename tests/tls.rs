//! FTP over TLS as the protocol has it (RFC 2228, RFC 4217): agreeing on it, using it, and what is refused.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::secure::{Secure, VERSIONS, client_config, close_notify, handshake};
use common::{Server, assert_same_bytes, connect_from, noise};
use rustls::ClientConnection;
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};

/// Users from a file, with this section before them.
fn server_with(tls: &str, more: &str) -> Server {
    Server::build()
        .configuration(&format!("{more}\n[tls]\n{tls}\n"))
        .with_flag_user()
        .start()
}

#[test]
fn everything_works_encrypted_in_both_versions() {
    let server = Server::start();
    let contents = noise(3_000_000);
    for version in VERSIONS {
        let mut client = Secure::client(&server, client_config(version));
        assert!(client.expect("FEAT", 211).text().contains("\n AUTH TLS\n"));
        client.upload("STOR file", &contents).expect(226);
        assert_same_bytes(&std::fs::read(server.path("file")).unwrap(), &contents);
        let (bytes, reply) = client.download("RETR file");
        reply.expect(226);
        assert_same_bytes(&bytes, &contents);

        client.expect("REST 2999990", 350);
        assert_eq!(client.download("RETR file").0, contents[2_999_990..]);
        client.expect("REST 2999990", 350);
        client.upload("STOR file", b"0123456789").expect(226);
        client.upload("APPE file", b"more").expect(226);
        let stored = std::fs::read(server.path("file")).unwrap();
        assert_eq!(
            &stored[2_999_988..],
            [&contents[2_999_988..2_999_990], b"0123456789more"].concat()
        );

        client.upload("STOR empty", b"").expect(226);
        assert_eq!(client.download("RETR empty").0, b"");
        let (listing, reply) = client.download("MLSD");
        reply.expect(226);
        assert!(String::from_utf8_lossy(&listing).contains(" empty\r\n"));

        client.expect("TYPE A", 200);
        client.upload("STOR text", b"a\r\nb\r\n").expect(226);
        assert_eq!(std::fs::read(server.path("text")).unwrap(), b"a\nb\n");
        assert_eq!(client.download("RETR text").0, b"a\r\nb\r\n");
        let name = format!("{:?}", version.version);
        client.expect("STAT", 211).says(&name);
        client.expect("QUIT", 221);
        assert!(client.reply_or_end().is_none());
    }
}

#[test]
fn data_may_flow_in_the_clear_until_prot_p() {
    let server = Server::start();
    server.write("file", "contents");
    let mut client = Secure::explicit(&server, client_config(&TLS13));
    client.login();
    client.expect("PBSZ 0", 200).says("PBSZ=0");
    for _ in 0..2 {
        client.expect("TYPE I", 200);
        let mut data = client.epsv();
        client.expect("RETR file", 150);
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"contents");
        client.reply().expect(226);
        client.expect("PROT P", 200);
        assert_eq!(client.download("RETR file").0, b"contents");
        client.expect("PROT C", 200);
    }
}

#[test]
fn pbsz_and_prot_come_behind_auth_in_any_order() {
    let server = Server::start();
    let mut clear = server.connect();
    clear.expect("PBSZ 0", 503);
    clear.expect("PROT P", 503);
    clear.expect("AUTH", 501);
    clear.expect("AUTH KERBEROS_V4", 504);
    clear.login();
    clear.expect("CCC", 533);
    let mut client = Secure::explicit(&server, client_config(&TLS13));
    client.expect("PROT P ", 200);
    client.expect("PBSZ 0 ", 200);
    client.expect("PBSZ big", 501);
    client.expect("PBSZ 4294967296", 501);
    client.expect("PBSZ 16384", 200).says("PBSZ=0");
    client.expect("PROT S", 536);
    client.expect("PROT E", 536);
    client.expect("PROT X", 504);
    client.expect("PROT", 501);
    client.expect("PROT P", 200);
    client.expect("AUTH TLS", 503);
    client.login();
    client.expect("CCC", 534);
    client.expect("PWD", 257);
}

#[test]
fn auth_has_four_names_and_tls_p_protects_data_at_once() {
    let server = Server::start();
    server.write("file", "contents");
    for (mechanism, private) in [
        ("tls", false),
        ("TLS-C", false),
        ("SSL", true),
        ("TLS-P", true),
    ] {
        let mut client = server.connect();
        client.expect(format!("AUTH {mechanism}"), 234);
        let config = Arc::new(client_config(&TLS13));
        let stream = handshake(&config, "localhost", client.into_stream()).unwrap();
        let mut client = Secure::over_stream(stream, config, server.address());
        client.login();
        let state = client.expect("STAT", 211).text();
        assert_eq!(
            state.contains("data connections: encrypted"),
            private,
            "{state}"
        );
        if private {
            assert_eq!(client.download("RETR file").0.len(), 8);
        }
    }
}

#[test]
fn auth_after_the_login_asks_who_it_is_again() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("AUTH TLS", 234);
    let config = Arc::new(client_config(&TLS13));
    let stream = handshake(&config, "localhost", client.into_stream()).unwrap();
    let mut client = Secure::over_stream(stream, config, server.address());
    client.expect("PWD", 530);
    client.login();
    client.expect("PWD", 257);
}

#[test]
fn without_tls_it_is_neither_told_nor_offered() {
    let server = server_with("mode = \"off\"", "");
    let mut client = server.connect();
    let feat = client.expect("FEAT", 211).text();
    assert!(!feat.contains("AUTH") && !feat.contains("PROT"), "{feat}");
    client.expect("AUTH TLS", 502);
    client.login();
    assert!(!server.home().join("certificate.pem").exists());
}

#[test]
fn commands_put_in_behind_auth_are_never_obeyed() {
    let server = Server::start();
    let mut client = server.client();
    client.send_raw("AUTH TLS\r\nMKD injected\r\nNOOP\r\n");
    client.reply().expect(234);
    client.expect_end();
    server.wait_for_log("commands came in the clear behind AUTH");
    assert!(!server.path("injected").exists());
    // The same in a packet of its own, where it is taken for the beginning of the handshake.
    let mut client = server.client();
    client.expect("AUTH TLS", 234);
    client.send_raw("MKD injected\r\n");
    let mut rest = Vec::new();
    let _ = client.into_stream().read_to_end(&mut rest);
    assert!(!rest.starts_with(b"2"), "{rest:?}");
    server.wait_for_log("no TLS:");
    assert!(!server.path("injected").exists());
}

/// The first message of a client that knows TLS 1.1 at most and one old suite, as a camera sends it.
fn old_hello() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
}

#[test]
fn a_client_without_a_common_version_is_told_of_in_the_log_and_not_banned() {
    let server = Server::build()
        .configuration("ban_after = 2\nban_loopback = true\n")
        .with_flag_user()
        .start();
    for _ in 0..5 {
        let mut client = server.connect();
        client.expect("AUTH TLS", 234);
        client.send_raw(old_hello());
        let mut rest = Vec::new();
        let _ = client.into_stream().read_to_end(&mut rest);
        // An alert, and no more.
        assert!(rest.is_empty() || rest[0] == 21, "{rest:?}");
    }
    server.wait_for_log("the client offers TLS 1.1 at most");
    server.wait_for_log("tls.mode");
    server.client().expect("QUIT", 221);
    // What is not TLS at all is somebody who tries out what happens.
    for _ in 0..2 {
        let mut client = server.connect();
        client.expect("AUTH TLS", 234);
        client.send_raw("MKD injected\r\n");
        let _ = client.into_stream().read_to_end(&mut Vec::new());
    }
    server.wait_for_log("banned for");
}

// ---- what may be asked of clients

#[test]
fn logins_in_the_clear_are_refused_with_a_hint_where_so_configured() {
    let anonymous = "[anonymous]\nroot = \"{root}\"\nrequire_tls = false\n";
    let server = Server::build()
        .configuration(&format!("[tls]\nmode = \"logins\"\n{anonymous}"))
        .with_flag_user()
        .start();
    let mut client = server.connect();
    client.expect("USER t", 530).says("AUTH TLS");
    client.expect("PASS pw", 503);
    client
        .expect("USER nobody-of-that-name", 530)
        .says("AUTH TLS");
    client.login_as("anonymous", "x").expect(230);
    server.write("file", "contents");
    let mut client = Secure::explicit(&server, client_config(&TLS13));
    client.login();
    // Only the login is asked for.
    let mut data = client.epsv();
    client.expect("LIST", 150);
    data.read_to_end(&mut Vec::new()).unwrap();
    client.reply().expect(226);
}

#[test]
fn where_tls_is_required_nothing_flows_in_the_clear() {
    let anonymous = "[anonymous]\nroot = \"{root}\"\nrequire_tls = false\n";
    let server = Server::build()
        .configuration(&format!("[tls]\nmode = \"required\"\n{anonymous}"))
        .with_flag_user()
        .start();
    let mut clear = server.connect();
    clear.expect("USER anonymous", 530);
    clear.expect("USER t", 530);
    let mut client = Secure::explicit(&server, client_config(&TLS13));
    client.login();
    client.epsv();
    client.expect("LIST", 521);
    client.expect("STOR file", 521);
    assert!(!server.path("file").exists());
    client.expect("PBSZ 0", 200);
    client.expect("PROT C", 534);
    client.expect("PROT P", 200);
    client.upload("STOR file", b"contents").expect(226);
}

#[test]
fn one_user_may_be_held_to_tls() {
    let server = server_with(
        "mode = \"offered\"",
        "[anonymous]\nroot = \"{root}\"\nrequire_tls = true",
    );
    server.connect().login();
    server
        .connect()
        .expect("USER anonymous", 530)
        .says("AUTH TLS");
    let mut client = Secure::explicit(&server, client_config(&TLS13));
    client.expect("USER anonymous", 331);
    client.expect("PASS x", 230);
    client.epsv();
    client.expect("LIST", 521);
    client.protect();
    client.download("LIST").1.expect(226);
}

// ---- other ways in and out

#[test]
fn who_is_refused_where_tls_comes_first_hears_nothing_in_the_clear() {
    let server = Server::build()
        .configuration("sessions_per_ip = 1\n[tls]\nimplicit = [\"127.0.0.1:0\"]\n")
        .with_flag_user()
        .start();
    let said = |address| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        String::from_utf8(said).unwrap()
    };
    let (explicit, implicit) = (server.addresses()[0], server.addresses()[1]);
    let client = server.client();
    assert!(said(explicit).starts_with("421 "));
    assert_eq!(said(implicit), "");
    drop(client);
}

#[test]
fn implicit_listeners_begin_with_the_handshake_and_protect_data() {
    let server = server_with("implicit = [\"127.0.0.1:0\"]", "");
    server.write("file", "contents");
    server.wait_for_log("(TLS from the first byte)");
    let address = server.addresses()[1];
    for version in VERSIONS {
        let mut client = Secure::implicit(address, client_config(version));
        client.login();
        client.expect("TYPE I", 200);
        assert_eq!(client.download("RETR file").0, b"contents");
        client.expect("REIN", 220);
        // There is no clear state to return to.
        client.login();
        assert_eq!(client.download("NLST").0, b"file\r\n");
    }
    // Somebody who speaks in the clear there gets no session.
    let mut lost = common::Client::connect(address);
    lost.send("USER t");
    let mut answer = Vec::new();
    let _ = lost.into_stream().read_to_end(&mut answer);
    assert!(!answer.starts_with(b"220"), "{answer:?}");
}

#[test]
fn ccc_goes_back_to_the_clear_where_it_may() {
    let server = server_with("allow_ccc = true", "");
    for version in VERSIONS {
        let mut client = Secure::client(&server, client_config(version));
        let config = Arc::clone(&client.config);
        client.expect("CCC", 200);
        let mut client = client.into_clear();
        client.expect("PWD", 257);
        // Data connections stay as they were agreed.
        let data = client.epsv();
        client.expect("STOR file", 150);
        let mut data = handshake(&config, "localhost", data).unwrap();
        data.write_all(b"contents").unwrap();
        close_notify(&mut data);
        client.reply().expect(226);
        client.expect("QUIT", 221);
    }
}

#[test]
fn ccc_takes_nothing_of_what_follows_close_notify() {
    let server = server_with("allow_ccc = true", "");
    let mut client = Secure::client(&server, client_config(&TLS13));
    client.expect("CCC", 200);
    let (mut clear, reply) = client.clear_with(b"PWD\r\nNOOP\r\n");
    reply.expect(257);
    clear.reply().expect(200);
}

#[test]
fn who_says_auth_ssl_takes_data_for_private_until_prot_c() {
    let server = Server::start();
    server.write("file", "contents");
    for auth in ["AUTH SSL", "AUTH TLS-P", "auth ssl "] {
        let mut clear = server.connect();
        clear.expect(auth, 234);
        let config = Arc::new(client_config(&TLS13));
        let stream = handshake(&config, "localhost", clear.into_stream()).unwrap();
        let mut client = Secure::over_stream(stream, config, server.address());
        client.login();
        client.expect("TYPE I", 200);
        assert_eq!(client.download("RETR file").0, b"contents");
        client.expect("PROT C", 200);
        let mut data = client.epsv();
        client.expect("RETR file", 150);
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"contents");
        client.reply().expect(226);
    }
}

#[test]
fn rein_answers_encrypted_and_goes_on_in_the_clear() {
    let server = Server::start();
    let mut client = Secure::client(&server, client_config(&TLS13));
    client.expect("REIN", 220);
    let mut client = client.into_clear();
    client.expect("PWD", 530);
    client.expect("PROT P", 503);
    client.login();
    client.stor("file", b"contents");
    client.expect("AUTH TLS", 234);
}

// ---- data connections and whose they are

#[test]
fn a_client_that_uses_each_ticket_once_never_runs_out() {
    let server = server_with("data_session_reuse = \"require\"", "");
    server.write("file", "contents");
    for version in VERSIONS {
        let mut client = Secure::client(&server, client_config(version));
        for round in 0..60 {
            let mut data = client.open("RETR file");
            let kind = data.conn.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Resumed), "round {round}");
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, b"contents");
            client.reply().expect(226);
        }
        for round in 0..20 {
            client.upload(format!("STOR up{round}"), b"x").expect(226);
        }
    }
}

#[test]
fn a_data_connection_that_does_not_resume_is_refused_where_it_must() {
    let server = server_with("data_session_reuse = \"require\"", "");
    server.write("file", "secret");
    for version in VERSIONS {
        let mut owner = Secure::client(&server, client_config(version));
        let mut fresh = client_config(version);
        fresh.resumption = Resumption::disabled();
        let data = owner.epsv();
        owner.expect("RETR file", 150);
        let mut thief = handshake(&Arc::new(fresh), "localhost", data).unwrap();
        let mut stolen = Vec::new();
        let _ = thief.read_to_end(&mut stolen);
        assert_eq!(
            stolen, b"",
            "nothing is sent to a connection that is not the session's"
        );
        owner.reply().expect(522).says("resume");

        // Tickets of another session are as good as none.
        let other = Secure::client(&server, client_config(version));
        let data = owner.epsv();
        owner.expect("STOR up", 150);
        drop(handshake(&other.config, "localhost", data).unwrap());
        owner.reply().expect(522);

        assert_eq!(owner.download("RETR file").0, b"secret");
    }
}

#[test]
fn without_the_requirement_a_fresh_handshake_will_do() {
    let server = Server::start();
    for version in VERSIONS {
        let mut config = client_config(version);
        config.resumption = Resumption::disabled();
        let mut client = Secure::client(&server, config);
        client.upload("STOR file", b"contents").expect(226);
        assert_eq!(client.download("RETR file").0, b"contents");
    }
}

#[test]
fn a_stranger_on_the_data_port_neither_gets_nor_spoils_anything() {
    let server = Server::start();
    server.write("file", "secret");
    let mut client = Secure::client(&server, client_config(&TLS13));
    let reply = client.expect("EPSV", 229).text();
    let port: u16 = reply[reply.find("(|||").unwrap() + 4..reply.find("|)").unwrap()]
        .parse()
        .unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stranger = connect_from(SocketAddr::from(([127, 0, 0, 2], 0)), address);
    client.send("RETR file");
    client.reply().expect(150);
    let mut stolen = Vec::new();
    let _ = stranger.read_to_end(&mut stolen);
    assert_eq!(stolen, b"");
    let data = common::data_connection(address);
    let mut data = handshake(&client.config, "localhost", data).unwrap();
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"secret");
    client.reply().expect(226);
}

#[test]
fn a_failed_data_handshake_is_told_and_leaves_the_session_usable() {
    let server = server_with("", "[timeouts]\ndata_connect = \"1s\"");
    server.write("file", "contents");
    let mut client = Secure::client(&server, client_config(&TLS13));
    let mut garbage = client.epsv();
    client.expect("RETR file", 150);
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    client.reply().expect(425).says("encrypted");
    // A client that closes half-way.
    let closed = client.epsv();
    client.expect("STOR up", 150);
    drop(closed);
    client.reply().expect(425).says("closed");
    // One that says nothing.
    let silent = client.epsv();
    client.expect("RETR file", 150);
    client.reply().expect(425).says("in time");
    drop(silent);
    assert_eq!(client.download("RETR file").0, b"contents");
}

#[test]
fn an_upload_that_ends_without_close_notify_is_truncated() {
    for (more, code) in [
        ("", 426),
        ("accept_hangup = true", 426),
        ("accept_missing_close_notify = true", 226),
    ] {
        let server = Server::build()
            .configuration(&format!(
                "[anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n{more}\n"
            ))
            .start();
        for version in VERSIONS {
            let mut client = Secure::explicit(&server, client_config(version));
            client.expect("USER anonymous", 331);
            client.expect("PASS x", 230);
            client.protect();
            client.expect("TYPE I", 200);
            let mut data = client.open("STOR file");
            data.write_all(&noise(300_000)).unwrap();
            data.flush().unwrap();
            // The end of the TCP connection, as anybody on the way could forge it.
            data.sock.shutdown(std::net::Shutdown::Write).unwrap();
            client.reply().expect(code);
        }
        if code == 426 {
            server.wait_for_log("(setting: accept_missing_close_notify of the user)");
        }
    }
}

#[test]
fn a_record_that_is_not_the_clients_ends_the_upload() {
    let server = Server::start();
    let mut client = Secure::client(&server, client_config(&TLS13));
    let mut data = client.open("STOR file");
    data.write_all(b"contents").unwrap();
    data.flush().unwrap();
    data.sock.write_all(&[23, 3, 3, 0, 40]).unwrap();
    data.sock.write_all(&[7; 40]).unwrap();
    client.reply().expect(426);
    client.expect("NOOP", 200);
}

/// All that the client has to say, in pieces of so many bytes.
fn say(connection: &mut ClientConnection, stream: &mut std::net::TcpStream, piece: usize) {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    for piece in bytes.chunks(piece) {
        stream.write_all(piece).unwrap();
    }
}

#[test]
fn an_upload_in_the_smallest_pieces_arrives_whole() {
    let server = Server::start();
    let contents = noise(50_000);
    for version in VERSIONS {
        for piece in [1, 7, 4097] {
            let mut client = Secure::client(&server, client_config(version));
            let mut stream = client.epsv();
            stream.set_nodelay(true).unwrap();
            client.expect("STOR file", 150);
            let name = "localhost".try_into().unwrap();
            let mut connection = ClientConnection::new(Arc::clone(&client.config), name).unwrap();
            while connection.is_handshaking() {
                say(&mut connection, &mut stream, piece);
                if connection.is_handshaking() {
                    connection.read_tls(&mut stream).unwrap();
                    connection.process_new_packets().unwrap();
                }
            }
            connection.writer().write_all(&contents).unwrap();
            say(&mut connection, &mut stream, piece);
            connection.send_close_notify();
            say(&mut connection, &mut stream, piece);
            client.reply().expect(226);
            assert_same_bytes(&std::fs::read(server.path("file")).unwrap(), &contents);
        }
    }
}

#[test]
fn garbage_at_every_byte_of_a_data_connections_first_message_is_a_425() {
    let server = Server::start();
    let mut client = Secure::client(&server, client_config(&TLS13));
    let name = "localhost".try_into().unwrap();
    let config = Arc::new(client_config(&TLS12));
    let mut connection = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    for at in 0..hello.len() {
        let mut bad = hello.clone();
        bad[at] ^= 0xff;
        let mut data = client.epsv();
        client.expect("STOR file", 150);
        data.write_all(&bad).unwrap();
        data.shutdown(std::net::Shutdown::Write).unwrap();
        client.reply().expect(425);
    }
    client.upload("STOR file", b"contents").expect(226);
}

// ---- while data flows

#[test]
fn commands_are_answered_and_abor_ends_transfers_as_in_the_clear() {
    let server = Server::start();
    server.write("large", noise(30_000_000));
    for version in VERSIONS {
        let mut client = Secure::client(&server, client_config(version));
        let mut data = client.open("RETR large");
        data.read_exact(&mut [0; 1000]).unwrap();
        client.expect("NOOP", 200);
        client.expect("STAT", 211).says("bytes so far");
        client.send("ABOR");
        client.reply().expect(426);
        client.reply().expect(226);
        // What comes yet is not the whole file, and does not end as if it were.
        assert!(data.read_to_end(&mut Vec::new()).is_err());

        let mut data = client.open("STOR up");
        data.write_all(&noise(100_000)).unwrap();
        data.flush().unwrap();
        client.expect("NOOP", 200);
        client.send("ABOR");
        client.reply().expect(426);
        client.reply().expect(226);
        client.expect("PWD", 257);

        // QUIT waits for the end of the transfer.
        let mut data = client.open("RETR large");
        client.send("QUIT");
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 30_000_000);
        client.reply().expect(226);
        client.reply().expect(221);
    }
}

#[test]
fn a_stalled_transfer_and_an_idle_session_end_in_time() {
    let server = server_with("", "[timeouts]\nstalled = \"1s\"\nidle = \"2s\"");
    server.write("large", noise(30_000_000));
    let mut client = Secure::client(&server, client_config(&TLS13));
    let data = client.open("RETR large");
    client.reply().expect(426).says("too long");
    drop(data);
    client.reply().expect(421);
    assert!(client.reply_or_end().is_none());
}

#[test]
fn a_shutdown_lets_a_running_transfer_finish() {
    let server = Server::start();
    server.write("large", noise(20_000_000));
    let mut client = Secure::client(&server, client_config(&TLS13));
    let mut data = client.open("RETR large");
    data.read_exact(&mut [0; 1000]).unwrap();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let mut rest = Vec::new();
    data.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 20_000_000 - 1000);
    client.reply().expect(226);
    client.reply().expect(421);
}

#[test]
fn pipelined_commands_are_all_answered() {
    let server = Server::start();
    let mut client = Secure::client(&server, client_config(&TLS12));
    let many = "NOOP\r\n".repeat(20_000);
    // More than fits anywhere at once: the client has to read while it sends.
    let mut sender = client.stream().try_clone().unwrap();
    let _ = &mut sender;
    for _ in 0..20 {
        client.send(&many[..many.len() / 20 - 2]);
        for _ in 0..1000 {
            client.reply().expect(200);
        }
    }
}

#[test]
fn a_handshake_that_is_never_finished_gives_its_slot_back() {
    let server = server_with("", "sessions = 1\n[timeouts]\nlogin = \"1s\"");
    let mut client = server.connect();
    client.expect("AUTH TLS", 234);
    client.send_raw([22, 3, 1]);
    server.wait_for_log("no TLS: the client did not answer in time");
    std::thread::sleep(Duration::from_millis(50));
    server.connect().expect("NOOP", 200);
}
