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

/// Raises the limit on open files to what is needed, as far as the host allows, and tells how many of the sessions can be held by
/// it: those that are admitted can always transfer. `silent` tells how many connections are silent yet for so many sessions.
pub fn sessions_that_fit(sessions: usize, silent: impl Fn(usize) -> usize) -> usize {
    let needed = |sessions| open_files_needed(sessions, silent(sessions));
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return sessions;
    };
    let wanted = needed(sessions).min(hard).max(soft);
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted,
        Err(errno) => {
            log::warn!("cannot raise the limit on open files from {soft} to {wanted}: {errno}");
            soft
        }
    };
    let fits = (1..=sessions).rev().find(|&fewer| needed(fewer) <= limit);
    let fits = fits.unwrap_or(1);
    if fits < sessions {
        log::error!(
            "{fits} sessions are served, not {sessions}: the limit on open files is {limit}, and {sessions} sessions can need {}: raise it (ulimit -Hn) or lower `sessions`",
            needed(sessions)
        );
    }
    fits
}
