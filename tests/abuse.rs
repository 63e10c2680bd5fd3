//! Those who wear the server down: silent crowds, who comes from where, floods of commands, costly listings, strangers on data
//! ports.

mod common;

use common::{PATIENCE, Server, connect_from};
use std::io::Read;
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
    first.expect_end();
    // Whoever has logged in stays, however many come.
    logged_in.expect("NOOP", 200);
    second.login();
    drop(third);
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
