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
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{AccessFlags, faccessat};

use crate::storage::disk::metadata::{Kind, kind};
use crate::storage::disk::mount::open_mounted;

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
pub enum Resolver {
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
            match open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                .and_then(|fd| openat2(fd, ".", how))
            {
                Ok(_) => Self::Kernel,
                Err(_) => Self::Walk,
            }
        })
    }
}

/// The directory.
#[derive(Debug)]
pub struct Root {
    base: Base,
    host_path: PathBuf,
    resolver: Resolver,
}

/// How the directory is got at.
#[derive(Debug)]
enum Base {
    Held(OwnedFd),
    /// Opened anew, where a file system is mounted at it.
    Guarded,
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
        Self::open_with(path, Resolver::best())
    }

    pub fn open_with(path: &Path, resolver: Resolver) -> Result<Self, Errno> {
        let fd = open(
            path,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self {
            base: Base::Held(fd),
            host_path: path.to_owned(),
            resolver,
        })
    }

    /// Whether it may be read by the rights that it shows, and yet it cannot: the server has confined itself to others.
    pub fn is_confined(&self) -> bool {
        let Base::Held(fd) = &self.base else {
            return false;
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(fd, ".", flags, Mode::empty());
        let may = || faccessat(fd, ".", AccessFlags::R_OK, AtFlags::AT_EACCESS).is_ok();
        matches!(opened, Err(Errno::EACCES)) && may()
    }

    /// One in which everything is refused with `ENOMEDIUM` while no file system is mounted at the directory.
    pub fn guarded(path: &Path) -> Self {
        Self {
            base: Base::Guarded,
            host_path: path.to_owned(),
            resolver: Resolver::best(),
        }
    }

    /// The one or the other.
    ///
    /// # Errors
    /// Those of open(2), where it is not guarded.
    pub fn open_or_guard(path: &Path, require_mount: bool) -> Result<Self, Errno> {
        match require_mount {
            true => Ok(Self::guarded(path)),
            false => Self::open(path),
        }
    }

    /// The same directory, held open for who outlives this one or works in it for long: of a guarded one, on the disk that
    /// is there now.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEDIUM`.
    pub fn again(&self) -> Result<Self, Errno> {
        let fd = match &self.base {
            Base::Held(fd) => fd.try_clone().map_err(|_| Errno::EMFILE)?,
            Base::Guarded => open_mounted(&self.host_path)?,
        };
        Ok(Self {
            base: Base::Held(fd),
            host_path: self.host_path.clone(),
            resolver: self.resolver,
        })
    }

    /// Where a path below lies on the host.
    pub fn host_path(&self, relative: &[u8]) -> PathBuf {
        if relative.is_empty() {
            return self.host_path.clone();
        }
        self.host_path.join(std::ffi::OsStr::from_bytes(relative))
    }

    /// Opens a path below; the empty one is the root itself. Links are followed, the last one unless `O_NOFOLLOW` or
    /// `O_EXCL` is given, and none leads out.
    ///
    /// # Errors
    /// Those of open(2); `ELOOP` for too many links; `ENOMEDIUM` where the root is guarded and its disk not there.
    pub fn open_below(&self, relative: &[u8], flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_CLOEXEC;
        let opened;
        let base = match &self.base {
            Base::Held(fd) => fd.as_fd(),
            Base::Guarded => {
                opened = open_mounted(&self.host_path)?;
                opened.as_fd()
            }
        };
        let mut tries = TRIES;
        loop {
            let result = match self.resolver {
                Resolver::Kernel => ask_kernel(base, relative, flags, mode),
                Resolver::Walk => walk(base, relative, flags, mode),
            };
            match result {
                Err(Errno::EAGAIN | Errno::EINTR) if tries > 0 => tries -= 1,
                other => return other,
            }
        }
    }

    /// Opens a directory below for reading, which lies on the file system that is mounted at the root and is reached by no
    /// link.
    ///
    /// # Errors
    /// `EXDEV` beyond a mount point, `ELOOP` or `ENOTDIR` behind a link; else those of open(2).
    pub fn open_on_same_mount(&self, relative: &[u8]) -> Result<OwnedFd, Errno> {
        let open = match self.resolver {
            Resolver::Kernel => ask_kernel_on_same_mount,
            Resolver::Walk => walk_on_same_mount,
        };
        // To write when each directory was read costs more than to read it. Only owners may do without (open(2)).
        let open = |base, relative| match open(base, relative, OFlag::O_NOATIME) {
            Err(Errno::EPERM) => open(base, relative, OFlag::empty()),
            other => other,
        };
        match &self.base {
            Base::Held(fd) => open(fd.as_fd(), relative),
            Base::Guarded => open(open_mounted(&self.host_path)?.as_fd(), relative),
        }
    }

    /// The directory that the last component lies in. The name itself is not resolved: what is done with it must not
    /// follow links.
    ///
    /// # Errors
    /// `EBUSY` for the root itself; else those of open(2).
    pub fn place(&self, relative: &[u8]) -> Result<Place, Errno> {
        let (directory, name) = match relative.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&relative[..slash], &relative[slash + 1..]),
            None => (&b""[..], relative),
        };
        if name.is_empty() {
            return Err(Errno::EBUSY);
        }
        let directory =
            self.open_below(directory, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        Ok(Place {
            directory,
            name: name.to_vec(),
        })
    }

    /// Facts of a path; of a link itself when it is the last component and `follow` is false.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn stat(&self, relative: &[u8], follow: bool) -> Result<FileStat, Errno> {
        let flags = if follow {
            OFlag::O_PATH
        } else {
            OFlag::O_PATH | OFlag::O_NOFOLLOW
        };
        fstat(self.open_below(relative, flags, Mode::empty())?)
    }
}

