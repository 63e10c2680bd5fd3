//! A directory that nothing leads out of.
//!
//! Paths are resolved by the kernel: openat2(2) with `RESOLVE_IN_ROOT`, so that `..`, absolute links and renames under
//! way all stay below. Where the kernel is older than 5.6 or a filter forbids the call, the path is walked component
//! by component: directories are held open, links are read and walked in their turn, and `..` goes back to a directory
//! held open, never up in the file system. What is opened is opened with `O_NOFOLLOW` then.
//!
//! A guarded root (setting: `require_mount`) is not held but opened for each operation, for two reasons: the disk may
//! come and go meanwhile, and a descriptor would keep it from being unmounted.
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{
    AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlink, readlinkat,
};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{AccessFlags, faccessat};

use crate::storage::disk::metadata::{Kind, kind};
use crate::storage::disk::mount::open_mounted;

/// How a directory is opened whose entries are read.
pub const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Symbolic links in one path, as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// How often a resolution is tried again that a rename has disturbed.
const TRIES: usize = 64;

/// A name of what is open, as long as it is open (proc(5)).
pub fn name_of(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Where what is open really lies on the host: a name that was true for a moment.
///
/// # Errors
/// That of readlink(2).
pub fn position(fd: impl AsFd) -> Result<PathBuf, Errno> {
    readlink(name_of(fd).as_str()).map(PathBuf::from)
}

/// Who resolves paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolver {
    Kernel,
    Walk,
}

impl Resolver {
    /// The kernel where it can; found out once.
    fn best() -> Self {
        static BEST: OnceLock<Resolver> = OnceLock::new();
        *BEST.get_or_init(|| {
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT);
            let top = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
            match top.and_then(|top| openat2(top, ".", how)) {
                Ok(_) => Self::Kernel,
                Err(_) => Self::Walk,
            }
        })
    }
}

/// The directory.
#[derive(Debug)]
pub struct Root {
    /// None for a guarded root, which is opened for each operation.
    held: Option<OwnedFd>,
    host_path: PathBuf,
    resolver: Resolver,
}

/// The directory that a name lies in, and the name.
#[derive(Debug)]
pub struct Place {
    pub directory: OwnedFd,
    pub name: Vec<u8>,
}

impl Root {
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> Result<Self, Errno> {
        Self::open_or_guard(path, false)
    }

    /// The same, or with `require_mount` one in which everything is refused with `ENOMEDIUM` while no file system is mounted at
    /// the directory.
    ///
    /// # Errors
    /// Those of open(2), where it is not guarded.
    pub fn open_or_guard(path: &Path, require_mount: bool) -> Result<Self, Errno> {
        Self::open_with(path, require_mount, Resolver::best())
    }

