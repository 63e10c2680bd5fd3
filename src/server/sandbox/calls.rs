//! seccomp: the system calls that serving needs, and of some of them only the uses that it needs.
//!
//! Found by watching the whole test-suite, and by what musl calls instead. Three filters are laid over each other:
//!
//! - the list; what is not on it is trapped, and the handler of the signal logs it and has it fail with `EPERM`;
//! - clone3(2) fails with `ENOSYS`, for its flags lie in memory where no filter sees them: C libraries then use clone(2);
//! - new processes and programs fail with `EPERM` without a signal, for C libraries block all signals around them, and a
//!   blocked trap ends the process.
use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::{Plan, Violation};
use crate::os::system;

const LAYER: &str = "system call rules (seccomp)";

/// Whatever their arguments are.
const ALWAYS: &[libc::c_long] = &[
    // Bytes.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_copy_file_range,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    // Files and directories.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_syncfs,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_fadvise64,
    libc::SYS_fgetxattr,
    libc::SYS_getxattr,
    libc::SYS_fsetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_getcwd,
    // Connections.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    // Memory, as far as nothing in it becomes code.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads, signals, time, chance.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Answered by the other filters.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_execveat,
    // Who we are, and where.
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// The same number everywhere; younger than the tables of the C libraries (Linux 6.6).
const FCHMODAT2: libc::c_long = 452;

/// What this machine has besides: the older forms of calls, which C libraries still use.
#[cfg(target_arch = "x86_64")]
const OWN: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_poll,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_accept,
    libc::SYS_time,
];
#[cfg(target_arch = "aarch64")]
const OWN: &[libc::c_long] = &[libc::SYS_renameat, libc::SYS_accept];
#[cfg(target_arch = "riscv64")]
const OWN: &[libc::c_long] = &[libc::SYS_accept, 258 /* riscv_hwprobe(2) */];

pub fn available() -> Result<String, String> {
    let known = TargetArch::try_from(std::env::consts::ARCH).is_ok();
    if known && std::path::Path::new("/proc/sys/kernel/seccomp").exists() {
        Ok(LAYER.into())
    } else {
        Err(LAYER.into())
    }
}

pub fn enter(plan: &Plan, violation: Violation) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{LAYER}: {error}");
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Err(LAYER.into());
    };
    let list = list(plan, violation, arch).map_err(|error| failed(&error))?;
    let no_clone3 = no_clone3(arch).map_err(|error| failed(&error))?;
    if violation == Violation::Refuse {
        system::answer_refused_calls().map_err(|errno| failed(&errno))?;
    }
    let no_process = no_process(violation, arch).map_err(|error| failed(&error))?;
    for filter in [no_clone3, no_process, list] {
        seccompiler::apply_filter(&filter).map_err(|error| failed(&error))?;
    }
    Ok(LAYER.into())
}

fn no_clone3(arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, enosys, arch)?.try_into()
}

/// Threads only, and never another program.
fn no_process(violation: Violation, arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let no_thread = one_of([unset(0, libc::CLONE_THREAD as u64)])?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    rules.insert(number(libc::SYS_clone), no_thread);
    for program in [libc::SYS_execve, libc::SYS_execveat] {
        rules.insert(number(program), Vec::new());
    }
    let answer = match violation {
        Violation::Kill => SeccompAction::KillProcess,
        Violation::Refuse => SeccompAction::Errno(libc::EPERM.unsigned_abs()),
    };
    SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()
}

fn list(plan: &Plan, violation: Violation, arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in ALWAYS.iter().chain(OWN) {
        rules.insert(number(*call), Vec::new());
    }
    for (call, uses) in limited(plan)? {
        rules.insert(number(call), uses);
    }
    let otherwise = match violation {
        Violation::Kill => SeccompAction::KillProcess,
        Violation::Refuse => SeccompAction::Trap,
    };
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, arch)?.try_into()
}

/// Calls of which some uses are needed.
// The numbers of ioctl(2) differ in type between C libraries.
#[allow(clippy::unnecessary_cast)]
fn limited(plan: &Plan) -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, BackendError> {
    let no_code = || one_of([unset(2, libc::PROT_EXEC as u64)]);
    let mut limited = vec![
        (libc::SYS_mmap, no_code()?),
        (libc::SYS_mprotect, no_code()?),
        (libc::SYS_socket, sockets()?),
        (
            libc::SYS_ioctl,
            values(
                1,
                &[
                    libc::FIONBIO as u64,
                    libc::FIONREAD as u64,
                    libc::FICLONE as u64,
                    libc::TCGETS as u64,
                ],
            )?,
        ),
        (
            libc::SYS_fcntl,
            values(
                1,
                &[
                    libc::F_DUPFD_CLOEXEC,
                    libc::F_GETFD,
                    libc::F_SETFD,
                    libc::F_GETFL,
                    libc::F_SETFL,
                    libc::F_SETPIPE_SZ,
                    libc::F_GETPIPE_SZ,
                    libc::F_OFD_SETLK,
                    libc::F_OFD_SETLKW,
                    libc::F_OFD_GETLK,
                ]
                .map(|command| command as u64),
            )?,
        ),
        // The names of threads, and those that allocators give to memory.
        (
            libc::SYS_prctl,
            values(0, &[libc::PR_SET_NAME as u64, PR_SET_VMA])?,
        ),
        // Limits can be asked for and not be set.
        (libc::SYS_prlimit64, values(2, &[0])?),
        // abort(3) signals its own process.
        (
            libc::SYS_tgkill,
            values(0, &[u64::from(std::process::id())])?,
        ),
    ];
    for call in [libc::SYS_setfsuid, libc::SYS_setfsgid] {
        // With a number that nobody has they only ask.
        let uses = match plan.identities {
            true => Vec::new(),
            false => values(0, &[u64::from(u32::MAX)])?,
        };
        limited.push((call, uses));
    }
    if plan.identities {
        limited.push((libc::SYS_setgroups, Vec::new()));
    }
    Ok(limited)
}

/// prctl(2), Linux 5.17.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// TCP only, whether it is named or the default: other protocols of streams are code of the kernel that nobody needs here, and
/// for some of them no port rules hold.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    /// The bits of the type that are no flags (socket(2)).
    const TYPE: u64 = 0xf;
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [0, libc::IPPROTO_TCP] {
            rules.push(SeccompRule::new(vec![
                condition(0, SeccompCmpOp::Eq, family as u64)?,
                condition(1, SeccompCmpOp::MaskedEq(TYPE), libc::SOCK_STREAM as u64)?,
                condition(2, SeccompCmpOp::Eq, protocol as u64)?,
            ])?);
        }
    }
    Ok(rules)
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    // The kernel looks at the lower half of all arguments that are compared here.
    SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operator,
        value & 0xffff_ffff,
    )
}

fn unset(argument: u8, bits: u64) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::MaskedEq(bits), 0)
}

fn values(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    let equal =
        |value: &u64| SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, *value)?]);
    values.iter().map(equal).collect()
}

fn one_of<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |condition| SeccompRule::new(vec![condition?]);
    conditions.into_iter().map(rule).collect()
}

/// `c_long` is narrower on some machines.
#[allow(clippy::useless_conversion)]
fn number(call: libc::c_long) -> i64 {
    i64::from(call)
}
