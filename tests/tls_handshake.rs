//! Handshakes that go wrong, and what is agreed on in those that go right. Whatever happens, the server goes on and no slot
//! is lost.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use common::secure::{Secure, TlsStream, client_config, client_config_of, handshake};
use common::{Server, run_client, the_program};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion};

/// Two sessions at once and no more: a slot that is lost shows.
fn narrow() -> Server {
    Server::build()
        .configuration("sessions = 2\n[timeouts]\nlogin = \"5s\"")
        .with_flag_user()
        .start()
}

/// Waits for the end of a connection whose session is over, and with it its slot.
fn see_the_end(mut stream: std::net::TcpStream) {
    // The session may have ended already.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// A connection that has been answered 234. The slot of the session before is free a moment after its connection has
/// ended: until then the answer is 421.
fn greeted(server: &Server) -> common::Client {
    let mut free = None;
    common::eventually("there is a slot", || {
        let mut client = common::Client::connect(server.address());
        if client.reply().code == 220 {
            free = Some(client);
        }
        free.is_some()
    });
    let mut client = free.unwrap();
    client.expect("AUTH TLS", 234);
    client
}

#[track_caller]
fn still_serves(server: &Server) {
    let config = Arc::new(client_config(&TLS13));
    let stream = handshake(&config, "localhost", greeted(server).into_stream()).unwrap();
    Secure::over_stream(stream, config, server.address()).login();
}

#[test]
fn garbage_at_every_byte_of_the_first_message_costs_nobody_but_its_sender() {
    let server = narrow();
    let config = Arc::new(client_config(&TLS12));
    let mut hello = Vec::new();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(config, name).unwrap();
    connection.write_tls(&mut hello).unwrap();
    for at in 0..hello.len() {
        let mut bad = hello.clone();
        bad[at] ^= 0xff;
        let mut stream = greeted(&server).into_stream();
        stream.write_all(&bad).unwrap();
        see_the_end(stream);
    }
    still_serves(&server);
    assert!(
        !server.log_text().contains("defect"),
        "{}",
        server.log_text()
    );
}

#[test]
fn garbage_at_every_byte_of_the_last_message_costs_nobody_but_its_sender() {
    let server = narrow();
    let mut length = 1;
    let mut at = 0;
    while at < length {
        let mut stream = greeted(&server).into_stream();
        let config = Arc::new(client_config(&TLS13));
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(config, name).unwrap();
        connection.write_tls(&mut stream).unwrap();
        while connection.is_handshaking() {
            connection.read_tls(&mut stream).unwrap();
            connection.process_new_packets().unwrap();
        }
        let mut last = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut last).unwrap();
        }
        length = last.len();
        last[at] ^= 0xff;
        stream.write_all(&last).unwrap();
        see_the_end(stream);
        at += 1;
    }
    assert!(length > 60, "{length}");
    still_serves(&server);
    assert!(
        !server.log_text().contains("defect"),
        "{}",
        server.log_text()
    );
}

#[test]
fn a_handshake_cut_off_at_every_byte_gives_its_slot_back() {
    let server = narrow();
    let config = Arc::new(client_config(&TLS13));
    let mut hello = Vec::new();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(config, name).unwrap();
    connection.write_tls(&mut hello).unwrap();
    for length in 0..hello.len() {
        let mut stream = greeted(&server).into_stream();
        stream.write_all(&hello[..length]).unwrap();
        see_the_end(stream);
    }
    still_serves(&server);
}

fn s_client(server: &Server, more: &str) -> common::Finished {
    let script = format!(
        "(sleep 0.3; printf 'NOOP\\r\\n'; sleep 0.3; printf 'R\\n'; sleep 0.5) | \
         openssl s_client -starttls ftp -connect {} -cipher ALL:@SECLEVEL=0 {more}",
        server.address()
    );
    run_client(the_program("sh", server.home()).args(["-c", &script]), 30)
}

