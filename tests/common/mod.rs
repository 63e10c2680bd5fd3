//! What every integration test needs: the real server in a directory of its own, a raw FTP client that shows each
//! reply as it came, and a way to run other people's clients that can't hang.
//!
//! Everything is on loopback and on ports the kernel chose; everything started here ends with the value that holds it.

// Each test file is a crate of its own and uses its own part of this room.
#![allow(dead_code, unused_imports)]

mod client;
mod mounted;
pub mod mounts;
mod programs;
pub mod secure;
mod server;
mod skips;

pub use client::{Client, Reply, connect_from, data_connection, port_command, reset};
pub use mounted::Mounted;
pub use programs::{Finished, lftp, rclone, run_client, the_program};
pub use server::{Builder, PASSWORD, Server, USER, is_root};
pub use skips::{root_may, skip, skip_part};

use std::time::{Duration, Instant};

/// How long a socket, a log line or a state may take before a test fails: long for a loaded machine, short for a person.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; fails with `what` when it never does.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What clients are told of the length of an upload that was cut off behind so many bytes: less than all of it.
pub fn told(arrived: usize) -> usize {
    arrived.saturating_sub(1) / 4096 * 4096
}

/// `length` bytes in which no stretch repeats soon, so that a lost, doubled or swapped block shows.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ length as u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Compares contents and, when they differ, says where instead of printing them.
#[track_caller]
pub fn assert_same_bytes(left: &[u8], right: &[u8]) {
    if left == right {
        return;
    }
    let at = left.iter().zip(right).position(|(l, r)| l != r);
    panic!(
        "contents differ: {} and {} bytes, first difference at {at:?}",
        left.len(),
        right.len()
    );
}

/// Every regular file under `top`, by its path below it, with its contents.
pub fn tree(top: &std::path::Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    fn walk(
        top: &std::path::Path,
        at: &std::path::Path,
        found: &mut std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>,
    ) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            // What the server remembers for itself.
            if path.ends_with(".thriftpd") {
                continue;
            }
            if path.is_dir() {
                walk(top, &path, found);
            } else {
                found.insert(
                    path.strip_prefix(top).unwrap().to_owned(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    let mut found = std::collections::BTreeMap::new();
    walk(top, top, &mut found);
    found
}

/// Fails unless both directories hold the same files with the same contents.
#[track_caller]
pub fn assert_same_trees(left: &std::path::Path, right: &std::path::Path) {
    let (left_files, right_files) = (tree(left), tree(right));
    let names = |files: &std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>| -> Vec<_> {
        files.keys().cloned().collect()
    };
    assert_eq!(names(&left_files), names(&right_files), "the same names");
    for (name, contents) in &left_files {
        assert!(*contents == right_files[name], "{} differs", name.display());
    }
}
