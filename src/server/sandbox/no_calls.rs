//! Machines for which no filter of system calls can be made.
use super::{Plan, Violation};

const LAYER: &str = "system call rules (seccomp: not for this machine)";

pub fn available() -> Result<String, String> {
    Err(LAYER.into())
}

pub fn enter(_: &Plan, _: Violation) -> Result<String, String> {
    Err(LAYER.into())
}
