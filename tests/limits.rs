//! How many, how long, and how the whole thing ends: session limits, time-outs, signals, listeners that can't be had.

mod common;

use common::{Client, PASSWORD, Server, USER, data_connection, eventually};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Read;

use thriftpd::accounts::Password;

#[test]
fn the_session_beyond_the_limit_hears_421_and_why() {
    let server = Server::build().arguments(&["--sessions", "2"]).start();
    let first = server.client();
    let _second = server.client();
    let mut third = Client::connect(server.address());
    let reply = third.reply().expect(421);
    assert!(
        reply.last().len() > 10,
        "a reason belongs into {}",
        reply.text()
    );
    third.expect_end();
    drop(first);
    eventually("the place is free again", || {
        let mut client = Client::connect(server.address());
        client.reply().code == 220
    });
}

#[test]
fn the_session_beyond_the_limit_of_its_address_hears_421() {
    let server = Server::build()
        .arguments(&["--sessions-per-ip", "2"])
        .start();
    let _first = server.client();
    let _second = server.client();
    let mut third = Client::connect(server.address());
    third.reply().expect(421);
    third.expect_end();
    // Others are not concerned.
    server.connect_from("127.0.0.2".parse().unwrap()).login();
}

#[test]
fn a_refused_session_is_logged_with_the_setting_that_would_change_it() {
    let server = Server::build().arguments(&["--sessions", "1"]).start();
    let _first = server.client();
    Client::connect(server.address()).reply().expect(421);
    let line = server.wait_for_log("sessions");
    assert!(line.contains("127.0.0.1"), "{line}");
}

#[test]
fn a_hundred_sessions_are_served_at_once() {
    let server = Server::build()
        .arguments(&["--sessions-per-ip", "100"])
        .start();
    let mut clients: Vec<_> = (0..100).map(|_| server.client()).collect();
    for client in &mut clients {
        client.expect("NOOP", 200);
    }
}

#[test]
fn many_short_sessions_leave_nothing_behind() {
    let server = Server::start();
    if !server.counts_descriptors() {
        return;
    }
    server.client();
    let before = server.descriptors();
    for _ in 0..200 {
        let mut client = server.connect();
        client.expect("QUIT", 221);
    }
    for _ in 0..100 {
        drop(server.connect());
    }
    eventually("the sessions are over", || server.descriptors() <= before);
    assert!(server.threads() < 60, "{} threads", server.threads());
}

#[test]
fn a_session_that_never_logs_in_ends() {
    let server = Server::build()
        .configuration("[timeouts]\nlogin = 1\n")
        .with_flag_user()
        .start();
    let mut mute = server.connect();
    mute.reply().expect(421);
    mute.expect_end();
    let mut busy = server.connect();
    loop {
        busy.send("NOOP");
        let Some(reply) = busy.reply_or_end() else {
            break;
        };
        if reply.code == 421 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Sends these bytes again and again until the server has enough; its last words.
fn pour(client: Client, bytes: &[u8], pause: u64) -> common::Reply {
    let mut stream = client.stream().try_clone().unwrap();
    let mut client = client;
    let sender = std::thread::spawn({
        let bytes = bytes.to_vec();
        move || {
            while std::io::Write::write_all(&mut stream, &bytes).is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(pause));
            }
        }
    });
    let last = loop {
        let reply = client.reply();
        if reply.code == 421 {
            break reply;
        }
    };
    sender.join().unwrap();
    last
}

#[test]
fn bytes_without_the_end_of_a_line_prolong_no_time() {
    let server = Server::build()
        .configuration("[timeouts]\nlogin = 2\nidle = 2\n")
        .with_flag_user()
        .start();
    pour(server.connect(), b"x", 10).says("login timeout");
    pour(server.client(), b"x", 10).says("idle timeout");
    // Whole lines do not either.
    pour(server.connect(), b"NOOP\r\nNOOP\r\n", 100).says("login timeout");
}

#[test]
fn so_much_may_be_sent_before_the_login_and_no_more() {
    let server = Server::start();
    pour(server.connect(), &[b'x'; 4096], 0).says("too much was sent before the login");
    server.wait_for_log("Too much was sent before the login");
    // Who logs in is not concerned, however much comes behind it at once.
    let mut client = server.connect();
    let mut bytes = b"USER t\r\nPASS pw\r\n".to_vec();
    bytes.extend(b"NOOP\r\n".repeat(20_000));
    let mut stream = client.stream().try_clone().unwrap();
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut stream, &bytes));
    client.reply().expect(331);
    client.reply().expect(230);
    for _ in 0..20_000 {
        client.reply().expect(200);
    }
    sender.join().unwrap().unwrap();
}

#[test]
fn an_idle_session_ends_with_421() {
    let server = Server::build()
        .configuration("[timeouts]\nidle = 1\n")
        .with_flag_user()
        .start();
    let mut client = server.client();
    client.reply().expect(421);
    client.expect_end();
}

