//! What a client that has gone mad cannot do to its own backups: files that are locked while they are young, and old versions
//! of those that are overwritten.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use common::{Client, Server, assert_same_trees, eventually, lftp, noise, rclone, root_may, tree};

fn server(keys: &str) -> Server {
    Server::build().anonymous(keys).start()
}

#[test]
fn a_young_file_can_be_changed_by_no_verb() {
    let server = server("lock = \"30d\"");
    let mut client = server.visitor();
    server.write("file", "precious");
    server.write("sub/inner", "precious, too");
    symlink("file", server.path("link")).unwrap();
    fs::write(server.path("other"), "other").unwrap();
    let before = fs::metadata(server.path("file")).unwrap();

    for line in ["STOR file", "APPE file", "STOR link", "APPE link"] {
        client.upload(line, b"x").expect(550).says("locked until");
    }
    client.expect("REST 4", 350);
    client.upload("STOR file", b"x").expect(550).says("locked");
    for line in [
        "DELE file",
        "DELE link",
        "RMDA sub",
        "MFMT 20200101000000 file",
        "MDTM 20200101000000 file",
        "MFF Modify=20200101000000; file",
        "MFF UNIX.mode=0600; file",
        "SITE CHMOD 600 file",
        "SITE UTIME 202001010000 file",
        "SITE CHMOD 600 link",
        "SITE COPY other file",
        "SITE COPY other sub/inner",
    ] {
        client.expect(line, 550).says("locked");
    }
    for (from, to) in [
        ("file", "elsewhere"),
        ("other", "file"),
        ("sub", "elsewhere"),
        ("sub/inner", "inner"),
        ("link", "elsewhere"),
    ] {
        client.expect(format!("RNFR {from}"), 350);
        client.expect(format!("RNTO {to}"), 550).says("locked");
    }
    client.expect("RMD sub", 550);
    // What is new is welcome, directories without files are nobody's backup, and reading is always possible.
    client.stor("sub/new", b"new");
    client.upload("STOU", b"new").expect(226);
    client.expect("MKD empty", 257);
    client.expect("RNFR empty", 350);
    client.expect("RNTO empty2", 250);
    client.expect("RMD empty2", 250);
    assert_eq!(client.retr("file"), b"precious");
    assert_eq!(server.read("file"), b"precious");
    assert_eq!(server.read("sub/inner"), b"precious, too");
    let after = fs::metadata(server.path("file")).unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    assert_eq!(after.permissions(), before.permissions());
    server.wait_for_log("(setting: lock)");
}

#[test]
fn a_directory_cannot_be_hidden_from_the_lock_and_one_that_is_closed_can_be_opened_again() {
    if !root_may("a server that becomes another user") {
        return;
    }
    let builder = Server::build().anonymous("lock = \"30d\"");
    chown(builder.root(), Some(65534), Some(65534)).unwrap();
    let above = builder.root().parent().unwrap();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    let server = builder.start();
    let mut client = server.visitor();
    for directory in ["a", "a/b", "a/empty"] {
        client.expect(format!("MKD {directory}"), 257);
    }
    client.stor("a/b/file", b"precious");
    client.expect("SITE CHMOD 300 a/b", 550).says("locked");
    client.expect("SITE CHMOD 000 a", 550).says("locked");
    client.expect("MFMT 20200101000000 a/b", 550).says("locked");
    // One that was closed while it was empty holds what nobody can look at.
    client.expect("SITE CHMOD 300 a/empty", 200);
    fs::remove_file(server.path("a/b/file")).unwrap();
    client.stor("a/empty/file", b"precious");
    client.expect("RNFR a", 350);
    client.expect("RNTO x", 550);
    client.expect("SITE CHMOD 100 a/empty", 550);
    client.expect("SITE CHMOD 755 a/empty", 200);
    client.expect("SITE CHMOD 300 a/empty", 550).says("locked");
    assert_eq!(server.read("a/empty/file"), b"precious");
}

#[test]
fn who_comes_second_does_not_replace_what_has_become_young_meanwhile() {
    let server = server("lock = \"30d\"");
    let (mut first, mut second) = (server.visitor(), server.visitor());
    let mut slow = second.epsv();
    second.expect("STOR file", 150);
    slow.write_all(b"second").unwrap();
    first.stor("file", b"first");
    drop(slow);
    second.reply().expect(550).says("locked");
    assert_eq!(server.read("file"), b"first");
}

