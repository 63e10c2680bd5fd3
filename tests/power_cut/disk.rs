//! A disk that remembers everything that was written to it, and when it was told to flush: a file of a FUSE file system, over
//! which a loop device lies. Afterwards the same disk is put into the state in which a power cut leaves it, over and over.
//!
//! A disk may keep what it was told to write in a cache that it loses without power, in any order and in part, down to a
//! sector, until it is told to flush. The loop driver turns both PREFLUSH and FUA into fsync(2) of the file; so what was
//! written before the last flush that was answered is on the disk, and of the rest anything may be missing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite,
    Request, WriteFlags,
};
use tempfile::TempDir;

use crate::promises::Moment;
use crate::random::Random;

/// What a disk writes all of or nothing of, in bytes.
pub const SECTOR: usize = 512;

/// Bytes that a disk's cache keeps or loses together in one of the kinds of loss.
const LINE: usize = 4096;

/// Where file systems keep what they look at before they replay anything, and so do not survive half of: ext4 and xfs, btrfs.
/// These are never torn.
const SUPERBLOCKS: [usize; 2] = [0, 64 << 10];

/// How long a flush takes at least: long enough for a server that does not wait for it to be found out.
const FLUSH: Duration = Duration::from_millis(2);

/// What happened to the disk.
pub enum Entry {
    Write { offset: usize, bytes: Vec<u8> },
    Flush,
}

/// What of the writes that were not flushed is still there.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// All is lost.
    All,
    /// Nothing is lost.
    Nothing,
    /// The disk came so far, in order, and broke off within a write.
    BrokenOff,
    /// Each write is there or is not.
    Writes,
    /// Each piece of 4 KiB is there or is not, and one write is torn within one.
    Pieces,
}

impl Loss {
    pub const EACH: [Self; 5] = [
        Self::All,
        Self::Nothing,
        Self::BrokenOff,
        Self::Writes,
        Self::Pieces,
    ];
}

struct Image {
    bytes: Vec<u8>,
    /// What happened, while it is recorded.
    log: Vec<Entry>,
    recorded: bool,
    /// What was overwritten since, where the disk is to be put back; in the order of the overwriting.
    undo: Option<Vec<(usize, Vec<u8>)>>,
}

impl Image {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let place = &mut self.bytes[offset..offset + bytes.len()];
        if let Some(undo) = &mut self.undo {
            undo.push((offset, place.to_vec()));
        }
        if self.recorded {
            let bytes = bytes.to_vec();
            self.log.push(Entry::Write { offset, bytes });
        }
        place.copy_from_slice(bytes);
    }

    /// Puts back what was overwritten since so many pieces had been.
    fn put_back(&mut self, pieces: usize) {
        let undo = self.undo.as_mut().unwrap();
        for (offset, old) in undo.drain(pieces..).rev() {
            self.bytes[offset..offset + old.len()].copy_from_slice(&old);
        }
    }
}

/// Tells the time by what has happened to a disk.
#[derive(Clone)]
pub struct Clock {
    image: Arc<Mutex<Image>>,
    ticks: Arc<AtomicU64>,
}

impl Clock {
    pub fn now(&self) -> Moment {
        let position = locked(&self.image).log.len();
        Moment {
            position,
            order: self.ticks.fetch_add(1, Ordering::SeqCst),
        }
    }
}

fn locked(image: &Mutex<Image>) -> MutexGuard<'_, Image> {
    image.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk, served as a file for as long as the value lives.
pub struct Disk {
    image: Arc<Mutex<Image>>,
    base: PathBuf,
    directory: TempDir,
    /// How many names the disk has been given.
    names: u64,
    /// Entries of the log that have been put on the disk for good.
    applied: usize,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// One that holds what the file `base` holds and records from now on. Tells why not where there is no FUSE.
    pub fn new(base: &Path) -> Result<Self, String> {
        let image = Arc::new(Mutex::new(Image {
            bytes: load(base),
            log: Vec::new(),
            recorded: true,
            undo: None,
        }));
        let directory = tempfile::tempdir().unwrap();
        let served = Served(Arc::clone(&image));
        let session = fuser::spawn_mount(served, directory.path(), &Config::default())
            .map_err(|error| format!("a FUSE file system cannot be mounted: {error}"))?;
        Ok(Self {
            image,
            base: base.to_owned(),
            directory,
            names: 0,
            applied: 0,
            session: Some(session),
        })
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        locked(&self.image)
    }

