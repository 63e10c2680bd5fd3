//! How an upload becomes the file: cut to its length, given mode and owner, flushed, given its name (in the order that
//! [`durable`](crate::storage::disk::durable) explains), and the one that had it kept or gone.
use std::fs::File;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{Gid, Uid, fchown, fsync, ftruncate};

use super::{Beside, Grows, Stored, Upload};
use crate::storage::disk::acl;
use crate::storage::disk::boot;
use crate::storage::disk::durable::{Order, after_rename, before_rename, contents, sync_directory};
use crate::storage::disk::metadata::{Kind, is_same_file, is_unchanged, kind, size_of};
use crate::storage::disk::names::{HeldName, rename_to_new};
use crate::storage::disk::root::Place;
use crate::storage::error::{Error, ErrorKind};
use crate::storage::integrity::checksum::{self, Digest};
use crate::storage::permissions::Modes;
use crate::storage::retention::lock::locked_until;
use crate::storage::retention::versions::{self, Keeping};
use crate::storage::upload::partial::{self, Partial};

impl Upload {
    /// Makes what was received the file, and returns once it is on the disk (where the account is
    /// `durable`): what it holds first, then its name.
    ///
    /// # Errors
    /// Whatever the disk says at the last moment, `Locked` when somebody else has stored the file meanwhile, `OverQuota`: then
    /// the file was not received.
    pub fn finish(mut self) -> Result<Stored, Error> {
        let end = i64::try_from(self.position).map_err(|_| self.failed(Errno::EFBIG))?;
        if self.cut_at_end {
            ftruncate(self.file(), end).map_err(|errno| self.failed(errno))?;
        }
        self.space.give_back(self.position);
        let sha256 = self.digest.take().map(Digest::finish);
        let sha256 = sha256.or_else(|| self.known_digest.take());
        if let Some(sha256) = &sha256 {
            // Where it cannot be kept it is told all the same.
            checksum::store(self.file(), sha256);
        }
        match &self.grows {
            Grows::Target { .. } => {
                self.settle_in_place().map_err(|errno| self.failed(errno))?;
                self.must_have_its_name()?;
            }
            Grows::Beside(_) => self.settle_beside()?,
        }
        Ok(Stored {
            size: self.position,
            sha256,
        })
    }

    fn settle_in_place(&self) -> Result<(), Errno> {
        let Grows::Target { file, new_in, .. } = &self.grows else {
            return Ok(());
        };
        if !self.durable {
            return Ok(());
        }
        // Its checksum, which is beside it, is to reach the disk as well.
        match (new_in, self.order) {
            (Some(directory), Order::Each) => {
                fsync(&**file)?;
                sync_directory(directory.as_fd())
            }
            // Its entry is part of the same commit.
            (Some(directory), order) => after_rename(order, file, directory.as_fd()),
            (None, order) => contents(order, file),
        }
    }

    /// Somebody may have removed, renamed or replaced the file meanwhile: what was received is then in no file of that name.
    fn must_have_its_name(&self) -> Result<(), Error> {
        let Grows::Target { file, at, .. } = &self.grows else {
            return Ok(());
        };
        let (root, relative) = at;
        let ours = fstat(&**file).map_err(|errno| self.failed(errno))?;
        let there = root.stat(relative, true);
        match there {
            Ok(there) if is_same_file(&there, &ours) => Ok(()),
            _ => Err(Error::new(ErrorKind::Busy, self.path.as_bytes())),
        }
    }

    fn settle_beside(&mut self) -> Result<(), Error> {
        let Grows::Beside(beside) = &self.grows else {
            return Ok(());
        };
        let file = beside.partial.file();
        let prepared = take_over_from(&beside.place, file, beside.modes).and_then(|()| {
            boot::unmark(file.as_fd());
            if self.durable {
                before_rename(self.order, file)?;
            }
            Ok(())
        });
        prepared.map_err(|errno| self.failed(errno))?;
        self.put_in_place(beside)?;
        if let Grows::Beside(beside) = &mut self.grows {
            beside.finished = true;
        }
        if let Grows::Beside(beside) = &self.grows {
            // What was left by others under the name is of no use to anybody, and would be continued some day.
            let directory = beside.place.directory.as_fd();
            for size in partial::discard(directory, &beside.place.name) {
                self.space.went(size, 1);
            }
            if self.durable {
                after_rename(self.order, beside.partial.file(), directory)
                    .map_err(|errno| self.failed(errno))?;
            }
        }
        Ok(())
    }

