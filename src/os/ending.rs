//! The end of one session as others wish it: an administrator, or another session that needs what this one holds. An event
//! descriptor that becomes readable once and for all, so that the session wakes wherever it waits.
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Shared by the session and those who may end it.
#[derive(Debug)]
pub struct Ending {
    why: OnceLock<&'static str>,
    event: EventFd,
}

impl Ending {
    /// # Errors
    /// When no descriptors are left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            why: OnceLock::new(),
            event: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Has the session end, and its client hear why. Returns at once; the first reason is the one that is told.
    pub fn end(&self, why: &'static str) {
        if self.why.set(why).is_ok() {
            // Fails only when the counter is full, which one event does not do.
            let _ = self.event.write(1);
        }
    }

    /// Why the session is to end, if it is.
    pub fn why(&self) -> Option<&'static str> {
        self.why.get().copied()
    }

    /// Readable once the session is to end.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
