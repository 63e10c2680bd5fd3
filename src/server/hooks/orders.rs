//! Queue of the owner's that follow what happened, from the server's side: it can start nothing itself, and so a process beside
//! it does, which was told of all of them before the sandbox was entered.
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::helper::Helper;
use super::queue::{Queue, Run};
use crate::accounts::Program;

/// How long they may take when everything else has ended.
pub const TIME_AT_THE_END: Duration = Duration::from_secs(5);

/// What a program is told by its environment: these names and no others, whoever gives the order.
pub const NAMES: [&str; 6] = [
    "THRIFTPD_PATH",
    "THRIFTPD_VIRTUAL_PATH",
    "THRIFTPD_USER",
    "THRIFTPD_SIZE",
    "THRIFTPD_PEER",
    "THRIFTPD_SHA256",
];

/// One program that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub program: Program,
    /// In one line for the log.
    pub what_for: String,
    /// For [`NAMES`]; what is empty is left out.
    pub values: [Vec<u8>; NAMES.len()],
}

/// The way to have programs run.
#[derive(Debug, Default)]
pub struct Hooks {
    helper: Option<Helper>,
    known: Vec<Program>,
    most_at_once: usize,
}

impl Hooks {
    /// For these programs, so many at once at most, whatever is asked for later; without any program there is no process
    /// beside the server. Must happen while the process has one thread.
    ///
    /// # Errors
    /// When the process cannot be forked.
    pub fn start(known: Vec<Program>, most_at_once: usize) -> io::Result<Self> {
        if known.is_empty() {
            return Ok(Self::default());
        }
        let programs = Arc::new(Queue::default());
        let ours = known.clone();
        let helper = Helper::start(
            |number, values| match read((&ours, most_at_once), number, values) {
                Some((run, at_once)) => programs.run(run, at_once),
                None => log::error!("an order for a program that is none came from the server"),
            },
            || programs.end(TIME_AT_THE_END),
        )?;
        Ok(Self {
            helper: Some(helper),
            known,
            most_at_once,
        })
    }

    /// Whether it can be run.
    pub fn knows(&self, program: &Program) -> bool {
        self.known.contains(program)
    }

    /// Whether so many programs at once are more than there ever will be.
    pub fn runs_fewer_than(&self, at_once: usize) -> bool {
        self.helper.is_some() && at_once > self.most_at_once
    }

    /// Has it run as soon as fewer than `at_once` run, or as many as were allowed at the start. Never waits and never fails
    /// anything: what becomes of it is told in the log.
    pub fn run(&self, wanted: &Wanted, at_once: usize) {
        let what = &wanted.what_for;
        let number = self.known.iter().position(|known| *known == wanted.program);
        let (Some(helper), Some(number)) = (&self.helper, number) else {
            log::warn!("{what}: not run: the server must be restarted to know it");
            return;
        };
        let at_once = at_once.to_string();
        let mut values = vec![at_once.as_bytes(), what.as_bytes()];
        values.extend(wanted.values.iter().map(Vec::as_slice));
        if let Err(error) = helper.order(number, &values) {
            log::warn!("{what}: not run: {error}");
        }
    }

    /// No more are run. Waits at most so long for those that do; the process beside the server goes on waiting for
    /// [`TIME_AT_THE_END`].
    pub fn end(&self, time: Duration) {
        if let Some(helper) = &self.helper {
            helper.end(time);
        }
    }
}

/// An order as it arrives, and how many may run at once, which is not more than at the start; None for what is none.
fn read(
    (known, most_at_once): (&[Program], usize),
    number: usize,
    values: Vec<Vec<u8>>,
) -> Option<(Run, usize)> {
    let program = known.get(number)?;
    let mut values = values.into_iter();
    let at_once: usize = String::from_utf8(values.next()?).ok()?.parse().ok()?;
    let what_for = String::from_utf8(values.next()?).ok()?;
    let values: Vec<Vec<u8>> = values.collect();
    if values.len() != NAMES.len() {
        return None;
    }
    let told = NAMES.into_iter().zip(values);
    let told = told.filter(|(_, value)| !value.is_empty());
    let run = Run {
        program: program.path.clone(),
        arguments: program.arguments.clone(),
        environment: told
            .map(|(name, value)| (name, OsString::from_vec(value)))
            .collect(),
        time: program.time,
        what_for,
    };
    Some((run, at_once.clamp(1, most_at_once.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_what_was_known_and_tells_what_may_be_told() {
        let known = [Program {
            path: "/bin/program".into(),
            arguments: vec!["--now".into()],
            time: Duration::from_secs(9),
        }];
        let values = |count: usize| {
            let mut values = vec![b"2".to_vec(), b"an upload".to_vec()];
            values.resize(2 + count, b"x\n".to_vec());
            values
        };
        let read = |number, values| read((&known, 3), number, values);
        let (run, at_once) = read(0, values(6)).unwrap();
        assert_eq!((run.environment.len(), at_once), (6, 2));
        assert_eq!(run.environment[0], ("THRIFTPD_PATH", "x\n".into()));
        assert_eq!(run.arguments, ["--now"]);
        let mut without = values(6);
        without[7].clear();
        assert_eq!(read(0, without).unwrap().0.environment.len(), 5);
        for order in [values(5), values(7), Vec::new(), vec![b"many".to_vec(); 8]] {
            assert!(read(0, order).is_none());
        }
        assert!(read(1, values(6)).is_none());
        // Whoever has taken the server over asks for as many as there are, or for none.
        for (asked, given) in [("1000000", 3), ("3", 3), ("0", 1)] {
            let mut values = values(6);
            values[0] = asked.into();
            assert_eq!(read(0, values).unwrap().1, given);
        }
    }
}
