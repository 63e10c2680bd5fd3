//! `thriftpd verify`: what has changed since its checksum was stored is listed, and nothing else.

mod common;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use common::{Finished, Server, noise, run_client, the_program};
use thriftpd::storage::integrity::checksum::{self, Algorithm, Digest};

const PROGRAM: &str = env!("CARGO_BIN_EXE_thriftpd");

/// A directory where extended attributes can be; where there is none, the test is skipped.
#[track_caller]
fn directory() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let probe = directory.path().join("probe");
    fs::write(&probe, "").unwrap();
    let stores = checksum::store(&File::open(&probe).unwrap(), "");
    fs::remove_file(&probe).unwrap();
    if !stores {
        common::skip(format_args!(
            "no extended attributes in {}",
            directory.path().display()
        ));
    }
    stores.then_some(directory)
}

/// A file as an upload with a checksum leaves it.
fn uploaded(path: &Path, contents: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
    let mut digest = Digest::new(Algorithm::Sha256);
    digest.update(contents);
    let file = File::open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::new(1_700_000_000, 123))
        .unwrap();
    assert!(checksum::store(&file, &digest.finish()));
}

/// Flips a bit and leaves the time as it was, as a failing disk does.
fn damage(path: &Path) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let mut contents = fs::read(path).unwrap();
    let middle = contents.len() / 2;
    contents[middle] ^= 1;
    fs::write(path, contents).unwrap();
    File::open(path).unwrap().set_modified(time).unwrap();
}

fn verify(arguments: &[&str], home: &Path) -> Finished {
    let mut command = Command::new(PROGRAM);
    command.arg("verify").args(arguments).current_dir(home);
    run_client(&mut command, 60)
}

