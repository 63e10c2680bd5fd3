//! CWD, XCWD, CDUP, XCUP, PWD, XPWD (RFC 959 §4.1.1, RFC 1123 §4.1.3.1): where a session stands, and that it never
//! stands outside its root.

mod common;

use common::{Client, Server};
use std::os::unix::ffi::OsStrExt;

#[track_caller]
fn stands_in(client: &mut Client, directory: impl AsRef<[u8]>) {
    let reply = client.expect("PWD", 257);
    let quoted = reply.last();
    let end = quoted.iter().rposition(|&byte| byte == b'"').unwrap();
    let name = String::from_utf8_lossy(&quoted[1..end]).replace("\"\"", "\"");
    assert_eq!(name, String::from_utf8_lossy(directory.as_ref()));
}

#[test]
fn a_session_starts_in_its_root() {
    let server = Server::start();
    stands_in(&mut server.client(), "/");
}

#[test]
fn cwd_goes_into_directories_by_relative_and_absolute_paths() {
    let server = Server::start();
    std::fs::create_dir_all(server.path("a/b/c")).unwrap();
    let mut client = server.client();
    client.expect("CWD a", 250);
    stands_in(&mut client, "/a");
    client.expect("CWD b/c", 250);
    stands_in(&mut client, "/a/b/c");
    client.expect("CWD /a", 250);
    stands_in(&mut client, "/a");
    client.expect("XCWD b/", 250);
    stands_in(&mut client, "/a/b");
    client.expect("CWD ../b/./c//", 250);
    stands_in(&mut client, "/a/b/c");
}

#[test]
fn cdup_goes_up_and_stops_at_the_root() {
    let server = Server::start();
    std::fs::create_dir_all(server.path("a/b")).unwrap();
    let mut client = server.client();
    client.expect("CWD a/b", 250);
    client.command("CDUP").expect_one_of(&[200, 250]);
    stands_in(&mut client, "/a");
    client.command("XCUP").expect_one_of(&[200, 250]);
    stands_in(&mut client, "/");
    client.command("CDUP").expect_one_of(&[200, 250]);
    stands_in(&mut client, "/");
}

#[test]
fn dots_never_lead_above_the_root() {
    let server = Server::start();
    std::fs::write(server.home().join("secret"), "outside").unwrap();
    let mut client = server.client();
    client.expect("CWD ../../../..", 250);
    stands_in(&mut client, "/");
    let (bytes, reply) = client.download("RETR ../secret");
    reply.expect(550);
    assert!(bytes.is_empty());
    client.expect("SIZE /../secret", 550);
}

#[test]
fn cwd_to_what_is_not_there_or_not_a_directory_is_550() {
    let server = Server::start();
    server.write("file", "x");
    let mut client = server.client();
    client.expect("CWD missing", 550);
    client.expect("CWD file", 550);
    client.expect("CWD file/", 550);
    stands_in(&mut client, "/");
}

#[test]
fn cwd_without_a_path_is_501_or_stays() {
    let server = Server::start();
    let mut client = server.client();
    client.command("CWD").expect_one_of(&[250, 501]);
    stands_in(&mut client, "/");
}

#[test]
fn a_quote_in_a_name_is_doubled() {
    let server = Server::start();
    std::fs::create_dir(server.path("say \"hi\"")).unwrap();
    let mut client = server.client();
    client.expect("CWD say \"hi\"", 250);
    let reply = client.expect("PWD", 257);
    assert!(
        reply.last().starts_with(b"\"/say \"\"hi\"\"\""),
        "{}",
        reply.text()
    );
    client.expect("XPWD", 257);
}

#[test]
fn names_are_bytes_and_come_back_as_they_were() {
    let server = Server::start();
    let name = b"caf\xe9 \xff\xfe";
    std::fs::create_dir(server.path(std::ffi::OsStr::from_bytes(name))).unwrap();
    let mut client = server.client();
    // 255 is Telnet's IAC and travels doubled (RFC 854).
    client.expect(b"CWD caf\xe9 \xff\xff\xfe", 250);
    let reply = client.expect("PWD", 257);
    assert!(
        reply.last().windows(5).any(|part| part == b"caf\xe9 "),
        "{:?}",
        reply.last()
    );
}

#[test]
fn spaces_at_both_ends_of_a_name_count() {
    let server = Server::start();
    std::fs::create_dir(server.path(" a ")).unwrap();
    let mut client = server.client();
    client.expect("CWD  a ", 250);
    stands_in(&mut client, "/ a ");
}

#[test]
fn a_name_longer_than_the_system_takes_is_refused() {
    let server = Server::start();
    let mut client = server.client();
    client
        .command(format!("CWD {}", "x".repeat(256)))
        .expect_one_of(&[501, 550, 553]);
    std::fs::create_dir(server.path("y".repeat(255))).unwrap();
    client.expect(format!("CWD {}", "y".repeat(255)), 250);
}

#[test]
fn symlinks_inside_the_root_work() {
    let server = Server::start();
    std::fs::create_dir(server.path("real")).unwrap();
    server.write("real/file", "inside");
    std::os::unix::fs::symlink("real", server.path("link")).unwrap();
    let mut client = server.client();
    client.expect("CWD link", 250);
    assert_eq!(client.retr("file"), b"inside");
}

#[test]
fn symlinks_out_of_the_root_are_550() {
    let server = Server::start();
    let outside = server.directory("outside");
    std::fs::write(outside.join("secret"), "outside").unwrap();
    std::os::unix::fs::symlink(&outside, server.path("absolute")).unwrap();
    std::os::unix::fs::symlink("../outside", server.path("relative")).unwrap();
    std::os::unix::fs::symlink("../outside/secret", server.path("file")).unwrap();
    let mut client = server.client();
    for directory in ["absolute", "relative"] {
        client.expect(format!("CWD {directory}"), 550);
        client
            .download(format!("RETR {directory}/secret"))
            .1
            .expect(550);
        client
            .upload(format!("STOR {directory}/new"), b"x")
            .expect_one_of(&[550, 553]);
        client
            .command(format!("MKD {directory}/new"))
            .expect_one_of(&[550, 553]);
    }
    client.download("RETR file").1.expect(550);
    client.expect("SIZE file", 550);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_session_in_a_removed_directory_is_told_so() {
    let server = Server::start();
    std::fs::create_dir(server.path("gone")).unwrap();
    let mut client = server.client();
    client.expect("CWD gone", 250);
    std::fs::remove_dir(server.path("gone")).unwrap();
    client.download("LIST").1.expect(550);
    client.command("CDUP").expect_one_of(&[200, 250]);
    client.list("LIST");
}

#[test]
fn a_tree_50_deep_can_be_walked_both_ways() {
    let server = Server::start();
    let deep = vec!["d"; 50].join("/");
    std::fs::create_dir_all(server.path(&deep)).unwrap();
    let mut client = server.client();
    for _ in 0..50 {
        client.expect("CWD d", 250);
    }
    stands_in(&mut client, format!("/{deep}"));
    client.stor("bottom", b"deep down");
    for _ in 0..50 {
        client.command("CDUP").expect_one_of(&[200, 250]);
    }
    stands_in(&mut client, "/");
    assert_eq!(client.retr(&format!("{deep}/bottom")), b"deep down");
}
