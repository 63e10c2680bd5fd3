//! Receiving over the data connection into an upload.
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

use super::Outcome;
use super::buffers::Buffer;
use super::watch::Watch;
use crate::ftp::protocol::ascii::FromNetwork;
use crate::os::ready::Want;
use crate::os::socket;
use crate::storage::{self, Upload};
use crate::tls::Stream;

/// The pipe that bytes are spliced through; unprivileged users get less when they hold many.
const PIPE: i32 = 1024 * 1024;

/// What is taken in at most of an upload that has ended already, in bytes: more than a socket holds, and soon written.
const MOST_BEHIND_THE_END: usize = 16 * 1024 * 1024;

/// Ends a data connection whose bytes do not become a file, so that the client cannot go on sending in good faith.
pub fn break_off(stream: Stream) {
    socket::break_off(stream.into_socket());
}

/// Brings what comes into an upload, in image or ASCII type.
#[derive(Debug)]
pub struct Receiver {
    text: Option<Text>,
}

/// In ASCII type CRLF becomes the host's end of line.
#[derive(Debug, Default)]
struct Text {
    convert: FromNetwork,
    converted: Vec<u8>,
}

impl Receiver {
    pub fn new(ascii: bool) -> Self {
        Self {
            text: ascii.then(Text::default),
        }
    }

    /// Receives until the client ends the data connection in order. Small files end within the first slice and never pay
    /// for a pipe. The connection stays open: the caller ends it once the fate of the upload is known. Whatever ends the
    /// transfer before, all that was read is in the upload.
    ///
    /// # Errors
    /// What ended the transfer before.
    pub fn receive(
        &mut self,
        stream: &mut Stream,
        upload: &mut Upload,
        watch: &mut Watch<'_>,
    ) -> Result<(), Outcome> {
        let mut buffer = Buffer::take(u64::MAX);
        let first = buffer.len();
        if self.copy(stream, upload, watch, &mut buffer, first)? {
            return Ok(());
        }
        // What has to be opened, converted or looked at passes through memory of ours.
        let as_pages = !stream.is_encrypted() && self.text.is_none() && upload.takes_pages();
        if let Some(pipe) = as_pages.then(Pipe::new).flatten() {
            match pipe.carry(stream, upload, watch)? {
                Carried::All => return Ok(()),
                Carried::NotSupported => {}
            }
        }
        self.copy(stream, upload, watch, &mut buffer, usize::MAX)?;
        Ok(())
    }

    /// Copies at least `enough` bytes or up to the end: whether that has come.
    fn copy(
        &mut self,
        stream: &mut Stream,
        upload: &mut Upload,
        watch: &mut Watch<'_>,
        buffer: &mut [u8],
        enough: usize,
    ) -> Result<bool, Outcome> {
        let mut copied = 0;
        while copied < enough {
            let length = read(stream, buffer, watch)?;
            self.put(&buffer[..length], upload)
                .map_err(Outcome::Storage)?;
            if length == 0 {
                return Ok(true);
            }
            // What was read is written before a look at what may end the transfer: it has come.
            watch.glance()?;
            copied += length;
        }
        Ok(false)
    }

    /// With no bytes: the end.
    fn put(&mut self, bytes: &[u8], upload: &mut Upload) -> Result<(), storage::Error> {
        let Some(Text { convert, converted }) = &mut self.text else {
            return upload.write_all(bytes);
        };
        converted.clear();
        if bytes.is_empty() {
            convert.finish(converted);
        } else {
            convert.convert(bytes, converted);
        }
        upload.write_all(converted)
    }

    /// Takes in what has arrived when the transfer was ended from elsewhere, and waits for nothing: a client that resumes
    /// need not send it again.
    pub fn take_in_what_came(
        &mut self,
        stream: &mut Stream,
        upload: &mut Upload,
        watch: &mut Watch<'_>,
    ) {
        let mut buffer = Buffer::take(u64::MAX);
        let mut taken = 0;
        while taken < MOST_BEHIND_THE_END {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    watch.add(length);
                    taken += length;
                    if self.put(&buffer[..length], upload).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
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
                if length == 0 {
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
