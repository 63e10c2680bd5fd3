//! Data connections to and from where they do not belong. 127.0.0.2 is the foreign host.

use crate::common::{connect_from, data_connection, noise, port_command, reset};
use crate::scene::{Case, case, throw};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

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
