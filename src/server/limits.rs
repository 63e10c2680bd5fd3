//! The limit on open files.
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors a session can hold at once: control connection, what ends it from outside, passive port, data connection,
/// root, folder, the file, its directory, a pipe.
pub const DESCRIPTORS_PER_SESSION: u64 = 10;
/// Descriptors the process holds besides.
pub const DESCRIPTORS_BESIDES: u64 = 32;

/// What so many sessions, and connections that are silent yet, can need.
pub fn open_files_needed(sessions: usize, silent: usize) -> u64 {
    sessions as u64 * DESCRIPTORS_PER_SESSION + silent as u64 + DESCRIPTORS_BESIDES
}

/// Raises the soft limit on open files to what is needed, as far as the hard limit allows; warns where it does not
/// suffice.
pub fn raise_open_files(sessions: usize, silent: usize) {
    let needed = open_files_needed(sessions, silent);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft >= needed {
        return;
    }
    let wanted = needed.min(hard);
    if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        log::warn!("cannot raise the limit on open files from {soft} to {wanted}: {errno}");
    } else if wanted < needed {
        log::warn!(
            "the limit on open files is {wanted}, but {sessions} sessions can need {needed}: raise it (ulimit -Hn) or lower `sessions`"
        );
    }
}
