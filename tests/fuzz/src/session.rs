//! A whole session in this process: its control connection and data connections over loopback, its files in a directory of
//! its own. The input is a script: bytes for the control connection, with actions between them, each a byte 254 and a letter
//! (see `act`). The first byte says as whom the session has logged in before.
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use thriftpd::accounts::{Account, Accounts, Password};
use thriftpd::config::{Config, Timeouts, plain_view};
use thriftpd::ftp::Ftp;
use thriftpd::os::ending::Ending;
use thriftpd::os::stop::Stop;
use thriftpd::server::bans::Bans;
use thriftpd::server::sessions::Sessions;
use thriftpd::server::{Connection, FrontEnd, Policy as _};
use thriftpd::service::heavy::Heavy;
use thriftpd::service::rates::Buckets;
use thriftpd::service::{Service, Shared};
use thriftpd::storage::{Permissions, Room, Uploads};
use thriftpd::tls::{Source, Tls, ensure};

/// What follows it is an action.
const ACTION: u8 = 254;

/// Lies beside the root, and must stay there.
const CANARY: &[u8] = b"what nobody may see: 4f1d2b7c";

/// No file grows larger: a fuzzer announces terabytes.
const LARGEST_FILE: u64 = 32 << 20;

/// A session that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);

/// How long an answer is waited for that may never come.
const GLANCE: Duration = Duration::from_millis(10);

/// Who logs in before the script begins, by its first byte.
const LOGINS: [&[u8]; 4] = [
    b"USER full\r\nPASS pw\r\nTYPE I\r\n",
    b"USER kept\r\nPASS pw\r\nTYPE I\r\n",
    b"USER anonymous\r\nPASS x\r\n",
    b"",
];

struct House {
    ftp: Arc<dyn FrontEnd>,
    service: Arc<Service>,
    sessions: Sessions,
    stop: Arc<Stop>,
    listener: TcpListener,
    home: PathBuf,
}

impl House {
    fn new() -> Self {
        let home = home();
        fs::write(home.join("canary"), CANARY).unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, LARGEST_FILE, hard).unwrap();
        let sessions = Sessions::default();
        let shared = Shared {
            sessions: sessions.clone(),
            heavy: Heavy::default(),
            bans: Bans::open(None).unwrap(),
            up: Buckets::default(),
            down: Buckets::default(),
            programs: Arc::default(),
            lookup: Arc::default(),
            identities: false,
            transfer_log: None,
            may_bind_low_ports: false,
            most_sessions: usize::MAX,
            certificate: None,
        };
        let made = ensure(&home.join("certificate"), &["localhost".into()]).unwrap();
        let config = config(&home.join("root"), made.source);
        let tls = Tls::open(config.tls.service.clone()).unwrap();
        let nothing_new = Box::new(|| Err("not now".into()));
        let service = Arc::new(Service::new(config, Some(tls), shared, nothing_new));
        Self {
            ftp: Arc::new(Ftp::new(Arc::clone(&service))),
            service,
            sessions,
            stop: Arc::new(Stop::new().unwrap()),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            home,
        }
    }

    fn root(&self) -> PathBuf {
        self.home.join("root")
    }

    /// The files as every session finds them.
    fn furnish(&self) {
        let root = self.root();
        // Modes may have been changed so that not even the owner gets in.
        let _ = fs::remove_dir_all(&root).or_else(|_| {
            make_accessible(&root);
            fs::remove_dir_all(&root)
        });
        fs::create_dir_all(root.join("dir/deep")).unwrap();
        fs::write(root.join("file"), b"one\ntwo\r\nthree").unwrap();
        fs::write(root.join("dir/a\nb"), b"forged").unwrap();
        symlink("../canary", root.join("out")).unwrap();
        symlink("..", root.join("dir/up")).unwrap();
        symlink("..", root.join("above")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
    }

    /// Nothing outside has changed.
    fn inspect(&self) {
        assert!(
            fs::read(self.home.join("canary")).unwrap() == CANARY,
            "the canary changed"
        );
        let beside = fs::read_dir(&self.home).unwrap().count();
        assert_eq!(beside, 3, "something new lies beside the root");
        assert_eq!(self.sessions.count(), 0, "a slot leaked");
    }
}

/// A directory in memory where there is such a place. Nothing ends a fuzzer in order: who comes next takes away what those
/// that are gone have left.
fn home() -> PathBuf {
    const PREFIX: &str = "thriftpd-fuzz-";
    let in_memory = Some(Path::new("/dev/shm")).filter(|path| path.is_dir());
    let top = in_memory.map_or_else(std::env::temp_dir, Path::to_owned);
    for entry in fs::read_dir(&top).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).unwrap_or_default();
        if !pid.is_empty() && !Path::new("/proc").join(pid).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let home = top.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir(&home).unwrap();
    home
}

fn make_accessible(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_accessible(&entry.path());
        }
    }
}

