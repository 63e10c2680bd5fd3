//! A file being received. No other code makes a file appear.
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, SpliceFFlags, openat, renameat, renameat2, splice};
use nix::libc;
use nix::sys::stat::{Mode, fchmod, fstat, fstatat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Gid, Uid, fchown, fdatasync, fsync, ftruncate};

use super::error::{Error, ErrorKind};
use super::metadata::{Kind, kind};
use super::partial::Partial;
use super::path::VirtualPath;
use super::permissions::{Modes, Permission, Permissions};
use super::root::{Place, Root};

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

/// Where an upload goes and what is allowed there.
pub(super) struct Target<'a> {
    pub root: &'a Root,
    pub relative: &'a [u8],
    pub path: &'a VirtualPath,
    pub permissions: Permissions,
    pub modes: Modes,
    pub durable: bool,
    pub uploads: Uploads,
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
    durable: bool,
    path: VirtualPath,
    host_path: PathBuf,
}

/// What the bytes go into.
#[derive(Debug)]
enum Grows {
    /// The target itself.
    Target {
        file: File,
        /// The directory of a new file, whose entry is to be made durable too.
        new_in: Option<OwnedFd>,
    },
    /// A partial file that takes the target's place in the end.
    Beside {
        partial: Partial,
        place: Place,
        /// What may be there by then may be replaced.
        may_replace: bool,
        modes: Modes,
        finished: bool,
    },
}

/// Neither waits for the other end of a FIFO nor makes a terminal ours.
const OPEN: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY);

impl Upload {
    pub(super) fn begin(target: &Target<'_>, how: How) -> Result<Self, Error> {
        let fail = |errno| Error::from_errno(errno, target.path.as_bytes());
        let refuse = |kind| Error::new(kind, target.path.as_bytes());
        if target.uploads == Uploads::Atomic {
            if let Some(upload) = Self::begin_beside(target, how)? {
                return Ok(upload);
            }
        }
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
        let grows = Grows::Target {
            file: File::from(fd),
            new_in: None,
        };
        Ok(Self::of(target, grows, position))
    }

    /// An upload that leaves the target alone until it is whole. None where it has to go into the target: it continues a
    /// finished file, or the target is a link, which stays one.
    fn begin_beside(target: &Target<'_>, how: How) -> Result<Option<Self>, Error> {
        let fail = |errno| Error::from_errno(errno, target.path.as_bytes());
        let refuse = |kind| Error::new(kind, target.path.as_bytes());
        let needed = match target.root.stat(target.relative, false) {
            Ok(stat) => match kind(&stat) {
                Kind::File if how == How::Replace => Permission::Overwrite,
                Kind::File | Kind::Symlink => return Ok(None),
                Kind::Directory => return Err(refuse(ErrorKind::IsADirectory)),
                _ => return Err(refuse(ErrorKind::NotAFile)),
            },
            Err(Errno::ENOENT) => Permission::Upload,
            Err(errno) => return Err(fail(errno)),
        };
        if !target.permissions.contains(needed) {
            return Err(refuse(ErrorKind::NotPermitted(needed)));
        }
        let place = target.root.place(target.relative).map_err(fail)?;
        let directory = place.directory.as_fd();
        let left = match how {
            How::Replace => None,
            How::Append | How::At(_) => Partial::reopen(directory, &place.name).map_err(fail)?,
        };
        let size = match &left {
            Some(partial) => size_of(partial).map_err(fail)?,
            None => 0,
        };
        let position = match how {
            How::Replace => 0,
            How::Append => size,
            How::At(offset) if offset > size => return Err(refuse(ErrorKind::BeyondEnd { size })),
            How::At(offset) => offset,
        };
        let partial = match left {
            Some(partial) => partial,
            None => Partial::create(directory, &place.name).map_err(fail)?,
        };
        if how == How::Replace {
            ftruncate(partial.file(), 0).map_err(fail)?;
        }
        let may_replace = target.permissions.contains(Permission::Overwrite);
        Ok(Some(Self::beside(
            target,
            partial,
            place,
            may_replace,
            position,
        )))
    }

    fn beside(
        target: &Target<'_>,
        partial: Partial,
        place: Place,
        may_replace: bool,
        position: u64,
    ) -> Self {
        let grows = Grows::Beside {
            partial,
            place,
            may_replace,
            modes: target.modes,
            finished: false,
        };
        Self::of(target, grows, position)
    }

    fn of(target: &Target<'_>, grows: Grows, position: u64) -> Self {
        Self {
            grows,
            position,
            received: 0,
            cut_at_end: true,
            durable: target.durable,
            path: target.path.clone(),
            host_path: target.root.host_path(target.relative),
        }
    }

