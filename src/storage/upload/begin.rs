//! What an upload grows in: a partial file beside the target where that is possible, else the target itself.
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::{FileStat, fstat};

use super::partial::{self, Left};
use super::space::Space;
use super::{Beside, Grows, How, Target, Upload};
use crate::storage::disk::durable::{Order, Pace};
use crate::storage::disk::metadata::{Kind, is_same_file, kind, size_of};
use crate::storage::disk::names::{self, HeldName};
use crate::storage::disk::root::Place;
use crate::storage::disk::writers::{Claimed, Holder, give_way};
use crate::storage::disk::{acl, copy};
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::integrity::checksum::{self, Algorithm, Digest};
use crate::storage::permissions::Permission;
use crate::storage::quota::meter::Meter;
use crate::storage::retention::lock;
use crate::storage::retention::versions::{Copied, Version, Versions};
use crate::storage::rules::Uploads;

/// Neither waits for the other end of a FIFO nor makes a terminal ours.
const OPEN: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY);

/// How often something is tried again that another session was faster at.
const TRIES: usize = 3;

impl Target<'_> {
    fn place(&self) -> Result<Place, Error> {
        let place = self.root.place(self.relative);
        place.at(self.path)
    }

    fn account(&self) -> &str {
        self.holder.map_or("", Holder::account)
    }

    fn partial_name(&self, place: &Place) -> Vec<u8> {
        partial::name_of(self.account(), &place.name)
    }

    /// The meter of the directory or, where a link leads there, of the file itself. To be had before anything is made, for
    /// what nobody has counted yet is counted then.
    fn meter(&self, at: BorrowedFd<'_>) -> Meter {
        self.metered.meter(at)
    }

    /// Room for a file that has `size` bytes.
    fn space(&self, meter: Meter, size: u64, credit: (u64, u64)) -> Space {
        Space::new(self.min_free, meter, size, credit)
    }

    /// Bytes and files that are gone when the upload has taken the place of the old file.
    fn credit(&self, old: Option<&FileStat>) -> (u64, u64) {
        let replaced = old.filter(|_| self.rules.versions == 0);
        replaced.map_or((0, 0), |old| (size_of(old), 1))
    }

    /// Where an upload starts in a file of so many bytes.
    fn position(&self, how: How, size: u64) -> Result<u64, Error> {
        match how {
            How::Replace => Ok(0),
            How::Append => Ok(size),
            How::At(offset) if offset > size => Err(ErrorKind::BeyondEnd { size }.at(self.path)),
            How::At(offset) => Ok(offset),
        }
    }
}

/// A partial file, ready to be written to.
struct Partial {
    file: Claimed,
    name: Vec<u8>,
    /// Cut off, it can be continued.
    resumable: bool,
}

impl Upload {
    pub(in crate::storage) fn begin(target: &Target<'_>, how: How) -> Result<Self, Error> {
        if target.rules.uploads == Uploads::Atomic {
            if let Some(upload) = Self::begin_in_partial(target, how)? {
                return Ok(upload);
            }
        }
        // An offset asks for a file that is there.
        let may_be_new = !matches!(how, How::At(offset) if offset > 0);
        if may_be_new && target.permissions.contains(Permission::Upload) {
            match Self::begin_in_new_target(target) {
                Err(error) if error.kind == ErrorKind::Exists => {}
                other => return other,
            }
        }
        Self::begin_in_target(target, how, may_be_new)
    }

    /// Creates the file, which must not be there.
    pub(in crate::storage) fn begin_unique(target: &Target<'_>) -> Result<Self, Error> {
        if target.rules.uploads == Uploads::Direct {
            return Self::begin_in_new_target(target);
        }
        if target.root.stat(target.relative, false).is_ok() {
            return Err(Errno::EEXIST.at(target.path));
        }
        let place = target.place()?;
        let mut space = target.space(target.meter(place.directory.as_fd()), 0, (0, 0));
        let Some(partial) = Self::own_partial(target, &place, &mut space)? else {
            return Err(Errno::EEXIST.at(target.path));
        };
        let mut upload = Self::begin_whole(target, place, None, partial, space)?;
        if let Grows::Beside(beside) = &mut upload.grows {
            beside.may_replace = false;
        }
        Ok(upload)
    }

