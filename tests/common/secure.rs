//! A raw FTP client over TLS: the same bytes as the test says, encrypted. Its tickets are used once each, as the standard
//! wants it (RFC 8446 §C.4).

use super::client::patient;
use super::{PASSWORD, PATIENCE, Reply, Server, USER, data_connection};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Both versions of the protocol.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Believes every certificate: what is tested is the server.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A client that speaks this version, without a certificate of its own, and resumes its sessions.
pub fn client_config(version: &'static SupportedProtocolVersion) -> ClientConfig {
    client_config_of(version, rustls::crypto::ring::default_provider())
}

/// The same with its cipher suites in this order.
pub fn client_config_of(
    version: &'static SupportedProtocolVersion,
    provider: CryptoProvider,
) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(64);
    config
}

/// The same with a certificate.
pub fn client_config_with(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(chain, key)
        .unwrap()
}

/// Encrypts a connection; the error is what the handshake ended with.
pub fn handshake(
    config: &Arc<ClientConfig>,
    name: &str,
    mut stream: TcpStream,
) -> std::io::Result<TlsStream> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// Says close_notify and nothing more.
pub fn close_notify(data: &mut TlsStream) {
    data.conn.send_close_notify();
    data.flush().unwrap();
}

/// An encrypted control connection.
pub struct Secure {
    reader: BufReader<TlsStream>,
    pub config: Arc<ClientConfig>,
    server: SocketAddr,
}

impl Secure {
    /// AUTH TLS on a connection that has read the greeting.
    #[track_caller]
    pub fn explicit(server: &Server, config: ClientConfig) -> Self {
        Self::explicit_as(server, &Arc::new(config), "localhost")
    }

    /// The same, asking for a name.
    #[track_caller]
    pub fn explicit_as(server: &Server, config: &Arc<ClientConfig>, name: &str) -> Self {
        let mut client = server.connect();
        client.expect("AUTH TLS", 234);
        let stream = handshake(config, name, client.into_stream()).unwrap();
        Self::over(stream, Arc::clone(config), server.address())
    }

