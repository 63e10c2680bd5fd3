//! Sending over the data connection: a file without copying it where nothing has to be done to it, or bytes as they are
//! made.
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;

use super::Outcome;
use super::buffers::Buffer;
use super::kernel_tls::{self, Offered};
use super::watch::Watch;
use crate::ftp::protocol::ascii::ToNetwork;
use crate::os::ready::Want;
use crate::os::socket;
use crate::tls::Stream;

/// Bytes a sendfile(2): from 256 KiB on its cost no longer depends on it, and the control connection is looked at
/// in between.
const CHUNK: u64 = 512 * 1024;

/// Bytes read from a file at a time where they have to be converted.
const SLICE: usize = 64 * 1024;

/// Sends the file from `offset` to `end` and closes the connection. An encrypted one is left to the kernel where that is
/// allowed and possible.
pub fn file(
    mut stream: Stream,
    file: &File,
    offset: u64,
    end: u64,
    by_kernel: bool,
    watch: &mut Watch<'_>,
) -> Outcome {
    let mut sealed_by_kernel = false;
    if by_kernel && stream.is_encrypted() {
        stream = match kernel_tls::offer(stream, end.saturating_sub(offset)) {
            Offered::Taken(socket) => {
                sealed_by_kernel = true;
                Stream::clear(socket)
            }
            Offered::Declined(stream) => stream,
            Offered::Lost(error) => return Outcome::Reset(error),
        };
    }
    let outcome = if stream.is_encrypted() {
        copy_range(&mut stream, file, offset, end, watch)
    } else {
        send_range(&mut stream, file, offset, end, watch)
    };
    let outcome = outcome.and_then(|()| match sealed_by_kernel {
        true => kernel_tls::close_notify(stream.socket(), watch),
        false => Ok(()),
    });
    conclude(stream, outcome, watch)
}

fn send_range(
    stream: &mut Stream,
    file: &File,
    offset: u64,
    end: u64,
    watch: &mut Watch<'_>,
) -> Result<(), Outcome> {
    // Files have sizes below 2^63: an offset beyond cannot be in one.
    let mut position = i64::try_from(offset).map_err(|_| Outcome::Shrunk)?;
    let end = i64::try_from(end).map_err(|_| Outcome::Shrunk)?;
    while position < end {
        let left = (end - position).unsigned_abs().min(CHUNK);
        let left = watch.slice(left as usize);
        match sendfile64(stream.socket(), file, Some(&mut position), left) {
            Ok(0) => return Err(Outcome::Shrunk),
            Ok(sent) => {
                watch.add(sent);
                // Behind the last byte there is nothing to interrupt.
                if position < end {
                    watch.glance()?;
                } else {
                    watch.keep_to_rate()?;
                }
            }
            Err(Errno::EAGAIN) => watch.wait(stream.fd(), Want::Output)?,
            Err(Errno::EINTR) => {}
            // File systems that cannot do it (some FUSE ones).
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                return copy_range(
                    stream,
                    file,
                    position.unsigned_abs(),
                    end.unsigned_abs(),
                    watch,
                );
            }
            Err(
                errno @ (Errno::EPIPE | Errno::ECONNRESET | Errno::ETIMEDOUT | Errno::ENOTCONN),
            ) => {
                return Err(Outcome::Reset(errno.into()));
            }
            Err(errno) => return Err(Outcome::Source(errno.into())),
        }
    }
    Ok(())
}

fn copy_range(
    stream: &mut Stream,
    file: &File,
    offset: u64,
    end: u64,
    watch: &mut Watch<'_>,
) -> Result<(), Outcome> {
    let mut buffer = Buffer::take(end.saturating_sub(offset));
    let mut position = offset;
    while position < end {
        let length = read_at(file, &mut buffer, position, end)?;
        all(stream, &buffer[..length], watch)?;
        watch.glance()?;
        position += length as u64;
    }
    Ok(())
}

/// Sends the file in ASCII type (RFC 959 §3.1.1.1) up to `end` and closes the connection.
pub fn file_as_ascii(mut stream: Stream, file: &File, end: u64, watch: &mut Watch<'_>) -> Outcome {
    let outcome = send_converted(&mut stream, file, end, watch);
    conclude(stream, outcome, watch)
}

