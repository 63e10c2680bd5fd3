//! Lines on their way to somebody who may not take them: a log that nobody reads, a disk that hangs. One thread writes them,
//! and nobody else ever waits.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

enum Item<T> {
    One(T),
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
    /// Holds so many at most. `write` is told of each, and how many were lost before it since the last one.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        name: &str,
        most: usize,
        mut write: impl FnMut(T, u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (items, to_write) = bounded(most);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        std::thread::Builder::new()
            .name(name.into())
            .stack_size(128 * 1024)
            .spawn(move || {
                for item in to_write {
                    match item {
                        Item::One(one) => write(one, counted.swap(0, Ordering::Relaxed)),
                        // Who asked may wait no longer.
                        Item::End(written) => drop(written.send(())),
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
            writer.lock().unwrap().push((number, lost));
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
}
