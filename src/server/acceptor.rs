//! The one loop that accepts: waits for connections, their first words and signals together, admits or refuses, hands
//! over. Sleeps without a timer, unless somebody is silent.
use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::admission::Refused;
use super::lobby::Lobby;
use super::pool::Pool;
use super::sessions::{Row, Sessions};
use super::{Connection, FrontEnd, Limits, Listener, Policy};
use crate::observe::origin::{self, Origin};
use crate::os::addresses::{canonical, source};
use crate::os::ending::Ending;
use crate::os::ready::{Want, wait, wait_for_any};
use crate::os::socket::accept;
use crate::os::stop::Stop;

/// How long the acceptor leaves new connections in the kernel's queue when descriptors have run out altogether.
const PAUSE: Duration = Duration::from_millis(200);

/// The listeners and what the loop needs of the process.
#[derive(Debug)]
pub struct Acceptor {
    listeners: Vec<Listener>,
    signals: SignalFd,
    stop: Arc<Stop>,
    sessions: Sessions,
    pool: Pool,
    spare: Spare,
    lobby: Lobby,
}

/// The signals that the loop waits for.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Takes over SIGTERM, SIGINT and SIGHUP. Must run before any thread is spawned, so that no thread is left that the
    /// signals could kill.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn take_over() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        // Under a limit on file sizes (ulimit -f) a write too far must fail, not end the server.
        let mut too_large = SigSet::empty();
        too_large.add(Signal::SIGXFSZ);
        too_large.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }
}

