//! Encryption both ways, for control connections and downloads.
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;

use rustls::ServerConnection;

use super::socket::{read_again, truncated};

/// Bytes read from the socket at a time.
const SLICE: usize = 4 * 1024;

/// Type, version and length (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;

/// Bytes of records that may wait for the socket: what is written at a time, sealed.
const OUTPUT_LIMIT: usize = 512 * 1024;

/// The state of one connection.
#[derive(Debug)]
pub struct Duplex {
    pub(super) connection: Box<ServerConnection>,
    /// Records as they came from the socket; `unread` of them are to be opened yet.
    records: Vec<u8>,
    unread: Range<usize>,
    /// An error that came behind bytes which had to be handed out first.
    failed: Option<io::Error>,
    /// The end of the connection counts as the end of the data, even unsigned.
    pub(super) accepts_truncation: bool,
}

impl Duplex {
    pub(super) fn new(mut connection: Box<ServerConnection>) -> Self {
        connection.set_buffer_limit(Some(OUTPUT_LIMIT));
        Self {
            connection,
            records: Vec::new(),
            unread: 0..0,
            failed: None,
            accepts_truncation: false,
        }
    }

    pub(super) fn holds_input(&mut self) -> bool {
        let state = self.connection.process_new_packets();
        !self.unread.is_empty() || state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Reads record by record, so that the byte behind the last one stays in the socket.
    pub(super) fn read_to_close_notify(&mut self, socket: &TcpStream) -> io::Result<()> {
        self.records.truncate(self.unread.end);
        self.records.drain(..self.unread.start);
        self.unread = 0..0;
        loop {
            let have = self.records.len();
            let wanted = match *self.records {
                [_, _, _, high, low, ..] => {
                    RECORD_HEADER + usize::from(u16::from_be_bytes([high, low]))
                }
                _ => RECORD_HEADER,
            };
            if have < wanted {
                self.records.resize(wanted, 0);
                let read = read_again(socket, &mut self.records[have..]);
                self.records.truncate(have + *read.as_ref().unwrap_or(&0));
                if read? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                continue;
            }
            if wanted == RECORD_HEADER {
                return Err(ErrorKind::InvalidData.into());
            }
            let mut record = &self.records[..wanted];
            while !record.is_empty() && self.connection.read_tls(&mut record)? > 0 {
                let state = self.connection.process_new_packets();
                let state = state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                // What was said before the end is not listened to any more.
                let mut ignored = vec![0; state.plaintext_bytes_to_read()];
                self.connection.reader().read_exact(&mut ignored)?;
                if state.peer_has_closed() {
                    return Ok(());
                }
            }
            self.records.drain(..wanted);
        }
    }

    pub(super) fn read(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut filled = 0;
        while filled < buffer.len() {
            let opened = match self.connection.reader().read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => {
                    filled += length;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.open_more(socket),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    if self.accepts_truncation {
                        break;
                    }
                    Err(truncated())
                }
                Err(error) => Err(error),
            };
            match opened {
                Ok(()) => {}
                Err(error) if filled == 0 => return Err(error),
                // What came before is handed out first; would-block is found again by itself.
                Err(error) => {
                    if error.kind() != ErrorKind::WouldBlock {
                        self.failed = Some(error);
                    }
                    break;
                }
            }
        }
        Ok(filled)
    }

    /// Opens records until there is something in them, reading from the socket when all are opened.
    fn open_more(&mut self, socket: &TcpStream) -> io::Result<()> {
        if self.unread.is_empty() {
            self.records.resize(SLICE, 0);
            let length = read_again(socket, &mut self.records)?;
            self.unread = 0..length;
            if length == 0 {
                self.connection.read_tls(&mut io::empty())?;
                return Ok(());
            }
        }
        while !self.unread.is_empty() {
            let taken = self
                .connection
                .read_tls(&mut &self.records[self.unread.clone()])?;
            if taken == 0 {
                // After close_notify nothing is taken any more, and nothing counts.
                self.unread = 0..0;
                break;
            }
            self.unread.start += taken;
            let state = self.connection.process_new_packets();
            if self.connection.wants_write() {
                // An alert, or the answer to a change of keys; what does not fit goes with the next bytes.
                let _ = self.flush(socket);
            }
            let state = state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn flush(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn write(&mut self, socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        let taken = self.connection.writer().write(bytes)?;
        match self.flush(socket) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Gives back the memory that reading took.
    pub(super) fn shrink(&mut self) {
        if self.unread.is_empty() {
            self.records = Vec::new();
        }
    }
}