fn config(root: &Path, source: Source) -> Config {
    let user = |name: &str, permissions| {
        let mut view = plain_view(root.to_owned(), permissions);
        view.min_free = Room::default();
        let password = Password::from_clear("pw").unwrap();
        Account::new(name, password, view)
    };
    let full = user("full", Permissions::ALL);
    let mut kept = user("kept", Permissions::ALL);
    kept.view.checksums = true;
    kept.view.rules.versions = 2;
    kept.view.rules.show_versions = true;
    kept.view.rules.uploads = Uploads::Direct;
    kept.accept_hangup = true;
    let mut config = Config::default();
    config.tls.service.certificates.push(source);
    config.accounts = Accounts::new(
        vec![full, kept],
        Some(user("anonymous", Permissions::READ_ONLY)),
    );
    config.timeouts = Timeouts {
        idle: Duration::from_secs(5),
        login: Duration::from_secs(5),
        data_connect: Duration::from_millis(100),
        stalled: Duration::from_millis(200),
        shutdown_grace: Duration::ZERO,
    };
    config
}

fn house() -> &'static Mutex<House> {
    static HOUSE: OnceLock<Mutex<House>> = OnceLock::new();
    HOUSE.get_or_init(|| Mutex::new(House::new()))
}

/// Takes the files away, for who knows that no session will be played any more.
pub fn leave() {
    let house = house().lock().unwrap_or_else(PoisonError::into_inner);
    let _ = fs::remove_dir_all(&house.home);
}

/// Plays a script to its end: the session answers in well-formed replies, shows and changes nothing outside of its root, and
/// ends in time with all it held.
pub fn session(data: &[u8]) {
    let Some((&who, script)) = data.split_first() else {
        return;
    };
    let house = house().lock().unwrap_or_else(PoisonError::into_inner);
    house.furnish();
    let stream = TcpStream::connect(house.listener.local_addr().unwrap()).unwrap();
    let (accepted, peer) = house.listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    house.ftp.greet(&accepted);
    let accepted = Arc::new(accepted);
    let limits = house.service.limits();
    let row = house.sessions.admit(peer, &accepted, &limits).unwrap();
    let ending = Arc::new(Ending::new().unwrap());
    row.begin(Arc::clone(&ending), &limits).unwrap();
    let connection = Connection {
        local: accepted.local_addr().unwrap(),
        stream: accepted,
        peer,
        accepted: Instant::now(),
        front_end: Arc::clone(&house.ftp),
        row,
        stop: Arc::clone(&house.stop),
    };
    let ftp = Arc::clone(&house.ftp);
    let (ended, end) = mpsc::channel();
    let server = std::thread::spawn(move || {
        // Writing beyond the limit on sizes must fail as it does in the server, not end the process.
        let mut too_large = SigSet::empty();
        too_large.add(Signal::SIGXFSZ);
        too_large.thread_block().unwrap();
        ftp.serve(connection, ending);
        let _ = ended.send(());
    });
    let mut client = Client::new(stream);
    client.say(LOGINS[usize::from(who & 3)]);
    client.play(script);
    let (replies, received) = client.finish();
    match end.recv_timeout(HANGS) {
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the session does not end"),
    }
    if let Err(panic) = server.join() {
        std::panic::resume_unwind(panic);
    }
    check_replies(&replies);
    // What the script says itself may be said back.
    let told = contains(&replies, CANARY) || contains(&received, CANARY);
    assert!(!told || contains(script, CANARY), "the canary came out");
    house.inspect();
}

/// The other side, which never waits for long and forgives everything.
struct Client {
    control: TcpStream,
    heard: Vec<u8>,
    listener: Option<TcpListener>,
    data: Option<TcpStream>,
    received: Vec<u8>,
}

