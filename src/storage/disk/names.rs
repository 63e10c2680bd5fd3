//! Names that are given in one step.
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, renameat, renameat2};
use nix::sys::stat::fstatat;

/// Renames unless something has the new name.
///
/// # Errors
/// `EEXIST`; else those of rename(2).
pub fn rename_to_new(from: impl AsFd, old: &[u8], to: impl AsFd, new: &[u8]) -> Result<(), Errno> {
    match renameat2(&from, old, &to, new, RenameFlags::RENAME_NOREPLACE) {
        // File systems that cannot do it in one step (vfat of old kernels, some FUSE ones).
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            match fstatat(&to, new, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EEXIST),
                Err(_) => renameat(&from, old, &to, new),
            }
        }
        other => other,
    }
}
