//! Clients that leave at any moment, in any way. At the end of the class every slot, thread and descriptor must be back.

use crate::common::secure::{Secure, TlsStream, VERSIONS, client_config, handshake};
use crate::common::{Client, Server, eventually, noise, reset};
use crate::scene::{Case, Scene, case, throw};
use std::io::Read as _;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

/// How a socket ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Closed,
    HalfClosed,
    Reset,
}

const WAYS: [(&str, Way); 3] = [
    ("closed", Way::Closed),
    ("half-closed", Way::HalfClosed),
    ("reset", Way::Reset),
];

/// What a client holds at some moment: the control connection first.
struct Held(Vec<TcpStream>, Option<Secure>);

type State = fn(&Server) -> Held;

/// The moments, and whether a half-closed control connection ends the session at once (else the transfer may go on).
const STATES: &[(&str, State)] = &[
    ("before the greeting is read", |server| {
        Held(vec![TcpStream::connect(server.address()).unwrap()], None)
    }),
    ("after the greeting", |server| alone(server.connect())),
    ("in the middle of a verb", |server| {
        sent(server.connect(), b"USE")
    }),
    ("in the middle of a Telnet sequence", |server| {
        sent(server.connect(), b"NOOP\xff\xfa\x18")
    }),
    ("in the middle of an endless line", |server| {
        sent(server.connect(), &[b'x'; 9000])
    }),
    ("after USER", |server| {
        let mut client = server.connect();
        client.expect("USER t", 331);
        alone(client)
    }),
    ("while a wrong password is waited for", |server| {
        sent(server.connect(), b"USER t\r\nPASS wrong\r\n")
    }),
    ("after the login", |server| alone(server.client())),
    ("after RNFR", |server| asked(server, &["RNFR file"], b"")),
    ("after REST", |server| asked(server, &["REST 3"], b"")),
    ("after PASV", |server| asked(server, &["PASV"], b"")),
    (
        "after EPSV and a command, before its data connection",
        |server| asked(server, &["EPSV"], b"RETR file\r\n"),
    ),
    (
        "after EPSV and STOR, before its data connection",
        |server| asked(server, &["EPSV"], b"STOR new\r\n"),
    ),
    ("with a data connection and no command", |server| {
        let mut client = server.client();
        let data = client.epsv();
        Held(vec![client.into_stream(), data], None)
    }),
    ("while the server connects where nobody listens", |server| {
        asked(server, &["PORT 127,0,0,1,255,254"], b"LIST\r\n")
    }),
    ("in a download that is read", |server| {
        transferring(server, "RETR large", true)
    }),
    ("in a download that nobody reads", |server| {
        transferring(server, "RETR large", false)
    }),
    ("in a download in ASCII", |server| {
        let mut client = server.client();
        client.expect("TYPE A", 200);
        let data = client.epsv();
        client.expect("RETR large", 150);
        Held(vec![client.into_stream(), data], None)
    }),
    ("in an upload", |server| {
        let held = transferring(server, "STOR cut", false);
        throw(&held.0[1], &noise(300_000));
        held
    }),
    ("in an upload that adds", |server| {
        let held = transferring(server, "APPE cut", false);
        throw(&held.0[1], &noise(300_000));
        held
    }),
    ("in an upload of no byte", |server| {
        transferring(server, "STOU", false)
    }),
    ("in a long listing", |server| {
        transferring(server, "LIST -R crowd", false)
    }),
    ("in MLSD", |server| {
        transferring(server, "MLSD crowd", false)
    }),
    ("after ABOR in a transfer", |server| {
        let held = transferring(server, "RETR large", false);
        throw(&held.0[0], b"ABOR\r\n");
        held
    }),
    ("with many commands waiting", |server| {
        let held = transferring(server, "RETR large", false);
        throw(&held.0[0], &b"SIZE file\r\n".repeat(2000));
        held
    }),
    ("after AUTH TLS", |server| {
        let mut client = server.connect();
        client.expect("AUTH TLS", 234);
        alone(client)
    }),
    ("in the middle of a handshake", |server| {
        let mut client = server.connect();
        client.expect("AUTH TLS", 234);
        sent(client, b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03")
    }),
    ("encrypted", |server| {
        let client = Secure::client(server, client_config(VERSIONS[1]));
        Held(vec![client.stream().try_clone().unwrap()], Some(client))
    }),
    ("in the middle of a record", |server| {
        let client = Secure::client(server, client_config(VERSIONS[1]));
        let stream = client.stream().try_clone().unwrap();
        throw(&stream, b"\x17\x03\x03\x40\x00half of it");
        Held(vec![stream], Some(client))
    }),
    ("in an encrypted upload", |server| {
        let mut client = Secure::client(server, client_config(VERSIONS[1]));
        let data: TlsStream = client.open("STOR cut");
        Held(
            vec![
                client.stream().try_clone().unwrap(),
                data.sock.try_clone().unwrap(),
            ],
            Some(client),
        )
    }),
    ("before the handshake of a data connection", |server| {
        let mut client = Secure::client(server, client_config(VERSIONS[0]));
        let data = client.epsv();
        client.send("RETR large");
        Held(
            vec![client.stream().try_clone().unwrap(), data],
            Some(client),
        )
    }),
];

fn alone(client: Client) -> Held {
    Held(vec![client.into_stream()], None)
}

fn sent(client: Client, bytes: &[u8]) -> Held {
    throw(client.stream(), bytes);
    alone(client)
}

fn asked(server: &Server, commands: &[&str], then: &[u8]) -> Held {
    let mut client = server.client();
    for command in commands {
        client.command(command).expect_one_of(&[200, 227, 229, 350]);
    }
    sent(client, then)
}

fn transferring(server: &Server, line: &str, read: bool) -> Held {
    let mut client = server.client();
    let mut data = client.epsv();
    client.expect(line, 150);
    if read {
        data.read_exact(&mut [0; 100_000]).unwrap();
    }
    Held(vec![client.into_stream(), data], None)
}

fn end(stream: TcpStream, way: Way) -> Option<TcpStream> {
    match way {
        Way::Closed => drop(stream),
        Way::Reset => reset(stream),
        Way::HalfClosed => {
            // The server may have closed it by itself.
            let _ = stream.shutdown(Shutdown::Write);
            return Some(stream);
        }
    }
    None
}

fn furnish(scene: &mut Scene) {
    let server = &scene.server;
    if server.exists("large") {
        return;
    }
    server.write("large", noise(6 << 20));
    for n in 0..600 {
        server.write(
            format!("crowd/a-name-that-takes-some-room-in-a-listing-{n}"),
            "",
        );
    }
    scene.settle();
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(state, reach) in STATES {
        for (name, way) in WAYS {
            cases.push(case(
                format!("control connection {name} {state}"),
                move |scene| {
                    furnish(scene);
                    let before = scene.server.descriptors();
                    let Held(mut held, secure) = reach(&scene.server);
                    // A second handle keeps a socket open that was to be closed.
                    drop(secure);
                    let rest = held.split_off(1);
                    let half = held.pop().and_then(|control| end(control, way));
                    // Where the client only says that it has no more to send, a transfer may go on for as long as it reads.
                    drop(rest);
                    eventually("the session ends", || scene.server.descriptors() <= before);
                    drop(half);
                    let may_be_whole = way == Way::HalfClosed && ends_in_order(state, way);
                    nothing_unfinished(&scene.server, may_be_whole);
                },
            ));
            cases.push(case(
                format!("data connection {name} {state}"),
                move |scene| {
                    furnish(scene);
                    let before = scene.server.descriptors();
                    let Held(mut held, mut secure) = reach(&scene.server);
                    let half = if held.len() > 1 {
                        end(held.remove(1), way)
                    } else {
                        None
                    };
                    if let Some(code) = told(state, way) {
                        read_reply(&scene.server, &held[0], secure.as_mut(), code);
                    }
                    let is_whole = ends_in_order(state, way);
                    assert_eq!(scene.server.exists("cut"), is_whole && state != STOU);
                    drop((held, secure, half));
                    eventually("the session ends", || scene.server.descriptors() <= before);
                    nothing_unfinished(&scene.server, is_whole);
                },
            ));
        }
    }
    // Without a data connection there is none to end.
    cases.retain(|case| !case.name.starts_with("data") || has_data_connection(&case.name));
    cases.push(case(
        "an encrypted client that never says close_notify",
        |scene| {
            for version in VERSIONS {
                let mut client = scene.server.connect();
                client.expect("AUTH TLS", 234);
                let config = Arc::new(client_config(version));
                let before = scene.server.descriptors();
                let stream = handshake(&config, "localhost", client.into_stream()).unwrap();
                drop(stream);
                eventually("the session ends", || scene.server.descriptors() < before);
            }
        },
    ));
    cases
}

fn has_data_connection(name: &str) -> bool {
    [
        "with a data connection",
        " download",
        " upload",
        "listing",
        "MLSD",
        "ABOR",
        "many commands",
        "of a data connection",
    ]
    .iter()
    .any(|part| name.contains(part))
}

/// The one upload that names its file itself.
const STOU: &str = "in an upload of no byte";

/// Whether an upload is whole when its data connection ends in this way: in the clear an end in order is the end of the
/// file; encrypted, close_notify would be.
fn ends_in_order(state: &str, way: Way) -> bool {
    ["in an upload", "in an upload that adds", STOU].contains(&state) && way != Way::Reset
}

/// How a transfer is answered whose data connection ends in this way, where that is sure.
fn told(state: &str, way: Way) -> Option<u16> {
    if state.starts_with("in a download") {
        // Who only sends no more may still read.
        return (way != Way::HalfClosed).then_some(426);
    }
    let is_upload = state.starts_with("in an") && state.contains("upload");
    is_upload.then(|| match ends_in_order(state, way) {
        true => 226,
        false => 426,
    })
}

#[track_caller]
fn read_reply(server: &Server, control: &TcpStream, secure: Option<&mut Secure>, code: u16) {
    let reply = match secure {
        Some(secure) => secure.reply(),
        None => Client::over_stream(control.try_clone().unwrap(), server.address()).reply(),
    };
    reply.expect(code);
}

/// What was cut off has no name: only an upload that was ended in order may have made a file.
#[track_caller]
fn nothing_unfinished(server: &Server, may_be_whole: bool) {
    assert!(
        !server.exists("new"),
        "a file without a byte of data was made"
    );
    assert!(
        may_be_whole || !server.exists("cut"),
        "a part of a file was made the file"
    );
}
