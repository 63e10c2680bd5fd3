//! Options of the sockets.
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::os::system;

/// Seconds of silence before the kernel asks whether the peer is still there, between questions, and how many go
/// unanswered; and milliseconds for which what was sent may stay unacknowledged, while the kernel asks nothing. So a client that has
/// lost its network is noticed within two minutes, whatever the idle time-out, and whatever its session was doing: while
/// data flow this connection is watched too.
const KEEPALIVE_IDLE: u32 = 60;
const KEEPALIVE_INTERVAL: u32 = 10;
const KEEPALIVE_COUNT: u32 = 5;
const UNACKNOWLEDGED: u32 = 100_000;

/// A listening socket for control connections, which inherit from it: no delay (a reply is one small write), urgent data in
/// line, and an end when the peer is gone (tcp(7)).
///
/// # Errors
/// Those of setsockopt(2).
pub fn prepare_listener(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let socket = &socket;
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::OobInline, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    setsockopt(socket, sockopt::TcpUserTimeout, &UNACKNOWLEDGED)
}

/// Accepts a connection that never blocks.
///
/// # Errors
/// Those of accept(2).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, address) = system::accept(listener)?;
    // Listeners of ours have addresses of the internet.
    let address = address.ok_or(ErrorKind::InvalidData)?;
    Ok((TcpStream::from(stream), address))
}

/// Silence behind which a connection whose peer does not answer counts as dead, in seconds.
const DEAD_AFTER: u32 = 10;

/// Whether the kernel waits in vain for the peer, and has for 10 s: for an acknowledgement of what was sent, or of its own
/// question whether anybody is there. Where it has nothing to wait for and the peer is as silent, it is made to ask now, so that
/// the next call knows.
pub fn answers_no_more(socket: BorrowedFd<'_>) -> bool {
    let Ok(state) = system::tcp_state(socket) else {
        return false;
    };
    if state.silent_for < Duration::from_secs(DEAD_AFTER.into()) {
        return false;
    }
    if !state.waits {
        let _ = setsockopt(&socket, sockopt::TcpKeepIdle, &DEAD_AFTER);
    }
    state.waits
}

/// Has what came acknowledged without delay, this once: a peer with Nagle's algorithm on waits for it up to 40 ms.
pub fn acknowledge_now(fd: BorrowedFd<'_>) {
    // Nothing depends on it but time.
    let _ = system::acknowledge_now(fd);
}

/// Ends a data connection so that the peer cannot take what it got for the whole: with a reset instead of an end.
pub fn break_off(stream: impl AsFd) {
    let _ = setsockopt(
        &stream.as_fd(),
        sockopt::Linger,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    );
    drop(stream);
}