#[test]
fn the_idle_clock_stands_still_during_a_transfer() {
    let server = Server::build()
        .configuration("[timeouts]\nidle = 1\n")
        .with_flag_user()
        .start();
    std::fs::File::create(server.path("much"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("RETR much").expect_one_of(&[125, 150]);
    for _ in 0..25 {
        data.read_exact(&mut [0; 1000]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let mut rest = Vec::new();
    data.read_to_end(&mut rest).unwrap();
    client.reply().expect(226);
    client.expect("NOOP", 200);
}

#[test]
fn a_stalled_transfer_ends_and_says_so() {
    let server = Server::build()
        .configuration("[timeouts]\nstalled = 1\n")
        .with_flag_user()
        .start();
    let mut client = server.client();
    let data = client.epsv();
    client.command("STOR file").expect_one_of(&[125, 150]);
    client.reply().expect_one_of(&[421, 426, 451]);
    drop(data);
    assert!(!server.exists("file") || server.read("file").is_empty());
}

#[test]
fn a_data_connection_that_never_comes_is_425() {
    let server = Server::build()
        .configuration("[timeouts]\ndata_connect = 1\n")
        .with_flag_user()
        .start();
    server.write("file", "x");
    let mut client = server.client();
    client.epsv_address();
    client.send("RETR file");
    let mut reply = client.reply();
    if reply.code == 150 {
        reply = client.reply();
    }
    reply.expect(425);
    client.expect("NOOP", 200);
}

#[test]
fn sigterm_says_421_to_idle_sessions_and_exits_0() {
    let server = Server::start();
    let mut client = server.client();
    let mut anonymous = server.connect();
    server.signal(Signal::SIGTERM);
    client.reply().expect(421);
    client.expect_end();
    anonymous.reply().expect(421);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn sigint_ends_it_too() {
    let server = Server::start();
    server.signal(Signal::SIGINT);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn sigterm_lets_a_running_transfer_finish() {
    let server = Server::start();
    std::fs::File::create(server.path("much"))
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("RETR much").expect_one_of(&[125, 150]);
    data.read_exact(&mut [0; 1000]).unwrap();
    server.signal(Signal::SIGTERM);
    eventually(
        "new clients are turned away",
        || match std::net::TcpStream::connect(server.address()) {
            Err(_) => true,
            Ok(mut stream) => {
                let mut answer = String::new();
                drop(stream.set_read_timeout(Some(common::PATIENCE)));
                drop(stream.read_to_string(&mut answer));
                answer.is_empty() || answer.starts_with("421")
            }
        },
    );
    let mut rest = Vec::new();
    data.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), (32 << 20) - 1000);
    client.reply().expect(226);
    client.reply().expect(421);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let server = Server::start();
    std::fs::File::create(server.path("much"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("RETR much").expect_one_of(&[125, 150]);
    data.read_exact(&mut [0; 1000]).unwrap();
    server.signal(Signal::SIGTERM);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(server.is_running(), "it waits for the transfer");
    server.signal(Signal::SIGTERM);
    server.wait();
}

#[test]
fn sighup_reads_the_configuration_for_new_sessions() {
    let server = Server::build()
        .configuration("banner = \"first\"\n")
        .with_flag_user()
        .start();
    let mut running = Client::connect(server.address());
    running.reply().expect(220).says("first");
    std::fs::write(server.home().join("thriftpd.toml"), "banner = \"second\"\n").unwrap();
    server.signal(Signal::SIGHUP);
    eventually("a new session has the new settings", || {
        Client::connect(server.address())
            .reply()
            .expect(220)
            .text()
            .contains("second")
    });
    running.login_as(USER, PASSWORD).expect(230);
}

#[test]
fn an_invalid_new_configuration_is_refused_and_the_old_one_stays() {
    let server = Server::build()
        .configuration("banner = \"first\"\n")
        .with_flag_user()
        .start();
    std::fs::write(
        server.home().join("thriftpd.toml"),
        "banner = \"second\"\nbaner = 1\n",
    )
    .unwrap();
    server.signal(Signal::SIGHUP);
    let line = server.wait_for_log("baner");
    assert!(!line.is_empty());
    Client::connect(server.address())
        .reply()
        .expect(220)
        .says("first");
}

#[test]
fn a_port_in_use_is_said_plainly() {
    let server = Server::start();
    let address = server.address().to_string();
    let second = Server::build().listen(&address).start_without_waiting();
    assert!(!second.wait().success());
    let log = second.log_text();
    assert!(log.contains(&address) && log.contains("in use"), "{log}");
}

#[test]
fn a_missing_root_is_said_plainly() {
    let builder = Server::build();
    let missing = builder.root().join("missing");
    let server = builder.serving(&missing).start_without_waiting();
    assert!(!server.wait().success());
    assert!(
        server.log_text().contains("missing"),
        "{}",
        server.log_text()
    );
}

#[test]
fn a_server_without_descriptors_to_spare_lives_on() {
    let server = Server::build()
        .arguments(&["--sessions-per-ip", "100"])
        .start();
    if !server.counts_descriptors() {
        return;
    }
    let mut client = server.client();
    let limit = format!("--nofile={}", server.descriptors() + 4);
    let set = std::process::Command::new("prlimit")
        .args(["--pid", &server.pid().to_string(), &limit])
        .status();
    if !set.is_ok_and(|status| status.success()) {
        panic!("prlimit (package util-linux) is needed: run scripts/test");
    }
    let crowd: Vec<_> = (0..20)
        .map(|_| std::net::TcpStream::connect(server.address()).unwrap())
        .collect();
    client.expect("NOOP", 200);
    drop(crowd);
    eventually("it serves again", || {
        let stream = std::net::TcpStream::connect(server.address()).unwrap();
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(2)))
            .unwrap();
        let mut greeting = [0; 3];
        (&stream).read_exact(&mut greeting).is_ok() && &greeting == b"220"
    });
    client.expect("NOOP", 200);
}

#[test]
fn who_no_thread_can_be_started_for_is_told() {
    let server = Server::start();
    let mut client = server.client();
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kilobytes: u64 = size
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    let prlimit = |limit: &str| {
        let limit = format!("--as={limit}:");
        let set = std::process::Command::new("prlimit")
            .args(["--pid", &server.pid().to_string(), &limit])
            .status();
        if !set.is_ok_and(|status| status.success()) {
            panic!("prlimit (package util-linux) is needed: run scripts/test");
        }
    };
    // Less than the stack of a thread.
    prlimit(&((kilobytes + 512) << 10).to_string());
    let mut refused = server.connect();
    refused.send("NOOP");
    refused.reply().expect(421).says("out of resources");
    refused.expect_end();
    server.wait_for_log("cannot start a thread");
    client.expect("NOOP", 200);
    prlimit("unlimited");
    server.client();
}

#[test]
fn a_session_may_end_while_its_passive_port_waits() {
    let server = Server::start();
    let mut client = server.client();
    let address = client.epsv_address();
    let data = data_connection(address);
    client.expect("QUIT", 221);
    drop(data);
    server.client();
}

#[test]
fn failed_logins_take_no_memory_that_stays() {
    // Room for the first client while it goes.
    let server = Server::build()
        .arguments(&["--sessions-per-ip", "100"])
        .start();
    server.client();
    let before = server.resident_bytes();
    let mut clients: Vec<_> = (0..32).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("USER nobody");
        client.send("PASS wrong");
    }
    for client in &mut clients {
        client.reply().expect(331);
        client.reply().expect(530);
    }
    let after = server.resident_bytes();
    // One password check takes 19 MiB, which is gone with it.
    assert!(
        after < before + (16 << 20),
        "{before} bytes before, {after} after 32 wrong passwords"
    );
}

#[test]
fn a_user_removed_from_the_file_is_logged_out_when_it_is_read_again() {
    let user = |name: &str| {
        format!(
            "[[user]]\nname = \"{name}\"\npassword = \"{}\"\nroot = \"{{root}}\"\n",
            Password::from_clear(PASSWORD).unwrap().to_phc()
        )
    };
    let server = Server::build()
        .configuration(&(user("anna") + &user("berta")))
        .start();
    let log_in = |name: &str| {
        let mut client = server.connect();
        client.login_as(name, PASSWORD).expect(230);
        client
    };
    let (mut anna, mut berta) = (log_in("anna"), log_in("berta"));
    let data = anna.begin_upload("STOR file", b"half");
    // It came before, and whoever logs in does so by the settings of the moment.
    let mut late = server.connect();
    late.expect("USER anna", 331);
    let file = server.home().join("thriftpd.toml");
    let text = fs::read_to_string(&file).unwrap();
    let at = text.find("[[user]]\nname = \"berta\"").unwrap();
    let before = text.find("[[user]]").unwrap();
    fs::write(&file, [&text[..before], &text[at..]].concat()).unwrap();
    server.signal(Signal::SIGHUP);
    anna.reply().expect(421).says("removed");
    drop(data);
    anna.expect_end();
    server.wait_for_log("ended 1 sessions");
    late.expect(format!("PASS {PASSWORD}"), 530);
    berta.expect("NOOP", 200);
    log_in("berta");
}

#[test]
fn more_sessions_than_the_limit_on_open_files_allows_are_not_promised() {
    let server = Server::build()
        .under(&["prlimit", "--nofile=120:120"])
        .arguments(&["--sessions", "50"])
        .start();
    let line = server.wait_for_log("sessions are served, not 50");
    assert!(
        line.contains("ERROR") && line.contains("ulimit -Hn"),
        "{line}"
    );
    let promised = line.split("ERROR").nth(1).unwrap();
    let promised: usize = promised.split_whitespace().next().unwrap().parse().unwrap();
    assert!((4..12).contains(&promised), "{promised}");
    server.write("file", "content");
    // All of them transfer at once.
    let mut clients: Vec<Client> = (0..promised).map(|_| server.client()).collect();
    let uploads: Vec<_> = clients
        .iter_mut()
        .enumerate()
        .map(|(number, client)| client.begin_upload(format!("STOR new{number}"), b"all of it"))
        .collect();
    let mut further = Client::connect(server.address());
    further.reply().expect(421).says("too many sessions");
    drop(uploads);
    for client in &mut clients {
        client.reply().expect(226);
        assert_eq!(client.retr("file"), b"content");
    }
    assert!(!server.log_text().contains("cannot accept"));
}
