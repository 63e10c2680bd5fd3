//! Waiting until a descriptor is ready: poll(2) with a deadline, restarted after signals.
//!
//! Speaks of libc's flags because nix's lack `POLLRDHUP`, by which a client that closed its side is seen without reading.
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{self, c_short, pollfd};

use super::system::poll;

/// What to wait for on one descriptor.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    Input,
    Output,
    /// Only that the peer has closed its side or the connection broke.
    Hangup,
    /// Only that the connection broke, or was shut down from here.
    Break,
}

/// What a descriptor turned out to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// There is input, or room for output: whatever was wanted.
    pub wanted: bool,
    /// The peer will send no more, or the connection is broken.
    pub hangup: bool,
}

/// Waits until one of the descriptors is ready or the deadline has passed; then none of them is.
///
/// # Errors
/// Those of poll(2), but never `EINTR`.
pub fn wait<const N: usize>(
    wants: [Option<(BorrowedFd<'_>, Want)>; N],
    deadline: Option<Instant>,
) -> io::Result<[Ready; N]> {
    // A negative descriptor is passed over (poll(2)).
    let mut polled = wants.map(|want| match want {
        Some((fd, want)) => pollfd {
            fd: fd.as_raw_fd(),
            events: flags(want),
            revents: 0,
        },
        None => pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        },
    });
    loop {
        match poll(&mut polled, time_until(deadline)) {
            Ok(0) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(polled.map(|polled| {
        let got = |flags| polled.revents & flags != 0;
        let broken = got(libc::POLLERR | libc::POLLNVAL | libc::POLLHUP);
        Ready {
            // A broken descriptor is ready in the sense that the next call on it tells what broke.
            wanted: got(libc::POLLIN | libc::POLLOUT) || broken,
            hangup: broken || got(libc::POLLRDHUP),
        }
    }))
}

/// Waits for input on any number of descriptors; after the deadline none has any.
///
/// # Errors
/// Those of poll(2), but never `EINTR`.
pub fn wait_for_any(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<pollfd> = fds
        .iter()
        .map(|fd| pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    loop {
        match poll(&mut polled, time_until(deadline)) {
            Ok(_) => return Ok(polled.iter().map(|polled| polled.revents != 0).collect()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn flags(want: Want) -> c_short {
    match want {
        Want::Input => libc::POLLIN | libc::POLLRDHUP,
        Want::Output => libc::POLLOUT,
        Want::Hangup => libc::POLLRDHUP,
        // poll(2) tells it unasked.
        Want::Break => 0,
    }
}

fn time_until(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}
