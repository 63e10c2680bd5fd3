//! A file system of a test's own, in FUSE: it can do as much as the test wants it to, and its flushes wait at a gate while
//! that is closed. A loop device over one of its files makes any other file system wait there too.

use crate::common::PATIENCE;
use crate::common::mounts::{Mount, format};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

/// What the file system can do.
#[derive(Clone, Copy)]
pub struct Abilities {
    /// The flags of renameat2(2).
    pub rename_flags: bool,
    /// Extended attributes (xattr(7)).
    pub attributes: bool,
    /// Locks of files: what is asked for is refused where it has none.
    pub locks: bool,
    /// Further names of a file.
    pub links: bool,
}

impl Abilities {
    pub const ALL: Self = Self {
        rename_flags: true,
        attributes: true,
        locks: true,
        links: true,
    };

    pub const fn without_attributes(mut self) -> Self {
        self.attributes = false;
        self
    }

    pub const fn without_rename_flags(mut self) -> Self {
        self.rename_flags = false;
        self
    }

    pub const fn without_links(mut self) -> Self {
        self.links = false;
        self
    }

    pub const fn without_locks(mut self) -> Self {
        self.locks = false;
        self
    }
}

/// Where flushes wait while it is closed.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<Flushes>, Condvar)>);

#[derive(Default)]
struct Flushes {
    is_closed: bool,
    /// How often it was closed.
    closed: u64,
    waiting: Vec<ReplyEmpty>,
}

impl Gate {
    fn flushes(&self) -> MutexGuard<'_, Flushes> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on flushes wait. A test that fails meanwhile, and its server, end all the same.
    pub fn close(&self) {
        let mut flushes = self.flushes();
        flushes.is_closed = true;
        flushes.closed += 1;
        let (gate, closed) = (self.clone(), flushes.closed);
        std::thread::spawn(move || {
            let is_over = |flushes: &mut Flushes| !flushes.is_closed || flushes.closed != closed;
            let flushes = gate.flushes();
            let waited =
                (gate.0.1).wait_timeout_while(flushes, 3 * PATIENCE, |flushes| !is_over(flushes));
            let mut flushes = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !is_over(&mut flushes) {
                eprintln!("a gate was left closed");
                drop(flushes);
                gate.open();
            }
        });
    }

    /// Waits until a flush waits.
    #[track_caller]
    pub fn wait(&self) {
        let flushes = self.flushes();
        let waited =
            (self.0.1).wait_timeout_while(flushes, PATIENCE, |flushes| flushes.waiting.is_empty());
        assert!(
            !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out(),
            "nothing is flushed"
        );
    }

    /// Whether a flush waits.
    pub fn is_reached(&self) -> bool {
        !self.flushes().waiting.is_empty()
    }

    /// Lets those through that wait, and no others.
    pub fn pass(&self) {
        self.pass_unless(&|| false);
    }

    /// The same unless something has come true by now, which is told. What comes to wait meanwhile goes on waiting: it may be the
    /// very flush that makes the difference, and another of the file system's own be the one that waited before.
    pub fn pass_unless(&self, has_come: &dyn Fn() -> bool) -> bool {
        let waiting = std::mem::take(&mut self.flushes().waiting);
        let has_come = has_come();
        match has_come {
            true => self.flushes().waiting.extend(waiting),
            false => waiting.into_iter().for_each(ReplyEmpty::ok),
        }
        has_come
    }

    pub fn open(&self) {
        self.flushes().is_closed = false;
        self.0.1.notify_all();
        self.pass();
    }

    fn reach(&self, reply: ReplyEmpty) {
        let mut flushes = self.flushes();
        if !flushes.is_closed {
            return reply.ok();
        }
        flushes.waiting.push(reply);
        self.0.1.notify_all();
    }
}

/// A file system that waits until this is gone.
pub struct Held(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((release, thread)) = self.0.take() {
            drop(release);
            let _ = thread.join();
        }
    }
}