impl Root {
    /// Neither file nor directory: asked before anything is opened, for opening a device can do something. That of a
    /// watchdog resets the machine. What takes the name in between is opened and refused then.
    pub fn is_special(&self, relative: &[u8]) -> bool {
        (self.stat(relative, true)).is_ok_and(|stat| kind(&stat) == Kind::Other)
    }
}

fn ask_kernel(
    base: BorrowedFd<'_>,
    relative: &[u8],
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(
        base,
        if relative.is_empty() {
            b".".as_slice()
        } else {
            relative
        },
        how,
    )
}

fn walk(base: BorrowedFd<'_>, relative: &[u8], flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
    let keeps_last_link = flags.intersects(OFlag::O_NOFOLLOW | OFlag::O_EXCL);
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
        let found = match openat(here, name.as_slice(), look, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::ENOENT) if is_last && flags.contains(OFlag::O_CREAT) => {
                return open_unfollowed(here, &name, flags, mode);
            }
            Err(errno) => return Err(errno),
        };
        let is_link = fstat(&found)?.st_mode & libc::S_IFMT == libc::S_IFLNK;
        if is_link && !(is_last && keeps_last_link) {
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
            return open_unfollowed(here, &name, flags, mode);
        }
        behind.push(found);
    }
    let here = behind.last().map_or(base, AsFd::as_fd);
    openat(here, ".", flags - OFlag::O_NOFOLLOW, mode)
}

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

fn ask_kernel_on_same_mount(
    base: BorrowedFd<'_>,
    relative: &[u8],
    more: OFlag,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT
        | ResolveFlag::RESOLVE_NO_XDEV
        | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(DIRECTORY | more).resolve(resolve);
    let path = if relative.is_empty() { b"." } else { relative };
    openat2(base, path, how)
}

/// Another mount of the same file system is not noticed by it.
fn walk_on_same_mount(
    base: BorrowedFd<'_>,
    relative: &[u8],
    more: OFlag,
) -> Result<OwnedFd, Errno> {
    let mut here = openat(base, ".", DIRECTORY | more, Mode::empty())?;
    let device = fstat(&here)?.st_dev;
    for name in components(relative) {
        here = openat(&here, name.as_slice(), DIRECTORY | more, Mode::empty())?;
        if fstat(&here)?.st_dev != device {
            return Err(Errno::EXDEV);
        }
    }
    Ok(here)
}

