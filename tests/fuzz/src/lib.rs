//! What is fuzzed: one function a target, which takes any bytes and panics where the code under test breaks a promise.
//!
//! `cargo fuzz run --fuzz-dir tests/fuzz TARGET` drives them by coverage (scripts/test does so for some seconds);
//! tests/fuzz_corpus.rs includes this file and replays `corpus/TARGET/` on any toolchain. A finding is fixed first and its
//! input added to the corpus then.

// The tests and the targets use their own part each.
#![allow(dead_code, unused_imports)]

mod formats;
mod protocol;
mod session;

pub use formats::{configuration, listing, records};
pub use protocol::{ascii, command, facts, glob, host_port, lines, path, times};
pub use session::{leave, session};

/// A name and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All targets by their names.
pub const TARGETS: &[Target] = &[
    ("lines", lines),
    ("command", command),
    ("host_port", host_port),
    ("path", path),
    ("glob", glob),
    ("listing", listing),
    ("times", times),
    ("facts", facts),
    ("ascii", ascii),
    ("configuration", configuration),
    ("records", records),
    ("session", session),
];

/// What lies before the first byte of this value, and what behind it.
fn split_at_byte(data: &[u8], byte: u8) -> (&[u8], &[u8]) {
    let at = data.iter().position(|&b| b == byte).unwrap_or(data.len());
    (&data[..at], data.get(at + 1..).unwrap_or_default())
}

/// A number from the front of the data, and the rest.
fn number(data: &[u8]) -> (u64, &[u8]) {
    let (front, rest) = data.split_at(data.len().min(8));
    let mut bytes = [0; 8];
    bytes[..front.len()].copy_from_slice(front);
    (u64::from_le_bytes(bytes), rest)
}
