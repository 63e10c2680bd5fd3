//! What breaks in real life: cables pulled, programs killed, files that change under a transfer (full disks have a file of their
//! own). Nothing is acknowledged that is not there, and the server lives on.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Command;
use std::time::Duration;

use common::{Server, assert_same_bytes, eventually, noise, reset};

#[test]
fn an_upload_whose_data_connection_is_reset_is_never_complete() {
    let server = Server::start();
    let mut client = server.client();
    for size in [0, 10, 2 << 20] {
        let mut data = client.epsv();
        client.command("STOR file").expect(150);
        data.write_all(&noise(size)).unwrap();
        // What was sent is on its way before the reset overtakes it.
        std::thread::sleep(Duration::from_millis(50));
        reset(data);
        client.reply().expect(426);
    }
    client.stor("file", b"whole");
    assert_eq!(server.read("file"), b"whole");
}

#[test]
fn an_upload_whose_client_died_in_order_is_not_complete() {
    let server = Server::start();
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("STOR file").expect(150);
    data.write_all(b"half").unwrap();
    client.end_of_input();
    drop(data);
    server.wait_for_log("control connection lost");
    assert!(
        !server
            .log_text()
            .contains("4 bytes 0.000 s 0.0 MiB/s complete")
    );
    client.reply().expect(426);
}

#[test]
fn an_upload_before_a_quit_that_already_waits_is_complete() {
    let server = Server::start();
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("STOR file").expect(150);
    client.send("QUIT");
    client.end_of_input();
    data.write_all(b"whole").unwrap();
    drop(data);
    client.reply().expect(226);
    client.reply().expect(221);
    assert_eq!(server.read("file"), b"whole");
}

#[test]
fn accept_hangup_takes_the_file_of_a_camera_that_never_waits() {
    let account = |hangup: &str| {
        format!("[anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n{hangup}\n")
    };
    for (hangup, complete) in [("accept_hangup = true", true), ("", false)] {
        let server = Server::build().configuration(&account(hangup)).start();
        let mut client = server.connect();
        client.login_as("anonymous", "x").expect(230);
        client.expect("TYPE I", 200);
        let mut data = client.epsv();
        client.command("STOR picture").expect(150);
        client.end_of_input();
        std::thread::sleep(Duration::from_millis(100));
        // Where the client is given up the data connection is reset meanwhile.
        let _ = data.write_all(b"picture");
        drop(data);
        let line = server.wait_for_log("STOR");
        assert_eq!(line.ends_with("complete"), complete, "{line}");
    }
}

#[test]
fn a_client_that_is_killed_leaves_no_session_behind() {
    let server = Server::start();
    if !server.counts_descriptors() {
        return;
    }
    server.client();
    let before = server.descriptors();
    let much = server.path("much");
    File::create(&much).unwrap().set_len(1 << 30).unwrap();
    for _ in 0..5 {
        let mut curl = Command::new("curl")
            .args([
                "-sS",
                "--limit-rate",
                "100k",
                "-o",
                "/dev/null",
                &server.url("much"),
            ])
            .spawn()
            .unwrap();
        eventually("the transfer runs", || server.descriptors() > before);
        std::thread::sleep(Duration::from_millis(100));
        curl.kill().unwrap();
        curl.wait().unwrap();
        eventually("the session is over", || server.descriptors() <= before);
    }
}

#[test]
fn a_file_that_shrinks_under_its_download_ends_in_451() {
    let server = Server::start();
    let file = File::create(server.path("file")).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("RETR file").expect(150);
    data.read_exact(&mut [0; 1000]).unwrap();
    file.set_len(1000).unwrap();
    // A broken end, so that nobody takes it for the whole file.
    assert!(data.read_to_end(&mut Vec::new()).is_err());
    client.reply().expect(451);
    client.expect("NOOP", 200);
}

#[test]
fn a_file_that_grows_is_sent_to_its_size_at_the_start() {
    let server = Server::start();
    server.write("file", noise(8 << 20));
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("RETR file").expect(150);
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(server.path("file"))
        .unwrap();
    file.write_all(&noise(1 << 20)).unwrap();
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).unwrap();
    client.reply().expect(226);
    assert_same_bytes(&bytes, &noise(8 << 20));
}

#[test]
fn strict_allo_makes_a_shortfall_incomplete_and_others_only_log_it() {
    for (strict, code) in [("strict_allo = true", 426), ("", 226)] {
        let configuration =
            format!("[anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n{strict}\n");
        let server = Server::build().configuration(&configuration).start();
        let mut client = server.connect();
        client.login_as("ftp", "x").expect(230);
        client.expect("TYPE I", 200);
        let data = client.epsv();
        client.expect("ALLO 1000", 200);
        client.upload_over(data, "STOR file", b"few").expect(code);
        server.wait_for_log("ALLO announced 1000 bytes, 1000 of them were to come, 3 came");
    }
}

#[test]
fn running_out_of_descriptors_refuses_and_recovers() {
    let builder = Server::build().arguments(&["--sessions", "500", "--sessions-per-ip", "500"]);
    let server = builder.start();
    let limit = Command::new("prlimit")
        .args(["--pid", &server.pid().to_string(), "--nofile=40:40"])
        .status()
        .unwrap();
    assert!(limit.success());
    let clients: Vec<_> = (0..60)
        .map(|_| std::net::TcpStream::connect(server.address()).unwrap())
        .collect();
    server.wait_for_log("cannot accept a connection");
    let refused = clients.iter().filter(|stream| {
        let mut greeting = [0; 3];
        let mut stream: &std::net::TcpStream = stream;
        stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
        stream.read_exact(&mut greeting).is_ok() && &greeting == b"421"
    });
    assert!(refused.count() > 0, "somebody was told so");
    for client in &clients {
        let _ = client.shutdown(Shutdown::Both);
    }
    drop(clients);
    eventually("the server serves again", || {
        server.connect().command("NOOP").code == 200
    });
}

#[test]
fn a_file_too_large_for_the_system_is_552_and_the_server_lives_on() {
    let server = Server::start();
    let limit = Command::new("prlimit")
        .args(["--pid", &server.pid().to_string(), "--fsize=100000:100000"])
        .status()
        .unwrap();
    assert!(limit.success());
    let mut client = server.client();
    let mut data = client.epsv();
    client.command("STOR big").expect(150);
    // Broken off by the server, perhaps before all is sent.
    let _ = data.write_all(&noise(1 << 20));
    drop(data);
    client.reply().expect(552);
    client.stor("small", b"x");
    assert_eq!(server.read("small"), b"x");
}

#[test]
fn what_was_announced_for_a_refused_upload_is_not_expected_of_the_next() {
    let server = Server::build()
        .anonymous("strict_allo = true\nquota = \"1MB\"")
        .start();
    let mut client = server.visitor();
    client.expect("MKD directory", 257);
    for line in ["STOR directory", "STOR missing/file"] {
        client.expect("ALLO 1000", 200);
        client.upload(line, b"x").expect(550);
        client.upload("STOR file", b"x").expect(226);
    }
    // What replaces something has its room.
    client.stor("file", &vec![0; 600_000]);
    client.expect("ALLO 700000", 200).says("are free here");
    client.stor("file", &vec![1; 700_000]);
    client.expect("ALLO 700000", 200);
    client.upload("STOR other", b"x").expect(552);
    client.expect("ALLO 1000001", 552);
}
