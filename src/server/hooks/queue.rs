//! Queue of the owner's that are run behind what happened: few at once, the others in line, none of them for longer than it
//! was given.
//!
//! A program has its own process group, which ends with it when its time is up, and its own, small environment; it reads
//! nothing, and what it writes to standard error goes to the log. While nothing runs there is no thread: who hands over the
//! first program starts one, which ends when nobody is in line any more. A second one waits for the program, so that the
//! first can look at the clock and at standard error. No program can keep anybody else waiting or fail anything.
//!
//! When the server ends it waits a moment for them. Queue that take longer are left alone, but nobody hears what they
//! say any more; those still in line are named in the log and not run.
use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, pipe2};

use crate::observe::printable;
use crate::os::ready::{Want, wait};

/// Queue in line; one more is not run.
const LONGEST_LINE: usize = 10_000;

/// Bytes of one program's standard error that go to the log.
const MOST_SAID: usize = 4096;

const STACK: usize = 256 * 1024;

/// What a program gets to know of the server's own environment: nothing that could be secret.
const INHERITED: [&str; 9] = [
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE",
];

/// One program to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// An absolute path.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Beside what it gets of the server's own environment.
    pub environment: Vec<(&'static str, OsString)>,
    /// After which it is killed.
    pub time: Duration,
    /// What it is run for, in one line for the log.
    pub what_for: String,
}

/// All that run and wait.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    line: VecDeque<Run>,
    /// Each runs one program after the other.
    threads: usize,
    at_once: usize,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the program run as soon as fewer than `at_once` run. Never waits; what becomes of it is told in the log.
    pub fn run(self: &Arc<Self>, run: Run, at_once: usize) {
        let mut state = self.state();
        state.at_once = at_once.max(1);
        if state.line.len() >= LONGEST_LINE {
            log::warn!(
                "{}: not run: {LONGEST_LINE} programs are in line already",
                run.what_for
            );
            return;
        }
        state.line.push_back(run);
        if state.threads >= state.at_once {
            return;
        }
        state.threads += 1;
        let programs = Arc::clone(self);
        let thread = thread::Builder::new()
            .name("program".into())
            .stack_size(STACK)
            .spawn(move || programs.run_all());
        if let Err(error) = thread {
            state.threads -= 1;
            if state.threads > 0 {
                // Those that run come to it.
                return;
            }
            for run in state.line.drain(..) {
                log::warn!("{}: not run: cannot start a thread: {error}", run.what_for);
            }
        }
    }

    fn run_all(&self) {
        while let Some(run) = self.next() {
            run.to_its_end();
        }
    }

    /// The next one in line; with None the thread must end, for which it is not counted any more.
    fn next(&self) -> Option<Run> {
        let mut state = self.state();
        let next = if state.threads > state.at_once {
            None
        } else {
            state.line.pop_front()
        };
        if next.is_none() {
            state.threads -= 1;
            self.idle.notify_all();
        }
        next
    }

    /// Waits at most so long until nothing runs; then nothing more is run.
    pub fn end(&self, time: Duration) {
        let busy = |state: &mut State| state.threads > 0;
        let (mut state, _) = self
            .idle
            .wait_timeout_while(self.state(), time, busy)
            .unwrap_or_else(PoisonError::into_inner);
        for run in state.line.drain(..) {
            log::warn!("{}: not run: the server ends", run.what_for);
        }
        if state.threads > 0 {
            log::warn!("{} programs go on without the server", state.threads);
        }
    }
}

/// How a program ended.
#[derive(Debug)]
enum End {
    Exited(i32),
    Killed(Signal),
    /// Its time was up.
    TimedOut,
    /// Somebody else took its status.
    Unknown,
}

