//! Waiting costs nothing: no thread of the server wakes while its clients say nothing.

mod common;

use std::time::Duration;

use common::Server;
use common::secure::{Secure, client_config};

#[test]
fn fifty_idle_sessions_wake_nobody() {
    nobody_wakes(Server::client);
}

#[test]
fn nor_do_fifty_encrypted_ones() {
    nobody_wakes(|server| Secure::client(server, client_config(&rustls::version::TLS13)));
}

fn nobody_wakes<C>(connect: impl Fn(&Server) -> C) {
    let server = Server::build()
        .arguments(&["--sessions-per-ip", "60"])
        .start();
    let clients: Vec<_> = (0..50).map(|_| connect(&server)).collect();
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
