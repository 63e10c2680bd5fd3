//! PORT, PASV, EPRT, EPSV (RFC 959 §3.2, RFC 2428, RFC 1579): which peer a data connection is with, and how long.

mod common;

use common::{Client, Server, connect_from, data_connection, eventually, port_command};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Whether the peer has closed its end, in order or by a reset, and sent nothing.
fn is_closed(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 64]), Ok(1..))
}

#[track_caller]
fn fetches(client: &mut Client, data: TcpStream) {
    let (bytes, reply) = client.download_over(data, "RETR file");
    reply.expect(226);
    assert_eq!(bytes, b"content");
}

fn server_with_a_file() -> Server {
    let server = Server::start();
    server.write("file", "content");
    server
}

#[test]
fn pasv_and_epsv_carry_a_transfer_each() {
    let server = server_with_a_file();
    let mut client = server.client();
    let data = client.pasv();
    fetches(&mut client, data);
    let data = client.epsv();
    fetches(&mut client, data);
}

#[test]
fn epsv_takes_the_protocol_of_the_control_connection() {
    let server = server_with_a_file();
    let mut client = server.client();
    client.expect("EPSV 1", 229);
    client.command("EPSV 2").expect_one_of(&[229, 522]);
    client.expect("EPSV 3", 522);
    client.command("EPSV x").expect_one_of(&[501, 522]);
}

#[test]
fn pasv_names_the_address_of_the_control_connection() {
    let server = server_with_a_file();
    let mut client = server.client();
    assert_eq!(client.pasv_address().ip().to_string(), "127.0.0.1");
}

#[test]
fn passive_ports_come_from_the_range() {
    let server = Server::start();
    let mut client = server.client();
    for _ in 0..20 {
        let port = client.pasv_address().port();
        assert!((50_000..=50_999).contains(&port), "{port}");
    }
    let server = Server::build()
        .arguments(&["--passive-ports", "51000-51009"])
        .start();
    let mut client = server.client();
    for _ in 0..20 {
        let port = client.epsv_address().port();
        assert!((51_000..=51_009).contains(&port), "{port}");
    }
}

#[test]
fn passive_ports_are_random() {
    let server = Server::start();
    let mut client = server.client();
    let ports: Vec<_> = (0..10).map(|_| client.pasv_address().port()).collect();
    let steps: std::collections::HashSet<_> = ports
        .windows(2)
        .map(|pair| i32::from(pair[1]) - i32::from(pair[0]))
        .collect();
    assert!(steps.len() > 3, "{ports:?}");
}

#[test]
fn port_and_eprt_carry_a_transfer_each() {
    let server = server_with_a_file();
    let mut client = server.client();
    for extended in [false, true] {
        let listener = if extended {
            client.eprt()
        } else {
            client.port()
        };
        client.send("RETR file");
        let (mut data, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.1");
        client.reply().expect_one_of(&[125, 150]);
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).unwrap();
        client.reply().expect(226);
        assert_eq!(bytes, b"content");
    }
}

#[test]
fn active_mode_stores_too() {
    let server = Server::start();
    let mut client = server.client();
    let listener = client.port();
    client.send("STOR up");
    let (mut data, _) = listener.accept().unwrap();
    client.reply().expect_one_of(&[125, 150]);
    data.write_all(b"active").unwrap();
    drop(data);
    client.reply().expect(226);
    assert_eq!(server.read("up"), b"active");
}

#[test]
fn active_mode_never_goes_to_another_address() {
    let server = server_with_a_file();
    let bystander = TcpListener::bind("127.0.0.2:0").unwrap();
    bystander.set_nonblocking(true).unwrap();
    let address = bystander.local_addr().unwrap();
    let mut client = server.client();
    client
        .command(port_command(address))
        .expect_one_of(&[500, 501, 504, 550]);
    client
        .command(format!("EPRT |1|127.0.0.2|{}|", address.port()))
        .expect_one_of(&[500, 501, 504, 550]);
    client.expect("RETR file", 425);
    assert!(
        bystander.accept().is_err(),
        "the server connected to a bystander"
    );
    // A client at that address may.
    let mut client = server.connect_from("127.0.0.2".parse().unwrap());
    client.login();
    client.expect(port_command(address), 200);
    let mut owner = server.client();
    owner
        .command(port_command(address))
        .expect_one_of(&[500, 501, 504, 550]);
}

