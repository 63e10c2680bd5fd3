//! Eight sessions do whatever comes to their mind, in the same few directories and at the same few names: behind that what is
//! counted is what is there, to the byte and the file.
//!
//! `THRIFTPD_LOAD_SECONDS` and `THRIFTPD_LOAD_SEED` make it last longer and begin otherwise.

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Client, Server, noise, reset, run_client};

/// What users have, in one area beside the target and with versions, in the other in the target itself.
const CONFIGURATION: &str = "
[anonymous]
root = \"{root}/beside\"
access = \"read-write\"
quota = \"8MB\"
quota_files = 150
versions = 2
[[anonymous.folder]]
path = \"/direct\"
root = \"{root}/direct\"
access = \"read-write\"
uploads = \"direct\"
versions = 0
";

struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Bytes and files below a directory, but for the server's own state.
fn really(directory: &Path) -> (u64, u64) {
    let mut found = (0, 0);
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let facts = entry.metadata().unwrap();
        let more = match facts.is_dir() {
            true if entry.file_name() == ".thriftpd" => (0, 0),
            true => really(&entry.path()),
            false => (facts.size(), 1),
        };
        found = (found.0 + more.0, found.1 + more.1);
    }
    found
}

/// What `thriftpd quota` says of the user.
fn told(server: &Server, anew: bool) -> (u64, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
    command.arg("quota").args(anew.then_some("--rescan"));
    command
        .arg("--config")
        .arg(server.home().join("thriftpd.toml"));
    let text = run_client(&mut command, 60).succeeded().text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("anonymous: "));
    let mut words = line.unwrap_or_else(|| panic!("{text}")).split_whitespace();
    let bytes = words.next().unwrap().parse().unwrap();
    let files = words.nth(3).unwrap().parse().unwrap();
    (bytes, files)
}

struct Session<'a> {
    server: &'a Server,
    client: Client,
    chance: Chance,
}

impl Session<'_> {
    fn top(&mut self) -> &'static str {
        self.chance.of(&["", "/direct"])
    }

    fn directory(&mut self, top: &str) -> String {
        format!("{top}/{}", self.chance.of(&["x", "y", "x/z"]))
    }

    fn file(&mut self) -> String {
        let top = self.top();
        let directory = match self.chance.below(3) {
            0 => top.to_owned(),
            _ => self.directory(top),
        };
        format!("{directory}/f{}", self.chance.below(4))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let most = [1, 5_000, 60_000, 300_000][self.chance.below(4) as usize];
        let length = self.chance.below(most);
        noise(length as usize)
    }

    fn say(&mut self, line: String) -> u16 {
        self.client.command(line).code
    }

    /// However it ends.
    fn upload(&mut self, line: String) {
        let mut data = self.client.epsv();
        if self.say(line) >= 400 {
            return;
        }
        let bytes = self.bytes();
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        // The server may have ended it.
        let _ = data.write_all(first);
        match self.chance.below(12) {
            0 => {
                self.client.send("ABOR");
                self.client.reply();
                self.client.reply();
                return;
            }
            1 => {
                reset(data);
                self.client.reply();
                return;
            }
            2 => {
                let again = self.server.visitor();
                std::mem::replace(&mut self.client, again).reset();
                return;
            }
            3..6 => std::thread::sleep(Duration::from_millis(self.chance.below(30))),
            _ => {}
        }
        let _ = data.write_all(rest);
        drop(data);
        self.client.reply();
    }

    fn rename(&mut self, from: String, to: String) {
        if self.say(format!("RNFR {from}")) == 350 {
            self.say(format!("RNTO {to}"));
        }
    }

    fn step(&mut self) {
        match self.chance.below(30) {
            0..7 => {
                let file = self.file();
                self.upload(format!("STOR {file}"));
            }
            7..10 => {
                let file = self.file();
                self.upload(format!("APPE {file}"));
            }
            10..13 => {
                let (file, offset) = (self.file(), self.chance.below(20_000));
                self.say(format!("REST {offset}"));
                self.upload(format!("STOR {file}"));
            }
            13 => {
                let (file, size) = (self.file(), self.chance.below(100_000));
                self.say(format!("ALLO {size}"));
                self.upload(format!("STOR {file}"));
            }
            14..18 => {
                let file = self.file();
                self.say(format!("DELE {file}"));
            }
            18..22 => {
                let (from, to) = (self.file(), self.file());
                self.rename(from, to);
            }
            22..24 => {
                // What moves with all in it from one counted directory to another is counted before it moves.
                let top = self.top();
                let (from, to) = (self.directory(top), self.directory(top));
                self.rename(from, to);
            }
            24..27 => {
                let top = self.top();
                let directory = self.directory(top);
                self.say(format!("MKD {directory}"));
            }
            27 => {
                let top = self.top();
                let directory = self.directory(top);
                self.say(format!("RMD {directory}"));
            }
            28 => {
                let top = self.top();
                let directory = self.directory(top);
                self.say(format!("RMDA {directory}"));
            }
            _ => {
                let (from, to) = (self.file(), self.file());
                self.say(format!("SITE COPY {from} {to}"));
            }
        }
    }
}

#[test]
fn what_eight_sessions_leave_is_what_is_counted() {
    let (seconds, seed) = (
        number("THRIFTPD_LOAD_SECONDS", 20),
        number("THRIFTPD_LOAD_SEED", 1),
    );
    let builder = Server::build().configuration(CONFIGURATION);
    let areas = ["beside", "direct"].map(|name| builder.root().join(name));
    for directory in &areas {
        fs::create_dir(directory).unwrap();
    }
    let server = builder.start();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        let stop = Instant::now() + Duration::from_secs(2);
        std::thread::scope(|scope| {
            for number in 0..8_u64 {
                let server = &server;
                let seed = seed.wrapping_mul(1_000_003) + round * 1009 + number + 1;
                scope.spawn(move || {
                    let mut session = Session {
                        server,
                        client: server.visitor(),
                        chance: Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
                    };
                    while Instant::now() < stop {
                        session.step();
                    }
                    session.client.expect("QUIT", 221);
                });
            }
        });
        // Of a session that was reset the upload may end a moment later.
        let there = || {
            let [beside, direct] = areas.each_ref().map(|area| really(area));
            (beside.0 + direct.0, beside.1 + direct.1)
        };
        let patience = Instant::now() + Duration::from_secs(10);
        while told(&server, false) != there() {
            assert!(
                Instant::now() < patience,
                "seed {seed}, round {round}: counted {:?}, there {:?}: {:?}",
                told(&server, false),
                there(),
                areas.each_ref().map(|area| {
                    let kept = fs::read_to_string(area.join(".thriftpd/quota")).unwrap();
                    (kept.trim().to_owned(), really(area))
                })
            );
        }
        assert_eq!(told(&server, true), there(), "seed {seed}, round {round}");
    }
}
