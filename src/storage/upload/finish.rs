//! How an upload becomes the file: cut to its length, given mode and owner, flushed, given its name (in the order that
//! [`durable`](crate::storage::disk::durable) explains), and the one that had it kept or gone.
//!
//! The kernel of a client that dies may end the data connection in order a moment before it ends the control connection: then
//! the end of the data is not the end of the file. So the front end is asked again and again whether the client is still
//! there: before the file gets its name, and where the name comes before the last flush, behind that. What was replaced
//! meanwhile changed places with the new file, and changes back when the client is gone by then. Until that is known the name is
//! held: whoever else in this process wants to give or take it waits.
//!
//! The old file never has the name under which uploads are continued, or a server that is killed within the flush would leave
//! it there, to be overwritten or continued with what is another file. It has one that nobody continues.
use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, renameat, renameat2};
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::{Gid, Uid, fchown};

use super::partial;
use super::{Beside, Grows, Stored, Upload};
use crate::storage::disk::acl::{self, Modes};
use crate::storage::disk::boot;
use crate::storage::disk::metadata::{Kind, is_same_file, is_unchanged, kind, size_of};
use crate::storage::disk::names::{self, HeldName, rename_to_new};
use crate::storage::disk::root::Place;
use crate::storage::disk::writers::{Doomed, Holder, Reserved};
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::integrity::checksum::{self, Digest};
use crate::storage::retention::fresh;
use crate::storage::retention::lock::locked_until;
use crate::storage::retention::versions::{Copied, Version};

/// How long behind its last byte a client may still turn out to be gone. A process that is killed ends its connections within
/// a millisecond (22 to 713 microseconds were seen), one that tidies up takes some more.
const HANG_UP: Duration = Duration::from_millis(10);

/// The same for a new file that was flushed: nothing is lost but time if it is taken for whole and is not, and small
/// files are not to wait longer than for the disk.
const HANG_UP_OF_NEW: Duration = Duration::from_micros(800);

/// Asks whether the client is still there: until so long behind its last byte, for zero just once.
pub type Look<'a, E> = dyn FnMut(Duration) -> Result<(), E> + 'a;

/// How the name is given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// So that it can be undone.
    Exchange,
    Replace,
}

/// What became of it.
enum Named {
    New,
    /// This file has lost the name, and is an old version where those are kept.
    Replaced(Doomed, Option<Version>),
    /// This file had the name, and now has the one that the partial file had last. It is reserved, so that nobody else takes it
    /// for what an upload has left.
    Exchanged(FileStat, Reserved, Option<Version>),
    /// The file system cannot exchange, or somebody writes to the old file.
    Refused,
    /// The old version has to be a copy, which is not to be made while the name is held.
    NeedsCopy,
}

impl Upload {
    /// Makes what was received the file, and returns once it is on the disk (where the account is
    /// `durable`): what it holds first, then its name. `look` tells what keeps it from becoming the file.
    ///
    /// # Errors
    /// Whatever the disk says at the last moment, `Locked` when somebody else has stored the file meanwhile, `OverQuota`, what
    /// `look` says: then the file was not received.
    pub fn finish<E: From<Error>>(mut self, look: &mut Look<'_, E>) -> Result<Stored, E> {
        // Nobody has it ended any more.
        self.file.settle();
        if self.cuts || (self.may_be_longer && matches!(self.grows, Grows::InPlace { .. })) {
            // What it would lose may be all that there is.
            look(HANG_UP)?;
        }
        self.cut()?;
        if self.may_be_longer {
            self.end_here()?;
        }
        self.space.give_back(self.position);
        let sha256 = self.digest.take().map(Digest::finish);
        let sha256 = sha256.or_else(|| self.known_digest.take());
        if let Some(sha256) = &sha256 {
            // Where it cannot be kept it is told all the same.
            checksum::store(&self.file, sha256);
        }
        match std::mem::replace(&mut self.grows, Grows::Settled) {
            Grows::Beside(mut beside) => {
                let mut at = beside.name.clone();
                if let Err(error) = self.settle_beside(&beside, &mut at, look) {
                    let place = &beside.place;
                    if !partial::has_name(place.directory.as_fd(), &place.name, &self.file.stat) {
                        beside.go_back(&at);
                        self.grows = Grows::Beside(beside);
                    }
                    return Err(error);
                }
            }
            Grows::InPlace { new_in, at, .. } => {
                // Its checksum, which is beside it, is to reach the disk as well.
                self.said(self.order.contents(&*self.file))?;
                if let Some(directory) = new_in {
                    self.said(self.order.names_apart(directory))?;
                }
                look(HANG_UP)?;
                // Somebody may have removed, renamed or replaced the file meanwhile: what was received is then in no file of
                // that name.
                let (root, relative) = at;
                let there = root.stat(&relative, true);
                if !there.is_ok_and(|there| is_same_file(&there, &self.file.stat)) {
                    return Err(ErrorKind::Busy.at(&self.path).into());
                }
            }
            Grows::Settled => {}
        }
        Ok(Stored {
            size: self.position,
            sha256,
        })
    }

