//! What surrounds the server, as far as it can be looked at beforehand.
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

use nix::fcntl::AtFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, faccessat};

use super::listen;
use super::privileges::Identity;

/// Whether the address can be listened on at this moment.
///
/// # Errors
/// What stands against it.
pub fn can_listen(addresses: &[SocketAddr], default_port: u16) -> Result<(), listen::ListenError> {
    listen::open(addresses, default_port).map(|_| ())
}

/// The limits on open files, soft and hard.
pub fn open_files() -> Option<(u64, u64)> {
    getrlimit(Resource::RLIMIT_NOFILE).ok()
}

/// Whether the server, once it is who it will be, can make files in the directory.
///
/// # Errors
/// When the directory cannot be looked at.
pub fn can_write(directory: &Path, identity: &Identity) -> io::Result<bool> {
    match identity {
        Identity::Unchanged => {
            let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
            Ok(faccessat(nix::fcntl::AT_FDCWD, directory, wanted, AtFlags::AT_EACCESS).is_ok())
        }
        Identity::Root => Ok(true),
        Identity::Other { uid, gid, .. } => {
            let metadata = directory.metadata()?;
            let shift = if metadata.uid() == *uid {
                6
            } else if metadata.gid() == *gid {
                3
            } else {
                0
            };
            Ok((metadata.mode() >> shift) & 0o3 == 0o3)
        }
    }
}

/// Whether the clock was set: small hosts without a battery start in 1970, and files would carry that.
pub fn clock_is_set() -> bool {
    const YEAR_2020: u64 = 1_577_836_800;
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .is_ok_and(|since| since.as_secs() >= YEAR_2020)
}