impl Run {
    fn to_its_end(&self) {
        let what = &self.what_for;
        let started = Instant::now();
        let end = self.start_and_watch();
        let seconds = started.elapsed().as_secs_f64();
        match end {
            Ok(End::Exited(0)) => log::debug!("{what}: done after {seconds:.1} s"),
            Ok(End::Exited(status)) => {
                log::warn!("{what}: failed with exit status {status} after {seconds:.1} s");
            }
            Ok(End::Killed(signal)) => {
                log::warn!("{what}: killed by {signal} after {seconds:.1} s");
            }
            Ok(End::TimedOut) => log::warn!(
                "{what}: not done after {seconds:.1} s: killed, with all in its process group"
            ),
            Ok(End::Unknown) => log::warn!("{what}: ended, nobody knows how"),
            Err(error) => log::warn!("{what}: cannot be started: {error}"),
        }
    }

    fn start_and_watch(&self) -> io::Result<End> {
        let (said, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        // Of this end alone: the program must be able to wait for room.
        fcntl(&said, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let ended = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let ended = &ended;
        let (tell, told) = bounded(1);
        // It takes `tell` along: when nothing is started the waiting thread hears of it.
        thread::scope(move |scope| {
            let waiter = thread::Builder::new().stack_size(STACK);
            waiter.spawn_scoped(scope, move || {
                if let Ok(pid) = told.recv() {
                    wait_for(pid);
                    // A fresh counter is never full.
                    let _ = ended.write(1);
                }
            })?;
            let pid = self.start(File::from(stderr))?;
            // The thread is there and listens.
            let _ = tell.send(pid);
            let mut said = Said::new(File::from(said), &self.what_for);
            let in_time = watch(&mut said, ended, Some(Instant::now() + self.time));
            if !in_time {
                // Until it is waited for below, the number is nobody else's.
                let _ = killpg(pid, Signal::SIGKILL);
                let _ = kill(pid, Signal::SIGKILL);
                watch(&mut said, ended, None);
            }
            said.finish();
            Ok(match waitpid(pid, None) {
                _ if !in_time => End::TimedOut,
                Ok(WaitStatus::Exited(_, status)) => End::Exited(status),
                Ok(WaitStatus::Signaled(_, signal, _)) => End::Killed(signal),
                _ => End::Unknown,
            })
        })
    }

    /// Blocked signals are this server's affair, and so is that writing to nobody is no reason to end.
    fn start(&self, stderr: File) -> io::Result<Pid> {
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        let mut files = PosixSpawnFileActions::init()?;
        for (fd, number) in [(&nothing, 0), (&nothing, 1), (&stderr, 2)] {
            files.add_dup2(fd.as_raw_fd(), number)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(&[Signal::SIGPIPE, Signal::SIGCHLD].into_iter().collect())?;
        let program = self.program.as_os_str();
        let arguments = self.arguments.iter().map(OsStr::new);
        let arguments = [program].into_iter().chain(arguments);
        let arguments: Vec<CString> = arguments.map(c_string).collect::<io::Result<_>>()?;
        let own = self.environment.iter();
        let own = own.map(|(name, value)| ((*name).into(), value.clone()));
        let environment = inherited().into_iter().chain(own);
        let environment: Vec<CString> = environment
            .map(|(name, value)| c_string(&[name, value].join(OsStr::new("="))))
            .collect::<io::Result<_>>()?;
        let started = posix_spawn(
            self.program.as_path(),
            &files,
            &attributes,
            &arguments,
            &environment,
        );
        Ok(started?)
    }
}

fn inherited() -> Vec<(OsString, OsString)> {
    let variables = std::env::vars_os();
    let known = |name: &OsString| {
        INHERITED.iter().any(|known| name == known) || name.as_bytes().starts_with(b"LC_")
    };
    variables.filter(|(name, _)| known(name)).collect()
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| {
        io::Error::new(
            ErrorKind::InvalidInput,
            "a NUL cannot be part of an argument",
        )
    })
}

/// Waits until the program has ended, and leaves its status for somebody else to take.
fn wait_for(pid: Pid) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(pid), flags) == Err(Errno::EINTR) {}
}