/// The mounted file system. Gone with the value.
pub struct Shelf {
    pub gate: Gate,
    nodes: Arc<Mutex<Nodes>>,
    session: Option<BackgroundSession>,
}

impl Shelf {
    /// While this lives, whoever looks at anything in the file system waits. A test that fails meanwhile, and its server, end all
    /// the same.
    pub fn hold(&self) -> Held {
        let nodes = Arc::clone(&self.nodes);
        let (release, released) = mpsc::channel();
        let (tell, is_held) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let _nodes = nodes.lock().unwrap_or_else(PoisonError::into_inner);
            tell.send(()).unwrap();
            if released.recv_timeout(3 * PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a shelf was left held");
            }
        });
        is_held.recv().unwrap();
        Held(Some((release, thread)))
    }

    /// None, and why on standard error, where there is no FUSE. To be called where mounts are allowed.
    pub fn mount(at: &Path, abilities: Abilities) -> Option<Self> {
        let gate = Gate::default();
        let nodes = Arc::new(Mutex::new(Nodes::new()));
        let served = Served {
            abilities,
            gate: gate.clone(),
            nodes: Arc::clone(&nodes),
        };
        match fuser::spawn_mount(served, at, &Config::default()) {
            Ok(session) => Some(Self {
                gate,
                nodes,
                session: Some(session),
            }),
            Err(error) => {
                crate::common::skip(format_args!(
                    "a FUSE file system cannot be mounted: {error}"
                ));
                None
            }
        }
    }

    /// From now on this is the time in the file system.
    pub fn set_clock(&self, time: SystemTime) {
        self.nodes.lock().unwrap().clock = Clock(Some((time, Instant::now())));
    }

    /// Makes a file that holds what the given one does, and is it.
    fn put(&self, name: &str, file: File) {
        let size = file.metadata().unwrap().len();
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.add(
            INodeNo::ROOT,
            OsStr::new(name),
            FileType::RegularFile,
            0o600,
        );
        let node = nodes.at(node.ino);
        node.attr.size = size;
        node.file = Some(file);
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.gate.open();
        if let Some(session) = self.session.take() {
            // What still uses it keeps it a moment longer.
            let _ = session.umount_and_join();
        }
    }
}

/// Another file system on a disk whose flushes wait at a gate.
pub struct Gated {
    // Unmounted before what it lies on.
    _mount: Mount,
    shelf: Shelf,
    _directory: tempfile::TempDir,
}

impl Gated {
    /// None, and why on standard error, where it cannot be had. `size` is in bytes.
    pub fn mount(kind: &str, mkfs: &[&str], size: u64, at: &Path) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        if let Err(why) = format(&image, size, mkfs) {
            crate::common::skip_part(format_args!("no {kind} here: {why}"));
            return None;
        }
        let shelf_at = directory.path().join("shelf");
        std::fs::create_dir(&shelf_at).unwrap();
        let shelf = Shelf::mount(&shelf_at, Abilities::ALL)?;
        let file = File::options().read(true).write(true).open(&image);
        shelf.put("disk", file.unwrap());
        match Mount::image(&shelf_at.join("disk"), kind, "noatime", at) {
            Ok(mount) => Some(Self {
                _mount: mount,
                shelf,
                _directory: directory,
            }),
            Err(why) => {
                crate::common::skip_part(format_args!("no {kind} here: {why}"));
                None
            }
        }
    }

    pub fn gate(&self) -> &Gate {
        &self.shelf.gate
    }
}

struct Node {
    attr: FileAttr,
    file: Option<File>,
    entries: BTreeMap<OsString, INodeNo>,
    attributes: BTreeMap<OsString, Vec<u8>>,
}

struct Nodes {
    nodes: BTreeMap<u64, Node>,
    clock: Clock,
}

/// What the file system takes for the time: that of the host, or another that runs as fast.
struct Clock(Option<(SystemTime, Instant)>);

