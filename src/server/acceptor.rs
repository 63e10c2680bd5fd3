//! The one loop that accepts: waits for connections and signals together, admits or refuses, hands over. Sleeps
//! without a timer.
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::addresses::canonical;
use super::admission::{Admission, Refused};
use super::pool::Pool;
use super::ready::{Want, wait, wait_for_any};
use super::stop::Stop;
use super::{Connection, FrontEnd};

/// How long the acceptor leaves new connections in the kernel's queue when descriptors have run out altogether.
const PAUSE: Duration = Duration::from_millis(200);

/// The listeners and what the loop needs of the process.
#[derive(Debug)]
pub struct Acceptor {
    listeners: Vec<TcpListener>,
    signals: SignalFd,
    stop: Arc<Stop>,
    admission: Admission,
    pool: Pool,
    spare: Spare,
}

impl Acceptor {
    /// Takes over the listeners and the signals SIGTERM, SIGINT and SIGHUP. Must run before any thread is spawned, so
    /// that no thread is left that the signals could kill.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new(listeners: Vec<TcpListener>, admission: Admission) -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        // Under a limit on file sizes (ulimit -f) a write too far must fail, not end the server.
        let mut too_large = SigSet::empty();
        too_large.add(Signal::SIGXFSZ);
        too_large.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let stop = Arc::new(Stop::new()?);
        Ok(Self {
            listeners,
            signals,
            stop,
            admission,
            pool: Pool::new(),
            spare: Spare::new(),
        })
    }

    /// Serves until a signal ends it and the sessions are gone, or `grace` has passed.
    ///
    /// # Errors
    /// When waiting itself fails; the server cannot go on then.
    pub fn run(
        mut self,
        front_end: &Arc<dyn FrontEnd>,
        grace: impl Fn() -> Duration,
    ) -> io::Result<()> {
        while !self.stop.is_draining() {
            let (signalled, waiting) = self.wait()?;
            if signalled {
                self.obey(&**front_end);
                continue;
            }
            for index in waiting {
                self.accept_all(index, front_end);
            }
        }
        // Closing them tells clients at once; sockets still in the queue are reset.
        self.listeners.clear();
        self.wait_for_sessions(grace())
    }

    /// Whether a signal has come, and which listeners have connections.
    fn wait(&self) -> io::Result<(bool, Vec<usize>)> {
        let mut fds = vec![self.signals.as_fd()];
        fds.extend(self.listeners.iter().map(AsFd::as_fd));
        let ready = wait_for_any(&fds)?;
        let waiting = (0..self.listeners.len())
            .filter(|index| ready[index + 1])
            .collect();
        Ok((ready[0], waiting))
    }

    fn obey(&self, front_end: &dyn FrontEnd) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGHUP) => front_end.reload(),
                Ok(signal) if self.stop.is_draining() => {
                    log::info!("{signal} again: ending at once");
                    self.stop.end();
                }
                Ok(signal) => {
                    log::info!(
                        "{signal}: accepting no more connections; running transfers may finish"
                    );
                    self.stop.drain();
                }
                Err(_) => {}
            }
        }
    }

    /// A bounded batch, so that signals and other listeners get their turn.
    fn accept_all(&mut self, index: usize, front_end: &Arc<dyn FrontEnd>) {
        for _ in 0..64 {
            match self.listeners[index].accept() {
                Ok((stream, _)) => self.hand_over(stream, index, front_end),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => return,
                    Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                        self.out_of_descriptors(index, &error, &**front_end);
                        return;
                    }
                    // The connection was gone before it was accepted: accept(2) says to go on.
                    _ => log::debug!("a connection was lost before it was accepted: {error}"),
                },
            }
        }
    }

    /// Accepts one connection on the spare descriptor to tell the client; where even that fails, pauses, for the
    /// listener stays readable and the loop would spin.
    fn out_of_descriptors(&mut self, index: usize, error: &io::Error, front_end: &dyn FrontEnd) {
        log::error!(
            "cannot accept a connection: {error}; raise the limit on open files (ulimit -n) or lower `sessions`"
        );
        let accepted = self.spare.lend(|| self.listeners[index].accept());
        if let Some(Ok((stream, _))) = accepted {
            front_end.refuse(&stream, Refused::Resources);
            let _ = stream.shutdown(Shutdown::Write);
            drop(stream);
            self.spare.take_back();
            return;
        }
        self.spare.take_back();
        let _ = wait(
            [Some((self.signals.as_fd(), Want::Input))],
            Some(Instant::now() + PAUSE),
        );
    }

    fn hand_over(&self, stream: TcpStream, listener: usize, front_end: &Arc<dyn FrontEnd>) {
        // A connection that is gone already has no addresses.
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
            return;
        };
        let (peer, local) = (canonical(peer), canonical(local));
        if let Err(error) = stream.set_nonblocking(true) {
            log::error!("{peer}: cannot use the connection: {error}");
            return;
        }
        let limits = front_end.limits();
        let slot =
            match self
                .admission
                .admit(peer.ip(), limits.sessions, limits.sessions_per_address)
            {
                Ok(slot) => slot,
                Err(reason) => {
                    log::warn!("{peer}: refused: {reason} (setting: {})", reason.setting());
                    front_end.refuse(&stream, reason);
                    let _ = stream.shutdown(Shutdown::Write);
                    return;
                }
            };
        let connection = Connection {
            stream,
            peer,
            local,
            listener,
            slot,
            stop: Arc::clone(&self.stop),
        };
        let front_end_of_worker = Arc::clone(front_end);
        if let Err(error) = self.pool.run(move || front_end_of_worker.serve(connection)) {
            log::error!("{peer}: refused: cannot start a thread: {error}");
        }
    }

    /// Waits until the last session is gone, a second signal comes or the grace is over; then ends what is left.
    fn wait_for_sessions(&self, grace: Duration) -> io::Result<()> {
        let deadline = Instant::now() + grace;
        // Sessions end by themselves; looking ten times a second is cheap for the few seconds this lasts.
        let mut patience = VecDeque::from([deadline, deadline + Duration::from_secs(5)]);
        while self.admission.sessions() > 0 {
            let now = Instant::now();
            let Some(&limit) = patience.front() else {
                break;
            };
            if now >= limit {
                patience.pop_front();
                if !self.stop.is_over() {
                    log::warn!(
                        "{} sessions are still busy after shutdown_grace: ending them",
                        self.admission.sessions()
                    );
                    self.stop.end();
                }
                continue;
            }
            let until = (now + Duration::from_millis(100)).min(limit);
            let [signalled] = wait([Some((self.signals.as_fd(), Want::Input))], Some(until))?;
            if signalled.wanted {
                self.obey_while_draining();
                if self.stop.is_over() {
                    patience = VecDeque::from([Instant::now() + Duration::from_secs(5)]);
                }
            }
        }
        Ok(())
    }

    fn obey_while_draining(&self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo as i32 != Signal::SIGHUP as i32 {
                log::info!("a second signal: ending at once");
                self.stop.end();
            }
        }
    }
}

/// A descriptor kept in reserve, so that a connection can be accepted and refused when there are no others.
#[derive(Debug)]
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Gives the descriptor up for the time of `work`; None when it had been lost before.
    fn lend<T>(&mut self, work: impl FnOnce() -> T) -> Option<T> {
        drop(self.0.take()?);
        Some(work())
    }

    fn take_back(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }
}