    /// The disk under a name of its own, so that the kernel remembers nothing of what it was before.
    pub fn file(&mut self) -> PathBuf {
        self.names += 1;
        self.directory.path().join(self.names.to_string())
    }

    /// Tells what has happened to the disk when.
    pub fn clock(&self) -> Clock {
        Clock {
            image: Arc::clone(&self.image),
            ticks: Arc::default(),
        }
    }

    /// Ends the recording: the log, and the disk as it was before.
    pub fn rewind(&mut self) -> Vec<Entry> {
        let bytes = load(&self.base);
        let mut image = self.image();
        image.bytes = bytes;
        image.recorded = false;
        image.undo = Some(Vec::new());
        std::mem::take(&mut image.log)
    }

    /// Puts the disk into the state in which a power cut at a position of the log leaves it. Positions must not fall from
    /// one call to the next. Tells how many writes may have been lost.
    pub fn cut(
        &mut self,
        log: &[Entry],
        position: usize,
        loss: Loss,
        random: &mut Random,
    ) -> usize {
        let flushed = last_flush(log, position);
        let from = self.applied;
        self.applied = flushed.max(from);
        let mut image = self.image();
        image.put_back(0);
        for (offset, bytes) in writes(&log[from..flushed.max(from)]) {
            image.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        let lost = writes(&log[flushed..position]);
        for (offset, bytes) in survivors(&lost, loss, random) {
            image.write(offset, bytes);
        }
        lost.len()
    }

    /// Records what happens to the disk as a cut has left it. Returns what [`Disk::cut_again`] wants to know.
    pub fn record_again(&mut self) -> usize {
        let mut image = self.image();
        image.recorded = true;
        image.undo.as_ref().unwrap().len()
    }

    /// Ends that recording: the log.
    pub fn end_recording(&mut self) -> Vec<Entry> {
        let mut image = self.image();
        image.recorded = false;
        std::mem::take(&mut image.log)
    }

    /// Puts the disk into the state in which a power cut at a position of this log leaves it, which began at that mark.
    pub fn cut_again(
        &mut self,
        (mark, log): (usize, &[Entry]),
        position: usize,
        loss: Loss,
        random: &mut Random,
    ) {
        let flushed = last_flush(log, position);
        let mut image = self.image();
        image.put_back(mark);
        for (offset, bytes) in writes(&log[..flushed]) {
            image.write(offset, bytes);
        }
        for (offset, bytes) in survivors(&writes(&log[flushed..position]), loss, random) {
            image.write(offset, bytes);
        }
    }

    /// Keeps what is on the disk in a file, for whoever wants to look at it.
    pub fn keep(&self, path: &Path) {
        use std::os::unix::fs::FileExt;
        let image = self.image();
        let file = File::create(path).unwrap();
        file.set_len(image.bytes.len() as u64).unwrap();
        for (number, chunk) in image.bytes.chunks(LINE).enumerate() {
            if chunk != &[0; LINE][..chunk.len()] {
                file.write_all_at(chunk, (number * LINE) as u64).unwrap();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // The loop device may hold it a moment longer; then the kernel ends it with the process.
            let _ = session.umount_and_join();
        }
    }
}

/// What a file with holes holds. Memory that is not written to takes no room.
fn load(path: &Path) -> Vec<u8> {
    let mut file = File::open(path).unwrap();
    let size = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut bytes = vec![0; size];
    let mut chunk = vec![0; 1 << 16];
    let zeros = vec![0; 1 << 16];
    for place in bytes.chunks_mut(chunk.len()) {
        let chunk = &mut chunk[..place.len()];
        file.read_exact(chunk).unwrap();
        if chunk != &zeros[..chunk.len()] {
            place.copy_from_slice(chunk);
        }
    }
    bytes
}

/// Where in the log the last flush before a position is.
fn last_flush(log: &[Entry], position: usize) -> usize {
    let is_flush = |entry: &Entry| matches!(entry, Entry::Flush);
    log[..position].iter().rposition(is_flush).unwrap_or(0)
}

fn writes(log: &[Entry]) -> Vec<(usize, &[u8])> {
    let writes = log.iter().filter_map(|entry| match entry {
        Entry::Write { offset, bytes } => Some((*offset, bytes.as_slice())),
        Entry::Flush => None,
    });
    writes.collect()
}

/// Which of the writes reached the disk.
fn survivors<'a>(
    writes: &[(usize, &'a [u8])],
    loss: Loss,
    random: &mut Random,
) -> Vec<(usize, &'a [u8])> {
    let whole = || writes.iter().copied();
    let torn = |(offset, bytes): (usize, &'a [u8]), random: &mut Random| {
        let mut at = SECTOR * random.below(bytes.len() / SECTOR + 1);
        let line = (offset + at) / LINE * LINE;
        if SUPERBLOCKS.contains(&line) {
            at = line.saturating_sub(offset);
        }
        if random.below(2) == 0 {
            (offset, &bytes[..at])
        } else {
            (offset + at, &bytes[at..])
        }
    };
    match loss {
        Loss::All => Vec::new(),
        Loss::Nothing => whole().collect(),
        Loss::BrokenOff => {
            let count = random.below(writes.len() + 1);
            let mut left: Vec<_> = whole().take(count).collect();
            if let Some(last) = left.pop() {
                left.push(torn(last, random));
            }
            left
        }
        Loss::Writes => {
            let percent = random.below(101);
            whole().filter(|_| random.below(100) < percent).collect()
        }
        Loss::Pieces => {
            let percent = random.below(101);
            let pieces = whole().flat_map(|(offset, bytes)| in_lines(offset, bytes));
            let mut left: Vec<_> = pieces.filter(|_| random.below(100) < percent).collect();
            if !left.is_empty() {
                let which = random.below(left.len());
                left[which] = torn(left[which], random);
            }
            left
        }
    }
}

/// A write, cut where lines of the cache end.
fn in_lines(offset: usize, bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let (mut offset, mut rest) = (offset, bytes);
    let mut lines = Vec::new();
    while !rest.is_empty() {
        let (line, others) = rest.split_at(rest.len().min(LINE - offset % LINE));
        lines.push((offset, line));
        offset += line.len();
        rest = others;
    }
    lines
}

/// Every name is that of the disk.
struct Served(Arc<Mutex<Image>>);

const FOREVER: Duration = Duration::from_secs(1 << 20);

impl Served {
    fn image(&self) -> MutexGuard<'_, Image> {
        locked(&self.0)
    }

    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let is_top = ino == INodeNo::ROOT;
        let size = if is_top {
            0
        } else {
            self.image().bytes.len() as u64
        };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_top {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if is_top { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| name.parse::<u64>().ok()) {
            Some(number) => {
                let attributes = self.attributes(INodeNo(number + 1));
                reply.entry(&FOREVER, &attributes, Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(ino));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let image = self.image();
        let from = image.bytes.len().min(offset as usize);
        let to = image.bytes.len().min(from + size as usize);
        reply.data(&image.bytes[from..to]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut image = self.image();
        let offset = offset as usize;
        if offset + bytes.len() > image.bytes.len() {
            return reply.error(Errno::ENOSPC);
        }
        image.write(offset, bytes);
        drop(image);
        reply.written(bytes.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.image().recorded {
            std::thread::sleep(FLUSH);
            self.image().log.push(Entry::Flush);
        }
        reply.ok();
    }

    /// At each close(2).
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