impl Clock {
    fn now(&self) -> SystemTime {
        match self.0 {
            Some((set, then)) => set + then.elapsed(),
            None => SystemTime::now(),
        }
    }
}

impl Nodes {
    fn new() -> Self {
        let mut nodes = Self {
            nodes: BTreeMap::new(),
            clock: Clock(None),
        };
        nodes.make(FileType::Directory, 0o755);
        nodes
    }

    fn make(&mut self, kind: FileType, perm: u16) -> FileAttr {
        let now = self.clock.now();
        let attr = FileAttr {
            ino: INodeNo(self.nodes.len() as u64 + 1),
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        let is_file = kind == FileType::RegularFile;
        let node = Node {
            attr,
            file: is_file.then(|| tempfile::tempfile().unwrap()),
            entries: BTreeMap::new(),
            attributes: BTreeMap::new(),
        };
        self.nodes.insert(attr.ino.0, node);
        attr
    }

    fn add(&mut self, parent: INodeNo, name: &OsStr, kind: FileType, perm: u16) -> FileAttr {
        let attr = self.make(kind, perm);
        self.at(parent).entries.insert(name.to_owned(), attr.ino);
        attr
    }

    fn at(&mut self, ino: INodeNo) -> &mut Node {
        self.nodes.get_mut(&ino.0).unwrap()
    }

    fn find(&mut self, parent: INodeNo, name: &OsStr) -> Option<INodeNo> {
        self.at(parent).entries.get(name).copied()
    }

    /// A name is gone.
    fn unlinked(&mut self, ino: INodeNo) {
        let now = self.clock.now();
        let attr = &mut self.at(ino).attr;
        attr.nlink = attr.nlink.saturating_sub(1);
        attr.ctime = now;
    }

    fn rename(
        &mut self,
        (parent, name): (INodeNo, &OsStr),
        (to, new): (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let moved = self.find(parent, name).ok_or(Errno::ENOENT)?;
        let there = self.find(to, new);
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && there.is_some() {
            return Err(Errno::EEXIST);
        }
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            let there = there.ok_or(Errno::ENOENT)?;
            self.at(parent).entries.insert(name.to_owned(), there);
        } else if there != Some(moved) {
            self.at(parent).entries.remove(name);
            if let Some(there) = there {
                self.unlinked(there);
            }
        }
        self.at(to).entries.insert(new.to_owned(), moved);
        self.at(moved).attr.ctime = self.clock.now();
        Ok(())
    }
}

struct Served {
    abilities: Abilities,
    gate: Gate,
    nodes: Arc<Mutex<Nodes>>,
}

/// Nothing is remembered by the kernel.
const TTL: Duration = Duration::ZERO;

impl Served {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        if !self.abilities.locks {
            // Else the kernel keeps them by itself.
            let asked = InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS;
            let _ = config.add_capabilities(asked);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut nodes = self.nodes();
        match nodes.find(parent, name) {
            Some(ino) => reply.entry(&TTL, &nodes.at(ino).attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.nodes().at(ino).attr);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut nodes = self.nodes();
        let now = nodes.clock.now();
        let time = |time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => now,
        };
        let Node { attr, file, .. } = nodes.at(ino);
        attr.ctime = now;
        attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
        (attr.uid, attr.gid) = (uid.unwrap_or(attr.uid), gid.unwrap_or(attr.gid));
        if let (Some(size), Some(file)) = (size, file) {
            file.set_len(size).unwrap();
            attr.size = size;
            attr.mtime = attr.ctime;
        }
        attr.atime = atime.map_or(attr.atime, time);
        attr.mtime = mtime.map_or(attr.mtime, time);
        reply.attr(&TTL, attr);
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let perm = (mode & 0o7777) as u16;
        let attr = self.nodes().add(parent, name, FileType::Directory, perm);
        reply.entry(&TTL, &attr, Generation(0));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut nodes = self.nodes();
        match nodes.at(parent).entries.remove(name) {
            Some(ino) => {
                nodes.unlinked(ino);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut nodes = self.nodes();
        match nodes.find(parent, name) {
            None => reply.error(Errno::ENOENT),
            Some(ino) if !nodes.at(ino).entries.is_empty() => reply.error(Errno::ENOTEMPTY),
            Some(_) => {
                nodes.at(parent).entries.remove(name);
                reply.ok();
            }
        }
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !self.abilities.rename_flags && !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        match self.nodes().rename((parent, name), (to, new), flags) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if !self.abilities.links {
            return reply.error(Errno::EPERM);
        }
        let mut nodes = self.nodes();
        if nodes.find(parent, name).is_some() {
            return reply.error(Errno::EEXIST);
        }
        nodes.at(parent).entries.insert(name.to_owned(), ino);
        let now = nodes.clock.now();
        let attr = &mut nodes.at(ino).attr;
        attr.nlink += 1;
        attr.ctime = now;
        reply.entry(&TTL, attr, Generation(0));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut nodes = self.nodes();
        if nodes.find(parent, name).is_some() {
            return reply.error(Errno::EEXIST);
        }
        let perm = (mode & 0o7777) as u16;
        let attr = nodes.add(parent, name, FileType::RegularFile, perm);
        let flags = FopenFlags::empty();
        reply.created(&TTL, &attr, Generation(0), FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut nodes = self.nodes();
        let Node { attr, file, .. } = nodes.at(ino);
        let left = attr.size.saturating_sub(offset);
        let mut bytes = vec![0; (size as usize).min(usize::try_from(left).unwrap())];
        let file = file.as_ref().unwrap();
        file.read_exact_at(&mut bytes, offset).unwrap();
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut nodes = self.nodes();
        let now = nodes.clock.now();
        let Node { attr, file, .. } = nodes.at(ino);
        let file = file.as_ref().unwrap();
        file.write_all_at(bytes, offset).unwrap();
        attr.size = attr.size.max(offset + bytes.len() as u64);
        (attr.mtime, attr.ctime) = (now, now);
        reply.written(bytes.len() as u32);
    }

    /// At each close(2).
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.gate.reach(reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.gate.reach(reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut nodes = self.nodes();
        let entries: Vec<_> = nodes.at(ino).entries.clone().into_iter().collect();
        let dots = [OsString::from("."), OsString::from("..")].map(|name| (name, ino));
        let all = dots.into_iter().chain(entries).enumerate();
        for (index, (name, ino)) in all.skip(usize::try_from(offset).unwrap()) {
            let kind = nodes.at(ino).attr.kind;
            if reply.add(ino, index as u64 + 1, kind, &name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096);
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        if !self.abilities.attributes || name.as_encoded_bytes().starts_with(b"system.") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut nodes = self.nodes();
        let now = nodes.clock.now();
        let node = nodes.at(ino);
        node.attributes.insert(name.to_owned(), value.to_vec());
        node.attr.ctime = now;
        reply.ok();
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !self.abilities.attributes {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut nodes = self.nodes();
        match nodes.at(ino).attributes.get(name) {
            None => reply.error(Errno::ENODATA),
            Some(value) if size == 0 => reply.size(value.len() as u32),
            Some(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Some(value) => reply.data(value),
        }
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if !self.abilities.attributes {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.nodes().at(ino).attributes.remove(name) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENODATA),
        }
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOLCK);
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: fuser::ReplyLock,
    ) {
        reply.error(Errno::ENOLCK);
    }
}

/// Where the files of the file systems lie that tests mount, by name: `mkfs` and the least size in bytes.
pub const DISKS: [(&str, &[&str], u64); 3] = [
    ("ext4", &["mkfs.ext4", "-q"], 64 << 20),
    ("xfs", &["mkfs.xfs", "-q"], 320 << 20),
    ("btrfs", &["mkfs.btrfs", "-q"], 128 << 20),
];
