//! Sessions that others end: an administrator, or another session that needs what one holds. Whatever a session waits for,
//! it ends at once, tells its client why and gives back what it held.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::secure::{Secure, client_config, close_notify, handshake};
use common::{
    Client, PASSWORD, PATIENCE, Reply, Server, USER, assert_same_bytes, data_connection,
    eventually, noise, reset,
};
use rustls::version::TLS13;
use tempfile::TempDir;
use thriftpd::accounts::{Account, Accounts, Password, Rates};
use thriftpd::config::{Config, plain_view};
use thriftpd::ftp::Ftp;
use thriftpd::os::ending::Ending;
use thriftpd::os::stop::Stop;
use thriftpd::server::bans::Bans;
use thriftpd::server::sessions::Sessions;
use thriftpd::server::{Connection, FrontEnd, Policy as _};
use thriftpd::service::heavy::Heavy;
use thriftpd::service::rates::Buckets;
use thriftpd::service::shared::ban_rules;
use thriftpd::service::{Service, Shared};
use thriftpd::storage::{Permissions, Room};
use thriftpd::tls::{Tls, ensure};

const WHY: &str = "The test has ended this session.";

/// Nothing waits for so long but what ignores its end.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The FTP front end in this process, where its table of sessions can be reached.
struct House {
    service: Arc<Service>,
    sessions: Sessions,
    home: TempDir,
}

impl House {
    fn new(change: impl Fn(&mut Config, &mut Account)) -> Self {
        let home = TempDir::new().unwrap();
        let root = home.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut view = plain_view(root, Permissions::ALL);
        view.min_free = Room::default();
        let password = Password::from_clear(PASSWORD).unwrap();
        let mut account = Account::new(USER, password, view);
        let mut config = Config::default();
        let made = ensure(&home.path().join("certificate"), &["localhost".into()]).unwrap();
        config.tls.service.certificates.push(made.source);
        change(&mut config, &mut account);
        config.accounts = Accounts::new(vec![account], None);
        let tls = Tls::open(config.tls.service.clone()).unwrap();
        let sessions = Sessions::default();
        let bans = Bans::open(None).unwrap();
        // The next wrong password is answered as late as any.
        for _ in 0..10 {
            bans.failed([127, 0, 0, 1].into(), None, ban_rules(&config));
        }
        let shared = Shared {
            sessions: sessions.clone(),
            heavy: Heavy::default(),
            bans,
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
        let nothing_new = Box::new(|| Err("not now".into()));
        Self {
            service: Arc::new(Service::new(config, Some(tls), shared, nothing_new)),
            sessions,
            home,
        }
    }

    fn plain() -> Self {
        Self::new(|_, _| {})
    }

    /// A session that has greeted its client, and what tells of its end.
    fn connect(&self) -> (Client, Served) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let ftp: Arc<dyn FrontEnd> = Arc::new(Ftp::new(Arc::clone(&self.service)));
        ftp.greet(&accepted);
        let limits = self.service.limits();
        let accepted = Arc::new(accepted);
        let row = self.sessions.admit(peer, &accepted, &limits).unwrap();
        let ending = Arc::new(Ending::new().unwrap());
        row.begin(Arc::clone(&ending), &limits).unwrap();
        let connection = Connection {
            local: address,
            stream: accepted,
            peer,
            accepted: Instant::now(),
            front_end: Arc::clone(&ftp),
            row,
            stop: Arc::new(Stop::new().unwrap()),
        };
        let (over, end) = mpsc::channel();
        std::thread::spawn(move || {
            ftp.serve(connection, ending);
            let _ = over.send(());
        });
        let mut client = Client::over_stream(stream, address);
        client.reply().expect(220);
        let sessions = self.sessions.clone();
        (client, Served { sessions, end })
    }

    fn logged_in(&self) -> (Client, Served) {
        let (mut client, served) = self.connect();
        client.login();
        client.expect("TYPE I", 200);
        (client, served)
    }

