//! The sandbox that the server puts itself into before the first byte of a stranger is read, for good, with or without root.
//!
//! | layer | what is left when a session was taken over |
//! |---|---|
//! | no new privileges | no program raises what the process may do (`PR_SET_NO_NEW_PRIVS`) |
//! | `files` | Landlock: the roots and folders, and little else; nothing can be executed |
//! | `files` (ports) | Landlock from Linux 6.7: only passive ports, 20, and those the kernel chooses can be listened on |
//! | `calls` | seccomp: the system calls that serving needs; no new processes, no executable memory |
//!
//! Outgoing connections are not limited: an active data connection (PORT, EPRT) goes to whatever port the client names.
//! What the kernel does not offer is told, and the server serves without it. Not part of the switch `sandbox` are the
//! capabilities (`privileges`) and [`keep_secrets`].
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
mod calls;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
#[path = "no_calls.rs"]
mod calls;
mod files;

use std::ffi::OsStr;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// What must stay possible beneath a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Naming what is in the directories.
    List,
    Read,
    /// Adding files and writing to them.
    Add,
    /// Everything but making devices and executing.
    Write,
}

/// What the server needs of the system from now on.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// With links followed.
    pub paths: Vec<(PathBuf, Access)>,
    /// TCP ports to be bound; None: any.
    pub ports: Option<Vec<RangeInclusive<u16>>>,
    /// Threads take on the identities of users.
    pub identities: bool,
}

/// What becomes of a system call that is not on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The call fails with `EPERM`, and a line is logged: what a defect has is no use, and the others go on being served.
    Refuse,
    /// The process ends: tests find out what is missing.
    Kill,
}

impl Violation {
    /// The variable by which the tests ask for the end of the process.
    pub const VARIABLE: &'static str = "THRIFTPD_SECCOMP";

    /// By the variable's value.
    pub fn by(value: Option<&OsStr>) -> Self {
        match value {
            Some(value) if value == "kill" => Self::Kill,
            _ => Self::Refuse,
        }
    }
}

/// Which layers there are, and which the system does not offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    pub active: Vec<String>,
    pub missing: Vec<String>,
}

impl Layers {
    fn add(&mut self, layer: Result<String, String>) {
        match layer {
            Ok(layer) => self.active.push(layer),
            Err(layer) => self.missing.push(layer),
        }
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.active.join(", "))?;
        if !self.missing.is_empty() {
            write!(f, "; not available: {}", self.missing.join(", "))?;
        }
        Ok(())
    }
}

/// Keeps passwords in memory from ending up on the disk or with another process of the same user: no core dumps, no
/// debuggers. To be called before anything secret is read, and again where the process has become somebody else, which undoes
/// a part of it.
pub fn keep_secrets() {
    if let Err(errno) = prctl::set_dumpable(false) {
        log::warn!("other processes of this user may look into the server's memory: {errno}");
    }
    // Zero holds for files only; with one, which is too little for any file, programs that take dumps get none either
    // (core(5); do_coredump() in Linux).
    if let Err(errno) = setrlimit(Resource::RLIMIT_CORE, 1, 1) {
        log::warn!("a crash may write passwords to the disk: {errno}");
    }
}

/// Confines this thread, and all that it will start. Must run before any other thread is there.
pub fn enter(plan: &Plan, violation: Violation) -> Layers {
    let mut layers = Layers::default();
    match prctl::set_no_new_privs() {
        Ok(()) => layers.add(Ok("no new privileges".into())),
        Err(errno) => layers.add(Err(format!("no new privileges ({errno})"))),
    }
    for layer in files::enter(plan) {
        layers.add(layer);
    }
    layers.add(calls::enter(plan, violation));
    layers
}

/// What [`enter`] would do here, as far as can be told without doing it.
pub fn available(plan: &Plan) -> Layers {
    let mut layers = Layers::default();
    layers.add(Ok("no new privileges".into()));
    for layer in files::available(plan) {
        layers.add(layer);
    }
    layers.add(calls::available());
    layers
}