// ---- what clients do right behind an upload

/// A server with a lock for the usual user, and what it held before.
fn locked() -> (Server, BTreeMap<PathBuf, Vec<u8>>) {
    let builder = Server::build().keys("lock = \"30d\"\n");
    for (name, contents) in [
        ("old", "old"),
        ("dir/older", "older"),
        ("dir/sub/oldest", "oldest"),
    ] {
        let path = builder.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    let held = tree(builder.root());
    (builder.start(), held)
}

#[test]
fn a_file_that_was_just_stored_may_get_its_time_and_its_name() {
    let (server, held) = locked();
    let mut client = server.client();
    // FileZilla, and curl with -R, know the time when the file is there.
    client.stor("new", b"new");
    client.expect("MFMT 20200101000000 new", 213);
    client.expect("MFMT 20210101000000 new", 213);
    client.expect("MDTM new", 213).says("20210101000000");
    // WinSCP gives the name last.
    client.stor("clip.filepart", b"clip");
    client.expect("MFMT 20200101000000 clip.filepart", 213);
    client.expect("RNFR clip.filepart", 350);
    client.expect("RNTO clip", 250);
    client.expect("MDTM clip", 213).says("20200101000000");
    client.expect("SITE UTIME 202201010000 clip", 200);
    assert_eq!(server.read("clip"), b"clip");
    // Nothing else, and no other name that is taken.
    for line in [
        "DELE clip",
        "SITE CHMOD 600 clip",
        "MFF UNIX.mode=0600; clip",
        "SITE COPY new clip",
    ] {
        client.expect(line, 550).says("locked");
    }
    for line in ["STOR clip", "APPE clip"] {
        client.upload(line, b"x").expect(550).says("locked");
    }
    for taken in ["old", "new", "dir/older"] {
        client.expect("RNFR clip", 350);
        client.expect(format!("RNTO {taken}"), 550).says("locked");
    }
    client.expect("RNFR clip", 350);
    client.expect("RNTO dir", 550);
    // Nobody but who has stored it.
    fs::write(server.path("clip"), "by somebody else").unwrap();
    client
        .expect("MFMT 20200101000000 clip", 550)
        .says("locked");
    client.expect("RNFR clip", 350);
    client.expect("RNTO elsewhere", 550).says("locked");
    let now = tree(&server.path(""));
    assert!(
        held.iter()
            .all(|(path, contents)| now.get(path) == Some(contents))
    );
}

#[test]
fn what_one_has_stored_another_may_not_touch() {
    let server = Server::build()
        .anonymous("lock = \"30d\"")
        .keys("lock = \"20d\"\n")
        .with_flag_user()
        .start();
    server.client().stor("file", b"file");
    let mut other = server.visitor();
    other.expect("MFMT 20200101000000 file", 550).says("locked");
    other.expect("RNFR file", 350);
    other.expect("RNTO elsewhere", 550).says("locked");
    server.client().expect("MFMT 20200101000000 file", 213);
}

#[test]
fn what_continues_a_file_is_not_what_was_just_stored() {
    let server = server("lock = \"1s\"");
    let mut client = server.visitor();
    client.stor("log", b"first");
    eventually("it may be continued", || {
        client.upload("APPE log", b"+").code == 226
    });
    client.expect("RNFR log", 350);
    client.expect("RNTO elsewhere", 550).says("locked");
}

#[test]
fn rclone_copies_and_syncs_into_a_root_that_is_locked() {
    let (server, held) = locked();
    let local = server.directory("local");
    let up = local.to_str().unwrap();
    for (name, contents) in [("one", "1"), ("sub/two", "22"), ("sub/deep/three", "333")] {
        let path = local.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
    }
    rclone(&server, &["copy", up, ":ftp:up"]).succeeded();
    assert_same_trees(&local, &server.path("up"));
    let time = fs::metadata(server.path("up/one"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(
        time,
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000)
    );
    fs::write(local.join("four"), "4444").unwrap();
    rclone(&server, &["sync", up, ":ftp:up"]).succeeded();
    rclone(&server, &["sync", up, ":ftp:up"]).succeeded();
    assert_same_trees(&local, &server.path("up"));
    // A sync that is to remove and to overwrite is refused, and says so.
    fs::remove_file(local.join("one")).unwrap();
    fs::write(local.join("four"), "changed").unwrap();
    rclone(&server, &["sync", up, ":ftp:up"]).failed();
    assert_eq!(
        (server.read("up/one"), server.read("up/four")),
        (b"1".to_vec(), b"4444".to_vec())
    );
    let now = tree(&server.path(""));
    assert!(
        held.iter()
            .all(|(path, contents)| now.get(path) == Some(contents))
    );
}

#[test]
fn lftp_mirrors_into_a_root_that_is_locked() {
    let (server, _) = locked();
    let local = server.directory("local");
    fs::create_dir_all(local.join("sub")).unwrap();
    fs::write(local.join("one"), "1").unwrap();
    fs::write(local.join("sub/two"), "22").unwrap();
    let mirror = format!("mirror -R {} up", local.to_str().unwrap());
    lftp(
        &server,
        &format!("set xfer:use-temp-file yes; {mirror}; {mirror}"),
    )
    .succeeded();
    assert_same_trees(&local, &server.path("up"));
}

/// What a program does that wants a ransom, in every order that it may think of.
#[test]
fn a_client_that_has_gone_mad_changes_nothing_that_was_there() {
    let (server, _) = locked();
    // Of what it has stored itself it can change the name and the times, and nothing else.
    server.client().stor("stored", b"stored just now");
    symlink("old", server.path("link")).unwrap();
    let facts = || {
        let files = tree(&server.path(""));
        let of = |path: &PathBuf| {
            let metadata = fs::symlink_metadata(server.path(path.to_str().unwrap())).unwrap();
            (
                metadata.modified().unwrap(),
                metadata.mode(),
                metadata.ino(),
            )
        };
        files
            .into_iter()
            .map(|(path, contents)| (of(&path), path, contents))
            .collect::<Vec<_>>()
    };
    let before = facts();
    for file in ["old", "dir/older", "dir/sub/oldest", "stored", "link"] {
        // Overwrite, append, truncate, write in the middle, break off.
        let mut client = server.client();
        client.expect("TYPE I", 200);
        for line in ["STOR", "APPE"] {
            client.upload(format!("{line} {file}"), b"").expect(550);
            client
                .upload(format!("{line} {file}"), b"encrypted")
                .expect(550);
        }
        for offset in [0, 1, 3] {
            client.expect(format!("REST {offset}"), 350);
            client.upload(format!("STOR {file}"), b"e").expect(550);
        }
        // Delete, make another of that name, rename away, rename over.
        client.expect(format!("DELE {file}"), 550);
        client.stor("encrypted", b"encrypted");
        client.expect("RNFR encrypted", 350);
        client.expect(format!("RNTO {file}"), 550);
        client.expect("SITE CPFR encrypted", 350);
        client
            .command(format!("SITE CPTO {file}"))
            .expect_one_of(&[550, 553]);
        client.expect(format!("SITE COPY encrypted {file}"), 550);
        if file != "stored" {
            client.expect(format!("RNFR {file}"), 350);
            client.expect("RNTO elsewhere", 550);
            client.expect(format!("MFMT 19800101000000 {file}"), 550);
            client.expect(format!("MFF Modify=19800101000000; {file}"), 550);
            client.expect(format!("SITE UTIME 198001010000 {file}"), 550);
        }
        client.expect(format!("SITE CHMOD 000 {file}"), 550);
        client.expect(format!("MFF UNIX.mode=0000; {file}"), 550);
        fs::remove_file(server.path("encrypted")).unwrap();
    }
    let mut client = server.client();
    for directory in ["dir", "dir/sub"] {
        client.expect(format!("RMD {directory}"), 550);
        client.expect(format!("RMDA {directory}"), 550);
        client.expect(format!("RNFR {directory}"), 350);
        client.expect("RNTO elsewhere", 550);
        client.expect(format!("SITE CHMOD 000 {directory}"), 550);
        client.expect(format!("MFMT 19800101000000 {directory}"), 550);
    }
    assert_eq!(facts(), before);
    // What it may do to its own file moves that, and nobody else's.
    client.expect("RNFR stored", 350);
    client.expect("RNTO moved", 250);
    client.expect("RNFR moved", 350);
    client.expect("RNTO old", 550);
    assert_eq!(
        (server.read("moved"), server.read("old")),
        (b"stored just now".to_vec(), b"old".to_vec())
    );
}

/// Breaks an upload off behind its first half.
fn leave_half(server: &Server, client: &mut Client) {
    let data = client.begin_upload("STOR half", &[b'h'; 5000]);
    eventually("it arrives", || {
        server.visitor().command("SIZE half").code == 213
    });
    client.abort();
    drop(data);
}

#[test]
fn an_upload_that_was_cut_off_can_be_continued_and_thrown_away_under_a_lock() {
    let server = server("lock = \"30d\"");
    let mut client = server.visitor();
    for (line, all) in [("APPE half", true), ("DELE half", false)] {
        leave_half(&server, &mut client);
        if all {
            client.upload(line, &[b'h'; 1000]).expect(226);
            assert_eq!(server.read("half"), [b'h'; 4096 + 1000]);
            fs::remove_file(server.path("half")).unwrap();
        } else {
            client.expect(line, 250);
            client.expect("SIZE half", 550);
        }
    }
}

#[test]
fn a_lock_ends_with_its_time_and_folders_have_their_own() {
    let server = Server::build()
        .configuration(
            "[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\nlock = \"1s\"\n\
             [[anonymous.folder]]\npath = \"/open\"\nroot = \"{home}\"\nlock = \"0s\"\n",
        )
        .start();
    let mut client = server.visitor();
    client.stor("open/file", b"one");
    client.stor("open/file", b"two");
    client.expect("DELE open/file", 250);
    client.stor("file", b"one");
    eventually("it is old enough", || {
        client.upload("STOR file", b"two").code == 226
    });
    eventually("it is old enough again", || {
        client.command("DELE file").code == 250
    });
}

#[test]
fn who_is_not_bound_by_the_lock_of_others_is_named_at_the_start() {
    let builder = Server::build().anonymous("lock = \"30d\"").with_flag_user();
    let server = builder.start();
    let line = server.wait_for_log("is open to t, who has no lock there");
    assert!(
        line.contains("WARN") && line.contains("what anonymous has locked for 30 d in "),
        "{line}"
    );
}

#[test]
fn add_only_users_add_and_nothing_else() {
    let server = Server::build()
        .configuration("[anonymous]\nroot = \"{root}\"\naccess = \"add-only\"\n")
        .start();
    let mut client = server.visitor();
    client.stor("file", b"precious");
    client.upload("STOR file", b"x").expect(550);
    client.upload("APPE file", b"x").expect(550);
    client.expect("REST 1", 350);
    client.upload("STOR file", b"x").expect(550);
    for line in [
        "DELE file",
        "RNFR file",
        "MFMT 20200101000000 file",
        "RMDA .",
    ] {
        client.expect(line, 550);
    }
    assert_eq!(server.read("file"), b"precious");
}

#[test]
fn who_may_only_add_continues_an_upload_of_their_own_by_appe() {
    for access in ["add-only", "upload-only"] {
        let text = format!("[anonymous]\nroot = \"{{root}}\"\naccess = \"{access}\"\n");
        let server = Server::build().configuration(&text).start();
        let mut client = server.visitor();
        leave_half(&server, &mut client);
        client.upload("APPE half", &[b'h'; 1000]).expect(226);
        assert_eq!(server.read("half"), [b'h'; 4096 + 1000], "{access}");
        client.upload("APPE half", b"x").expect(550);
        assert_eq!(server.read("half"), [b'h'; 4096 + 1000], "{access}");
    }
}

/// The versions of a file on the host, the oldest first.
fn versions(server: &Server, file: &str) -> Vec<PathBuf> {
    let directory = server.path(".thriftpd-versions").join(file);
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    paths
}

fn contents(server: &Server, file: &str) -> Vec<String> {
    let versions = versions(server, file);
    versions
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

#[test]
fn the_last_versions_of_an_overwritten_file_are_kept() {
    let server = server("versions = 2");
    let mut client = server.visitor();
    client.expect("MKD sub", 257);
    for contents in ["one", "two", "three", "four"] {
        client.stor("sub/file", contents.as_bytes());
    }
    assert_eq!(contents(&server, "sub/file"), ["two", "three"]);
    assert_eq!(server.read("sub/file"), b"four");
    // Renamed over.
    client.stor("other", b"other");
    client.expect("RNFR other", 350);
    client.expect("RNTO sub/file", 250);
    assert_eq!(contents(&server, "sub/file"), ["three", "four"]);
    // Changed in the middle, but not added to.
    client.upload("APPE sub/file", b"+").expect(226);
    assert_eq!(contents(&server, "sub/file"), ["three", "four"]);
    client.expect("REST 2", 350);
    client.upload("STOR sub/file", b"X").expect(226);
    assert_eq!(contents(&server, "sub/file"), ["four", "other+"]);
    assert_eq!(server.read("sub/file"), b"otX");
    // Cut off: nothing was overwritten.
    let mut data = client.epsv();
    client.expect("STOR sub/file", 150);
    data.write_all(b"half").unwrap();
    client.send("ABOR");
    client.reply().expect(426);
    client.reply().expect(226);
    assert_eq!(contents(&server, "sub/file"), ["four", "other+"]);
    assert!(!client.list("NLST -a").join(" ").contains("versions"));
    for line in [
        "CWD .thriftpd-versions",
        "MLST .thriftpd-versions",
        "MKD sub/.thriftpd-versions",
    ] {
        client.expect(line, 550);
    }
}

/// File systems that fold case by Unicode find the server's own directories under these names as well.
#[test]
fn no_character_that_is_not_seen_leads_to_the_old_versions() {
    let server = server("versions = 2\nshow_versions = true");
    let mut client = server.visitor();
    client.stor("file", b"one");
    client.stor("file", b"two");
    for name in [
        ".thri\u{200d}ftpd-versions",
        ".thriftpd\u{ad}-VERSIONS",
        "\u{feff}.thriftpd",
        "\u{ff0e}thriftpd-versions",
    ] {
        for line in ["CWD", "RMDA", "MKD", "SIZE", "RNFR"] {
            client.expect(format!("{line} {name}/file"), 553);
            client.expect(format!("{line} {name}"), 553);
        }
        client
            .upload(format!("STOR {name}/file/x"), b"x")
            .expect(553);
    }
    assert_eq!(contents(&server, "file"), ["one"]);
}

#[test]
fn versions_of_uploads_in_place_are_copies() {
    let server = server("versions = 2\nuploads = \"direct\"");
    let mut client = server.visitor();
    client.stor("file", b"one");
    client.stor("file", b"two");
    client.expect("REST 1", 350);
    client.upload("STOR file", b"x").expect(226);
    assert_eq!(contents(&server, "file"), ["one", "two"]);
    assert_eq!(server.read("file"), b"tx");
}

#[test]
fn versions_can_be_listed_and_fetched_where_they_are_shown_and_never_changed() {
    let server = server("versions = 5\nshow_versions = true");
    let mut client = server.visitor();
    client.stor("file", &noise(5000));
    client.stor("file", b"new");
    assert!(
        client
            .list("NLST")
            .contains(&".thriftpd-versions".to_owned())
    );
    client.expect("CWD .thriftpd-versions/file", 250);
    let names = client.list("NLST");
    assert_eq!(names.len(), 1);
    let name = &names[0];
    assert_eq!(client.retr(name), noise(5000));
    client.expect(format!("SIZE {name}"), 213).says("5000");
    for line in [
        format!("DELE {name}"),
        format!("SITE CHMOD 777 {name}"),
        format!("MFMT 20200101000000 {name}"),
        "MKD sub".to_owned(),
        "RMDA /.thriftpd-versions".to_owned(),
    ] {
        client.expect(line, 550);
    }
    client.expect(format!("RNFR {name}"), 350);
    client.expect("RNTO /stolen", 550);
    client.upload(format!("STOR {name}"), b"x").expect(550);
    client.upload("STOR planted", b"x").expect(550);
    client.expect("CWD /", 250);
    client.stor("again", b"x");
    client.expect("RNFR again", 350);
    client.expect("RNTO .thriftpd-versions/file/again", 550);
    assert_eq!(versions(&server, "file").len(), 1);
    client.expect("CWD /.thriftpd", 553);
}