    // ---- beside the target

    /// An upload that leaves the target alone until it is whole. None where it has to go into the target: the target is a
    /// link, which stays one, or a finished file that is continued where the file system cannot clone it.
    fn begin_in_partial(target: &Target<'_>, how: How) -> Result<Option<Self>, Error> {
        let old = match target.root.stat(target.relative, false) {
            Ok(stat) => Some(stat),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno.at(target.path)),
        };
        let needed = match old.as_ref().map(kind) {
            None => Permission::Upload,
            Some(Kind::File) if how == How::Append => Permission::Append,
            Some(Kind::File) => Permission::Overwrite,
            Some(Kind::Symlink) => return Ok(None),
            Some(Kind::Directory) => return Err(ErrorKind::IsADirectory.at(target.path)),
            Some(Kind::Other) => return Err(ErrorKind::NotAFile.at(target.path)),
        };
        if !target.permissions.contains(needed) {
            return Err(ErrorKind::NotPermitted(needed).at(target.path));
        }
        if let Some(old) = &old {
            lock::check(old, target.rules.lock, target.path.as_bytes())?;
        }
        let place = target.place()?;
        let told = target.told.of(&place);
        if how != How::Replace {
            if let Some(file) = Self::what_was_cut_off(target, &place, how, old.as_ref())? {
                return Self::resume_partial(target, place, how, old, file).map(Some);
            }
            // It has become the file, or is gone, since the client was told how much of it is there.
            if told.is_some() && (how == How::Append || old.is_some()) {
                return Err(ErrorKind::LengthChanged.at(target.path));
            }
        }
        if told.is_some() {
            target.told.set(&place, None);
        }
        match (how, old) {
            (How::At(offset), None) if offset > 0 => {
                Err(ErrorKind::BeyondEnd { size: 0 }.at(target.path))
            }
            (How::At(_) | How::Append, Some(old)) => {
                Self::continue_in_clone(target, place, how, old)
            }
            (_, old) => {
                let meter = target.meter(place.directory.as_fd());
                let mut space = target.space(meter, 0, target.credit(old.as_ref()));
                let own = match target.is_copy {
                    // Cut off, it is worth nothing: who wants the copy says so again. What is left of an upload stays.
                    true => None,
                    false => Self::own_partial(target, &place, &mut space)?,
                };
                let partial = match own {
                    Some(partial) => partial,
                    None => Self::spare_partial(target, &place, &space)?,
                };
                Self::begin_whole(target, place, old, partial, space).map(Some)
            }
        }
    }

    /// The partial file in which this account could go on; None while another session works in it.
    fn own_partial(
        target: &Target<'_>,
        place: &Place,
        space: &mut Space,
    ) -> Result<Option<Partial>, Error> {
        let name = target.partial_name(place);
        for _ in 0..TRIES {
            let mut file = Self::make_partial(target, place, &name, space)?;
            if file.is_none() {
                let left = partial::claim(place.directory.as_fd(), &name, target.holder);
                file = match left.at(target.path)? {
                    Left::Partial(file) => Some(file),
                    Left::InUse(_) => return Ok(None),
                    Left::Nothing => continue,
                };
            }
            if let Some(file) = file {
                space.holds(size_of(&file.stat));
                let resumable = true;
                return Ok(Some(Partial {
                    file,
                    name,
                    resumable,
                }));
            }
        }
        Ok(None)
    }

    /// One that is gone when it is cut off.
    fn spare_partial(target: &Target<'_>, place: &Place, space: &Space) -> Result<Partial, Error> {
        for _ in 0..TRIES {
            let name = partial::spare_name(target.account(), &place.name);
            if let Some(file) = Self::make_partial(target, place, &name, space)? {
                let resumable = false;
                return Ok(Partial {
                    file,
                    name,
                    resumable,
                });
            }
        }
        Err(ErrorKind::Busy.at(target.path))
    }

    /// Makes a partial file, which is counted before: another session that takes it for one that was left counts what it
    /// discards. None where it did, or the name is taken.
    fn make_partial(
        target: &Target<'_>,
        place: &Place,
        name: &[u8],
        space: &Space,
    ) -> Result<Option<Claimed>, Error> {
        space.new_file().at(target.path)?;
        match partial::create(place.directory.as_fd(), name, target.holder) {
            Ok(made) => Ok(made),
            Err(errno) => {
                space.meter.went(0, 1);
                match errno {
                    Errno::EEXIST => Ok(None),
                    errno => Err(errno.at(target.path)),
                }
            }
        }
    }

    fn begin_whole(
        target: &Target<'_>,
        place: Place,
        old: Option<FileStat>,
        partial: Partial,
        space: Space,
    ) -> Result<Self, Error> {
        let left = size_of(&partial.file.stat);
        let mut upload = Self::in_partial(target, partial, place, old, space, 0)?;
        upload.cuts = left > 0;
        Ok(upload)
    }

    /// The partial file of an upload of this account that is to be continued; None where there is none.
    ///
    /// # Errors
    /// `Busy` while another session writes to it, which ends for this one where it has moved nothing for a while;
    /// `ReplacementLeft` for what is to come behind a file that was to be replaced; `OtherLeft` for one that was not.
    fn what_was_cut_off(
        target: &Target<'_>,
        place: &Place,
        how: How,
        old: Option<&FileStat>,
    ) -> Result<Option<Claimed>, Error> {
        let (directory, name) = (place.directory.as_fd(), target.partial_name(place));
        for _ in 0..TRIES {
            let left = partial::claim(directory, &name, target.holder);
            let file = match left.at(target.path)? {
                Left::Nothing => return Ok(None),
                Left::InUse(stat) if give_way(&stat, target.account()) => continue,
                // The client knows its size, and would send what comes behind it.
                Left::InUse(_) => return Err(ErrorKind::Busy.at(target.path)),
                Left::Partial(file) => file,
            };
            return match old {
                Some(old) if !partial::is_to_replace(&file, &file.stat, old) => {
                    // The client may know less of it than the server, and would mix the two.
                    Err(ErrorKind::OtherLeft.at(target.path))
                }
                Some(_) if how == How::Append => Err(ErrorKind::ReplacementLeft.at(target.path)),
                _ => Ok(Some(file)),
            };
        }
        Err(ErrorKind::Busy.at(target.path))
    }

    /// Goes on with what an upload that was cut off has left.
    fn resume_partial(
        target: &Target<'_>,
        place: Place,
        how: How,
        old: Option<FileStat>,
        file: Claimed,
    ) -> Result<Self, Error> {
        let (size, sure) = (size_of(&file.stat), partial::sure_length(&file, &file.stat));
        let position = match (how, target.told.of(&place)) {
            // What comes behind it begins where the client was told that it ends.
            (How::Append, Some(told)) if told <= sure => told,
            (How::Append, Some(_)) => return Err(ErrorKind::LengthChanged.at(target.path)),
            (How::Append, None) => partial::told_length(sure),
            (how, _) => target.position(how, sure)?,
        };
        target.told.set(&place, None);
        let partial = Partial {
            file,
            name: target.partial_name(&place),
            resumable: true,
        };
        let meter = target.meter(place.directory.as_fd());
        let space = target.space(meter, size, target.credit(old.as_ref()));
        let mut upload = Self::in_partial(target, partial, place, old, space, position)?;
        // What lies behind is not sure to be there, or of another upload than what will be in front of it.
        upload.cuts = position < size;
        Ok(upload)
    }

    /// Continues a finished file in a clone of it. None where the file system cannot clone.
    fn continue_in_clone(
        target: &Target<'_>,
        place: Place,
        how: How,
        had: FileStat,
    ) -> Result<Option<Self>, Error> {
        let flags = OPEN | OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
        let Ok(old) = target.root.open_below(target.relative, flags) else {
            return Ok(None);
        };
        let original = fstat(&old).at(target.path)?;
        let size = size_of(&original);
        let position = target.position(how, size)?;
        let meter = target.meter(place.directory.as_fd());
        let credit = match how {
            // All of it lives on in the new one.
            How::Append => (size, 1),
            _ => target.credit(Some(&original)),
        };
        let space = target.space(meter, 0, credit);
        let partial = Self::spare_partial(target, &place, &space)?;
        let cloned = copy::cloned(old.as_fd(), partial.file.as_fd());
        if cloned != Ok(true) {
            partial::remove(place.directory.as_fd(), &partial.name, &partial.file.stat);
            space.meter.went(0, 1);
            return cloned.map(|_| None).at(target.path);
        }
        let mut upload = Self::in_partial(target, partial, place, Some(had), space, position)?;
        if let Grows::Beside(beside) = &mut upload.grows {
            beside.clone_of = Some(original);
            beside.may_replace = true;
            if how == How::Append {
                beside.versions = None;
            }
        }
        upload.may_be_longer = true;
        // Its blocks are shared, but a quota counts what files say they hold.
        let admitted = upload.space.admit_shared(size);
        admitted.at(target.path)?;
        Ok(Some(upload))
    }

    fn in_partial(
        target: &Target<'_>,
        partial: Partial,
        place: Place,
        had: Option<FileStat>,
        space: Space,
        position: u64,
    ) -> Result<Self, Error> {
        let grows = Grows::Beside(Box::new(Beside {
            name: partial.name,
            place,
            may_replace: target.permissions.contains(Permission::Overwrite),
            modes: target.modes,
            clone_of: None,
            resumable: partial.resumable,
            had,
            versions: versions(target)?,
            lock: target.rules.lock,
            holder: target.holder.cloned(),
        }));
        Ok(Self::of(target, partial.file, grows, space, position))
    }

    fn of(target: &Target<'_>, file: Claimed, grows: Grows, space: Space, position: u64) -> Self {
        Self {
            order: Order::of(file.as_fd(), target.durable),
            digest: target.checksums.then(|| Digest::new(Algorithm::default())),
            known_digest: None,
            file,
            grows,
            position,
            received: 0,
            cuts: false,
            may_be_longer: false,
            marked: false,
            has_begun: false,
            pace: Pace::new(target.durable, position),
            space,
            path: target.path.clone(),
            host_path: target.root.host_path(target.relative),
        }
    }

    // ---- in the target itself

    fn begin_in_target(target: &Target<'_>, how: How, may_be_new: bool) -> Result<Self, Error> {
        let needed = match how {
            How::Append => Permission::Append,
            _ => Permission::Overwrite,
        };
        if !target.permissions.contains(needed) {
            let missing = match target.root.stat(target.relative, false) {
                Err(Errno::ENOENT) => Permission::Upload,
                _ => needed,
            };
            return Err(ErrorKind::NotPermitted(missing).at(target.path));
        }
        let file = claim_target(target, may_be_new)?;
        let stat = file.stat;
        match kind(&stat) {
            Kind::File => {}
            Kind::Directory => return Err(ErrorKind::IsADirectory.at(target.path)),
            _ => return Err(ErrorKind::NotAFile.at(target.path)),
        }
        lock::check(&stat, target.rules.lock, target.path.as_bytes())?;
        // The kernel takes them away at the first byte, but not where root writes it.
        if stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            let taken = acl::take_special_bits(file.as_fd(), stat.st_mode);
            taken.at(target.path)?;
        }
        let size = size_of(&stat);
        let position = target.position(how, size)?;
        let space = target.space(target.meter(file.as_fd()), size, (0, 0));
        let mut upload = Self::in_target(target, file, None, space, position)?;
        if how != How::Append {
            let of_old = version_of(target, &upload.file, &upload.space)?;
            if let Grows::InPlace { version, .. } = &mut upload.grows {
                *version = of_old;
            }
        }
        // It tells of what was there, and would again if the time of then came back.
        checksum::forget(upload.file.as_fd());
        upload.cuts = how == How::Replace;
        upload.may_be_longer = true;
        Ok(upload)
    }

    /// A new file that grows under its own name.
    fn begin_in_new_target(target: &Target<'_>) -> Result<Self, Error> {
        let place = target.place()?;
        let meter = target.meter(place.directory.as_fd());
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let space = target.space(meter, 0, (0, 0));
        // Whoever renames something to the name has looked whether it is free.
        let _held = HeldName::of(&place.directory, &place.name).at(target.path)?;
        // Counted before it is there: who finds it then takes it for counted.
        let allowed = space.new_file();
        allowed.at(target.path)?;
        let (directory, name) = (&place.directory, place.name.as_slice());
        let made = names::open(directory, name, flags).inspect_err(|_| space.meter.went(0, 1));
        let claimed = Claimed::new(made.at(target.path)?, target.holder).at(target.path)?;
        let file = claimed.ok_or_else(|| ErrorKind::Busy.at(target.path))?;
        let given = acl::give(directory.as_fd(), file.as_fd(), target.modes);
        if let Err(errno) = given {
            if names::unlink(directory, name).is_ok() {
                space.meter.went(0, 1);
            }
            return Err(errno.at(target.path));
        }
        Self::in_target(target, file, Some(place.directory), space, 0)
    }

    /// `new_in`: the directory of a file that was made just now.
    fn in_target(
        target: &Target<'_>,
        file: Claimed,
        new_in: Option<OwnedFd>,
        space: Space,
        position: u64,
    ) -> Result<Self, Error> {
        // Where its name is, to be looked at in the end.
        let root = target.root.again().at(target.path)?;
        let grows = Grows::InPlace {
            new_in,
            at: (root, target.relative.to_vec()),
            version: None,
        };
        Ok(Self::of(target, file, grows, space, position))
    }
}