    fn encrypted(&self) -> (Secure, Served) {
        let (mut client, served) = self.connect();
        client.expect("AUTH TLS", 234);
        let address = client.stream().peer_addr().unwrap();
        let config = Arc::new(client_config(&TLS13));
        let stream = handshake(&config, "localhost", client.into_stream()).unwrap();
        let mut secure = Secure::over_stream(stream, config, address);
        secure.login();
        secure.protect();
        secure.expect("TYPE I", 200);
        (secure, served)
    }

    fn write(&self, name: &str, contents: &[u8]) {
        fs::write(self.home.path().join("root").join(name), contents).unwrap();
    }
}

/// The only session of its house.
struct Served {
    sessions: Sessions,
    end: mpsc::Receiver<()>,
}

impl Served {
    /// Ends the session from here, and waits until it has.
    #[track_caller]
    fn end(self) {
        eventually("it is in the table", || self.sessions.end(1, WHY));
        let ended = self.end.recv_timeout(AT_ONCE);
        assert!(ended.is_ok(), "the session goes on");
        assert!(!self.sessions.end(1, WHY), "it has left the table");
    }
}

/// The client hears why, as the last thing.
#[track_caller]
fn hears_why(client: &mut Client) {
    client.reply().expect(421).says(WHY);
    client.expect_end();
}

#[track_caller]
fn hears_why_encrypted(client: &mut Secure) {
    client.reply().expect(421).says(WHY);
    assert!(client.reply_or_end().is_none());
}

#[test]
fn a_session_without_a_login_is_ended() {
    let house = House::plain();
    let (mut client, served) = house.connect();
    served.end();
    hears_why(&mut client);
}

#[test]
fn an_idle_session_is_ended() {
    let house = House::plain();
    let (mut client, served) = house.logged_in();
    served.end();
    hears_why(&mut client);
}

#[test]
fn an_idle_encrypted_session_is_ended() {
    let house = House::plain();
    let (mut client, served) = house.encrypted();
    served.end();
    hears_why_encrypted(&mut client);
}

#[test]
fn a_session_that_waits_for_the_handshake_is_ended() {
    let house = House::plain();
    let (mut client, served) = house.connect();
    client.expect("AUTH TLS", 234);
    served.end();
    client.expect_end();
}

#[test]
fn a_session_that_is_made_to_wait_after_a_wrong_password_is_ended() {
    let house = House::new(|config, _| config.abuse.ban_after = 1000);
    let (mut client, served) = house.connect();
    client.expect(format!("USER {USER}"), 331);
    client.send("PASS wrong");
    // What comes behind it is not obeyed any more.
    client.send("NOOP");
    served.end();
    assert!([530, 421].contains(&client.reply().code));
}

#[test]
fn a_session_that_waits_for_its_data_connection_is_ended() {
    let house = House::plain();
    let (mut client, served) = house.logged_in();
    let address = client.epsv_address();
    client.expect("STOR file", 150);
    served.end();
    hears_why(&mut client);
    assert!(TcpStream::connect(address).is_err(), "its port is closed");
}

#[test]
fn a_session_that_waits_for_the_handshake_of_its_data_connection_is_ended() {
    let house = House::plain();
    let (mut client, served) = house.encrypted();
    let mut data = client.epsv();
    client.expect("STOR file", 150);
    served.end();
    hears_why_encrypted(&mut client);
    assert!(!data.read(&mut [0]).is_ok_and(|length| length > 0));
}

#[test]
fn a_session_whose_upload_stands_still_is_ended_and_keeps_what_came() {
    for kind in ["TYPE I", "TYPE A"] {
        let house = House::plain();
        let (mut client, served) = house.logged_in();
        client.expect(kind, 200);
        let mut data = client.epsv();
        client.expect("STOR file", 150);
        data.write_all(&[b'x'; 100_000]).unwrap();
        served.end();
        hears_why(&mut client);
        assert!(data.read(&mut [0]).is_err(), "the data connection is reset");
        let names = fs::read_dir(house.home.path().join("root")).unwrap();
        let sizes = names.map(|entry| entry.unwrap().metadata().unwrap());
        let sizes = sizes.filter(fs::Metadata::is_file);
        let sizes: Vec<u64> = sizes.map(|metadata| metadata.len()).collect();
        assert_eq!(sizes, [100_000], "{kind}");
    }
}

