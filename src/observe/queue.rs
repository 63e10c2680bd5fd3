//! Lines on their way to somebody who may not take them: a log that nobody reads, a disk that hangs. One thread writes them,
//! and nobody else ever waits.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

enum Item<T> {
    One(T),
    /// There may be something to do without one.
    Look,
    /// Tells that all before it are written.
    End(Sender<()>),
}

/// What is to be written, in its order.
#[derive(Debug)]
pub struct Queue<T> {
    items: Sender<Item<T>>,
    lost: Arc<AtomicU64>,
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
        let (items, to_write) = bounded(most);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        std::thread::Builder::new()
            .name(name.into())
            .stack_size(128 * 1024)
            .spawn(move || {
                let mut wake = None;
                loop {
                    let item = match wake {
                        Some(wake) => to_write.recv_deadline(wake),
                        None => to_write.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    };
                    match item {
                        Ok(Item::One(one)) => {
                            wake = write(Some(one), counted.swap(0, Ordering::Relaxed));
                        }
                        Ok(Item::Look) | Err(RecvTimeoutError::Timeout) => wake = write(None, 0),
                        // Who asked may wait no longer.
                        Ok(Item::End(written)) => drop(written.send(())),
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })?;
        Ok(Self { items, lost })
    }

    /// Where there is no room it is lost, and counted.
    pub fn push(&self, one: T) {
        if self.items.try_send(Item::One(one)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has `write` called without one. Where there is no room it will be called anyway.
    pub fn look(&self) {
        let _ = self.items.try_send(Item::Look);
    }

    /// Waits until all is written that was pushed, at most for so long.
    pub fn end(&self, time: Duration) {
        let (tell, told) = bounded(1);
        if self.items.send_timeout(Item::End(tell), time).is_ok() {
            let _ = told.recv_timeout(time);
        }
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
