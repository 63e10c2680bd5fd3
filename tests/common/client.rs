//! A raw FTP client: it sends exactly the bytes a test says and shows each reply as it came.

use super::{PASSWORD, PATIENCE, USER};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

/// One reply, RFC 959 §4.2.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    /// The lines as they came, without CRLF.
    pub lines: Vec<Vec<u8>>,
}

impl Reply {
    /// Fails unless the reply has this code.
    #[track_caller]
    pub fn expect(self, code: u16) -> Self {
        assert_eq!(self.code, code, "unexpected reply: {}", self.text());
        self
    }

    /// Fails unless the reply has one of these codes.
    #[track_caller]
    pub fn expect_one_of(self, codes: &[u16]) -> Self {
        assert!(
            codes.contains(&self.code),
            "expected one of {codes:?}: {}",
            self.text()
        );
        self
    }

    /// All lines, for messages and searches.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines.join(&b'\n')).into_owned()
    }

    /// Fails unless the text holds `part`, whatever the case.
    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        assert!(
            self.text().to_lowercase().contains(&part.to_lowercase()),
            "no {part:?} in: {}",
            self.text()
        );
        self
    }

    /// What follows the code on the last line.
    pub fn last(&self) -> &[u8] {
        &self.lines[self.lines.len() - 1][4..]
    }
}

/// A control connection.
pub struct Client {
    reader: BufReader<TcpStream>,
    server: SocketAddr,
}

impl Client {
    #[track_caller]
    pub fn connect(server: SocketAddr) -> Self {
        Self::over(
            TcpStream::connect_timeout(&server, PATIENCE).unwrap(),
            server,
        )
    }

    /// Connects from this local address.
    #[track_caller]
    pub fn connect_from(from: IpAddr, server: SocketAddr) -> Self {
        Self::over(connect_from(SocketAddr::new(from, 0), server), server)
    }

    /// Goes on with a connection that has been used before.
    pub fn over_stream(stream: TcpStream, server: SocketAddr) -> Self {
        Self::over(stream, server)
    }

    /// The socket; what was read ahead is lost.
    pub fn into_stream(self) -> TcpStream {
        self.reader.into_inner()
    }

    fn over(stream: TcpStream, server: SocketAddr) -> Self {
        patient(&stream);
        stream.set_nodelay(true).unwrap();
        Self {
            reader: BufReader::new(stream),
            server,
        }
    }

    /// The socket itself.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends these bytes and nothing more.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a line with its CRLF.
    #[track_caller]
    pub fn send(&mut self, line: impl AsRef<[u8]>) {
        let mut bytes = line.as_ref().to_vec();
        bytes.extend_from_slice(b"\r\n");
        self.send_raw(bytes);
    }