impl Acceptor {
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new(
        listeners: Vec<Listener>,
        Signals(signals): Signals,
        sessions: Sessions,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop::new()?);
        Ok(Self {
            listeners,
            signals,
            stop,
            sessions,
            pool: Pool::new(),
            spare: Spare::new(),
            lobby: Lobby::default(),
        })
    }

    /// Serves until a signal ends it and the sessions are gone, or `grace` has passed but for its [`last_words`]. Returns when it
    /// will have passed.
    ///
    /// # Errors
    /// When waiting itself fails; the server cannot go on then.
    pub fn run(
        mut self,
        policy: &Arc<impl Policy + 'static>,
        grace: impl Fn() -> Duration,
    ) -> io::Result<Instant> {
        let reloads = Reloads::default();
        while !self.stop.is_draining() {
            let limits = policy.limits();
            let woken = self.wait(limits.login)?;
            if woken.signalled {
                self.obey(&reloads, policy);
                continue;
            }
            // Who has begun comes before who comes.
            for connection in self.lobby.take_ready(&woken.speaking) {
                self.hand_over(connection, &limits);
            }
            while let Some(silent) = self.lobby.take_expired(limits.login) {
                let _about = about(silent.peer);
                log::info!("{}: closed: {}", silent.peer, Refused::Silent);
                silent.turn_away(Refused::Silent);
            }
            for index in woken.listeners {
                self.accept_all(index, &**policy);
            }
        }
        while let Some(silent) = self.lobby.take_oldest() {
            silent.turn_away(Refused::ShutDown);
        }
        // Closing them tells clients at once; sockets still in the queue are reset.
        self.listeners.clear();
        let grace = grace();
        let deadline = Instant::now() + grace;
        self.wait_for_sessions(grace - last_words(grace))?;
        Ok(deadline)
    }

    fn wait(&self, login: Duration) -> io::Result<Woken> {
        let mut fds = vec![self.signals.as_fd()];
        fds.extend(
            self.listeners
                .iter()
                .map(|listener| listener.socket.as_fd()),
        );
        fds.extend(self.lobby.fds());
        let ready = wait_for_any(&fds, self.lobby.deadline(login))?;
        let (listeners, speaking) = ready[1..].split_at(self.listeners.len());
        Ok(Woken {
            signalled: ready[0],
            listeners: (0..listeners.len())
                .filter(|&index| listeners[index])
                .collect(),
            speaking: speaking.to_vec(),
        })
    }

    fn obey(&self, reloads: &Reloads, policy: &Arc<impl Policy + 'static>) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGHUP) => reloads.ask(policy),
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
    fn accept_all(&mut self, index: usize, policy: &dyn Policy) {
        for _ in 0..64 {
            match accept(self.listeners[index].socket.as_fd()) {
                Ok((stream, peer)) => self.welcome(stream, peer, index, policy),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => return,
                    Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                        self.out_of_descriptors(index, &error);
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
    fn out_of_descriptors(&mut self, index: usize, error: &io::Error) {
        let about = origin::enter(Origin::Stranger(None));
        log::error!(
            "cannot accept a connection: {error}; raise the limit on open files (ulimit -n) or lower `sessions`"
        );
        drop(about);
        let Listener { socket, front_end } = &self.listeners[index];
        let accepted = self.spare.lend(|| accept(socket.as_fd()));
        if let Some(Ok((stream, _))) = accepted {
            turn_away(&**front_end, &stream, Refused::Resources);
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

    /// Admits or refuses. Who is admitted waits in the lobby, for it costs no thread there.
    fn welcome(&mut self, stream: TcpStream, peer: SocketAddr, index: usize, policy: &dyn Policy) {
        let Ok(local) = stream.local_addr() else {
            return;
        };
        let (peer, local) = (canonical(peer), canonical(local));
        let _about = about(peer);
        let front_end = Arc::clone(&self.listeners[index].front_end);
        let limits = policy.limits();
        let stream = Arc::new(stream);
        let screened = policy.screen(peer.ip(), local.ip());
        let admitted = screened.and_then(|()| self.admit(peer, &stream, &limits));
        let row = match admitted {
            Ok(row) => row,
            Err(reason) => {
                log_refusal(peer, reason);
                turn_away(&*front_end, &stream, reason);
                return;
            }
        };
        if self.lobby.len() >= limits.before_login {
            self.make_room(&limits);
        }
        front_end.greet(&stream);
        self.lobby.enter(Connection {
            stream,
            peer,
            local,
            accepted: Instant::now(),
            front_end,
            row,
            stop: Arc::clone(&self.stop),
        });
    }

    fn make_room(&mut self, limits: &Limits) {
        if let Some(silent) = self.lobby.take_most_crowded() {
            let reason = Refused::GaveWay(limits.before_login);
            self.give_way(silent, reason, limits);
        }
    }

    /// A place. Where the address has none left, its silent connections give theirs up, the longest silent first, and then its
    /// sessions whose clients do not answer any more.
    fn admit(
        &mut self,
        peer: SocketAddr,
        stream: &Arc<TcpStream>,
        limits: &Limits,
    ) -> Result<Row, Refused> {
        loop {
            let admitted = self.sessions.admit(peer, stream, limits);
            let Err(reason @ Refused::Address(_)) = admitted else {
                return admitted;
            };
            let whose = source(peer.ip());
            if let Some(silent) = self.lobby.take_oldest_of(whose) {
                self.give_way(silent, reason, limits);
                continue;
            }
            let dead = self.sessions.cut_off_dead_of(whose);
            if dead.is_empty() {
                return Err(reason);
            }
            for client in dead {
                log::info!("{client}: ended: it does not answer, and {peer} needs the place");
            }
        }
    }

    fn give_way(&mut self, silent: Connection, reason: Refused, limits: &Limits) {
        // It may have spoken since the last look.
        let spoken = wait_for_any(&[silent.stream.as_fd()], Some(Instant::now()));
        if spoken.is_ok_and(|spoken| spoken.contains(&true)) {
            self.hand_over(silent, limits);
        } else {
            log_refusal(silent.peer, reason);
            silent.turn_away(reason);
        }
    }

    /// Gives the connection to a worker.
    fn hand_over(&mut self, connection: Connection, limits: &Limits) {
        let peer = connection.peer;
        let _about = about(peer);
        // Who goes without a word needs no thread for that.
        let gone = match connection.stream.peek(&mut [0]) {
            Ok(waiting) => waiting == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        if gone {
            log::debug!("{peer}: closed without a word");
            return;
        }
        let ending = Ending::new().map(Arc::new).map_err(|_| Refused::Resources);
        let begun = ending.and_then(|ending| {
            let cut_off = connection.row.begin(Arc::clone(&ending), limits)?;
            if let Some(oldest) = cut_off {
                log_refusal(oldest, Refused::GaveWay(limits.before_login));
            }
            Ok(ending)
        });
        let ending = match begun {
            Ok(ending) => ending,
            Err(reason) => {
                log_refusal(peer, reason);
                connection.turn_away(reason);
                return;
            }
        };
        let front_end = Arc::clone(&connection.front_end);
        let serve = move |connection| {
            let _about = about(peer);
            front_end.serve(connection, ending);
        };
        if let Err((error, connection)) = self.pool.run(connection, serve) {
            log::error!("{peer}: refused: cannot start a thread: {error}");
            if let Some(connection) = connection {
                connection.turn_away(Refused::Resources);
            }
        }
    }

    /// Waits until the last session is gone, or the deadline has come; those that are left shortly before that, or at a second
    /// signal, are ended.
    fn wait_for_sessions(&self, grace: Duration) -> io::Result<()> {
        let begun = Instant::now();
        let (mut ending, mut deadline) = (begun + grace - last_words(grace), begun + grace);
        // Sessions end by themselves; looking ten times a second is cheap for the few seconds this lasts.
        while self.sessions.count() > 0 {
            let now = Instant::now();
            if now >= deadline {
                log::warn!(
                    "{} sessions did not end; they are left behind",
                    self.sessions.count()
                );
                break;
            }
            if now >= ending && !self.stop.is_over() {
                log::warn!(
                    "{} sessions are still busy: ending them (setting: shutdown_grace)",
                    self.sessions.count()
                );
                self.stop.end();
            }
            let next = if self.stop.is_over() {
                deadline
            } else {
                ending
            };
            let until = (now + Duration::from_millis(100)).min(next);
            let [signalled] = wait([Some((self.signals.as_fd(), Want::Input))], Some(until))?;
            if signalled.wanted && self.obey_while_draining() {
                ending = Instant::now();
                deadline = deadline.min(ending + last_words(grace));
            }
        }
        Ok(())
    }

    /// Whether a second signal asks for the end at once.
    fn obey_while_draining(&self) -> bool {
        let mut at_once = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo as i32 != Signal::SIGHUP as i32 {
                log::info!("a second signal: ending at once");
                self.stop.end();
                at_once = true;
            }
        }
        at_once
    }
}

/// Of the grace, what is left for sessions that are told to end, and again for what the process does when they are gone: so the
/// whole takes no longer than the grace.
pub fn last_words(grace: Duration) -> Duration {
    (grace / 3).min(Duration::from_secs(2))
}

/// Reading the configuration again, beside the loop: it may lie on a disk that hangs. One thread at a time does it; what is
/// asked of it meanwhile is done behind that.
#[derive(Debug, Default)]
struct Reloads(Arc<AtomicU8>);

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const ASKED_AGAIN: u8 = 2;

impl Reloads {
    fn ask(&self, policy: &Arc<impl Policy + 'static>) {
        if self.0.swap(ASKED_AGAIN, Ordering::AcqRel) != IDLE {
            log::info!("the configuration is being read; it is read again behind that");
            return;
        }
        let (state, policy) = (Arc::clone(&self.0), Arc::clone(policy));
        let started = std::thread::Builder::new()
            .name("reload".into())
            .spawn(move || {
                loop {
                    state.store(RUNNING, Ordering::Release);
                    let read = catch_unwind(AssertUnwindSafe(|| policy.reload()));
                    if read.is_err() {
                        log::error!(
                            "reading the configuration again has failed inside; please report it"
                        );
                    }
                    let (from, to) = (Ordering::AcqRel, Ordering::Acquire);
                    if state.compare_exchange(RUNNING, IDLE, from, to).is_ok() {
                        return;
                    }
                }
            });
        if let Err(error) = started {
            self.0.store(IDLE, Ordering::Release);
            log::error!("the configuration stays as it was: no thread can be started: {error}");
        }
    }
}

/// What is logged in this scope is about this client, who is nobody yet.
fn about(peer: SocketAddr) -> origin::Scope {
    origin::enter(Origin::Stranger(Some(peer.ip())))
}

fn log_refusal(peer: SocketAddr, reason: Refused) {
    let _about = about(peer);
    log::warn!("{peer}: refused: {reason} (setting: {})", reason.setting());
}

/// What ended a wait.
struct Woken {
    signalled: bool,
    /// Those with connections.
    listeners: Vec<usize>,
    /// Of the lobby, who has said something.
    speaking: Vec<bool>,
}

impl Connection {
    fn turn_away(&self, reason: Refused) {
        turn_away(&*self.front_end, &self.stream, reason);
    }
}

/// Says why, and that this is all.
fn turn_away(front_end: &dyn FrontEnd, stream: &TcpStream, reason: Refused) {
    front_end.refuse(stream, reason);
    let _ = stream.shutdown(Shutdown::Write);
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
