//! Other people's clients, run with a deadline and away from the home of whoever runs the tests.

use super::{PASSWORD, Server, USER};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a program ended and what it said.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    what: String,
}

impl Finished {
    /// Fails unless the program says that all went well.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(
            self.status.success(),
            "{}: {}\n{}\n{}",
            self.what,
            self.status,
            self.text(),
            self.stderr
        );
        self
    }

    /// Fails unless the program noticed that something went wrong.
    #[track_caller]
    pub fn failed(self) -> Self {
        assert!(
            !self.status.success(),
            "{} should have failed\n{}\n{}",
            self.what,
            self.text(),
            self.stderr
        );
        self
    }

    /// Standard output.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A program that must be there.
#[track_caller]
pub fn the_program(name: &str, home: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    assert!(
        found,
        "{name} is not installed: run scripts/test, which installs it"
    );
    let mut command = Command::new(name);
    command
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env_remove("ftp_proxy")
        .env_remove("FTP_PROXY")
        .env_remove("all_proxy")
        .env_remove("ALL_PROXY")
        .current_dir(home);
    command
}

/// Runs a program with no input and ends it, with all it started, at the deadline.
#[track_caller]
pub fn run_client(command: &mut Command, seconds: u64) -> Finished {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that the end of the group is the end of its helpers too.
        .process_group(0)
        .spawn()
        .unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).map(|_| bytes)
    });
    let err = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        err.read_to_end(&mut bytes).map(|_| bytes)
    });
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline && !late {
            late = true;
            let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            // It may have ended by itself in this moment.
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let stdout = out.join().unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&err.join().unwrap().unwrap()).into_owned();
    let finished = Finished {
        status,
        stdout,
        stderr,
        what,
    };
    assert!(
        !late,
        "{} took more than {seconds} s\n{}\n{}",
        finished.what,
        finished.text(),
        finished.stderr
    );
    finished
}

/// lftp, logged in as the usual user, runs this script.
#[track_caller]
pub fn lftp(server: &Server, script: &str) -> Finished {
    let script = format!(
        "set net:timeout 20; set ftp:ssl-allow no; set net:max-retries 2; set cmd:fail-exit yes; set xfer:log no; open -u {USER},{PASSWORD} ftp://{}; {script}",
        server.address()
    );
    let mut command = the_program("lftp", server.home());
    command.args(["-c", &script]);
    run_client(&mut command, 90)
}

/// rclone, for which `:ftp:` is the server as the usual user sees it.
#[track_caller]
pub fn rclone(server: &Server, arguments: &[&str]) -> Finished {
    let mut obscure = the_program("rclone", server.home());
    let obscured = run_client(obscure.args(["obscure", PASSWORD]), 90);
    let obscured = obscured.succeeded().text();
    let mut command = the_program("rclone", server.home());
    command
        .args(arguments)
        .args(["--retries", "1"])
        .env("RCLONE_CONFIG", server.home().join("rclone.conf"))
        .env("RCLONE_FTP_HOST", "127.0.0.1")
        .env("RCLONE_FTP_PORT", server.port().to_string())
        .env("RCLONE_FTP_USER", USER)
        .env("RCLONE_FTP_PASS", obscured.trim())
        .env("RCLONE_FTP_CONCURRENCY", "4");
    run_client(&mut command, 90)
}
