//! Those who wear the server down: silent crowds, who comes from where, floods of commands, costly listings, strangers on data
//! ports.

mod common;

use common::secure::{Secure, client_config};
use common::{PATIENCE, Server, connect_from};
use rustls::version::TLS13;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One of many addresses of loopback.
fn address(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// A connection that says nothing, from one of many addresses.
fn silent(server: &Server, number: usize) -> TcpStream {
    connect_from(SocketAddr::from((address(number), 0)), server.address())
}

/// How many connections a test may hold by the limit on open files of this host.
fn as_many_as(wanted: usize) -> usize {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .expect("every process has limits");
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard);
    wanted.min(
        usize::try_from(hard)
            .unwrap_or(usize::MAX)
            .saturating_sub(200),
    )
}

#[test]
fn five_thousand_connections_that_never_speak_keep_nobody_out() {
    let server = Server::start();
    if !server.counts_descriptors() {
        return;
    }
    let count = as_many_as(5000);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            let crowd: Vec<TcpStream> = (0..count).map(|n| silent(&server, n / 25)).collect();
            over.store(true, Ordering::SeqCst);
            crowd
        });
        // While they come, and when they are all there.
        let mut logins = 0;
        while !over.load(Ordering::SeqCst) || logins < 3 {
            server.client().expect("NOOP", 200);
            logins += 1;
        }
        let crowd = crowd.join().unwrap();
        assert_eq!(crowd.len(), count);
        server.client().stor("file", b"still served");
        assert!(
            server.descriptors() < 200 && server.threads() < 60,
            "{} descriptors, {} threads",
            server.descriptors(),
            server.threads()
        );
        // The latest are still waited for.
        let mut greeting = [0; 4];
        (&crowd[count - 1]).read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 ");
    });
    assert!(
        server
            .wait_for_log("setting: sessions_before_login")
            .contains("refused")
    );
}

#[test]
fn a_crowd_that_speaks_but_never_logs_in_keeps_nobody_out() {
    let server = Server::start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            let mut crowd = Vec::new();
            for number in 0..as_many_as(1500) {
                let mut stream = silent(&server, number / 25);
                let _ = stream.write_all(b"USER nobody\r\n");
                crowd.push(stream);
            }
            over.store(true, Ordering::SeqCst);
            crowd
        });
        let mut logins = 0;
        while !over.load(Ordering::SeqCst) || logins < 3 {
            server.client().expect("NOOP", 200);
            logins += 1;
        }
        assert!(server.threads() < 150, "{} threads", server.threads());
        drop(crowd.join().unwrap());
    });
}

#[test]
fn the_longest_silent_gives_way_and_hears_why() {
    let server = Server::build()
        .configuration("sessions_before_login = 2\n")
        .with_flag_user()
        .start();
    let mut first = server.connect();
    let mut second = server.connect();
    let mut third = server.connect();
    first.reply().expect(421).says("without a login");
    first.expect_end();
    third.login();
    second.login();
}

#[test]
fn the_silent_of_an_address_keep_nobody_out_who_comes_from_there() {
    let server = Server::build()
        .configuration("sessions_per_ip = 3\n")
        .with_flag_user()
        .start();
    let mut logged_in = server.client();
    let mut silent: Vec<_> = (0..6).map(|_| server.connect()).collect();
    for first in &mut silent[..4] {
        first.reply().expect(421).says("from your address");
        first.expect_end();
    }
    // Who has said something keeps the place.
    let mut talks = silent.pop().unwrap();
    talks.expect("NOOP", 200);
    let mut third = server.client();
    silent.pop().unwrap().reply().expect(421);
    let mut fourth = common::Client::connect(server.address());
    fourth.reply().expect(421).says("from your address");
    for client in [&mut logged_in, &mut talks, &mut third] {
        client.expect("NOOP", 200);
    }
}

/// Fails unless there are a few lines of this kind: one, and one more where it took longer than they are kept back for.
#[track_caller]
fn few_lines(server: &Server, kind: &str) {
    server.wait_for_log(kind);
    let log = server.log_text();
    let lines = log.lines().filter(|line| line.contains(kind)).count();
    assert!(
        (1..10).contains(&lines),
        "{lines} lines of {kind:?}:\n{log}"
    );
}

