//! Data connections to and from where they do not belong. 127.0.0.2 is the foreign host.

use crate::common::{connect_from, data_connection, noise, port_command, reset};
use crate::scene::{Case, case, throw};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Commands that ask the server to connect where it must not.
const REFUSED: &[&str] = &[
    "PORT 127,0,0,2,200,10",
    "PORT 0,0,0,0,200,10",
    "PORT 255,255,255,255,200,10",
    "PORT 224,0,0,1,200,10",
    "PORT 10,0,0,1,200,10",
    "PORT 169,254,169,254,0,80",
    "PORT 127,0,0,1,0,21",
    "PORT 127,0,0,1,0,25",
    "PORT 127,0,0,1,3,255",
    "PORT 127,0,0,1,0,0",
    "PORT 127,1,200,10",
    "PORT 2130706433,200,10",
    "PORT 0177,0,0,01,200,10,1",
    "EPRT |1|127.0.0.2|5000|",
    "EPRT |1|0.0.0.0|5000|",
    "EPRT |1|127.0.0.1|22|",
    "EPRT |1|127.0.0.1|1023|",
    "EPRT |1|127.1|5000|",
    "EPRT |1|0x7f000001|5000|",
    "EPRT |1|0177.0.0.1|5000|",
    "EPRT |1|localhost|5000|",
    "EPRT |1|::1|5000|",
    "EPRT |2|::1|5000|",
    "EPRT |2|::ffff:127.0.0.1|5000|",
    "EPRT |2|::ffff:127.0.0.2|5000|",
    "EPRT |2|fe80::1%lo|5000|",
    "EPRT |3|127.0.0.1|5000|",
    "EPRT |1|127.0.0.1|5000",
    "EPRT ||||",
    "EPRT 1127.0.0.115000 1",
    "LPRT 4,4,127,0,0,2,2,200,10",
];

fn is_closed(mut stream: std::net::TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn stranger(to: SocketAddr) -> std::net::TcpStream {
    connect_from("127.0.0.2:0".parse().unwrap(), to)
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = REFUSED
        .iter()
        .map(|&line| {
            case(line, move |scene| {
                scene.client.command(line).expect_one_of(&[501, 502, 522]);
                // And nothing is left to be used by accident.
                scene.client.expect("LIST", 425);
                scene.client.expect("STOR new", 425);
            })
        })
        .collect();
    cases.extend([
        case(
            "nobody is connected to at an address that was refused",
            |scene| {
                let listener = TcpListener::bind("127.0.0.2:0").unwrap();
                listener.set_nonblocking(true).unwrap();
                let address = listener.local_addr().unwrap();
                scene.client.expect(port_command(address), 501);
                scene
                    .client
                    .expect(format!("EPRT |1|127.0.0.2|{}|", address.port()), 501);
                for line in ["LIST", "RETR file", "STOR new"] {
                    scene.client.expect(line, 425);
                }
                assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            },
        ),
        case(
            "a refused address takes the place of the one before",
            |scene| {
                let listener = scene.client.port();
                listener.set_nonblocking(true).unwrap();
                scene.client.command("PORT 127,0,0,2,200,10").expect(501);
                let reply = scene.client.command("LIST").expect_one_of(&[425, 150]);
                if reply.code == 150 {
                    // The former address holds still: it was the client's own.
                    scene.client.reply().expect(226);
                }
            },
        ),
        case(
            "a file of commands sent to the server's own control port",
            |scene| {
                scene.server.write("mine", "NOOP\r\nQUIT\r\n");
                scene
                    .client
                    .expect(port_command(scene.server.address()), 200);
                scene.client.command("RETR mine").expect(150);
                scene.client.reply().expect_one_of(&[226, 425, 426]);
            },
        ),
        case(
            "strangers knock at the passive port before the client",
            |scene| {
                let address = scene.client.epsv_address();
                for _ in 0..50 {
                    assert!(is_closed(stranger(address)));
                }
                let data = data_connection(address);
                let (bytes, reply) = scene.client.download_over(data, "RETR file");
                reply.expect(226);
                assert_eq!(bytes, b"inside");
            },
        ),
        case(
            "strangers knock while the server waits for the client",
            |scene| {
                let address = scene.client.epsv_address();
                scene.client.send("STOR new");
                scene.client.reply().expect(150);
                for n in 0..50 {
                    let stranger = stranger(address);
                    throw(&stranger, b"hostile");
                    if n % 2 == 0 {
                        reset(stranger);
                    } else {
                        assert!(is_closed(stranger));
                    }
                }
                let mut data = data_connection(address);
                data.write_all(b"mine").unwrap();
                drop(data);
                scene.client.reply().expect(226);
                assert_eq!(scene.server.read("new"), b"mine");
            },
        ),
        case(
            "who comes after the client finds the door closed",
            |scene| {
                scene.server.write("mine", noise(4 << 20));
                let address = scene.client.epsv_address();
                let mut data = data_connection(address);
                scene.client.expect("RETR mine", 150);
                assert!(TcpStream::connect(address).is_err(), "two data connections");
                let mut bytes = Vec::new();
                data.read_to_end(&mut bytes).unwrap();
                assert!(bytes == noise(4 << 20));
                scene.client.reply().expect(226);
            },
        ),
        case(
            "one session's passive port is of no use to another",
            |scene| {
                let mut other = scene.server.client();
                let (mine, theirs) = (scene.client.epsv_address(), other.epsv_address());
                assert_ne!(mine.port(), theirs.port());
                let data = data_connection(mine);
                // What the other asks for goes where the other has agreed upon.
                other.expect("RETR file", 150);
                let (bytes, reply) = scene.client.download_over(data, "NLST empty");
                reply.expect(226);
                assert!(bytes.is_empty());
                let (mut data, mut bytes) = (data_connection(theirs), Vec::new());
                data.read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, b"inside");
                other.reply().expect(226);
            },
        ),
        case("a passive port is closed with what opened it", |scene| {
            for line in ["PORT 127,0,0,1,255,254", "ABOR", "EPSV", "REIN"] {
                let address = scene.client.epsv_address();
                scene
                    .client
                    .command(line)
                    .expect_one_of(&[200, 220, 226, 229]);
                let refused = TcpStream::connect(address).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{line}");
            }
            scene.renew();
        }),
        case(
            "a client that connects from another of its addresses is a stranger",
            |scene| {
                let mut client = scene.server.connect_from("127.0.0.2".parse().unwrap());
                client.login();
                let address = client.epsv_address();
                assert!(is_closed(data_connection(address)));
                let data = stranger(address);
                let (bytes, reply) = client.download_over(data, "RETR file");
                reply.expect(226);
                assert_eq!(bytes, b"inside");
            },
        ),
        case(
            "an active connection that is taken and never answered",
            |scene| {
                let listener = scene.client.port();
                scene.client.expect("STOR new", 150);
                let (data, _) = listener.accept().unwrap();
                scene.client.send("ABOR");
                scene.client.reply().expect(426);
                scene.client.reply().expect(226);
                drop(data);
                assert!(!scene.server.exists("new"));
            },
        ),
    ]);
    cases
}
