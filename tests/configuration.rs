//! Configuration files and `thriftpd check` as a person meets them; `thriftpd user` and what it leaves behind.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Client, Server, eventually, run_client};

fn thriftpd(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_thriftpd"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses before it reads has closed its end.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("root")).unwrap();
        Self { home }
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("thriftpd.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn check(&self) -> Output {
        thriftpd(&["check", "--config", self.file().to_str().unwrap()], "")
    }

    fn user(&self, arguments: &[&str], input: &str) -> Output {
        let file = self.file();
        let all = [&["user"], arguments, &["--config", file.to_str().unwrap()]].concat();
        thriftpd(&all, input)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

// ---- check

#[test]
fn check_tells_what_will_be_served() {
    let place = Place::new();
    std::os::unix::fs::symlink("root", place.home.path().join("link")).unwrap();
    place.write(&format!(
        "listen = [\"127.0.0.1:{}\"]\nsessions = 10\n[anonymous]\nroot = \"link\"\n",
        free_port()
    ));
    let checked = place.check();
    let text = out(&checked);
    assert!(checked.status.success(), "{text}");
    let real = place.home.path().join("root").canonicalize().unwrap();
    assert!(
        text.contains(&format!("user anonymous: {} (read-only)", real.display())),
        "{text}"
    );
    assert!(
        text.contains("passive ports: 50000-50999") && text.contains("listens on: 127.0.0.1:"),
        "{text}"
    );
}

#[test]
fn check_names_who_can_get_at_what_others_have_protected() {
    let place = Place::new();
    let hash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$bm90IGEgcmVhbCBkaWdlc3QgYXQgYWxsLi4uLi4";
    let user = |name: &str, keys: &str| {
        format!("[[user]]\nname = \"{name}\"\npassword = \"{hash}\"\nroot = \"root\"\n{keys}\n")
    };
    let text = [
        format!("listen = [\"127.0.0.1:{}\"]\nsessions = 10\n", free_port()),
        user("anna", "lock = \"30d\""),
        user("bert", "access = \"read-write\""),
        user("cam", "access = \"add-only\"\nkeep_free = \"5%\""),
    ];
    place.write(&text.concat());
    let checked = place.check();
    let text = out(&checked);
    // That is the owner's to decide: nothing is wrong.
    assert!(checked.status.success(), "{text}");
    assert!(
        text.contains("warning: lock: what anna has locked for 30 d in ")
            && text.contains(" is open to bert, who has no lock there and may overwrite, append, delete, rename\n")
            && text.contains("warning: keep_free: cam may only add files to "),
        "{text}"
    );
    assert_eq!(text.matches("warning: ").count(), 2, "{text}");
}

#[test]
fn check_tells_which_program_runs_for_whom_and_whether_it_can() {
    let place = Place::new();
    let program = place.home.path().join("program");
    place.write(&format!(
        "listen = [\"127.0.0.1:{}\"]\nsessions = 10\non_upload = [\"{}\", \"two words\"]\non_upload_timeout = \"1m\"\n\
         [anonymous]\nroot = \"root\"\n",
        free_port(),
        program.display()
    ));
    let text = out(&place.check());
    let shown = program.display();
    assert!(
        text.contains(&format!("for 60 s at most: {shown} two words\n")),
        "{text}"
    );
    let missing = format!("problem: on_upload: {shown}, run for anonymous: No such file");
    assert!(text.contains(&missing), "{text}");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    let text = out(&place.check());
    assert!(text.contains("nothing that the server can run"), "{text}");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let checked = place.check();
    assert!(checked.status.success(), "{}", out(&checked));
}

#[test]
fn check_names_file_line_key_and_what_was_expected() {
    let place = Place::new();
    place.write("sessions = 5\nsesions_per_ip = 3\n");
    let checked = place.check();
    let expected = format!(
        "{}:2: `sesions_per_ip`: unknown key; did you mean `sessions_per_ip`?",
        place.file().display()
    );
    assert!(
        !checked.status.success() && out(&checked).contains(&expected),
        "{}",
        out(&checked)
    );
    place.write("[timeouts]\n\nidle = \"soon\"\n");
    assert!(
        out(&place.check()).contains(":3: `idle`: expected a time"),
        "{}",
        out(&place.check())
    );
}

#[test]
fn check_looks_at_the_surroundings() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    place.write(&format!(
        "listen = [\"{}\"]\npassive_ports = \"50000-50003\"\n[anonymous]\nroot = \"missing\"\n",
        taken.local_addr().unwrap()
    ));
    let checked = place.check();
    let text = out(&checked);
    assert!(!checked.status.success());
    assert!(text.contains("is in use already"), "{text}");
    assert!(
        text.contains("missing of anonymous does not exist; make it with"),
        "{text}"
    );
    assert!(
        text.contains("passive_ports: 4 ports are too few for 100 sessions"),
        "{text}"
    );
    assert!(text.contains("3 problems"), "{text}");
}

#[test]
fn check_counts_the_open_files_that_the_sessions_need() {
    let place = Place::new();
    place.write(&format!(
        "listen = [\"127.0.0.1:{}\"]\nsessions = 100\n[anonymous]\nroot = \"root\"\n",
        free_port()
    ));
    let mut limited = Command::new("prlimit");
    limited
        .args([
            "--nofile=64:64",
            env!("CARGO_BIN_EXE_thriftpd"),
            "check",
            "--config",
        ])
        .arg(place.file());
    let text = run_client(&mut limited, 20).failed().text();
    assert!(text.contains("open files: the limit is 64"), "{text}");
}

#[test]
fn a_server_says_why_it_cannot_start() {
    let place = Place::new();
    let root = place.home.path().join("root");
    let root = root.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let empty = place.home.path().join("empty.toml");
    fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    for (arguments, expected) in [
        (
            vec![
                "serve", root, "--config", empty, "--user", "t:pw", "--listen", &taken,
            ],
            "is in use already; stop the other server",
        ),
        (
            vec!["serve", "/no/such/dir", "--user", "t:pw"],
            "there is no directory /no/such/dir; make it with",
        ),
        (
            vec!["serve", root, "--user", "nopassword"],
            "--user takes NAME:PASSWORD",
        ),
        (vec!["serve", "--user", "t:pw"], "needs a directory"),
        (vec!["serve"], "nobody could log in"),
        (
            vec!["serve", root, "--config", "/no/such/file.toml"],
            "/no/such/file.toml: cannot be read",
        ),
        (
            vec!["serve", root, "--passive-ports", "60000-50000"],
            "the lower one first",
        ),
        (
            vec!["serve", root, "--listen", "nas.local:21"],
            "expected an address and a port",
        ),
        (
            vec!["serve", root, "--sessions", "0", "--user", "t:pw"],
            "--sessions must be at least 1",
        ),
        (vec![], "which command?"),
        (vec!["sevre"], "sevre"),
    ] {
        let ended = thriftpd(&arguments, "");
        assert!(
            !ended.status.success() && out(&ended).contains(expected),
            "{arguments:?}: {}",
            out(&ended)
        );
    }
    assert!(out(&thriftpd(&["--version"], "")).starts_with("thriftpd 0."));
    let help = thriftpd(&["help"], "");
    assert!(help.status.success() && out(&help).contains("serve") && out(&help).contains("check"));
}

// ---- user

#[test]
fn users_are_added_changed_listed_and_removed_and_comments_stay() {
    let place = Place::new();
    place.write("# mine\nsessions = 7 # seven\n\n[timeouts]\nidle = \"5m\"\n");
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o640)).unwrap();
    let root = place.home.path().join("root");
    let root = root.to_str().unwrap();
    let added = place.user(
        &["add", "anna", "--root", root, "--access", "add-only"],
        "first password\n",
    );
    assert!(added.status.success(), "{}", out(&added));
    assert!(
        place
            .user(&["add", "bert", "--root", root], "other\n")
            .status
            .success()
    );
    let text = place.text();
    assert!(
        text.contains("# mine")
            && text.contains("# seven")
            && text.contains("access = \"add-only\""),
        "{text}"
    );
    assert!(text.contains("$argon2id$") && !text.contains("first password"));
    assert_eq!(
        fs::metadata(place.file()).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert!(place.user(&["passwd", "anna"], "second\n").status.success());
    assert_eq!(
        out(&place.user(&["list"], "")),
        format!("anna\t{root}\nbert\t{root}\n")
    );

    let server = Server::build().configuration(&place.text()).start();
    server.connect().login_as("anna", "second").expect(230);
    server
        .connect()
        .login_as("anna", "first password")
        .expect(530);
    assert!(place.user(&["remove", "anna"], "").status.success());
    assert_eq!(out(&place.user(&["list"], "")), format!("bert\t{root}\n"));
    assert!(place.text().contains("# seven"));
}

