//! What an upload grows in: a partial file beside the target where that is possible, else the target itself.
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::ftruncate;

use super::space::Space;
use super::{Beside, Grows, How, Target, Upload, Uploads};
use crate::storage::disk::acl;
use crate::storage::disk::boot;
use crate::storage::disk::copy;
use crate::storage::disk::durable::{self, Order, Pace};
use crate::storage::disk::metadata::{Kind, kind, size_of};
use crate::storage::disk::root::{Place, Root};
use crate::storage::disk::writers::Claimed;
use crate::storage::error::{Error, ErrorKind};
use crate::storage::integrity::checksum;
use crate::storage::integrity::checksum::{Algorithm, Digest};
use crate::storage::permissions::Permission;
use crate::storage::quota::meter::Meter;
use crate::storage::retention::lock;
use crate::storage::retention::versions::{self, Keeping};
use crate::storage::upload::partial::{Left, Partial};
use crate::storage::view::is_special;

/// Neither waits for the other end of a FIFO nor makes a terminal ours.
const OPEN: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY);

impl Target<'_> {
    fn refuse(&self, kind: ErrorKind) -> Error {
        Error::new(kind, self.path.as_bytes())
    }

    fn fail(&self, errno: Errno) -> Error {
        Error::from_errno(errno, self.path.as_bytes())
    }

    fn check_lock(&self, stat: &FileStat) -> Result<(), Error> {
        lock::check(stat, self.rules.lock, self.path.as_bytes())
    }

    /// The meter of the directory or, where a link leads there, of the file itself. To be had before anything is made, for
    /// what nobody has counted yet is counted then.
    fn meter(&self, at: BorrowedFd<'_>) -> Option<Meter> {
        let mut meter = self.metered.meter(at)?;
        meter.begin();
        Some(meter)
    }

    /// Room for a file that has `size` bytes.
    fn space(&self, meter: Option<Meter>, size: u64, credit: (u64, u64)) -> Space {
        Space::new(self.min_free, meter, size, credit)
    }
}

impl Upload {
    pub(in crate::storage) fn begin(target: &Target<'_>, how: How) -> Result<Self, Error> {
        if target.rules.uploads == Uploads::Atomic {
            if let Some(upload) = Self::begin_beside(target, how)? {
                return Ok(upload);
            }
        }
        // An offset asks for a file that is there.
        let may_be_new = !matches!(how, How::At(offset) if offset > 0);
        if may_be_new && target.permissions.contains(Permission::Upload) {
            match create(target) {
                Err(error) if error.kind == ErrorKind::Exists => {}
                other => return other,
            }
        }
        Self::begin_in_place(target, how, may_be_new)
    }