impl Client {
    fn new(control: TcpStream) -> Self {
        control.set_nodelay(true).unwrap();
        control.set_read_timeout(Some(GLANCE)).unwrap();
        control
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        Self {
            control,
            heard: Vec::new(),
            listener: None,
            data: None,
            received: Vec::new(),
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        // The session may have ended.
        let _ = (&self.control).write_all(bytes);
    }

    fn play(&mut self, mut script: &[u8]) {
        while !script.is_empty() {
            let (text, rest) = super::split_at_byte(script, ACTION);
            self.say(text);
            script = match rest.split_first() {
                Some((&action, rest)) => self.act(action, rest),
                None => return,
            };
        }
    }

    /// Does one thing; what remains of the script.
    fn act<'a>(&mut self, action: u8, rest: &'a [u8]) -> &'a [u8] {
        match action {
            // c: connects to the port of the last 227 or 229.
            b'c' => {
                self.data = self
                    .passive()
                    .and_then(|port| TcpStream::connect(("127.0.0.1", port)).ok());
                self.prepare_data();
            }
            // l: listens and says so; a: takes the connection that came.
            b'l' => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let port = listener.local_addr().unwrap().port();
                listener.set_nonblocking(true).unwrap();
                self.say(format!("EPRT |1|127.0.0.1|{port}|\r\n").as_bytes());
                self.listener = Some(listener);
            }
            b'a' => {
                self.hear();
                let accepted = self
                    .listener
                    .as_ref()
                    .and_then(|listener| listener.accept().ok());
                self.data = accepted.map(|(stream, _)| stream);
                self.prepare_data();
            }
            // s: sends so many of the bytes that follow; m: a mebibyte.
            b's' => {
                let (&length, rest) = rest.split_first().unwrap_or((&0, &[]));
                let (bytes, rest) = rest.split_at(rest.len().min(usize::from(length)));
                self.send_data(bytes);
                return rest;
            }
            b'm' => self.send_data(&[b'm'; 1 << 20]),
            // r: reads; e: ends its side; x: resets; d: closes the data connection.
            b'r' => self.read_data(),
            b'e' => drop(
                self.data
                    .as_ref()
                    .map(|data| data.shutdown(Shutdown::Write)),
            ),
            b'x' => reset(self.data.take()),
            b'd' => self.data = None,
            // w: waits for replies; h: ends its side of the control connection; u: urgent data.
            b'w' => self.hear(),
            b'h' => drop(self.control.shutdown(Shutdown::Write)),
            b'u' => drop(send(
                self.control.as_raw_fd(),
                &[0xf2],
                MsgFlags::MSG_OOB | MsgFlags::MSG_NOSIGNAL,
            )),
            // Twice: the byte itself.
            ACTION => self.say(&[ACTION]),
            _ => {}
        }
        rest
    }

    fn prepare_data(&mut self) {
        if let Some(data) = &self.data {
            data.set_read_timeout(Some(GLANCE)).unwrap();
            data.set_write_timeout(Some(GLANCE)).unwrap();
        }
    }

    fn send_data(&mut self, bytes: &[u8]) {
        if let Some(data) = &mut self.data {
            let _ = data.write_all(bytes);
        }
    }

    fn read_data(&mut self) {
        let mut buffer = [0; 4096];
        if let Some(data) = &mut self.data {
            while let Ok(length @ 1..) = data.read(&mut buffer) {
                self.received.extend(&buffer[..length]);
            }
        }
    }

    /// What has come, and a little patience for more.
    fn hear(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = self.control.read(&mut buffer) {
            self.heard.extend(&buffer[..length]);
        }
    }

    /// The port of the last passive reply.
    fn passive(&mut self) -> Option<u16> {
        self.hear();
        let text = String::from_utf8_lossy(&self.heard);
        let line = text
            .lines()
            .rfind(|line| line.starts_with("227 ") || line.starts_with("229 "))?;
        let numbers: Vec<u16> = line[4..]
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        match numbers[..] {
            [port] => Some(port),
            [.., high, low] => Some(high * 256 + low),
            [] => None,
        }
    }

    /// Ends the script, hears the session out and leaves no trace of the connection in the kernel.
    fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        let _ = self.control.shutdown(Shutdown::Write);
        self.read_data();
        reset(self.data.take());
        self.control.set_read_timeout(Some(HANGS)).unwrap();
        self.hear();
        reset(Some(self.control));
        (self.heard, self.received)
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn reset(stream: Option<TcpStream>) {
    let Some(stream) = stream else { return };
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // It may be closed already.
    let _ = setsockopt(&stream, sockopt::Linger, &linger);
}

/// Replies as RFC 959 §4.2 has them, with Telnet's refusals between them, until encryption begins.
fn check_replies(heard: &[u8]) {
    let mut rest = heard;
    let mut open: Option<Vec<u8>> = None;
    while !rest.is_empty() {
        if rest[0] == 255 && open.is_none() {
            rest = rest.get(3..).unwrap_or_default();
            continue;
        }
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            // The end may have been lost with the connection.
            return;
        };
        let line = rest[..end]
            .strip_suffix(b"\r")
            .expect("a line ends in CRLF");
        rest = &rest[end + 1..];
        let odd = |byte: &u8| *byte < b' ' || *byte == 0x7f;
        assert!(
            !line.iter().any(odd),
            "a control character in {:?}",
            String::from_utf8_lossy(line)
        );
        let code = line
            .get(..3)
            .filter(|code| code.iter().all(u8::is_ascii_digit));
        match (&open, code, line.get(3)) {
            (None, Some(b"234"), _) => return,
            (None, Some(_), Some(b' ')) => {}
            (None, Some(code), Some(b'-')) => open = Some(code.to_vec()),
            (Some(opened), Some(code), Some(b' ')) if code == opened => open = None,
            (Some(_), _, _) => {}
            _ => panic!("not a reply: {:?}", String::from_utf8_lossy(line)),
        }
    }
}
