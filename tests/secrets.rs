//! Passwords: what is told of users, what checking takes, and where passwords come from and stay.

mod common;

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::thread;

use common::secure::{Secure, client_config};
use common::{PASSWORD, Server, USER, is_root, root_may, skip_part};
use nix::sys::signal::Signal;
use rustls::version::{TLS12, TLS13};
use thriftpd::accounts::Password;

/// A configuration with one user, whose password is known as a hash alone.
fn one_user(name: &str, password: &str) -> String {
    let hash = Password::from_clear(password).unwrap();
    format!(
        "log = \"trace\"\n[[user]]\nname = \"{name}\"\npassword = \"{}\"\nroot = \"{{root}}\"\n",
        hash.to_phc()
    )
}

#[test]
fn neither_replies_nor_the_log_tell_who_is_known() {
    let server = Server::build()
        .configuration(&one_user("known", "right"))
        .start();
    let mut client = server.connect();
    let mut replies = Vec::new();
    for name in ["known", "nemo!"] {
        let asked = client.command(format!("USER {name}")).text();
        let answered = client.command("PASS wrong").text();
        replies.push((asked, answered));
    }
    assert_eq!(replies[0], replies[1]);
    server.wait_for_log("nemo! failed");
    let log = server.log_text();
    let of = |name: &str| {
        let lines = log.lines().filter(|line| line.contains(name));
        // Behind the moment and the level.
        let texts = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(_, text)| {
                let counted = text.replace(name, "NAME");
                counted.replace("(2 of", "(1 of")
            });
        texts.collect::<Vec<_>>()
    };
    assert_eq!(of("known"), of("nemo!"));
    assert_eq!(of("known").len(), 1);
}

#[test]
fn a_name_that_nobody_has_is_as_much_work_as_a_wrong_password() {
    let server = Server::build()
        .configuration(&one_user("known", "right"))
        .start();
    let work_for = |name: &str| {
        let before = server.worked();
        for _ in 0..12 {
            server.connect().login_as(name, "wrong").expect(530);
        }
        server.worked() - before
    };
    // What is made once is made now.
    work_for("unknown");
    let (known, unknown) = (work_for("known"), work_for("unknown"));
    // Not time but work, which the load of the machine changes little; without the check there would be none at all.
    assert!(known >= 4, "{known}");
    assert!(
        unknown * 2 > known && known * 2 > unknown,
        "{known}, {unknown}"
    );
}

#[test]
fn where_somebody_may_not_come_from_the_right_password_is_as_much_work_as_a_wrong_one() {
    let user = one_user("known", "right") + "allow = \"127.0.0.1\"\n";
    let server = Server::build().configuration(&user).start();
    // What was right before is known without work.
    server.connect().login_as("known", "right").expect(230);
    let elsewhere = "127.0.0.2".parse().unwrap();
    let work_for = |password: &str| {
        let before = server.worked();
        for _ in 0..12 {
            let mut client = server.connect_from(elsewhere);
            client.login_as("known", password).expect(530);
        }
        server.worked() - before
    };
    let (wrong, right) = (work_for("wrong"), work_for("right"));
    assert!(wrong >= 4, "{wrong}");
    assert!(right * 2 > wrong, "{right}, {wrong}");
}

#[test]
fn who_must_encrypt_is_not_found_by_asking_for_names() {
    let user = one_user("known", "right") + "require_tls = true\n";
    let server = Server::build()
        .configuration(&format!("tls = {{ mode = \"offered\" }}\n{user}"))
        .start();
    let mut client = server.connect();
    let asked = ["known", "nemo"].map(|name| client.expect(format!("USER {name}"), 530).text());
    assert_eq!(asked[0], asked[1]);
}

