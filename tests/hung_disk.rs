//! A disk that hangs, such as a mount of a host that is gone, stops what lies on it and nothing else: clients are let in, and the
//! server can be stopped.

mod common;
#[allow(dead_code)]
#[path = "common/shelf.rs"]
mod shelf;

use std::fs;

use common::mounts::may_mount;
use common::{Server, noise};
use nix::sys::signal::Signal;
use shelf::{Abilities, Shelf};

#[test]
fn a_reload_that_hangs_keeps_nobody_out_and_is_made_good() {
    if !may_mount() {
        return;
    }
    let builder = Server::build()
        .configuration("xferlog = \"{root}/slow/log\"\n")
        .with_flag_user();
    fs::create_dir(builder.root().join("slow")).unwrap();
    let Some(shelf) = Shelf::mount(&builder.root().join("slow"), Abilities::ALL) else {
        return;
    };
    let server = builder.start();
    let held = shelf.hold();
    server.signal(Signal::SIGHUP);
    // Asked of the acceptor behind the signal, which it obeys first.
    for _ in 0..3 {
        server.client().stor("file", &noise(1000));
        server.signal(Signal::SIGHUP);
    }
    server.wait_for_log("it is read again behind that");
    assert!(
        !server
            .log_text()
            .contains("the configuration was read again")
    );
    drop(held);
    server.wait_for_log("the configuration was read again");
    server.client();
}

#[test]
fn a_disk_that_hangs_does_not_keep_the_server_from_ending() {
    if !may_mount() {
        return;
    }
    let builder = Server::build().configuration(
        "[timeouts]\nshutdown_grace = \"3s\"\n\
         [anonymous]\nroot = \"{root}/home\"\naccess = \"read-write\"\nquota = \"10MB\"\n\
         [[anonymous.folder]]\npath = \"/slow\"\nroot = \"{root}/slow\"\naccess = \"read-write\"\n",
    );
    for name in ["home", "slow"] {
        fs::create_dir(builder.root().join(name)).unwrap();
    }
    let Some(shelf) = Shelf::mount(&builder.root().join("slow"), Abilities::ALL) else {
        return;
    };
    let server = builder.start();
    let mut client = server.visitor();
    client.stor("slow/one", &noise(1000));
    client.stor("two", &noise(1000));
    let held = shelf.hold();
    // A session that waits for the disk, and counts that are to be kept there.
    client.send("SIZE slow/one");
    server.signal(Signal::SIGTERM);
    server.wait_for_log("sessions did not end; they are left behind");
    server.wait_for_log("the disk does not answer");
    server.wait_for_log("goodbye");
    // FUSE itself lets no process end that waits for an answer which its own server has begun; others do.
    drop(held);
    server.wait();
}
