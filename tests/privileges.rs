//! A server that root starts: who it becomes, and what it keeps.

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use common::secure::{Secure, client_config};
use common::{Server, root_may};

/// The user and group `nobody` of Debian.
const NOBODY: u32 = 65534;

/// What the tests do that only root can.
const BECOMING: &str = "to become somebody else";

/// A server whose root belongs to nobody; None, and the test is skipped, where root does not run it.
#[track_caller]
fn owned_by_nobody() -> Option<Server> {
    if !root_may(BECOMING) {
        return None;
    }
    let builder = Server::build();
    chown(builder.root(), Some(NOBODY), Some(NOBODY)).unwrap();
    let above = builder.root().parent().unwrap();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    Some(builder.start())
}

fn status(server: &Server, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn the_owner_of_the_root_serves_and_root_cannot_be_taken_back() {
    let Some(server) = owned_by_nobody() else {
        return;
    };
    assert_eq!(
        status(&server, "Uid:"),
        [NOBODY; 4].map(|id| id.to_string()).join("\t")
    );
    assert_eq!(
        status(&server, "Gid:"),
        [NOBODY; 4].map(|id| id.to_string()).join("\t")
    );
    let mut client = server.client();
    client.stor("file", b"x");
    client.expect("MKD dir", 257);
    assert_eq!(fs::metadata(server.path("file")).unwrap().uid(), NOBODY);
    assert_eq!(fs::metadata(server.path("dir")).unwrap().uid(), NOBODY);
    fs::write(server.path("private"), "root's").unwrap();
    fs::set_permissions(server.path("private"), fs::Permissions::from_mode(0o600)).unwrap();
    client.download("RETR private").1.expect(550);
    client.expect("MLST private", 250).says("perm=df;");
}

#[test]
fn the_certificate_goes_with_the_server_and_can_be_renewed_by_root() {
    if !root_may(BECOMING) {
        return;
    }
    let server = {
        let builder = Server::build().configuration("").with_flag_user();
        chown(builder.root(), Some(NOBODY), Some(NOBODY)).unwrap();
        let above = builder.root().parent().unwrap();
        fs::set_permissions(above, fs::Permissions::from_mode(0o711)).unwrap();
        builder.start()
    };
    let certificate = server.home().join("certificate.pem");
    let owner_and_mode = || {
        let metadata = fs::metadata(&certificate).unwrap();
        (metadata.uid(), metadata.mode() & 0o777)
    };
    assert_eq!(owner_and_mode(), (NOBODY, 0o600));
    let shown = || {
        let client = Secure::client(&server, client_config(&rustls::version::TLS13));
        client.connection().peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    };
    let old = shown();
    let config = server.home().join("thriftpd.toml");
    let mut renew = std::process::Command::new(env!("CARGO_BIN_EXE_thriftpd"));
    renew.args(["cert", "renew", "--config"]).arg(config);
    assert!(renew.output().unwrap().status.success());
    assert_eq!(owner_and_mode(), (NOBODY, 0o600));
    assert_ne!(shown(), old);
}

#[test]
fn one_capability_stays_for_active_connections_from_port_20() {
    let Some(server) = owned_by_nobody() else {
        return;
    };
    // CAP_NET_BIND_SERVICE is the tenth bit.
    assert_eq!(status(&server, "CapEff:"), "0000000000000400");
    assert_eq!(status(&server, "CapPrm:"), "0000000000000400");
    server.write("file", "contents");
    let mut client = server.client();
    for _ in 0..3 {
        let listener = client.eprt();
        client.command("RETR file").expect(150);
        let (mut data, from) = listener.accept().unwrap();
        data.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(from.port(), 20);
        client.reply().expect(226);
    }
}

#[test]
fn without_port_20_no_capability_stays() {
    if !root_may(BECOMING) {
        return;
    }
    let builder = Server::build()
        .configuration("active_from_port_20 = false\nrun_as = \"nobody\"\n")
        .with_flag_user();
    let above = builder.root().parent().unwrap();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    let server = builder.start();
    assert_eq!(status(&server, "CapEff:"), "0000000000000000");
    server.wait_for_log("running as nobody");
    server.write("file", "contents");
    let mut client = server.client();
    let listener = client.eprt();
    client.command("RETR file").expect(150);
    let (mut data, from) = listener.accept().unwrap();
    data.read_to_end(&mut Vec::new()).unwrap();
    client.reply().expect(226);
    assert_ne!(from.port(), 20);
    // The root is root's: what the kernel denies is said.
    client.upload("STOR new", b"x").expect(550);
}

#[test]
fn sessions_of_one_user_are_counted() {
    let server = Server::build()
        .configuration("sessions_per_user = 2\n[anonymous]\nroot = \"{root}\"\n")
        .with_flag_user()
        .start();
    let _one = server.client();
    let two = server.client();
    let mut third = server.connect();
    third
        .login_as(common::USER, common::PASSWORD)
        .expect(421)
        .says("limit is 2");
    third.expect_end();
    server.connect().login_as("anonymous", "").expect(230);
    drop(two);
    common::eventually("a place is free again", || {
        server
            .connect()
            .login_as(common::USER, common::PASSWORD)
            .code
            == 230
    });
}

#[test]
fn check_sees_that_the_server_could_not_write() {
    if !root_may(BECOMING) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("thriftpd.toml");
    let root = home.path().join("root");
    fs::create_dir(&root).unwrap();
    let text = "listen = [\"127.0.0.1:0\"]\nrun_as = \"nobody\"\n[anonymous]\nroot = \"root\"\naccess = \"upload-only\"\n";
    fs::write(&file, text).unwrap();
    let check = || {
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_thriftpd"));
        check.args(["check", "--config"]).arg(&file);
        common::run_client(&mut check, 20)
    };
    let said = check().failed().text();
    assert!(
        said.contains("but the server cannot write there: change its owner or mode"),
        "{said}"
    );
    chown(&root, Some(NOBODY), Some(NOBODY)).unwrap();
    check().succeeded();
}
