//! Waiting costs nothing: no thread of the server wakes while its clients say nothing.

mod common;

use std::time::Duration;

use common::Server;

#[test]
fn fifty_idle_sessions_wake_nobody() {
    let server = Server::build()
        .arguments(&["--sessions-per-ip", "60"])
        .start();
    let clients: Vec<_> = (0..50).map(|_| server.client()).collect();
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
