//! What goes after a while: old files by their age, and the oldest until the disk has room; and all that never goes.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::mounts::{Mount, format, may_mount, program};
use common::{Builder, Client, Finished, Mounted, Server, eventually, noise, run_client};

use thriftpd::storage::integrity::checksum;

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

    /// With a clock that is so many seconds ahead.
    fn prune_ahead(&self, ahead: i64, arguments: &[&str]) -> Finished {
        prune_ahead(self.home.path(), ahead, arguments)
    }
}

fn everybody(keys: &str) -> String {
    format!("[anonymous]\nroot = \"{{root}}\"\naccess = \"read-write\"\n{keys}\n")
}

fn prune(home: &Path, arguments: &[&str]) -> Finished {
    prune_ahead(home, 0, arguments)
}

fn prune_ahead(home: &Path, ahead: i64, arguments: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
    command.arg("prune").args(arguments).arg("--config");
    command.arg(home.join("thriftpd.toml"));
    command.env(CLOCK, ahead.to_string());
    run_client(&mut command, 60)
}

/// By how many seconds the program takes the clock to be ahead. With it nobody waits for the clock to be set.
const CLOCK: &str = "THRIFTPD_TEST_CLOCK";

/// Whether the program under test heeds that.
fn clock_can_be_moved() -> bool {
    let can = cfg!(debug_assertions);
    if !can {
        common::skip("the clock of a release build cannot be moved");
    }
    can
}