    fn begin_in_place(target: &Target<'_>, how: How, may_be_new: bool) -> Result<Self, Error> {
        let needed = match how {
            How::Append => Permission::Append,
            _ => Permission::Overwrite,
        };
        if !target.permissions.contains(needed) {
            let missing = match target.root.stat(target.relative, false) {
                Err(Errno::ENOENT) => Permission::Upload,
                _ => needed,
            };
            return Err(target.refuse(ErrorKind::NotPermitted(missing)));
        }
        if is_special(target.root, target.relative) {
            return Err(target.refuse(ErrorKind::NotAFile));
        }
        // Its checksum begins with what is in it.
        let access = match target.checksums {
            true => OFlag::O_RDWR,
            false => OFlag::O_WRONLY,
        };
        let fd = match target
            .root
            .open_below(target.relative, OPEN | access, Mode::empty())
        {
            Err(Errno::ENOENT) if !may_be_new => {
                return Err(target.refuse(ErrorKind::BeyondEnd { size: 0 }));
            }
            Err(Errno::ENOENT) if !target.permissions.contains(Permission::Upload) => {
                return Err(target.refuse(ErrorKind::NotPermitted(Permission::Upload)));
            }
            other => other.map_err(|errno| target.fail(errno))?,
        };
        let claimed = Claimed::new(File::from(fd)).map_err(|errno| target.fail(errno))?;
        let fd = claimed.ok_or_else(|| target.refuse(ErrorKind::Busy))?;
        let stat = fstat(&*fd).map_err(|errno| target.fail(errno))?;
        match kind(&stat) {
            Kind::File => {}
            Kind::Directory => return Err(target.refuse(ErrorKind::IsADirectory)),
            _ => return Err(target.refuse(ErrorKind::NotAFile)),
        }
        target.check_lock(&stat)?;
        // The kernel takes them away at the first byte, but not where root writes it.
        if stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            let taken = acl::take_special_bits(fd.as_fd(), stat.st_mode);
            taken.map_err(|errno| target.fail(errno))?;
        }
        let size = size_of(&stat);
        let position = match how {
            How::Replace => 0,
            How::Append => size,
            How::At(offset) if offset > size => {
                return Err(target.refuse(ErrorKind::BeyondEnd { size }));
            }
            How::At(offset) => offset,
        };
        let space = target.space(target.meter(fd.as_fd()), size, (0, 0));
        if how != How::Append {
            keep_old(target, fd.as_fd(), &space)?;
        }
        // It tells of what was there, and would again if the time of then came back.
        checksum::forget(fd.as_fd());
        let grows = Grows::Target {
            file: fd,
            new_in: None,
            at: again(target)?,
        };
        let mut upload = Self::of(target, grows, space, position);
        upload.empties = how == How::Replace;
        Ok(upload)
    }

    /// An upload that leaves the target alone until it is whole. None where it has to go into the target: the target is a
    /// link, which stays one, or a finished file that is continued where the file system cannot clone it.
    fn begin_beside(target: &Target<'_>, how: How) -> Result<Option<Self>, Error> {
        let old = match target.root.stat(target.relative, false) {
            Ok(stat) => Some(stat),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(target.fail(errno)),
        };
        let needed = match old.as_ref().map(kind) {
            None => Permission::Upload,
            Some(Kind::File) if how == How::Append => Permission::Append,
            Some(Kind::File) => Permission::Overwrite,
            Some(Kind::Symlink) => return Ok(None),
            Some(Kind::Directory) => return Err(target.refuse(ErrorKind::IsADirectory)),
            Some(Kind::Other) => return Err(target.refuse(ErrorKind::NotAFile)),
        };
        if !target.permissions.contains(needed) {
            return Err(target.refuse(ErrorKind::NotPermitted(needed)));
        }
        if let Some(old) = &old {
            target.check_lock(old)?;
        }
        let place = target.root.place(target.relative);
        let place = place.map_err(|errno| target.fail(errno))?;
        match (how, old) {
            (How::Replace, old) => Self::begin_anew(target, place, old.as_ref()).map(Some),
            (_, None) => Self::resume(target, place, how).map(Some),
            (_, Some(_)) => Self::begin_clone(target, place, how),
        }
    }

    fn begin_anew(
        target: &Target<'_>,
        place: Place,
        old: Option<&FileStat>,
    ) -> Result<Self, Error> {
        let replaced = old.filter(|_| target.rules.versions == 0);
        let credit = replaced.map_or((0, 0), |old| (size_of(old), 1));
        let meter = target.meter(place.directory.as_fd());
        let (partial, left) = Partial::create(place.directory.as_fd(), &place.name)
            .map_err(|errno| target.fail(errno))?;
        let space = target.space(meter, left.unwrap_or(0), credit);
        Self::beside_emptied(target, partial, left, place, space)
    }

    /// Creates the file, which must not be there.
    pub(in crate::storage) fn begin_new(target: &Target<'_>) -> Result<Self, Error> {
        if target.rules.uploads == Uploads::Direct {
            return create(target);
        }
        if target.root.stat(target.relative, false).is_ok() {
            return Err(target.fail(Errno::EEXIST));
        }
        let place = target.root.place(target.relative);
        let place = place.map_err(|errno| target.fail(errno))?;
        let meter = target.meter(place.directory.as_fd());
        let (partial, left) = Partial::create_first(place.directory.as_fd(), &place.name)
            .map_err(|errno| target.fail(errno))?;
        let space = target.space(meter, left.unwrap_or(0), (0, 0));
        let mut upload = Self::beside_emptied(target, partial, left, place, space)?;
        if let Grows::Beside(beside) = &mut upload.grows {
            beside.may_replace = false;
        }
        Ok(upload)
    }

    /// What another upload may have left in the partial file goes.
    fn beside_emptied(
        target: &Target<'_>,
        partial: Partial,
        left: Option<u64>,
        place: Place,
        space: Space,
    ) -> Result<Self, Error> {
        let mut upload = Self::beside(target, partial, place, space, 0)?;
        match left {
            Some(_) => {
                ftruncate(upload.file(), 0).map_err(|errno| target.fail(errno))?;
                upload.space.give_back(0);
                if target.durable {
                    // Or a power cut could bring it back, to be continued with what is another file by now.
                    let flushed = durable::contents(upload.order, upload.file());
                    flushed.map_err(|errno| target.fail(errno))?;
                }
            }
            None => {
                if let Err(over) = upload.space.new_file() {
                    upload.space.came(0, 1);
                    return Err(target.refuse(over));
                }
            }
        }
        Ok(upload)
    }

    /// Goes on with what an upload that was cut off has left.
    fn resume(target: &Target<'_>, place: Place, how: How) -> Result<Self, Error> {
        let directory = place.directory.as_fd();
        let left = Partial::reopen(directory, &place.name).map_err(|errno| target.fail(errno))?;
        let partial = match left {
            Left::Partial(partial) => partial,
            // The client knows its size, and would send what comes behind it.
            Left::InUse => return Err(target.refuse(ErrorKind::Busy)),
            Left::Nothing => match how {
                How::At(offset) if offset > 0 => {
                    return Err(target.refuse(ErrorKind::BeyondEnd { size: 0 }));
                }
                _ => return Self::begin_anew(target, place, None),
            },
        };
        let lengths = partial.lengths();
        let (size, seeming) = lengths.map_err(|errno| target.fail(errno))?;
        let position = match how {
            How::At(offset) if offset > size => {
                return Err(target.refuse(ErrorKind::BeyondEnd { size }));
            }
            How::At(offset) => offset,
            How::Append | How::Replace => size,
        };
        let mut space = target.space(target.meter(directory), seeming, (0, 0));
        // What lies behind is not sure to be there, or of another upload than what will be in front of it.
        if position < seeming {
            let end = i64::try_from(position).map_err(|_| target.fail(Errno::EFBIG))?;
            ftruncate(partial.file(), end).map_err(|errno| target.fail(errno))?;
            space.give_back(position);
        }
        Self::beside(target, partial, place, space, position)
    }

    /// Continues a finished file in a clone of it. None where the file system cannot clone.
    fn begin_clone(target: &Target<'_>, place: Place, how: How) -> Result<Option<Self>, Error> {
        let flags = OPEN | OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
        let Ok(old) = target
            .root
            .open_below(target.relative, flags, Mode::empty())
        else {
            return Ok(None);
        };
        let original = fstat(&old).map_err(|errno| target.fail(errno))?;
        let size = size_of(&original);
        let position = match how {
            How::At(offset) if offset > size => {
                return Err(target.refuse(ErrorKind::BeyondEnd { size }));
            }
            How::At(offset) => offset,
            How::Append | How::Replace => size,
        };
        let meter = target.meter(place.directory.as_fd());
        let (partial, left) = Partial::create(place.directory.as_fd(), &place.name)
            .map_err(|errno| target.fail(errno))?;
        let emptied = ftruncate(partial.file(), 0);
        let cloned = emptied.and_then(|()| copy::cloned(old.as_fd(), partial.file().as_fd()));
        match cloned {
            Ok(true) => {}
            Ok(false) => {
                partial.remove(place.directory.as_fd());
                if let (Some(left), Some(meter)) = (left, &meter) {
                    meter.went(left, 1);
                }
                return Ok(None);
            }
            Err(errno) => {
                partial.remove(place.directory.as_fd());
                return Err(target.fail(errno));
            }
        }
        let credit = if target.rules.versions == 0 || how == How::Append {
            (size, 1)
        } else {
            (0, 0)
        };
        let counted = left.unwrap_or(0);
        let space = target.space(meter, counted, credit);
        let mut upload = Self::beside(target, partial, place, space, position)?;
        if let Grows::Beside(beside) = &mut upload.grows {
            beside.clone_of = Some(original);
            beside.leaves_nothing = true;
            beside.may_replace = true;
            if how == How::Append {
                // All of it lives on in the new one.
                beside.keeps = None;
            }
        }
        let space = &mut upload.space;
        let admitted = match left {
            None => space.new_file().inspect_err(|_| space.came(0, 1)),
            Some(_) => Ok(()),
        };
        // Its blocks are shared, but a quota counts what files say they hold.
        let admitted = admitted.and_then(|()| space.admit_shared(size));
        admitted.map_err(|kind| target.refuse(kind))?;
        Ok(Some(upload))
    }

    fn beside(
        target: &Target<'_>,
        partial: Partial,
        place: Place,
        space: Space,
        position: u64,
    ) -> Result<Self, Error> {
        let keeps = match target.rules.versions {
            0 => None,
            _ => Some((
                target.root.again().map_err(|errno| target.fail(errno))?,
                target.relative.to_vec(),
            )),
        };
        boot::mark(partial.file().as_fd(), target.durable);
        let had = target.root.stat(target.relative, false).ok();
        let grows = Grows::Beside(Box::new(Beside {
            partial,
            place,
            may_replace: target.permissions.contains(Permission::Overwrite),
            modes: target.modes,
            clone_of: None,
            leaves_nothing: false,
            had,
            keeps,
            rules: *target.rules,
            finished: false,
        }));
        Ok(Self::of(target, grows, space, position))
    }

    fn of(target: &Target<'_>, grows: Grows, space: Space, position: u64) -> Self {
        let file = match &grows {
            Grows::Target { file, .. } => file,
            Grows::Beside(beside) => beside.partial.file(),
        };
        Self {
            order: Order::of(file.as_fd()),
            digest: target.checksums.then(|| Digest::new(Algorithm::default())),
            known_digest: None,
            grows,
            position,
            received: 0,
            cut_at_end: true,
            empties: false,
            durable: target.durable,
            pace: Pace::new(target.durable, position),
            space,
            path: target.path.clone(),
            host_path: target.root.host_path(target.relative),
        }
    }
}

