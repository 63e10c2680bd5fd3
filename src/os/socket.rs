//! Options of the sockets.
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

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

/// Has what came acknowledged without delay, this once: a peer with Nagle's algorithm on waits for it up to 40 ms.
pub fn acknowledge_now(fd: BorrowedFd<'_>) {
    // Nothing depends on it but time.
    let _ = system::acknowledge_now(fd);
}

/// Ends a data connection so that the peer cannot take what it got for the whole: with a reset instead of an end.
pub fn break_off(stream: TcpStream) {
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