#[test]
fn a_session_whose_encrypted_upload_stands_still_is_ended() {
    let house = House::plain();
    let (mut client, served) = house.encrypted();
    let mut data = client.open("STOR file");
    data.write_all(&noise(100_000)).unwrap();
    served.end();
    hears_why_encrypted(&mut client);
    assert!(data.read(&mut [0]).is_err());
}

#[test]
fn a_session_whose_download_is_not_read_is_ended() {
    let house = House::plain();
    house.write("file", &noise(64 << 20));
    let (mut client, served) = house.logged_in();
    let _data = client.epsv();
    client.expect("RETR file", 150);
    served.end();
    hears_why(&mut client);
}

#[test]
fn a_session_whose_encrypted_download_is_not_read_is_ended() {
    let house = House::plain();
    house.write("file", &noise(64 << 20));
    let (mut client, served) = house.encrypted();
    let _data = client.open("RETR file");
    served.end();
    hears_why_encrypted(&mut client);
}

#[test]
fn a_session_that_waits_for_its_rate_is_ended() {
    let house = House::new(|_, account| {
        account.session_rates = Rates {
            up: Some(100),
            down: Some(100),
        };
    });
    house.write("file", &noise(1 << 20));
    let (mut client, served) = house.logged_in();
    let mut data = client.epsv();
    client.expect("RETR file", 150);
    data.read_exact(&mut [0]).unwrap();
    served.end();
    hears_why(&mut client);
}

#[test]
fn a_session_whose_replies_are_not_read_is_ended() {
    let house = House::plain();
    let (client, served) = house.logged_in();
    client
        .stream()
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    // Until neither side has room for more: the session waits for it.
    while client.stream().write_all(&b"HELP\r\n".repeat(1000)).is_ok() {}
    served.end();
}

/// A client that has closed its control connection in order is watched no more, and yet its session can be ended.
#[test]
fn a_session_whose_client_has_said_all_it_will_say_is_ended() {
    let house = House::plain();
    let (mut client, served) = house.logged_in();
    let mut data = client.epsv();
    client.expect("STOR file", 150);
    data.write_all(&noise(1000)).unwrap();
    client.send("QUIT");
    client.stream().shutdown(Shutdown::Write).unwrap();
    served.end();
    hears_why(&mut client);
}

#[test]
fn a_session_that_goes_on_without_its_control_connection_is_ended() {
    let house = House::new(|_, account| account.accept_hangup = true);
    let (mut client, served) = house.logged_in();
    let mut data = data_connection(client.epsv_address());
    client.expect("STOR file", 150);
    reset(client.into_stream());
    data.write_all(&noise(1000)).unwrap();
    served.end();
    data.set_read_timeout(Some(PATIENCE)).unwrap();
    eventually("the data connection is reset", || {
        data.read(&mut [0]).is_err()
    });
}

// ---- for another session of the same account

/// An upload may be taken over when it has stood still for so long.
const QUIET: Duration = Duration::from_secs(10);

/// Bytes of the upload that the frozen client has sent, and from where the other one goes on.
const SENT: usize = 100_000;
const FROM: usize = 90_000;

/// One of two clients of the same user, in the clear or not.
trait Resumes {
    fn ask(&mut self, line: &str) -> Reply;
    /// STOR of these bytes, or why not.
    fn store(&mut self, bytes: &[u8]) -> Reply;
    fn last_words(&mut self) -> Reply;
    fn is_over(&mut self) -> bool;
}

