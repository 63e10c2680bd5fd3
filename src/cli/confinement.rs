//! What the server needs of the system, by its configuration: the plan of the sandbox.
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::config::{Config, directory};
use crate::server::privileges::{self, PER_SESSION};
use crate::server::sandbox::{Access, Confinement, Plan};
use crate::storage::{Permission, Permissions, Rules};
use crate::tls::Source;

/// The port before the control port, from which active connections come (RFC 959 §3.2).
const DATA_PORT: u16 = 20;

/// What is read of the system: names and times, and of the kernel, which file systems have a journal.
const SYSTEM: [(&str, Access); 10] = [
    ("/etc/passwd", Access::Read),
    ("/etc/group", Access::Read),
    ("/etc/localtime", Access::Read),
    ("/etc/timezone", Access::Read),
    ("/usr/share/zoneinfo", Access::Read),
    ("/dev/null", Access::Read),
    ("/proc/fs", Access::Read),
    ("/proc/sys/kernel/random/boot_id", Access::Read),
    // What allocators look at before they make more of themselves.
    ("/sys/devices/system/cpu", Access::Read),
    ("/proc/sys/vm/overcommit_memory", Access::Read),
];

/// All that must stay possible once the server serves. `file` is the configuration's.
pub fn plan(config: &Config, file: Option<&Path>) -> Plan {
    let system = SYSTEM.map(|(path, access)| (PathBuf::from(path), access));
    let mut paths = Vec::from(system);
    paths.push((directory(file, privileges::is_root()), Access::Read));
    for account in config.accounts.iter().chain(config.accounts.anonymous()) {
        let view = &account.view;
        let folders = view.folders.iter();
        let folders = folders.map(|folder| (&folder.root, &folder.rules));
        for (root, rules) in folders.chain([(&view.root, &view.rules)]) {
            let access = access_of(rules.permissions);
            paths.push((root.clone(), access));
            paths.extend(above(root, rules).map(|above| (above, access)));
        }
    }
    for source in &config.tls.service.certificates {
        if let Source::Files { certificate, key } = source {
            // Whoever renews them puts new files in their place.
            for file in [certificate, key] {
                let real = file.canonicalize().ok();
                let real = real.as_deref().and_then(parent);
                paths.extend(parent(file).into_iter().chain(real).map(read));
            }
        }
    }
    paths.extend(
        config
            .tls
            .service
            .client_ca
            .as_deref()
            .and_then(parent)
            .map(read),
    );
    if let Some(log) = config.xferlog.as_deref() {
        paths.extend(parent(log).map(|directory| (directory, Access::Add)));
    }
    paths.sort();
    paths.dedup();
    Plan {
        paths,
        ports: Some(ports(config)),
        identities: config.run_as.as_deref() == Some(PER_SESSION),
    }
}

/// Says what of a configuration that was read again the sandbox does not reach.
pub fn warn(confined: &Confinement, config: &Config, file: Option<&Path>) {
    let lacking = confined.lacks(&plan(config, file));
    if !lacking.is_empty() {
        log::warn!(
            "a restart is needed: the sandbox was made at the start, without {} (setting: sandbox)",
            lacking.join(", ")
        );
    }
}

fn read(directory: PathBuf) -> (PathBuf, Access) {
    (directory, Access::Read)
}

fn parent(file: &Path) -> Option<PathBuf> {
    let parent = file.parent()?;
    Some(if parent.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        parent.to_owned()
    })
}

/// Where a disk comes and goes, or is not there yet, it is found only by a rule for the directory that it is mounted in.
fn above(root: &Path, rules: &Rules) -> Option<PathBuf> {
    let comes_and_goes = rules.require_mount || !root.exists();
    let above = root.parent().filter(|_| comes_and_goes)?;
    (above != Path::new("/")).then(|| above.to_owned())
}

fn access_of(permissions: Permissions) -> Access {
    let seeing = [Permission::List, Permission::Download];
    let more = seeing.into_iter().fold(permissions, Permissions::without);
    if more == Permissions::NONE {
        Access::Read
    } else {
        Access::Write
    }
}

/// Passive ports, 20, and 0: any free one, for active connections.
fn ports(config: &Config) -> Vec<RangeInclusive<u16>> {
    let passive = config.passive_ports;
    vec![0..=0, DATA_PORT..=DATA_PORT, passive.low..=passive.high]
}