#[test]
fn old_versions_are_refused_and_new_ones_are_not() {
    let server = narrow();
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(&server, version);
        let all = said.text() + &said.stderr;
        // Which alert it is depends on what the client offers besides.
        let refused = ["alert protocol version", "alert handshake failure"];
        assert!(
            refused.iter().any(|alert| all.contains(alert)),
            "{version}: {all}"
        );
        assert!(all.contains("Cipher is (NONE)"), "{version}: {all}");
    }
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = s_client(&server, version);
        assert!(said.text().contains(name), "{}", said.text());
    }
}

#[test]
fn renegotiation_is_refused() {
    let server = narrow();
    let said = s_client(&server, "-tls1_2 -legacy_renegotiation");
    let all = said.text() + &said.stderr;
    assert!(
        all.contains("RENEGOTIATING") && all.contains("no renegotiation"),
        "{all}"
    );
    still_serves(&server);
}

#[test]
fn a_client_of_another_protocol_is_refused_and_one_without_is_not() {
    let server = Server::start();
    server.write("file", "contents");
    let with = |protocols: &[&str]| {
        let mut config = client_config(&TLS13);
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Arc::new(config)
    };
    let connect = |config: &Arc<ClientConfig>| -> std::io::Result<TlsStream> {
        let mut client = server.connect();
        client.expect("AUTH TLS", 234);
        handshake(config, "localhost", client.into_stream())
    };
    let chosen = |protocols: &[&str]| {
        let stream = connect(&with(protocols)).unwrap();
        stream.conn.alpn_protocol().map(<[u8]>::to_vec)
    };
    assert_eq!(chosen(&["ftp"]).as_deref(), Some(&b"ftp"[..]));
    assert_eq!(chosen(&["http/1.1", "ftp"]).as_deref(), Some(&b"ftp"[..]));
    assert_eq!(chosen(&[]), None);
    for protocols in [&["http/1.1"][..], &["h2", "smtp"]] {
        let error = connect(&with(protocols)).unwrap_err().to_string();
        assert!(error.contains("NoApplicationProtocol"), "{error}");
    }
    server.wait_for_log("no TLS: ");
    let mut client = Secure::client(&server, client_config(&TLS13));
    for (protocols, expected) in [
        (&["ftp-data"][..], Some(&b"ftp-data"[..])),
        (&["ftp"], Some(b"ftp")),
    ] {
        let data = client.epsv();
        client.expect("RETR file", 150);
        let mut data = handshake(&with(protocols), "localhost", data).unwrap();
        assert_eq!(data.conn.alpn_protocol(), expected);
        data.read_to_end(&mut Vec::new()).unwrap();
        client.reply().expect(226);
    }
    let data = client.epsv();
    client.expect("RETR file", 150);
    assert!(handshake(&with(&["h2"]), "localhost", data).is_err());
    client.reply().expect(425);
}

#[test]
fn ciphers_are_chosen_by_the_hardware_and_by_who_prefers_chacha() {
    let server = Server::start();
    let negotiated = |chacha_first: bool| {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.sort_by_key(|suite| {
            let chacha = suite.suite() == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
            let long = suite.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384;
            (chacha != chacha_first, !long)
        });
        let client = Secure::explicit(&server, client_config_of(&TLS13, provider));
        client
            .connection()
            .negotiated_cipher_suite()
            .unwrap()
            .suite()
    };
    assert_eq!(
        negotiated(true),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    );
    #[cfg(target_arch = "x86_64")]
    let fast_aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(not(target_arch = "x86_64"))]
    let fast_aes = negotiated(false) != CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
    let expected = if fast_aes {
        CipherSuite::TLS13_AES_128_GCM_SHA256
    } else {
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    };
    assert_eq!(negotiated(false), expected);
}

#[test]
fn a_control_connection_may_resume_an_earlier_one() {
    let server = Server::start();
    let config = Arc::new(client_config(&TLS13));
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut client = Secure::explicit_as(&server, &config, "localhost");
        assert_eq!(client.connection().handshake_kind(), Some(kind));
        assert_eq!(
            client.connection().protocol_version(),
            Some(ProtocolVersion::TLSv1_3)
        );
        client.login();
        client.expect("QUIT", 221);
    }
}
