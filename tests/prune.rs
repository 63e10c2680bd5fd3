//! What goes after a while: old files by their age, and the oldest until the disk has room; and all that never goes.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::{Builder, Client, Finished, Mounted, Server, eventually, noise, run_client};

const DAY: u64 = 24 * 3600;

/// A configuration beside a directory, without a server.
struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new(configuration: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("root")).unwrap();
        let place = Self { home };
        let text = configuration.replace("{root}", place.root().to_str().unwrap());
        let text = text.replace("{home}", place.home.path().to_str().unwrap());
        fs::write(place.home.path().join("thriftpd.toml"), text).unwrap();
        place
    }

    /// Anybody may write, with these keys.
    fn with(keys: &str) -> Self {
        Self::new(&everybody(keys))
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("root")
    }

    fn file(&self, name: &str, days: u64) -> PathBuf {
        old_file(&self.root().join(name), days)
    }

    fn prune(&self, arguments: &[&str]) -> Finished {
        prune(self.home.path(), arguments)
    }
}

fn everybody(keys: &str) -> String {
    format!("[anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n{keys}\n")
}

fn prune(home: &Path, arguments: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
    command.arg("prune").args(arguments).arg("--config");
    command.arg(home.join("thriftpd.toml"));
    run_client(&mut command, 60)
}

fn old_file(path: &Path, days: u64) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "contents").unwrap();
    age(path, days);
    path.to_owned()
}

fn age(path: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * DAY + 60);
    File::open(path).unwrap().set_modified(then).unwrap();
}

fn login(server: &Server) -> Client {
    let mut client = server.connect();
    client.login_as("ftp", "x").expect(230);
    client.expect("TYPE I", 200);
    client
}

fn are_there(paths: &[&PathBuf]) -> Vec<bool> {
    paths
        .iter()
        .map(|path| path.symlink_metadata().is_ok())
        .collect()
}

/// All regular files with what they hold, and all directories.
fn snapshot(top: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                ahead.push(path.clone());
            }
            found.push((path, metadata.ino()));
        }
    }
    found.sort();
    found
}

#[test]
fn old_files_go_with_the_directories_that_they_leave_empty() {
    let place = Place::with("keep_days = 30");
    let old = place.file("a/b/c/old \n name", 31);
    let young = place.file("a/young", 29);
    let new = place.file("new", 0);
    let alone = place.file("x/y/alone", 400);
    let empty = place.root().join("empty/inside");
    fs::create_dir_all(&empty).unwrap();
    let outside = old_file(&place.home.path().join("outside/old"), 100);
    symlink(place.home.path().join("outside"), place.root().join("link")).unwrap();
    symlink(&outside, place.root().join("file link")).unwrap();
    let said = place.prune(&[]).succeeded();
    assert!(
        said.text()
            .contains("removed 2 files of 16 bytes and 4 directories"),
        "{}",
        said.text()
    );
    assert_eq!(
        are_there(&[&old, &alone, &young, &new, &empty, &outside]),
        [false, false, true, true, true, true]
    );
    assert_eq!(
        are_there(&[
            &place.root().join("x"),
            &place.root().join("a/b"),
            &place.root().join("a")
        ]),
        [false, false, true]
    );
    assert!(place.root().join("file link").symlink_metadata().is_ok());
    let again = place.prune(&[]).succeeded();
    assert!(again.text().contains("removed 0 files"), "{}", again.text());
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let place = Place::with("keep_days = 30\nkeep_free = \"99%\"");
    place.file("dir/old\nforged line", 40);
    place.file("younger", 3);
    let before = snapshot(&place.root());
    let said = place.prune(&["--dry-run"]);
    let text = said.text();
    assert_eq!(snapshot(&place.root()), before);
    assert!(
        text.contains("would remove ") && text.contains("/dir/old\\u{a}forged line (8 bytes)\n"),
        "{text}"
    );
    // Oldest first, and each once.
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].ends_with("/root/younger (8 bytes)"), "{text}");
    assert!(
        lines[2].ends_with("/root: would remove 2 files of 16 bytes"),
        "{text}"
    );
    let failed = said.failed();
    assert!(
        failed.stderr.contains("bytes too few are free"),
        "{}",
        failed.stderr
    );
}

#[test]
fn what_is_the_servers_own_and_what_others_have_rules_for_stays() {
    let place = Place::new(
        "[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\nkeep_days = 5\n\
         [[anonymous.folder]]\npath = \"/f\"\nroot = \"{root}/folder\"\nkeep_days = 50\n",
    );
    let partial = place.file(".thriftpd-name-0123-0.partial", 40);
    let state = place.file(".thriftpd/uploads-anonymous", 40);
    let theirs = place.file("folder/sub/file", 40);
    let nested = place.file("dir/.thriftpd-versions/file/20200101T000000.000000Z", 40);
    let gone = [
        place.file("folder/sub/older", 60),
        place.file("folders/file", 6),
    ];
    place.prune(&[]).succeeded();
    assert_eq!(are_there(&[&partial, &state, &theirs, &nested]), [true; 4]);
    assert_eq!(are_there(&[&gone[0], &gone[1]]), [false; 2]);
}

