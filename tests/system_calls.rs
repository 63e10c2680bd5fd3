//! System calls that commands cost, counted by strace(1): on a small host, and on disks that are reached over a network, each of
//! them is time.

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use common::{Builder, Client, Mounted, Server};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, statfs};
use tempfile::TempDir;

/// A server whose system calls are written to a file, line by line and before each of them returns.
struct Traced {
    server: Server,
    calls: TempDir,
    /// What it serves.
    _disk: Option<Mounted>,
    _directory: Option<TempDir>,
}

impl Traced {
    /// None, and the test is skipped, where that cannot be had.
    #[track_caller]
    fn start() -> Option<Self> {
        // What calls are given lies in memory that no other process of the same user may look into.
        if !common::root_may("to read what the server's system calls are given") {
            return None;
        }
        match Command::new("strace")
            .args(["-f", "-o", "/dev/null", "true"])
            .output()
        {
            Err(error) => {
                common::skip(format_args!("strace cannot be started: {error}"));
                return None;
            }
            Ok(output) if !output.status.success() => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                common::skip(format_args!("strace may not trace here: {}", why.trim()));
                return None;
            }
            Ok(_) => {}
        }
        let builder = Server::build();
        let (builder, disk, directory) = match Mounted::ext4(&builder) {
            Some(disk) => (builder, Some(disk), None),
            None => {
                let (builder, directory) = on_the_disk_of_the_checkout(builder)?;
                (builder, None, Some(directory))
            }
        };
        let calls = tempfile::tempdir().unwrap();
        let to = calls.path().join("calls");
        // The server is the child, and strace a grandchild that ends with it.
        let trace = ["strace", "-D", "-f", "-q", "-s", "64", "-o"];
        let trace = [&trace[..], &[to.to_str().unwrap()]].concat();
        Some(Self {
            server: builder.under(&trace).start(),
            calls,
            _disk: disk,
            _directory: directory,
        })
    }

    /// The system calls of the session from the one that received `from` to before the next one that received `NOOP`.
    fn calls(&self, from: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.calls.path().join("calls")).unwrap();
        let received = |line: &str, what: &str| {
            // The first half may stand in a line of its own.
            line.contains("recvfrom") && line.contains(&format!("\"{what}\\r\\n\""))
        };
        let lines = text.lines().skip_while(|line| !received(line, from));
        let lines: Vec<&str> = lines.take_while(|line| !received(line, "NOOP")).collect();
        let thread = lines[0].split_whitespace().next().unwrap();
        let of_session = lines.iter().filter_map(|line| line.strip_prefix(thread));
        let calls = of_session.map(str::trim).filter(|call| {
            // The second half of a call that another thread's came between.
            let is_half = call.starts_with("<...");
            // The standard library asks before each close(2), in builds for debugging.
            let is_check = call.starts_with("fcntl(") && call.contains("F_GETFD");
            !is_half && !is_check
        });
        calls.map(str::to_owned).collect()
    }
}

fn on_the_disk_of_the_checkout(builder: Builder) -> Option<(Builder, TempDir)> {
    let here = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kind = statfs(here).unwrap().filesystem_type();
    if kind != EXT4_SUPER_MAGIC {
        common::skip(format_args!("{} is not on ext4 either", here.display()));
        return None;
    }
    let directory = tempfile::tempdir_in(here).unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    Some((builder.serving(&root), directory))
}

/// Fails where there are more, and says how many of which.
#[track_caller]
fn at_most(most: usize, calls: &[String]) {
    let mut names = BTreeMap::<&str, usize>::new();
    for call in calls {
        let name = call.split('(').next().unwrap_or(call);
        *names.entry(name).or_default() += 1;
    }
    println!("{} system calls: {names:?}", calls.len());
    assert!(
        calls.len() <= most,
        "{} system calls are more than {most}: {names:#?}\n{}",
        calls.len(),
        calls.join("\n")
    );
    assert!(calls.len() > 3, "these cannot be all: {calls:?}");
}

/// All of it is there before the command, so that the server waits for nothing.
fn store(client: &mut Client, name: &str) {
    let mut data = client.epsv();
    data.write_all(&common::noise(4096)).unwrap();
    drop(data);
    client.expect(format!("STOR {name}"), 150);
    client.reply().expect(226);
}

#[test]
fn a_small_file_is_stored_and_flushed_by_few_system_calls() {
    let Some(traced) = Traced::start() else {
        return;
    };
    let mut client = traced.server.client();
    // What is found out once is known then.
    store(&mut client, "first");
    client.expect("NOOP", 200);
    store(&mut client, "second");
    client.expect("NOOP", 200);
    // A passive port may be another server's, and the next one is tried: seldom all three times.
    let calls = ["PWD", "STRU F", "MODE S"].map(|mark| {
        client.expect(mark, if mark == "PWD" { 257 } else { 200 });
        store(&mut client, &format!("new-{}", &mark[..1]));
        client.expect("NOOP", 200);
        let calls = traced.calls(mark);
        let own = calls.iter().position(|call| call.contains("\"EPSV"));
        calls[own.unwrap()..].to_vec()
    });
    let fewest = calls.iter().min_by_key(|calls| calls.len());
    at_most(60, fewest.unwrap());
}

#[test]
fn the_size_of_a_missing_file_is_told_by_few_system_calls() {
    let Some(traced) = Traced::start() else {
        return;
    };
    let mut client = traced.server.client();
    client.expect("NOOP", 200);
    client.expect("SIZE missing", 550);
    client.expect("NOOP", 200);
    at_most(12, &traced.calls("SIZE missing"));
}
