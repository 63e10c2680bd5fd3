//! Networks as they are: cables that are pulled, addresses of one link.

mod common;
#[path = "common/network.rs"]
mod network;

use std::io::Write as _;
use std::net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Client, PASSWORD, Server, USER, noise, run_client, skip};
use network::{Far, HERE, LINK_LOCAL, ip};
use nix::sched::{CloneFlags, unshare};
use thriftpd::os::addresses::with_port;

/// Whatever its session was doing.
#[test]
fn a_client_whose_cable_is_pulled_gives_its_place_back_within_two_minutes() {
    let Some(far) = Far::new() else { return };
    let server = Server::build().listen(&format!("{HERE}:0")).start();
    let address = server.addresses()[0];
    server.write("large", noise(50_000_000));
    let clients = far.run(move || {
        let log_in = || {
            let mut client = Client::connect(address);
            client.reply().expect(220);
            client.login_as(USER, PASSWORD).expect(230);
            client.expect("TYPE I", 200);
            client
        };
        let idle = log_in();
        let mut downloading = log_in();
        let download = downloading.epsv();
        downloading.expect("RETR large", 150);
        let mut uploading = log_in();
        let upload = uploading.begin_upload("STOR file", b"half");
        // The reply comes when nobody can acknowledge it.
        let mut asking = log_in();
        asking.send("XMD5 large");
        (idle, (downloading, download), (uploading, upload), asking)
    });
    far.pull_the_cable();
    let pulled = Instant::now();
    // From here it is reached all the same.
    let mut here = Client::connect(address);
    here.reply().expect(220);
    here.login_as(USER, PASSWORD).expect(230);
    let mut sessions = || {
        here.expect("SITE WHO", 200)
            .text()
            .matches("10.99.0.2")
            .count()
    };
    assert_eq!(sessions(), 4);
    while sessions() > 0 {
        let passed = pulled.elapsed();
        assert!(passed < Duration::from_secs(150), "{} are left", sessions());
        std::thread::sleep(Duration::from_secs(1));
    }
    eprintln!("the last one was gone after {:?}", pulled.elapsed());
    server.wait_for_log("control connection lost");
    drop(clients);
}

