//! Receiving over the data connection into an upload.
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

use super::buffers::{self, Buffer};
use super::watch::Watch;
use super::{Outcome, socket};
use crate::ftp::protocol::ascii::FromNetwork;
use crate::server::ready::Want;
use crate::storage::Upload;
use crate::tls::Stream;

/// The pipe that bytes are spliced through; unprivileged users get less when they hold many.
const PIPE: i32 = 1024 * 1024;

/// The same in ASCII type: CRLF becomes the host's end of line.
///
/// # Errors
/// As [`into_upload`].
pub fn ascii_into_upload(
    stream: &mut Stream,
    upload: &mut Upload,
    watch: &mut Watch<'_>,
) -> Result<(), Outcome> {
    let mut convert = FromNetwork::default();
    let mut converted = Vec::new();
    let mut buffer = vec![0; buffers::SIZE / 4];
    loop {
        let length = read(stream, &mut buffer, watch)?;
        converted.clear();
        if length == 0 {
            convert.finish(&mut converted);
        } else {
            convert.convert(&buffer[..length], &mut converted);
        }
        upload.write_all(&converted).map_err(Outcome::Storage)?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Ends a data connection whose bytes do not become a file, so that the client cannot go on sending in good faith.
pub fn break_off(stream: Stream) {
    socket::break_off(stream.into_socket());
}

/// Receives until the client ends the data connection in order. Small files end within the first slice and never pay
/// for a pipe. The connection stays open: the caller ends it once the fate of the upload is known.
///
/// # Errors
/// What ended the transfer before.
pub fn into_upload(
    stream: &mut Stream,
    upload: &mut Upload,
    watch: &mut Watch<'_>,
) -> Result<(), Outcome> {
    let mut buffer = Buffer::take(u64::MAX);
    let mut first = 0;
    while first < buffer.len() {
        let length = read(stream, &mut buffer, watch)?;
        upload
            .write_all(&buffer[..length])
            .map_err(Outcome::Storage)?;
        if length == 0 {
            return Ok(());
        }
        first += length;
    }
    // What has to be opened or looked at passes through memory of ours.
    let as_pages = !stream.is_encrypted() && upload.takes_pages();
    if let Some(pipe) = as_pages.then(Pipe::new).flatten() {
        match pipe.carry(stream, upload, watch)? {
            Carried::All => return Ok(()),
            Carried::NotSupported => {}
        }
    }
    loop {
        let length = read(stream, &mut buffer, watch)?;
        if length == 0 {
            return Ok(());
        }
        upload
            .write_all(&buffer[..length])
            .map_err(Outcome::Storage)?;
    }
}

/// Waits for bytes and reads them; 0 is the end, which is answered at once: a client that says close_notify may wait for
/// ours before it reads the reply.
fn read(stream: &mut Stream, buffer: &mut [u8], watch: &mut Watch<'_>) -> Result<usize, Outcome> {
    loop {
        let slice = watch.slice(buffer.len());
        match stream.read(&mut buffer[..slice]) {
            Ok(length) => {
                watch.add(length);
                if length > 0 {
                    watch.glance()?;
                } else {
                    stream.close_notify();
                    // One small record; when there is no room for it, the client is not waiting for it either.
                    let _ = stream.flush();
                }
                return Ok(length);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                watch.wait(stream.fd(), Want::Input)?
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Outcome::Reset(error)),
        }
    }
}

/// A pipe that pages pass through on their way from the socket to the file.
struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    capacity: usize,
}

enum Carried {
    All,
    /// The file system cannot take pages from a pipe; nothing is left in it.
    NotSupported,
}

impl Pipe {
    /// None when the process has no descriptors to spare; plain copying works without.
    fn new() -> Option<Self> {
        let (output, input) = pipe2(OFlag::O_CLOEXEC).ok()?;
        let granted = fcntl(&input, FcntlArg::F_SETPIPE_SZ(PIPE))
            .or_else(|_| fcntl(&input, FcntlArg::F_GETPIPE_SZ));
        let capacity = usize::try_from(granted.ok()?).ok()?;
        Some(Self {
            output,
            input,
            capacity,
        })
    }

    fn carry(
        &self,
        stream: &mut Stream,
        upload: &mut Upload,
        watch: &mut Watch<'_>,
    ) -> Result<Carried, Outcome> {
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        loop {
            match splice(
                stream.socket(),
                None,
                &self.input,
                None,
                watch.slice(self.capacity),
                flags,
            ) {
                Ok(0) => return Ok(Carried::All),
                Ok(length) => {
                    watch.add(length);
                    if !self.empty_into(length, upload)? {
                        return Ok(Carried::NotSupported);
                    }
                    watch.glance()?;
                }
                Err(Errno::EAGAIN) => watch.wait(stream.fd(), Want::Input)?,
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL | Errno::ENOSYS) => return Ok(Carried::NotSupported),
                Err(errno) => return Err(Outcome::Reset(errno.into())),
            }
        }
    }

    /// Moves what is in the pipe into the file; copies it when it cannot be moved, and says so with false.
    fn empty_into(&self, mut length: usize, upload: &mut Upload) -> Result<bool, Outcome> {
        while length > 0 {
            match upload
                .splice_from(self.output.as_fd(), length)
                .map_err(Outcome::Storage)?
            {
                Some(moved) => length -= moved,
                None => {
                    let mut rest = vec![0; length];
                    let mut taken = 0;
                    while taken < length {
                        match nix::unistd::read(&self.output, &mut rest[taken..]) {
                            Ok(0) => break,
                            Ok(more) => taken += more,
                            Err(Errno::EINTR) => {}
                            Err(errno) => return Err(Outcome::Source(errno.into())),
                        }
                    }
                    upload.write_all(&rest[..taken]).map_err(Outcome::Storage)?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
