//! `thriftpd verify`: reads again what was uploaded with a checksum, and lists what no longer matches.
use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argh::FromArgs;

use super::Outcome;
use crate::config::Config;
use crate::observe::printable;
use crate::storage::{Checked, Told, count_checksums, is_mounted, verify};

/// read again every file with a stored checksum (setting: checksums), and list those that no longer match
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "verify")]
pub struct VerifyArguments {
    /// the directory to look through; without it, all roots and folders of the configuration
    #[argh(positional)]
    dir: Option<PathBuf>,
    /// the configuration file (TOML)
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
}

/// Lists on standard output what does not match, and shows on standard error how far it has come.
///
/// # Errors
/// How much does not match or cannot be read, each of which was printed; that nothing was verified at all.
pub fn run(arguments: &VerifyArguments) -> Outcome {
    let trees = match (&arguments.dir, &arguments.config) {
        (Some(dir), _) => vec![Tree {
            top: dir.clone(),
            require_mount: false,
        }],
        (None, Some(file)) => configured(file)?,
        (None, None) => {
            return Err("verify what? Name a directory, or a configuration with --config".into());
        }
    };
    let mut report = Report::new(count(&trees));
    for tree in &trees {
        let Tree { top, require_mount } = tree;
        let done = verify(top, *require_mount, &mut |told| report.tell(&told));
        if let Err(error) = done {
            report.tell(&Told::Unreadable(top, error.to_string()));
        }
    }
    report.finish()
}

/// A directory to be gone through.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Tree {
    top: PathBuf,
    /// Without a file system mounted at it, it holds nothing that could be verified.
    require_mount: bool,
}

/// The roots and folders, but for those that lie in another one: they are gone through with it, unless their disk is missing,
/// which is to be told.
fn configured(file: &Path) -> Result<Vec<Tree>, String> {
    let config = Config::load(file).map_err(|error| error.to_string())?;
    let accounts = config.accounts.iter().chain(config.accounts.anonymous());
    let all: BTreeSet<Tree> = accounts
        .flat_map(|account| account.view.directories())
        .map(|(directory, rules)| Tree {
            top: directory.canonicalize().unwrap_or(directory.clone()),
            require_mount: rules.require_mount,
        })
        .collect();
    let mut trees: Vec<Tree> = Vec::new();
    // In this order a directory comes before what lies in it, and one that needs no disk before the same that needs one.
    for tree in all {
        let is_missing = tree.require_mount && !is_mounted(&tree.top);
        if is_missing || !trees.iter().any(|above| tree.top.starts_with(&above.top)) {
            trees.push(tree);
        }
    }
    Ok(trees)
}

/// What is ahead, without which no time left can be told.
fn count(trees: &[Tree]) -> Checked {
    let mut all = Checked::default();
    for tree in trees {
        // One that cannot be opened is told of when its turn comes.
        let counted = count_checksums(&tree.top, tree.require_mount);
        let Checked { files, bytes } = counted.unwrap_or_default();
        all.files += files;
        all.bytes += bytes;
    }
    all
}

/// What was found so far.
struct Report {
    verified: u64,
    without: u64,
    damaged: u64,
    changed: u64,
    unreadable: u64,
    progress: Progress,
}

impl Report {
    fn new(ahead: Checked) -> Self {
        Self {
            verified: 0,
            without: 0,
            damaged: 0,
            changed: 0,
            unreadable: 0,
            progress: Progress::start(ahead),
        }
    }

    fn tell(&mut self, told: &Told<'_>) {
        match told {
            Told::Read(bytes) => self.progress.advance(*bytes),
            Told::Verified => self.verified += 1,
            Told::WithoutChecksum => self.without += 1,
            Told::Damaged(path) => {
                self.damaged += 1;
                self.list("damaged", path, "");
            }
            Told::Changed(path) => {
                self.changed += 1;
                self.list("changed", path, "");
            }
            Told::Unreadable(path, why) => {
                self.unreadable += 1;
                self.list("unreadable", path, why);
            }
        }
    }

    fn list(&mut self, what: &str, path: &Path, why: &str) {
        self.progress.clear();
        let path = printable(path.as_os_str().as_encoded_bytes());
        let separator = if why.is_empty() { "" } else { ": " };
        say(&format!("{what}: {path}{separator}{why}"));
    }

    fn finish(mut self) -> Outcome {
        self.progress.finish();
        let Self {
            verified, without, ..
        } = self;
        say(&format!(
            "{verified} verified, {} damaged, {} changed, {} unreadable, {without} without checksum",
            self.damaged, self.changed, self.unreadable
        ));
        match self.damaged + self.changed + self.unreadable {
            // Somebody who looks at the exit status alone would take it for "all is well".
            0 if verified == 0 => {
                Err("nothing was verified: no file here has a checksum (setting: checksums)".into())
            }
            0 => Ok(()),
            1 => Err("1 of them needs to be looked at".into()),
            count => Err(format!("{count} of them need to be looked at")),
        }
    }
}