#[test]
fn what_cannot_be_leaves_the_file_as_it_was() {
    let place = Place::new();
    let root = place.home.path().join("root");
    let root = root.to_str().unwrap();
    assert!(
        place
            .user(&["add", "anna", "--root", root], "pw\n")
            .status
            .success()
    );
    assert_eq!(
        fs::metadata(place.file()).unwrap().permissions().mode() & 0o777,
        0o600,
        "a new file holds hashes"
    );
    let before = place.text();
    for (arguments, input, expected) in [
        (
            vec!["add", "anna", "--root", root],
            "pw\n",
            "anna exists already",
        ),
        (
            vec!["add", "a b", "--root", root],
            "pw\n",
            "cannot be a user's name",
        ),
        (
            vec!["add", "carl", "--root", root, "--access", "all"],
            "pw\n",
            "expected one of read-only",
        ),
        (
            vec!["add", "carl", "--root", root],
            "\n",
            "the password is empty",
        ),
        (
            vec!["add", "carl", "--root", root],
            "",
            "the password is empty",
        ),
        (vec!["passwd", "nobody"], "pw\n", "there is no user nobody"),
        (vec!["remove", "nobody"], "", "there is no user nobody"),
    ] {
        let ended = place.user(&arguments, input);
        assert!(
            !ended.status.success() && out(&ended).contains(expected),
            "{arguments:?}: {}",
            out(&ended)
        );
        assert_eq!(place.text(), before);
    }
    let missing = thriftpd(
        &["user", "passwd", "x", "--config", "/no/such/file.toml"],
        "pw\n",
    );
    assert!(
        out(&missing).contains("/no/such/file.toml"),
        "{}",
        out(&missing)
    );
    let left: Vec<_> = fs::read_dir(place.home.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing is left beside the file: {left:?}");
    assert!(Path::new(root).is_dir());
}

// ---- logs

#[test]
fn names_cannot_forge_log_lines_and_passwords_are_not_logged() {
    let server = Server::build()
        .configuration("log = \"debug\"\n")
        .with_flag_user()
        .start();
    let mut client = server.client();
    client.stor("a\x1b[31m\u{202e}b", b"x");
    let line = server.wait_for_log("STOR");
    assert!(line.contains("a\\u{1b}[31m\\u{202e}b"), "{line}");
    let mut forger = server.connect();
    forger.send(b"USER x\r2026-01-01T00:00:00Z INFO  forged");
    forger.reply().expect(331);
    forger.expect("PASS secret-of-mine", 530);
    server.wait_for_log("login as x\\u{d}2026");
    assert!(!server.log_text().contains("secret-of-mine"));
}

#[test]
fn under_systemd_lines_carry_priorities_and_no_time() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("empty.toml");
    fs::write(&config, "").unwrap();
    let mut command = Command::new("timeout");
    command
        .args(["-s", "TERM", "2", env!("CARGO_BIN_EXE_thriftpd"), "serve"])
        .arg(home.path())
        .args(["--listen", "127.0.0.1:0", "--user", "t:pw", "--config"])
        .arg(config)
        .env("JOURNAL_STREAM", "8:1");
    let said = run_client(&mut command, 20).stderr;
    assert!(
        said.lines()
            .any(|line| line.starts_with("<6>listening on 127.0.0.1:")),
        "{said}"
    );
    assert!(said.lines().all(|line| line.starts_with('<')), "{said}");
}