/// Where the target is, to be looked at in the end.
fn again(target: &Target<'_>) -> Result<(Root, Vec<u8>), Error> {
    let root = target.root.again().map_err(|errno| target.fail(errno))?;
    Ok((root, target.relative.to_vec()))
}

/// Keeps a copy of what is going to be overwritten in place, where there is room for one.
fn keep_old(target: &Target<'_>, old: BorrowedFd<'_>, space: &Space) -> Result<(), Error> {
    if target.rules.versions == 0 {
        return Ok(());
    }
    let fail = |errno| target.fail(errno);
    let flags = OPEN | OFlag::O_RDONLY;
    let copied = target
        .root
        .open_below(target.relative, flags, Mode::empty());
    let copied = File::from(copied.map_err(fail)?);
    let size = size_of(&fstat(&copied).map_err(fail)?);
    space
        .would_fit(&copied, size)
        .and_then(|()| space.one_more(size))
        .map_err(|kind| target.refuse(kind))?;
    let keeping = Keeping {
        most: target.rules.versions,
        durable: target.durable,
        order: Order::of(old),
    };
    let kept = versions::keep_copy(target.root, target.relative, &copied.into(), keeping);
    let gone = kept.map_err(|errno| {
        space.went(size, 1);
        target.fail(errno)
    })?;
    for gone in gone {
        space.went(gone, 1);
    }
    Ok(())
}

