//! Disks of a test's own, mounted where nobody else sees them and gone with the value.

use super::{root_may, run_client, skip};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether this thread may mount. From now on its mounts, and those of what it starts, are in nobody's way, and the kernel
/// takes them away should the tests be killed. Otherwise the test is skipped.
#[track_caller]
pub fn may_mount() -> bool {
    if !root_may("to mount file systems") {
        return false;
    }
    let private = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
    });
    if let Err(errno) = private {
        skip(format_args!(
            "this root may not mount file systems: {errno}"
        ));
    }
    private.is_ok()
}

/// Where a program is, if it is installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut files = directories.map(|directory| directory.join(name));
    files.find(|file| file.is_file())
}

/// Makes a file with holes that holds an empty file system. Tells why not where the program for that is missing.
pub fn format(image: &Path, size: u64, mkfs: &[&str]) -> Result<(), String> {
    let Some(maker) = program(mkfs[0]) else {
        return Err(format!("{} is not installed", mkfs[0]));
    };
    File::create(image).unwrap().set_len(size).unwrap();
    run_client(Command::new(maker).args(&mkfs[1..]).arg(image), 60).succeeded();
    Ok(())
}

/// A mounted file system.
pub struct Mount {
    at: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Mounts the file system in a file, through a loop device that ends with the mount. Tells what mount(8) says where
    /// that cannot be done.
    pub fn image(image: &Path, kind: &str, options: &str, at: &Path) -> Result<Self, String> {
        let options = format!("loop,{options}");
        let output = Command::new("mount")
            .args(["-t", kind, "-o", &options])
            .args([image, at])
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(Self {
            at: at.to_owned(),
            mounted: true,
        })
    }

    /// Memory as a disk.
    pub fn memory(at: &Path, options: &str) -> Self {
        let none = MsFlags::empty();
        mount(Some("tmpfs"), at, Some("tmpfs"), none, Some(options)).unwrap();
        Self {
            at: at.to_owned(),
            mounted: true,
        }
    }

    /// What mount(8) makes of these arguments.
    #[track_caller]
    pub fn with(arguments: &[&str], at: &Path) -> Self {
        run_client(Command::new("mount").args(arguments).arg(at), 20).succeeded();
        Self {
            at: at.to_owned(),
            mounted: true,
        }
    }

    /// Takes its name away; what is open stays open.
    #[track_caller]
    pub fn detach(mut self) {
        umount2(&self.at, MntFlags::MNT_DETACH).unwrap();
        self.mounted = false;
    }

    /// Changes the options of the mount, such as `ro`.
    pub fn remount(&self, options: &str) {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{options}")]);
        run_client(command.arg(&self.at), 20).succeeded();
    }

    /// Waits until nobody uses it any more, and all of it is written.
    pub fn unmount(mut self) {
        super::eventually("the file system can be unmounted", || {
            umount2(&self.at, MntFlags::empty()).is_ok()
        });
        self.mounted = false;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // Now, or once the last file in it is closed.
            let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        }
    }
}