    /// `at` is the name that the partial file has now.
    fn settle_beside<E: From<Error>>(
        &self,
        beside: &Beside,
        at: &mut Vec<u8>,
        look: &mut Look<'_, E>,
    ) -> Result<(), E> {
        let Beside { place, modes, .. } = beside;
        let directory = place.directory.as_fd();
        self.said(take_over_from(
            place,
            beside.had.is_some(),
            &self.file,
            *modes,
        ))?;
        self.said(self.order.before_rename(&self.file))?;
        let mut way = match self.is_durable() {
            true => Way::Exchange,
            false => Way::Replace,
        };
        let (mut held, mut copied) = (None, None);
        let named = loop {
            if held.is_none() {
                held = Some(self.said(HeldName::of(directory, &place.name))?);
            }
            // What cannot be undone, or is not flushed behind it, is looked at before.
            look(match way {
                Way::Exchange => Duration::ZERO,
                Way::Replace => HANG_UP,
            })?;
            match self.give_name(beside, at, way, copied.take())? {
                Named::Refused => way = Way::Replace,
                Named::NeedsCopy => {
                    drop(held.take());
                    if let Some(versions) = &beside.versions {
                        copied = self.said(versions.copy_of(directory, &place.name))?;
                    }
                }
                named => break named,
            }
        };
        let settled = self.said(self.order.after_rename(&self.file, directory));
        let settled = settled.map_err(E::from).and_then(|()| match &named {
            Named::Exchanged(..) => look(HANG_UP),
            Named::New if self.is_durable() => look(HANG_UP_OF_NEW),
            _ => Ok(()),
        });
        if settled.is_err() {
            self.take_name_back(beside, at, named);
            return settled;
        }
        self.part_with_old(beside, at, named);
        if !beside.resumable {
            // What was cut off before is of no use to anybody, and would be continued some day.
            let name = partial::name_of(beside.account(), &place.name);
            let _ = partial::discard(directory, &name, &self.space.meter);
        }
        // Not before: a server that is killed while the name is taken back would leave what nobody can continue.
        if self.marked {
            boot::unmark(self.file.as_fd());
        }
        // What continues a finished file was there before.
        if beside.lock.is_some() && beside.clone_of.is_none() {
            if let Ok(stat) = fstat(&*self.file) {
                fresh::table().note(beside.account(), &stat, Instant::now());
            }
        }
        Ok(())
    }

    /// Gives the partial file its name, and what had it its due.
    fn give_name(
        &self,
        beside: &Beside,
        name: &mut Vec<u8>,
        way: Way,
        copied: Option<Copied>,
    ) -> Result<Named, Error> {
        let place = &beside.place;
        let directory = place.directory.as_fd();
        if !partial::has_name(directory, name, &self.file.stat) {
            return Err(ErrorKind::Busy.at(&self.path));
        }
        if beside.had.is_none() || !beside.may_replace {
            // What was to be replaced may be gone, and its room with it.
            self.space.fits_without((0, 0)).at(&self.path)?;
            match rename_to_new(directory, name, directory, &place.name) {
                Err(Errno::EEXIST) if beside.may_replace => {}
                other => return self.said(other.map(|()| Named::New)),
            }
        }
        let old = self.said(old_file(place))?;
        if let Some(original) = &beside.clone_of {
            if old.is_none_or(|old| !is_unchanged(original, &old)) {
                return Err(ErrorKind::Busy.at(&self.path));
            }
        }
        if let Some(until) = old.and_then(|old| locked_until(&old, beside.lock)) {
            return Err(ErrorKind::Locked { until }.at(&self.path));
        }
        let replaced = old.filter(|_| beside.versions.is_none());
        let replaced = replaced.map_or((0, 0), |old| (size_of(&old), 1));
        self.space.fits_without(replaced).at(&self.path)?;
        let Some(old) = old else {
            let named = rename_to_new(directory, name, directory, &place.name);
            return self.said(named.map(|()| Named::New));
        };
        let reserved = match way {
            Way::Exchange => match reserve(&old, beside.holder.as_ref()) {
                None => return Ok(Named::Refused),
                reserved => reserved,
            },
            Way::Replace => None,
        };
        let version = match &beside.versions {
            None => None,
            Some(versions) => {
                let made = versions.make(directory, &place.name, &old, copied);
                match self.said(made)? {
                    None => return Ok(Named::NeedsCopy),
                    version => version,
                }
            }
        };
        let (from, to) = (name.as_slice(), place.name.as_slice());
        let Some(reserved) = reserved else {
            let doomed = self.said(Doomed::open(directory, to))?;
            let named = renameat(directory, from, directory, to);
            return self.said(named.map(|()| Named::Replaced(doomed, version)));
        };
        if beside.resumable {
            let aside = partial::spare_name(beside.account(), &place.name);
            self.said(rename_to_new(directory, from, directory, &aside))?;
            *name = aside;
        }
        match renameat2(
            directory,
            name.as_slice(),
            directory,
            to,
            RenameFlags::RENAME_EXCHANGE,
        ) {
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(Named::Refused),
            done => self.said(done.map(|()| Named::Exchanged(old, reserved, version))),
        }
    }

