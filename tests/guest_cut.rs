//! Uploads in a machine whose power is cut. Runs in the guest of scripts/test-guest, which ends the machine at the instant in
//! which one of the lines below appears on its console, and then looks for the files on its disk.
//!
//! - `storing NAME SHA256`: these contents may be there from now on.
//! - `stored NAME SHA256`: the server has said 226; these must be there, or what was told as `storing` since.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Client, Server, noise};
use nix::sys::termios::tcdrain;

/// Sessions at once.
const SESSIONS: usize = 4;

/// Files of each session, which are replaced over and over.
const FILES: usize = 6;

/// Whoever is to cut the power has done so by then.
const LONGEST: Duration = Duration::from_secs(100);

fn sha256(contents: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, contents);
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Says a line, which is on the console when this returns.
fn say(line: &str) {
    // In one go, for several sessions speak.
    println!("{line}");
    tcdrain(std::io::stdout()).expect("a console");
}

fn store(client: &mut Client, name: &str, contents: &[u8]) {
    let sum = sha256(contents);
    say(&format!("storing {name} {sum}"));
    client.stor(name, contents);
    say(&format!("stored {name} {sum}"));
}

#[test]
#[ignore = "needs a machine that may be cut off: scripts/test-guest"]
fn uploads_until_the_power_is_cut() {
    let root = std::env::var("GUEST_CUT_ROOT").expect("scripts/test-guest says where");
    let server = Server::build().serving(Path::new(&root)).start();
    let end = Instant::now() + LONGEST;
    std::thread::scope(|scope| {
        for session in 0..SESSIONS {
            let mut client = server.client();
            scope.spawn(move || {
                for round in 0.. {
                    if Instant::now() > end {
                        return;
                    }
                    let sizes = [0, 700, 5000, 70_000, 300_000];
                    let length =
                        sizes[(round + session) % sizes.len()] + round * SESSIONS + session;
                    let name = format!("s{session}-{}", round % FILES);
                    store(&mut client, &name, &noise(length));
                }
            });
        }
    });
    panic!("nobody has cut the power");
}
