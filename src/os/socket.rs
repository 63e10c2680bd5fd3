//! Options of the sockets.
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::os::system;

/// Seconds of silence before the kernel asks whether the peer is still there, between questions, and how many go
/// unanswered: a client that lost its network is noticed after some five minutes, whatever the idle time-out.
const KEEPALIVE_IDLE: u32 = 120;
const KEEPALIVE_INTERVAL: u32 = 30;
const KEEPALIVE_COUNT: u32 = 6;

/// A control connection: no delay (a reply is one small write), keepalive, urgent data in line.
///
/// # Errors
/// When the connection is gone.
pub fn prepare_control(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let fd = &stream.as_fd();
    setsockopt(fd, sockopt::OobInline, &true)?;
    setsockopt(fd, sockopt::KeepAlive, &true)?;
    setsockopt(fd, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(fd, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    setsockopt(fd, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    Ok(())
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
