//! The socket below the encryption.
use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Read as _};
use std::net::TcpStream;

/// An end that anybody on the way could have made (RFC 8446 §6.1).
#[derive(Debug)]
pub struct Truncated;

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it ended without close_notify, so it may have been truncated")
    }
}

impl Error for Truncated {}

pub(super) fn truncated() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, Truncated)
}

/// Whether an error of a stream is that.
pub fn is_truncated(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Truncated>())
}

pub(super) fn read_again(mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
