//! Nobody can have the log written full: lines of one kind about one address are counted, and what others write is there
//! all the same. Nothing is lost but what is told to be.

mod common;

use common::{Client, Server, eventually};
use nix::sys::signal::Signal;
use std::net::Ipv4Addr;

/// Lines that a flood is made of.
const FLOOD: usize = 3000;

fn flooder() -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2)
}

/// Everybody may read, and the usual user may do all.
fn open_to_all() -> Server {
    Server::build()
        .configuration("[anonymous]\nroot = \"{root}\"\naccess = \"read-only\"\n")
        .with_flag_user()
        .start()
}

/// Sends many commands in a row and reads what is answered.
fn pipeline(client: &mut Client, commands: impl Iterator<Item = String>, code: u16) {
    let commands: Vec<String> = commands.collect();
    for some in commands.chunks(100) {
        client.send_raw(some.join("\r\n") + "\r\n");
        for _ in some {
            client.reply().expect(code);
        }
    }
}

fn anonymous_from(server: &Server, from: Ipv4Addr) -> Client {
    let mut client = server.connect_from(from);
    client.login_as("ftp", "x").expect(230);
    client
}

/// How many lines hold the part, those aside that tell how many were counted.
fn lines_with(log: &str, part: &str) -> usize {
    let lines = log.lines().filter(|line| !line.contains(" ... "));
    lines.filter(|line| line.contains(part)).count()
}

/// How many lines are told to have been counted that are like one with this part.
fn counted(log: &str, part: &str) -> usize {
    let lines = log.lines().filter(|line| line.contains(part));
    let numbers = lines.filter_map(|line| {
        let (_, told) = line.split_once(" ... ")?;
        told.split_once(" more such lines")?.0.parse::<usize>().ok()
    });
    numbers.sum()
}

/// What the server has written at its end.
fn whole_log(server: &Server) -> String {
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    server.log_text()
}

#[test]
fn failed_commands_of_an_anonymous_user_are_told_once_and_then_counted_though_nothing_more_comes() {
    let server = open_to_all();
    let mut client = anonymous_from(&server, flooder());
    let lacks = "DELE refused: the account lacks";
    pipeline(&mut client, (0..FLOOD).map(|n| format!("DELE {n}")), 550);
    server.wait_for_log(lacks);
    // Somebody else's line of that kind comes at once.
    let mut other = anonymous_from(&server, Ipv4Addr::new(127, 0, 0, 3));
    other.expect("DELE x", 550);
    server.wait_for_log("ftp@127.0.0.3: DELE refused");
    eventually("all of them are counted", || {
        counted(&server.log_text(), lacks) + lines_with(&server.log_text(), lacks) == FLOOD + 1
    });
    let log = server.log_text();
    assert!(log.lines().count() < 60, "{log}");
    assert!(log.contains("more such lines from 127.0.0.2 in "), "{log}");
}

#[test]
fn connections_that_are_refused_and_logins_that_fail_are_counted_by_address() {
    let server = Server::build()
        .configuration("allow = \"all\"\ndeny = \"127.0.0.2\"\nban_after = 0\n")
        .with_flag_user()
        .start();
    for _ in 0..FLOOD / 10 {
        let mut client = Client::connect_from(flooder().into(), server.address());
        client.reply().expect(421);
    }
    // A password that is wrong is made to wait for; the client does not wait.
    let guesser = Ipv4Addr::new(127, 0, 0, 4);
    let mut first = server.connect_from(guesser);
    first.login_as("t", "wrong").expect(530);
    for _ in 0..30 {
        let mut client = server.connect_from(guesser);
        client.send("USER t\r\nPASS wrong");
        client.reply().expect(331);
        drop(client);
    }
    let failed = "login as t failed";
    let mut victim = server.client();
    victim.stor("kept", b"kept");
    server.wait_for_log("STOR");
    let refused = "refused: Your network is not served";
    let log = whole_log(&server);
    let of_refused = (lines_with(&log, refused), counted(&log, refused));
    assert_eq!(of_refused.0 + of_refused.1, FLOOD / 10, "{log}");
    assert!(of_refused.0 < 10, "{log}");
    // The first names that somebody tries are told, for they come at the pace of the server.
    let (written, counted) = (lines_with(&log, failed), counted(&log, failed));
    assert!(1 <= written && written + counted <= 31, "{log}");
}

#[test]
fn what_users_do_is_told_line_by_line_and_what_they_fail_to_do_is_counted_beyond_a_hundred() {
    let server = open_to_all();
    for n in 0..400 {
        server.write(format!("f{n}"), "x");
    }
    let mut stranger = anonymous_from(&server, flooder());
    let mut user = server.client();
    std::thread::scope(|scope| {
        scope.spawn(|| pipeline(&mut stranger, (0..FLOOD).map(|n| format!("DELE {n}")), 550));
        pipeline(&mut user, (0..400).map(|n| format!("DELE f{n}")), 250);
    });
    pipeline(
        &mut user,
        (0..400).map(|n| format!("ALLO {}", u64::MAX - n)),
        552,
    );
    let log = whole_log(&server);
    assert_eq!(lines_with(&log, "t@127.0.0.1: DELE"), 400, "{log}");
    let refused = "t@127.0.0.1: ALLO refused";
    let (written, counted) = (lines_with(&log, refused), counted(&log, refused));
    assert_eq!(written + counted, 400, "{log}");
    assert!((100..400).contains(&written), "{log}");
}

#[test]
fn who_was_a_user_before_is_a_stranger_again() {
    let server = open_to_all();
    let mut client = server.client();
    client.expect("REIN", 220);
    client.login_as("ftp", "x").expect(230);
    pipeline(&mut client, (0..50).map(|n| format!("DELE {n}")), 550);
    let log = whole_log(&server);
    let refused = "ftp@127.0.0.1: DELE refused";
    assert_eq!(
        (lines_with(&log, refused), counted(&log, refused)),
        (1, 49),
        "{log}"
    );
}

#[test]
fn the_transfer_log_has_all_of_users_and_so_many_a_second_of_anonymous_ones() {
    let server = Server::build()
        .configuration(
            "xferlog = \"{home}/xferlog\"\n[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\n",
        )
        .with_flag_user()
        .start();
    for n in 0..FLOOD {
        server.write(format!("a{n}"), "x");
    }
    for n in 0..FLOOD {
        server.write(format!("u{n}"), "x");
    }
    let mut stranger = anonymous_from(&server, flooder());
    pipeline(&mut stranger, (0..FLOOD).map(|n| format!("DELE a{n}")), 250);
    let mut user = server.client();
    pipeline(&mut user, (0..FLOOD).map(|n| format!("DELE u{n}")), 250);
    let log = whole_log(&server);
    let transfers = std::fs::read_to_string(server.home().join("xferlog")).unwrap();
    let of = |access: &str| {
        let lines = transfers.lines();
        lines.filter(|line| line.contains(access)).count()
    };
    assert_eq!(of(" d r t "), FLOOD);
    let left_out: usize = log
        .lines()
        .filter_map(|line| line.split_once(" transfers of anonymous users were left out"))
        .map(|(before, _)| before.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert!(left_out > 0, "{log}");
    assert_eq!(of(" d a ") + left_out, FLOOD);
}
