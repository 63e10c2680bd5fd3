//! Threads that act as a user of the system: what a session does to files, the kernel allows or denies to that user.
//!
//! User, groups and supplementary groups for access to files belong to each thread in Linux (credentials(7), setfsuid(2)).
//! The C library's setgroups(3) sets those of all threads, so the calls are made without it.
use std::fmt;
use std::marker::PhantomData;

use nix::errno::Errno;
use nix::unistd::{getegid, geteuid, getgroups};

use crate::observe::log_lines;
use crate::os::system::set_thread_identity;
use crate::storage;

/// The thread acts as somebody else until this is dropped, which must happen on the same thread: it cannot be sent.
pub struct Acting {
    own: (u32, u32, Vec<u32>),
    _of_this_thread: PhantomData<*const ()>,
}

impl fmt::Debug for Acting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acting")
    }
}

/// Has this thread act as the user, with these supplementary groups.
///
/// # Errors
/// `EPERM` without the capabilities for it, or of root: nothing has changed then.
pub fn act_as(uid: u32, gid: u32, groups: &[u32]) -> Result<Acting, Errno> {
    if uid == 0 {
        return Err(Errno::EPERM);
    }
    let own_groups = getgroups()?.into_iter().map(|group| group.as_raw());
    let acting = Acting {
        own: (geteuid().as_raw(), getegid().as_raw(), own_groups.collect()),
        _of_this_thread: PhantomData,
    };
    // From here on the drop undoes what was done.
    let set = set_thread_identity(uid, gid, groups);
    storage::forget_identity();
    set.map(|()| acting)
}

impl Drop for Acting {
    fn drop(&mut self) {
        let (uid, gid, groups) = &self.own;
        let set = set_thread_identity(*uid, *gid, groups);
        storage::forget_identity();
        if set.is_err() {
            // The next session on this thread would have this one's files.
            log::error!("cannot stop acting as another user: ending");
            log_lines::end();
            std::process::abort();
        }
    }
}
