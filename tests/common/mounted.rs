//! File systems of a test's own, as small and as full as it needs them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Builder, is_root, run_client};

/// A file system mounted at the directory that a server is to serve, gone with the value.
pub struct Mounted {
    at: PathBuf,
    /// Keeps the directories until nothing is mounted in them any more.
    _builder: Builder,
}

impl Mounted {
    fn of(builder: &Builder) -> Self {
        Self {
            at: builder.root().to_owned(),
            _builder: builder.clone(),
        }
    }

    /// None, and why on standard error, where it cannot be had.
    pub fn with(kind: &str, mkfs: &[&str], size: u64, builder: &Builder) -> Option<Self> {
        let at = builder.root();
        if !is_root() {
            eprintln!("skipped: only root can mount {kind}");
            return None;
        }
        let image = at.with_extension(kind);
        fs::File::create(&image).unwrap().set_len(size).unwrap();
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image).output();
        let Ok(made) = made else {
            eprintln!("skipped: {} is not installed", mkfs[0]);
            return None;
        };
        assert!(made.status.success(), "{made:?}");
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).args([&image, &at.to_owned()]);
        if !mount.output().unwrap().status.success() {
            eprintln!("skipped: this kernel cannot mount {kind}");
            return None;
        }
        Some(Self::of(builder))
    }

    /// 64 MiB of ext4.
    pub fn ext4(builder: &Builder) -> Option<Self> {
        Self::with("ext4", &["mkfs.ext4", "-q"], 64 << 20, builder)
    }

    /// A tmpfs with these options (tmpfs(5)).
    pub fn in_memory(builder: &Builder, options: &str) -> Option<Self> {
        let at = builder.root();
        if !is_root() {
            eprintln!("skipped: only root can mount a file system in memory");
            return None;
        }
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at);
        run_client(&mut mount, 20).succeeded();
        Some(Self::of(builder))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
