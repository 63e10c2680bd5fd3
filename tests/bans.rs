//! Failed logins are counted by address and end in a ban; `thriftpd ban` shows and changes who is kept out; networks are
//! allowed and denied.

mod common;
// Each kind of test needs a part of it.
#[allow(dead_code)]
#[path = "common/shelf.rs"]
mod shelf;

use common::mounts::may_mount;
use common::{Client, PASSWORD, Server, USER, eventually};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use shelf::{Abilities, Shelf};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Output};
use thriftpd::accounts::Network;

const BANS: &str = "ban_after = 2\nban_loopback = true\nban_file = \"{home}/bans\"\n";

fn attacker() -> Ipv4Addr {
    "127.0.0.66".parse().unwrap()
}

fn server(configuration: &str) -> Server {
    Server::build()
        .configuration(configuration)
        .with_flag_user()
        .start()
}

/// What an address hears first.
#[track_caller]
fn first_words(server: &Server, from: Ipv4Addr) -> u16 {
    Client::connect_from(from.into(), server.address())
        .reply()
        .code
}

fn fail_to_log_in(server: &Server, from: Ipv4Addr) -> u16 {
    server
        .connect_from(from)
        .login_as(USER, "wrong")
        .expect_one_of(&[530, 421])
        .code
}

fn thriftpd(server: &Server, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thriftpd"))
        .args(arguments)
        .arg("--config")
        .arg(server.home().join("thriftpd.toml"))
        .output()
        .unwrap()
}