impl Resumes for Client {
    fn ask(&mut self, line: &str) -> Reply {
        self.command(line)
    }
    fn store(&mut self, bytes: &[u8]) -> Reply {
        self.upload("STOR file", bytes)
    }
    fn last_words(&mut self) -> Reply {
        self.reply()
    }
    fn is_over(&mut self) -> bool {
        self.reply_or_end().is_none()
    }
}

impl Resumes for Secure {
    fn ask(&mut self, line: &str) -> Reply {
        self.command(line)
    }
    fn store(&mut self, bytes: &[u8]) -> Reply {
        let data = self.epsv();
        let opening = self.command("STOR file");
        if opening.code != 150 {
            return opening;
        }
        let mut data = handshake(&self.config, "localhost", data).unwrap();
        data.write_all(bytes).unwrap();
        close_notify(&mut data);
        self.reply()
    }
    fn last_words(&mut self) -> Reply {
        self.reply()
    }
    fn is_over(&mut self) -> bool {
        self.reply_or_end().is_none()
    }
}

/// The frozen client has sent its bytes and keeps its connections open; the other one is refused at first, and goes on in
/// the end.
fn goes_on(server: &Server, frozen: &mut dyn Resumes, other: &mut dyn Resumes) {
    let contents = noise(200_000);
    let begun = Instant::now();
    let mut attempt = || {
        assert_eq!(other.ask(&format!("REST {FROM}")).code, 350);
        other.store(&contents[FROM..])
    };
    let refused = attempt().expect(450);
    assert!(
        begun.elapsed() < QUIET,
        "too slow to show it: {}",
        refused.text()
    );
    let deadline = begun + QUIET + PATIENCE;
    let done = loop {
        // Not a wait for the server: it is to refuse until the time has come.
        std::thread::sleep(Duration::from_millis(200));
        let reply = attempt();
        if reply.code != 450 || Instant::now() > deadline {
            break reply;
        }
    };
    done.expect(226);
    assert!(
        begun.elapsed() > QUIET - Duration::from_secs(1),
        "too early"
    );
    assert_same_bytes(&server.read("file"), &contents);
    frozen
        .last_words()
        .expect(421)
        .says("another session of yours");
    assert!(frozen.is_over());
    let path = server.path("file");
    server.wait_for_log(&format!("STOR {} {SENT} bytes", path.display()));
    server.wait_for_log("the session was ended");
}

/// Bytes of the upload that are written, wherever it grows.
fn written(server: &Server) -> u64 {
    let names = fs::read_dir(server.path("")).unwrap().flatten();
    let files = names.filter_map(|entry| entry.metadata().ok());
    let files = files.filter(fs::Metadata::is_file);
    files.map(|metadata| metadata.len()).max().unwrap_or(0)
}

#[test]
fn a_frozen_upload_gives_way_to_the_same_account() {
    let server = Server::start();
    let mut frozen = server.client();
    let _data = frozen.begin_upload("STOR file", &noise(200_000)[..SENT]);
    eventually("all of it is written", || written(&server) == SENT as u64);
    goes_on(&server, &mut frozen, &mut server.client());
}

#[test]
fn a_frozen_encrypted_upload_gives_way_to_the_same_account() {
    let server = Server::start();
    let mut frozen = Secure::client(&server, client_config(&TLS13));
    let mut data = frozen.open("STOR file");
    data.write_all(&noise(200_000)[..SENT]).unwrap();
    eventually("all of it is written", || written(&server) == SENT as u64);
    let mut other = Secure::client(&server, client_config(&TLS13));
    goes_on(&server, &mut frozen, &mut other);
}

#[test]
fn a_frozen_upload_in_place_gives_way_to_the_same_account() {
    let server = Server::build().keys("uploads = \"direct\"\n").start();
    let mut frozen = server.client();
    let _data = frozen.begin_upload("STOR file", &noise(200_000)[..SENT]);
    eventually("all of it is written", || written(&server) == SENT as u64);
    goes_on(&server, &mut frozen, &mut server.client());
}
