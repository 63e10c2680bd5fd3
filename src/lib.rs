//! thriftpd: an FTP server for small hosts.
pub mod accounts;
pub mod cli;
pub mod config;
pub mod ftp;
pub mod observe;
pub mod server;
pub mod storage;
