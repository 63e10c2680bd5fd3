//! The system calls that no safe wrapper offers: the only `unsafe` of the room.
use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_int, nfds_t, pollfd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};
use nix::sys::time::TimeSpec;

/// ppoll(2) without a signal mask, with how many descriptors are ready; None is without a time-out. poll(2) counts in
/// milliseconds, which is long between the last byte of a small upload and its reply.
///
/// # Errors
/// Those of ppoll(2), `EINTR` among them.
pub fn poll(polled: &mut [pollfd], most: Option<Duration>) -> Result<c_int, Errno> {
    let most = most.map(TimeSpec::from);
    let time_out = most.as_ref().map_or(std::ptr::null(), |most| {
        std::ptr::from_ref::<libc::timespec>(most.as_ref())
    });
    let length = polled.len() as nfds_t;
    // SAFETY: the pointer and the length are those of one exclusively borrowed slice of `pollfd`, which the kernel reads
    // and whose `revents` it writes during the call only; the descriptors in it are borrowed by our callers. The time-out is
    // null or borrowed for the call, and a null mask leaves the signals as they are.
    Errno::result(unsafe { libc::ppoll(polled.as_mut_ptr(), length, time_out, std::ptr::null()) })
}

/// Has large blocks of memory given back to the system when they are freed. Left to itself, glibc keeps blocks of the
/// size of the largest that was ever freed, on each thread: the 19 MiB of one password check for every session there was.
/// To be called before threads are spawned.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        /// Threads take turns at so many heaps; of 8 a processor, as glibc has it, each would keep what its busiest thread took.
        const ARENAS: c_int = 2;
        /// Bytes that a heap may have to spare: what a listing takes and frees is not asked of the system each time.
        const SPARE: c_int = 512 * 1024;
        /// Bytes; the value glibc starts with (mallopt(3)). Naming it keeps it from growing.
        const LARGE: c_int = 128 * 1024;
        // SAFETY: mallopt takes two numbers and changes a setting of the allocator only; no other thread allocates yet.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
        // SAFETY: as above.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
        // SAFETY: as above.
        unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE) };
    }
}

/// Has free memory given back to the system, wherever it lies between what is in use (malloc_trim(3)). Takes milliseconds: for
/// the time behind a crowd.
pub fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes a number, and only looks at what is free.
        unsafe { libc::malloc_trim(0) };
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

/// Accepts a connection, which never blocks and which no other program inherits, and tells whose it is, without the calls of
/// their own that TcpListener needs for that (accept4(2)).
///
/// # Errors
/// Those of accept(2).
pub fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call; the kernel writes no more than `length` bytes of the exclusively
    // borrowed address, and their number to `length`.
    let accepted = Errno::result(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            storage.as_mut_ptr().cast(),
            &raw mut length,
            libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
        )
    })?;
    // SAFETY: the descriptor is new, so that nobody else owns it.
    let accepted = unsafe { OwnedFd::from_raw_fd(accepted) };
    // SAFETY: the address is made of numbers, for which zeroes are values too; its first `length` bytes are the kernel's.
    let address = unsafe { SockaddrStorage::from_raw(storage.as_ptr().cast(), Some(length)) };
    let address = address.and_then(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|&v4| SocketAddrV4::from(v4).into());
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|&v6| SocketAddrV6::from(v6).into())
        })
    });
    Ok((accepted, address))
}

/// What the kernel knows of a peer (tcp(7)).
#[derive(Clone, Copy, Debug)]
pub struct TcpState {
    /// Something was sent, or asked, and the peer has not acknowledged it yet.
    pub waits: bool,
    /// Since the last acknowledgement.
    pub silent_for: Duration,
}

/// TCP_INFO (tcp(7)).
///
/// # Errors
/// Those of getsockopt(2).
pub fn tcp_state(socket: BorrowedFd<'_>) -> Result<TcpState, Errno> {
    // SAFETY: the structure holds numbers only, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call; the kernel writes at most `length` bytes to the structure, which is as
    // long, and the number of them to `length`. What an older kernel does not write stays zero.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(TcpState {
        waits: info.tcpi_unacked > 0 || info.tcpi_probes > 0,
        silent_for: Duration::from_millis(info.tcpi_last_ack_recv.into()),
    })
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

/// Has calls that seccomp traps fail with `EPERM`, after a line on standard error; the first hundred are told.
///
/// # Errors
/// Those of sigaction(2).
pub fn answer_refused_calls() -> Result<(), Errno> {
    let handler = SigHandler::SigAction(refused_call);
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler touches nothing but its arguments, an atomic number and write(2), all of which signal-safety(7)
    // allows.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop)
}