    fn open_with(path: &Path, require_mount: bool, resolver: Resolver) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let held = match require_mount {
            true => None,
            false => Some(open(path, flags, Mode::empty())?),
        };
        Ok(Self {
            held,
            host_path: path.to_owned(),
            resolver,
        })
    }

    /// Whether it may be read by the rights that it shows, and yet it cannot: the server has confined itself to others.
    pub fn is_confined(&self) -> bool {
        self.held.as_ref().is_some_and(|fd| {
            let opened = openat(fd, ".", DIRECTORY, Mode::empty());
            let may = || faccessat(fd, ".", AccessFlags::R_OK, AtFlags::AT_EACCESS).is_ok();
            matches!(opened, Err(Errno::EACCES)) && may()
        })
    }

    /// The same directory, held open for who outlives this one or works in it for long: of a guarded one, on the disk that
    /// is there now.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEDIUM`.
    pub fn again(&self) -> Result<Self, Errno> {
        let fd = match &self.held {
            Some(fd) => fd.try_clone().map_err(|_| Errno::EMFILE)?,
            None => open_mounted(&self.host_path)?,
        };
        Ok(Self {
            held: Some(fd),
            host_path: self.host_path.clone(),
            resolver: self.resolver,
        })
    }

    /// Does something in the directory, which a guarded root opens for it.
    fn within(
        &self,
        act: impl FnOnce(BorrowedFd<'_>) -> Result<OwnedFd, Errno>,
    ) -> Result<OwnedFd, Errno> {
        match &self.held {
            Some(fd) => act(fd.as_fd()),
            None => act(open_mounted(&self.host_path)?.as_fd()),
        }
    }

    /// Where a path below lies on the host.
    pub fn host_path(&self, relative: &[u8]) -> PathBuf {
        if relative.is_empty() {
            return self.host_path.clone();
        }
        let length = self.host_path.as_os_str().len() + 1 + relative.len();
        let mut path = PathBuf::with_capacity(length);
        path.push(&self.host_path);
        path.push(std::ffi::OsStr::from_bytes(relative));
        path
    }

    /// Opens a path below; the empty one is the root itself. Links are followed, the last one unless `O_NOFOLLOW` is given, and
    /// none leads out. Not to make anything: that is done in a [`Place`].
    ///
    /// # Errors
    /// Those of open(2); `ELOOP` for too many links; `ENOMEDIUM` where the root is guarded and its disk not there.
    pub fn open_below(&self, relative: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_CLOEXEC;
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        self.within(|base| {
            let mut tries = TRIES;
            loop {
                let result = match self.resolver {
                    Resolver::Kernel => openat2(base, or_dot(relative), how),
                    Resolver::Walk => walk(base, relative, flags),
                };
                match result {
                    Err(Errno::EAGAIN | Errno::EINTR) if tries > 0 => tries -= 1,
                    other => return other,
                }
            }
        })
    }

    /// Opens a directory below for reading, which lies on the file system that is mounted at the root and is reached by no
    /// link.
    ///
    /// # Errors
    /// `EXDEV` beyond a mount point, `ELOOP` or `ENOTDIR` behind a link; else those of open(2).
    pub fn open_on_same_mount(&self, relative: &[u8]) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT
            | ResolveFlag::RESOLVE_NO_XDEV
            | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().resolve(resolve);
        self.within(|base| {
            without_trace(DIRECTORY, |flags| match self.resolver {
                Resolver::Kernel => openat2(base, or_dot(relative), how.flags(flags)),
                Resolver::Walk => walk_on_same_mount(base, relative, flags),
            })
        })
    }

    /// The directory that the last component lies in. The name itself is not resolved: what is done with it must not
    /// follow links.
    ///
    /// # Errors
    /// `EBUSY` for the root itself; else those of open(2).
    pub fn place(&self, relative: &[u8]) -> Result<Place, Errno> {
        let (directory, name) = split(relative);
        if name.is_empty() {
            return Err(Errno::EBUSY);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let directory = self.open_below(directory, flags)?;
        let name = name.to_vec();
        Ok(Place { directory, name })
    }

    /// Facts of a path; of a link itself when it is the last component and `follow` is false.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn stat(&self, relative: &[u8], follow: bool) -> Result<FileStat, Errno> {
        let mut flags = OFlag::O_PATH;
        flags.set(OFlag::O_NOFOLLOW, !follow);
        fstat(self.open_below(relative, flags)?)
    }

    /// Neither file nor directory: asked before anything is opened, for opening a device can do something. That of a
    /// watchdog resets the machine. What takes the name in between is opened and refused then.
    pub fn is_special(&self, relative: &[u8]) -> bool {
        (self.stat(relative, true)).is_ok_and(|stat| kind(&stat) == Kind::Other)
    }
}

/// The path of the directory that a path lies in, and its last name.
pub fn split(relative: &[u8]) -> (&[u8], &[u8]) {
    match relative.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&relative[..slash], &relative[slash + 1..]),
        None => (b"", relative),
    }
}

/// A path below as the kernel takes it.
fn or_dot(relative: &[u8]) -> &[u8] {
    if relative.is_empty() { b"." } else { relative }
}

/// Opens a directory without a change of its time of last access, whose writing costs more than the reading. The kernel allows
/// this to the owner only (open(2)); others open it with that change.
///
/// # Errors
/// Those of `open`.
pub fn without_trace(
    flags: OFlag,
    open: impl Fn(OFlag) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    match open(flags | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => open(flags),
        other => other,
    }
}

fn walk(base: BorrowedFd<'_>, relative: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let mut ahead: VecDeque<Vec<u8>> = components(relative);
    let mut behind: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == b".." {
            behind.pop();
            continue;
        }
        let is_last = ahead.is_empty();
        let here = behind.last().map_or(base, AsFd::as_fd);
        let look = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = openat(here, name.as_slice(), look, Mode::empty())?;
        let is_link = kind(&fstat(&found)?) == Kind::Symlink;
        if is_link && !(is_last && flags.contains(OFlag::O_NOFOLLOW)) {
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::ELOOP);
            }
            let target = readlinkat(&found, "")?.into_vec();
            if target.starts_with(b"/") {
                behind.clear();
            }
            for component in components(&target).into_iter().rev() {
                ahead.push_front(component);
            }
            continue;
        }
        if is_last {
            return open_unfollowed(here, &name, flags);
        }
        behind.push(found);
    }
    let here = behind.last().map_or(base, AsFd::as_fd);
    openat(here, ".", flags - OFlag::O_NOFOLLOW, Mode::empty())
}

/// Another mount of the same file system is not noticed by it.
fn walk_on_same_mount(
    base: BorrowedFd<'_>,
    relative: &[u8],
    flags: OFlag,
) -> Result<OwnedFd, Errno> {
    let mut here = openat(base, ".", flags, Mode::empty())?;
    let device = fstat(&here)?.st_dev;
    for name in components(relative) {
        here = openat(&here, name.as_slice(), flags, Mode::empty())?;
        if fstat(&here)?.st_dev != device {
            return Err(Errno::EXDEV);
        }
    }
    Ok(here)
}