/// One that takes old files away as soon as it is started.
fn server(keys: &str) -> Builder {
    let builder = Server::build().configuration(&everybody(keys));
    builder.environment(CLOCK, "0")
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
            .contains("removed 2 files of 16 bytes and 3 directories"),
        "{}",
        said.text()
    );
    assert_eq!(
        are_there(&[&old, &alone, &young, &new, &empty, &outside]),
        [false, false, true, true, true, true]
    );
    assert_eq!(
        are_there(&[
            &place.root().join("x/y"),
            &place.root().join("a/b"),
            // A camera never makes its directory again.
            &place.root().join("x")
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
    let server = server("keep_days = 10\nversions = 3").start();
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
fn the_server_does_it_when_its_clock_has_settled() {
    if !clock_can_be_moved() {
        return;
    }
    let builder = server("keep_days = 5\nquota = \"1GB\"").keys("log = \"debug\"\n");
    let old = old_file(&builder.root().join("dir/sub/old"), 50);
    let new = old_file(&builder.root().join("new"), 1);
    let server = builder.start();
    let line = server.wait_for_log("directories that were empty then");
    assert!(
        line.contains("removed 1 files of 8 bytes and 1 directories"),
        "{line}"
    );
    server.wait_for_log("dir/sub/old (8 bytes)");
    assert_eq!(are_there(&[&old, &new]), [false, true]);
    // The quota knows.
    let mut client = login(&server);
    let said = client.expect("SITE QUOTA", 200).text();
    assert!(
        said.contains("Bytes: 8 of") && said.contains("Files: 1"),
        "{said}"
    );
}

/// Whether files of this directory can have extended attributes (xattr(7)).
fn has_attributes(directory: &Path) -> bool {
    let probe = directory.join("probe");
    fs::write(&probe, "").unwrap();
    let stores = checksum::store(&File::open(&probe).unwrap(), "");
    fs::remove_file(&probe).unwrap();
    stores
}

// ---- until the disk has room

fn on_a_small_disk(keys: &str) -> Option<(Builder, Mounted)> {
    let builder = server(keys);
    if !clock_can_be_moved() {
        return None;
    }
    let disk = Mounted::in_memory(&builder, "size=4m")?;
    if !has_attributes(builder.root()) {
        eprintln!(
            "skipped: no attributes in memory, so that files are as young as their last change"
        );
        return None;
    }
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
    let Some((builder, _disk)) = on_a_small_disk("keep_free = \"1000KiB\"") else {
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
    let server = server("keep_days = 30").start();
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

// ---- what is kept in any case

#[test]
fn the_last_files_of_a_directory_stay_however_old_they_are() {
    let place = Place::with("keep_days = 5\nkeep_last = 2");
    let [gone, kept] =
        [[30, 20], [10, 6]].map(|days| days.map(|days| place.file(&format!("a/{days}"), days)));
    let young = [1, 2].map(|days| place.file(&format!("b/{days}"), days));
    let old = place.file("b/old", 6);
    let alone = place.file("c/d/alone", 1000);
    for _ in 0..2 {
        place.prune(&[]).succeeded();
        assert_eq!(are_there(&[&gone[0], &gone[1], &old]), [false; 3]);
        assert_eq!(
            are_there(&[&kept[0], &kept[1], &young[0], &young[1], &alone]),
            [true; 5]
        );
    }
}

#[test]
fn the_last_files_of_a_directory_stay_on_a_full_disk() {
    let Some((builder, _disk)) = on_a_small_disk("keep_free = \"99%\"\nkeep_last = 3") else {
        return;
    };
    let root = builder.root().to_owned();
    let files: Vec<PathBuf> = (1..10)
        .map(|days| large_file(&root, &format!("d/{days}"), days))
        .collect();
    let server = builder.start();
    let said = prune(server.home(), &[]).failed();
    assert!(
        said.stderr.contains("bytes too few are free"),
        "{}",
        said.stderr
    );
    let there: Vec<bool> = files.iter().map(|path| path.exists()).collect();
    assert_eq!(there[..3], [true; 3]);
    assert_eq!(there[3..], [false; 6]);
}

#[test]
fn who_is_overdue_loses_nothing_by_age() {
    let server = server("keep_days = 30\nexpect_every = \"1d\"").start();
    let old = old_file(&server.path("old"), 31);
    let said = prune(server.home(), &[]).succeeded();
    assert!(
        said.text().contains(
            "keep_days is not obeyed while uploads are overdue (anonymous; setting: expect_every)"
        ),
        "{}",
        said.text()
    );
    assert!(old.exists());
    login(&server).stor("new", b"backup");
    prune(server.home(), &[]).succeeded();
    assert_eq!(are_there(&[&old, &server.path("new")]), [false, true]);
}

// ---- clocks

#[test]
fn nothing_is_taken_away_while_a_start_is_fresh() {
    let builder = Server::build().configuration(&everybody("keep_days = 5"));
    let old = old_file(&builder.root().join("old"), 50);
    let server = builder.start();
    // The first thing it ever did.
    login(&server).stor("file", b"x");
    assert!(old.exists());
    drop(server);
}

const YEARS: i64 = 400 * DAY as i64;

#[test]
fn a_clock_that_is_a_year_ahead_takes_nothing_away() {
    if !clock_can_be_moved() {
        return;
    }
    for keys in [
        "keep_days = 30",
        "keep_days = 30\nlock = \"60d\"",
        "keep_free = \"99%\"\nlock = \"60d\"",
    ] {
        let place = Place::with(keys);
        let files = [place.file("sub/new", 0), place.file("old", 40)];
        let before = snapshot(&place.root());
        // Twice, for the first time must not become what is known.
        for _ in 0..2 {
            let said = place.prune_ahead(YEARS, &[]).failed();
            assert!(
                said.stderr
                    .contains("/root: nothing is taken away: the clock says ")
                    && said
                        .stderr
                        .contains("400 days after the newest time known here")
                    && said.stderr.contains("--believe-clock"),
                "{}",
                said.stderr
            );
            assert_eq!(snapshot(&place.root()), before);
        }
        if keys == "keep_days = 30" {
            // A host that was off for a year gets going again.
            place.prune_ahead(YEARS, &["--believe-clock"]).succeeded();
            assert_eq!(are_there(&[&files[0], &files[1]]), [false; 2]);
            place.file("later", 400);
            place.prune_ahead(YEARS + DAY as i64, &[]).succeeded();
            // And one whose clock was wrong then.
            let said = place.prune(&[]).failed();
            assert!(
                said.stderr
                    .contains("which is before the newest time known here"),
                "{}",
                said.stderr
            );
            place.prune(&["--believe-clock"]).succeeded();
            place.prune(&[]).succeeded();
        }
    }
}

#[test]
fn a_server_whose_clock_is_a_year_ahead_takes_nothing_away_whatever_is_stored_meanwhile() {
    if !clock_can_be_moved() {
        return;
    }
    let builder = server("keep_days = 30\nlock = \"10d\"");
    let old = old_file(&builder.root().join("old"), 40);
    let young = old_file(&builder.root().join("young"), 1);
    let left = old_file(&builder.root().join(".thriftpd-clip-0123-0.partial"), 1);
    for _ in 0..2 {
        let ahead = builder.clone().environment(CLOCK, &YEARS.to_string());
        let server = ahead.start();
        login(&server).stor("now", b"by the wrong clock");
        let line = server.wait_for_log("nothing is taken away: the clock says");
        assert!(line.contains("--believe-clock"), "{line}");
        assert_eq!(are_there(&[&old, &young, &left]), [true; 3]);
        fs::remove_file(server.path("now")).unwrap();
    }
}

#[test]
fn while_the_clock_is_not_set_nothing_is_taken_away() {
    if !clock_can_be_moved() {
        return;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let unset = 3600 - now.unwrap().as_secs() as i64;
    let place = Place::with("keep_days = 30");
    let old = place.file("old", 40);
    for arguments in [&[][..], &["--believe-clock"]] {
        let said = place.prune_ahead(unset, arguments).failed();
        assert!(
            said.stderr.contains("the clock is not set"),
            "{}",
            said.stderr
        );
    }
    assert!(old.exists());
    place.prune(&[]).succeeded();
    assert!(!old.exists());
}

/// A Raspberry Pi has no clock of its own: what it stores before it has asked for the time is of 1970.
#[test]
fn what_was_stored_before_the_clock_was_set_counts_from_its_being_found() {
    if !clock_can_be_moved() || !may_mount() {
        return;
    }
    let place = Place::with("keep_days = 30\nkeep_free = \"1%\"");
    let image = place.home.path().join("image");
    if let Err(why) = format(&image, 8 << 20, &["mkfs.ext4", "-q"]) {
        return common::skip(why);
    }
    let Some(debugfs) = program("debugfs") else {
        return common::skip("debugfs, which sets times, is not installed");
    };
    let mount = || Mount::image(&image, "ext4", "noatime", &place.root());
    match mount() {
        Ok(mounted) => {
            for name in ["stored", "sound"] {
                fs::write(place.root().join(name), "clip").unwrap();
            }
            mounted.unmount();
        }
        Err(why) => return common::skip(format_args!("no ext4 here: {why}")),
    }
    for field in ["ctime", "mtime", "crtime"] {
        let mut command = Command::new(&debugfs);
        let request = format!("set_inode_field /stored {field} @86400");
        command.args(["-w", "-R", &request]).arg(&image);
        run_client(&mut command, 20).succeeded();
    }
    let _mounted = mount().unwrap();
    let stored = place.root().join("stored");
    assert_eq!(fs::metadata(&stored).unwrap().ctime(), 86_400);
    place.prune(&[]).succeeded();
    place.prune(&[]).succeeded();
    assert!(stored.exists());
    // From now on it is as old as that, and no older.
    assert!(fs::metadata(&stored).unwrap().ctime() > 86_400);
    let in_days = |days: i64| {
        place
            .prune_ahead(days * DAY as i64, &["--believe-clock"])
            .succeeded();
        stored.exists()
    };
    assert!(in_days(29) && !in_days(31));
}

#[test]
fn where_nothing_can_be_noted_a_file_is_as_young_as_its_last_change() {
    if !clock_can_be_moved() || !may_mount() {
        return;
    }
    let place = Place::with("keep_days = 30");
    // Attributes are what this file system does not have.
    let _disk = Mount::with(&["-t", "ramfs", "ramfs"], &place.root());
    assert!(!has_attributes(&place.root()));
    let picture = place.file("picture", 400);
    place.prune(&[]).succeeded();
    assert!(picture.exists());
    let said = place.prune_ahead(31 * DAY as i64, &["--believe-clock"]);
    assert!(said.succeeded().text().contains("removed 1 files"));
    assert!(!picture.exists());
}
