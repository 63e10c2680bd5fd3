//! Lines on their way to somebody who may not take them: a log that nobody reads, a disk that hangs. One thread writes them,
//! and nobody else ever waits. It sleeps as soon as nothing is left: a channel that looks a few times more before that would
//! cost a small host more than the writing.
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// Those that found no room since the last one that did.
    lost: u64,
    /// There may be something to do without one.
    look: bool,
    /// How many have ever been pushed, and are written.
    pushed: u64,
    written: u64,
    closed: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// For the writer: there is something to do.
    come: Condvar,
    /// For who waits for the end: something is written.
    done: Condvar,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next one. None for the one where `write` is to be called without; None at all at the end.
    fn next(&self, wake: Option<Instant>) -> Option<(Option<T>, u64)> {
        let mut state = self.state();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some((Some(item), std::mem::take(&mut state.lost)));
            }
            let left = wake.map(|wake| wake.saturating_duration_since(Instant::now()));
            if std::mem::take(&mut state.look) || left == Some(Duration::ZERO) {
                return Some((None, 0));
            }
            if state.closed {
                return None;
            }
            state = match left {
                None => self
                    .come
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.come.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// What is to be written, in its order.
#[derive(Debug)]
pub struct Queue<T> {
    shared: Arc<Shared<T>>,
    most: usize,
}

impl<T: Send + 'static> Queue<T> {
    /// Holds so many at most. `write` is told of each, and how many were lost before it since the last one. It tells when it
    /// wants to be called without one, should none come until then; None: it need not be.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        name: &str,
        most: usize,
        mut write: impl FnMut(Option<T>, u64) -> Option<Instant> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                items: VecDeque::new(),
                lost: 0,
                look: false,
                pushed: 0,
                written: 0,
                closed: false,
            }),
            come: Condvar::new(),
            done: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(name.into())
            .stack_size(128 * 1024)
            .spawn(move || {
                let mut wake = None;
                while let Some((item, lost)) = own.next(wake) {
                    let is_one = item.is_some();
                    wake = write(item, lost);
                    if is_one {
                        own.state().written += 1;
                        own.done.notify_all();
                    }
                }
            })?;
        Ok(Self { shared, most })
    }

    /// Where there is no room it is lost, and counted.
    pub fn push(&self, one: T) {
        let mut state = self.shared.state();
        if state.items.len() >= self.most {
            state.lost += 1;
            return;
        }
        state.items.push_back(one);
        state.pushed += 1;
        drop(state);
        self.shared.come.notify_one();
    }

    /// Has `write` called without one.
    pub fn look(&self) {
        self.shared.state().look = true;
        self.shared.come.notify_one();
    }

    /// Waits until all is written that was pushed, at most for so long.
    pub fn end(&self, time: Duration) {
        let state = self.shared.state();
        let pushed = state.pushed;
        let waits = |state: &mut State<T>| state.written < pushed;
        drop(self.shared.done.wait_timeout_while(state, time, waits));
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.come.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_writer_that_sleeps_holds_up_nobody_and_what_was_lost_is_counted() {
        let (wake, asleep) = channel::<()>();
        let (tell, told) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&written);
        let queue = Queue::start("test", 2, move |number, lost| {
            tell.send(()).unwrap();
            let _ = asleep.recv();
            writer.lock().unwrap().push((number.unwrap(), lost));
            None
        })
        .unwrap();
        queue.push(0);
        told.recv().unwrap();
        for number in 1..6 {
            queue.push(number);
        }
        queue.end(Duration::from_millis(1));
        assert!(written.lock().unwrap().is_empty());
        drop(wake);
        queue.end(Duration::from_secs(60));
        assert_eq!(*written.lock().unwrap(), [(0, 0), (1, 3), (2, 0)]);
    }

    #[test]
    fn the_writer_is_called_when_it_wants_to_be_though_nothing_comes() {
        let (tell, told) = channel();
        let mut calls = 0;
        let queue = Queue::start("test", 2, move |number: Option<u8>, _| {
            calls += 1;
            tell.send((number, calls)).unwrap();
            (calls == 2).then(Instant::now)
        })
        .unwrap();
        queue.push(7);
        queue.look();
        let calls: Vec<_> = (0..3).map(|_| told.recv().unwrap()).collect();
        assert_eq!(calls, [(Some(7), 1), (None, 2), (None, 3)]);
        queue.end(Duration::from_secs(60));
        assert!(told.try_recv().is_err());
    }
}
