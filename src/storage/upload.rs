//! A file being received. No other code makes a file appear.
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, openat, splice};
use nix::libc;
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Gid, fchown, fdatasync, fsync, ftruncate};

use super::error::{Error, ErrorKind};
use super::metadata::{Kind, kind};
use super::path::VirtualPath;
use super::permissions::{Modes, Permission, Permissions};
use super::root::Root;

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

/// Where an upload goes and what is allowed there.
pub(super) struct Target<'a> {
    pub root: &'a Root,
    pub relative: &'a [u8],
    pub path: &'a VirtualPath,
    pub permissions: Permissions,
    pub modes: Modes,
    pub durable: bool,
}

/// The file under way. [`Upload::finish`] makes it the file; dropped unfinished it was not received.
#[derive(Debug)]
pub struct Upload {
    file: File,
    /// The directory of a new file, whose entry is to be made durable too.
    new_in: Option<OwnedFd>,
    position: u64,
    received: u64,
    /// What was there beyond the end of the upload goes.
    cut_at_end: bool,
    durable: bool,
    path: VirtualPath,
    host_path: PathBuf,
}

/// Neither waits for the other end of a FIFO nor makes a terminal ours.
const OPEN: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY);

impl Upload {
    pub(super) fn begin(target: &Target<'_>, how: How) -> Result<Self, Error> {
        let fail = |errno| Error::from_errno(errno, target.path.as_bytes());
        let refuse = |kind| Error::new(kind, target.path.as_bytes());
        // An offset asks for a file that is there.
        let may_be_new = !matches!(how, How::At(offset) if offset > 0);
        if may_be_new && target.permissions.contains(Permission::Upload) {
            match create(target) {
                Ok(upload) => return Ok(upload),
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        let needed = if how == How::Append {
            Permission::Append
        } else {
            Permission::Overwrite
        };
        if !target.permissions.contains(needed) {
            let missing = match target.root.stat(target.relative, false) {
                Err(Errno::ENOENT) => Permission::Upload,
                _ => needed,
            };
            return Err(refuse(ErrorKind::NotPermitted(missing)));
        }
        let opened = target.root.open_below(target.relative, OPEN, Mode::empty());
        let fd = match opened {
            Err(Errno::ENOENT) if !may_be_new => {
                return Err(refuse(ErrorKind::BeyondEnd { size: 0 }));
            }
            Err(Errno::ENOENT) if !target.permissions.contains(Permission::Upload) => {
                return Err(refuse(ErrorKind::NotPermitted(Permission::Upload)));
            }
            other => other.map_err(fail)?,
        };
        let stat = fstat(&fd).map_err(fail)?;
        match kind(&stat) {
            Kind::File => {}
            Kind::Directory => return Err(refuse(ErrorKind::IsADirectory)),
            _ => return Err(refuse(ErrorKind::NotAFile)),
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let position = match how {
            How::Replace => {
                ftruncate(&fd, 0).map_err(fail)?;
                0
            }
            How::Append => size,
            How::At(offset) if offset > size => return Err(refuse(ErrorKind::BeyondEnd { size })),
            How::At(offset) => offset,
        };
        Ok(Self::of(target, fd, None, position))
    }

    fn of(target: &Target<'_>, fd: OwnedFd, new_in: Option<OwnedFd>, position: u64) -> Self {
        Self {
            file: File::from(fd),
            new_in,
            position,
            received: 0,
            cut_at_end: true,
            durable: target.durable,
            path: target.path.clone(),
            host_path: target.root.host_path(target.relative),
        }
    }

    /// Creates the file, which must not be there.
    pub(super) fn begin_new(target: &Target<'_>) -> Result<Self, Error> {
        create(target).map_err(|errno| Error::from_errno(errno, target.path.as_bytes()))
    }

    /// Writes all of it behind what was received before.
    ///
    /// # Errors
    /// `NoSpace` with the bytes that are free, `Quota`, `TooLarge`, `Io`.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all_at(bytes, self.position)
            .map_err(|error| {
                self.failed(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
            })?;
        self.advance(bytes.len());
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
        let mut offset = i64::try_from(self.position).map_err(|_| self.failed(Errno::EFBIG))?;
        loop {
            match splice(
                pipe,
                None,
                &self.file,
                Some(&mut offset),
                length,
                SpliceFFlags::SPLICE_F_MOVE,
            ) {
                Ok(moved) => {
                    self.advance(moved);
                    return Ok(Some(moved));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL | Errno::ENOSYS) => return Ok(None),
                Err(errno) => return Err(self.failed(errno)),
            }
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.position += bytes as u64;
        self.received += bytes as u64;
    }

    fn failed(&self, errno: Errno) -> Error {
        let mut error = Error::from_errno(errno, self.path.as_bytes());
        if errno == Errno::ENOSPC {
            error.kind = ErrorKind::NoSpace {
                free: fstatvfs(&self.file).map_or(0, |disk| free_bytes(&disk)),
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

    pub fn host_path(&self) -> &Path {
        &self.host_path
    }

    /// Makes what was received the file, and returns its size in bytes once it is on the disk (where the account is
    /// `durable`): file first, then the directory of a new one.
    ///
    /// # Errors
    /// Whatever the disk says at the last moment: then the file was not received.
    pub fn finish(self) -> Result<u64, Error> {
        let fail = |errno| self.failed(errno);
        if self.cut_at_end {
            let end = i64::try_from(self.position).map_err(|_| fail(Errno::EFBIG))?;
            ftruncate(&self.file, end).map_err(fail)?;
        }
        if self.durable {
            fdatasync(&self.file).map_err(fail)?;
            if let Some(directory) = &self.new_in {
                sync_directory(directory.as_fd()).map_err(fail)?;
            }
        }
        Ok(self.position)
    }
}

fn create(target: &Target<'_>) -> Result<Upload, Errno> {
    let place = target.root.place(target.relative)?;
    let flags = OPEN | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(
        &place.directory,
        place.name.as_slice(),
        flags,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )?;
    give(fd.as_fd(), target.modes.of_files(), target.modes.group)?;
    Ok(Upload::of(target, fd, Some(place.directory), 0))
}

/// Sets mode and group of what was just created. A file system without modes (vfat) keeps those it was mounted with.
pub(super) fn give(fd: BorrowedFd<'_>, mode: u32, group: Option<u32>) -> Result<(), Errno> {
    let tolerate = |result: Result<(), Errno>| match result {
        Err(Errno::EPERM | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(()),
        other => other,
    };
    tolerate(fchmod(fd, Mode::from_bits_truncate(mode)))?;
    match group {
        Some(group) => tolerate(fchown(fd, None, Some(Gid::from_raw(group)))),
        None => Ok(()),
    }
}

/// Makes a directory's entries durable. One that may be written but not read cannot be opened for that; its entry then
/// reaches the disk with the file's own commit on journalling file systems.
pub(super) fn sync_directory(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match openat(
        directory,
        ".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    ) {
        Ok(readable) => match fsync(readable) {
            // Some network and FUSE file systems cannot flush directories.
            Err(Errno::EINVAL | Errno::ENOSYS) => Ok(()),
            other => other,
        },
        Err(Errno::EACCES) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What this process may still use of a disk: root has the reserve, others have not.
pub(super) fn free_bytes(disk: &nix::sys::statvfs::Statvfs) -> u64 {
    let blocks: libc::fsblkcnt_t = if nix::unistd::geteuid().is_root() {
        disk.blocks_free()
    } else {
        disk.blocks_available()
    };
    blocks.saturating_mul(disk.fragment_size())
}
