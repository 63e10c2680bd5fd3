//! Certificates: made at the first start, given, chosen by name, renewed under load, and asked of clients.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::secure::{Secure, client_config, client_config_with, handshake};
use common::{Builder, Server, eventually, run_client, the_program};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};

fn thriftpd(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thriftpd"));
    command.args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(both).unwrap()
}

fn line<'a>(text: &'a str, before: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.split_once(before));
    line.unwrap_or_else(|| panic!("no {before:?} in {text}")).1
}

/// A server with an empty configuration file, so that its certificate lies in its home.
fn with_file(more: &str) -> Builder {
    Server::build().configuration(more).with_flag_user()
}

fn config_of(server: &Server) -> String {
    server
        .home()
        .join("thriftpd.toml")
        .to_str()
        .unwrap()
        .to_owned()
}

/// The first certificate that a new connection is shown.
fn shown(server: &Server, name: &str) -> CertificateDer<'static> {
    let client = Secure::explicit_as(server, &Arc::new(client_config(&TLS13)), name);
    client.connection().peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

fn openssl(home: &Path, arguments: &[&str]) {
    run_client(the_program("openssl", home).args(arguments), 60).succeeded();
}

/// A self-signed certificate and its key, made by openssl with these arguments for the key; their files.
fn made_by_openssl(home: &Path, name: &str, days: &str, key: &[&str]) -> (PathBuf, PathBuf) {
    let [cert, key_file] = ["crt", "key"].map(|end| home.join(format!("{name}.{end}")));
    let mut arguments = vec!["req", "-x509", "-nodes", "-days", days, "-subj", "/CN=nas"];
    let alternative = format!("subjectAltName=DNS:{name}.example");
    arguments.extend(["-addext", &alternative]);
    arguments.extend(key);
    arguments.extend([
        "-out",
        cert.to_str().unwrap(),
        "-keyout",
        key_file.to_str().unwrap(),
    ]);
    openssl(home, &arguments);
    (cert, key_file)
}

const EC: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

// ---- made by the server

#[test]
fn the_first_start_makes_a_certificate_and_later_ones_use_it() {
    let server = with_file("").start();
    let fingerprint = line(&server.wait_for_log("certificate: SHA-256 "), "SHA-256 ").to_owned();
    let file = server.home().join("certificate.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let config = config_of(&server);
    let told = said(&thriftpd(&["cert", "show", "--config", &config]));
    assert_eq!(line(&told, "SHA-256: "), fingerprint);
    let names = line(&told, "names: ");
    for name in ["localhost", "127.0.0.1", "::1"] {
        assert!(
            names.split(", ").any(|told| told == name),
            "{name} in {names}"
        );
    }
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert!(names.starts_with(&host), "{host} in {names}");
    assert!(host.contains('.') || names.contains(&format!("{host}.local")));
    // What it printed is what clients see, and a client that is given it believes it. The key is not in it.
    assert!(!told.contains("PRIVATE"));
    let believed = server.home().join("believed.pem");
    std::fs::write(&believed, &told).unwrap();
    server.write("file", "contents");
    let mut curl = the_program("curl", server.home());
    curl.args(["-sS", "--ssl-reqd", "--cacert"])
        .arg(&believed)
        .arg(server.url("file"));
    assert_eq!(run_client(&mut curl, 30).succeeded().text(), "contents");
    // Another start shows the same.
    let log = Server::build()
        .arguments(&["--config", &config])
        .start()
        .wait_for_log("certificate: SHA-256 ");
    assert_eq!(line(&log, "SHA-256 "), fingerprint);
}

#[test]
fn a_renewed_certificate_is_shown_to_new_connections_and_sessions_go_on() {
    let server = with_file("").start();
    let old = shown(&server, "localhost");
    let mut session = Secure::client(&server, client_config(&TLS13));
    let renewed = thriftpd(&["cert", "renew", "--config", &config_of(&server)]);
    assert!(renewed.status.success(), "{}", said(&renewed));
    let new = shown(&server, "localhost");
    assert_ne!(old, new);
    server.wait_for_log(&format!(
        "new certificate for new connections: SHA-256 {}",
        line(&said(&renewed), "SHA-256: ")
    ));
    session.upload("STOR file", b"contents").expect(226);
    assert_eq!(session.download("RETR file").0, b"contents");
}

#[test]
fn a_broken_new_file_keeps_the_old_certificate_and_says_so_once() {
    let server = with_file("").start();
    let old = shown(&server, "localhost");
    let file = server.home().join("certificate.pem");
    std::fs::write(&file, "not a certificate").unwrap();
    for _ in 0..3 {
        assert_eq!(shown(&server, "localhost"), old);
    }
    server.wait_for_log("the old certificate stays: ");
    assert_eq!(
        server
            .log_text()
            .matches("the old certificate stays")
            .count(),
        1
    );
    server.signal(Signal::SIGHUP);
    server.wait_for_log("the certificates stay as they were: ");
    assert_eq!(shown(&server, "localhost"), old);
    let told = thriftpd(&["cert", "show", "--config", &config_of(&server)]);
    assert!(
        !told.status.success()
            && said(&told).contains("certificate.pem: there is no certificate in it")
    );
    std::fs::remove_file(&file).unwrap();
    let renewed = thriftpd(&["cert", "renew", "--config", &config_of(&server)]);
    assert!(renewed.status.success());
    assert_ne!(shown(&server, "localhost"), old);
}

#[test]
fn certificates_change_under_load_without_a_failed_connection() {
    let server = with_file("").start();
    server.write("file", "contents");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut rounds = 0;
                    while !over.load(Ordering::SeqCst) {
                        let mut client = Secure::client(&server, client_config(&TLS13));
                        assert_eq!(client.download("RETR file").0, b"contents");
                        client.expect("QUIT", 221);
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for round in 0..8 {
            let renewed = thriftpd(&["cert", "renew", "--config", &config_of(&server)]);
            assert!(renewed.status.success());
            if round % 2 == 0 {
                server.signal(Signal::SIGHUP);
            }
            std::thread::sleep(std::time::Duration::from_millis(60));
        }
        over.store(true, Ordering::SeqCst);
        for worker in workers {
            assert!(worker.join().unwrap() > 0);
        }
    });
    assert!(!server.log_text().contains("stay"), "{}", server.log_text());
}

