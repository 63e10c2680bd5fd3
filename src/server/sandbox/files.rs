//! Landlock: what of the file system can be opened and changed, and which ports can be listened on.
//!
//! A rule belongs to a directory as it is now, and all that lies beneath. A disk that is mounted on it later is not part of
//! that, which is why the directory above must be named for one that comes and goes. Kernels before 5.19 (ABI 2) forbid
//! every rename from one directory to another: they get no such layer.
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    NetPort, PathBeneath, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope,
};
use nix::libc;

use super::{Access, Plan};

/// The least that renames work with.
const LEAST: ABI = ABI::V2;

/// The newest that these rules were written for.
const BEST: ABI = ABI::V6;

/// Ports that are worth a rule each.
const MOST_PORTS: usize = 8192;

const TOO_MANY_PORTS: &str = "port rules (too many passive_ports)";

type Layer = Result<String, String>;

/// Whether the ports can be limited to those of the plan.
fn limits_ports(plan: &Plan) -> bool {
    plan.ports.as_ref().is_some_and(|ports| {
        let counts = ports.iter().map(|range| range.len());
        counts.sum::<usize>() <= MOST_PORTS
    })
}

pub fn enter(plan: &Plan) -> Vec<Layer> {
    let ports = limits_ports(plan);
    let status = match restrict(plan, ports) {
        Ok(status) => status,
        Err(error) => return vec![Err(format!("file rules (Landlock: {error})"))],
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return vec![Err("file rules (Landlock)".into())];
    }
    let LandlockStatus::Available { effective_abi, .. } = status.landlock else {
        return vec![Err("file rules (Landlock)".into())];
    };
    let files = Ok(format!("file rules (Landlock {})", effective_abi as i32));
    let bound = match ports {
        false => Err(TOO_MANY_PORTS.into()),
        true if effective_abi < ABI::V4 => Err("port rules (Linux 6.7)".into()),
        true => Ok("port rules".into()),
    };
    vec![files, bound]
}

/// The rules for files, and those for ports, of this plan.
pub fn available(plan: &Plan) -> [Layer; 2] {
    let rules = |net: bool| {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let rules = rules.handle_access(AccessFs::from_all(LEAST))?;
        let rules = match net {
            true => rules.handle_access(AccessNet::BindTcp)?,
            false => rules,
        };
        rules.create().map(drop)
    };
    let layer = |works: Result<(), RulesetError>, yes: &str, no: &str| match works {
        Ok(()) => Ok(yes.to_owned()),
        Err(_) => Err(no.to_owned()),
    };
    [
        layer(
            rules(false),
            "file rules (Landlock)",
            "file rules (Landlock)",
        ),
        match limits_ports(plan) {
            true => layer(rules(true), "port rules", "port rules (Linux 6.7)"),
            false => Err(TOO_MANY_PORTS.into()),
        },
    ]
}

fn restrict(plan: &Plan, ports: bool) -> Result<RestrictionStatus, RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(BEST))?
        // No signals and no abstract sockets to who is outside.
        .scope(Scope::from_all(BEST))?;
    let rules = match ports {
        true => rules.handle_access(AccessNet::BindTcp)?,
        false => rules,
    };
    let mut rules = rules.create()?;
    for (path, access) in &plan.paths {
        match open(path) {
            Ok(directory) => {
                let is_directory = path.is_dir();
                let rule = PathBeneath::new(&directory, rights(*access, is_directory));
                rules = rules.add_rule(rule)?;
                if *access == Access::List {
                    // Directories of /proc are made anew when nobody holds them, and then not the ones of the rule.
                    std::mem::forget(directory);
                }
            }
            Err(error) => log::debug!("sandbox: {}: {error}", path.display()),
        }
    }
    for range in plan.ports.iter().flatten().filter(|_| ports) {
        for port in range.clone() {
            rules = rules.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
        }
    }
    rules.restrict_self()
}

fn open(path: &Path) -> std::io::Result<OwnedFd> {
    let path = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path);
    path.map(OwnedFd::from)
}

fn rights(access: Access, is_directory: bool) -> BitFlags<AccessFs> {
    let rights: BitFlags<AccessFs> = match access {
        Access::List => AccessFs::ReadDir.into(),
        Access::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::Add => {
            AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::ReadDir | AccessFs::Truncate
        }
        Access::Write => {
            // FIFOs and sockets can be renamed, which counts as making them; no system call that is left makes one.
            let never =
                AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
            AccessFs::from_all(BEST) & !never
        }
    };
    if is_directory {
        rights
    } else {
        rights & AccessFs::from_file(BEST)
    }
}