/// Opens the name, which is no link; `EAGAIN` when it has become one meanwhile.
fn open_unfollowed(
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let opened = openat(directory, name, flags | OFlag::O_NOFOLLOW, mode);
    let may_be_link = flags.contains(OFlag::O_NOFOLLOW);
    let became_a_link = match &opened {
        Err(Errno::ELOOP) => !may_be_link,
        // O_PATH opens a link rather than refuse it.
        Ok(fd) if flags.contains(OFlag::O_PATH) && !may_be_link => {
            fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFLNK
        }
        _ => false,
    };
    if became_a_link {
        Err(Errno::EAGAIN)
    } else {
        opened
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
    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    const BOTH: [Resolver; 2] = [Resolver::Kernel, Resolver::Walk];

    fn read(root: &Root, path: &str) -> Result<String, Errno> {
        let mut text = String::new();
        let file = root.open_below(
            path.as_bytes(),
            OFlag::O_RDONLY | OFlag::O_NONBLOCK,
            Mode::empty(),
        )?;
        File::from(file)
            .read_to_string(&mut text)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        Ok(text)
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
        for resolver in BOTH {
            let root = Root::open_with(&all.path().join("root"), resolver).unwrap();
            for inside in [
                "dir/deep/file",
                "relative",
                "absolute/file",
                "dir/up",
                "dir/../dir/deep/../deep/file",
            ] {
                assert_eq!(
                    read(&root, inside).as_deref(),
                    Ok("inside"),
                    "{inside} {resolver:?}"
                );
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
                assert_eq!(
                    read(&root, outside),
                    Err(Errno::ENOENT),
                    "{outside} {resolver:?}"
                );
            }
            assert_eq!(read(&root, "loop"), Err(Errno::ELOOP), "{resolver:?}");
            assert_eq!(
                read(&root, "relative/x"),
                Err(Errno::ENOTDIR),
                "{resolver:?}"
            );
            assert!(root.stat(b"", true).is_ok() && root.stat(b"loop", false).is_ok());
            assert_eq!(root.place(b"").unwrap_err(), Errno::EBUSY);
            assert_eq!(
                root.place(b"outdir/x").map(|_| ()),
                Err(Errno::ENOENT),
                "{resolver:?}"
            );
        }
    }

    #[test]
    fn what_lies_behind_a_link_or_a_mount_point_is_not_on_the_same_mount() {
        let all = tree();
        for resolver in BOTH {
            let root = Root::open_with(&all.path().join("root"), resolver).unwrap();
            let open = |path: &str| root.open_on_same_mount(path.as_bytes()).map(drop);
            assert_eq!((open(""), open("dir/deep")), (Ok(()), Ok(())));
            for link in ["absolute", "outdir", "dir/up", "absolute/.."] {
                let refused = open(link).unwrap_err();
                assert!(matches!(refused, Errno::ELOOP | Errno::ENOTDIR), "{link}");
            }
            let host = Root::open_with(Path::new("/"), resolver).unwrap();
            let proc = host.open_on_same_mount(b"proc/self");
            assert_eq!(proc.map(drop), Err(Errno::EXDEV), "{resolver:?}");
        }
    }

    #[test]
    fn creating_through_a_link_never_creates_outside() {
        let all = tree();
        symlink("../made", all.path().join("root/dangling")).unwrap();
        for resolver in BOTH {
            let root = Root::open_with(&all.path().join("root"), resolver).unwrap();
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
            let _ = root.open_below(b"dangling", flags, Mode::from_bits_truncate(0o600));
            assert_eq!(
                root.open_below(b"escape", flags | OFlag::O_EXCL, Mode::S_IRUSR)
                    .map(|_| ()),
                Err(Errno::EEXIST)
            );
            assert!(!all.path().join("made").exists(), "{resolver:?}");
            assert_eq!(fs::read(all.path().join("secret")).unwrap(), b"outside");
        }
    }

    #[test]
    fn a_directory_that_turns_into_a_link_meanwhile_never_leads_out() {
        let all = tree();
        let root_path = all.path().join("root");
        fs::create_dir(root_path.join("spin")).unwrap();
        fs::write(root_path.join("spin/secret"), "inside").unwrap();
        symlink("../out", root_path.join("trap")).unwrap();
        for resolver in BOTH {
            let root = Root::open_with(&root_path, resolver).unwrap();
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
                        assert_eq!(text, "inside", "{resolver:?}");
                    }
                }
                over.store(true, Ordering::Relaxed);
            });
        }
    }
}
