//! Encryption of uploads: large reads from the socket, opened where they lie. What is sent is only what the protocol asks
//! for.
use std::fmt;
use std::io::{self, ErrorKind, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;

use rustls::server::{ServerConfig, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};
use rustls::{CommonState, Error};

use super::socket::{read_again, truncated};

/// Bytes read from the socket at a time, and room for what is left of the record before.
const SLICE: usize = 256 * 1024 + 32 * 1024;

/// The state of one connection.
pub struct Inbound {
    connection: UnbufferedServerConnection,
    /// Records as they came from the socket; `unread` of them are to be opened yet.
    records: Vec<u8>,
    unread: Range<usize>,
    /// Sealed, to be sent.
    output: Vec<u8>,
    /// Opened, and no room was left for it where it was to go.
    rest: Vec<u8>,
    /// The client has said close_notify.
    closed: bool,
    /// An error that came behind bytes which had to be handed out first.
    failed: Option<io::Error>,
    /// The end of the connection counts as the end of the data, even unsigned.
    pub(super) accepts_truncation: bool,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("unread", &self.unread)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Inbound {
    /// Begins with what the client has sent so far.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub(super) fn new(config: Arc<ServerConfig>, received: &[u8]) -> Result<Self, Error> {
        let mut records = vec![0; SLICE.max(received.len())];
        records[..received.len()].copy_from_slice(received);
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            records,
            unread: 0..received.len(),
            output: Vec::new(),
            rest: Vec::new(),
            closed: false,
            failed: None,
            accepts_truncation: false,
        })
    }

    pub(super) fn state(&self) -> &CommonState {
        &self.connection
    }

    /// Opens what has arrived, into the buffer and beyond it into `rest`: the bytes that there are now, and whether the
    /// handshake is over.
    ///
    /// # Errors
    /// What was wrong with the records; the alert for the client is among the output.
    pub(super) fn open(&mut self, buffer: &mut [u8]) -> Result<(usize, bool), Error> {
        let mut filled = 0;
        while buffer.is_empty() || filled < buffer.len() {
            let unread = &mut self.records[self.unread.clone()];
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(unread);
            let mut over = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        let fits = record.payload.len().min(buffer.len() - filled);
                        let (now, later) = record.payload.split_at(fits);
                        buffer[filled..filled + fits].copy_from_slice(now);
                        filled += fits;
                        self.rest.extend_from_slice(later);
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.output, &mut data);
                }
                // It is in the output, and goes out before anything is waited for.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.closed = true;
                    over = Some(true);
                }
                Ok(ConnectionState::WriteTraffic(_)) => over = Some(true),
                Ok(ConnectionState::BlockedHandshake) => over = Some(false),
                Ok(_) => return Err(Error::General("an unexpected state of TLS".into())),
                Err(error) => {
                    self.unread.start += discard;
                    self.encode_alert();
                    return Err(error);
                }
            }
            self.unread.start += discard;
            if let Some(over) = over {
                return Ok((filled, over));
            }
        }
        Ok((filled, true))
    }

    fn encode_alert(&mut self) {
        while let Ok(ConnectionState::EncodeTlsData(mut data)) =
            self.connection.process_tls_records(&mut []).state
        {
            encode(&mut self.output, &mut data);
        }
    }

    /// Reads from the socket; 0 is its end.
    ///
    /// # Errors
    /// `WouldBlock`; else those of read(2).
    pub(super) fn fill(&mut self, socket: &TcpStream) -> io::Result<usize> {
        self.records.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let room = &mut self.records[self.unread.end..];
        if room.is_empty() {
            return Err(ErrorKind::InvalidData.into());
        }
        let length = read_again(socket, room)?;
        self.unread.end += length;
        Ok(length)
    }

    pub(super) fn read(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut filled = self.rest.len().min(buffer.len());
        buffer[..filled].copy_from_slice(&self.rest[..filled]);
        self.rest.drain(..filled);
        while filled < buffer.len() && !self.closed {
            let more = self.open_more(socket, &mut buffer[filled..]);
            match more {
                Ok(length) => filled += length,
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

    fn open_more(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let opened = self.open(buffer);
        // An alert, or the answer to a change of keys; what does not fit goes out later.
        let _ = self.flush(socket);
        let (length, _) = opened.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        if length > 0 || self.closed {
            return Ok(length);
        }
        if self.fill(socket)? == 0 {
            if !self.accepts_truncation {
                return Err(truncated());
            }
            self.closed = true;
        }
        Ok(0)
    }

    /// Sends what is to be sent.
    ///
    /// # Errors
    /// `WouldBlock` while some of it is left; else those of write(2).
    pub(super) fn flush(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        while !self.output.is_empty() {
            match socket.write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Puts close_notify in line. Records that have not been opened yet do not count any more.
    pub(super) fn close_notify(&mut self) {
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut []).state
        {
            append(&mut self.output, |room| {
                match traffic.queue_close_notify(room) {
                    Err(EncryptError::InsufficientSize(size)) => Err(Some(size.required_size)),
                    Err(EncryptError::EncryptExhausted) => Err(None),
                    Ok(length) => Ok(length),
                }
            });
        }
    }
}

fn encode(output: &mut Vec<u8>, data: &mut EncodeTlsData<'_, ServerConnectionData>) {
    append(output, |room| match data.encode(room) {
        Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
        Err(_) => Err(None),
        Ok(length) => Ok(length),
    });
}

/// Lets `encode` write behind what is there; the error is the room it needs, or none where it never will.
fn append(output: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>) {
    let start = output.len();
    let mut room = 1024;
    // Told how much it needs, it needs no more.
    for _ in 0..2 {
        output.resize(start + room, 0);
        match encode(&mut output[start..]) {
            Ok(length) => {
                output.truncate(start + length);
                return;
            }
            Err(Some(needed)) => room = needed,
            Err(None) => break,
        }
    }
    output.truncate(start);
}
