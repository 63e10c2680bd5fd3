//! Too much of everything: commands, garbage, connections, and replies that nobody reads.

use crate::common::{Client, data_connection, eventually, noise, reset};
use crate::scene::{Case, Scene, case, throw};
use std::net::TcpStream;

/// Sends a command many times in one go and counts one reply each, all of these codes.
fn flood(line: &'static str, times: usize, codes: &'static [u16]) -> Case {
    case(format!("{line} {times} times at once"), move |scene| {
        let stream = scene.client.stream().try_clone().unwrap();
        let bytes = format!("{line}\r\n").repeat(times).into_bytes();
        let sender = std::thread::spawn(move || throw(&stream, &bytes));
        for _ in 0..times {
            scene.client.reply().expect_one_of(codes);
        }
        sender.join().unwrap();
        assert!(scene.server.descriptors() < 100);
    })
}

/// Bytes that no client would send, and then nothing: the server ends the session or goes on, and that is all.
fn garbage(name: &'static str, bytes: impl Fn() -> Vec<u8> + 'static) -> Case {
    case(name, move |scene| {
        for logged_in in [false, true] {
            let mut stranger = scene.server.connect();
            if logged_in {
                stranger.login();
            }
            let before = scene.server.resident_bytes();
            let stream = stranger.stream().try_clone().unwrap();
            let bytes = bytes();
            let sender = std::thread::spawn(move || {
                throw(&stream, &bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
            });
            while stranger.reply_or_end().is_some() {}
            sender.join().unwrap();
            let after = scene.server.resident_bytes();
            assert!(
                after < before + (16 << 20),
                "{before} bytes of memory became {after}"
            );
        }
    })
}

pub fn cases() -> Vec<Case> {
    vec![
        flood("NOOP", 50_000, &[200]),
        flood("PASV", 300, &[227]),
        flood("EPSV", 300, &[229]),
        flood("XYZZY", 20_000, &[500]),
        flood("CWD dir/deep/../..", 10_000, &[250]),
        flood("CWD missing", 5_000, &[550]),
        flood("RNFR file", 5_000, &[350]),
        flood("REST 9223372036854775807", 5_000, &[350]),
        flood("REST 0", 1, &[350]),
        flood("ABOR", 10_000, &[226]),
        flood("ALLO 1", 3_000, &[200, 202]),
        flood("FEAT", 1_000, &[211]),
        flood("HELP", 1_000, &[214]),
        flood("STAT /", 300, &[211, 212, 213]),
        flood("LIST", 2_000, &[425]),
        flood("RETR file", 2_000, &[425]),
        flood("STOR new", 2_000, &[425]),
        flood("SITE WHO", 1_000, &[200]),
        flood("PORT 127,0,0,2,9,9", 2_000, &[501]),
        flood("PROT P", 2_000, &[503]),
        garbage("a mebibyte of noise", || noise(1 << 20)),
        garbage("eight mebibytes without a line end", || vec![b'A'; 8 << 20]),
        garbage("empty lines", || b"\r\n".repeat(50_000)),
        garbage("bare line feeds", || vec![b'\n'; 50_000]),
        garbage("bare carriage returns", || vec![b'\r'; 1 << 20]),
        garbage("NULs", || vec![0; 1 << 20]),
        garbage("bytes 255", || vec![255; 1 << 20]),
        garbage("Telnet asking for every option", || {
            (0..200_000)
                .flat_map(|n: u32| [255, 251 + (n % 4) as u8, (n / 4) as u8])
                .collect()
        }),
        garbage("a Telnet subnegotiation without an end", || {
            [&b"\xff\xfa"[..], &[b'x'; 1 << 20]].concat()
        }),
        garbage("an HTTP POST", || {
            [
                &b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"[..],
                b"USER t\r\nPASS pw\r\nDELE file\r\n",
            ]
            .concat()
        }),
        garbage("SSH", || {
            b"SSH-2.0-OpenSSH_9.2\r\n\x00\x00\x05\xdc".to_vec()
        }),
        garbage("SMB", || {
            [&b"\0\0\0\x85\xffSMBr\0\0\0\0\x18"[..], &[0; 200]].concat()
        }),
        garbage("verbs of kibibytes", || {
            [vec![b'V'; 4000], b" x\r\n".to_vec()].concat().repeat(50)
        }),
        garbage("arguments of kibibytes", || {
            [b"CWD ".to_vec(), vec![b'/'; 4000], b"\r\n".to_vec()]
                .concat()
                .repeat(200)
        }),
        case(
            "garbage between commands costs the commands nothing",
            |scene| {
                let mut bytes = Vec::new();
                for n in 0..500 {
                    bytes.extend(
                        format!(
                            "NOOP\r\n{}\u{1}\u{7f}{n}\r\nSIZE file\r\n",
                            "\u{fffd}".repeat(n % 50)
                        )
                        .into_bytes(),
                    );
                }
                let stream = scene.client.stream().try_clone().unwrap();
                let sender = std::thread::spawn(move || throw(&stream, &bytes));
                for _ in 0..500 {
                    scene.client.reply().expect(200);
                    scene.client.reply().expect(500);
                    scene.client.reply().expect(213);
                }
                sender.join().unwrap();
            },
        ),
        case("commands during a transfer", |scene| {
            scene.server.write("mine", noise(4 << 20));
            let mut data = scene.client.epsv();
            scene.client.expect("RETR mine", 150);
            let stream = scene.client.stream().try_clone().unwrap();
            let bytes = b"NOOP\r\nSTAT\r\nSIZE file\r\nGARBAGE \xff\xff\r\n".repeat(500);
            let sender = std::thread::spawn(move || throw(&stream, &bytes));
            let mut got = Vec::new();
            std::io::Read::read_to_end(&mut data, &mut got).unwrap();
            assert!(got == noise(4 << 20));
            let mut codes = std::collections::BTreeMap::new();
            for _ in 0..2001 {
                *codes.entry(scene.client.reply().code).or_insert(0) += 1;
            }
            sender.join().unwrap();
            assert_eq!(
                [codes[&226], codes[&200], codes[&213], codes[&500]],
                [1, 500, 500, 500],
                "{codes:?}"
            );
        }),
        case("urgent data without end", |scene| {
            for _ in 0..2000 {
                scene.client.send_urgent(b'!');
            }
            scene.client.send_raw("\r\n");
            scene.client.reply().expect(500);
        }),
        case("a thousand connections that say nothing and go", |scene| {
            for n in 0..1000 {
                let stream = TcpStream::connect(scene.server.address()).unwrap();
                if n % 2 == 0 {
                    reset(stream);
                }
            }
            scene.client.expect("NOOP", 200);
        }),
        case("a thousand data connections to one port", |scene| {
            let address = scene.client.epsv_address();
            let mut crowd = Vec::new();
            for n in 0..200 {
                // The port closes when the first has come.
                if let Ok(stream) = TcpStream::connect(address) {
                    crowd.push(stream);
                }
                if n % 10 == 9 {
                    crowd.drain(..).for_each(reset);
                }
            }
            drop(crowd);
            scene.client.expect("NOOP", 200);
            assert_eq!(scene.client.retr("file"), b"inside");
        }),
        case("replies that nobody reads", |scene| {
            // The crowds before may be on their way out yet.
            let server = &scene.server;
            eventually("there is a place", || {
                let mut client = Client::connect(server.address());
                client.reply_or_end().is_some_and(|reply| reply.code == 220)
            });
            let ruined = std::mem::replace(&mut scene.client, scene.server.client());
            let stream = ruined.stream().try_clone().unwrap();
            stream
                .set_write_timeout(Some(std::time::Duration::from_secs(1)))
                .unwrap();
            throw(&stream, &b"HELP\r\n".repeat(200_000));
            let memory = scene.server.resident_bytes();
            assert!(memory < 200 << 20, "{memory} bytes of memory");
            ruined.reset();
        }),
        case("uploads of one byte, one after the other", |scene| {
            for n in 0..100 {
                let data = data_connection(scene.client.epsv_address());
                scene
                    .client
                    .upload_over(data, format!("STOR n{}", n % 7), b"x")
                    .expect(226);
            }
        }),
        case("logins one after the other on one connection", |scene| {
            let mut client: Client = scene.server.connect();
            for _ in 0..50 {
                client.login();
                client.expect("REIN", 220);
            }
            Scene::no_secret_in(scene.server.log_text().as_bytes());
        }),
    ]
}