/// A new file that grows under its own name.
fn create(target: &Target<'_>) -> Result<Upload, Error> {
    let fail = |errno| target.fail(errno);
    let place = target.root.place(target.relative).map_err(fail)?;
    let meter = target.meter(place.directory.as_fd());
    let flags = OPEN
        | OFlag::O_RDWR
        | OFlag::O_CREAT
        | OFlag::O_EXCL
        | OFlag::O_NOFOLLOW
        | OFlag::O_CLOEXEC;
    let fd = openat(
        &place.directory,
        place.name.as_slice(),
        flags,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )
    .map_err(fail)?;
    // Whoever else has opened it by now has nothing of it.
    let claimed = Claimed::new(File::from(fd)).map_err(fail)?;
    let fd = claimed.ok_or_else(|| target.refuse(ErrorKind::Busy))?;
    let space = target.space(meter, 0, (0, 0));
    let allowed = space.new_file().map_err(|kind| target.refuse(kind));
    let given = allowed
        .and_then(|()| acl::give(place.directory.as_fd(), fd.as_fd(), target.modes).map_err(fail));
    if let Err(error) = given {
        let flag = nix::unistd::UnlinkatFlags::NoRemoveDir;
        let _ = nix::unistd::unlinkat(&place.directory, place.name.as_slice(), flag);
        return Err(error);
    }
    let grows = Grows::Target {
        file: fd,
        new_in: Some(place.directory),
        at: again(target)?,
    };
    Ok(Upload::of(target, grows, space, 0))
}
