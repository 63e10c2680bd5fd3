//! What a test cannot have where it runs. It says so by its name, on standard error past the harness, which keeps to itself
//! what a test that passes prints, and in the file that scripts/test shows at its end.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::Location;

/// The variable that names the file.
const FILE: &str = "THRIFTPD_SKIPPED";

/// Says that the test is skipped, and why.
#[track_caller]
pub fn skip(why: impl Display) {
    say("skipped", &why);
}

/// Says that a part of the test is skipped, and why.
#[track_caller]
pub fn skip_part(why: impl Display) {
    say("skipped in part", &why);
}

/// Whether root runs the test; says otherwise that it is skipped, for this needs root.
#[track_caller]
pub fn root_may(what: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skip(format_args!("{what} needs root"));
    }
    is_root
}

#[track_caller]
fn say(how: &str, why: &dyn Display) {
    let thread = std::thread::current();
    // The harness calls a test's thread by its name, unless it has but one thread for all.
    let test = match thread.name() {
        Some(name) if name != "main" => format!("{}::{name}", env!("CARGO_CRATE_NAME")),
        _ => Location::caller().to_string(),
    };
    let line = format!("{how}: {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(file) = std::env::var_os(FILE) {
        let file = OpenOptions::new().append(true).create(true).open(file);
        // In one piece, for tests run side by side.
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}