#[test]
fn the_transfer_log_is_written_and_opened_again_on_sighup() {
    let server = Server::build()
        .configuration("xferlog = \"{home}/xferlog\"\n")
        .with_flag_user()
        .start();
    let log = server.home().join("xferlog");
    let mut client = server.client();
    client.stor("one two", b"12345");
    eventually("the upload is in the log", || {
        let line = fs::read_to_string(&log).unwrap();
        line.contains(" 127.0.0.1 5 ") && line.contains("/one_two b _ i r t ftp 0 * c\n")
    });
    fs::rename(&log, server.home().join("xferlog.1")).unwrap();
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.wait_for_log("opened the transfer log");
    assert_eq!(client.retr("one two"), b"12345");
    client.expect("DELE one two", 250);
    eventually("the others are in the new one", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.contains(" b _ o r t ftp") && text.contains(" b _ d r t ftp")
    });
}

#[test]
fn a_reader_of_the_log_that_sleeps_holds_up_nobody() {
    let place = Place::new();
    let port = free_port();
    place.write(&format!(
        "listen = [\"127.0.0.1:{port}\"]\nsandbox = \"off\"\ndurable = false\n"
    ));
    let root = place.home.path().join("root");
    fs::write(root.join("file"), "sent all the same").unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_thriftpd"))
        .args(["serve", "--config", place.file().to_str().unwrap()])
        .args([root.to_str().unwrap(), "--user", "t:pw"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("sandbox: ") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0);
    }
    // From here on nobody reads. A pipe holds 64 KiB.
    let address = ([127, 0, 0, 1], port).into();
    let mut client = Client::connect(address);
    client.reply().expect(220);
    client.login();
    for _ in 0..1500 {
        // Each is a line, for it is told of users what they have done.
        for (from, to) in [("file", "other"), ("other", "file")] {
            client.expect(format!("RNFR {from}"), 350);
            client.expect(format!("RNTO {to}"), 250);
        }
    }
    assert_eq!(client.retr("file"), b"sent all the same");
    drop(client);
    // A reader that wakes up hears what it has missed.
    let (mut renames, mut lost) = (0, 0);
    while lost == 0 {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0);
        renames += usize::from(line.contains("RNTO"));
        if line.contains("log lines were lost") {
            let number = line.split("WARN").nth(1).unwrap().split_whitespace().next();
            lost = number.unwrap().parse().unwrap();
        }
    }
    assert!(renames > 500, "{renames}");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(server.wait().unwrap().success());
    assert!(rest.trim_end().ends_with("goodbye"), "{rest}");
    renames += rest.matches("RNTO").count();
    // The download may be among those that are lost.
    assert!(
        (3000..=3001).contains(&(renames + lost)),
        "{renames} and {lost}"
    );
}
