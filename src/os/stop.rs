//! The end of the server as every thread sees it: two event descriptors that become readable once and for all, so
//! that whoever waits in poll(2) wakes without a timer.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// First `draining`: no new work, what runs may finish. Then `over`: everything ends at once.
#[derive(Debug)]
pub struct Stop {
    draining: Flag,
    over: Flag,
}

#[derive(Debug)]
struct Flag {
    raised: AtomicBool,
    event: EventFd,
}

impl Flag {
    fn new() -> io::Result<Self> {
        let event =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            raised: AtomicBool::new(false),
            event,
        })
    }

    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        // Fails only when the counter is full: then the descriptor is readable already.
        let _ = self.event.write(1);
    }
}

impl Stop {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            draining: Flag::new()?,
            over: Flag::new()?,
        })
    }

    pub fn drain(&self) {
        self.draining.raise();
    }

    pub fn end(&self) {
        self.draining.raise();
        self.over.raise();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.raised.load(Ordering::Acquire)
    }

    pub fn is_over(&self) -> bool {
        self.over.raised.load(Ordering::Acquire)
    }

    /// Readable once the server drains.
    pub fn draining_fd(&self) -> BorrowedFd<'_> {
        self.draining.event.as_fd()
    }

    /// Readable once everything must end.
    pub fn over_fd(&self) -> BorrowedFd<'_> {
        self.over.event.as_fd()
    }
}