/// Opens the name, which is no link; `EAGAIN` when it has become one meanwhile.
fn open_unfollowed(directory: BorrowedFd<'_>, name: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let opened = openat(directory, name, flags | OFlag::O_NOFOLLOW, Mode::empty());
    if flags.contains(OFlag::O_NOFOLLOW) {
        return opened;
    }
    match opened {
        Err(Errno::ELOOP) => Err(Errno::EAGAIN),
        // O_PATH opens a link rather than refuse it.
        Ok(fd) if flags.contains(OFlag::O_PATH) && kind(&fstat(&fd)?) == Kind::Symlink => {
            Err(Errno::EAGAIN)
        }
        other => other,
    }
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    fn read(root: &Root, path: &str) -> Result<String, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let file = root.open_below(path.as_bytes(), flags)?;
        let text = std::io::read_to_string(File::from(file));
        text.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }

    /// As each of the two resolves paths in it.
    fn roots(path: &Path) -> [Root; 2] {
        [Resolver::Kernel, Resolver::Walk].map(|one| Root::open_with(path, false, one).unwrap())
    }

    fn tree() -> tempfile::TempDir {
        let all = tempfile::tempdir().unwrap();
        let root = all.path().join("root");
        fs::create_dir_all(root.join("dir/deep")).unwrap();
        fs::write(root.join("dir/deep/file"), "inside").unwrap();
        fs::write(all.path().join("secret"), "outside").unwrap();
        fs::create_dir(all.path().join("out")).unwrap();
        fs::write(all.path().join("out/secret"), "outside").unwrap();
        symlink("dir/deep/file", root.join("relative")).unwrap();
        symlink("/dir/deep", root.join("absolute")).unwrap();
        symlink("../../dir/../dir/deep/file", root.join("dir/up")).unwrap();
        symlink("../secret", root.join("escape")).unwrap();
        symlink("../../../../../../../../secret", root.join("dir/far")).unwrap();
        symlink(all.path().join("secret"), root.join("host")).unwrap();
        symlink("../out", root.join("outdir")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        all
    }

    #[test]
    fn links_inside_work_and_links_out_lead_nowhere() {
        let all = tree();
        for root in roots(&all.path().join("root")) {
            let resolver = root.resolver;
            let long = "dir/../dir/deep/../deep/file";
            for inside in ["dir/deep/file", "relative", "absolute/file", "dir/up", long] {
                let read = read(&root, inside);
                assert_eq!(read.as_deref(), Ok("inside"), "{inside} {resolver:?}");
            }
            for outside in [
                "escape",
                "dir/far",
                "host",
                "outdir/secret",
                "../secret",
                "../../secret",
                "dir/../../secret",
            ] {
                let read = read(&root, outside);
                assert_eq!(read, Err(Errno::ENOENT), "{outside} {resolver:?}");
            }
            assert_eq!(read(&root, "loop"), Err(Errno::ELOOP), "{resolver:?}");
            let behind_file = read(&root, "relative/x");
            assert_eq!(behind_file, Err(Errno::ENOTDIR), "{resolver:?}");
            assert!(root.stat(b"", true).is_ok() && root.stat(b"loop", false).is_ok());
            assert_eq!(root.place(b"").unwrap_err(), Errno::EBUSY);
            let outside = root.place(b"outdir/x").map(drop);
            assert_eq!(outside, Err(Errno::ENOENT), "{resolver:?}");
        }
    }

    #[test]
    fn what_lies_behind_a_link_or_a_mount_point_is_not_on_the_same_mount() {
        let all = tree();
        for root in roots(&all.path().join("root")) {
            let open = |path: &str| root.open_on_same_mount(path.as_bytes()).map(drop);
            assert_eq!((open(""), open("dir/deep")), (Ok(()), Ok(())));
            for link in ["absolute", "outdir", "dir/up", "absolute/.."] {
                let refused = open(link).unwrap_err();
                assert!(matches!(refused, Errno::ELOOP | Errno::ENOTDIR), "{link}");
            }
        }
        for host in roots(Path::new("/")) {
            let proc = host.open_on_same_mount(b"proc/self");
            assert_eq!(proc.map(drop), Err(Errno::EXDEV), "{host:?}");
        }
    }

    #[test]
    fn a_directory_that_turns_into_a_link_meanwhile_never_leads_out() {
        let all = tree();
        let root_path = all.path().join("root");
        fs::create_dir(root_path.join("spin")).unwrap();
        fs::write(root_path.join("spin/secret"), "inside").unwrap();
        symlink("../out", root_path.join("trap")).unwrap();
        for root in roots(&root_path) {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let name = |name: &str| root_path.join(name);
                    while !over.load(Ordering::Relaxed) {
                        let _ = fs::rename(name("spin"), name("aside"));
                        let _ = fs::rename(name("trap"), name("spin"));
                        let _ = fs::rename(name("spin"), name("trap"));
                        let _ = fs::rename(name("aside"), name("spin"));
                    }
                });
                for _ in 0..20_000 {
                    if let Ok(text) = read(&root, "spin/secret") {
                        assert_eq!(text, "inside", "{root:?}");
                    }
                }
                over.store(true, Ordering::Relaxed);
            });
        }
    }
}