#[test]
fn locked_files_stay_however_old_they_say_they_are() {
    let place = Place::with("keep_days = 1\nkeep_free = \"99%\"\nlock = \"1h\"");
    let file = place.file("file", 1000);
    let said = place.prune(&[]).failed();
    assert!(file.exists());
    assert!(
        said.stderr
            .contains("1 files are too young to go (setting: lock)"),
        "{}",
        said.stderr
    );
}

#[test]
fn an_old_version_is_as_old_as_its_being_one() {
    let configuration = everybody("keep_days = 10\nversions = 3");
    let server = Server::build().configuration(&configuration).start();
    let mut client = login(&server);
    client.stor("file", b"first");
    age(&server.path("file"), 5);
    client.stor("file", b"second");
    // It has the old time of modification, which does not count.
    let versions = server.path(".thriftpd-versions/file");
    let version = fs::read_dir(&versions)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    age(&version, 1000);
    prune(server.home(), &[]).succeeded();
    assert!(version.exists());
}

#[test]
fn where_one_who_may_upload_keeps_everything_everything_is_kept() {
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$\
                Uo7X0b1Yb1n3q0v0hQ3XyXHq1o5v3l2xk3z0Yw1s2t4";
    let user = |name: &str, keys: &str| {
        format!("[[user]]\nname = \"{name}\"\npassword = \"{hash}\"\nroot = \"{{root}}\"\n{keys}\n")
    };
    let place = Place::new(&[user("anna", "keep_days = 5"), user("bert", "")].concat());
    let file = place.file("file", 50);
    let said = place.prune(&[]).succeeded();
    assert!(file.exists());
    assert!(
        said.text().contains("keep_days is not obeyed") && said.text().contains("anna, bert"),
        "{}",
        said.text()
    );
    let longer = user("bert", "keep_days = 49");
    let place = Place::new(&[user("anna", "keep_days = 5"), longer].concat());
    let [gone, kept] = [place.file("gone", 50), place.file("kept", 48)];
    place.prune(&[]).succeeded();
    assert_eq!(are_there(&[&gone, &kept]), [false, true]);
}

#[test]
fn what_cannot_be_done_is_said_and_the_command_fails() {
    let place = Place::new(
        "[anonymous]\nroot = \"{root}\"\naccess = \"read-write\"\nkeep_days = 5\nrequire_mount = true\n\
         [[anonymous.folder]]\npath = \"/f\"\nroot = \"{home}/none\"\n\
         [[anonymous.folder]]\npath = \"/g\"\nroot = \"{home}/there\"\n",
    );
    let waits = place.file("file", 50);
    let goes = old_file(&place.home.path().join("there/file"), 50);
    let said = place.prune(&[]).failed();
    assert_eq!(are_there(&[&waits, &goes]), [true, false]);
    assert!(
        said.stderr.contains("/root: nothing is taken away") && said.stderr.contains("not mounted"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("/none: nothing is taken away"),
        "{}",
        said.stderr
    );
    let nothing = Place::with("");
    let said = nothing.prune(&[]).succeeded();
    assert!(said.text().contains("nothing is ever taken away"));
}

#[test]
fn the_server_does_it_when_it_starts() {
    let configuration = everybody("keep_days = 5\nquota = \"1GB\"");
    let builder = Server::build().configuration(&format!("log = \"debug\"\n{configuration}"));
    let old = old_file(&builder.root().join("dir/old"), 50);
    let new = old_file(&builder.root().join("new"), 1);
    let server = builder.start();
    let line = server.wait_for_log("directories that were empty then");
    assert!(
        line.contains("removed 1 files of 8 bytes and 1 directories"),
        "{line}"
    );
    server.wait_for_log("dir/old (8 bytes)");
    assert_eq!(are_there(&[&old, &new]), [false, true]);
    // The quota knows.
    let mut client = login(&server);
    let said = client.expect("SITE QUOTA", 200).text();
    assert!(
        said.contains("Bytes: 8 of") && said.contains("Files: 1"),
        "{said}"
    );
}

// ---- until the disk has room

fn on_a_small_disk(keys: &str) -> Option<(Builder, Mounted)> {
    let builder = Server::build().configuration(&everybody(keys));
    let disk = Mounted::in_memory(&builder, "size=4m")?;
    Some((builder, disk))
}

/// 64 KiB, so many days old.
fn large_file(root: &Path, name: &str, days: u64) -> PathBuf {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, noise(64 << 10)).unwrap();
    age(&path, days);
    path
}