#[test]
fn cert_commands_say_what_cannot_be() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("thriftpd.toml");
    std::fs::write(&config, "").unwrap();
    let config = config.to_str().unwrap();
    let none = thriftpd(&["cert", "show", "--config", config]);
    assert!(!none.status.success() && said(&none).contains("there is no certificate yet"));
    std::fs::write(config, "[tls]\ncert = \"mine.pem\"\n").unwrap();
    let foreign = thriftpd(&["cert", "renew", "--config", config]);
    assert!(
        !foreign.status.success() && said(&foreign).contains("mine.pem was not made by thriftpd")
    );
    let missing = thriftpd(&["cert", "show", "--config", config]);
    assert!(said(&missing).contains("mine.pem: cannot be read: No such file"));
}

// ---- given

#[test]
fn certificates_of_every_kind_are_taken() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (rsa, rsa_key) = made_by_openssl(home.path(), "rsa", "100", &["-newkey", "rsa:2048"]);
    let (ec, ec_key) = made_by_openssl(home.path(), "ec", "100", EC);
    let (ed, ed_key) = made_by_openssl(home.path(), "ed", "100", &["-newkey", "ed25519"]);
    let old_form = |from: &Path, kind: &str, to: &str| {
        openssl(
            home.path(),
            &[kind, "-in", from.to_str().unwrap(), "-out", &at(to)],
        );
        PathBuf::from(at(to))
    };
    openssl(
        home.path(),
        &[
            "rsa",
            "-traditional",
            "-in",
            rsa_key.to_str().unwrap(),
            "-out",
            &at("pkcs1.key"),
        ],
    );
    let sec1 = old_form(&ec_key, "ec", "sec1.key");
    let head = |file: &str| std::fs::read_to_string(at(file)).unwrap();
    assert!(head("pkcs1.key").contains("BEGIN RSA PRIVATE KEY"));
    assert!(head("sec1.key").contains("BEGIN EC PRIVATE KEY"));
    for (cert, key) in [
        (&rsa, &rsa_key),
        (&rsa, &PathBuf::from(at("pkcs1.key"))),
        (&ec, &ec_key),
        (&ec, &sec1),
        (&ed, &ed_key),
    ] {
        let files = [
            "--cert",
            cert.to_str().unwrap(),
            "--key",
            key.to_str().unwrap(),
        ];
        let server = Server::build().arguments(&files).start();
        for version in [&TLS12, &TLS13] {
            let mut client = Secure::client(&server, client_config(version));
            client.upload("STOR file", b"contents").expect(226);
        }
    }
}