/// Listens until the program has ended, or the deadline has passed: then false.
fn watch(said: &mut Said<'_>, ended: &EventFd, deadline: Option<Instant>) -> bool {
    loop {
        let stderr = said.stderr.as_ref();
        let wants = [
            Some((ended.as_fd(), Want::Input)),
            stderr.map(|stderr| (stderr.as_fd(), Want::Input)),
        ];
        match wait(wants, deadline) {
            Ok([ended, _]) if ended.wanted => return true,
            Ok([_, stderr]) if stderr.wanted => said.listen(),
            _ => return false,
        }
    }
}

/// What the program writes to standard error, on its way to the log line by line.
struct Said<'a> {
    /// None once the program has closed it.
    stderr: Option<File>,
    what_for: &'a str,
    line: Vec<u8>,
    /// Bytes that may yet go to the log.
    left: usize,
    cut: bool,
}

impl<'a> Said<'a> {
    fn new(stderr: File, what_for: &'a str) -> Self {
        Self {
            stderr: Some(stderr),
            what_for,
            line: Vec::new(),
            left: MOST_SAID,
            cut: false,
        }
    }

    /// Takes what is there. Everything is read, so that the program need not wait for room, and some of it logged.
    fn listen(&mut self) {
        let mut bytes = [0; MOST_SAID];
        let Some(stderr) = &mut self.stderr else {
            return;
        };
        match stderr.read(&mut bytes) {
            Ok(0) => self.stderr = None,
            Ok(length) => self.take(&bytes[..length]),
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => self.stderr = None,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.left);
        for piece in bytes[..kept].split_inclusive(|&byte| byte == b'\n') {
            self.line.extend(piece);
            if piece.ends_with(b"\n") {
                self.log_line();
            }
        }
        self.left -= kept;
        if kept < bytes.len() && !self.cut {
            self.cut = true;
            self.log_line();
            log::info!("{}: says more than is logged", self.what_for);
        }
    }

    fn log_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if !line.is_empty() {
            log::info!("{}: says: {}", self.what_for, printable(line));
        }
    }

    /// Takes what was said before the end, as much as a pipe holds: what the program has left running may speak forever.
    fn finish(mut self) {
        for _ in 0..(64 * 1024 / MOST_SAID) {
            self.listen();
        }
        self.log_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> Run {
        Run {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: Vec::new(),
            time: Duration::from_secs(60),
            what_for: "a test".into(),
        }
    }

    #[test]
    fn a_line_that_is_full_takes_no_more_and_is_forgotten_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let programs = Arc::new(Queue::default());
        programs.run(run(&format!("read line <'{}'", pipe.display())), 1);
        // It runs, and is not in line any more: it would be forgotten too, and nobody would read from the pipe.
        let patience = Instant::now() + Duration::from_secs(60);
        while !programs.state().line.is_empty() {
            assert!(Instant::now() < patience, "it does not begin");
            thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..LONGEST_LINE + 10 {
            programs.run(run("exit 0"), 1);
        }
        let state = programs.state();
        assert!(state.line.len() >= LONGEST_LINE - 1, "{}", state.line.len());
        assert!(state.line.len() <= LONGEST_LINE && state.threads == 1);
        drop(state);
        programs.end(Duration::ZERO);
        assert!(programs.state().line.is_empty());
        std::fs::write(pipe, "go on\n").unwrap();
        programs.end(Duration::from_secs(60));
        assert_eq!(programs.state().threads, 0);
    }

    #[test]
    fn what_a_program_came_to_is_known() {
        let end = |script: &str| run(script).start_and_watch();
        assert!(matches!(end("exit 7"), Ok(End::Exited(7))));
        assert!(matches!(
            end("kill -TERM $$"),
            Ok(End::Killed(Signal::SIGTERM))
        ));
        let late = Run {
            time: Duration::from_millis(50),
            ..run("sleep 60 & sleep 60")
        };
        assert!(matches!(late.start_and_watch(), Ok(End::TimedOut)));
        let none = Run {
            program: "/nowhere/to/be/found".into(),
            ..run("")
        };
        assert!(none.start_and_watch().is_err());
        let nul = Run {
            arguments: vec!["\0".into()],
            ..run("")
        };
        assert!(nul.start_and_watch().is_err());
    }
}
