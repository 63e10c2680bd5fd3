//! A non-blocking connection in the clear or encrypted. `WouldBlock` means what it means on the socket.
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustls::{ConnectionTrafficSecrets, HandshakeKind, ProtocolVersion, ServerConnection};
use zeroize::Zeroizing;

use super::certificate::all_names;
use super::handshake::Purpose;

/// Bytes read from the socket at a time.
const CONTROL_SLICE: usize = 4 * 1024;
const DATA_SLICE: usize = 256 * 1024;

/// Type, version and length (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;

/// Bytes of records that may wait for the socket: what is written at a time, sealed.
const OUTPUT_LIMIT: usize = 512 * 1024;

/// A connection and what encrypts it, if anything does.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    encryption: Option<Box<Encryption>>,
}

/// Ciphers by which records are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// What it takes to seal what is sent from now on. Not to be shown to anybody but the kernel.
pub struct Sealing {
    /// TLS 1.3; else 1.2.
    pub tls13: bool,
    pub cipher: Cipher,
    pub key: Zeroizing<Vec<u8>>,
    pub iv: [u8; 12],
    /// The number of the next record.
    pub sequence: u64,
}

impl Sealing {
    /// Of the right form, for trying out.
    pub fn of_no_secret(tls13: bool, cipher: Cipher) -> Self {
        let length = if cipher == Cipher::Aes128Gcm { 16 } else { 32 };
        Self {
            tls13,
            cipher,
            key: Zeroizing::new(vec![0; length]),
            iv: [0; 12],
            sequence: 0,
        }
    }
}

/// What a handshake ends with.
#[derive(Debug)]
pub struct Encryption {
    connection: Box<ServerConnection>,
    /// Records as they came from the socket; `unread` of them are to be opened yet.
    records: Vec<u8>,
    unread: Range<usize>,
    slice: usize,
    /// An error that came behind bytes which had to be handed out first.
    failed: Option<io::Error>,
    /// The end of the connection counts as the end of the data, even unsigned.
    accepts_truncation: bool,
}

impl Stream {
    pub fn clear(socket: TcpStream) -> Self {
        Self {
            socket,
            encryption: None,
        }
    }

    /// From now on everything is encrypted.
    pub fn encrypt(&mut self, encryption: Encryption) {
        self.encryption = Some(Box::new(encryption));
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Whether there are bytes to read that the socket does not know of any more.
    pub fn holds_input(&mut self) -> bool {
        self.encryption
            .as_mut()
            .is_some_and(|encryption| encryption.holds_input())
    }

    pub fn is_encrypted(&self) -> bool {
        self.encryption.is_some()
    }

    /// Protocol and cipher suite, for the log.
    pub fn describe(&self) -> String {
        let Some(encryption) = &self.encryption else {
            return "in the clear".into();
        };
        let connection = &encryption.connection;
        let version = connection
            .protocol_version()
            .and_then(|version| version.as_str());
        let suite = connection.negotiated_cipher_suite();
        format!(
            "{} {:?}",
            version.unwrap_or("TLS"),
            suite
                .map(|suite| suite.suite())
                .unwrap_or(rustls::CipherSuite::Unknown(0))
        )
    }

    /// Version (whether it is 1.3) and cipher of what is sent; None where it is in the clear, or must stay as it is.
    pub fn sealing_kind(&self) -> Option<(bool, Cipher)> {
        let connection = &self.encryption.as_ref()?.connection;
        let settled = !connection.is_handshaking() && !connection.wants_write();
        let tls13 = connection.protocol_version()? == ProtocolVersion::TLSv1_3;
        let suite = connection.negotiated_cipher_suite()?.suite();
        let name = suite.as_str().filter(|_| settled)?;
        let ciphers = [
            ("AES_128_GCM", Cipher::Aes128Gcm),
            ("AES_256_GCM", Cipher::Aes256Gcm),
            ("CHACHA20_POLY1305", Cipher::ChaCha20Poly1305),
        ];
        let known = ciphers.iter().find(|(part, _)| name.contains(part))?;
        Some((tls13, known.1))
    }

    /// The socket and what seals it. Nothing more can be read from it than records.
    ///
    /// # Errors
    /// When it is in the clear, or rustls keeps the keys.
    pub fn into_sealing(self) -> io::Result<(TcpStream, Sealing)> {
        let kind = self.sealing_kind();
        let (Some((tls13, cipher)), Some(encryption)) = (kind, self.encryption) else {
            return Err(ErrorKind::Unsupported.into());
        };
        let secrets = encryption.connection.dangerous_extract_secrets();
        let (sequence, secrets) = secrets.map_err(io::Error::other)?.tx;
        let (key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
            _ => return Err(ErrorKind::Unsupported.into()),
        };
        let unfit = |_| io::Error::from(ErrorKind::Unsupported);
        let sealing = Sealing {
            tls13,
            cipher,
            key: Zeroizing::new(key.as_ref().to_vec()),
            iv: iv.as_ref().try_into().map_err(unfit)?,
            sequence,
        };
        Ok((self.socket, sealing))
    }

    /// Whether the client resumed a TLS session; on a data connection that can only be its control connection's.
    pub fn is_resumed(&self) -> bool {
        self.encryption.as_ref().is_some_and(|encryption| {
            encryption.connection.handshake_kind() == Some(HandshakeKind::Resumed)
        })
    }

    /// What the client's certificate calls it; empty without one. Only certificates of a configured authority get here.
    pub fn client_names(&self) -> Vec<String> {
        self.encryption
            .as_ref()
            .and_then(|encryption| encryption.connection.peer_certificates())
            .and_then(|chain| chain.first())
            .map(all_names)
            .unwrap_or_default()
    }

    /// From now on an end of the connection without close_notify counts as an end of the data.
    pub fn accept_truncation(&mut self) {
        if let Some(encryption) = &mut self.encryption {
            encryption.accepts_truncation = true;
        }
    }

    /// Reads what has arrived; 0 is the end that the client meant.
    ///
    /// # Errors
    /// `WouldBlock`; `UnexpectedEof` when an encrypted connection ends without close_notify (RFC 8446 §6.1: it may have
    /// been truncated); `InvalidData` for records that were not the client's; else those of read(2).
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.encryption {
            None => (&self.socket).read(buffer),
            Some(encryption) => encryption.read(&self.socket, buffer),
        }
    }