/// A line on standard output; who reads it may be gone, and then nothing is to be told any more.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// How often the bar is drawn again, and how often a line tells the same where there is no terminal.
const REDRAW: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(10);

/// How far the reading has come, on standard error.
struct Progress {
    ahead: Checked,
    read: u64,
    started: Instant,
    told: Instant,
    on_terminal: bool,
    /// A bar stands in the line of the cursor.
    drawn: bool,
}

impl Progress {
    fn start(ahead: Checked) -> Self {
        let now = Instant::now();
        let mut progress = Self {
            ahead,
            read: 0,
            started: now,
            told: now,
            on_terminal: io::stderr().is_terminal(),
            drawn: false,
        };
        let Checked { files, bytes } = ahead;
        eprint_line(&format!(
            "files with checksums: {files}, {} to read",
            in_units(bytes)
        ));
        progress.show(now);
        progress
    }

    fn advance(&mut self, bytes: u64) {
        self.read += bytes;
        let now = Instant::now();
        let pause = if self.on_terminal { REDRAW } else { LINE };
        if now.duration_since(self.told) >= pause {
            self.show(now);
        }
    }

    fn show(&mut self, now: Instant) {
        self.told = now;
        let elapsed = now.duration_since(self.started);
        if self.on_terminal {
            // From the first column, and nothing left of a longer one.
            eprint_now(&format!(
                "\r{}\x1b[K",
                bar(self.read, self.ahead.bytes, elapsed)
            ));
            self.drawn = true;
        } else if self.read > 0 {
            eprint_line(&state(self.read, self.ahead.bytes, elapsed));
        }
    }

    /// The bar goes; where there is none, a last line tells of all.
    fn finish(&mut self) {
        if !self.on_terminal {
            self.show(Instant::now());
        }
        self.clear();
    }

    /// Makes room for a line.
    fn clear(&mut self) {
        if self.drawn {
            eprint_now("\r\x1b[K");
            self.drawn = false;
        }
    }
}

/// Nobody may look at standard error: that is no reason to stop.
fn eprint_now(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn eprint_line(line: &str) {
    eprint_now(&format!("{line}\n"));
}

/// Characters between the brackets, so that the whole fits into 80 columns.
const WIDTH: u64 = 20;

/// `[########------------]  40% 1.2 of 3.0 GiB, 110.5 MiB/s, 0:16 left`
fn bar(read: u64, ahead: u64, elapsed: Duration) -> String {
    let full = parts(read, ahead, WIDTH);
    let (full, empty) = (
        "#".repeat(full as usize),
        "-".repeat((WIDTH - full) as usize),
    );
    format!("[{full}{empty}] {}", state(read, ahead, elapsed))
}

/// The same in words.
fn state(read: u64, ahead: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let rate = read as f64 / seconds.max(1e-3);
    let left = match ahead.saturating_sub(read) {
        // From a rate over so short a time nothing follows.
        left if seconds >= 1.0 && read > 0 => {
            format!(", {} left", clock((left as f64 / rate).ceil() as u64))
        }
        _ => String::new(),
    };
    format!(
        "{:>3}% {} of {}, {}/s{left}",
        parts(read, ahead, 100),
        in_units(read),
        in_units(ahead),
        in_units(rate as u64)
    )
}

/// How many of `whole` parts are done. A file can be read twice, or grow: never more than all.
fn parts(read: u64, ahead: u64, whole: u64) -> u64 {
    let done = u128::from(read.min(ahead)) * u128::from(whole);
    done.checked_div(u128::from(ahead))
        .map_or(whole, |done| u64::try_from(done).unwrap_or(whole))
}

fn in_units(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let decimals = usize::from(unit != "bytes");
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_bar_shows_part_rate_and_time_left() {
        assert_eq!(
            bar(2 * GIB, 5 * GIB, Duration::from_secs(20)),
            "[########------------]  40% 2.0 GiB of 5.0 GiB, 102.4 MiB/s, 0:30 left"
        );
        assert_eq!(
            bar(0, GIB, Duration::ZERO),
            "[--------------------]   0% 0 bytes of 1.0 GiB, 0 bytes/s"
        );
        let widest = bar(1020 << 30, 99 << 40, Duration::from_secs(9999));
        assert!(widest.len() < 80, "{widest}");
    }

    #[test]
    fn nothing_goes_beyond_the_whole() {
        assert!(bar(9, 8, Duration::from_secs(1)).starts_with("[####################] 100%"));
        assert_eq!((parts(0, 0, 100), parts(1, 0, 100)), (100, 100));
        assert_eq!(parts(u64::MAX - 1, u64::MAX, 100), 99);
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        let sizes = [0, 1023, 1024, 1536, GIB, 2048 * GIB].map(in_units);
        assert_eq!(
            sizes,
            [
                "0 bytes",
                "1023 bytes",
                "1.0 KiB",
                "1.5 KiB",
                "1.0 GiB",
                "2.0 TiB"
            ]
        );
        assert_eq!(
            [0, 61, 3600, 360_001].map(clock),
            ["0:00", "1:01", "1:00:00", "100:00:01"]
        );
    }
}
