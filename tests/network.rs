//! Networks as they are: cables that are pulled.

mod common;
#[path = "common/network.rs"]
mod network;

use std::time::{Duration, Instant};

use common::{Client, PASSWORD, Server, USER, noise};
use network::{Far, HERE};

/// Whatever its session was doing.
#[test]
fn a_client_whose_cable_is_pulled_gives_its_place_back_within_two_minutes() {
    let Some(far) = Far::new() else { return };
    let server = Server::build().listen(&format!("{HERE}:0")).start();
    let address = server.addresses()[0];
    server.write("large", noise(50_000_000));
    let clients = far.run(move || {
        let log_in = || {
            let mut client = Client::connect(address);
            client.reply().expect(220);
            client.login_as(USER, PASSWORD).expect(230);
            client.expect("TYPE I", 200);
            client
        };
        let idle = log_in();
        let mut downloading = log_in();
        let download = downloading.epsv();
        downloading.expect("RETR large", 150);
        let mut uploading = log_in();
        let upload = uploading.begin_upload("STOR file", b"half");
        // The reply comes when nobody can acknowledge it.
        let mut asking = log_in();
        asking.send("XMD5 large");
        (idle, (downloading, download), (uploading, upload), asking)
    });
    far.pull_the_cable();
    let pulled = Instant::now();
    // From here it is reached all the same.
    let mut here = Client::connect(address);
    here.reply().expect(220);
    here.login_as(USER, PASSWORD).expect(230);
    let mut sessions = || {
        here.expect("SITE WHO", 200)
            .text()
            .matches("10.99.0.2")
            .count()
    };
    assert_eq!(sessions(), 4);
    while sessions() > 0 {
        let passed = pulled.elapsed();
        assert!(passed < Duration::from_secs(150), "{} are left", sessions());
        std::thread::sleep(Duration::from_secs(1));
    }
    eprintln!("the last one was gone after {:?}", pulled.elapsed());
    server.wait_for_log("control connection lost");
    drop(clients);
}
