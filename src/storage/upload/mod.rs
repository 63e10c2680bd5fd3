//! A file being received. No other code makes a file appear.
//!
//! | file | subject |
//! |---|---|
//! | `begin` | what it grows in: a partial file beside the target, or the target itself |
//! | `space` | whether there is room for what comes: disk and quota |
//! | `copy` | getting what another file holds |
//! | `finish` | how it becomes the file |
//! | `partial` | where it grows until it is whole |
//! | `holder` | whose session it is, and how that is ended |
//! | `sweep` | what uploads have left in a whole tree |
mod begin;
mod copy;
mod finish;
pub mod holder;
pub mod partial;
mod space;
pub mod sweep;

pub(super) use space::available;

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, SpliceFFlags, splice};
use nix::sys::stat::{FileStat, fstat, fstatat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::ftruncate;

use crate::storage::disk::boot;
use crate::storage::disk::durable::{Order, Pace};
use crate::storage::disk::metadata::{is_same_file, size_of};
use crate::storage::disk::root::{Place, Root};
use crate::storage::disk::writers::Claimed;
use crate::storage::error::{Error, ErrorKind};
use crate::storage::integrity::checksum::{self, Digest, Stopped};
use crate::storage::path::VirtualPath;
use crate::storage::permissions::{Modes, Permissions};
use crate::storage::quota::meter::Metered;
use crate::storage::rules::{Room, Rules};
use crate::storage::upload::partial::Partial;
use space::Space;

/// Where uploads grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uploads {
    /// Beside the target, which they replace when they are whole.
    #[default]
    Atomic,
    /// In the target itself, for programs that read it meanwhile.
    Direct,
}

/// What an upload does with the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The file will be what is received, whatever was there.
    Replace,
    /// What is received comes behind what is there.
    Append,
    /// What is received comes at this offset, and the file ends where it ends.
    At(u64),
}

/// Where an upload goes and what holds there.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub root: &'a Root,
    pub relative: &'a [u8],
    pub path: &'a VirtualPath,
    pub permissions: Permissions,
    pub rules: &'a Rules,
    pub modes: Modes,
    pub durable: bool,
    pub min_free: Room,
    pub metered: &'a Metered,
    pub checksums: bool,
}

/// What an upload has become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Of the whole file, in bytes.
    pub size: u64,
    /// Of the whole file, in lower-case hexadecimal, where the account has `checksums`.
    pub sha256: Option<String>,
}

/// The file under way. [`Upload::finish`] makes it the file; dropped unfinished it was not received, and what has arrived
/// waits to be resumed.
#[derive(Debug)]
pub struct Upload {
    grows: Grows,
    position: u64,
    received: u64,
    /// What was there beyond the end of the upload goes.
    cut_at_end: bool,
    /// What was there goes with the first byte, and not before one comes.
    empties: bool,
    durable: bool,
    order: Order,
    pace: Pace,
    space: Space,
    /// The SHA-256 of what the file holds up to the position, where it is wanted.
    digest: Option<Digest>,
    /// The same, of a copy whose original has one.
    known_digest: Option<String>,
    path: VirtualPath,
    host_path: PathBuf,
}

/// What the bytes go into.
#[derive(Debug)]
enum Grows {
    /// The target itself.
    Target {
        file: Claimed,
        /// The directory of a new file, whose entry is to be made durable too.
        new_in: Option<OwnedFd>,
        /// Where its name is: the root, and the path below.
        at: (Root, Vec<u8>),
    },
    /// A partial file that takes the target's place in the end.
    Beside(Box<Beside>),
}

#[derive(Debug)]
struct Beside {
    partial: Partial,
    place: Place,
    /// What may be there by then may be replaced.
    may_replace: bool,
    modes: Modes,
    /// It began as what this file, the target, holds, and replaces nothing else.
    clone_of: Option<FileStat>,
    /// Cut off, it is worth nothing.
    leaves_nothing: bool,
    /// What had the name when the upload began.
    had: Option<FileStat>,
    /// The file that is replaced becomes an old version: where its root is, and its path below.
    keeps: Option<(Root, Vec<u8>)>,
    rules: Rules,
    finished: bool,
}

impl Upload {
    fn file(&self) -> &File {
        match &self.grows {
            Grows::Target { file, .. } => file,
            Grows::Beside(beside) => beside.partial.file(),
        }
    }

    /// Writes all of it behind what was received before.
    ///
    /// # Errors
    /// `NoSpace` with the bytes that are free, `OverQuota`, `Quota`, `TooLarge`, `Io`.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.admit(bytes.len())?;
        self.file()
            .write_all_at(bytes, self.position)
            .map_err(|error| {
                self.failed(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
            })?;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        self.advance(bytes.len())
    }

    /// Whether bytes may come by [`Upload::splice_from`]: a checksum wants to see them.
    pub fn takes_pages(&self) -> bool {
        self.digest.is_none()
    }

    /// Bytes that [`Upload::catch_up`] would read.
    pub fn to_catch_up(&self) -> u64 {
        self.digest.as_ref().map_or(0, |_| self.position)
    }

