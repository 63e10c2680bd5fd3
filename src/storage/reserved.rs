//! Names of the server's own files among those of users. Clients neither see nor say them, but for the old versions where
//! those are shown.

/// In each root: what is remembered of it (quota, last uploads). A directory.
pub const STATE: &[u8] = b".thriftpd";

/// In each root: old versions of overwritten files. A directory.
pub const VERSIONS: &[u8] = b".thriftpd-versions";

/// What all other names of ours begin with.
pub const PREFIX: &[u8] = b".thriftpd-";

/// Whether the name is the server's own.
pub fn is_reserved(name: &[u8]) -> bool {
    name == STATE || name.starts_with(PREFIX)
}
