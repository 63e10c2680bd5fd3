//! The control connection: bytes in become lines, replies become bytes out. Knows no verb.
//!
//! The socket is non-blocking; every wait has a deadline. Replies are collected and go out in one write when nothing
//! more can be done without the client (RFC 959 §5.4 wants them in order, not one by one).
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroize as _;

use super::protocol::line::{Line, LineDecoder};
use super::protocol::reply::Reply;
use crate::os::ending::Ending;
use crate::os::ready::{Want, wait};
use crate::os::stop::Stop;
use crate::tls::{Handshake, HandshakeError, Stream};

/// Replies beyond this go out at once, even when more commands wait.
const FLUSH_AT: usize = 16 * 1024;

/// Input is left in the kernel while this much waits, in bytes of memory.
const ENOUGH_INPUT: usize = 64 * 1024;

/// Bytes of memory that a line takes beside its own.
const LINE: usize = 64;

/// What reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes have arrived, perhaps not a whole line.
    Some,
    /// Nothing at this moment.
    None,
    /// The client has closed its side or the connection broke.
    Closed,
}

fn size(line: &Line) -> usize {
    match line {
        Line::Command(line) => LINE + line.len(),
        Line::TooLong | Line::HoldsNul => LINE,
    }
}

/// The control connection of one session.
#[derive(Debug)]
pub struct Control {
    stream: Stream,
    decoder: LineDecoder,
    /// Whole lines taken out of the decoder to look at them, in order.
    lines: VecDeque<Line>,
    /// Bytes that these take.
    held: usize,
    output: Vec<u8>,
    closed: bool,
    /// Bytes that have come, in all.
    received: u64,
    /// How long a client may take to read its replies.
    patience: Duration,
    /// No wait goes on once others want the session to end.
    ending: Arc<Ending>,
}

impl Control {
    /// Takes over an accepted, non-blocking stream that was made ready. Urgent data (the Synch of RFC 854) is kept in
    /// line, where the decoder removes its Telnet parts.
    pub fn new(stream: Arc<TcpStream>, patience: Duration, ending: Arc<Ending>) -> Self {
        Self {
            stream: Stream::clear(stream),
            decoder: LineDecoder::new(),
            lines: VecDeque::new(),
            held: 0,
            output: Vec::new(),
            closed: false,
            received: 0,
            patience,
            ending,
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.fd()
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// How others end the session.
    pub fn ending(&self) -> &Arc<Ending> {
        &self.ending
    }

    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Whether the client has closed its side.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The next whole line among the bytes that have arrived.
    pub fn next_line(&mut self) -> Option<Line> {
        match self.lines.pop_front() {
            Some(line) => {
                self.held -= size(&line);
                Some(line)
            }
            None => self.decoder.next_line(),
        }
    }

    /// The same, left in place.
    pub fn peek_line(&mut self) -> Option<&Line> {
        if self.lines.is_empty() {
            let line = self.decoder.next_line()?;
            self.hold(line);
        }
        self.lines.front()
    }

    fn hold(&mut self, line: Line) {
        self.held += size(&line);
        self.lines.push_back(line);
    }

    /// Where the first of the lines is that have arrived and satisfy the test.
    fn position(&mut self, test: impl Fn(&Line) -> bool) -> Option<usize> {
        while let Some(line) = self.decoder.next_line() {
            self.hold(line);
        }
        self.lines.iter().position(test)
    }

    /// Whether any of the lines that have arrived satisfies the test.
    pub fn any_line(&mut self, test: impl Fn(&Line) -> bool) -> bool {
        self.position(test).is_some()
    }

    /// Takes out the first of the lines that have arrived and satisfy the test, whatever comes before it. Whether there was one.
    pub fn take_line(&mut self, test: impl Fn(&Line) -> bool) -> bool {
        let found = self.position(test).and_then(|at| self.lines.remove(at));
        self.held -= found.as_ref().map_or(0, size);
        found.is_some()
    }

    /// Whether more input would be read: what a client may have waiting is bounded.
    pub fn has_room(&self) -> bool {
        self.decoder.pending() + self.held < ENOUGH_INPUT
    }

    /// Whether anything has arrived that was not dealt with yet.
    pub fn has_input(&self) -> bool {
        !self.lines.is_empty() || self.decoder.pending() > 0
    }

    /// Bytes of commands that have come since the connection began.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether [`Control::fill`] would bring something that poll(2) does not know of.
    pub fn holds_input(&mut self) -> bool {
        self.stream.holds_input()
    }

    /// Reads what has arrived, without waiting.
    pub fn fill(&mut self) -> Input {
        if self.closed {
            return Input::Closed;
        }
        let mut got = Input::None;
        let mut bytes = [0; 4096];
        while self.has_room() {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.closed = true;
                    // What was sent before the close still counts, a QUIT above all.
                    return if got == Input::Some {
                        Input::Some
                    } else {
                        Input::Closed
                    };
                }
                Ok(length) => {
                    self.decoder.feed(&bytes[..length]);
                    self.received += length as u64;
                    // It may have been a password.
                    bytes[..length].zeroize();
                    got = Input::Some;
                    if length < bytes.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.closed = true;
                    return Input::Closed;
                }
            }
        }
        got
    }