#[test]
fn a_crowd_of_logins_takes_the_memory_of_two() {
    let server = Server::build()
        .configuration(&one_user("known", "right"))
        .arguments(&["--sessions-per-ip", "60"])
        .start();
    // Connected first, so that they come at once.
    let clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
    let waiting = clients.into_iter().enumerate().map(|(number, mut client)| {
        thread::spawn(move || {
            let known = number % 2 == 0;
            let name = if known { "known" } else { "unknown" };
            client.login_as(name, "wrong").expect(530);
        })
    });
    let waiting: Vec<_> = waiting.collect();
    for client in waiting {
        client.join().unwrap();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    // 40 at once would be 760 MiB.
    assert!(peak < 100 * 1024, "{peak} KiB");
    server.connect().login_as("known", "right").expect(230);
}

#[test]
fn who_cannot_be_checked_in_time_is_told() {
    let toml = "sessions_before_login = 99\n".to_owned()
        + &one_user("known", "right")
        + "[timeouts]\nlogin = \"1s\"\n";
    let server = Server::build()
        .configuration(&toml)
        .arguments(&["--sessions-per-ip", "99", "--sessions", "99"])
        .start();
    let clients: Vec<_> = (0..90).map(|_| server.connect()).collect();
    let waiting = clients.into_iter().map(|mut client| {
        thread::spawn(move || {
            client.send("USER unknown");
            client.send("PASS wrong");
            // Whether they are checked or not, all are answered.
            let mut codes = Vec::new();
            while let Some(reply) = client.reply_or_end() {
                codes.push(reply.code);
            }
            codes
        })
    });
    let waiting: Vec<_> = waiting.collect();
    for client in waiting {
        let codes = client.join().unwrap();
        assert_eq!(codes.last(), Some(&421), "{codes:?}");
    }
    server.connect().login_as("known", "right").expect(230);
}

#[test]
fn no_password_is_logged_whatever_is_done_with_it() {
    let server = Server::build()
        .configuration(&one_user("known", "Right-Word-1"))
        .start();
    let mut client = server.connect();
    client.expect("PASS Early-Word-2", 503);
    client.expect("USER known", 331);
    client.expect("PASS Wrong-Word-3", 530);
    client.expect("USER known", 331);
    client.command("PASS\tTabbed-Word-4");
    client.expect("pass Right-Word-1", 230);
    client.expect("PASS Late-Word-5", 503);
    client.expect("ACCT Account-Word-6", 202);
    server.wait_for_log("known@127.0.0.1: logged in");
    let log = server.log_text();
    assert!(!log.contains("-Word-"), "{log}");
}

/// How often the bytes lie in what the server may write to in its memory.
fn in_memory(server: &Server, wanted: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).unwrap();
    let mut memory = fs::File::open(format!("/proc/{}/mem", server.pid())).unwrap();
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split_once(' ').unwrap().0;
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        let read = memory
            .seek(SeekFrom::Start(from))
            .and_then(|_| memory.read_exact(&mut bytes));
        if read.is_ok() {
            found += bytes
                .windows(wanted.len())
                .filter(|part| part == &wanted)
                .count();
        }
    }
    found
}

#[test]
fn no_password_stays_in_memory() {
    if !root_may("looking into memory") {
        return;
    }
    let long = "Long-Secret-".repeat(40);
    let toml = one_user("known", "Right-Secret-1");
    let server = Server::build().configuration(&toml).start();
    let mut client = server.connect();
    // Wherever a line is cut on its way.
    client.expect("USER Name-Of-Somebody", 331);
    client.send_raw("PASS Wrong-Sec");
    thread::sleep(std::time::Duration::from_millis(50));
    client.send("ret-2");
    client.reply().expect(530);
    client.expect("USER known", 331);
    client.expect(format!("PASS {long}"), 530);
    client.expect("USER known", 331);
    client.send_raw("PASS Right-Secret-1\r\nNOOP\r\nPWD\r\n");
    client.reply().expect(230);
    client.reply().expect(200);
    client.reply().expect(257);
    for secret in [
        "Wrong-Secret-2",
        "Right-Secret-1",
        "Long-Secret-",
        "Wrong-Sec",
    ] {
        assert_eq!(in_memory(&server, secret.as_bytes()), 0, "{secret}");
    }
    // What is not wiped is found this way.
    client.expect("CWD /Not-Secret-At-All", 550);
    let name = "known".as_bytes();
    assert!(in_memory(&server, name) > 0);
}