/// Opens a target that is there for writing.
fn claim_target(target: &Target<'_>, may_be_new: bool) -> Result<Claimed, Error> {
    // Its checksum begins with what is in it.
    let access = match target.checksums {
        true => OFlag::O_RDWR,
        false => OFlag::O_WRONLY,
    };
    for _ in 0..TRIES {
        if target.root.is_special(target.relative) {
            return Err(ErrorKind::NotAFile.at(target.path));
        }
        let opened = target.root.open_below(target.relative, OPEN | access);
        let file = File::from(match opened {
            Err(Errno::ENOENT) if !may_be_new => {
                return Err(ErrorKind::BeyondEnd { size: 0 }.at(target.path));
            }
            Err(Errno::ENOENT) if !target.permissions.contains(Permission::Upload) => {
                return Err(ErrorKind::NotPermitted(Permission::Upload).at(target.path));
            }
            other => other.at(target.path)?,
        });
        let stat = fstat(&file).at(target.path)?;
        match Claimed::new(file, target.holder).at(target.path)? {
            Some(claimed) => match target.root.stat(target.relative, true) {
                Ok(there) if is_same_file(&there, &stat) => return Ok(claimed),
                // It has lost the name since it was opened, and may be an old version by now.
                _ => {}
            },
            None if give_way(&stat, target.account()) => {}
            None => break,
        }
    }
    Err(ErrorKind::Busy.at(target.path))
}

/// Where old versions of the target go; None where none are kept.
fn versions(target: &Target<'_>) -> Result<Option<Versions>, Error> {
    if target.rules.versions == 0 {
        return Ok(None);
    }
    Ok(Some(Versions {
        of: (
            target.root.again().at(target.path)?,
            target.relative.to_vec(),
        ),
        most: target.rules.versions,
        durable: target.durable,
        min_free: target.min_free,
    }))
}

/// A copy of what is going to be overwritten in place, where there is room for one.
fn version_of(target: &Target<'_>, old: &Claimed, space: &Space) -> Result<Option<Version>, Error> {
    let Some(versions) = versions(target)? else {
        return Ok(None);
    };
    let read = target
        .root
        .open_below(target.relative, OPEN | OFlag::O_RDONLY);
    let read = File::from(read.at(target.path)?);
    let size = size_of(&fstat(&read).at(target.path)?);
    space.would_fit(old, size).at(target.path)?;
    space.meter.grow(size, 1, (0, 0)).at(target.path)?;
    let version = versions.copy(&read).and_then(Copied::become_version);
    let version = version.inspect_err(|_| space.meter.went(size, 1));
    version.map(Some).at(target.path)
}