#[test]
fn link_local_addresses_carry_transfers_both_ways() {
    let Some(far) = Far::new() else { return };
    let server = Server::build().listen("[::]:0").start();
    server.write("file", "content");
    let port = server.addresses()[0].port();
    far.run(move || {
        let link = nix::net::if_::if_nametoindex("there").unwrap();
        let to = |port| {
            SocketAddr::V6(SocketAddrV6::new(
                LINK_LOCAL.parse().unwrap(),
                port,
                0,
                link,
            ))
        };
        let mut client = Client::connect(to(port));
        client.reply().expect(220);
        client.login_as(USER, PASSWORD).expect(230);
        client.expect("TYPE I", 200);
        for line in ["EPSV", "EPSV 2"] {
            let text = client.expect(line, 229).text();
            let passive = text.split("|||").nth(1).unwrap().split('|').next().unwrap();
            let data = TcpStream::connect(to(passive.parse().unwrap())).unwrap();
            let (bytes, reply) = client.download_over(data, "RETR file");
            reply.expect(226);
            assert_eq!(bytes, b"content");
        }
        let own = client.stream().local_addr().unwrap();
        let listener = TcpListener::bind(with_port(own, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        client.expect(format!("EPRT |2|{}|{port}|", own.ip()), 200);
        client.expect("STOR new", 150);
        let (mut data, _) = listener.accept().unwrap();
        data.write_all(b"by the link").unwrap();
        drop(data);
        client.reply().expect(226);
    });
    assert_eq!(server.read("new"), b"by the link");
}

#[test]
fn an_address_that_is_not_there_yet_is_waited_for() {
    let Some(far) = Far::new() else { return };
    let late = "10.99.0.77";
    let server = Server::build().listen(&format!("{late}:2121")).start();
    server.wait_for_log("no such address yet");
    server.write("file", "content");
    run_client(
        Command::new("ip").args(["addr", "add", "10.99.0.77/24", "dev", "here"]),
        20,
    )
    .succeeded();
    far.run(move || {
        let mut client = Client::connect(format!("{late}:2121").parse().unwrap());
        client.reply().expect(220);
        client.login_as(USER, PASSWORD).expect(230);
        assert_eq!(client.retr("file"), b"content");
    });
}

/// The old address of a client that comes back with a new one, or behind a restart, answers nobody.
#[test]
fn at_its_limit_the_dead_sessions_of_a_network_give_way() {
    let Some(far) = Far::new() else { return };
    ip("addr add fd00:99::1/64 dev here nodad");
    far.run(|| ip("addr add fd00:99::2/64 dev there nodad"));
    let server = Server::build()
        .listen("[fd00:99::1]:0")
        .arguments(&["--sessions-per-ip", "2"])
        .start();
    let address = server.addresses()[0];
    let log_in = move || {
        let mut client = Client::connect(address);
        if client.reply().code != 220 {
            return None;
        }
        client.login_as(USER, PASSWORD).expect(230);
        Some(client)
    };
    let old = far.run(move || [log_in().unwrap(), log_in().unwrap()]);
    // The limit holds while they answer, however quiet they are.
    std::thread::sleep(Duration::from_secs(11));
    for _ in 0..3 {
        assert!(far.run(move || log_in().is_none()));
        std::thread::sleep(Duration::from_secs(1));
    }
    far.run(|| {
        ip("addr add fd00:99::3/64 dev there nodad");
        ip("addr del fd00:99::2/64 dev there");
    });
    // Its first attempt has the old ones asked whether they are there; less than keepalive would need.
    let begun = Instant::now();
    let new = loop {
        if let Some(client) = far.run(log_in) {
            break client;
        }
        let passed = begun.elapsed();
        assert!(
            passed < Duration::from_secs(100),
            "no place after {passed:?}"
        );
        std::thread::sleep(Duration::from_secs(1));
    };
    server.wait_for_log("it does not answer, and");
    drop((old, new));
}

/// What the file of the certificate holds between the lines of PEM.
fn block<'a>(file: &'a str, kind: &str) -> &'a str {
    let (_, rest) = file.split_once(&format!("BEGIN {kind}")).unwrap();
    rest.split_once("END").unwrap().0
}

#[test]
fn a_certificate_from_before_there_was_an_address_is_made_good_once_with_the_same_key() {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        skip(format_args!("no network namespace can be made: {errno}"));
        return;
    }
    ip("link set lo up");
    let server = Server::build().listen("0.0.0.0:0").start();
    let at = |address: &str| format!("{address}:{}", server.port()).parse().unwrap();
    let show = || {
        let mut show = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
        show.args(["cert", "show", "--config"]);
        show.arg(server.home().join("thriftpd.toml"));
        run_client(&mut show, 20).succeeded().text()
    };
    let file = || std::fs::read_to_string(server.home().join("certificate.pem")).unwrap();
    let before = file();
    Client::connect(at("127.0.0.1")).reply().expect(220);
    ip("addr add 10.99.1.9/24 dev lo");
    Client::connect(at("10.99.1.9")).reply().expect(220);
    server.wait_for_log("made before the host had an address; a new one is made for 10.99.1.9");
    let mut client = Client::connect(at("10.99.1.9"));
    client.reply().expect(220);
    client.expect("AUTH TLS", 234);
    let told = server.wait_for_log("new certificate for new connections: SHA-256 ");
    let (_, fingerprint) = told.split_once("SHA-256 ").unwrap();
    let shown = show();
    assert!(shown.contains("10.99.1.9") && shown.contains(fingerprint));
    let after = file();
    assert_eq!(block(&before, "PRIVATE KEY"), block(&after, "PRIVATE KEY"));
    assert_ne!(block(&before, "CERTIFICATE"), block(&after, "CERTIFICATE"));
    // Clients know it now: another address changes nothing.
    ip("addr add 10.99.1.10/24 dev lo");
    Client::connect(at("10.99.1.10")).reply().expect(220);
    let again = server.restart();
    again.wait_for_log(&format!("certificate: SHA-256 {fingerprint}"));
    assert_eq!(file(), after);
}
