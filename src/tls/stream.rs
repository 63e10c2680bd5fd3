//! A non-blocking connection in the clear or encrypted. `WouldBlock` means what it means on the socket.
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustls::{CommonState, ConnectionTrafficSecrets, HandshakeKind, ProtocolVersion};
use zeroize::Zeroizing;

use super::certificate::all_names;
use super::duplex::Duplex;
use super::inbound::Inbound;
use super::sealing::{Cipher, Sealing};

/// What a handshake ends with.
#[derive(Debug)]
pub enum Encryption {
    Duplex(Box<Duplex>),
    Inbound(Box<Inbound>),
}

impl Encryption {
    fn state(&self) -> &CommonState {
        match self {
            Self::Duplex(duplex) => &duplex.connection,
            Self::Inbound(inbound) => inbound.state(),
        }
    }
}

/// A connection and what encrypts it, if anything does.
#[derive(Debug)]
pub struct Stream {
    socket: Arc<TcpStream>,
    encryption: Option<Encryption>,
}

impl Stream {
    pub fn clear(socket: impl Into<Arc<TcpStream>>) -> Self {
        Self {
            socket: socket.into(),
            encryption: None,
        }
    }

    /// From now on everything is encrypted.
    pub fn encrypt(&mut self, encryption: Encryption) {
        self.encryption = Some(encryption);
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn into_socket(self) -> Arc<TcpStream> {
        self.socket
    }

    /// Whether there are bytes to read that the socket does not know of any more.
    pub fn holds_input(&mut self) -> bool {
        match &mut self.encryption {
            Some(Encryption::Duplex(duplex)) => duplex.holds_input(),
            // Whoever reads from it reads until nothing is left.
            Some(Encryption::Inbound(_)) | None => false,
        }
    }

    pub fn is_encrypted(&self) -> bool {
        self.encryption.is_some()
    }

    /// Protocol and cipher suite, for the log.
    pub fn describe(&self) -> String {
        let Some(encryption) = &self.encryption else {
            return "in the clear".into();
        };
        let connection = encryption.state();
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
        let connection = self.encryption.as_ref()?.state();
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
    pub fn into_sealing(self) -> io::Result<(Arc<TcpStream>, Sealing)> {
        let kind = self.sealing_kind();
        let (Some((tls13, cipher)), Some(Encryption::Duplex(duplex))) = (kind, self.encryption)
        else {
            return Err(ErrorKind::Unsupported.into());
        };
        let secrets = duplex.connection.dangerous_extract_secrets();
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
            encryption.state().handshake_kind() == Some(HandshakeKind::Resumed)
        })
    }

    /// What the client's certificate calls it; empty without one. Only certificates of a configured authority get here.
    pub fn client_names(&self) -> Vec<String> {
        self.encryption
            .as_ref()
            .and_then(|encryption| encryption.state().peer_certificates())
            .and_then(|chain| chain.first())
            .map(all_names)
            .unwrap_or_default()
    }

    /// From now on an end of the connection without close_notify counts as an end of the data.
    pub fn accept_truncation(&mut self) {
        match &mut self.encryption {
            Some(Encryption::Duplex(duplex)) => duplex.accepts_truncation = true,
            Some(Encryption::Inbound(inbound)) => inbound.accepts_truncation = true,
            None => {}
        }
    }

    /// Reads what has arrived; 0 is the end that the client meant.
    ///
    /// # Errors
    /// `WouldBlock`; `UnexpectedEof` when an encrypted connection ends without close_notify (RFC 8446 §6.1: it may have
    /// been truncated); `InvalidData` for records that were not the client's; else those of read(2).
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.encryption {
            None => (&*self.socket).read(buffer),
            Some(Encryption::Duplex(duplex)) => duplex.read(&self.socket, buffer),
            Some(Encryption::Inbound(inbound)) => inbound.read(&self.socket, buffer),
        }
    }

    /// Takes bytes to send: all of them, or as many as there is room for. They may wait here until [`Stream::flush`].
    ///
    /// # Errors
    /// `WouldBlock` when none were taken; else those of write(2).
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.encryption {
            None => (&*self.socket).write(bytes),
            Some(Encryption::Duplex(duplex)) => duplex.write(&self.socket, bytes),
            Some(Encryption::Inbound(_)) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Sends what was taken.
    ///
    /// # Errors
    /// `WouldBlock` while some of it is left; else those of write(2).
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.encryption {
            None => Ok(()),
            Some(Encryption::Duplex(duplex)) => duplex.flush(&self.socket),
            Some(Encryption::Inbound(inbound)) => inbound.flush(&self.socket),
        }
    }

    /// Puts close_notify in line: nothing is written after it. [`Stream::flush`] sends it.
    pub fn close_notify(&mut self) {
        match &mut self.encryption {
            Some(Encryption::Duplex(duplex)) => duplex.connection.send_close_notify(),
            Some(Encryption::Inbound(inbound)) => inbound.close_notify(),
            None => {}
        }
    }

    /// Goes back to the clear on the same connection (RFC 4217 §12.1 CCC), once the client has said its close_notify;
    /// ours is to have been sent. Takes nothing from the socket that comes behind it.
    ///
    /// # Errors
    /// `WouldBlock` until it has come; `UnexpectedEof` when the connection ends; `InvalidData` for what is no record.
    pub fn stop_encryption(&mut self) -> io::Result<()> {
        if let Some(Encryption::Duplex(duplex)) = &mut self.encryption {
            duplex.read_to_close_notify(&self.socket)?;
        }
        self.encryption = None;
        Ok(())
    }

    /// Gives back the memory that reading took.
    pub fn shrink(&mut self) {
        if let Some(Encryption::Duplex(duplex)) = &mut self.encryption {
            duplex.shrink();
        }
    }
}