    /// TLS from the first byte; reads the greeting.
    #[track_caller]
    pub fn implicit(address: SocketAddr, config: ClientConfig) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        patient(&stream);
        let config = Arc::new(config);
        let stream = handshake(&config, "localhost", stream).unwrap();
        let mut secure = Self::over(stream, config, address);
        secure.reply().expect(220);
        secure
    }

    /// Goes on over a connection that has just been encrypted.
    pub fn over_stream(stream: TlsStream, config: Arc<ClientConfig>, server: SocketAddr) -> Self {
        Self::over(stream, config, server)
    }

    fn over(stream: TlsStream, config: Arc<ClientConfig>, server: SocketAddr) -> Self {
        Self {
            reader: BufReader::new(stream),
            config,
            server,
        }
    }

    /// Logged in, with encrypted data connections and the image type.
    #[track_caller]
    pub fn client(server: &Server, config: ClientConfig) -> Self {
        let mut client = Self::explicit(server, config);
        client.login();
        client.protect();
        client.expect("TYPE I", 200);
        client
    }

    #[track_caller]
    pub fn login(&mut self) {
        self.expect(format!("USER {USER}"), 331);
        self.expect(format!("PASS {PASSWORD}"), 230);
    }

    #[track_caller]
    pub fn protect(&mut self) {
        self.expect("PBSZ 0", 200);
        self.expect("PROT P", 200);
    }

    pub fn connection(&self) -> &ClientConnection {
        &self.reader.get_ref().conn
    }

    /// Ends the connection in order.
    pub fn close_notify(self) {
        close_notify(&mut self.reader.into_inner());
    }

    pub fn stream(&self) -> &TcpStream {
        &self.reader.get_ref().sock
    }

    #[track_caller]
    pub fn send(&mut self, line: impl AsRef<[u8]>) {
        let mut bytes = line.as_ref().to_vec();
        bytes.extend_from_slice(b"\r\n");
        let stream = self.reader.get_mut();
        stream.write_all(&bytes).unwrap();
        stream.flush().unwrap();
    }

    /// One reply; None at the end of the connection.
    #[track_caller]
    pub fn reply_or_end(&mut self) -> Option<Reply> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut line = Vec::new();
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            assert!(
                line.ends_with(b"\r\n"),
                "{:?}",
                String::from_utf8_lossy(&line)
            );
            line.truncate(line.len() - 2);
            let code = std::str::from_utf8(&line[..3]).unwrap_or_default().parse();
            let last = line.get(3) == Some(&b' ') && code.is_ok();
            lines.push(line);
            if last {
                return code.ok().map(|code| Reply { code, lines });
            }
        }
    }

    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.reply_or_end()
            .expect("the connection ended instead of a reply")
    }

    #[track_caller]
    pub fn command(&mut self, line: impl AsRef<[u8]>) -> Reply {
        self.send(line);
        self.reply()
    }

    #[track_caller]
    pub fn expect(&mut self, line: impl AsRef<[u8]>, code: u16) -> Reply {
        let line = line.as_ref();
        let reply = self.command(line);
        assert_eq!(
            reply.code,
            code,
            "{:?}: {}",
            String::from_utf8_lossy(line),
            reply.text()
        );
        reply
    }

    /// A passive data connection, in the clear yet.
    #[track_caller]
    pub fn epsv(&mut self) -> TcpStream {
        let reply = self.expect("EPSV", 229).text();
        let port = reply[reply.find("(|||").unwrap() + 4..reply.find("|)").unwrap()]
            .parse()
            .unwrap();
        data_connection(SocketAddr::new(self.server.ip(), port))
    }

    /// The encrypted data connection of a command that has been sent, once 150 has come.
    #[track_caller]
    pub fn open(&mut self, line: impl AsRef<[u8]>) -> TlsStream {
        let data = self.epsv();
        self.expect(line, 150);
        handshake(&self.config, "localhost", data).unwrap()
    }

    /// RETR or a listing; the bytes, which end with close_notify, and the final reply.
    #[track_caller]
    pub fn download(&mut self, line: impl AsRef<[u8]>) -> (Vec<u8>, Reply) {
        let mut data = self.open(line);
        let mut bytes = Vec::new();
        // rustls fails the read of what ends without close_notify.
        data.read_to_end(&mut bytes).unwrap();
        close_notify(&mut data);
        (bytes, self.reply())
    }

    /// STOR, APPE or STOU, ended with close_notify; the final reply.
    #[track_caller]
    pub fn upload(&mut self, line: impl AsRef<[u8]>, bytes: &[u8]) -> Reply {
        let mut data = self.open(line);
        data.write_all(bytes).unwrap();
        close_notify(&mut data);
        // The server says it too.
        assert_eq!(data.read(&mut [0]).unwrap(), 0);
        drop(data);
        self.reply()
    }

    /// The same with commands in the clear in one packet with close_notify; the first of their replies.
    #[track_caller]
    pub fn clear_with(self, commands: &[u8]) -> (super::Client, Reply) {
        let mut stream = self.reader.into_inner();
        let mut bytes = Vec::new();
        stream.conn.send_close_notify();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut bytes).unwrap();
        }
        bytes.extend(commands);
        stream.sock.write_all(&bytes).unwrap();
        // The server's close_notify lies before its clear replies: taken alone, unless it came with what was read.
        let closed = stream.conn.process_new_packets().unwrap().peer_has_closed();
        if !closed {
            let mut header = [0; 5];
            stream.sock.read_exact(&mut header).unwrap();
            let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            stream.sock.read_exact(&mut body).unwrap();
        }
        let mut client = super::Client::over_stream(stream.sock, self.server);
        let reply = client.reply();
        (client, reply)
    }

    /// Ends the encryption of the control connection as CCC and REIN do, and goes on in the clear.
    pub fn into_clear(self) -> super::Client {
        let mut stream = self.reader.into_inner();
        close_notify(&mut stream);
        assert_eq!(
            stream.read(&mut [0]).unwrap(),
            0,
            "the server says close_notify"
        );
        super::Client::over_stream(stream.sock, self.server)
    }
}