#[test]
fn active_mode_never_goes_to_a_low_port() {
    let server = Server::start();
    let mut client = server.client();
    for port in [0, 1, 25, 1023] {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        client
            .command(port_command(address))
            .expect_one_of(&[500, 501, 504, 550]);
        client
            .command(format!("EPRT |1|127.0.0.1|{port}|"))
            .expect_one_of(&[500, 501, 504, 550]);
    }
}

#[test]
fn a_refused_port_leaves_no_data_connection_to_use() {
    let server = server_with_a_file();
    let mut client = server.client();
    client.epsv_address();
    client
        .command("PORT 127,0,0,2,200,1")
        .expect_one_of(&[500, 501, 504, 550]);
    client.command("PORT 1,2,3").expect(501);
    let data = client.epsv();
    fetches(&mut client, data);
}

#[test]
fn malformed_host_ports_are_501() {
    let server = Server::start();
    let mut client = server.client();
    for bad in [
        "PORT",
        "PORT 127,0,0,1,200",
        "PORT 127,0,0,1,200,1,1",
        "PORT 127,0,0,256,200,1",
        "PORT 127.0.0.1.200.1",
        "PORT a,b,c,d,e,f",
        "PORT 127,0,0,1,-1,1",
        "EPRT",
        "EPRT |1|127.0.0.1|50000",
        "EPRT 1 127.0.0.1 50000",
        "EPRT |1|127.0.0.999|50000|",
        "EPRT |1|127.0.0.1|99999|",
    ] {
        client.expect(bad, 501);
    }
    client.expect("EPRT |9|127.0.0.1|50000|", 522);
}

#[test]
fn a_transfer_without_port_or_pasv_is_425() {
    let server = server_with_a_file();
    let mut client = server.client();
    for command in [
        "RETR file",
        "STOR new",
        "APPE file",
        "STOU",
        "LIST",
        "NLST",
        "MLSD",
    ] {
        client.expect(command, 425);
    }
    assert_eq!(server.read("file"), b"content");
    assert!(!server.exists("new"));
}

#[test]
fn a_passive_port_is_for_one_transfer() {
    let server = server_with_a_file();
    let mut client = server.client();
    let address = client.epsv_address();
    let data = data_connection(address);
    fetches(&mut client, data);
    client.expect("RETR file", 425);
    assert!(
        TcpStream::connect(address).is_err(),
        "the listener is still there"
    );
}

#[test]
fn pasv_again_closes_the_former_listener() {
    let server = server_with_a_file();
    let mut client = server.client();
    let first = client.pasv_address();
    let second = client.epsv_address();
    assert_ne!(first.port(), second.port());
    assert!(
        TcpStream::connect(first).is_err(),
        "the former listener is still there"
    );
    let data = data_connection(second);
    fetches(&mut client, data);
}

#[test]
fn a_thousand_pasvs_leak_nothing() {
    let server = Server::start();
    if !server.counts_descriptors() {
        return;
    }
    let mut client = server.client();
    client.pasv_address();
    let before = server.descriptors();
    for _ in 0..500 {
        client.pasv_address();
        client.epsv_address();
    }
    assert_eq!(server.descriptors(), before);
}

#[test]
fn port_closes_the_passive_listener() {
    let server = Server::start();
    let mut client = server.client();
    let address = client.pasv_address();
    let _listener = client.port();
    assert!(
        TcpStream::connect(address).is_err(),
        "the listener is still there"
    );
}