#[test]
fn refusals_of_any_kind_are_no_flood_of_the_log() {
    let server = Server::build()
        .configuration("sessions = 4\nsessions_per_ip = 2\nban_after = 1\nban_loopback = true\n")
        .with_flag_user()
        .start();
    let log_in = |last: u8| {
        let mut client = server.connect_from(Ipv4Addr::new(127, 0, 0, last));
        client.login();
        client
    };
    let flood = |last: u8, kind: &str| {
        for _ in 0..20 {
            let from = Ipv4Addr::new(127, 0, 0, last).into();
            let mut refused = common::Client::connect_from(from, server.address());
            refused.reply().expect(421).says(kind);
        }
        few_lines(&server, kind);
    };
    let _first = [log_in(1), log_in(1)];
    flood(1, "Too many sessions from your address");
    let mut guesses = server.connect_from(Ipv4Addr::new(127, 0, 0, 5));
    guesses.login_as("nobody", "wrong").expect(421);
    guesses.expect_end();
    flood(5, "Too many failed logins from your address");
    let _second = [log_in(2), log_in(3)];
    flood(4, "Too many sessions: the limit is 4");
}

#[test]
fn the_silent_whose_time_is_over_are_no_flood_of_the_log() {
    let server = Server::build()
        .configuration("[timeouts]\nlogin = 1\n")
        .with_flag_user()
        .start();
    let mut silent: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut silent {
        client.reply().expect(421).says("login timeout");
    }
    few_lines(&server, "Login timeout");
}

#[test]
fn who_speaks_but_does_not_log_in_gives_way_too() {
    let server = Server::build()
        .configuration("sessions_before_login = 2\n")
        .with_flag_user()
        .start();
    let talk = || {
        let mut client = server.connect();
        client.expect("NOOP", 200);
        client
    };
    let mut logged_in = server.client();
    let mut first = talk();
    let mut second = talk();
    let third = talk();
    first.reply().expect(421).says("without a login");
    first.expect_end();
    // Whoever has logged in stays, however many come.
    logged_in.expect("NOOP", 200);
    second.login();
    drop(third);
}

#[test]
fn who_has_agreed_on_tls_gives_way_without_a_word_in_the_clear() {
    let server = Server::build()
        .configuration("sessions_before_login = 1\n")
        .with_flag_user()
        .start();
    let mut agreed = server.connect();
    agreed.expect("AUTH TLS", 234);
    let mut encrypted = Secure::explicit(&server, client_config(&TLS13));
    encrypted.expect("NOOP", 200);
    agreed.expect_end();
    // In the clear again, it can be told.
    encrypted.login();
    encrypted.expect("REIN", 220);
    let mut clear = encrypted.into_clear();
    clear.expect("NOOP", 200);
    let mut last = server.connect();
    last.expect("NOOP", 200);
    clear.reply().expect(421).says("without a login");
    clear.expect_end();
}

#[test]
fn a_silent_connection_costs_no_thread_and_next_to_no_memory() {
    let server = Server::build()
        .configuration("sessions = 2000\nsessions_before_login = 1000\n")
        .with_flag_user()
        .start();
    server.client();
    let crowd = |count: usize| -> Vec<TcpStream> {
        let crowd: Vec<_> = (0..count).map(|n| silent(&server, n / 25)).collect();
        for stream in &crowd {
            let mut greeting = [0; 4];
            (&mut &*stream).read_exact(&mut greeting).unwrap();
        }
        crowd
    };
    let (threads, before) = (server.threads(), server.resident_bytes());
    let silent = crowd(as_many_as(1000));
    let each = server.resident_bytes().saturating_sub(before) / silent.len() as u64;
    eprintln!("a silent connection costs {each} bytes");
    assert!(each < 4096, "{each} bytes");
    assert!(server.threads() <= threads, "{} threads", server.threads());
}

#[test]
fn the_time_for_the_login_is_one_for_all_of_it() {
    let server = Server::build()
        .configuration("[timeouts]\nlogin = 2\n")
        .with_flag_user()
        .start();
    // A handshake that never goes on has no time of its own.
    let mut client = server.connect();
    std::thread::sleep(Duration::from_millis(1000));
    client.expect("AUTH TLS", 234);
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    client.expect_end();
    server.wait_for_log("no TLS");
}

