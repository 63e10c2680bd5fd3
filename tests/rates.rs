//! Bandwidth: what the server, a user and a session may move a second, and the client that is too slow to be waited for.
//! Lower bounds only: the machine may be as slow as it likes.

mod common;

use common::secure::{Secure, VERSIONS, client_config};
use common::{PASSWORD, Server, USER, assert_same_bytes, noise};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// What a MiB takes at a MiB a second, less what may flow ahead.
const A_SECOND: Duration = Duration::from_millis(700);

fn server(configuration: &str) -> Server {
    Server::build()
        .configuration(configuration)
        .with_flag_user()
        .start()
}

fn takes<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}

#[test]
fn a_session_downloads_no_faster_than_it_may() {
    let server = server("session_rate_down = \"1MiB\"\n");
    let contents = noise(MIB);
    server.write("file", &contents);
    let mut client = server.client();
    let (got, time) = takes(|| client.retr("file"));
    assert_same_bytes(&got, &contents);
    assert!(time > A_SECOND, "{time:?}");
    // Other ways to read a file are not faster.
    client.expect("TYPE A", 200);
    let (_, time) = takes(|| client.retr("file"));
    assert!(time > A_SECOND, "{time:?}");
    // The other direction is not concerned.
    client.expect("TYPE I", 200);
    client.stor("other", &contents);
}

#[test]
fn a_session_uploads_no_faster_than_it_may() {
    let server = server("session_rate_up = \"1MiB\"\n");
    let contents = noise(MIB);
    let mut client = server.client();
    let ((), time) = takes(|| client.stor("file", &contents));
    assert_same_bytes(&server.read("file"), &contents);
    assert!(time > A_SECOND, "{time:?}");
}

#[test]
fn the_sessions_of_a_user_share_its_rate() {
    let hash = thriftpd::accounts::Password::from_clear(PASSWORD).unwrap();
    let server = Server::build()
        .configuration(&format!(
            "[[user]]\nname = \"{USER}\"\npassword = \"{}\"\nroot = \"{{root}}\"\nrate_down = \"1MiB\"\n",
            hash.to_phc()
        ))
        .start();
    two_downloads_take_a_second(&server);
}

#[test]
fn all_sessions_share_the_rate_of_the_server() {
    two_downloads_take_a_second(&server("rate_down = \"1MiB\"\n"));
}

fn two_downloads_take_a_second(server: &Server) {
    let contents = noise(MIB / 2);
    server.write("file", &contents);
    let mut clients = [server.client(), server.client()];
    let (_, time) = takes(|| {
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| assert_same_bytes(&client.retr("file"), &contents));
            }
        });
    });
    assert!(time > A_SECOND, "{time:?}");
}

#[test]
fn encrypted_transfers_keep_to_the_rate_too() {
    let server = server("session_rate_down = \"1MiB\"\nsession_rate_up = \"1MiB\"\n");
    let contents = noise(MIB);
    for version in VERSIONS {
        let mut client = Secure::client(&server, client_config(version));
        let (reply, time) = takes(|| client.upload("STOR file", &contents));
        reply.expect(226);
        assert_same_bytes(&server.read("file"), &contents);
        assert!(time > A_SECOND, "up: {time:?}");
        let ((got, reply), time) = takes(|| client.download("RETR file"));
        reply.expect(226);
        assert_same_bytes(&got, &contents);
        assert!(time > A_SECOND, "down: {time:?}");
    }
}

#[test]
fn a_transfer_that_waits_for_its_rate_can_be_asked_for_and_aborted() {
    let server = server("session_rate_down = \"10KB\"\nsession_rate_up = \"10KB\"\n");
    server.write("file", noise(10 * MIB));
    let mut client = server.client();
    for command in ["RETR file", "STOR other"] {
        let mut data = client.epsv();
        client.expect(command, 150);
        if command.starts_with("STOR") {
            data.write_all(&noise(64 * 1024)).unwrap();
        } else {
            data.read_exact(&mut [0; 1000]).unwrap();
        }
        client.expect("STAT", 211).says("so far");
        client.expect("NOOP", 200);
        client.expect("ABOR", 426);
        client.reply().expect(226);
        drop(data);
    }
    client.expect("NOOP", 200);
}

#[test]
fn a_session_with_a_rate_sleeps_while_nothing_flows() {
    let server = server("session_rate_down = \"1MiB\"\nrate_down = \"1MiB\"\n");
    server.write("file", noise(1000));
    let mut client = server.client();
    client.retr("file");
    std::thread::sleep(Duration::from_millis(200));
    let before = server.context_switches();
    std::thread::sleep(Duration::from_millis(1500));
    let after = server.context_switches();
    for (thread, count) in &before {
        let more = after.get(thread).unwrap_or(count) - count;
        assert!(more <= 1, "thread {thread} woke {more} times");
    }
}

/// A byte now and then, until the server has enough of it.
fn dribble(server: &Server, enough: Duration) -> u16 {
    let mut client = server.client();
    let mut data = client.epsv();
    client.expect("STOR file", 150);
    let begun = Instant::now();
    while begun.elapsed() < enough && !client.has_reply_waiting() {
        let _ = data.write_all(b"x");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(data);
    client.reply().code
}

const SLOW: &str = "min_rate = \"10KB\"\n[timeouts]\nslow = \"1s\"\n";

#[test]
fn a_byte_now_and_then_is_not_enough_while_others_need_the_place() {
    let server = server(&format!("sessions = 3\n{SLOW}"));
    let _other = server.client();
    assert_eq!(dribble(&server, common::PATIENCE), 426);
    server.wait_for_log("too slow (setting: min_rate)");
    assert!(!server.exists("file"));
}

#[test]
fn a_download_that_is_not_read_is_too_slow_as_well() {
    let server = server(&format!("sessions = 1\n{SLOW}"));
    server.write("file", noise(32 * MIB));
    let mut client = server.client();
    let data = client.epsv();
    client.expect("RETR file", 150);
    client.reply().expect(426).says("too slow");
    drop(data);
}

#[test]
fn while_there_is_room_the_slow_are_waited_for() {
    let server = server(SLOW);
    assert_eq!(dribble(&server, Duration::from_millis(2500)), 226);
}

#[test]
fn who_is_slow_because_of_our_own_limit_is_not_too_slow() {
    let server = server(&format!("sessions = 1\nsession_rate_up = \"20KB\"\n{SLOW}"));
    let contents = noise(60_000);
    let mut client = server.client();
    client.stor("file", &contents);
    assert_same_bytes(&server.read("file"), &contents);
}
