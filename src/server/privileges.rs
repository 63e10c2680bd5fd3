//! From root to the user who serves: who that is, and becoming it for good.
//!
//! Runs before any thread is spawned, for capabilities belong to threads.
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{self, Gid, Uid, geteuid, initgroups, setgroups, setresgid, setresuid};

use crate::os::users::{User, Users};

/// The user that serves when the owner of the files is root.
const SERVICE_USER: &str = "thriftpd";

/// What `run_as` says to have sessions act as the users of the system that they belong to.
pub const PER_SESSION: &str = "session";

/// What the server can still do once it has given up root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Binding ports below 1024.
    pub low_ports: bool,
    /// Acting as other users.
    pub identities: bool,
}

impl Kept {
    fn capabilities(self, identity: &Identity) -> CapsHashSet {
        let mut kept = CapsHashSet::new();
        if self.low_ports {
            kept.insert(Capability::CAP_NET_BIND_SERVICE);
        }
        if self.identities {
            kept.extend([Capability::CAP_SETUID, Capability::CAP_SETGID]);
        } else if *identity == Identity::Root {
            // What makes root the owner of everybody's files, and nothing else that it is.
            kept.extend([
                Capability::CAP_CHOWN,
                Capability::CAP_DAC_OVERRIDE,
                Capability::CAP_FOWNER,
                Capability::CAP_FSETID,
            ]);
        }
        kept
    }
}

/// Who the server becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Not started as root: stays who it is.
    Unchanged,
    /// Root, for there is nobody else to be.
    Root,
    Other {
        uid: u32,
        gid: u32,
        name: Option<String>,
    },
}

#[derive(Debug)]
pub struct PrivilegeError(String);

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PrivilegeError {}

/// Whether the process runs as root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Decides who serves: `run_as` where it is set; else the owner of the first root; if that is root, the user
/// `thriftpd` where it exists.
///
/// # Errors
/// `run_as` names nobody.
pub fn choose(run_as: Option<&str>, first_root: Option<&Path>) -> Result<Identity, PrivilegeError> {
    if !is_root() {
        if run_as == Some(PER_SESSION) {
            return Err(PrivilegeError(
                "run_as = \"session\" needs root, who alone can act as others".into(),
            ));
        }
        return Ok(Identity::Unchanged);
    }
    let service = || {
        let user = Users::at_start().named(SERVICE_USER);
        user.map_or(Identity::Root, identity)
    };
    if run_as == Some(PER_SESSION) {
        return Ok(service());
    }
    if let Some(name) = run_as {
        return match find(name)? {
            Some(user) => Ok(identity(&user)),
            None => Err(PrivilegeError(format!(
                "run_as = \"{name}\": there is no such user; make it with `useradd --system {name}` or name another"
            ))),
        };
    }
    if let Some(metadata) = first_root.and_then(|root| root.metadata().ok()) {
        if metadata.uid() != 0 {
            let owner = Users::at_start().with_uid(metadata.uid());
            return Ok(match owner {
                Some(user) => identity(user),
                None => Identity::Other {
                    uid: metadata.uid(),
                    gid: metadata.gid(),
                    name: None,
                },
            });
        }
    }
    Ok(service())
}

/// Of a host with a name service (LDAP, say) a user may be in no file: only then it is asked, for it brings libraries that take
/// memory for as long as the process lives.
fn find(name: &str) -> Result<Option<User>, PrivilegeError> {
    if let Some(user) = Users::at_start().named(name) {
        return Ok(Some(user.clone()));
    }
    let found = unistd::User::from_name(name)
        .map_err(|errno| PrivilegeError(format!("cannot look up the user {name}: {errno}")))?;
    Ok(found.map(|user| User {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    }))
}

fn identity(user: &User) -> Identity {
    if user.uid == 0 {
        return Identity::Root;
    }
    Identity::Other {
        uid: user.uid,
        gid: user.gid,
        name: Some(user.name.clone()),
    }
}

/// Becomes the identity, for good, and keeps the capabilities that are named and no other, in any set: what was started as
/// somebody else than root gives up all of them.
///
/// # Errors
/// The step that failed. The process must not go on then.
pub fn become_identity(identity: &Identity, kept: Kept) -> Result<(), PrivilegeError> {
    let kept = kept.capabilities(identity);
    forget_capabilities_for_good(&kept);
    if let Identity::Other { uid, gid, name } = identity {
        become_user(Uid::from_raw(*uid), Gid::from_raw(*gid), name.as_deref())?;
    }
    // What was not given to who started us cannot be kept.
    let permitted =
        caps::read(None, CapSet::Permitted).map_err(|error| step("capabilities", &error))?;
    let kept: CapsHashSet = kept.intersection(&permitted).copied().collect();
    let _ = caps::clear(None, CapSet::Ambient);
    for (set, wanted) in [
        (CapSet::Inheritable, &CapsHashSet::new()),
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
    ] {
        caps::set(None, set, wanted).map_err(|error| step("capabilities", &error))?;
    }
    let is_other = matches!(identity, Identity::Other { .. });
    let can_act = kept.contains(&Capability::CAP_SETUID);
    if is_other
        && !can_act
        && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok()
    {
        return Err(PrivilegeError(
            "root could be taken back: refusing to serve".into(),
        ));
    }
    Ok(())
}

fn step(what: &str, error: &dyn fmt::Display) -> PrivilegeError {
    PrivilegeError(format!("cannot give up root: {what}: {error}"))
}

/// Takes them out of the bounding set, so that no program could give them back. Only root may.
fn forget_capabilities_for_good(kept: &CapsHashSet) {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        return;
    }
    for capability in caps::all() {
        if kept.contains(&capability) {
            continue;
        }
        // Those that the kernel does not know cannot be had either.
        if let Err(error) = caps::drop(None, CapSet::Bounding, capability) {
            log::debug!("{capability} stays in the bounding set: {error}");
        }
    }
}

fn become_user(uid: Uid, gid: Gid, name: Option<&str>) -> Result<(), PrivilegeError> {
    let in_file = name.filter(|name| Users::at_start().named(name).is_some());
    let by_service = name.filter(|_| in_file.is_none());
    match by_service.and_then(|name| std::ffi::CString::new(name).ok()) {
        Some(name) => initgroups(&name, gid).map_err(|error| step("initgroups", &error))?,
        None => {
            let groups = Users::at_start().groups_of(in_file, gid.as_raw());
            let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
            setgroups(&groups).map_err(|error| step("setgroups", &error))?;
        }
    }
    prctl::set_keepcaps(true).map_err(|error| step("keeping capabilities", &error))?;
    setresgid(gid, gid, gid).map_err(|error| step("setresgid", &error))?;
    setresuid(uid, uid, uid).map_err(|error| step("setresuid", &error))
}

/// Whether this process may bind ports below 1024, as active data connections from port 20 need it.
pub fn may_bind_low_ports() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_BIND_SERVICE).unwrap_or(false)
}
