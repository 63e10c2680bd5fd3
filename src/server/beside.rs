//! A process beside the server, for what the server in its sandbox cannot do itself. It is forked before the sandbox is entered
//! and outside of it, talks with the server over a pair of sockets, and ends when the server does, however that ends.
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::observe::log_lines;
use crate::os::system;

/// Forks, and returns the server's socket. Over there `life` is led with the other one, under this name (15 bytes at most).
/// Messages stay apart from each other, and the end of the one side is seen by the other. Must happen while the process has one
/// thread.
///
/// # Errors
/// Those of socketpair(2) and fork(2).
pub fn start(name: &CStr, life: impl FnOnce(&OwnedFd)) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (server, beside) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    if system::fork()? {
        drop(server);
        // The listeners above all: they must not outlive the server.
        system::close_all_but(beside.as_fd());
        let _ = prctl::set_name(name);
        // Told to the whole group or unit, they are the server's affair. It ends, and then we do.
        let of_server = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
        let _ = SigSet::from_iter(of_server).thread_block();
        // What is said there is limited as what the server says.
        log_lines::write_behind();
        life(&beside);
        log_lines::end();
        // Nothing of the server's is to be undone here.
        system::leave();
    }
    Ok(server)
}