#[track_caller]
fn ban(server: &Server, arguments: &[&str]) -> String {
    let output = thriftpd(server, &[&["ban"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn wrong_passwords_end_in_a_ban_of_the_address_and_of_no_other() {
    let server = server("ban_after = 2\nban_loopback = true\n");
    assert_eq!(fail_to_log_in(&server, attacker()), 530);
    assert_eq!(fail_to_log_in(&server, attacker()), 421);
    let mut banned = Client::connect_from(attacker().into(), server.address());
    banned.reply().expect(421).says("failed logins");
    banned.expect_end();
    assert!(
        server
            .wait_for_log("banned for 900 s")
            .contains("ban_after")
    );
    assert!(
        server
            .wait_for_log("refused: Too many failed logins")
            .contains("ban_for; or thriftpd ban remove, which takes a ban_file")
    );
    server.client();
}

#[test]
fn the_host_itself_is_not_banned_unless_asked_for() {
    let server = server("ban_after = 1\n");
    assert_eq!(fail_to_log_in(&server, attacker()), 530);
    assert_eq!(first_words(&server, attacker()), 220);
}

#[test]
fn a_ban_ends() {
    let server = server("ban_after = 1\nban_loopback = true\nban_for = 6\n");
    assert_eq!(fail_to_log_in(&server, attacker()), 421);
    assert_eq!(first_words(&server, attacker()), 421);
    eventually("it may come again", || {
        first_words(&server, attacker()) == 220
    });
}

#[test]
fn a_client_that_speaks_no_tls_where_it_must_is_counted_and_one_that_goes_away_is_not() {
    let server = server("ban_after = 2\nban_loopback = true\n");
    let begin = || {
        let mut client = server.connect_from(attacker());
        client.expect("AUTH TLS", 234);
        client
    };
    for _ in 0..4 {
        drop(begin());
    }
    assert_eq!(first_words(&server, attacker()), 220);
    for _ in 0..2 {
        let mut client = begin();
        client.send_raw(b"this is no handshake at all, is it?\r\n");
        let _ = client.into_stream().read_to_end(&mut Vec::new());
    }
    eventually("it is banned", || first_words(&server, attacker()) == 421);
}

#[test]
fn bans_survive_a_restart_where_there_is_a_file_for_them() {
    let first = server(BANS);
    fail_to_log_in(&first, attacker());
    fail_to_log_in(&first, attacker());
    assert_eq!(first_words(&first, attacker()), 421);
    let second = first.restart();
    assert_eq!(first_words(&second, attacker()), 421);
    second.client();
}

/// By how many seconds the server's clock is ahead.
const CLOCK: &str = "THRIFTPD_TEST_CLOCK";

#[test]
fn a_clock_that_is_set_neither_lifts_a_ban_nor_prolongs_it() {
    let builder = Server::build().configuration(BANS).with_flag_user();
    let with_clock = |ahead: i64| {
        let builder = builder.clone().environment(CLOCK, &ahead.to_string());
        builder.start()
    };
    let first = with_clock(0);
    fail_to_log_in(&first, attacker());
    fail_to_log_in(&first, attacker());
    first.signal(Signal::SIGTERM);
    first.wait();
    let ten_years = 10 * 365 * 24 * 3600;
    for ahead in [ten_years, -ten_years, -100 * ten_years] {
        let server = with_clock(ahead);
        let mut banned = Client::connect_from(attacker().into(), server.address());
        let told = banned.reply().expect(421).text();
        let left = told.split_once("try again in ").unwrap().1;
        let left: u64 = left.split_once(' ').unwrap().0.parse().unwrap();
        assert!((1..=900).contains(&left), "{told}");
    }
}

/// A server, and the file system that its file of bans is in; None where there are no mounts.
fn with_its_file_on_a_shelf() -> Option<(Server, Shelf)> {
    if !may_mount() {
        return None;
    }
    let builder = Server::build()
        .configuration(&BANS.replace("{home}", "{root}/slow"))
        .with_flag_user();
    let slow = builder.root().join("slow");
    std::fs::create_dir(&slow).unwrap();
    let shelf = Shelf::mount(&slow, Abilities::ALL)?;
    Some((builder.start(), shelf))
}

#[test]
fn a_file_on_a_disk_that_hangs_holds_up_no_connection_no_login_no_reload_and_no_ban() {
    let Some((server, shelf)) = with_its_file_on_a_shelf() else {
        return;
    };
    let held = shelf.hold();
    for _ in 0..20 {
        server.client();
    }
    assert_eq!(fail_to_log_in(&server, attacker()), 530);
    assert_eq!(fail_to_log_in(&server, attacker()), 421);
    assert_eq!(first_words(&server, attacker()), 421);
    server.signal(Signal::SIGHUP);
    server.wait_for_log("the configuration was read again");
    server.client();
    assert!(!server.log_text().contains("cannot keep the bans"));
    drop(held);
    eventually("the ban is in the file", || {
        ban(&server, &["list"]).contains("127.0.0.66 for ")
    });
    // And what others write there is taken up again.
    ban(&server, &["remove", "127.0.0.66"]);
    eventually("it may come again", || {
        first_words(&server, attacker()) == 220
    });
}

#[test]
fn a_server_ends_though_its_file_of_bans_hangs() {
    let Some((server, shelf)) = with_its_file_on_a_shelf() else {
        return;
    };
    let _held = shelf.hold();
    fail_to_log_in(&server, attacker());
    fail_to_log_in(&server, attacker());
    server.signal(Signal::SIGTERM);
    server.wait_for_log("goodbye");
}

#[test]
fn bans_are_listed_added_and_removed_and_a_running_server_takes_it_up() {
    let server = server(BANS);
    assert!(ban(&server, &["list"]).contains("nobody"));
    assert_eq!(first_words(&server, attacker()), 220);
    ban(&server, &["add", "127.0.0.66", "--for", "2h"]);
    ban(&server, &["add", "2001:db8:1:2:3::4"]);
    assert_eq!(first_words(&server, attacker()), 421);
    let list = ban(&server, &["list"]);
    assert!(
        list.contains("127.0.0.66 for 7") && list.contains("2001:db8:1:2::/64 for "),
        "{list}"
    );
    ban(&server, &["remove", "127.0.0.66"]);
    assert_eq!(first_words(&server, attacker()), 220);
    let again = thriftpd(&server, &["ban", "remove", "127.0.0.66"]);
    assert!(!again.status.success());
    // What the server adds keeps what a person has added.
    fail_to_log_in(&server, attacker());
    fail_to_log_in(&server, attacker());
    let list = ban(&server, &["list"]);
    assert!(
        list.contains("127.0.0.66") && list.contains("2001:db8"),
        "{list}"
    );
}

#[test]
fn without_a_file_the_command_says_what_to_set() {
    let server = server("");
    let output = thriftpd(&server, &["ban", "list"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("set `ban_file`"));
}

#[test]
fn a_broken_file_of_bans_bans_nobody_and_is_mended() {
    let builder = Server::build().configuration(BANS).with_flag_user();
    let server = builder.start();
    std::fs::write(
        server.home().join("bans"),
        b"\xff\xfe garbage\n127.0.0.66\n",
    )
    .unwrap();
    assert_eq!(first_words(&server, attacker()), 220);
    ban(&server, &["add", "127.0.0.66"]);
    assert_eq!(first_words(&server, attacker()), 421);
}

#[test]
fn networks_are_denied_and_allowed_by_the_server() {
    let server = server("allow = [\"127.0.0.1\", \"127.0.1.0/24\"]\ndeny = \"127.0.1.66\"\n");
    server.client();
    for (from, code) in [("127.0.1.7", 220), ("127.0.1.66", 421), ("127.0.2.1", 421)] {
        assert_eq!(first_words(&server, from.parse().unwrap()), code, "{from}");
    }
    assert!(server.wait_for_log("refused").contains("(setting: deny)"));
}

#[test]
fn a_network_is_denied_by_its_ipv4_address_where_the_server_listens_on_ipv6() {
    let server = Server::build()
        .listen("[::]:0")
        .configuration("allow = \"all\"\ndeny = [\"127.0.0.66\", \"::1\"]\n")
        .with_flag_user()
        .start();
    let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let first = |from: Ipv4Addr| Client::connect_from(from.into(), address).reply().code;
    assert_eq!(first(attacker()), 421);
    assert_eq!(first(Ipv4Addr::LOCALHOST), 220);
    let six: SocketAddr = format!("[::1]:{}", server.port()).parse().unwrap();
    Client::connect(six).reply().expect(421).says("network");
}

#[test]
fn networks_are_denied_and_allowed_by_user_and_nobody_can_tell_from_outside() {
    let builder = Server::build();
    let hash = thriftpd::accounts::Password::from_clear(PASSWORD).unwrap();
    let server = builder
        .configuration(&format!(
            "[[user]]\nname = \"cam\"\npassword = \"{}\"\nroot = \"{{root}}\"\nallow = \"127.0.0.5\"\n",
            hash.to_phc()
        ))
        .start();
    let log_in = |from: &str, password: &str| {
        let mut client = server.connect_from(from.parse().unwrap());
        client.login_as("cam", password)
    };
    log_in("127.0.0.5", PASSWORD).expect(230);
    let elsewhere = log_in("127.0.0.6", PASSWORD).expect(530);
    let wrong = log_in("127.0.0.5", "wrong").expect(530);
    assert_eq!(elsewhere.text(), wrong.text());
    server.wait_for_log("cam may not log in from there (setting: allow of the user)");
}

#[test]
fn guesses_that_waited_for_their_turn_when_the_ban_came_are_of_no_use() {
    let server = server("ban_after = 2\nban_loopback = true\nlogin_attempts = 9\n");
    let mut guessing: Vec<Client> = (0..20).map(|_| server.connect_from(attacker())).collect();
    for client in &mut guessing {
        client.expect(format!("USER {USER}"), 331);
    }
    for (number, client) in guessing.iter_mut().enumerate() {
        let password = if number == 19 { PASSWORD } else { "wrong" };
        client.send(format!("PASS {password}"));
    }
    let codes = guessing.iter_mut().map(|client| client.reply().code);
    let codes: Vec<u16> = codes.collect();
    // Two are looked at at once: one more may be answered while the ban begins.
    let looked_at = codes.iter().filter(|&&code| code == 530).count();
    assert!(looked_at <= 3, "{codes:?}");
    let failed = server.log_text().matches("failed (1 of 9)").count();
    assert!((2..=3).contains(&failed), "{failed}");
}

#[test]
fn check_shows_who_may_come_and_what_is_limited() {
    let server = server("deny = \"10.0.0.0/8\"\nrate_down = \"2MB\"\nban_after = 7\n");
    let output = thriftpd(&server, &["check"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "lan, but not 10.0.0.0/8",
        "after 7 failed logins",
        "2000000",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn connections_from_before_the_ban_are_of_no_use_for_more_guesses() {
    let server = server("ban_after = 1\nban_loopback = true\n");
    let mut first = server.connect_from(attacker());
    let mut second = server.connect_from(attacker());
    second.expect(format!("USER {USER}"), 331);
    first.login_as(USER, "wrong").expect(421);
    second.expect(format!("PASS {PASSWORD}"), 421);
    second.expect_end();
}

// ---- networks of any kind

/// The address as the 128 bits that IPv6 has for it.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from(bits).to_ipv6_mapped())),
    ]
}

proptest! {
    #[test]
    fn any_text_is_a_network_or_none(text in "[0-9a-f:./]{0,30}|.{0,20}") {
        if let Ok(network) = text.parse::<Network>() {
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn a_network_holds_its_address_and_whatever_shares_its_prefix(
        address in any_address(), other in any_address(), prefix in 0_u8..=130, flipped in 0_u32..128,
    ) {
        let Some(network) = Network::of(address, prefix) else { return Ok(()) };
        prop_assert!(network.contains(address));
        prop_assert_eq!(network.to_string().parse(), Ok(network));
        // The same, told by the bits alone.
        let is_v4 = address.to_canonical().is_ipv4();
        let length = if address.is_ipv4() { prefix + 96 } else { prefix };
        let mut others = vec![other];
        let near = Ipv6Addr::from(bits(address) ^ (1 << flipped));
        others.extend([IpAddr::V6(near), near.to_canonical()]);
        for other in others {
            let same_kind = other.to_canonical().is_ipv4() == is_v4;
            let differ = (bits(other) ^ bits(address)).leading_zeros();
            prop_assert_eq!(
                network.contains(other), same_kind && differ >= u32::from(length),
                "{} {}", network, other
            );
        }
    }
}
