//! `thriftpd backups`: what was uploaded last is remembered where it went, and who is overdue is named.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::{Client, Finished, Server, run_client};

fn backups(home: &Path) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
    command.arg("backups").arg("--config");
    command.arg(home.join("thriftpd.toml")).env("TZ", "XYZ-2");
    run_client(&mut command, 20)
}

fn server(keys: &str) -> Server {
    let configuration =
        format!("[anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n{keys}\n");
    Server::build().configuration(&configuration).start()
}

fn login(server: &Server) -> Client {
    let mut client = server.connect();
    client.login_as("ftp", "x").expect(230);
    client.expect("TYPE I", 200);
    client
}

#[test]
fn the_last_upload_is_told_with_what_came_of_late() {
    let server = server("");
    let mut client = login(&server);
    client.expect("MKD dir", 257);
    client.stor("dir/first", &[b'x'; 1000]);
    client.stor("dir/a \x1b[31mred\\ file", b"12345");
    client.upload("APPE dir/first", b"more").expect(226);
    let told = backups(server.home()).succeeded();
    let text = told.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("anonymous: 20"), "{text}");
    // Two hours ahead of UTC.
    let hour = |time: i64| (time / 3600 + 2) % 24;
    let at = now();
    let hours = [hour(at), hour(at - 60)].map(|hour| format!(" {hour:02}:"));
    assert!(
        hours.iter().any(|hour| lines[0].contains(hour.as_str())),
        "{text}"
    );
    assert!(lines[0].contains(" XYZ, ") && lines[0].contains(" ago: "));
    assert!(lines[0].ends_with(": /dir/first, 1004 bytes"), "{text}");
    assert_eq!(lines[1], "  last day: 1009 bytes in 3 files");
    assert_eq!(lines[2], "  last week: 1009 bytes in 3 files");
    assert!(told.stderr.is_empty(), "{}", told.stderr);
    client.stor("dir/a \x1b[31mred\\ file", b"12345");
    let text = backups(server.home()).succeeded().text();
    assert!(
        text.contains(": /dir/a \\u{1b}[31mred\\\\ file, 5 bytes"),
        "{text}"
    );
}

fn now() -> i64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

#[test]
fn who_is_overdue_is_named_and_the_command_fails() {
    let server = server("expect_every = \"26h\"");
    let told = backups(server.home()).failed();
    assert!(told.text().contains("anonymous: no upload is known"));
    let line = "thriftpd: anonymous: overdue: an upload is expected every 26 hours, and none has come yet\n";
    assert!(told.stderr.starts_with(line), "{}", told.stderr);
    assert_eq!(told.status.code(), Some(1));
    let mut client = login(&server);
    client.upload("STOR none/file", b"x").expect(550);
    backups(server.home()).failed();
    client.stor("file", b"x");
    let told = backups(server.home()).succeeded();
    assert!(told.stderr.is_empty(), "{}", told.stderr);
    // A damaged record is none.
    let record = server.path(".thriftpd/uploads-anonymous");
    let mut bytes = fs::read(&record).unwrap();
    bytes[45] ^= 1;
    fs::write(&record, bytes).unwrap();
    backups(server.home()).failed();
    client.stor("file", b"x");
    backups(server.home()).succeeded();
}

#[test]
fn what_is_remembered_lies_where_it_went_and_clients_see_nothing_of_it() {
    let server = server(
        "expect_every = \"1h\"\n[[anonymous.folder]]\npath = \"/folder\"\nroot = \"{home}/folder\"",
    );
    let folder = server.directory("folder");
    let mut client = login(&server);
    client.stor("folder/file", b"123");
    assert!(!server.exists(".thriftpd") && folder.join(".thriftpd/uploads-anonymous").exists());
    let text = backups(server.home()).succeeded().text();
    assert!(text.contains(": /folder/file, 3 bytes"), "{text}");
    client.stor("file", b"4567");
    let text = backups(server.home()).succeeded().text();
    assert!(text.contains("last day: 7 bytes in 2 files"), "{text}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&server.path(".thriftpd")), 0o700);
    assert_eq!(mode(&server.path(".thriftpd/uploads-anonymous")), 0o600);
    let listed = client.list("LIST -a");
    assert!(!listed.iter().any(|line| line.contains("thriftpd")));
    client
        .download("RETR .thriftpd/uploads-anonymous")
        .1
        .expect(553);
    // A disk that is not there is said to be missing, and the command fails.
    fs::rename(&folder, server.home().join("elsewhere")).unwrap();
    let told = backups(server.home()).failed();
    for words in [
        "/folder: what anonymous has uploaded cannot be told",
        "1 root or folder cannot be read",
    ] {
        assert!(told.stderr.contains(words), "{}", told.stderr);
    }
    assert_eq!(told.status.code(), Some(1));
}

#[test]
fn a_disk_that_is_not_mounted_is_named_and_the_command_fails() {
    for keys in [
        "require_mount = true",
        "require_mount = true\nexpect_every = \"26h\"",
    ] {
        let server = server(keys);
        let told = backups(server.home()).failed();
        assert!(
            told.stderr.contains("/root: what anonymous has uploaded cannot be told")
                && told.stderr.contains("not mounted")
                // What is not known is not said.
                && !told.stderr.contains("none has come yet"),
            "{}",
            told.stderr
        );
        assert_eq!(told.status.code(), Some(1));
    }
}

#[test]
fn an_upload_is_complete_even_where_it_cannot_be_noted() {
    let server = server("");
    fs::write(server.path(".thriftpd"), "in the way").unwrap();
    let mut client = login(&server);
    client.stor("file", b"x");
    let line = server.wait_for_log("not noted");
    assert!(line.contains("/root/file"), "{line}");
    assert_eq!(server.read("file"), b"x");
    assert_eq!(server.read(".thriftpd"), b"in the way");
}

#[test]
fn uploads_at_once_are_all_counted() {
    let server = server("");
    std::thread::scope(|scope| {
        for number in 0..4 {
            let server = &server;
            scope.spawn(move || {
                let mut client = login(server);
                for round in 0..10 {
                    client.stor(&format!("file{number}-{round}"), b"12");
                }
            });
        }
    });
    let text = backups(server.home()).succeeded().text();
    assert!(text.contains("last day: 80 bytes in 40 files"), "{text}");
}