    /// Reads one line without its CRLF; None at the end of the connection.
    #[track_caller]
    fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            other => other.expect("the server answers"),
        };
        assert!(
            line.ends_with(b"\r\n"),
            "every line ends in CRLF: {:?}",
            String::from_utf8_lossy(&line)
        );
        line.truncate(line.len() - 2);
        assert!(
            !line.contains(&b'\r') && !line.contains(&0),
            "no CR or NUL in: {line:?}"
        );
        Some(line)
    }

    /// Reads one reply; None when the connection has ended.
    #[track_caller]
    pub fn reply_or_end(&mut self) -> Option<Reply> {
        let first = self.line()?;
        let code = std::str::from_utf8(&first[..3.min(first.len())])
            .ok()
            .and_then(|code| code.parse().ok());
        let code: u16 =
            code.unwrap_or_else(|| panic!("not a reply: {:?}", String::from_utf8_lossy(&first)));
        let several = first.get(3) == Some(&b'-');
        assert!(
            several || first.get(3) == Some(&b' '),
            "not a reply: {:?}",
            String::from_utf8_lossy(&first)
        );
        let last = format!("{code:03} ").into_bytes();
        let mut lines = vec![first];
        while several && !(lines.len() > 1 && lines[lines.len() - 1].starts_with(&last)) {
            lines.push(self.line().expect("the rest of the reply"));
        }
        Some(Reply { code, lines })
    }

    /// Reads one reply.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.reply_or_end()
            .expect("the connection ended instead of a reply")
    }

    /// Reads one reply behind any Telnet answers (IAC WONT or DONT and an option, RFC 854).
    #[track_caller]
    pub fn reply_past_telnet(&mut self) -> Reply {
        while self.reader.fill_buf().unwrap().first() == Some(&0xff) {
            self.reader.read_exact(&mut [0; 3]).unwrap();
        }
        self.reply()
    }

    /// Whether a reply, or part of one, has already arrived.
    pub fn has_reply_waiting(&mut self) -> bool {
        if !self.reader.buffer().is_empty() {
            return true;
        }
        let stream = self.reader.get_ref();
        stream.set_nonblocking(true).unwrap();
        let waiting = stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
        stream.set_nonblocking(false).unwrap();
        waiting
    }

    /// Sends a command and reads its reply.
    #[track_caller]
    pub fn command(&mut self, line: impl AsRef<[u8]>) -> Reply {
        self.send(line);
        self.reply()
    }

    /// Sends a command; fails unless it is answered with this code.
    #[track_caller]
    pub fn expect(&mut self, line: impl AsRef<[u8]>, code: u16) -> Reply {
        let line = line.as_ref();
        let reply = self.command(line);
        assert_eq!(
            reply.code,
            code,
            "{:?} was answered: {}",
            String::from_utf8_lossy(line),
            reply.text()
        );
        reply
    }

    /// Fails unless the server closes the connection without another word.
    #[track_caller]
    pub fn expect_end(&mut self) {
        if let Some(reply) = self.reply_or_end() {
            panic!("the connection should have ended: {}", reply.text());
        }
    }

    #[track_caller]
    pub fn login(&mut self) {
        self.login_as(USER, PASSWORD).expect(230);
    }

    /// USER and PASS; the last reply.
    #[track_caller]
    pub fn login_as(&mut self, user: &str, password: &str) -> Reply {
        self.expect(format!("USER {user}"), 331);
        self.command(format!("PASS {password}"))
    }

    /// Where PASV says that the server listens.
    #[track_caller]
    pub fn pasv_address(&mut self) -> SocketAddr {
        let reply = self.expect("PASV", 227).text();
        let numbers: Vec<u8> = reply[reply.find('(').unwrap() + 1..reply.find(')').unwrap()]
            .split(',')
            .map(|number| number.parse().unwrap())
            .collect();
        let port = u16::from_be_bytes([numbers[4], numbers[5]]);
        SocketAddr::from(([numbers[0], numbers[1], numbers[2], numbers[3]], port))
    }

    /// Where EPSV says that the server listens.
    #[track_caller]
    pub fn epsv_address(&mut self) -> SocketAddr {
        let reply = self.expect("EPSV", 229).text();
        let port = reply[reply.find("(|||").unwrap() + 4..reply.find("|)").unwrap()]
            .parse()
            .unwrap();
        SocketAddr::new(self.server.ip(), port)
    }

    /// A passive data connection by PASV.
    #[track_caller]
    pub fn pasv(&mut self) -> TcpStream {
        let address = self.pasv_address();
        data_connection(address)
    }

    /// A passive data connection by EPSV.
    #[track_caller]
    pub fn epsv(&mut self) -> TcpStream {
        let address = self.epsv_address();
        data_connection(address)
    }

    /// Listens beside the control connection and tells the server with EPRT.
    #[track_caller]
    pub fn eprt(&mut self) -> TcpListener {
        let listener = self.listener();
        let address = listener.local_addr().unwrap();
        let family = if address.is_ipv4() { 1 } else { 2 };
        self.expect(
            format!("EPRT |{family}|{}|{}|", address.ip(), address.port()),
            200,
        );
        listener
    }

    /// Listens beside the control connection and tells the server with PORT.
    #[track_caller]
    pub fn port(&mut self) -> TcpListener {
        let listener = self.listener();
        let command = port_command(listener.local_addr().unwrap());
        self.expect(command, 200);
        listener
    }

    fn listener(&self) -> TcpListener {
        TcpListener::bind((self.stream().local_addr().unwrap().ip(), 0)).unwrap()
    }

    /// Sends a command that sends data over `data`; the bytes and the final reply.
    #[track_caller]
    pub fn download_over(
        &mut self,
        mut data: TcpStream,
        line: impl AsRef<[u8]>,
    ) -> (Vec<u8>, Reply) {
        let opening = self.command(line);
        if opening.code >= 400 {
            return (Vec::new(), opening);
        }
        let opening = opening.expect_one_of(&[125, 150]);
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes)
            .unwrap_or_else(|error| panic!("{error} after {}", opening.text()));
        (bytes, self.reply())
    }

    /// Sends a command that receives data over `data`; the final reply.
    #[track_caller]
    pub fn upload_over(
        &mut self,
        mut data: TcpStream,
        line: impl AsRef<[u8]>,
        bytes: &[u8],
    ) -> Reply {
        let opening = self.command(line);
        if opening.code >= 400 {
            return opening;
        }
        opening.expect_one_of(&[125, 150]);
        data.write_all(bytes).unwrap();
        drop(data);
        self.reply()
    }

    /// RETR or a listing over a fresh passive connection; the bytes and the final reply.
    #[track_caller]
    pub fn download(&mut self, line: impl AsRef<[u8]>) -> (Vec<u8>, Reply) {
        let data = self.epsv();
        self.download_over(data, line)
    }

    /// STOR, APPE or STOU over a fresh passive connection; the final reply.
    #[track_caller]
    pub fn upload(&mut self, line: impl AsRef<[u8]>, bytes: &[u8]) -> Reply {
        let data = self.epsv();
        self.upload_over(data, line, bytes)
    }

    /// Begins STOR or APPE over a fresh passive connection and sends the first of it.
    #[track_caller]
    pub fn begin_upload(&mut self, line: impl AsRef<[u8]>, bytes: &[u8]) -> TcpStream {
        let mut data = self.epsv();
        self.expect(line, 150);
        data.write_all(bytes).unwrap();
        data
    }

    /// The same, broken off by a reset of the data connection.
    #[track_caller]
    pub fn cut_off_upload(&mut self, line: impl AsRef<[u8]>, bytes: &[u8]) {
        let data = self.begin_upload(line, bytes);
        // On its way before the reset overtakes it.
        std::thread::sleep(std::time::Duration::from_millis(100));
        reset(data);
        self.reply().expect(426);
    }

    /// ABOR of the transfer under way.
    #[track_caller]
    pub fn abort(&mut self) {
        self.send("ABOR");
        self.reply().expect(426);
        self.reply().expect(226);
    }

    /// A file's contents.
    #[track_caller]
    pub fn retr(&mut self, path: &str) -> Vec<u8> {
        let (bytes, reply) = self.download(format!("RETR {path}"));
        reply.expect(226);
        bytes
    }

    /// Stores a file; fails unless the server promises to have it.
    #[track_caller]
    pub fn stor(&mut self, path: &str, bytes: &[u8]) {
        self.upload(format!("STOR {path}"), bytes).expect(226);
    }

    /// A listing's lines.
    #[track_caller]
    pub fn list(&mut self, line: impl AsRef<[u8]>) -> Vec<String> {
        let (bytes, reply) = self.download(line);
        reply.expect(226);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(
            text.is_empty() || text.ends_with("\r\n"),
            "a listing's lines end in CRLF: {text:?}"
        );
        text.split_terminator("\r\n").map(str::to_owned).collect()
    }

    /// Sends one byte as urgent data.
    #[track_caller]
    pub fn send_urgent(&mut self, byte: u8) {
        let fd = self.stream().as_raw_fd();
        nix::sys::socket::send(fd, &[byte], nix::sys::socket::MsgFlags::MSG_OOB).unwrap();
    }

    /// Ends the control connection the hard way, as a program that was killed does with data unread.
    pub fn reset(self) {
        reset(self.reader.into_inner());
    }

    /// Says that nothing more will be sent, as a program that died in order does.
    pub fn end_of_input(&self) {
        self.stream().shutdown(Shutdown::Write).unwrap();
    }
}

/// Connects with PATIENCE on every wait.
#[track_caller]
pub fn data_connection(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    patient(&stream);
    stream
}

/// Connects from this local address and port.
#[track_caller]
pub fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    let stream = TcpStream::from(fd);
    patient(&stream);
    stream
}

/// Closes so that the peer sees a reset.
pub fn reset(stream: TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
    drop(stream);
}

/// PORT with this address.
pub fn port_command(address: SocketAddr) -> String {
    let IpAddr::V4(ip) = address.ip() else {
        panic!("PORT is for IPv4")
    };
    let [high, low] = address.port().to_be_bytes();
    let [a, b, c, d] = ip.octets();
    format!("PORT {a},{b},{c},{d},{high},{low}")
}

pub fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}
