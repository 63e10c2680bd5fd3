//! What surrounds the server, as far as it can be looked at beforehand.
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

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
        Identity::Root => Ok(true),
        other => may(directory, other, AccessFlags::W_OK | AccessFlags::X_OK, 0o3),
    }
}

/// Whether the server, once it is who it will be, can run the program.
///
/// # Errors
/// When the program cannot be looked at, above all where there is none.
pub fn can_run(program: &Path, identity: &Identity) -> io::Result<bool> {
    let metadata = program.metadata()?;
    if !metadata.is_file() {
        return Ok(false);
    }
    match identity {
        // Root may do everything but this.
        Identity::Root => Ok(metadata.mode() & 0o111 != 0),
        other => may(program, other, AccessFlags::X_OK, 0o1),
    }
}

/// Whether all of these bits are set for the server, which is not root.
fn may(path: &Path, identity: &Identity, wanted: AccessFlags, bits: u32) -> io::Result<bool> {
    match identity {
        Identity::Unchanged | Identity::Root => {
            Ok(faccessat(nix::fcntl::AT_FDCWD, path, wanted, AtFlags::AT_EACCESS).is_ok())
        }
        Identity::Other { uid, gid, .. } => {
            let metadata = path.metadata()?;
            let shift = if metadata.uid() == *uid {
                6
            } else if metadata.gid() == *gid {
                3
            } else {
                0
            };
            Ok((metadata.mode() >> shift) & bits == bits)
        }
    }
}