    /// Takes bytes to send: all of them, or as many as there is room for. They may wait here until [`Stream::flush`].
    ///
    /// # Errors
    /// `WouldBlock` when none were taken; else those of write(2).
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(encryption) = &mut self.encryption else {
            return (&self.socket).write(bytes);
        };
        encryption.flush(&self.socket)?;
        let taken = encryption.connection.writer().write(bytes)?;
        match encryption.flush(&self.socket) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends what was taken.
    ///
    /// # Errors
    /// `WouldBlock` while some of it is left; else those of write(2).
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.encryption {
            None => Ok(()),
            Some(encryption) => encryption.flush(&self.socket),
        }
    }

    /// Puts close_notify in line: nothing is written after it. [`Stream::flush`] sends it.
    pub fn close_notify(&mut self) {
        if let Some(encryption) = &mut self.encryption {
            encryption.connection.send_close_notify();
        }
    }

    /// Goes back to the clear on the same connection (RFC 4217 §12.1 CCC), once the client has said its close_notify;
    /// ours is to have been sent. Takes nothing from the socket that comes behind it.
    ///
    /// # Errors
    /// `WouldBlock` until it has come; `UnexpectedEof` when the connection ends; `InvalidData` for what is no record.
    pub fn stop_encryption(&mut self) -> io::Result<()> {
        if let Some(encryption) = &mut self.encryption {
            encryption.read_to_close_notify(&self.socket)?;
        }
        self.encryption = None;
        Ok(())
    }

    /// Gives back the memory that reading took.
    pub fn shrink(&mut self) {
        if let Some(encryption) = &mut self.encryption {
            if encryption.unread.is_empty() {
                encryption.records = Vec::new();
            }
        }
    }
}

impl Encryption {
    pub(super) fn new(mut connection: Box<ServerConnection>, purpose: Purpose) -> Self {
        connection.set_buffer_limit(Some(OUTPUT_LIMIT));
        let slice = match purpose {
            Purpose::Receiving => DATA_SLICE,
            Purpose::Control | Purpose::Sending => CONTROL_SLICE,
        };
        Self {
            connection,
            records: Vec::new(),
            unread: 0..0,
            slice,
            failed: None,
            accepts_truncation: false,
        }
    }

    fn holds_input(&mut self) -> bool {
        let state = self.connection.process_new_packets();
        !self.unread.is_empty() || state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Reads record by record, so that the byte behind the last one stays in the socket.
    fn read_to_close_notify(&mut self, socket: &TcpStream) -> io::Result<()> {
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

    fn read(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
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
                    Err(io::Error::new(
                        ErrorKind::UnexpectedEof,
                        "it ended without close_notify, so it may have been truncated",
                    ))
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
            self.records.resize(self.slice, 0);
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

    fn flush(&mut self, mut socket: &TcpStream) -> io::Result<()> {
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
}

fn read_again(mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