#[test]
fn the_oldest_go_until_there_is_room_and_no_more() {
    // Filled up before the server starts, which then makes room by itself.
    let Some((builder, _disk)) = on_a_small_disk("keep_free = \"1MiB\"") else {
        return;
    };
    // 3.75 MiB of 4.
    let files: Vec<PathBuf> = (0..60)
        .map(|number| {
            large_file(
                builder.root(),
                &format!("{}/{number}", number % 7),
                1 + (number * 37) % 60,
            )
        })
        .collect();
    let server = builder.start();
    server.wait_for_log("directories that were empty then");
    let mut left: Vec<u64> = files
        .iter()
        .enumerate()
        .filter(|(_, path)| path.exists())
        .map(|(number, _)| 1 + (number as u64 * 37) % 60)
        .collect();
    left.sort_unstable();
    // Twelve are enough: directories take nothing here.
    assert_eq!(left, (1..=48).collect::<Vec<u64>>());
    let said = prune(server.home(), &[]).succeeded();
    assert!(said.text().contains("removed 0 files"), "{}", said.text());
}

#[test]
fn old_versions_go_before_all_others_and_locked_files_stay() {
    let Some((builder, _disk)) = on_a_small_disk("versions = 5\nkeep_free = \"3936KiB\"") else {
        return;
    };
    let root = builder.root().to_owned();
    let first = [3, 2, 1].map(|days| large_file(&root, &format!("{days}"), days));
    let server = builder.start();
    eventually("the first pass is over", || !first[0].exists());
    for file in &first[1..] {
        fs::remove_file(file).unwrap();
    }
    let mut client = login(&server);
    let contents = noise(64 << 10);
    for _ in 0..3 {
        client.stor("file", &contents);
    }
    large_file(&root, "other", 500);
    let versions = root.join(".thriftpd-versions");
    assert_eq!(fs::read_dir(versions.join("file")).unwrap().count(), 2);
    // Beside them there is the record of uploads: 260 KiB of 160.
    prune(server.home(), &[]).succeeded();
    assert!(!versions.exists() && root.join("other").exists() && root.join("file").exists());
    client.stor("file", &contents);
    let text = fs::read_to_string(server.home().join("thriftpd.toml")).unwrap();
    fs::write(
        server.home().join("thriftpd.toml"),
        format!("{text}lock = \"1h\"\n"),
    )
    .unwrap();
    let before = snapshot(&root);
    let said = prune(server.home(), &[]).failed();
    assert_eq!(snapshot(&root), before);
    assert!(
        said.stderr.contains("3 files are too young to go"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_file_that_an_upload_goes_on_in_is_not_taken_away() {
    let Some((builder, _disk)) = on_a_small_disk("uploads = \"direct\"\nkeep_free = \"99%\"")
    else {
        return;
    };
    let server = builder.start();
    let mut client = login(&server);
    client.stor("log", &noise(100_000));
    client.stor("other", &noise(100_000));
    age(&server.path("log"), 100);
    let data = client.epsv();
    client.expect("APPE log", 150);
    prune(server.home(), &[]).failed();
    assert!(server.exists("log") && !server.exists("other"));
    let mut data = data;
    std::io::Write::write_all(&mut data, b"more").unwrap();
    drop(data);
    client.reply().expect(226).says("100004");
    assert_eq!(server.read("log").len(), 100_004);
    prune(server.home(), &[]).succeeded();
    assert!(!server.exists("log"));
}

#[test]
fn what_is_mounted_below_is_none_of_its_business() {
    let place = Place::with("keep_days = 5");
    let inner = Server::build().serving(&place.root().join("inner"));
    fs::create_dir(place.root().join("inner")).unwrap();
    let Some(_disk) = Mounted::in_memory(&inner, "size=1m") else {
        return;
    };
    let there = place.file("inner/file", 50);
    let gone = place.file("file", 50);
    // The same file system, bound to another place.
    let bound = place.root().join("bound");
    fs::create_dir_all(&bound).unwrap();
    let elsewhere = old_file(&place.home.path().join("elsewhere/file"), 50);
    let mut mount = Command::new("mount");
    mount
        .arg("--bind")
        .arg(elsewhere.parent().unwrap())
        .arg(&bound);
    run_client(&mut mount, 20).succeeded();
    let _bound = Unmount(bound);
    place.prune(&[]).succeeded();
    assert_eq!(are_there(&[&there, &gone, &elsewhere]), [true, false, true]);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_was_stored_today_stays_whatever_time_its_client_gives_it() {
    let server = Server::build()
        .configuration(&everybody("keep_days = 30"))
        .start();
    let mut client = login(&server);
    for line in ["MFMT 20200101000000", "SITE UTIME 202001010000"] {
        let name = line.split(' ').next().unwrap();
        client.stor(name, b"an old picture");
        client.expect(
            format!("{line} {name}"),
            if name == "MFMT" { 213 } else { 200 },
        );
        client.expect(format!("MDTM {name}"), 213).says("20200101");
    }
    let old = old_file(&server.path("old"), 31);
    prune(server.home(), &[]).succeeded();
    assert_eq!(
        are_there(&[&server.path("MFMT"), &server.path("SITE"), &old]),
        [true, true, false]
    );
}
