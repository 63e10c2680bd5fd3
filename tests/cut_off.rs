//! What has arrived of an upload goes to its partial, however the transfer ends: the server is stopped while the last bytes
//! and the end come, so that it finds both at once.

mod common;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

use common::secure::{Secure, client_config};
use common::{Client, Server, assert_same_bytes, eventually, noise, reset};
use nix::sys::signal::Signal;
use rustls::version::{TLS12, TLS13};

/// Does something while the server stands still, so that it sees all of it together.
fn while_stopped(server: &Server, act: impl FnOnce()) {
    server.signal(Signal::SIGSTOP);
    eventually("every thread stands still", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        let stats = tasks.flatten().map(|task| task.path().join("stat"));
        let mut stats = stats.filter_map(|stat| fs::read_to_string(stat).ok());
        stats.all(|stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('T'))
        })
    });
    act();
    server.signal(Signal::SIGCONT);
}

/// Bytes in the partial files of the served directory.
fn in_partials(server: &Server) -> u64 {
    let entries = fs::read_dir(server.path("")).unwrap().flatten();
    let partials =
        entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".partial"));
    partials.map(|entry| entry.metadata().unwrap().len()).sum()
}

/// How the client's control connection goes.
const ENDS: [fn(Client); 2] = [|client| client.reset(), |client| drop(client)];

/// The upload goes on where it was cut off, and nothing that had arrived is asked for again.
#[track_caller]
fn is_continued(server: &Server, name: &str, contents: &[u8], arrived: usize) {
    let mut client = server.client();
    // Of the last bytes nothing is told.
    let told = client.command(format!("SIZE {name}"));
    let told: usize = match told.code {
        213 => std::str::from_utf8(told.last()).unwrap().parse().unwrap(),
        _ => 0,
    };
    assert!(
        told <= arrived && arrived - told <= 8192,
        "{told} of {arrived}"
    );
    client.expect(format!("REST {arrived}"), 350);
    let rest = &contents[arrived..];
    client.upload(format!("STOR {name}"), rest).expect(226);
    assert_same_bytes(&server.read(name), contents);
}

/// `before` bytes have been written when the server is stopped; the others wait in its socket.
fn cut_off(
    server: &Server,
    before: usize,
    arrived: usize,
    contents: &[u8],
    mut send: impl FnMut(&[u8]),
    end: impl FnOnce(),
) {
    send(&contents[..before]);
    eventually("the first of it is written", || {
        in_partials(server) == before as u64
    });
    while_stopped(server, || {
        send(&contents[before..arrived]);
        end();
    });
}

#[test]
fn what_waits_in_the_socket_when_the_control_connection_goes_is_kept() {
    let server = Server::start();
    let contents = noise(500_000);
    // The last ones begin beyond the size from which pages are moved, and not copied.
    for (before, arrived) in [
        (0, 50_000),
        (0, 9_000),
        (10_000, 60_000),
        (300_000, 350_000),
    ] {
        for (index, end) in ENDS.iter().enumerate() {
            let name = format!("file-{before}-{arrived}-{index}");
            let mut client = server.client();
            let data = client.epsv();
            client.expect(format!("STOR {name}"), 150);
            let send = |bytes: &[u8]| (&data).write_all(bytes).unwrap();
            cut_off(&server, before, arrived, &contents, send, || end(client));
            eventually("it is in the partial", || {
                in_partials(&server) == arrived as u64
            });
            drop(data);
            server.wait_for_log(&format!("{name} {arrived} bytes"));
            is_continued(&server, &name, &contents, arrived);
        }
    }
}

#[test]
fn what_waits_in_the_socket_when_the_transfer_is_aborted_is_kept() {
    let server = Server::start();
    let contents = noise(100_000);
    let mut client = server.client();
    let data = client.epsv();
    client.expect("STOR file", 150);
    let send = |bytes: &[u8]| (&data).write_all(bytes).unwrap();
    cut_off(&server, 10_000, 60_000, &contents, send, || {
        client.send("ABOR");
    });
    client.reply().expect(426);
    client.reply().expect(226);
    drop(data);
    is_continued(&server, "file", &contents, 60_000);
}

#[test]
fn what_waits_in_an_encrypted_connection_when_the_control_connection_goes_is_kept() {
    let server = Server::start();
    let contents = noise(500_000);
    for version in [&TLS12, &TLS13] {
        for (before, arrived) in [(0, 50_000), (300_000, 350_000)] {
            let name = format!("file-{before}-{:?}", version.version);
            let mut client = Secure::client(&server, client_config(version));
            let mut data = client.open(format!("STOR {name}"));
            let send = |bytes: &[u8]| data.write_all(bytes).unwrap();
            let control: TcpStream = client.stream().try_clone().unwrap();
            cut_off(&server, before, arrived, &contents, send, || {
                drop(client);
                reset(control);
            });
            server.wait_for_log(&format!("{name} {arrived} bytes"));
            is_continued(&server, &name, &contents, arrived);
        }
    }
}

#[test]
fn what_waits_in_the_socket_when_the_server_is_shut_down_is_kept() {
    let server = Server::start();
    let contents = noise(100_000);
    let mut client = server.client();
    let data = client.epsv();
    client.expect("STOR file", 150);
    let send = |bytes: &[u8]| (&data).write_all(bytes).unwrap();
    cut_off(&server, 10_000, 60_000, &contents, send, || {
        // The second one ends what runs.
        server.signal(Signal::SIGTERM);
        server.signal(Signal::SIGINT);
    });
    server.wait();
    is_continued(&server.restart(), "file", &contents, 60_000);
}

#[test]
fn lines_that_wait_in_the_socket_when_the_control_connection_goes_are_converted() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("TYPE A", 200);
    let data = client.epsv();
    client.expect("STOR file", 150);
    (&data).write_all(b"one\r").unwrap();
    eventually("the first of it is written", || in_partials(&server) == 3);
    while_stopped(&server, || {
        (&data).write_all(b"\ntwo\r\nthree").unwrap();
        client.reset();
    });
    let one_line_end_each = b"one\ntwo\nthree".len() as u64;
    eventually("all of it is there", || {
        in_partials(&server) == one_line_end_each
    });
}
