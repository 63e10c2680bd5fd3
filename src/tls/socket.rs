//! The socket below the encryption.
use std::io::{self, ErrorKind, Read as _};
use std::net::TcpStream;

/// The error of an end that anybody on the way could have made.
pub(super) fn truncated() -> io::Error {
    io::Error::new(
        ErrorKind::UnexpectedEof,
        "it ended without close_notify, so it may have been truncated",
    )
}

pub(super) fn read_again(mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