fn send_converted(
    stream: &mut Stream,
    file: &File,
    end: u64,
    watch: &mut Watch<'_>,
) -> Result<(), Outcome> {
    let mut convert = ToNetwork;
    let mut buffer = vec![0; SLICE];
    let mut converted = Vec::with_capacity(SLICE + SLICE / 8);
    let mut position = 0;
    while position < end {
        let length = read_at(file, &mut buffer, position, end)?;
        converted.clear();
        convert.convert(&buffer[..length], &mut converted);
        all(stream, &converted, watch)?;
        position += length as u64;
    }
    Ok(())
}

/// At least one byte below `end`, or the file has shrunk.
fn read_at(file: &File, buffer: &mut [u8], position: u64, end: u64) -> Result<usize, Outcome> {
    let want = usize::try_from(end - position)
        .unwrap_or(usize::MAX)
        .min(buffer.len());
    loop {
        match file.read_at(&mut buffer[..want], position) {
            Ok(0) => return Err(Outcome::Shrunk),
            Ok(length) => return Ok(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Outcome::Source(error)),
        }
    }
}

/// Sends what `produce` makes until it makes no more, and closes the connection. `produce` adds some to the buffer at
/// each call and says whether there is more.
pub fn produced(
    mut stream: Stream,
    produce: &mut dyn FnMut(&mut Vec<u8>) -> Result<bool, Outcome>,
    watch: &mut Watch<'_>,
) -> Outcome {
    let mut buffer = Vec::with_capacity(SLICE);
    let mut send = || {
        let mut more = true;
        while more {
            buffer.clear();
            while more && buffer.len() < SLICE / 2 {
                more = produce(&mut buffer)?;
            }
            all(&mut stream, &buffer, watch)?;
            if more {
                watch.glance()?;
            }
        }
        Ok(())
    };
    let outcome = send();
    conclude(stream, outcome, watch)
}

fn all(stream: &mut Stream, bytes: &[u8], watch: &mut Watch<'_>) -> Result<(), Outcome> {
    let mut sent = 0;
    while sent < bytes.len() {
        let slice = watch.slice(bytes.len() - sent);
        match stream.write(&bytes[sent..sent + slice]) {
            Ok(0) => return Err(Outcome::Reset(ErrorKind::WriteZero.into())),
            Ok(length) => {
                sent += length;
                watch.add(length);
                watch.keep_to_rate()?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                watch.wait(stream.fd(), Want::Output)?
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Outcome::Reset(error)),
        }
    }
    Ok(())
}

/// A whole transfer ends in order, without lingering; a broken one must not look whole.
fn conclude(mut stream: Stream, outcome: Result<(), Outcome>, watch: &mut Watch<'_>) -> Outcome {
    match outcome.and_then(|()| say_all(&mut stream, watch)) {
        // A connection closed with bytes unread is reset, and the reset can overtake the file. What is read tells, too, whether
        // the client has reset it.
        Ok(()) => match stream.read(&mut [0; 1024]) {
            Err(error) if is_broken(&error) => Outcome::Reset(broken_at_the_end()),
            _ => Outcome::Complete,
        },
        Err(outcome) => {
            socket::break_off(stream.into_socket());
            outcome
        }
    }
}

/// Sends the records that wait yet, and close_notify, by which the client knows that nothing is missing (RFC 8446
/// §6.1). The client's own is not waited for: some say it only after the reply.
fn say_all(stream: &mut Stream, watch: &mut Watch<'_>) -> Result<(), Outcome> {
    stream.close_notify();
    loop {
        match stream.flush() {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                watch.wait(stream.fd(), Want::Output)?;
            }
            Err(error) => return Err(Outcome::Reset(error)),
        }
    }
}

fn is_broken(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    let broken = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected];
    broken.contains(&error.kind())
}

fn broken_at_the_end() -> io::Error {
    io::Error::new(
        ErrorKind::NotConnected,
        "the client reset it before the end",
    )
}
