//! Whether what is stored is what was sent.
//!
//! | file | subject |
//! |---|---|
//! | `checksum` | checksums of files, and those that are kept with them |
//! | `verify` | reading again what has a stored checksum |
//! | `record` | what was uploaded last, and how much of late |
pub mod checksum;
pub mod record;
pub mod verify;