#[test]
fn the_server_says_goodbye_to_the_silent() {
    let server = Server::start();
    let mut client = server.connect();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    client.reply().expect(421).says("shutting down");
    client.expect_end();
    assert!(server.wait().success());
}

#[test]
fn the_server_sleeps_while_nobody_is_silent() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("QUIT", 221);
    let before = server.context_switches();
    std::thread::sleep(Duration::from_millis(1500));
    let after = server.context_switches();
    for (thread, count) in &before {
        let more = after.get(thread).unwrap_or(count) - count;
        assert!(more <= 1, "thread {thread} woke {more} times");
    }
}

// ---- before the login

#[test]
fn a_flood_of_commands_before_the_login_is_slowed_down_and_ended() {
    let server = Server::build()
        .configuration("commands_before_login = 1\n[timeouts]\nlogin = \"60s\"\n")
        .with_flag_user()
        .start();
    let mut client = server.connect();
    client.send_raw(b"NOOP\r\n".repeat(100));
    let begun = std::time::Instant::now();
    let mut answered = 0;
    let last = loop {
        let reply = client.reply();
        if reply.code != 200 {
            break reply;
        }
        answered += 1;
    };
    last.expect(421).says("too many commands");
    client.expect_end();
    // Five at once, ten that waited, and as many as that time allows.
    assert!((15..60).contains(&answered), "{answered} were answered");
    assert!(begun.elapsed() > Duration::from_secs(3));
    server.wait_for_log("setting: commands_before_login");
    // Who is slower is not concerned, and who has logged in may say what they like.
    let mut client = server.client();
    for _ in 0..200 {
        client.expect("NOOP", 200);
    }
}

#[test]
fn what_clients_say_before_their_login_is_answered_at_once() {
    let server = Server::start();
    let mut client = server.connect();
    let begun = std::time::Instant::now();
    for _ in 0..8 {
        for command in [
            "FEAT",
            "SYST",
            "NOOP",
            "OPTS UTF8 ON",
            "CLNT x",
            "PWD",
            "HELP",
        ] {
            client.command(command);
        }
    }
    client.login();
    assert!(begun.elapsed() < common::PATIENCE);
}

// ---- costly commands

fn with_few_names() -> Server {
    let server = Server::build()
        .configuration("names_per_command = 50\n")
        .with_flag_user()
        .start();
    for directory in 0..10 {
        for file in 0..10 {
            server.write(format!("d{directory}/f{file}"), "");
        }
    }
    server
}

#[test]
fn a_pattern_that_would_look_at_too_many_names_is_refused() {
    let server = with_few_names();
    let mut client = server.client();
    for command in ["NLST */*", "LIST d*/f*", "STAT */?1"] {
        let _data = client.epsv();
        client.expect(command, 550).says("more than 50 names");
    }
    server.wait_for_log("setting: names_per_command");
    assert_eq!(client.list("NLST d1/*").len(), 10);
}

#[test]
fn a_recursive_listing_is_cut_off_and_says_so() {
    let server = with_few_names();
    let mut client = server.client();
    let (bytes, reply) = client.download("LIST -R");
    reply.expect(451).says("after 50 names");
    let text = String::from_utf8(bytes).unwrap();
    let names = text.lines().filter(|line| line.starts_with(['-', 'd']));
    assert_eq!(names.filter(|line| !line.ends_with(':')).count(), 50);
    // A single directory may be as large as it likes.
    for file in 0..100 {
        server.write(format!("large/{file}"), "");
    }
    assert_eq!(client.list("NLST large").len(), 100);
    client.expect("STAT -R", 212).says("after 50 names");
}

#[test]
fn a_bomb_of_stars_is_answered_in_time() {
    let server = Server::start();
    server.write("a".repeat(200), "");
    let mut client = server.client();
    let _data = client.epsv();
    let pattern = format!("NLST {}b", "*a".repeat(200));
    client.command(pattern);
    client.expect("NOOP", 200);
}