fn lines(finished: &Finished) -> Vec<String> {
    let mut lines: Vec<String> = finished.text().lines().map(str::to_owned).collect();
    let summary = lines.pop().unwrap();
    lines.sort();
    lines.push(summary);
    lines
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_matches_is_counted_and_the_status_is_0() {
    let Some(top) = directory() else { return };
    uploaded(&top.path().join("empty"), b"");
    uploaded(&top.path().join("deep/er/large"), &noise(700_000));
    uploaded(&top.path().join("touched"), b"abc");
    File::open(top.path().join("touched"))
        .unwrap()
        .set_modified(UNIX_EPOCH)
        .unwrap();
    fs::write(top.path().join("plain"), "x").unwrap();
    let finished = verify(&[text(top.path())], top.path()).succeeded();
    assert_eq!(
        finished.text(),
        "3 verified, 0 damaged, 0 changed, 0 unreadable, 1 without checksum\n"
    );
    // What was counted is told first, as a plain line.
    assert!(
        finished.stderr.starts_with(
            "files with checksums: 3, 683.6 KiB to read\n100% 683.6 KiB of 683.6 KiB, "
        ),
        "{}",
        finished.stderr
    );
    assert!(
        !finished.stderr.contains(['\r', '\x1b']),
        "{}",
        finished.stderr
    );
}

#[test]
fn what_does_not_match_is_listed_and_the_status_is_1() {
    let Some(top) = directory() else { return };
    let outside = directory().unwrap();
    let at = |name: &str| top.path().join(name);
    for name in ["good", "a/damaged", "b/changed", "b/shorter", "gone"] {
        uploaded(&at(name), &noise(300_000));
    }
    damage(&at("a/damaged"));
    damage(&at("b/changed"));
    File::open(at("b/changed"))
        .unwrap()
        .set_modified(UNIX_EPOCH)
        .unwrap();
    let shorter = File::options().write(true).open(at("b/shorter")).unwrap();
    let time = shorter.metadata().unwrap().modified().unwrap();
    shorter.set_len(299_999).unwrap();
    shorter.set_modified(time).unwrap();
    fs::remove_file(at("gone")).unwrap();
    // Nothing that a link leads to is read: neither a file nor a directory.
    uploaded(&outside.path().join("elsewhere"), b"abc");
    damage(&outside.path().join("elsewhere"));
    symlink(outside.path(), at("a/link")).unwrap();
    symlink(outside.path().join("elsewhere"), at("file-link")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Nor is what is the server's own.
    for own in [".thriftpd/state", "a/.thriftpd-x.partial"] {
        uploaded(&at(own), b"abc");
        damage(&at(own));
    }

    let finished = verify(&[text(top.path())], top.path()).failed();
    assert_eq!(finished.status.code(), Some(1));
    assert_eq!(
        lines(&finished),
        [
            format!("changed: {}", text(&at("b/changed"))),
            format!("changed: {}", text(&at("b/shorter"))),
            format!("damaged: {}", text(&at("a/damaged"))),
            "1 verified, 1 damaged, 2 changed, 0 unreadable, 0 without checksum".into(),
        ]
    );
    assert!(
        finished
            .stderr
            .contains("thriftpd: 3 of them need to be looked at")
    );
}

#[test]
fn no_name_forges_a_line() {
    let Some(top) = directory() else { return };
    let path = top.path().join(std::ffi::OsStr::from_bytes(
        b"x\ndamaged: /etc/passwd\x1b[2J\xff",
    ));
    uploaded(&path, b"abc");
    damage(&path);
    let finished = verify(&["."], top.path()).failed();
    assert_eq!(
        lines(&finished)[0],
        r"damaged: ./x\u{a}damaged: /etc/passwd\u{1b}[2J\xff"
    );
    assert_eq!(lines(&finished).len(), 2);
}

#[test]
fn what_cannot_be_read_is_listed() {
    let Some(top) = directory() else { return };
    let missing = top.path().join("none");
    let finished = verify(&[text(&missing)], top.path()).failed();
    assert_eq!(
        lines(&finished)[0],
        format!("unreadable: {}: no such file or directory", text(&missing))
    );
    if !common::is_root() {
        return common::skip_part("to become another user needs root");
    }
    uploaded(&top.path().join("secret"), b"abc");
    uploaded(&top.path().join("closed/file"), b"abc");
    uploaded(&top.path().join("open"), b"abc");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |name: &str, mode| {
        let path = top.path().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("", 0o755);
    mode("secret", 0o600);
    mode("closed", 0o700);
    let program = copy_of_program();
    let mut command = Command::new(program.path().join("thriftpd"));
    command.args(["verify", "."]).current_dir(top.path());
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    std::os::unix::process::CommandExt::gid(&mut command, 65534);
    let finished = run_client(&mut command, 60).failed();
    assert_eq!(
        lines(&finished),
        [
            "unreadable: ./closed: Permission denied (os error 13)",
            "unreadable: ./secret: Permission denied (os error 13)",
            "1 verified, 0 damaged, 0 changed, 2 unreadable, 0 without checksum",
        ]
    );
}

/// Where a user without a home can run it.
fn copy_of_program() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(PROGRAM, directory.path().join("thriftpd")).unwrap();
    directory
}

#[test]
fn a_configuration_names_its_roots_and_folders_once_each() {
    let Some(top) = directory() else { return };
    let at = |name: &str| -> PathBuf { top.path().join(name) };
    for name in ["anna/a", "anna/photos/p", "music/m", "anonymous/x"] {
        uploaded(&at(name), b"abc");
    }
    damage(&at("music/m"));
    let file = at("thriftpd.toml");
    fs::write(
        &file,
        "[[user]]\nname = \"anna\"\npassword = \"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$bm90IGEgcmVhbCBkaWdlc3QgYXQgYWxsLi4uLi4\"\nroot = \"anna\"\n\
         [[user.folder]]\npath = \"/photos\"\nroot = \"anna/photos\"\n\
         [[user.folder]]\npath = \"/music\"\nroot = \"music\"\n\
         [[user.folder]]\npath = \"/missing\"\nroot = \"missing\"\n\
         [anonymous]\nroot = \"anonymous\"\n",
    )
    .unwrap();
    let finished = verify(&["--config", text(&file)], top.path()).failed();
    let real = top.path().canonicalize().unwrap();
    let told = lines(&finished);
    assert_eq!(
        told[0],
        format!("damaged: {}", text(&real.join("music/m"))),
        "{}",
        finished.stderr
    );
    assert!(
        told[1].starts_with("unreadable: ") && told[1].contains("missing: no such file"),
        "{told:?}"
    );
    assert_eq!(
        told[2],
        "3 verified, 1 damaged, 0 changed, 1 unreadable, 0 without checksum"
    );
    // A directory that is named is the only one.
    let finished = verify(&[text(&at("anna")), "--config", text(&file)], top.path()).succeeded();
    assert!(finished.text().starts_with("2 verified"));
    let nothing = verify(&[], top.path()).failed();
    assert!(nothing.stderr.contains("--config"), "{}", nothing.stderr);
}

#[test]
fn who_verifies_nothing_is_told_so_and_the_status_is_1() {
    let Some(top) = directory() else { return };
    for plain in [false, true] {
        if plain {
            fs::write(top.path().join("plain"), "x").unwrap();
        }
        let finished = verify(&["."], top.path()).failed();
        assert_eq!(finished.status.code(), Some(1));
        let last = lines(&finished).pop().unwrap();
        let expected = format!("0 unreadable, {} without checksum", u8::from(plain));
        assert!(last.ends_with(&expected), "{last}");
        let why = "nothing was verified: no file here has a checksum (setting: checksums)";
        assert!(finished.stderr.contains(why), "{}", finished.stderr);
    }
}

#[test]
fn a_disk_that_is_not_mounted_is_listed_also_where_it_lies_in_another_root() {
    let Some(top) = directory() else { return };
    uploaded(&top.path().join("all/file"), b"abc");
    uploaded(&top.path().join("all/disk/left"), b"abc");
    let file = top.path().join("thriftpd.toml");
    let folder =
        "[[anonymous.folder]]\npath = \"/disk\"\nroot = \"all/disk\"\nrequire_mount = true\n";
    for (verified, root) in [(2, "all"), (0, "all/disk")] {
        let keys = format!("[anonymous]\nroot = \"{root}\"\n");
        let waits = if verified == 0 {
            "require_mount = true\n"
        } else {
            folder
        };
        fs::write(&file, keys + waits).unwrap();
        let finished = verify(&["--config", text(&file)], top.path()).failed();
        assert_eq!(finished.status.code(), Some(1));
        let told = lines(&finished);
        assert!(
            told[0].starts_with("unreadable: ")
                && told[0].contains("/all/disk: ")
                && told[0].contains("not mounted"),
            "{told:?}"
        );
        let counted = format!("{verified} verified, 0 damaged, 0 changed, 1 unreadable");
        assert!(told[1].starts_with(&counted), "{told:?}");
    }
}

#[test]
fn a_terminal_shows_a_bar_that_is_drawn_in_place() {
    let Some(top) = directory() else { return };
    let path = top.path().join("large");
    let file = File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    assert!(checksum::store(&file, &"0".repeat(64)));
    let script = "import os, pty, sys\n\
        sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut command = the_program("python3", top.path());
    command.args(["-c", script, PROGRAM, "verify", "."]);
    let finished = run_client(&mut command, 60).failed();
    assert_eq!(finished.status.code(), Some(1));
    let shown = finished.text();
    assert!(
        shown.starts_with(
            "files with checksums: 1, 64.0 MiB to read\r\n\r[--------------------]   0% "
        ),
        "{shown:?}"
    );
    // The bar is gone before a line is written.
    assert!(shown.contains("\r\x1b[Kdamaged: ./large\r\n"), "{shown:?}");
    assert!(
        !shown.contains("]   0%\n") && shown.contains(" of 64.0 MiB, "),
        "{shown:?}"
    );
}

#[test]
fn memory_does_not_grow_with_the_files() {
    let Some(top) = directory() else { return };
    let file = File::create(top.path().join("large")).unwrap();
    file.set_len(200 << 20).unwrap();
    assert!(checksum::store(&file, &"0".repeat(64)));
    let script = "import resource, subprocess, sys\n\
        subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n\
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let mut command = the_program("python3", top.path());
    command.args(["-c", script, PROGRAM, "verify", "."]);
    let finished = run_client(&mut command, 60).succeeded();
    let kibibytes: u64 = finished.text().trim().parse().unwrap();
    // The interpreter forks with its own pages, which count until the program takes their place.
    assert!(kibibytes < 64 << 10, "{kibibytes} KiB");
}

#[test]
fn the_time_that_a_sync_client_sets_does_not_change_a_file() {
    let Some(top) = directory() else { return };
    uploaded(&top.path().join("file"), b"abc");
    let server = Server::build().serving(top.path()).start();
    server.client().expect("MFMT 20200102030405 file", 213);
    let finished = verify(&[text(top.path())], top.path()).succeeded();
    assert!(
        finished.text().starts_with("1 verified"),
        "{}",
        finished.text()
    );
    // What has changed after that is damage, for the time is the one that was stored.
    damage(&top.path().join("file"));
    let finished = verify(&[text(top.path())], top.path()).failed();
    assert!(lines(&finished)[0].starts_with("damaged: "));
}