#[test]
fn a_certificate_that_cannot_be_served_keeps_the_server_from_starting() {
    let home = tempfile::tempdir().unwrap();
    let (cert, key) = made_by_openssl(home.path(), "a", "100", EC);
    let (_, foreign) = made_by_openssl(home.path(), "b", "100", EC);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let missing = home.path().join("missing.pem");
    for (cert, key, expected) in [
        (
            &cert,
            &foreign,
            "b.key: the key is not that of the certificate in",
        ),
        (&missing, &key, "missing.pem: cannot be read"),
        (&key, &key, "a.key: there is no certificate in it"),
        (&cert, &cert, "a.crt: there is no private key in it"),
    ] {
        let server = Server::build()
            .arguments(&["--cert", &text(cert), "--key", &text(key)])
            .start_without_waiting();
        assert!(!server.wait().success());
        let log = server.log_text();
        assert!(log.contains(expected), "{expected}: {log}");
    }
    let server = Server::build()
        .arguments(&["--key", &text(&key)])
        .start_without_waiting();
    assert!(!server.wait().success() && server.log_text().contains("--key needs --cert"));
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of() {
    let home = tempfile::tempdir().unwrap();
    let (cert, key) = made_by_openssl(home.path(), "soon", "5", EC);
    let files = [
        "--cert",
        cert.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];
    let server = Server::build().arguments(&files).start();
    server.wait_for_log("the certificate of soon.example expires on ");
}

#[test]
fn clients_are_shown_the_certificate_of_the_name_they_ask_for() {
    let builder = with_file(
        "[tls]\ncert = \"a.crt\"\nkey = \"a.key\"\n[[tls.certificate]]\ncert = \"b.crt\"\nkey = \"b.key\"\n",
    );
    let home = builder.root().parent().unwrap().to_owned();
    made_by_openssl(&home, "a", "100", EC);
    made_by_openssl(&home, "b", "100", EC);
    let server = builder.start();
    let [a, b, other] = ["a.example", "b.example", "c.example"].map(|name| shown(&server, name));
    assert_ne!(a, b);
    assert_eq!(
        a, other,
        "who asks for a name that nobody has is shown the first"
    );
}

#[test]
fn check_looks_at_certificates() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("thriftpd.toml");
    let text = format!(
        "[tls]\nmode = \"required\"\ncert = \"x.crt\"\nkey = \"x.key\"\n[anonymous]\nroot = \"{}\"\naccess = \"read-only\"\n",
        home.path().display()
    );
    std::fs::write(&config, text).unwrap();
    let check = || said(&thriftpd(&["check", "--config", config.to_str().unwrap()]));
    assert!(check().contains("x.crt: cannot be read"), "{}", check());
    made_by_openssl(home.path(), "x", "100", EC);
    let told = check();
    assert!(
        told.contains("TLS: required") && told.contains("x.example"),
        "{told}"
    );
    assert!(!told.contains("problem: tls"), "{told}");
}

#[test]
fn a_chain_is_shown_whole() {
    let home = tempfile::tempdir().unwrap();
    let root = Authority::new("the root");
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "between");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let between = parameters.signed_by(&key, &root.issuer).unwrap().pem();
    let issuer = Issuer::new(parameters, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap().pem();
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let chain = write("chain.pem", &(leaf + &between));
    let key = write("chain.key", &key.serialize_pem());
    let server = Server::build()
        .arguments(&["--cert", &chain, "--key", &key])
        .start();
    server.write("file", "contents");
    // curl is given the root alone.
    let mut curl = the_program("curl", server.home());
    curl.args([
        "-sS",
        "--ssl-reqd",
        "--cacert",
        &write("root.pem", &root.pem),
    ]);
    curl.arg(server.url("file"));
    assert_eq!(run_client(&mut curl, 30).succeeded().text(), "contents");
}

// ---- asked of clients

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(parameters, key),
        }
    }

    /// A certificate by this authority for a common name and, if any, an alternative name: chain and key, DER and PEM.
    fn certify(&self, common: &str, alternative: &[&str]) -> (rustls::ClientConfig, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = alternative.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters
            .distinguished_name
            .push(DnType::CommonName, common);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let pem = certificate.pem() + &key.serialize_pem();
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        (
            client_config_with(vec![certificate.der().clone()], der),
            pem,
        )
    }
}

