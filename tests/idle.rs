//! Waiting costs nothing: no thread of the server wakes while its clients say nothing, and what a crowd took is given back.

mod common;

use std::time::{Duration, Instant};

use common::secure::{Secure, client_config};
use common::{Server, eventually};

#[test]
fn fifty_idle_sessions_wake_nobody() {
    nobody_wakes(Server::client);
}

#[test]
fn nor_do_fifty_encrypted_ones() {
    nobody_wakes(|server| Secure::client(server, client_config(&rustls::version::TLS13)));
}

#[test]
fn nor_do_lines_of_the_log_that_were_counted_and_told() {
    let refused_often = |server: &Server| {
        let mut client = server.client();
        for number in 0..4 {
            client.expect(format!("ALLO {}", u64::MAX - number), 552);
        }
        client
    };
    nobody_wakes_after(refused_often, |server| {
        server.wait_for_log("more such lines from 127.0.0.1");
    });
}

fn nobody_wakes<C>(connect: impl Fn(&Server) -> C) {
    nobody_wakes_after(connect, |_| {});
}

fn nobody_wakes_after<C>(connect: impl Fn(&Server) -> C, settled: impl Fn(&Server)) {
    let server = Server::build()
        .arguments(&["--sessions-per-ip", "60"])
        .start();
    let clients: Vec<_> = (0..50).map(|_| connect(&server)).collect();
    settled(&server);
    // What the logins left behind settles: the acceptor goes back to sleep.
    std::thread::sleep(Duration::from_millis(500));
    let before = server.context_switches();
    assert!(
        before.len() >= 51,
        "a thread for each session and the acceptor: {before:?}"
    );
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(server.context_switches(), before);
    drop(clients);
}

#[test]
fn memory_is_given_back_behind_a_crowd() {
    let server = Server::build()
        .anonymous("")
        .arguments(&["--sessions", "400", "--sessions-per-ip", "400"])
        .start();
    drop(server.visitor());
    let before = server.anonymous_bytes();
    let crowd: Vec<_> = (0..300)
        .map(|_| {
            let mut client = server.visitor();
            client.expect("STAT", 211);
            client
        })
        .collect();
    let taken = server.anonymous_bytes() - before;
    drop(crowd);
    // The workers retire when they have waited in vain.
    let threads = || server.threads();
    let deadline = Instant::now() + Duration::from_secs(90);
    while threads() > 10 {
        assert!(Instant::now() < deadline, "{} threads are left", threads());
        std::thread::sleep(Duration::from_millis(200));
    }
    // The last of them gives back what all have taken; stacks that the C library keeps for others are the rest.
    eventually("memory is given back", || {
        let left = server.anonymous_bytes().saturating_sub(before);
        eprintln!("{left} of {taken} bytes are left");
        left < taken / 4
    });
}
