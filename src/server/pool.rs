//! The worker pool: a connection goes to an idle worker, or a new one is spawned; who finds no work for a while retires.
//! How many there can be is decided by the admission, which runs first.
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Ample, for an overflow would end the whole server; a page of stack that is never touched costs nothing.
const STACK: usize = 1024 * 1024;

/// How long an idle worker waits for the next connection.
const RETIRE_AFTER: Duration = Duration::from_secs(30);

type Work = Box<dyn FnOnce() + Send>;

/// Runs work on threads of its own.
#[derive(Debug)]
pub struct Pool {
    hand_over: Sender<Work>,
    idle: Receiver<Work>,
    /// Bytes of each thread's stack.
    stack: usize,
}

impl Pool {
    pub fn new() -> Self {
        // No capacity: a hand-over succeeds only while a worker waits for it, so work never queues unseen.
        let (hand_over, idle) = bounded(0);
        Self {
            hand_over,
            idle,
            stack: STACK,
        }
    }

    /// Does the work on its subject now, on an idle worker or a new one.
    ///
    /// # Errors
    /// When no worker is idle and no thread can be made; the subject comes back then.
    pub fn run<T: Send + 'static>(
        &self,
        subject: T,
        work: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), (io::Error, Option<T>)> {
        // A thread that could not be made has dropped what it was to do, but not this.
        let held = Arc::new(Mutex::new(Some(subject)));
        let of_worker = Arc::clone(&held);
        let work = Box::new(move || {
            if let Some(subject) = take(&of_worker) {
                drop(of_worker);
                work(subject);
            }
        });
        match self.hand_over.try_send(work) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(work) | TrySendError::Disconnected(work)) => {
                self.spawn(work).map_err(|error| (error, take(&held)))
            }
        }
    }

    fn spawn(&self, first: Work) -> io::Result<()> {
        let idle = self.idle.clone();
        thread::Builder::new()
            .name("session".into())
            .stack_size(self.stack)
            .spawn(move || {
                let mut work = first;
                loop {
                    run_guarded(work);
                    match idle.recv_timeout(RETIRE_AFTER) {
                        Ok(next) => work = next,
                        Err(_) => return,
                    }
                }
            })?;
        Ok(())
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

fn take<T>(held: &Mutex<Option<T>>) -> Option<T> {
    held.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A panic ends its session, with a line in the log, and nothing else.
fn run_guarded(work: Work) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        log::error!(
            "a session ended by a defect in thriftpd, please report it: {}",
            message(&*panic)
        );
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    #[test]
    fn a_panic_in_one_piece_of_work_leaves_the_pool_working() {
        let pool = Pool::new();
        let (done, finished) = unbounded();
        pool.run((), |()| panic!("meant to")).unwrap();
        for n in 0..20 {
            let done = done.clone();
            pool.run(n, move |n| done.send(n).unwrap()).unwrap();
        }
        let mut seen: Vec<i32> = finished.iter().take(20).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn what_no_thread_can_be_made_for_comes_back() {
        let pool = Pool {
            stack: 1 << 60,
            ..Pool::new()
        };
        let work = |_| unreachable!("there is no memory for the stack");
        let (_, subject) = pool.run("subject", work).unwrap_err();
        assert_eq!(subject, Some("subject"));
    }
}
