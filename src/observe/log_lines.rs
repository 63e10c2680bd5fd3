//! Log lines on standard error, through `log` and `env_logger`.
//!
//! On a terminal or in a file a line carries the time (UTC) and the level. Under systemd the journal has both already:
//! there a line carries the priority prefix of sd-daemon(3) and nothing else. No record can span or forge a line.
//!
//! A server writes them by a thread of its own: whoever reads may sleep (a full pipe, Ctrl-S), and nothing waits for that. All
//! lines pass here, and so nobody who writes one has to think of how many there may be (see `limit`).
use std::env;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::limit::{Limit, Line, Verdict};
use super::origin;
use super::queue::Queue;

/// Lines that wait to be read.
const WAITING: usize = 1024;

/// Bytes that most lines have room in.
const USUAL: usize = 256;

/// How long the last lines may take when the process ends.
const AT_THE_END: Duration = Duration::from_secs(1);

static FRONT: OnceLock<Front> = OnceLock::new();

/// What all lines of the process pass.
struct Front {
    filter: env_logger::Logger,
    under_systemd: bool,
    limit: Mutex<Limit>,
    /// None: whoever logs writes, and nobody is there to tell how many lines were counted.
    queue: OnceLock<Queue<Vec<u8>>>,
}

impl Front {
    fn limit(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole line, with what stands before a message.
    fn line(&self, level: Level, message: impl Display) -> Vec<u8> {
        let mut line = String::with_capacity(USUAL);
        // Writing to a string does not fail.
        let _ = if self.under_systemd {
            write!(line, "<{}>", priority(level))
        } else {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
            write!(line, "{now} {level:<5} ")
        };
        let _ = write!(OneLine(&mut line), "{message}");
        line.push('\n');
        line.into_bytes()
    }

    fn write(&self, level: Level, message: impl Display) {
        let line = self.line(level, message);
        match self.queue.get() {
            Some(queue) => queue.push(line),
            // Nobody is there to be told that this fails.
            None => drop(io::stderr().write_all(&line)),
        }
    }

    /// Writes a line that may be one of very many, or counts it.
    fn write_within_limit(&self, queue: &Queue<Vec<u8>>, record: &Record<'_>) {
        let line = Line {
            kind: (record.file_static(), record.line(), record.level()),
            target: record.target(),
            origin: origin::current(),
        };
        let verdict = self.limit().admit(Instant::now(), &line);
        match verdict {
            Verdict::Counted => {}
            Verdict::FirstCounted => queue.look(),
            Verdict::Written => self.write(record.level(), record.args()),
            Verdict::First => {
                // Outside of the lock: what is shown may log.
                let message = record.args().to_string();
                self.limit().show(&line, &message);
                self.write(record.level(), &message);
            }
        }
    }
}

impl Log for Front {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        match self.queue.get() {
            // Who looks for a defect wants every line.
            Some(queue) if record.level() <= Level::Info => self.write_within_limit(queue, record),
            _ => self.write(record.level(), record.args()),
        }
    }

    fn flush(&self) {}
}

/// From now on nobody waits for who reads the lines, and floods of them are counted. To be called when the process may have
/// threads.
pub fn write_behind() {
    let Some(front) = FRONT.get() else { return };
    let queue = Queue::start("log", WAITING, |line: Option<Vec<u8>>, lost| {
        if lost > 0 {
            // Itself in line, behind those that were there.
            log::warn!("{lost} log lines were lost: standard error was not read in time");
        }
        let (told, wake) = front.limit().due(Instant::now());
        let told = told.iter().map(|(level, told)| front.line(*level, told));
        for line in line.into_iter().chain(told) {
            let _ = io::stderr().write_all(&line);
        }
        wake
    });
    match queue {
        Ok(queue) => drop(front.queue.set(queue)),
        Err(error) => log::warn!("whoever reads the log can hold up the server: {error}"),
    }
}

/// Waits a moment until all lines are written.
pub fn end() {
    let Some(front) = FRONT.get() else { return };
    if let Some(queue) = front.queue.get() {
        let rest = front.limit().rest(Instant::now());
        for (level, told) in rest {
            front.write(level, &told);
        }
        queue.end(AT_THE_END);
    }
}

/// Starts logging. `RUST_LOG` wins over `level`. A second call changes nothing.
pub fn start(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level);
    builder.parse_default_env();
    let front = FRONT.get_or_init(|| Front {
        filter: builder.build(),
        under_systemd: env::var_os("JOURNAL_STREAM").is_some(),
        limit: Mutex::default(),
        queue: OnceLock::new(),
    });
    // Fails only when a logger is there already, which then serves as well.
    if log::set_logger(front).is_ok() {
        log::set_max_level(front.filter.filter());
    }
}

/// The priorities of syslog(3) that the journal understands.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// The last guard: whatever slipped into a message, it stays one line without control characters.
struct OneLine<'a>(&'a mut String);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            if c.is_control() {
                write!(self.0, "{}", c.escape_unicode())?;
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_never_spans_lines() {
        let mut line = String::new();
        OneLine(&mut line)
            .write_str("a\nINFO forged\x1b[2J")
            .unwrap();
        assert_eq!(line, "a\\u{a}INFO forged\\u{1b}[2J");
    }
}
