//! The control connection: bytes in become lines, replies become bytes out. Knows no verb.
//!
//! The socket is non-blocking; every wait has a deadline. Replies are collected and go out in one write when nothing
//! more can be done without the client (RFC 959 §5.4 wants them in order, not one by one).
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::data::socket;
use super::protocol::line::{Line, LineDecoder};
use super::protocol::reply::Reply;
use crate::server::ready::{Want, wait};

/// Replies beyond this go out at once, even when more commands wait.
const FLUSH_AT: usize = 16 * 1024;

/// Input is left in the kernel while this much waits unread.
const ENOUGH_INPUT: usize = 64 * 1024;

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

/// The control connection of one session.
#[derive(Debug)]
pub struct Control {
    stream: TcpStream,
    decoder: LineDecoder,
    /// Whole lines taken out of the decoder to look at them, in order.
    lines: VecDeque<Line>,
    output: Vec<u8>,
    closed: bool,
    /// How long a client may take to read its replies.
    patience: Duration,
}

impl Control {
    /// Takes over an accepted, non-blocking stream. Urgent data (the Synch of RFC 854) is kept in line, where the
    /// decoder removes its Telnet parts.
    pub fn new(stream: TcpStream, patience: Duration) -> Self {
        // A connection that is gone already fails here and then at the first read: nothing to do about it now.
        let _ = socket::prepare_control(&stream);
        Self {
            stream,
            decoder: LineDecoder::new(),
            lines: VecDeque::new(),
            output: Vec::new(),
            closed: false,
            patience,
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
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
        self.lines.pop_front().or_else(|| self.decoder.next_line())
    }

    /// The same, left in place.
    pub fn peek_line(&mut self) -> Option<&Line> {
        if self.lines.is_empty() {
            let line = self.decoder.next_line()?;
            self.lines.push_back(line);
        }
        self.lines.front()
    }

    /// Whether any of the lines that have arrived satisfies the test.
    pub fn any_line(&mut self, test: impl Fn(&Line) -> bool) -> bool {
        while let Some(line) = self.decoder.next_line() {
            self.lines.push_back(line);
        }
        self.lines.iter().any(test)
    }

    /// Reads what has arrived, without waiting.
    pub fn fill(&mut self) -> Input {
        if self.closed {
            return Input::Closed;
        }
        let mut got = Input::None;
        let mut bytes = [0; 4096];
        while self.decoder.pending() < ENOUGH_INPUT {
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
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let deadline = Instant::now() + self.patience;
                    let [ready] =
                        wait([Some((self.stream.as_fd(), Want::Output))], Some(deadline))?;
                    if !ready.wanted {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives back the memory that a burst of commands took.
    pub fn shrink(&mut self) {
        self.decoder.shrink();
        if self.lines.is_empty() && self.lines.capacity() > 0 {
            self.lines = VecDeque::new();
        }
    }

    /// Closes the connection in order: what was sent arrives, whatever the client sends now is not read.
    pub fn close(self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}