/// What was asked for at the start, to be compared with what a reload asks for.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    paths: Vec<(PathBuf, Access)>,
    ports: Option<Vec<RangeInclusive<u16>>>,
    identities: bool,
    /// There is a layer that keeps other files closed.
    keeps_files: bool,
}

impl Confinement {
    /// To be made before [`enter`], while everything can still be looked at.
    pub fn of(plan: &Plan) -> Self {
        let [files, ports] = files::available(plan);
        let real = |path: &Path| path.canonicalize().ok();
        let paths = plan.paths.iter();
        Self {
            paths: paths
                .filter_map(|(path, access)| Some((real(path)?, *access)))
                .collect(),
            ports: plan.ports.clone().filter(|_| ports.is_ok()),
            identities: plan.identities,
            keeps_files: files.is_ok(),
        }
    }

    /// What of another plan lies outside: paths and settings for a log line.
    pub fn lacks(&self, plan: &Plan) -> Vec<String> {
        let mut lacking: Vec<String> = Vec::new();
        for (path, access) in plan.paths.iter().filter(|_| self.keeps_files) {
            // What is not there need not be reached.
            let Ok(real) = path.canonicalize() else {
                continue;
            };
            let covered = self
                .paths
                .iter()
                .any(|(held, may)| may >= access && real.starts_with(held));
            if !covered {
                lacking.push(path.display().to_string());
            }
        }
        let within = |range: &RangeInclusive<u16>| {
            self.ports.as_ref().is_none_or(|held| {
                let mut held = held.iter();
                held.any(|held| held.contains(range.start()) && held.contains(range.end()))
            })
        };
        match &plan.ports {
            Some(ports) if ports.iter().all(within) => {}
            None if self.ports.is_none() => {}
            _ => lacking.push("passive_ports".into()),
        }
        if plan.identities && !self.identities {
            lacking.push("run_as".into());
        }
        lacking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(paths: &[(&str, Access)], ports: Option<(u16, u16)>) -> Plan {
        Plan {
            paths: paths
                .iter()
                .map(|(path, may)| ((*path).into(), *may))
                .collect(),
            ports: ports.map(|(low, high)| vec![low..=high]),
            identities: false,
        }
    }

    #[test]
    fn what_a_reload_adds_is_found() {
        let at_start = plan(
            &[("/usr", Access::Read), ("/tmp", Access::Write)],
            Some((5000, 5999)),
        );
        // Whatever this kernel has.
        let held = Confinement {
            paths: at_start.paths,
            ports: at_start.ports,
            identities: false,
            keeps_files: true,
        };
        let inside = plan(
            &[("/usr/share", Access::Read), ("/tmp", Access::Read)],
            Some((5100, 5200)),
        );
        assert_eq!(held.lacks(&inside), [""; 0]);
        let wider = plan(&[("/usr", Access::Write), ("/", Access::Read)], None);
        assert_eq!(held.lacks(&wider), ["/usr", "/", "passive_ports"]);
        let others = Plan {
            identities: true,
            ..inside
        };
        assert_eq!(held.lacks(&others), ["run_as"]);
    }

    #[test]
    fn more_ports_than_are_worth_a_rule_each_are_told_and_not_limited() {
        let many = plan(&[], Some((1024, 65535)));
        let layers = available(&many);
        let too_many = |layer: &String| layer == "port rules (too many passive_ports)";
        assert!(layers.missing.iter().any(too_many), "{layers}");
        assert!(!layers.active.iter().any(|layer| layer == "port rules"));
        let few = available(&plan(&[], Some((5000, 5999))));
        assert!(!few.missing.iter().any(too_many), "{few}");
        // Nothing was limited that a reload could go beyond.
        let held = Confinement::of(&many);
        assert_eq!(held.lacks(&plan(&[], Some((80, 90)))), [""; 0]);
        assert_eq!(held.lacks(&plan(&[], None)), [""; 0]);
    }
}