#[test]
fn the_passive_listener_ends_with_the_session() {
    let server = Server::start();
    let mut client = server.client();
    let address = client.pasv_address();
    client.expect("QUIT", 221);
    client.expect_end();
    eventually("the listener is closed", || {
        TcpStream::connect(address).is_err()
    });
}

#[test]
fn rein_and_abor_leave_no_passive_listener() {
    let server = Server::start();
    let mut client = server.client();
    let address = client.pasv_address();
    client.expect("REIN", 220);
    assert!(
        TcpStream::connect(address).is_err(),
        "the listener is still there"
    );
}

#[test]
fn after_epsv_all_only_epsv_is_heard() {
    let server = server_with_a_file();
    let mut client = server.client();
    client.expect("EPSV ALL", 200);
    for refused in ["PASV", "PORT 127,0,0,1,200,1", "EPRT |1|127.0.0.1|51200|"] {
        client.command(refused).expect_one_of(&[501, 503, 522]);
    }
    let data = client.epsv();
    fetches(&mut client, data);
}

#[test]
fn a_stranger_on_the_passive_port_is_closed_and_does_not_use_up_the_turn() {
    let server = server_with_a_file();
    let mut client = server.client();
    let address = client.pasv_address();
    let stranger = "127.0.0.2:0".parse().unwrap();
    let mut before = connect_from(stranger, address);
    client.send("RETR file");
    assert!(is_closed(&mut before), "the stranger got something");
    let mut after = connect_from(stranger, address);
    assert!(is_closed(&mut after), "the stranger got something");
    let mut data = data_connection(address);
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"content");
    client.reply().expect_one_of(&[125, 150]);
    client.reply().expect(226);
    server.wait_for_log("127.0.0.2");
}

#[test]
fn strangers_are_closed_before_the_command_comes_and_do_not_fill_the_queue() {
    let server = server_with_a_file();
    let mut client = server.client();
    let address = client.pasv_address();
    let stranger = "127.0.0.2:0".parse().unwrap();
    // More than wait in the queue of the kernel at once.
    for _ in 0..300 {
        assert!(is_closed(&mut connect_from(stranger, address)));
    }
    fetches(&mut client, data_connection(address));
}

#[test]
fn a_client_that_connects_from_another_address_hears_so_soon_or_may_do_so() {
    for (keys, code) in [
        ("", 425),
        ("data_from = \"127.0.0.3\"\n", 425),
        ("data_from = [\"10.0.0.0/8\", \"127.0.0.2\"]\n", 226),
    ] {
        let server = Server::build().anonymous(keys).start();
        server.write("file", "content");
        let mut client = server.visitor();
        let address = client.epsv_address();
        let begun = Instant::now();
        let mut data = connect_from("127.0.0.2:0".parse().unwrap(), address);
        client.send("RETR file");
        client.reply().expect(150);
        let mut bytes = Vec::new();
        let _ = data.read_to_end(&mut bytes);
        let reply = client.reply().expect(code);
        assert_eq!(bytes == b"content", code == 226);
        if code == 425 {
            reply.says("127.0.0.2").says("another address");
            // The time for a data connection is 30 seconds.
            assert!(begun.elapsed() < Duration::from_secs(20));
            server.wait_for_log("(setting: data_from of the user)");
        }
        client.expect("NOOP", 200);
    }
}

#[test]
fn a_stranger_cannot_upload_in_the_clients_place() {
    let server = Server::start();
    let mut client = server.client();
    let address = client.pasv_address();
    let mut stranger = connect_from("127.0.0.2:0".parse().unwrap(), address);
    drop(stranger.write_all(b"forged"));
    client.send("STOR file");
    let mut data = data_connection(address);
    data.write_all(b"genuine").unwrap();
    drop(data);
    client.reply().expect_one_of(&[125, 150]);
    client.reply().expect(226);
    assert_eq!(server.read("file"), b"genuine");
}

