//! Log lines on standard error, through `log` and `env_logger`.
//!
//! On a terminal or in a file a line carries the time (UTC) and the level. Under systemd the journal has both already:
//! there a line carries the priority prefix of sd-daemon(3) and nothing else. No record can span or forge a line.
//!
//! A server writes them by a thread of its own: whoever reads may sleep (a full pipe, Ctrl-S), and nothing waits for that.
use std::env;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use env_logger::Target;
use log::{Level, LevelFilter};

use super::queue::Queue;

/// Lines that wait to be read.
const WAITING: usize = 1024;

/// How long the last lines may take when the process ends.
const AT_THE_END: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Queue<Vec<u8>>> = OnceLock::new();

/// Standard error, or what leads there.
struct Output;

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.push(line.to_vec()),
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on nobody waits for who reads the lines. To be called when the process may have threads.
pub fn write_behind() {
    let queue = Queue::start("log", WAITING, |line: Vec<u8>, lost| {
        if lost > 0 {
            // Itself in line, behind those that were there.
            log::warn!("{lost} log lines were lost: standard error was not read in time");
        }
        let _ = io::stderr().write_all(&line);
    });
    match queue {
        Ok(queue) => drop(QUEUE.set(queue)),
        Err(error) => log::warn!("whoever reads the log can hold up the server: {error}"),
    }
}

/// Waits a moment until all lines are written.
pub fn end() {
    if let Some(queue) = QUEUE.get() {
        queue.end(AT_THE_END);
    }
}

/// Starts logging. `RUST_LOG` wins over `level`. A second call changes nothing.
pub fn start(level: LevelFilter) {
    let under_systemd = env::var_os("JOURNAL_STREAM").is_some();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level);
    builder.parse_default_env();
    builder.target(Target::Pipe(Box::new(Output)));
    builder.format(move |out, record| {
        let message = one_line(&record.args().to_string());
        if under_systemd {
            writeln!(out, "<{}>{message}", priority(record.level()))
        } else {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
            writeln!(out, "{now} {:<5} {message}", record.level())
        }
    });
    // Fails only when a logger is there already, which then serves as well.
    let _ = builder.try_init();
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
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() {
            let _ = write!(line, "{}", c.escape_unicode());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_never_spans_lines() {
        assert_eq!(
            one_line("a\nINFO forged\x1b[2J"),
            "a\\u{a}INFO forged\\u{1b}[2J"
        );
    }
}
