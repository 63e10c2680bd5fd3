//! Downloads that the kernel seals. Needs a kernel with TLS: scripts/test-guest runs this in a virtual machine, where it is
//! process 1's only child.

mod common;

use std::fs;
use std::io::Read;

use common::secure::{Secure, VERSIONS, client_config_of};
use common::{Server, assert_same_bytes, noise};

const WHY: &str = "needs a kernel with TLS: scripts/test-guest";

/// What the kernel has sealed itself so far: connections.
fn sealed_by_kernel() -> u64 {
    let text = fs::read_to_string("/proc/net/tls_stat").expect(WHY);
    let count = text.lines().find_map(|line| line.strip_prefix("TlsTxSw"));
    count.expect(WHY).trim().parse().unwrap()
}

fn server(kernel: bool) -> Server {
    Server::build()
        .configuration(&format!("[tls]\nkernel = {kernel}\n"))
        .with_flag_user()
        .start()
}

/// A session for each version and cipher.
fn sessions(server: &Server) -> Vec<(String, Secure)> {
    let mut sessions = Vec::new();
    for version in VERSIONS {
        for cipher in ["AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305"] {
            let mut provider = rustls::crypto::ring::default_provider();
            provider
                .cipher_suites
                .retain(|suite| format!("{:?}", suite.suite()).contains(cipher));
            let client = Secure::client(server, client_config_of(version, provider));
            let suite = client
                .connection()
                .negotiated_cipher_suite()
                .unwrap()
                .suite();
            sessions.push((format!("{suite:?}"), client));
        }
    }
    sessions
}

#[test]
#[ignore = "needs a kernel with TLS: scripts/test-guest"]
fn every_cipher_arrives_whole_and_the_kernel_sealed_it() {
    let server = server(true);
    // Odd, so that the last record is short.
    let contents = noise(3_000_001);
    server.write("file", &contents);
    for (suite, mut client) in sessions(&server) {
        let before = sealed_by_kernel();
        let (bytes, reply) = client.download("RETR file");
        reply.expect(226);
        assert_same_bytes(&bytes, &contents);
        assert_eq!(sealed_by_kernel(), before + 1, "{suite}");
        client.expect("REST 1000003", 350);
        let (bytes, reply) = client.download("RETR file");
        reply.expect(226);
        assert_same_bytes(&bytes, &contents[1_000_003..]);
        assert_eq!(sealed_by_kernel(), before + 2, "{suite}");
        println!("{suite}: by the kernel, whole and from an offset");
    }
}

#[test]
#[ignore = "needs a kernel with TLS: scripts/test-guest"]
fn an_abort_in_the_middle_does_not_look_like_the_end() {
    let server = server(true);
    server.write("large", noise(20_000_000));
    for (suite, mut client) in sessions(&server) {
        let before = sealed_by_kernel();
        let mut data = client.open("RETR large");
        data.read_exact(&mut [0; 100_000]).unwrap();
        client.expect("STAT", 211).says("bytes so far");
        client.send("ABOR");
        client.reply().expect(426);
        client.reply().expect(226);
        assert!(data.read_to_end(&mut Vec::new()).is_err(), "{suite}");
        assert_eq!(sealed_by_kernel(), before + 1, "{suite}");
        client.expect("NOOP", 200);
    }
}

#[test]
#[ignore = "needs a kernel with TLS: scripts/test-guest"]
fn small_files_listings_uploads_and_a_configured_refusal_stay_in_user_space() {
    let server_without = server(false);
    let server_with = server(true);
    let contents = noise(1_000_000);
    let before = sealed_by_kernel();
    for server in [&server_without, &server_with] {
        server.write("small", &contents[..1000]);
        for (_, mut client) in sessions(server) {
            client.upload("STOR file", &contents).expect(226);
            assert_same_bytes(&client.download("RETR small").0, &contents[..1000]);
            client.download("LIST").1.expect(226);
        }
    }
    for (_, mut client) in sessions(&server_without) {
        assert_same_bytes(&client.download("RETR file").0, &contents);
    }
    assert_eq!(sealed_by_kernel(), before);
}

/// CPU seconds of the server so far.
fn cpu_seconds(server: &Server) -> f64 {
    server.worked() as f64 / 100.0
}

#[test]
#[ignore = "needs a kernel with TLS: scripts/test-guest"]
fn cpu_seconds_beside_user_space() {
    const SIZE: usize = 16_000_000;
    for kernel in [false, true] {
        let server = server(kernel);
        server.write("file", noise(SIZE));
        for (suite, mut client) in sessions(&server) {
            client.download("RETR file").1.expect(226);
            let before = cpu_seconds(&server);
            client.download("RETR file").1.expect(226);
            let used = (cpu_seconds(&server) - before) * (1u64 << 30) as f64 / SIZE as f64;
            println!("kernel = {kernel}: {suite}: {used:.1} CPU s/GiB (emulated)");
        }
    }
}