    /// The client is gone, or the disk failed: the old file gets its name back, unless another program has given it to a file
    /// meanwhile. `at` is the name that the partial file has then.
    fn take_name_back(&self, beside: &Beside, at: &mut Vec<u8>, named: Named) {
        let place = &beside.place;
        let (directory, target) = (place.directory.as_fd(), place.name.as_slice());
        let is_ours = partial::has_name(directory, target, &self.file.stat);
        let taken = match &named {
            Named::New if is_ours => {
                rename_to_new(directory, target, directory, at).or_else(|_| {
                    // Another session has begun anew meanwhile, and has the name under which uploads are continued.
                    *at = partial::spare_name(beside.account(), target);
                    rename_to_new(directory, target, directory, at)
                })
            }
            Named::Exchanged(..) if is_ours => {
                let flags = RenameFlags::RENAME_EXCHANGE;
                let exchanged = renameat2(directory, target, directory, at.as_slice(), flags);
                exchanged.inspect(|()| {
                    if rename_to_new(directory, at, directory, &beside.name).is_ok() {
                        at.clone_from(&beside.name);
                    }
                })
            }
            _ => return self.part_with_old(beside, at, named),
        };
        let shown = self.host_path.display();
        if let Err(errno) = taken {
            log::error!(
                "{shown}: the upload was cut off, but the file has its name already: {}",
                errno.desc()
            );
            if let Named::Exchanged(_, _, Some(version)) = named {
                version.stand(&self.space.meter);
            }
        } else if let Err(errno) = self.order.after_rename(&self.file, directory) {
            // What is not whole must not look so behind a power cut either.
            log::error!(
                "{shown}: the upload was cut off; that the old file has its name back cannot be flushed: {}",
                errno.desc()
            );
        }
    }

    /// The old file is gone for good, where there was one, and is counted so, or is an old version.
    fn part_with_old(&self, beside: &Beside, at: &[u8], named: Named) {
        let meter = &self.space.meter;
        match named {
            Named::Exchanged(old, reserved, version) => {
                let directory = beside.place.directory.as_fd();
                // Open until it is reserved no more, for its inode may be that of a new file at once.
                let _open = Doomed::open(directory, at);
                partial::remove(directory, at, &old);
                drop(reserved);
                match version {
                    Some(version) => version.stand(meter),
                    None => meter.went(size_of(&old), 1),
                }
            }
            Named::Replaced(_, Some(version)) => version.stand(meter),
            Named::Replaced(doomed, None) => meter.lost(doomed),
            Named::New | Named::Refused | Named::NeedsCopy => {}
        }
    }
}

/// Keeps others from taking the old file for what an upload has left, while it has the name of one. Another may look at it just
/// now, and lets go of it at once; who writes to it in place keeps others from it as well.
fn reserve(old: &FileStat, holder: Option<&Holder>) -> Option<Reserved> {
    (0..20).find_map(|_| {
        let reserved = Reserved::new(old, holder);
        if reserved.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        reserved
    })
}

/// The file that has the name now.
fn old_file(place: &Place) -> Result<Option<FileStat>, Errno> {
    match names::stat(&place.directory, &place.name) {
        Ok(old) => Ok(Some(old).filter(|old| kind(old) == Kind::File)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Mode, access control list, owner and group of the file that is replaced, as far as the server may set them; else those of
/// new files.
fn take_over_from(place: &Place, is_there: bool, file: &File, modes: Modes) -> Result<(), Errno> {
    let (directory, file) = (place.directory.as_fd(), file.as_fd());
    let old = match is_there {
        true => names::open(directory, &place.name, OFlag::O_PATH),
        false => Err(Errno::ENOENT),
    };
    let (old, stat) = match old.and_then(|old| Ok((fstat(&old)?, old))) {
        Ok((stat, old)) if kind(&stat) == Kind::File => (old, stat),
        Ok(_) | Err(Errno::ENOENT) => return acl::give(directory, file, modes),
        Err(errno) => return Err(errno),
    };
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    if fchown(file, Some(owner), Some(group)).is_err() {
        // Another's file, in a directory of ours: it becomes ours, in its group where that is one of ours.
        let _ = fchown(file, None, Some(group));
    }
    acl::take_over(old.as_fd(), file, stat.st_mode & 0o777)
}