#[test]
fn no_password_that_came_encrypted_stays_in_memory() {
    if !root_may("looking into memory") {
        return;
    }
    let toml = one_user("known", "Right-Secret-1");
    let server = Server::build().configuration(&toml).start();
    for version in [&TLS13, &TLS12] {
        let mut client = Secure::explicit(&server, client_config(version));
        client.expect("USER known", 331);
        client.expect("PASS Wrong-Secret-2", 530);
        client.expect("USER known", 331);
        client.expect("PASS Right-Secret-1", 230);
        client.expect("NOOP", 200);
        for secret in ["Wrong-Secret-2", "Right-Secret-1"] {
            let found = in_memory(&server, secret.as_bytes());
            assert_eq!(found, 0, "{secret}, {version:?}");
        }
    }
}

/// Serves the root for users from elsewhere than `--user`.
fn without_flag() -> common::Builder {
    Server::build().configuration("").arguments(&["{root}"])
}

#[test]
fn a_password_on_the_command_line_is_warned_of() {
    let server = Server::start();
    let warning = server.wait_for_log("--password-file keeps them from there");
    assert!(!warning.contains(PASSWORD), "{warning}");
}

#[test]
fn users_come_from_a_file_that_nobody_else_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    fs::write(
        &file,
        "# Who may come.\nanna:with:colons\n\nben:two words\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let builder = || without_flag().arguments(&["--password-file", path]);
    for mode in [0o640, 0o604] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let server = builder().start_without_waiting();
        assert!(!server.wait().success());
        let log = server.log_text();
        assert!(
            log.contains("others can read it") && log.contains("chmod 600"),
            "{log}"
        );
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let server = builder().start();
    server.connect().login_as("anna", "with:colons").expect(230);
    server.connect().login_as("ben", "two words").expect(230);
    let command = fs::read_to_string(format!("/proc/{}/cmdline", server.pid())).unwrap();
    assert!(!command.contains("colons"), "{command}");
    assert!(
        !server.log_text().contains("--user"),
        "{}",
        server.log_text()
    );
    // They are those of the start.
    fs::remove_file(&file).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("read again");
    server.connect().login_as("anna", "with:colons").expect(230);
}

#[test]
fn a_line_that_is_none_is_named_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    fs::write(&file, "anna:fine\nJust-A-Password\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let arguments = ["--password-file", file.to_str().unwrap()];
    let server = without_flag().arguments(&arguments).start_without_waiting();
    assert!(!server.wait().success());
    let log = server.log_text();
    assert!(log.contains("line 2: takes NAME:PASSWORD"), "{log}");
    assert!(!log.contains("Just-A-Password"), "{log}");
}

#[test]
fn users_come_from_the_environment_and_from_credentials_of_systemd() {
    let server = without_flag()
        .environment("THRIFTPD_USERS", "anna:from the environment\n")
        .start();
    server
        .connect()
        .login_as("anna", "from the environment")
        .expect(230);
    match fs::read(format!("/proc/{}/environ", server.pid())) {
        Ok(left) => {
            let left = String::from_utf8_lossy(&left);
            assert!(left.contains("HOME=") && !left.contains("from the environment"));
        }
        // What cannot be dumped shows its environment to root only (proc(5)).
        Err(_) if !is_root() => skip_part("to look into the server's environment needs root"),
        Err(error) => panic!("{error}"),
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    fs::write(
        directory.path().join("thriftpd.users"),
        "ben:from systemd\n",
    )
    .unwrap();
    let server = without_flag()
        .environment("CREDENTIALS_DIRECTORY", path)
        .start();
    server.connect().login_as("ben", "from systemd").expect(230);
    server.connect().login_as(USER, PASSWORD).expect(530);
}