#[test]
fn a_client_may_connect_after_the_command() {
    let server = server_with_a_file();
    let mut client = server.client();
    let address = client.epsv_address();
    client.send("RETR file");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let mut data = data_connection(address);
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).unwrap();
    client.reply().expect_one_of(&[125, 150]);
    client.reply().expect(226);
    assert_eq!(bytes, b"content");
}

#[test]
fn an_active_port_where_nobody_listens_is_425() {
    let server = server_with_a_file();
    let mut client = server.client();
    let listener = client.port();
    drop(listener);
    client.send("RETR file");
    let mut reply = client.reply();
    if reply.code == 150 {
        reply = client.reply();
    }
    reply.expect(425);
    client.expect("NOOP", 200);
}

#[test]
fn the_other_data_address_replaces_the_first() {
    let server = server_with_a_file();
    let mut client = server.client();
    let first = client.port();
    let second = client.port();
    client.send("RETR file");
    let (mut data, _) = second.accept().unwrap();
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).unwrap();
    client.reply().expect_one_of(&[125, 150]);
    client.reply().expect(226);
    assert_eq!(bytes, b"content");
    first.set_nonblocking(true).unwrap();
    assert!(first.accept().is_err());
}

#[test]
fn sessions_over_ipv6_use_epsv_and_eprt() {
    let server = Server::build().listen("[::1]:0").start();
    server.write("file", "content");
    let mut client = server.client();
    let data = client.epsv();
    fetches(&mut client, data);
    client.expect("EPSV 2", 229);
    let listener = client.eprt();
    client.send("RETR file");
    let (mut data, _) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).unwrap();
    client.reply().expect_one_of(&[125, 150]);
    client.reply().expect(226);
    assert_eq!(bytes, b"content");
    // PASV and PORT can't say an IPv6 address.
    client
        .command("PASV")
        .expect_one_of(&[425, 500, 501, 502, 503, 522]);
    client
        .command("EPRT |1|127.0.0.1|51200|")
        .expect_one_of(&[500, 501, 504, 522, 550]);
}

#[test]
fn several_listeners_serve_the_same_files() {
    let server = Server::build()
        .listen("127.0.0.1:0")
        .listen("[::1]:0")
        .listen("127.0.0.3:0")
        .start();
    server.write("file", "content");
    assert_eq!(server.addresses().len(), 3);
    for &address in server.addresses() {
        let mut client = Client::connect(address);
        client.reply().expect(220);
        client.login();
        client.expect("TYPE I", 200);
        let data = client.epsv();
        fetches(&mut client, data);
    }
}

#[test]
fn pasv_names_the_address_of_a_host_name() {
    let server = Server::build()
        .listen("0.0.0.0:0")
        .configuration("external_address = { \"127.0.0.0/8\" = \"localhost\" }\n")
        .with_flag_user()
        .start();
    let address = SocketAddr::new([127, 0, 0, 5].into(), server.addresses()[0].port());
    let mut client = Client::connect(address);
    client.reply().expect(220);
    client.login();
    eventually("the name is looked up", || {
        let text = client.expect("PASV", 227).text();
        text.contains("(127,0,0,1,") || {
            assert!(text.contains("(127,0,0,5,"), "{text}");
            false
        }
    });
}

#[test]
fn pasv_names_the_address_that_the_clients_network_knows() {
    let server = Server::build()
        .configuration(
            "external_address = { \"127.0.0.0/8\" = \"192.0.2.1\", \"127.0.0.2\" = \"192.0.2.2\", default = \"203.0.113.7\" }\n",
        )
        .with_flag_user()
        .start();
    for (from, told) in [("127.0.0.1", "192,0,2,1"), ("127.0.0.2", "192,0,2,2")] {
        let mut client = server.connect_from(from.parse().unwrap());
        client.login();
        client.expect("PASV", 227).says(&format!("({told},"));
        // EPSV has no address in it, and goes on working.
        client.expect("EPSV", 229);
    }
}