    /// Gives the partial file its name, and what had it its due.
    fn put_in_place(&self, beside: &Beside) -> Result<(), Error> {
        let Beside { partial, place, .. } = beside;
        let rename = || rename_to(partial, place, beside.may_replace);
        let rules = &beside.rules;
        let held = HeldName::of(&place.directory, &place.name);
        let _held = held.map_err(|errno| self.failed(errno))?;
        let busy = || Error::new(ErrorKind::Busy, self.path.as_bytes());
        if !partial.has_its_name(place.directory.as_fd()) {
            return Err(busy());
        }
        if let Some(original) = &beside.clone_of {
            let now = old_file(place).map_err(|errno| self.failed(errno))?;
            if now.is_none_or(|now| !is_unchanged(original, &now)) {
                return Err(busy());
            }
        }
        if rules.lock.is_none() && beside.keeps.is_none() && !self.space.is_metered() {
            return rename().map_err(|errno| self.failed(errno));
        }
        let old = old_file(place).map_err(|errno| self.failed(errno))?;
        let refuse = |kind| Error::new(kind, self.path.as_bytes());
        if let Some(until) = old.and_then(|old| locked_until(&old, rules.lock)) {
            return Err(refuse(ErrorKind::Locked { until }));
        }
        let stays = old.is_some() && beside.keeps.is_some();
        let replaced = old.filter(|_| !stays);
        let replaced = replaced.map_or((0, 0), |old| (size_of(&old), 1));
        self.space.fits_without(replaced).map_err(refuse)?;
        if let (Some((root, relative)), Some(_)) = (&beside.keeps, old) {
            let keeping = Keeping {
                most: rules.versions,
                durable: self.durable,
                order: self.order,
            };
            let kept = versions::keep(root, relative, place, keeping);
            for gone in kept.map_err(|errno| self.failed(errno))? {
                self.space.went(gone, 1);
            }
        }
        rename().map_err(|errno| self.failed(errno))?;
        self.space.went(replaced.0, replaced.1);
        Ok(())
    }
}

/// The file that has the name now.
fn old_file(place: &Place) -> Result<Option<FileStat>, Errno> {
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    match fstatat(&place.directory, place.name.as_slice(), flags) {
        Ok(old) => Ok(Some(old).filter(|old| kind(old) == Kind::File)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Mode, access control list, owner and group of the file that is replaced, as far as the server may set them; else those of
/// new files.
fn take_over_from(place: &Place, file: &File, modes: Modes) -> Result<(), Errno> {
    let (directory, file) = (place.directory.as_fd(), file.as_fd());
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let old = match openat(directory, place.name.as_slice(), flags, Mode::empty()) {
        Err(Errno::ENOENT) => return acl::give(directory, file, modes),
        other => other?,
    };
    let stat = fstat(&old)?;
    if kind(&stat) != Kind::File {
        return acl::give(directory, file, modes);
    }
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    if fchown(file, Some(owner), Some(group)).is_err() {
        // Another's file, in a directory of ours: it becomes ours, in its group where that is one of ours.
        let _ = fchown(file, None, Some(group));
    }
    acl::keep(old.as_fd(), file, stat.st_mode & 0o777)
}

/// In one step; what has the name now is replaced only where it may be.
fn rename_to(partial: &Partial, place: &Place, may_replace: bool) -> Result<(), Errno> {
    let directory = &place.directory;
    let (from, to) = (partial.name.as_slice(), place.name.as_slice());
    if may_replace {
        return renameat(directory, from, directory, to);
    }
    rename_to_new(directory, from, directory, to)
}