extern "C" fn refused_call(_: c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    static TOLD: AtomicU32 = AtomicU32::new(0);
    // SAFETY: the kernel passes the interrupted thread's ucontext_t, which is ours to change until we return
    // (sigaction(2)).
    let Some(number) = (unsafe { refuse_call(context.cast()) }) else {
        return;
    };
    if TOLD.fetch_add(1, Ordering::Relaxed) >= 100 {
        return;
    }
    let mut line =
        *b"thriftpd: the sandbox refused system call 0000, please report it (setting: sandbox)\n";
    let digits = line.iter().position(|&byte| byte == b'0').unwrap_or(0);
    for (at, value) in [1000, 100, 10, 1].into_iter().enumerate() {
        // A digit: fits.
        line[digits + at] = b'0' + (number.unsigned_abs() / value % 10) as u8;
    }
    // SAFETY: the pointer and the length are those of `line`, which the kernel only reads.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
}

/// Makes the interrupted call return `EPERM`, and tells which one it was.
///
/// # Safety
/// The pointer must be that to the context which the kernel passes to a signal's handler.
unsafe fn refuse_call(context: *mut libc::ucontext_t) -> Option<i64> {
    let refused = -i64::from(libc::EPERM);
    // SAFETY: see above; the registers are those that system calls take their numbers from and return their results in
    // (syscall(2)).
    #[cfg(target_arch = "x86_64")]
    unsafe {
        let register = &mut (*context).uc_mcontext.gregs[libc::REG_RAX as usize];
        Some(std::mem::replace(register, refused))
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        let registers = &mut (*context).uc_mcontext.regs;
        registers[0] = refused as u64;
        Some(registers[8] as i64)
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        let registers = &mut (*context).uc_mcontext.__gregs;
        registers[10] = refused as _;
        Some(registers[17] as i64)
    }
    #[cfg(not(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64"
    )))]
    {
        let _ = (context, refused);
        None
    }
}

/// Sets who this thread alone is when it comes to files: user, group, supplementary groups.
///
/// # Errors
/// `EPERM` where that is not allowed; some of it may be set then.
pub fn set_thread_identity(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the pointer and the length are those of one slice of group numbers, which the kernel only reads.
    let set = unsafe { libc::syscall(SYS_SETGROUPS, groups.len(), groups.as_ptr()) };
    Errno::result(set)?;
    // SAFETY: setfsgid(2) and setfsuid(2) take one number. They tell the one before, never an error: what came of it is asked
    // for with a number that nobody has.
    let (group, user) = unsafe {
        libc::syscall(SYS_SETFSGID, gid);
        libc::syscall(SYS_SETFSUID, uid);
        (
            libc::syscall(SYS_SETFSGID, u32::MAX),
            libc::syscall(SYS_SETFSUID, u32::MAX),
        )
    };
    // The kernel's numbers are 32 bits wide.
    if (group as u32, user as u32) == (gid, uid) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

#[cfg(not(any(target_arch = "arm", target_arch = "x86")))]
use libc::{
    SYS_setfsgid as SYS_SETFSGID, SYS_setfsuid as SYS_SETFSUID, SYS_setgroups as SYS_SETGROUPS,
};
#[cfg(any(target_arch = "arm", target_arch = "x86"))]
use libc::{
    SYS_setfsgid32 as SYS_SETFSGID, SYS_setfsuid32 as SYS_SETFSUID,
    SYS_setgroups32 as SYS_SETGROUPS,
};

/// Takes a variable out of the environment, and wipes it where others see it (`/proc/PID/environ`).
pub fn take_variable(name: &str) -> Option<std::ffi::OsString> {
    let value = std::env::var_os(name)?;
    let key = std::ffi::CString::new(name).ok()?;
    // SAFETY: called while the process has one thread, so nobody reads the environment meanwhile; getenv(3) points to a string
    // of the environment, which is writable, and its bytes up to the NUL are overwritten.
    unsafe {
        let text = libc::getenv(key.as_ptr());
        if !text.is_null() {
            text.write_bytes(0, libc::strlen(text));
        }
    }
    // SAFETY: called while the process has one thread, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// Makes a second process of this one: true there.
///
/// # Errors
/// Those of fork(2).
pub fn fork() -> Result<bool, Errno> {
    // SAFETY: called while the process has one thread, so no lock is held by one that the new process lacks.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(true),
        nix::unistd::ForkResult::Parent { .. } => Ok(false),
    }
}

/// Ends the process without calling what was registered for its end.
pub fn leave() -> ! {
    // SAFETY: takes a number and never returns.
    unsafe { libc::_exit(0) }
}

/// Closes all descriptors but this one and the first three, whose they are over there; those of kernels before 5.9 stay open.
pub fn close_all_but(kept: BorrowedFd<'_>) {
    let kept = kept.as_raw_fd().unsigned_abs();
    for (from, to) in [(3, kept.saturating_sub(1)), (kept.max(2) + 1, u32::MAX)] {
        if from <= to {
            // SAFETY: for a process that was just forked and uses nothing of what it has inherited but `kept`; the owners of the
            // others are never dropped in it, for it ends with `leave`.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    }
}