#[test]
fn a_chain_of_links_and_a_path_too_long_are_answered_and_end_nothing() {
    let server = Server::start();
    server.write("file", "whole");
    let mut target = "file".to_owned();
    for n in 0..100 {
        let name = format!("l{n}");
        std::os::unix::fs::symlink(&target, server.path(&name)).unwrap();
        target = name;
    }
    std::os::unix::fs::symlink("self", server.path("self")).unwrap();
    let mut client = server.client();
    assert_eq!(client.retr("l30"), b"whole");
    for name in ["l99", "self"] {
        let _data = client.epsv();
        client.expect(format!("RETR {name}"), 550);
    }
    let long = "a/".repeat(2500);
    for verb in ["CWD", "SIZE", "MKD", "DELE"] {
        client
            .command(format!("{verb} {long}"))
            .expect_one_of(&[500, 501, 550, 553]);
    }
    client
        .command(format!("MKD {}", "n".repeat(256)))
        .expect_one_of(&[550, 553]);
    client.expect("NOOP", 200);
}

// ---- data ports

#[test]
fn a_session_holds_one_passive_port_and_no_more() {
    let server = Server::start();
    if !server.counts_descriptors() {
        return;
    }
    let mut client = server.client();
    client.epsv_address();
    let before = server.descriptors();
    let mut earlier = Vec::new();
    for _ in 0..50 {
        earlier.push(client.epsv_address());
        earlier.push(client.pasv_address());
    }
    assert!(server.descriptors() <= before, "ports are left behind");
    let last = earlier.pop().unwrap();
    for address in earlier.iter().filter(|address| **address != last) {
        assert!(TcpStream::connect(address).is_err(), "{address} is open");
    }
}

#[test]
fn a_crowd_of_strangers_on_the_passive_port_takes_nothing_from_the_client() {
    let server = Server::start();
    if !server.counts_descriptors() {
        return;
    }
    let contents = common::noise(100_000);
    server.write("file", &contents);
    let mut client = server.client();
    for round in 0..3 {
        let port = client.epsv_address();
        // More than the kernel queues for one port, before the client comes.
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for crowd in 0..4 {
                let over = &over;
                scope.spawn(move || {
                    let mut number = crowd * 1000;
                    let mut met = 0;
                    while !over.load(Ordering::SeqCst) {
                        number += 1;
                        met += usize::from(stranger(number, port));
                    }
                    // They did come; afterwards the port is closed to all.
                    assert!(met > 0, "nobody of crowd {crowd} got through");
                });
            }
            std::thread::sleep(Duration::from_millis(200));
            let data = common::data_connection(port);
            let (got, reply) = client.download_over(data, "RETR file");
            over.store(true, Ordering::SeqCst);
            reply.expect(226);
            common::assert_same_bytes(&got, &contents);
        });
        client.expect("NOOP", 200);
        assert!(server.descriptors() < 60, "round {round}");
    }
    server.wait_for_log("a connection from 127.1.");
}

#[test]
fn strangers_do_not_keep_a_session_waiting_for_its_data_connection_for_ever() {
    let server = Server::build()
        .configuration("[timeouts]\ndata_connect = 1\n")
        .with_flag_user()
        .start();
    server.write("file", "x");
    let mut client = server.client();
    let port = client.epsv_address();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for crowd in 0..4 {
            let over = &over;
            scope.spawn(move || {
                let mut number = crowd * 1000;
                while !over.load(Ordering::SeqCst) {
                    number += 1;
                    stranger(number, port);
                }
            });
        }
        client.expect("RETR file", 150);
        let reply = client.reply();
        over.store(true, Ordering::SeqCst);
        reply.expect(425);
    });
    client.expect("NOOP", 200);
}

/// Comes from one of many addresses and is sent away with nothing; false when the port is closed already.
fn stranger(number: usize, port: SocketAddr) -> bool {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
    };
    use std::os::fd::AsRawFd as _;
    let from = SockaddrStorage::from(SocketAddr::from((address(number), 0)));
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(fd.as_raw_fd(), &from).unwrap();
    if connect(fd.as_raw_fd(), &SockaddrStorage::from(port)).is_err() {
        return false;
    }
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    assert!(got.is_empty(), "a stranger got {} bytes", got.len());
    true
}