    fn file(&self) -> &File {
        match &self.grows {
            Grows::Target { file, .. } => file,
            Grows::Beside { partial, .. } => partial.file(),
        }
    }

    /// Creates the file, which must not be there.
    pub(super) fn begin_new(target: &Target<'_>) -> Result<Self, Error> {
        let fail = |errno| Error::from_errno(errno, target.path.as_bytes());
        if target.uploads == Uploads::Direct {
            return create(target).map_err(fail);
        }
        if target.root.stat(target.relative, false).is_ok() {
            return Err(fail(Errno::EEXIST));
        }
        let place = target.root.place(target.relative).map_err(fail)?;
        let partial = Partial::create_first(place.directory.as_fd(), &place.name).map_err(fail)?;
        ftruncate(partial.file(), 0).map_err(fail)?;
        Ok(Self::beside(target, partial, place, false, 0))
    }

    /// Writes all of it behind what was received before.
    ///
    /// # Errors
    /// `NoSpace` with the bytes that are free, `Quota`, `TooLarge`, `Io`.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file()
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
                self.file(),
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
                free: fstatvfs(self.file()).map_or(0, |disk| free_bytes(&disk)),
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

    /// Makes what was received the file, and returns its size in bytes once it is on the disk (where the account is
    /// `durable`): what it holds first, then its name.
    ///
    /// # Errors
    /// Whatever the disk says at the last moment: then the file was not received.
    pub fn finish(mut self) -> Result<u64, Error> {
        let done = self.settle();
        done.map_err(|errno| self.failed(errno))?;
        Ok(self.position)
    }

    fn settle(&mut self) -> Result<(), Errno> {
        if self.cut_at_end {
            let end = i64::try_from(self.position).map_err(|_| Errno::EFBIG)?;
            ftruncate(self.file(), end)?;
        }
        match &mut self.grows {
            Grows::Target { file, new_in } => {
                if self.durable {
                    fdatasync(&*file)?;
                    if let Some(directory) = new_in {
                        sync_directory(directory.as_fd())?;
                    }
                }
            }
            Grows::Beside {
                partial,
                place,
                may_replace,
                modes,
                finished,
            } => {
                take_over_from(place, partial.file(), *modes)?;
                if self.durable {
                    // With mode and owner, which the name is to show from the first moment.
                    fsync(partial.file())?;
                }
                put_in_place(partial, place, *may_replace)?;
                *finished = true;
                if self.durable {
                    sync_directory(place.directory.as_fd())?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Upload {
    /// What holds nothing is worth no resuming.
    fn drop(&mut self) {
        if let Grows::Beside {
            partial,
            place,
            finished: false,
            ..
        } = &self.grows
        {
            if self.position == 0 {
                partial.remove(place.directory.as_fd());
            }
        }
    }
}

fn size_of(partial: &Partial) -> Result<u64, Errno> {
    Ok(u64::try_from(fstat(partial.file())?.st_size).unwrap_or(0))
}

/// Mode, owner and group of the file that is replaced, as far as the server may set them; else those of new files.
fn take_over_from(place: &Place, file: &File, modes: Modes) -> Result<(), Errno> {
    let old = fstatat(
        &place.directory,
        place.name.as_slice(),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    );
    match old {
        Ok(old) if kind(&old) == Kind::File => {
            let tolerated = fchown(
                file,
                Some(Uid::from_raw(old.st_uid)),
                Some(Gid::from_raw(old.st_gid)),
            );
            if tolerated.is_err() {
                // Another's file, in a directory of ours: it becomes ours, in its group where that is one of ours.
                let _ = fchown(file, None, Some(Gid::from_raw(old.st_gid)));
            }
            give(file.as_fd(), old.st_mode & 0o777, None)
        }
        _ => give(file.as_fd(), modes.of_files(), modes.group),
    }
}

/// Gives the partial file its name, in one step; what has the name now is replaced only where it may be.
fn put_in_place(partial: &Partial, place: &Place, may_replace: bool) -> Result<(), Errno> {
    let directory = &place.directory;
    let (from, to) = (partial.name.as_slice(), place.name.as_slice());
    if may_replace {
        return renameat(directory, from, directory, to);
    }
    match renameat2(
        directory,
        from,
        directory,
        to,
        RenameFlags::RENAME_NOREPLACE,
    ) {
        // File systems that cannot do it in one step (vfat of old kernels, some FUSE ones).
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            match fstatat(directory, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EEXIST),
                Err(_) => renameat(directory, from, directory, to),
            }
        }
        other => other,
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
    let grows = Grows::Target {
        file: File::from(fd),
        new_in: Some(place.directory),
    };
    Ok(Upload::of(target, grows, 0))
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