/// Users alice (certificate only), bob (certificate by alternative name, and the password `pw`), and t (password only).
fn server_that_asks(authority: &Authority) -> Server {
    let hash = thriftpd_hash();
    let builder = with_file(&format!(
        "[tls]\nclient_ca = \"ca.pem\"\n\
         [[user]]\nname = \"alice\"\ncertificate = \"Alice A\"\nroot = \"{{root}}\"\n\
         [[user]]\nname = \"bob\"\ncertificate = \"bob@example.org\"\npassword = \"{hash}\"\nroot = \"{{root}}\"\n"
    ));
    std::fs::write(
        builder.root().parent().unwrap().join("ca.pem"),
        &authority.pem,
    )
    .unwrap();
    builder.start()
}

/// The hash of `pw`, as `user add` makes it.
fn thriftpd_hash() -> String {
    thriftpd::accounts::Password::from_clear("pw")
        .unwrap()
        .to_phc()
        .to_owned()
}

#[test]
fn a_client_certificate_opens_its_users_account() {
    let authority = Authority::new("our authority");
    let server = server_that_asks(&authority);
    let (alice, alice_pem) = authority.certify("Alice A", &[]);
    let mut client = Secure::explicit(&server, alice);
    client.expect("USER bob", 331);
    client.expect("PASS pw", 530);
    client.expect("USER alice", 232);
    client.protect();
    client.expect("TYPE I", 200);
    client.upload("STOR file", b"contents").expect(226);
    assert_eq!(client.download("RETR file").0, b"contents");

    let (bob, _) = authority.certify("someone", &["bob@example.org"]);
    let mut client = Secure::explicit(&server, bob);
    client.expect("USER alice", 331);
    client.expect("PASS Alice A", 530);
    client.expect("USER bob", 331);
    client.expect("PASS wrong", 530);
    client.expect("USER bob", 331);
    client.expect("PASS pw", 230);

    // Without a certificate: who needs none comes in, nobody else does.
    let mut client = Secure::explicit(&server, client_config(&TLS13));
    client.expect("USER alice", 331);
    client.expect("PASS ", 530);
    client.expect("USER bob", 331);
    client.expect("PASS pw", 530);
    client.login();

    // curl shows its certificate on both connections, and needs no password.
    let pem = server.home().join("alice.pem");
    std::fs::write(&pem, alice_pem).unwrap();
    let mut curl = the_program("curl", server.home());
    curl.args(["-sSk", "--ssl-reqd", "--cert"]).arg(&pem);
    curl.arg(format!("ftp://alice:@{}/file", server.address()));
    assert_eq!(run_client(&mut curl, 30).succeeded().text(), "contents");
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let server = server_that_asks(&Authority::new("our authority"));
    let (mallory, _) = Authority::new("our authority").certify("Alice A", &[]);
    let mut client = server.connect();
    client.expect("AUTH TLS", 234);
    let stream = handshake(&Arc::new(mallory), "localhost", client.into_stream());
    // In TLS 1.3 the client has finished before the server has looked.
    if let Ok(mut stream) = stream {
        let read = std::io::Read::read(&mut stream, &mut [0]);
        assert!(!matches!(read, Ok(1..)), "{read:?}");
    }
    server.wait_for_log("no TLS: invalid peer certificate");
    eventually("its thread is idle again", || {
        server.connect().command("NOOP").code == 200
    });
}

#[test]
fn a_resumed_session_does_not_outlive_the_trust_in_its_authority() {
    let authority = Authority::new("our authority");
    let server = server_that_asks(&authority);
    let (alice, _) = authority.certify("Alice A", &[]);
    let alice = Arc::new(alice);
    Secure::explicit_as(&server, &alice, "localhost").expect("USER alice", 232);
    let mut again = Secure::explicit_as(&server, &alice, "localhost");
    again.expect("USER alice", 232);
    let kind = again.connection().handshake_kind();
    assert_eq!(kind, Some(rustls::HandshakeKind::Resumed));
    let other = Authority::new("another authority");
    std::fs::write(server.home().join("ca.pem"), &other.pem).unwrap();
    let mut client = server.connect();
    client.expect("AUTH TLS", 234);
    if let Ok(mut stream) = handshake(&alice, "localhost", client.into_stream()) {
        let read = std::io::Read::read(&mut stream, &mut [0]);
        assert!(!matches!(read, Ok(1..)), "{read:?}");
    }
    server.wait_for_log("no TLS: invalid peer certificate");
}
