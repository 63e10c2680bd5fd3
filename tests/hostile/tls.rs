//! Encryption at the wrong moment, broken, or not at all.

use crate::common::secure::{Secure, TlsStream, VERSIONS, client_config, handshake};
use crate::common::{Client, PATIENCE, Server, noise, reset};
use crate::scene::{Case, Scene, case, throw};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

/// What is sent in the place of a handshake.
fn no_handshakes() -> Vec<(&'static str, Vec<u8>)> {
    let record = |kind: u8, length: u16, body: &[u8]| {
        [&[kind, 3, 1][..], &length.to_be_bytes(), body].concat()
    };
    vec![
        ("commands", b"USER t\r\nPASS pw\r\nDELE file\r\n".to_vec()),
        ("noise", noise(100_000)),
        ("NULs", vec![0; 20_000]),
        ("bytes 255", vec![255; 20_000]),
        (
            "an SSL 2 hello",
            b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x03\x00\x80\x07\x00\xc0"
                .repeat(3),
        ),
        (
            "an HTTP request",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        ),
        (
            "a record larger than may be",
            record(22, 0xffff, &[1; 65535]),
        ),
        ("a record of no byte", record(22, 0, b"").repeat(5000)),
        (
            "a hello that says it has 16 MiB",
            record(22, 16384, &[&[1, 255, 255, 255][..], &[0; 16380]].concat()).repeat(70),
        ),
        (
            "application data before any key",
            record(23, 100, &[7; 100]),
        ),
        ("alerts", record(21, 2, &[1, 0]).repeat(2000)),
        ("a fatal alert", record(21, 2, &[2, 40])),
        ("changes of cipher", record(20, 1, &[1]).repeat(2000)),
        (
            "a heartbeat that asks for more than it brings",
            record(24, 3, &[1, 0x40, 0]),
        ),
        ("a record of an unknown kind", record(99, 5, b"hello")),
        (
            "a hello of an old version",
            b"\x16\x03\x00\x00\x2d\x01\x00\x00\x29\x03\x00".to_vec(),
        ),
        (
            "half a hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("nothing", Vec::new()),
    ]
}

/// Reads to the end, whatever comes and however it ends.
fn drain(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn ends_without_a_word(client: Client) {
    let stream = client.into_stream();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let bytes = drain(&stream);
    for told in [&b"230 "[..], b"250 ", b"331 "] {
        assert!(
            !bytes.windows(4).any(|window| window == told),
            "obeyed: {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, bytes) in no_handshakes() {
        let copy = bytes.clone();
        cases.push(case(format!("{name} behind AUTH TLS"), move |scene| {
            for logged_in in [false, true] {
                let mut stranger = scene.server.connect();
                if logged_in {
                    stranger.login();
                }
                stranger.expect("AUTH TLS", 234);
                throw(stranger.stream(), &copy);
                ends_without_a_word(stranger);
            }
        }));
        cases.push(case(
            format!("{name} on an encrypted data connection"),
            move |scene| {
                let mut client = Secure::client(&scene.server, client_config(VERSIONS[1]));
                for line in ["RETR file", "STOR new", "LIST"] {
                    let data = client.epsv();
                    client.expect(line, 150);
                    throw(&data, &bytes);
                    let _ = data.shutdown(std::net::Shutdown::Write);
                    let got = drain(&data);
                    assert!(
                        !got.windows(6).any(|window| window == b"inside"),
                        "sent in the clear"
                    );
                    client.reply().expect_one_of(&[425, 426, 522]);
                }
                assert!(!scene.server.exists("new"));
                client.expect("NOOP", 200);
            },
        ));
    }
    cases.extend([
        case("a handshake without AUTH", |scene| {
            let stranger = scene.server.connect();
            let config = Arc::new(client_config(VERSIONS[1]));
            assert!(handshake(&config, "localhost", stranger.into_stream()).is_err());
        }),
        case("AUTH at every state begins anew", |scene| {
            let states: [&[(&str, u16)]; 6] = [
                &[],
                &[("USER t", 331)],
                &[("USER t", 331), ("PASS pw", 230)],
                &[("USER t", 331), ("PASS pw", 230), ("RNFR file", 350)],
                &[
                    ("USER t", 331),
                    ("PASS pw", 230),
                    ("TYPE I", 200),
                    ("REST 3", 350),
                ],
                &[("USER t", 331), ("PASS pw", 230), ("EPSV", 229)],
            ];
            for state in states {
                let mut client = scene.server.connect();
                for (line, code) in state {
                    client.expect(line, *code);
                }
                client.expect("AUTH TLS", 234);
                let config = Arc::new(client_config(VERSIONS[1]));
                let stream = handshake(&config, "localhost", client.into_stream()).unwrap();
                let mut client = Secure::over_stream(stream, config, scene.server.address());
                // Whoever spoke in the clear is nobody now.
                for line in ["PWD", "RNTO stolen", "RETR file", "LIST"] {
                    client.expect(line, 530);
                }
                client.expect("PASS pw", 503);
                client.login();
            }
        }),
        case(
            "AUTH while a transfer is under way waits for its end",
            |scene| {
                scene.server.write("mine", noise(3 << 20));
                let mut data = scene.client.epsv();
                scene.client.expect("RETR mine", 150);
                scene.client.send("AUTH TLS");
                let mut bytes = Vec::new();
                data.read_to_end(&mut bytes).unwrap();
                assert!(bytes == noise(3 << 20));
                scene.client.reply().expect(226);
                scene.client.reply().expect(234);
                scene.renew();
            },
        ),
        case("a second AUTH inside of the first", |scene| {
            let mut client = Secure::client(&scene.server, client_config(VERSIONS[1]));
            client.command("AUTH TLS").expect_one_of(&[503, 534]);
            client.expect("NOOP", 200);
        }),
        case(
            "commands in the clear on an encrypted connection",
            |scene| {
                for version in VERSIONS {
                    let client = Secure::client(&scene.server, client_config(version));
                    throw(client.stream(), b"DELE file\r\nQUIT\r\n");
                    let stream = client.stream().try_clone().unwrap();
                    drain(&stream);
                }
                assert!(scene.server.exists("file"));
            },
        ),
        case("a record that was tampered with", |scene| {
            for version in VERSIONS {
                let client = Secure::client(&scene.server, client_config(version));
                let mut record = vec![0x17, 3, 3, 0, 40];
                record.extend(noise(40));
                throw(client.stream(), &record);
                let stream = client.stream().try_clone().unwrap();
                drain(&stream);
            }
        }),
        case("data in the clear where it was to be encrypted", |scene| {
            let mut client = Secure::client(&scene.server, client_config(VERSIONS[1]));
            let mut data = client.epsv();
            client.expect("STOR new", 150);
            let _ = data.write_all(b"in the clear");
            reset(data);
            client.reply().expect_one_of(&[425, 426]);
            assert!(!scene.server.exists("new"));
        }),
        case(
            "a handshake on a data connection that is to be in the clear",
            |scene| {
                let data = scene.client.epsv();
                scene.client.expect("STOR new", 150);
                throw(&data, b"\x16\x03\x01\x00\x05hello");
                drop(data);
                scene.client.reply().expect(226);
                // They are the file, byte by byte.
                assert_eq!(scene.server.read("new"), b"\x16\x03\x01\x00\x05hello");
            },
        ),
        case("PROT and PBSZ of every kind in the clear", |scene| {
            for (line, code) in [
                ("PBSZ 0", 503),
                ("PROT P", 503),
                ("PROT C", 503),
                ("PROT S", 503),
                ("CCC", 533),
                ("ADAT x", 502),
            ] {
                let reply = scene.client.command(line);
                assert!(
                    reply.code >= 500,
                    "{line}: {} instead of {code}",
                    reply.text()
                );
            }
        }),
        case("AUTH of every unknown kind", |scene| {
            for kind in [
                "GSSAPI",
                "KERBEROS_V4",
                "TLS2",
                "SSLv2",
                "T",
                "\u{1}",
                "TLS TLS",
            ] {
                scene
                    .client
                    .command(format!("AUTH {kind}"))
                    .expect_one_of(&[501, 504]);
            }
        }),
        case("a hundred handshakes that are broken off", |scene| {
            for n in 0..100 {
                let mut client = scene.server.connect();
                client.expect("AUTH TLS", 234);
                let stream = client.into_stream();
                if n % 3 == 0 {
                    let config = Arc::new(client_config(VERSIONS[n % 2]));
                    let whole: TlsStream = handshake(&config, "localhost", stream).unwrap();
                    reset(whole.sock);
                } else if n % 3 == 1 {
                    throw(&stream, b"\x16\x03\x01");
                    reset(stream);
                } else {
                    drop(stream);
                }
            }
        }),
        case(
            "an implicit listener that is spoken to in the clear",
            |scene| {
                let server = Server::build()
                    .configuration("[tls]\nimplicit = [\"127.0.0.1:0\"]\n")
                    .with_flag_user()
                    .start();
                server.wait_for_log("(TLS from the first byte)");
                let stream = TcpStream::connect(server.addresses()[1]).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                throw(&stream, b"USER t\r\nPASS pw\r\nDELE file\r\n");
                let bytes = drain(&stream);
                assert!(
                    !bytes
                        .windows(3)
                        .any(|window| window == b"220" || window == b"331")
                );
                server.client().expect("NOOP", 200);
                Scene::no_secret_in(&bytes);
                scene.client.expect("NOOP", 200);
            },
        ),
    ]);
    cases
}
