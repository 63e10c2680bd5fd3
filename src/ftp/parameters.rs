//! What a client has agreed upon with the server, and what the first of two commands has said for the second. The default of
//! each is what holds behind the greeting, and behind REIN.
use std::time::Duration;

use super::data::open::DataPort;
use super::protocol::facts::Facts;
use crate::storage::VirtualPath;
use crate::storage::integrity::checksum::Algorithm;

/// The representation type (RFC 959 §3.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Representation {
    Ascii,
    /// The default, though it is ASCII in the standard: cameras and scanners that never say TYPE send files as they are.
    #[default]
    Image,
}

/// The parameters of all that follows.
#[derive(Debug, Default)]
pub struct Parameters {
    /// The working directory.
    pub directory: VirtualPath,
    pub representation: Representation,
    pub data_port: DataPort,
    pub facts: Facts,
    /// What HASH computes; OPTS HASH selects it.
    pub algorithm: Algorithm,
    /// The idle time-out that SITE IDLE has set; None: the owner's.
    pub idle: Option<Duration>,
}

/// What a command has said for another one that is to follow.
#[derive(Debug, Default)]
pub struct Steps {
    /// Where the next transfer starts (REST), in bytes.
    pub restart: u64,
    /// The last byte of the next transfer (RANG), where it is not the file's.
    pub range_last: Option<u64>,
    /// What ALLO announced for the next upload, in bytes.
    pub announced: Option<u64>,
    /// What RNFR named; only RNTO may use it.
    pub rename_source: Option<VirtualPath>,
    /// What SITE CPFR named; only SITE CPTO may use it.
    pub copy_source: Option<VirtualPath>,
}