    /// Adds to the checksum what is in the file already, of an upload that continues one. To be called before the first byte;
    /// `go_on` is asked after each piece.
    ///
    /// # Errors
    /// What stopped it.
    pub fn catch_up<E>(
        &mut self,
        go_on: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), Stopped<E>> {
        let (file, position) = (self.file(), self.position);
        let Some(mut digest) = self.digest.clone().filter(|_| position > 0) else {
            return Ok(());
        };
        checksum::feed(&mut digest, file, 0..position, &mut |_| go_on())?;
        self.digest = Some(digest);
        Ok(())
    }

    /// Moves up to `length` bytes from a pipe, which must hold them, behind what was received before; returns how
    /// many, or None where the file system cannot (and nothing was moved).
    ///
    /// # Errors
    /// As [`Upload::write_all`].
    pub fn splice_from(
        &mut self,
        pipe: BorrowedFd<'_>,
        length: usize,
    ) -> Result<Option<usize>, Error> {
        self.admit(length)?;
        let mut offset = i64::try_from(self.position).map_err(|_| self.failed(Errno::EFBIG))?;
        loop {
            match splice(
                pipe,
                None,
                self.file(),
                Some(&mut offset),
                length,
                SpliceFFlags::SPLICE_F_MOVE,
            ) {
                Ok(moved) => {
                    self.advance(moved)?;
                    return Ok(Some(moved));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL | Errno::ENOSYS) => return Ok(None),
                Err(errno) => return Err(self.failed(errno)),
            }
        }
    }

    /// Sets room aside for bytes that were announced, so that want of it is found out before the first of them. What is not
    /// used is given back in the end.
    ///
    /// # Errors
    /// `NoRoom` with the bytes that are free and needed, `OverQuota`.
    pub fn reserve(&mut self, announced: u64) -> Result<(), Error> {
        let Some(end) = self.position.checked_add(announced) else {
            return Err(self.failed(Errno::EFBIG));
        };
        let (file, space) = match &mut self.grows {
            Grows::Target { file, .. } => (&**file, &mut self.space),
            Grows::Beside(beside) => (beside.partial.file(), &mut self.space),
        };
        space
            .reserve(file, self.position, end)
            .map_err(|kind| Error::new(kind, self.path.as_bytes()))
    }

    /// To be called before anything is written.
    fn empty(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.empties) {
            ftruncate(self.file(), 0).map_err(|errno| self.failed(errno))?;
            self.space.give_back(0);
        }
        Ok(())
    }

    fn admit(&mut self, length: usize) -> Result<(), Error> {
        self.empty()?;
        let end = self.position + length as u64;
        let (file, space) = match &mut self.grows {
            Grows::Target { file, .. } => (&**file, &mut self.space),
            Grows::Beside(beside) => (beside.partial.file(), &mut self.space),
        };
        space
            .admit(file, end)
            .map_err(|kind| Error::new(kind, self.path.as_bytes()))
    }

    fn advance(&mut self, bytes: usize) -> Result<(), Error> {
        self.position += bytes as u64;
        self.received += bytes as u64;
        let (file, pace) = match &mut self.grows {
            Grows::Target { file, .. } => (&**file, &mut self.pace),
            Grows::Beside(beside) => (beside.partial.file(), &mut self.pace),
        };
        let paced = pace.reached(file, self.position);
        paced.map_err(|errno| self.failed(errno))
    }

    fn failed(&self, errno: Errno) -> Error {
        let mut error = Error::from_errno(errno, self.path.as_bytes());
        if errno == Errno::ENOSPC {
            error.kind = ErrorKind::NoSpace {
                free: fstatvfs(self.file()).map_or(0, |disk| available(&disk, Room::default())),
            };
        }
        error
    }

    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn path(&self) -> &VirtualPath {
        &self.path
    }

    /// Whether [`Upload::finish`] returns only when all is on the disk.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    pub fn host_path(&self) -> &Path {
        &self.host_path
    }
}

impl Drop for Upload {
    /// What holds nothing is worth no resuming.
    fn drop(&mut self) {
        let size = length(self.file()).unwrap_or(0);
        if let Grows::Beside(beside) = &self.grows {
            if beside.finished {
                return;
            }
            if self.position == 0 || beside.leaves_nothing || beside.is_outdated() {
                beside.partial.remove(beside.place.directory.as_fd());
                self.space.give_back(0);
                self.space.went(0, 1);
                return;
            }
            // It may have been as good as finished.
            boot::mark(beside.partial.file().as_fd(), self.durable);
        }
        self.space.cut_surplus(self.file(), size);
        self.space.give_back(size);
    }
}

impl Beside {
    /// Whether another file was stored under the name since this upload began, or the partial file was taken away. To
    /// continue this one later would mix the two.
    fn is_outdated(&self) -> bool {
        let directory = self.place.directory.as_fd();
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let there = fstatat(directory, self.place.name.as_slice(), flags);
        let other = there.is_ok_and(|there| {
            let had = self.had.as_ref();
            had.is_none_or(|had| !is_same_file(had, &there))
        });
        other || !self.partial.has_its_name(directory)
    }
}

fn length(file: &File) -> Result<u64, Errno> {
    Ok(size_of(&fstat(file)?))
}
