//! Everything that changes or asks about a file and needs no data connection: SIZE MDTM MFMT MFCT MFF (RFC 3659, draft
//! MFMT), RNFR RNTO DELE MKD RMD RMDA SITE (RFC 959, RFC 775 for the X forms), AVBL.

mod common;

use common::{Server, USER};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

fn modified(server: &Server, name: &str) -> u64 {
    let time = std::fs::metadata(server.path(name))
        .unwrap()
        .modified()
        .unwrap();
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn set_modified(server: &Server, name: &str, seconds: u64) {
    let when = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    std::fs::File::options()
        .write(true)
        .open(server.path(name))
        .unwrap()
        .set_modified(when)
        .unwrap();
}

#[test]
fn size_is_exact_in_both_types() {
    let server = Server::start();
    server.write("file", "one\ntwo\n");
    let mut client = server.client();
    assert_eq!(client.expect("SIZE file", 213).last(), b"8");
    client.expect("TYPE A", 200);
    assert_eq!(client.expect("SIZE file", 213).last(), b"10");
}

#[test]
fn size_in_ascii_of_a_huge_file_is_550() {
    let server = Server::start();
    std::fs::File::create(server.path("huge"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let mut client = server.client();
    assert_eq!(client.expect("SIZE huge", 213).last(), b"1099511627776");
    client.expect("TYPE A", 200);
    client.expect("SIZE huge", 550);
}

#[test]
fn size_of_what_is_no_file_is_550() {
    let server = Server::start();
    std::fs::create_dir(server.path("dir")).unwrap();
    let mut client = server.client();
    client.expect("SIZE missing", 550);
    client.expect("SIZE dir", 550);
    client.expect("SIZE", 501);
}

#[test]
fn mdtm_is_in_utc_to_the_second() {
    let server = Server::start();
    server.write("file", "x");
    set_modified(&server, "file", 1_000_000_000);
    let mut client = server.client();
    assert_eq!(client.expect("MDTM file", 213).last(), b"20010909014640");
    client.expect("MDTM missing", 550);
    client.expect("MDTM", 501);
}

#[test]
fn mdtm_with_a_time_sets_it() {
    let server = Server::start();
    server.write("file", "x");
    let mut client = server.client();
    client
        .command("MDTM 20010909014640 file")
        .expect_one_of(&[213, 250, 253]);
    assert_eq!(modified(&server, "file"), 1_000_000_000);
}

#[test]
fn mdtm_of_a_file_named_like_a_time_asks_about_that_file() {
    let server = Server::start();
    server.write("20010909014640 file", "x");
    set_modified(&server, "20010909014640 file", 1_100_000_000);
    let mut client = server.client();
    assert_eq!(
        client.expect("MDTM 20010909014640 file", 213).last(),
        b"20041109113320"
    );
    server.write("20010909014640", "x");
    set_modified(&server, "20010909014640", 1_100_000_000);
    assert_eq!(
        client.expect("MDTM 20010909014640", 213).last(),
        b"20041109113320"
    );
}

#[test]
fn mfmt_sets_the_time_and_says_it() {
    let server = Server::start();
    server.write("a file", "x");
    let mut client = server.client();
    client
        .expect("MFMT 20010909014640 a file", 213)
        .says("Modify=20010909014640; ");
    assert_eq!(modified(&server, "a file"), 1_000_000_000);
    client.expect("MFMT 20010909014640 missing", 550);
    for bad in [
        "MFMT",
        "MFMT 20010909014640",
        "MFMT 2001 a file",
        "MFMT 20011309014640 a file",
        "MFMT x a file",
    ] {
        client.expect(bad, 501);
    }
    assert_eq!(modified(&server, "a file"), 1_000_000_000);
}

#[test]
fn mfct_is_504() {
    let server = Server::start();
    server.write("file", "x");
    server
        .client()
        .command("MFCT 20010909014640 file")
        .expect_one_of(&[502, 504]);
}

#[test]
fn mff_sets_facts() {
    let server = Server::start();
    server.write("file", "x");
    let mut client = server.client();
    client
        .expect("MFF Modify=20010909014640;UNIX.mode=0600; file", 213)
        .says("file");
    assert_eq!(modified(&server, "file"), 1_000_000_000);
    assert_eq!(
        std::fs::metadata(server.path("file")).unwrap().mode() & 0o7777,
        0o600
    );
    client
        .command("MFF Create=20010909014640; file")
        .expect_one_of(&[501, 504]);
    client.expect("MFF Modify=20010909014640; missing", 550);
    client.expect("MFF", 501);
}

#[test]
fn a_file_is_renamed_and_moved() {
    let server = Server::start();
    server.write("one", "content");
    std::fs::create_dir(server.path("dir")).unwrap();
    let mut client = server.client();
    client.expect("RNFR one", 350);
    client.expect("RNTO two", 250);
    client.expect("RNFR two", 350);
    client.expect("RNTO /dir/three", 250);
    assert_eq!(server.read("dir/three"), b"content");
    assert!(!server.exists("one") && !server.exists("two"));
}

#[test]
fn a_directory_is_renamed_with_what_is_in_it() {
    let server = Server::start();
    server.write("dir/sub/file", "content");
    let mut client = server.client();
    client.expect("RNFR dir", 350);
    client.expect("RNTO other", 250);
    assert_eq!(server.read("other/sub/file"), b"content");
}

#[test]
fn rnto_comes_right_behind_rnfr_only() {
    let server = Server::start();
    server.write("one", "x");
    let mut client = server.client();
    client.expect("RNTO two", 503);
    client.expect("RNFR one", 350);
    client.expect("PWD", 257);
    client.expect("RNTO two", 503);
    client.expect("RNFR one", 350);
    client.expect("RNTO two", 250);
    client.expect("RNTO three", 503);
    client.expect("RNFR missing", 550);
    client.expect("RNTO three", 503);
    assert!(server.exists("two"));
}

#[test]
fn renames_that_cannot_be_are_refused() {
    let server = Server::start();
    server.write("file", "x");
    server.write("dir/inner", "x");
    let mut client = server.client();
    for target in ["missing/file", "dir/inner/below", "dir", "/", "..", ""] {
        client.expect("RNFR file", 350);
        client
            .command(format!("RNTO {target}"))
            .expect_one_of(&[501, 550, 553]);
    }
    client.expect("RNFR dir", 350);
    client
        .command("RNTO dir/inside-itself")
        .expect_one_of(&[550, 553]);
    client.command("RNFR /").expect_one_of(&[350, 550]);
    client
        .command("RNTO elsewhere")
        .expect_one_of(&[503, 550, 553]);
    assert!(server.exists("file") && server.exists("dir/inner"));
}

#[test]
fn dele_removes_files_only() {
    let server = Server::start();
    server.write("file", "x");
    std::fs::create_dir(server.path("dir")).unwrap();
    let mut client = server.client();
    client.expect("DELE file", 250);
    assert!(!server.exists("file"));
    client.expect("DELE file", 550);
    client.expect("DELE dir", 550);
    client.expect("DELE", 501);
    assert!(server.exists("dir"));
}

#[test]
fn dele_of_a_symlink_removes_the_link() {
    let server = Server::start();
    server.write("file", "x");
    std::os::unix::fs::symlink("file", server.path("link")).unwrap();
    server.client().expect("DELE link", 250);
    assert!(server.exists("file") && !server.exists("link"));
}

#[test]
fn mkd_makes_a_directory_and_quotes_its_absolute_path() {
    let server = Server::start();
    let mut client = server.client();
    let reply = client.expect("MKD new dir", 257);
    assert!(
        reply.last().starts_with(b"\"/new dir\""),
        "{}",
        reply.text()
    );
    client.expect("CWD new dir", 250);
    let reply = client.expect("XMKD in\"side", 257);
    assert!(
        reply.last().starts_with(b"\"/new dir/in\"\"side\""),
        "{}",
        reply.text()
    );
    assert!(server.path("new dir/in\"side").is_dir());
    client.expect("MKD in\"side", 550);
    client.command("MKD a/b/c").expect(550);
    client.expect("MKD", 501);
    client.command("MKD /").expect_one_of(&[501, 550, 553]);
}

#[test]
fn rmd_removes_empty_directories_only() {
    let server = Server::start();
    std::fs::create_dir(server.path("empty")).unwrap();
    std::fs::create_dir(server.path("another")).unwrap();
    server.write("full/file", "x");
    server.write("file", "x");
    let mut client = server.client();
    client.expect("RMD empty", 250);
    client.expect("XRMD another/", 250);
    client.expect("RMD empty", 550);
    client.expect("RMD full", 550);
    client.expect("RMD file", 550);
    client.expect("RMD /", 550);
    client.expect("RMD", 501);
    assert!(server.exists("full/file") && server.exists("file"));
}

#[test]
fn rmda_removes_a_tree_and_follows_no_link() {
    let server = Server::start();
    server.write("tree/a/b/file", "x");
    server.write("tree/.hidden", "x");
    server.write("kept/file", "x");
    std::os::unix::fs::symlink("../kept", server.path("tree/link")).unwrap();
    let outside = server.directory("outside");
    std::fs::write(outside.join("file"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, server.path("tree/out")).unwrap();
    let mut client = server.client();
    client.expect("RMDA tree", 250);
    assert!(!server.exists("tree"));
    assert!(server.exists("kept/file") && outside.join("file").exists());
    client.expect("RMDA tree", 550);
    client.command("RMDA /").expect_one_of(&[501, 550]);
    client.expect("RMDA", 501);
    assert!(server.exists("kept/file"));
}

#[test]
fn rmda_of_a_deep_tree_works() {
    let server = Server::start();
    std::fs::create_dir_all(server.path(vec!["d"; 200].join("/"))).unwrap();
    server.client().expect("RMDA d", 250);
    assert!(!server.exists("d"));
}

#[test]
fn site_chmod_sets_permission_bits() {
    let server = Server::start();
    server.write("a file", "x");
    let mut client = server.client();
    let mode = || {
        std::fs::metadata(server.path("a file"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    client.expect("SITE CHMOD 640 a file", 200);
    assert_eq!(mode(), 0o640);
    client.expect("site chmod 0755 a file", 200);
    assert_eq!(mode(), 0o755);
    client.expect("SITE CHMOD 644 missing", 550);
    for bad in [
        "SITE CHMOD",
        "SITE CHMOD 644",
        "SITE CHMOD 999 a file",
        "SITE CHMOD x a file",
        "SITE CHMOD 77777 a file",
    ] {
        client.command(bad).expect(501);
    }
    assert_eq!(mode(), 0o755);
}

#[test]
fn site_utime_sets_times_in_both_forms() {
    let server = Server::start();
    server.write("a file", "x");
    let mut client = server.client();
    client.expect("SITE UTIME 20010909014640 a file", 200);
    assert_eq!(modified(&server, "a file"), 1_000_000_000);
    client.expect(
        "SITE UTIME a file 20041109113320 20041109113320 20041109113320 UTC",
        200,
    );
    assert_eq!(modified(&server, "a file"), 1_100_000_000);
    client
        .command("SITE UTIME 20010909014640 missing")
        .expect(550);
    client.command("SITE UTIME").expect(501);
    client.command("SITE UTIME nonsense").expect(501);
}

#[test]
fn site_idle_tells_and_sets_the_time_out() {
    let server = Server::start();
    let mut client = server.client();
    client.expect("SITE IDLE", 200).says("900");
    client.expect("SITE IDLE 120", 200).says("120");
    client.expect("SITE IDLE", 200).says("120");
    for refused in ["x", "-5", "29", "901", "18446744073709551616"] {
        client.expect(format!("SITE IDLE {refused}"), 501);
    }
    // No longer than the owner has set it.
    let server = Server::build()
        .configuration("[timeouts]\nidle = 20\n")
        .with_flag_user()
        .start();
    let mut client = server.client();
    client.expect("SITE IDLE 21", 501).says("From 20 to 20 s");
    client.expect("SITE IDLE 20", 200);
}

#[test]
fn site_who_shows_own_sessions() {
    let server = Server::build()
        .arguments(&["--user", "second:other"])
        .start();
    let mut client = server.client();
    let _again = server.client();
    let mut other = server.connect();
    other.login_as("second", "other").expect(230);
    let reply = client
        .command("SITE WHO")
        .expect_one_of(&[200, 211, 214])
        .says(USER)
        .says("127.0.0.1");
    assert!(!reply.text().contains("second"), "{}", reply.text());
    assert_eq!(reply.text().matches("127.0.0.1").count(), 2);
}

#[test]
fn site_who_shows_guests_nobody_else() {
    let server = Server::build().anonymous("").start();
    let (mut one, mut other) = (server.visitor(), server.visitor());
    for guest in [&mut one, &mut other] {
        let text = guest.expect("SITE WHO", 200).text();
        assert_eq!(text.matches("127.0.0.1").count(), 1, "{text}");
        assert!(text.contains('*'), "{text}");
    }
}

#[test]
fn unknown_site_commands_are_refused() {
    let server = Server::start();
    let mut client = server.client();
    client
        .command("SITE EXEC ls")
        .expect_one_of(&[500, 501, 502, 504]);
    client.expect("SITE", 501);
    client.expect("NOOP", 200);
}

#[test]
fn avbl_tells_the_free_bytes() {
    let server = Server::start();
    std::fs::create_dir(server.path("dir")).unwrap();
    let mut client = server.client();
    for command in ["AVBL", "AVBL dir", "AVBL /"] {
        let reply = client.expect(command, 213);
        let free: u64 = String::from_utf8_lossy(reply.last())
            .trim()
            .parse()
            .unwrap();
        assert!(free > 0);
    }
    client.expect("AVBL missing", 550);
}

#[test]
fn new_files_are_private_to_owner_and_group_as_configured() {
    let server = Server::start();
    let mut client = server.client();
    client.stor("file", b"x");
    client.expect("MKD dir", 257);
    let mode = |name: &str| std::fs::metadata(server.path(name)).unwrap().mode() & 0o777;
    assert_eq!(mode("file") & 0o111, 0, "a new file is not executable");
    assert_eq!(
        mode("file") & 0o022,
        0,
        "a new file is not writable by others"
    );
    assert_eq!(mode("dir") & 0o700, 0o700);
    assert_eq!(mode("dir") & 0o002, 0);
}

#[test]
fn a_path_may_be_absolute_relative_or_full_of_dots() {
    let server = Server::start();
    server.write("a/b/file", "content");
    let mut client = server.client();
    client.expect("CWD a", 250);
    for path in [
        "b/file",
        "/a/b/file",
        "../a/./b//file",
        "b/../b/file",
        "/../../a/b/file",
    ] {
        assert_eq!(client.retr(path), b"content", "{path}");
    }
}