    /// Puts a reply in line to be sent.
    pub fn queue(&mut self, reply: &Reply) {
        reply.encode_into(&mut self.output);
    }

    /// Bytes of replies that are put together piecemeal, such as a long STAT; see `protocol::reply`.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Sends what is queued when it has grown large.
    ///
    /// # Errors
    /// As [`Control::flush`].
    pub fn flush_if_large(&mut self) -> io::Result<()> {
        if self.output.len() >= FLUSH_AT {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// `TimedOut` when the client does not read its replies; else what broke the connection. The queue is empty then.
    pub fn flush(&mut self) -> io::Result<()> {
        let sent = self.send_queued();
        self.output.clear();
        // A long reply is no reason to hold its memory for the rest of the session.
        self.output.shrink_to(FLUSH_AT / 16);
        sent
    }

    fn send_queued(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.stream.write(&self.output[sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_room()?,
                Err(error) => return Err(error),
            }
        }
        loop {
            match self.stream.flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_room()?,
                other => return other,
            }
        }
    }

    fn wait_for_room(&self) -> io::Result<()> {
        let deadline = Instant::now() + self.patience;
        let client = Some((self.stream.fd(), Want::Output));
        let ending = Some((self.ending.fd(), Want::Input));
        match wait([client, ending], Some(deadline))? {
            [client, _] if client.wanted => Ok(()),
            [_, ending] if ending.wanted => Err(ErrorKind::Interrupted.into()),
            _ => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// Lets the handshake run its course; from then on everything is encrypted.
    ///
    /// # Errors
    /// Why there is no encryption; the connection is of no use any more.
    pub fn encrypt(
        &mut self,
        handshake: Handshake,
        stop: &Stop,
        deadline: Instant,
    ) -> Result<(), HandshakeError> {
        let ending = &self.ending;
        handshake.run(&mut self.stream, |fd, want| {
            wait_for_client(fd, want, (stop, ending), deadline).map_err(HandshakeError::Io)
        })
    }

    /// Says close_notify, waits for the client's, and goes on in the clear (RFC 4217 §12.1).
    ///
    /// # Errors
    /// When the client does not say it in time; the connection is of no use any more.
    pub fn stop_encryption(&mut self, stop: &Stop, deadline: Instant) -> io::Result<()> {
        self.flush()?;
        self.stream.close_notify();
        self.flush()?;
        loop {
            match self.stream.stop_encryption() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let others = (stop, &*self.ending);
                    wait_for_client(self.stream.fd(), Want::Input, others, deadline)?;
                }
                other => return other,
            }
        }
    }

    /// Gives back the memory that a burst of commands took.
    pub fn shrink(&mut self) {
        self.decoder.shrink();
        self.stream.shrink();
        if self.lines.is_empty() && self.lines.capacity() > 0 {
            self.lines = VecDeque::new();
        }
    }

    /// Closes the connection in order: what was sent arrives, whatever the client sends now is not read.
    pub fn close(mut self) {
        self.stream.close_notify();
        // What cannot be said without waiting is not said.
        let _ = self.stream.flush();
        let _ = self.stream.socket().shutdown(std::net::Shutdown::Write);
    }
}

/// Until the client is ready, unless the server stops or others end the session.
fn wait_for_client(
    client: BorrowedFd<'_>,
    want: Want,
    (stop, session): (&Stop, &Ending),
    deadline: Instant,
) -> io::Result<()> {
    let ready = wait(
        [
            Some((client, want)),
            Some((stop.draining_fd(), Want::Input)),
            Some((session.fd(), Want::Input)),
        ],
        Some(deadline),
    )?;
    match ready {
        [client, ..] if client.wanted => Ok(()),
        [_, stopping, _] if stopping.wanted => Err(io::Error::new(
            ErrorKind::Interrupted,
            "the server is shutting down",
        )),
        [.., ending] if ending.wanted => Err(io::Error::new(
            ErrorKind::Interrupted,
            session.why().unwrap_or("the session was ended"),
        )),
        _ => Err(io::Error::new(
            ErrorKind::TimedOut,
            "the client did not answer in time",
        )),
    }
}
