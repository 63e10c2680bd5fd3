//! The system calls that no safe wrapper offers: the only `unsafe` of the room.
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{self, c_int, nfds_t, pollfd};

/// poll(2), with how many descriptors are ready; -1 milliseconds is without a time-out.
///
/// # Errors
/// Those of poll(2), `EINTR` among them.
pub fn poll(polled: &mut [pollfd], milliseconds: c_int) -> Result<c_int, Errno> {
    // SAFETY: the pointer and the length are those of one exclusively borrowed slice of `pollfd`, which the kernel reads
    // and whose `revents` it writes during the call only; the descriptors in it are borrowed by our callers.
    Errno::result(unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as nfds_t, milliseconds) })
}

/// Has large blocks of memory given back to the system when they are freed. Left to itself, glibc keeps blocks of the
/// size of the largest that was ever freed, on each thread: the 19 MiB of one password check for every session there was.
/// To be called before threads are spawned.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        /// Bytes; the value glibc starts with (mallopt(3)). Naming it keeps it from growing.
        const LARGE: c_int = 128 * 1024;
        // SAFETY: mallopt takes two numbers and changes a setting of the allocator only; no other thread allocates yet.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}

/// Sets TCP_QUICKACK (tcp(7)), which the kernel takes back by itself.
///
/// # Errors
/// Those of setsockopt(2).
pub fn acknowledge_now(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let on: c_int = 1;
    // SAFETY: the descriptor is borrowed for the call; the value is one c_int, of the length that is given, which the kernel
    // only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Sends a record of its own content type over a connection that the kernel seals.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send_tls_record(
    socket: BorrowedFd<'_>,
    content_type: u8,
    bytes: &[u8],
) -> Result<usize, Errno> {
    /// A control message with one byte in it fits, aligned as its header must be.
    #[repr(C)]
    union Control {
        header: libc::cmsghdr,
        bytes: [u8; 64],
    }
    let mut control = Control { bytes: [0; 64] };
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeros is a msghdr without a name and without parts. CMSG_FIRSTHDR and CMSG_DATA stay within `control`,
    // which is longer than CMSG_SPACE(1) and aligned as a cmsghdr; what the message points to outlives the call, and the
    // kernel only reads it.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = libc::CMSG_SPACE(1) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as _;
        *libc::CMSG_DATA(header) = content_type;
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    Errno::result(sent).map(|sent| sent.unsigned_abs())
}
