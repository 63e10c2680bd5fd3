//! thriftpd: an FTP and FTPS server for small hosts that takes a LAN's backups around the clock.
//!
//! Synchronous: one acceptor, a pool of worker threads, one thread a session, no timers while nothing happens. The map
//! of the house, from what a person types down to the disk:
//!
//! | room | what is in it |
//! |---|---|
//! | [`cli`] | one file a subcommand: what a person types and reads |
//! | [`config`] | what may be configured, and every default |
//! | [`server`] | the life of the process: listeners, admission, workers, signals, privileges; knows no protocol |
//! | [`service`] | what every session needs, whatever its protocol: settings, who may come, rates |
//! | [`ftp`] | the FTP front end: control loop, table of verbs, data connections |
//! | [`accounts`] | users and passwords |
//! | [`storage`] | files as one user may see them; knows no protocol and no sockets |
//! | [`tls`] | certificates, and the encrypted side of connections; knows no protocol |
//! | [`os`] | what the operating system offers: waiting, sockets, addresses; nothing of ours |
//! | [`observe`] | log lines and the transfer log |
//!
//! A connection flows so: listener, admission (a slot or a 421), pool, session loop, table, handler, storage and data
//! connection, reply. Every refusal of storage becomes a reply in one function, and so does every end of a transfer.
pub mod accounts;
pub mod cli;
pub mod config;
pub mod ftp;
pub mod observe;
pub mod os;
pub mod server;
pub mod service;
pub mod storage;
pub mod tls;

/// What the unit tests cannot have is said as the others say it.
#[cfg(test)]
#[allow(dead_code)]
#[path = "../tests/common/skips.rs"]
mod skips;
