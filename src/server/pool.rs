//! The worker pool: a connection goes to an idle worker, or a new one is spawned; who finds no work for a while retires.
//! How many there can be is decided by the admission, which runs first.
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use crate::os::system;

/// Ample, for an overflow would end the whole server; a page of stack that is never touched costs nothing.
const STACK: usize = 1024 * 1024;

/// How long an idle worker waits for the next connection.
const RETIRE_AFTER: Duration = Duration::from_secs(30);

type Work = Box<dyn FnOnce() + Send>;

/// Workers that wait, by number, who has worked last behind the others: that one works next, so that a trickle of connections
/// keeps few alive.
type Idle = Arc<Mutex<Vec<(u64, Sender<Work>)>>>;

/// Runs work on threads of its own.
#[derive(Debug)]
pub struct Pool {
    idle: Idle,
    /// Bytes of each thread's stack.
    stack: usize,
}

impl Pool {
    pub fn new() -> Self {
        Self {
            idle: Idle::default(),
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
        let mut work: Work = Box::new(move || {
            if let Some(subject) = take(&of_worker) {
                drop(of_worker);
                work(subject);
            }
        });
        while let Some((_, worker)) = waiting(&self.idle).pop() {
            match worker.try_send(work) {
                Ok(()) => return Ok(()),
                Err(refused) => work = refused.into_inner(),
            }
        }
        self.spawn(work).map_err(|error| (error, take(&held)))
    }

    fn spawn(&self, first: Work) -> io::Result<()> {
        static WORKERS: AtomicU64 = AtomicU64::new(0);
        let number = WORKERS.fetch_add(1, Ordering::Relaxed);
        let idle = Arc::clone(&self.idle);
        thread::Builder::new()
            .name("session".into())
            .stack_size(self.stack)
            .spawn(move || {
                let (hand_over, handed_over) = bounded(1);
                let mut work = first;
                loop {
                    run_guarded(work);
                    waiting(&idle).push((number, hand_over.clone()));
                    work = match handed_over.recv_timeout(RETIRE_AFTER) {
                        Ok(next) => next,
                        Err(_) if leaves(&idle, number) => {
                            give_back(&idle);
                            return;
                        }
                        // Somebody has just taken this worker out of the idle ones, and hands something over.
                        Err(_) => match handed_over.recv() {
                            Ok(next) => next,
                            Err(_) => return,
                        },
                    };
                }
            })?;
        Ok(())
    }
}

fn waiting(idle: &Idle) -> MutexGuard<'_, Vec<(u64, Sender<Work>)>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last worker of a crowd gives back what all have taken.
fn give_back(idle: &Idle) {
    if waiting(idle).is_empty() {
        system::give_back_free_memory();
    }
}

/// Takes a worker out of the idle ones; false where it is none of them any more.
fn leaves(idle: &Idle, number: u64) -> bool {
    let mut idle = waiting(idle);
    let at = idle.iter().position(|(one, _)| *one == number);
    at.map(|at| idle.remove(at)).is_some()
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
    fn a_trickle_of_work_keeps_one_worker_busy_and_lets_the_others_retire() {
        let pool = Pool::new();
        let (done, finished) = unbounded();
        let (release, held) = bounded::<()>(0);
        for _ in 0..5 {
            let held = held.clone();
            let waits = move |()| assert!(held.recv().is_err());
            pool.run((), waits).unwrap();
        }
        drop(release);
        let idle = |count| {
            while waiting(&pool.idle).len() < count {
                thread::yield_now();
            }
        };
        idle(5);
        for _ in 0..20 {
            let done = done.clone();
            let tell = move |()| done.send(thread::current().id()).unwrap();
            pool.run((), tell).unwrap();
            idle(5);
        }
        let workers: Vec<_> = finished.iter().take(20).collect();
        assert!(workers.iter().all(|worker| *worker == workers[0]));
        let longest_idle = waiting(&pool.idle)[0].0;
        assert!(leaves(&pool.idle, longest_idle) && !leaves(&pool.idle, longest_idle));
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
