//! A server's directory on a file system of its own, as small and as full as a test needs it.

use super::mounts::{Mount, format, may_mount};
use super::{Builder, skip};

/// A file system mounted at the directory that a server is to serve, gone with the value.
pub struct Mounted {
    _mount: Mount,
    /// Keeps the directories until nothing is mounted in them any more.
    _builder: Builder,
}

impl Mounted {
    /// None, and the test is skipped, where it cannot be had. `size` is in bytes.
    #[track_caller]
    pub fn with(kind: &str, mkfs: &[&str], size: u64, builder: &Builder) -> Option<Self> {
        if !may_mount() {
            return None;
        }
        let at = builder.root();
        let image = at.with_extension(kind);
        let made = format(&image, size, mkfs);
        match made.and_then(|()| Mount::image(&image, kind, "noatime", at)) {
            Ok(mount) => Some(Self::of(mount, builder)),
            Err(why) => {
                skip(format_args!("no {kind} here: {why}"));
                None
            }
        }
    }

    /// 64 MiB of ext4.
    #[track_caller]
    pub fn ext4(builder: &Builder) -> Option<Self> {
        Self::with("ext4", &["mkfs.ext4", "-q"], 64 << 20, builder)
    }

    /// A tmpfs with these options (tmpfs(5)).
    #[track_caller]
    pub fn in_memory(builder: &Builder, options: &str) -> Option<Self> {
        may_mount().then(|| Self::of(Mount::memory(builder.root(), options), builder))
    }

    fn of(mount: Mount, builder: &Builder) -> Self {
        Self {
            _mount: mount,
            _builder: builder.clone(),
        }
    }
}
