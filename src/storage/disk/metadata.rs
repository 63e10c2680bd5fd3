//! Facts of a file, and what the kernel's mode bits allow on it.
use std::cell::RefCell;
use std::rc::Rc;

use nix::sys::stat::FileStat;
use nix::unistd::getgroups;

use crate::storage::disk::system;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// A FIFO, a socket, a device.
    Other,
}

pub fn kind(stat: &FileStat) -> Kind {
    match stat.st_mode & nix::libc::S_IFMT {
        nix::libc::S_IFREG => Kind::File,
        nix::libc::S_IFDIR => Kind::Directory,
        nix::libc::S_IFLNK => Kind::Symlink,
        _ => Kind::Other,
    }
}

/// Whether two names, or a name and an open file, mean one file.
pub fn is_same_file(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Whether a file is still the one that was looked at, and holds what it held.
pub fn is_unchanged(then: &FileStat, now: &FileStat) -> bool {
    let facts = |stat: &FileStat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    is_same_file(then, now) && facts(then) == facts(now)
}

/// In bytes.
pub fn size_of(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Whether names can be added to the directory and taken out of it.
pub fn is_writable_directory(stat: &FileStat) -> bool {
    allows(stat, 0o3)
}

/// Whether the file's owner, or root, does what this thread does.
pub fn is_owner(stat: &FileStat) -> bool {
    let process = Process::current();
    process.uid == 0 || process.uid == stat.st_uid
}

/// Whether the mode bits grant this process all of `wanted` (read 4, write 2, search 1).
pub fn allows(stat: &FileStat, wanted: u32) -> bool {
    let process = Process::current();
    if process.uid == 0 {
        return true;
    }
    let shift = if stat.st_uid == process.uid {
        6
    } else if process.groups.contains(&stat.st_gid) {
        3
    } else {
        0
    };
    (stat.st_mode >> shift) & wanted == wanted
}

/// Whether files are touched as root.
pub fn acts_as_root() -> bool {
    Process::current().uid == 0
}

/// Who the kernel takes this thread for when it comes to files; asked once, after root was given up, and again when the
/// thread was told that it acts for somebody else.
struct Process {
    uid: u32,
    groups: Vec<u32>,
}

thread_local! {
    static PROCESS: RefCell<Option<Rc<Process>>> = const { RefCell::new(None) };
}

/// To be called when this thread has begun or ended to act as another user.
pub fn forget_identity() {
    PROCESS.take();
}

impl Process {
    fn current() -> Rc<Self> {
        PROCESS.with_borrow_mut(|process| {
            Rc::clone(process.get_or_insert_with(|| Rc::new(Self::ask())))
        })
    }

    fn ask() -> Self {
        let (uid, gid) = system::identity_for_files();
        let groups = getgroups().unwrap_or_default();
        let mut groups: Vec<u32> = groups.into_iter().map(|gid| gid.as_raw()).collect();
        groups.push(gid);
        Self { uid, groups }
    }
}
