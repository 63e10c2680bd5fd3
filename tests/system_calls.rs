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

// What was reached: who needs more of them says why.

/// From the connection to the reply to PASS, in both threads.
const LOGIN: usize = 20;
/// EPSV, and the file.
const STOR: usize = 52;
/// The same. Three of them ask what it is before it is opened, for to open a device can do harm.
const RETR: usize = 22;
/// EPSV, and all but the entries.
const LIST: usize = 23;
const NLST: usize = 20;
const MLSD: usize = 36;

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

    /// The system calls from the last connection that was accepted to the reply to its PASS: of the thread that accepts, and of
    /// the session's.
    fn calls_of_last_login(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.calls.path().join("calls")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let thread = |line: &str| line.split_whitespace().next().unwrap().to_owned();
        let last = |call: &str, what: &str| {
            let is_it = |line: &&str| line.contains(call) && line.contains(what);
            lines.iter().rposition(is_it).unwrap()
        };
        let (user, end) = (last("recvfrom", "\"USER "), last("sendto", "\"230 "));
        let accepted = |line: &&str| line.contains("accept4") && line.contains("sin_port");
        let start = lines[..user].iter().rposition(accepted).unwrap();
        let threads = [thread(lines[start]), thread(lines[user])];
        let calls = lines[start..=end].iter().filter_map(|line| {
            let own = threads.iter().find(|thread| line.starts_with(*thread))?;
            call(line.strip_prefix(own.as_str())?)
        });
        calls.collect()
    }

    /// The system calls of the session from the last one that received `from` to before the next one that received `NOOP`.
    fn calls(&self, from: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.calls.path().join("calls")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let received = |line: &&str, what: &str| {
            // The first half may stand in a line of its own.
            line.contains("recvfrom") && line.contains(&format!("\"{what}\\r\\n\""))
        };
        let start = lines.iter().rposition(|line| received(line, from)).unwrap();
        let lines = lines[start..].iter();
        let lines: Vec<&&str> = lines.take_while(|line| !received(line, "NOOP")).collect();
        let thread = lines[0].split_whitespace().next().unwrap();
        let of_session = lines.iter().filter_map(|line| line.strip_prefix(thread));
        of_session.filter_map(call).collect()
    }
}

/// A line without the thread's number; None for what is no call.
fn call(line: &str) -> Option<String> {
    let line = line.trim();
    // The first half of a call that another thread's came between.
    let is_half = line.ends_with("<unfinished ...>");
    // The standard library asks before each close(2), in builds for debugging.
    let is_check = line.contains("fcntl") && line.contains("F_GETFD");
    let is_end = line.starts_with("<... fcntl") && line.contains("FD_CLOEXEC");
    let second = line.strip_prefix("<... ");
    let whole = second.map_or(line.into(), |half| half.replacen(" resumed>", "(", 1));
    // Whether another thread sleeps, and how long this one spins before it does, is chance.
    let is_chance = whole.starts_with("futex(") || whole.starts_with("sched_yield(");
    (!is_half && !is_check && !is_end && !is_chance).then_some(whole)
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
    assert!(calls.len() > 2, "these cannot be all: {calls:?}");
}

/// All of it is there before the command, so that the server waits for nothing.
fn store(client: &mut Client, name: &str) {
    let mut data = client.epsv();
    data.write_all(&common::noise(4096)).unwrap();
    drop(data);
    client.expect(format!("STOR {name}"), 150);
    client.reply().expect(226);
}

/// The fewest system calls of several times, from EPSV to the wait for what comes next: a passive port may be another server's,
/// and the next one is tried. What is found out once is known by then.
fn fewest(traced: &Traced, mut act: impl FnMut(&mut Client)) -> Vec<String> {
    let mut client = traced.server.client();
    act(&mut client);
    let calls = [
        "PWD",
        "STRU F",
        "MODE S",
        "ALLO 1",
        "TYPE A",
        "TYPE I",
        "OPTS UTF8 ON",
        "SYST",
    ];
    let calls = calls.map(|mark| {
        client.command(mark);
        act(&mut client);
        client.expect("NOOP", 200);
        let calls = traced.calls(mark);
        let own = calls.iter().position(|call| call.contains("\"EPSV"));
        calls[own.unwrap()..].to_vec()
    });
    let fewest = calls.into_iter().min_by_key(Vec::len);
    fewest.unwrap()
}

fn lists(command: &str) -> impl FnMut(&mut Client) {
    move |client| drop(client.list(command))
}

#[test]
fn a_small_file_is_stored_and_flushed_by_few_system_calls() {
    let Some(traced) = Traced::start() else {
        return;
    };
    let mut number = 0;
    let calls = fewest(&traced, |client| {
        number += 1;
        store(client, &format!("new-{number}"));
    });
    at_most(STOR, &calls);
}

#[test]
fn a_small_file_is_fetched_by_few_system_calls() {
    let Some(traced) = Traced::start() else {
        return;
    };
    traced.server.write("file", common::noise(4096));
    at_most(RETR, &fewest(&traced, |client| drop(client.retr("file"))));
}

#[test]
fn a_listing_looks_once_at_an_entry_and_only_for_what_it_shows() {
    let Some(traced) = Traced::start() else {
        return;
    };
    for number in 0..1000 {
        traced.server.write(format!("files/{number:04}"), "");
    }
    at_most(LIST + 1000, &fewest(&traced, lists("LIST files")));
    at_most(MLSD + 1000, &fewest(&traced, lists("MLSD files")));
    at_most(NLST, &fewest(&traced, lists("NLST files")));
    let mut kinds_only = lists("MLSD files");
    let kinds_only = fewest(&traced, |client| {
        client.expect("OPTS MLST type;", 200);
        kinds_only(client);
    });
    at_most(MLSD, &kinds_only);
}

#[test]
fn a_link_is_listed_by_two_system_calls_and_followed_by_three() {
    let Some(traced) = Traced::start() else {
        return;
    };
    for number in 0..100 {
        traced.server.write(format!("files/{number}"), "");
        let link = traced.server.path(format!("links/{number}"));
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(format!("../files/{number}"), link).unwrap();
    }
    at_most(LIST + 200, &fewest(&traced, lists("LIST links")));
    at_most(MLSD + 300, &fewest(&traced, lists("MLSD links")));
    at_most(NLST, &fewest(&traced, lists("NLST links")));
}

#[test]
fn a_command_without_work_is_answered_by_three_system_calls() {
    let Some(traced) = Traced::start() else {
        return;
    };
    let mut client = traced.server.client();
    client.expect("SYST", 215);
    client.expect("NOOP", 200);
    at_most(3, &traced.calls("SYST"));
}

#[test]
fn a_login_takes_few_system_calls() {
    let Some(traced) = Traced::start() else {
        return;
    };
    let calls = [(); 8].map(|_| {
        let mut client = traced.server.client();
        client.expect("NOOP", 200);
        client.expect("QUIT", 221);
        client.expect_end();
        traced.calls_of_last_login()
    });
    // The first ones start threads.
    let fewest = calls.iter().min_by_key(|calls| calls.len());
    at_most(LOGIN, fewest.unwrap());
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
