//! What a transfer keeps an eye on: its data connection, the control connection, the shutdown, those who may end the session,
//! the clock.
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Outcome;
use crate::os::ending::Ending;
use crate::os::ready::{Ready, Want, wait};
use crate::os::stop::Stop;
use crate::service::rates::{Pace, Throttle};

/// What came over the control connection during a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// Nothing that concerns the transfer.
    None,
    /// ABOR.
    Abort,
    /// The client is gone.
    Lost,
}

impl Interruption {
    /// # Errors
    /// How the transfer ends, where it concerns the transfer.
    pub fn into_result(self) -> Result<(), Outcome> {
        match self {
            Self::None => Ok(()),
            Self::Abort => Err(Outcome::Aborted),
            Self::Lost => Err(Outcome::ControlLost),
        }
    }
}

/// The control connection as a transfer sees it; who implements it knows the verbs.
pub trait Supervisor {
    fn fd(&self) -> BorrowedFd<'_>;
    /// How others end the session.
    fn ending(&self) -> &Ending;
    /// What to watch for: input while commands can be answered at once; only the hang-up while one waits for the end
    /// of the transfer (its bytes stay where they are and must not wake anybody); None when all is known.
    fn wants(&self) -> Option<Want>;
    /// The descriptor is ready: reads, answers what is answered at once, and tells what concerns the transfer.
    fn look(&mut self, ready: Ready, bytes: u64) -> Interruption;
}

/// What a transfer is watched with.
pub struct Watch<'a> {
    supervisor: &'a mut dyn Supervisor,
    stop: &'a Stop,
    /// The longest time without a byte moved.
    patience: Duration,
    bytes: u64,
    throttle: Throttle,
    pace: Pace<'a>,
    /// What others may see of the bytes.
    counter: Option<&'a AtomicU64>,
}

impl<'a> Watch<'a> {
    pub fn new(
        supervisor: &'a mut dyn Supervisor,
        stop: &'a Stop,
        patience: Duration,
        throttle: Throttle,
        pace: Pace<'a>,
    ) -> Self {
        Self {
            supervisor,
            stop,
            patience,
            bytes: 0,
            throttle,
            pace,
            counter: None,
        }
    }

    /// Counts there what is moved, too.
    pub fn counting(self, counter: &'a AtomicU64) -> Self {
        let counter = Some(counter);
        Self { counter, ..self }
    }

    /// Bytes that the transfer has moved over the data connection.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(counter) = self.counter {
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        self.throttle.add(bytes as u64);
        self.pace.add(bytes as u64);
    }

    /// How much of `wanted` bytes to move before the next look.
    pub fn slice(&self, wanted: usize) -> usize {
        self.throttle.slice(wanted)
    }

    /// Waits until more may flow by the limits, answering the control connection meanwhile.
    ///
    /// # Errors
    /// What ended the transfer instead.
    pub fn keep_to_rate(&mut self) -> Result<(), Outcome> {
        while let Some(until) = self.throttle.until() {
            self.poll(None, Some(until))?;
        }
        Ok(())
    }

    /// Waits until the data connection is ready, answering the control connection meanwhile.
    ///
    /// # Errors
    /// What ended the transfer instead.
    pub fn wait(&mut self, data: BorrowedFd<'_>, want: Want) -> Result<(), Outcome> {
        self.keep_to_rate()?;
        let deadline = Instant::now() + self.patience;
        loop {
            let begun = Instant::now();
            let look = self.pace.left().map(|left| begun + left);
            let until = look.map_or(deadline, |look| look.min(deadline));
            let is_ready = self.poll(Some((data, want)), Some(until))?;
            if self.pace.is_too_slow(begun.elapsed()) {
                return Err(Outcome::TooSlow);
            }
            if is_ready {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Outcome::Stalled);
            }
        }
    }

    /// The same until a deadline of the caller's, for a data connection that is being opened; false when it has passed. What
    /// has come over that goes first: the bytes of a client that is gone by now may be behind it.
    ///
    /// # Errors
    /// What ended the wait instead.
    pub fn wait_until(
        &mut self,
        data: BorrowedFd<'_>,
        want: Want,
        deadline: Instant,
    ) -> Result<bool, Outcome> {
        loop {
            let ready = self.ready(Some((data, want)), Some(deadline))?;
            if ready[0].wanted {
                return Ok(true);
            }
            self.heed(ready)?;
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
    }

    /// Looks at the control connection and the shutdown without waiting for anything but the limits: for loops that never
    /// have to wait for the data connection because its peer is fast.
    ///
    /// # Errors
    /// What ended the transfer.
    pub fn glance(&mut self) -> Result<(), Outcome> {
        self.keep_to_rate()?;
        self.poll(None, Some(Instant::now())).map(|_| ())
    }

    /// Watches until a deadline, and once where it has passed: a client that is gone shows a moment behind its last byte.
    ///
    /// # Errors
    /// What ended the transfer.
    pub fn linger(&mut self, deadline: Instant) -> Result<(), Outcome> {
        loop {
            self.poll(None, Some(deadline))?;
            // Of a client that may leave nothing is to be seen.
            if Instant::now() >= deadline || self.supervisor.wants().is_none() {
                return Ok(());
            }
        }
    }

    /// One poll(2). True when the data descriptor is ready.
    fn poll(
        &mut self,
        data: Option<(BorrowedFd<'_>, Want)>,
        deadline: Option<Instant>,
    ) -> Result<bool, Outcome> {
        let ready = self.ready(data, deadline)?;
        self.heed(ready)?;
        Ok(ready[0].wanted)
    }

    fn ready(
        &self,
        data: Option<(BorrowedFd<'_>, Want)>,
        deadline: Option<Instant>,
    ) -> Result<[Ready; 4], Outcome> {
        let control = self
            .supervisor
            .wants()
            .map(|want| (self.supervisor.fd(), want));
        let over = Some((self.stop.over_fd(), Want::Input));
        let ending = Some((self.supervisor.ending().fd(), Want::Input));
        wait([data, control, over, ending], deadline).map_err(broken_wait)
    }

    /// # Errors
    /// What ended the transfer.
    fn heed(&mut self, [_, control, over, _]: [Ready; 4]) -> Result<(), Outcome> {
        if over.wanted {
            return Err(Outcome::ShutDown);
        }
        if let Some(why) = self.supervisor.ending().why() {
            return Err(Outcome::Ended(why));
        }
        if control != Ready::default() {
            self.supervisor.look(control, self.bytes).into_result()?;
        }
        Ok(())
    }
}

/// poll(2) fails only for want of kernel memory.
fn broken_wait(error: io::Error) -> Outcome {
    Outcome::Reset(error)
}
