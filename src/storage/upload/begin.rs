//! What an upload grows in: a partial file beside the target where that is possible, else the target itself.
use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::{FileStat, fstat};

use super::partial::{self, Left};
use super::space::Space;
use super::{Beside, Grows, How, Upload};
use crate::storage::disk::durable::{Order, Pace};
use crate::storage::disk::metadata::{Kind, is_same_file, kind, size_of};
use crate::storage::disk::names::HeldName;
use crate::storage::disk::root::{Place, Root};
use crate::storage::disk::writers::{Claimed, give_way};
use crate::storage::disk::{acl, boot, copy};
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::integrity::checksum::{self, Algorithm, Digest};
use crate::storage::path::VirtualPath;
use crate::storage::permissions::Permission;
use crate::storage::retention::lock;
use crate::storage::retention::versions::{Copied, Version, Versions};
use crate::storage::rules::Uploads;
use crate::storage::view::{Located, View, must_be_file};

/// Neither waits for the other end of a FIFO nor makes a terminal ours.
const OPEN: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY);

/// How often something is tried again that another session was faster at.
const TRIES: usize = 3;

/// Names that STOU tries: even where a million are taken, the second is free but once in four thousand times.
const UNIQUE_NAMES_TRIED: usize = 16;

impl View {
    /// # Errors
    /// `NotPermitted`, `IsADirectory`, `NotAFile`, `BeyondEnd`; the rest is the kernel's.
    pub fn begin_upload(&self, path: &VirtualPath, how: How) -> Result<Upload, Error> {
        Target::new(self, path, false)?.begin(how)
    }

    /// The same for what is not sent, but another file of the server.
    pub(super) fn begin_upload_of_copy(&self, path: &VirtualPath) -> Result<Upload, Error> {
        Target::new(self, path, true)?.begin(How::Replace)
    }

    /// A new file in the directory whose name begins with `prefix` (RFC 959 STOU): that name itself where it is free, else one
    /// at random, so that thousands of names which are taken cost no more tries than one.
    ///
    /// # Errors
    /// As [`View::begin_upload`]; `Exists` when no name is found.
    pub fn begin_unique_upload(
        &self,
        directory: &VirtualPath,
        prefix: &[u8],
    ) -> Result<Upload, Error> {
        for attempt in 0..UNIQUE_NAMES_TRIED {
            let mut name = prefix.to_vec();
            if attempt > 0 {
                let random = getrandom::u32();
                let random = random.map_err(|_| Errno::EIO.at(prefix))?;
                name.extend(format!(".{random:08x}").into_bytes());
            }
            let path = directory.join(&name)?;
            if self.leads_to_folder(&path) {
                continue;
            }
            self.permitted(&path, Permission::Upload)?;
            match Target::new(self, &path, false)?.begin_unique() {
                Err(error) if error.kind == ErrorKind::Exists => {}
                other => return other,
            }
        }
        Err(ErrorKind::Exists.at(prefix))
    }
}

/// Where an upload goes.
struct Target<'a> {
    view: &'a View,
    at: Located<'a>,
    root: &'a Root,
    path: &'a VirtualPath,
    /// What comes is another file of the server.
    is_copy: bool,
}

impl<'a> Target<'a> {
    fn new(view: &'a View, path: &'a VirtualPath, is_copy: bool) -> Result<Self, Error> {
        if view.leads_to_folder(path) {
            return Err(ErrorKind::IsADirectory.at(path));
        }
        let at = view.locate(path);
        Ok(Self {
            view,
            root: at.root()?,
            at,
            path,
            is_copy,
        })
    }

    /// Room for a file in the directory or, where a link leads there, for the file itself. To be had before anything is made,
    /// for what nobody has counted yet is counted then.
    fn space(&self, at: impl AsFd, credit: (u64, u64)) -> Space {
        Space::new(self.view.min_free, self.view.metered.meter(at), credit)
    }

    /// Bytes and files that are gone when the upload has taken the place of the old file.
    fn credit(&self, old: Option<&FileStat>) -> (u64, u64) {
        let replaced = old.filter(|_| self.at.rules.versions == 0);
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

    fn begin(&self, how: How) -> Result<Upload, Error> {
        if self.at.rules.uploads == Uploads::Atomic {
            if let Some(upload) = self.begin_beside(how)? {
                return Ok(upload);
            }
        }
        // An offset asks for a file that is there.
        let may_be_new = !matches!(how, How::At(offset) if offset > 0);
        if may_be_new && self.at.permissions.contains(Permission::Upload) {
            match self.begin_in_new_target() {
                Err(error) if error.kind == ErrorKind::Exists => {}
                other => return other,
            }
        }
        self.begin_in_target(how, may_be_new)
    }

    /// Creates the file, which must not be there.
    fn begin_unique(&self) -> Result<Upload, Error> {
        if self.at.rules.uploads == Uploads::Direct {
            return self.begin_in_new_target();
        }
        if self.at.stat(false).is_ok() {
            return Err(ErrorKind::Exists.at(self.path));
        }
        let place = self.at.place()?;
        let mut space = self.space(&place.directory, (0, 0));
        let own = self.own_partial(&place, &mut space)?;
        let (file, name) = own.ok_or_else(|| ErrorKind::Exists.at(self.path))?;
        let mut beside = self.beside(place, name, true, None)?;
        beside.may_replace = false;
        Ok(self.upload_beside(file, beside, space, 0))
    }

    // ---- beside the target

    /// An upload that leaves the target alone until it is whole. None where it has to go into the target: the target is a
    /// link, which stays one, or a finished file that is continued where the file system cannot clone it.
    fn begin_beside(&self, how: How) -> Result<Option<Upload>, Error> {
        let old = match self.at.stat(false) {
            Err(Errno::ENOENT) => None,
            other => Some(other.at(self.path)?),
        };
        let needed = match old.as_ref().map(kind) {
            None => Permission::Upload,
            Some(Kind::File) if how == How::Append => Permission::Append,
            Some(Kind::File) => Permission::Overwrite,
            Some(Kind::Symlink) => return Ok(None),
            Some(Kind::Directory) => return Err(ErrorKind::IsADirectory.at(self.path)),
            Some(Kind::Other) => return Err(ErrorKind::NotAFile.at(self.path)),
        };
        if !self.at.permissions.contains(needed) {
            return Err(ErrorKind::NotPermitted(needed).at(self.path));
        }
        if let Some(old) = &old {
            lock::check(old, self.at.rules.lock, self.path.as_bytes())?;
        }
        let place = self.at.place()?;
        let told = self.view.told.of(&place);
        if how != How::Replace {
            if let Some(file) = self.what_was_cut_off(&place, how, old.as_ref())? {
                return self.resume(place, how, old, file).map(Some);
            }
            // It has become the file, or is gone, since the client was told how much of it is there.
            if told.is_some() && (how == How::Append || old.is_some()) {
                return Err(ErrorKind::LengthChanged.at(self.path));
            }
        }
        if told.is_some() {
            self.view.told.set(&place, None);
        }
        match (how, old) {
            (How::At(offset), None) if offset > 0 => {
                Err(ErrorKind::BeyondEnd { size: 0 }.at(self.path))
            }
            (How::At(_) | How::Append, Some(old)) => self.continue_in_clone(place, how, old),
            (_, old) => {
                let mut space = self.space(&place.directory, self.credit(old.as_ref()));
                let own = match self.is_copy {
                    // Cut off, it is worth nothing: who wants the copy says so again. What is left of an upload stays.
                    true => None,
                    false => self.own_partial(&place, &mut space)?,
                };
                let resumable = own.is_some();
                let (file, name) = match own {
                    Some(own) => own,
                    None => self.spare_partial(&place, &space)?,
                };
                let beside = self.beside(place, name, resumable, old)?;
                Ok(Some(self.upload_beside(file, beside, space, 0)))
            }
        }
    }

    /// The partial file in which this account could go on, by its name; None while another session works in it.
    fn own_partial(
        &self,
        place: &Place,
        space: &mut Space,
    ) -> Result<Option<(Claimed, Vec<u8>)>, Error> {
        let name = partial::name_of(self.view.account(), &place.name);
        for _ in 0..TRIES {
            let file = match self.make_file(place, &name, space)? {
                Some(file) => file,
                None => match self.claim(place, &name)? {
                    Left::Partial(file) => file,
                    Left::InUse(_) => return Ok(None),
                    Left::Nothing => continue,
                },
            };
            space.holds(size_of(&file.stat));
            return Ok(Some((file, name)));
        }
        Ok(None)
    }

    /// One that is gone when it is cut off.
    fn spare_partial(&self, place: &Place, space: &Space) -> Result<(Claimed, Vec<u8>), Error> {
        for _ in 0..TRIES {
            let name = partial::spare_name(self.view.account(), &place.name);
            if let Some(file) = self.make_file(place, &name, space)? {
                return Ok((file, name));
            }
        }
        Err(ErrorKind::Busy.at(self.path))
    }

    /// Makes a file, which is counted before: another session that takes it for one that was left counts what it discards. None
    /// where it did, or the name is taken.
    fn make_file(
        &self,
        place: &Place,
        name: &[u8],
        space: &Space,
    ) -> Result<Option<Claimed>, Error> {
        space.new_file().at(self.path)?;
        let directory = place.directory.as_fd();
        let made = partial::create(directory, name, self.view.holder.as_ref());
        match made.inspect_err(|_| space.meter.went(0, 1)) {
            Err(Errno::EEXIST) => Ok(None),
            other => other.at(self.path),
        }
    }

    fn claim(&self, place: &Place, name: &[u8]) -> Result<Left, Error> {
        let holder = self.view.holder.as_ref();
        partial::claim(place.directory.as_fd(), name, holder).at(self.path)
    }

    /// The partial file of an upload of this account that is to be continued; None where there is none.
    ///
    /// # Errors
    /// `Busy` while another session writes to it, which ends for this one where it has moved nothing for a while;
    /// `ReplacementLeft` for what is to come behind a file that was to be replaced; `OtherLeft` for one that was not.
    fn what_was_cut_off(
        &self,
        place: &Place,
        how: How,
        old: Option<&FileStat>,
    ) -> Result<Option<Claimed>, Error> {
        let account = self.view.account();
        let name = partial::name_of(account, &place.name);
        for _ in 0..TRIES {
            let file = match self.claim(place, &name)? {
                Left::Nothing => return Ok(None),
                Left::InUse(stat) if give_way(&stat, account) => continue,
                // The client knows its size, and would send what comes behind it.
                Left::InUse(_) => break,
                Left::Partial(file) => file,
            };
            return match old {
                Some(old) if !boot::is_to_replace(file.as_fd(), &file.stat, old) => {
                    // The client may know less of it than the server, and would mix the two.
                    Err(ErrorKind::OtherLeft.at(self.path))
                }
                Some(_) if how == How::Append => Err(ErrorKind::ReplacementLeft.at(self.path)),
                _ => Ok(Some(file)),
            };
        }
        Err(ErrorKind::Busy.at(self.path))
    }

    /// Goes on with what an upload that was cut off has left.
    fn resume(
        &self,
        place: Place,
        how: How,
        old: Option<FileStat>,
        file: Claimed,
    ) -> Result<Upload, Error> {
        let told = &self.view.told;
        let sure = boot::sure_length(file.as_fd(), &file.stat);
        let position = match (how, told.of(&place)) {
            // What comes behind it begins where the client was told that it ends.
            (How::Append, Some(told)) if told <= sure => told,
            (How::Append, Some(_)) => return Err(ErrorKind::LengthChanged.at(self.path)),
            (How::Append, None) => partial::told_length(sure),
            (how, _) => self.position(how, sure)?,
        };
        told.set(&place, None);
        let mut space = self.space(&place.directory, self.credit(old.as_ref()));
        space.holds(size_of(&file.stat));
        let name = partial::name_of(self.view.account(), &place.name);
        let beside = self.beside(place, name, true, old)?;
        Ok(self.upload_beside(file, beside, space, position))
    }

    /// Continues a finished file in a clone of it. None where the file system cannot clone.
    fn continue_in_clone(
        &self,
        place: Place,
        how: How,
        had: FileStat,
    ) -> Result<Option<Upload>, Error> {
        let Ok(old) = self.at.open(OPEN | OFlag::O_RDONLY | OFlag::O_NOFOLLOW) else {
            return Ok(None);
        };
        let original = fstat(&old).at(self.path)?;
        let size = size_of(&original);
        let position = self.position(how, size)?;
        let credit = match how {
            // All of it lives on in the new one.
            How::Append => (size, 1),
            _ => self.credit(Some(&original)),
        };
        let space = self.space(&place.directory, credit);
        let (file, name) = match self.spare_partial(&place, &space) {
            // Nothing can be made here, but the file itself may be written to.
            Err(error) if error.kind == ErrorKind::Denied => return Ok(None),
            other => other?,
        };
        let cloned = copy::cloned(old.as_fd(), file.as_fd());
        if cloned != Ok(true) {
            partial::remove(place.directory.as_fd(), &name, &file.stat);
            space.meter.went(0, 1);
            return cloned.map(|_| None).at(self.path);
        }
        let mut beside = self.beside(place, name, false, Some(had))?;
        beside.clone_of = Some(original);
        beside.may_replace = true;
        if how == How::Append {
            beside.versions = None;
        }
        let mut upload = self.upload_beside(file, beside, space, position);
        upload.may_be_longer = true;
        // Its blocks are shared, but a quota counts what files say they hold.
        upload.space.admit_shared(size).at(self.path)?;
        Ok(Some(upload))
    }

    /// `name`: of the partial file.
    fn beside(
        &self,
        place: Place,
        name: Vec<u8>,
        resumable: bool,
        had: Option<FileStat>,
    ) -> Result<Beside, Error> {
        Ok(Beside {
            name,
            place,
            may_replace: self.at.permissions.contains(Permission::Overwrite),
            modes: self.view.modes,
            clone_of: None,
            resumable,
            had,
            versions: self.versions()?,
            lock: self.at.rules.lock,
            holder: self.view.holder.clone(),
        })
    }

    /// What lies behind the position is not sure to be there, or of another upload than what will be in front of it.
    fn upload_beside(&self, file: Claimed, beside: Beside, space: Space, position: u64) -> Upload {
        let cuts = position < size_of(&file.stat);
        let mut upload = self.upload(file, Grows::Beside(Box::new(beside)), space, position);
        upload.cuts = cuts;
        upload
    }

    fn upload(&self, file: Claimed, grows: Grows, space: Space, position: u64) -> Upload {
        let durable = self.view.durable;
        Upload {
            order: Order::of(file.as_fd(), durable),
            digest: (self.view.checksums).then(|| Digest::new(Algorithm::default())),
            known_digest: None,
            file,
            grows,
            position,
            received: 0,
            cuts: false,
            may_be_longer: false,
            marked: false,
            has_begun: false,
            pace: Pace::new(durable, position),
            space,
            path: self.path.clone(),
            host_path: self.root.host_path(self.at.relative),
        }
    }

    // ---- in the target itself

    fn begin_in_target(&self, how: How, may_be_new: bool) -> Result<Upload, Error> {
        let needed = match how {
            How::Append => Permission::Append,
            _ => Permission::Overwrite,
        };
        if !self.at.permissions.contains(needed) {
            let missing = match self.at.stat(false) {
                Err(Errno::ENOENT) => Permission::Upload,
                _ => needed,
            };
            return Err(ErrorKind::NotPermitted(missing).at(self.path));
        }
        let file = self.claim_target(may_be_new)?;
        let stat = file.stat;
        must_be_file(&stat).at(self.path)?;
        lock::check(&stat, self.at.rules.lock, self.path.as_bytes())?;
        // The kernel takes them away at the first byte, but not where root writes it.
        if stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            acl::set_mode(file.as_fd(), stat.st_mode).at(self.path)?;
        }
        let size = size_of(&stat);
        let position = self.position(how, size)?;
        let mut space = self.space(file.as_fd(), (0, 0));
        space.holds(size);
        let grows = Grows::InPlace {
            new_in: None,
            at: self.root_and_path()?,
            version: match how {
                How::Append => None,
                _ => self.version_of(&file, &space)?,
            },
        };
        // It tells of what was there, and would again if the time of then came back.
        checksum::forget(file.as_fd());
        let mut upload = self.upload(file, grows, space, position);
        upload.cuts = how == How::Replace;
        upload.may_be_longer = true;
        Ok(upload)
    }

    /// A new file that grows under its own name.
    fn begin_in_new_target(&self) -> Result<Upload, Error> {
        let place = self.at.place()?;
        let space = self.space(&place.directory, (0, 0));
        // Whoever renames something to the name has looked whether it is free.
        let _held = HeldName::of(&place.directory, &place.name).at(self.path)?;
        let made = self.make_file(&place, &place.name, &space)?;
        let file = made.ok_or_else(|| ErrorKind::Exists.at(self.path))?;
        let given = acl::give(place.directory.as_fd(), file.as_fd(), self.view.modes);
        if let Err(errno) = given {
            let _ = space.meter.remove(place.directory.as_fd(), &place.name);
            return Err(errno.at(self.path));
        }
        let grows = Grows::InPlace {
            new_in: Some(place.directory),
            at: self.root_and_path()?,
            version: None,
        };
        Ok(self.upload(file, grows, space, 0))
    }

    /// Where the name of the target is, to be looked at in the end.
    fn root_and_path(&self) -> Result<(Root, Vec<u8>), Error> {
        let root = self.root.again().at(self.path)?;
        Ok((root, self.at.relative.to_vec()))
    }

    /// Opens a target that is there for writing.
    fn claim_target(&self, may_be_new: bool) -> Result<Claimed, Error> {
        // Its checksum begins with what is in it.
        let access = match self.view.checksums {
            true => OFlag::O_RDWR,
            false => OFlag::O_WRONLY,
        };
        for _ in 0..TRIES {
            if self.root.is_special(self.at.relative) {
                return Err(ErrorKind::NotAFile.at(self.path));
            }
            let file = File::from(match self.at.open(OPEN | access) {
                Err(Errno::ENOENT) if !may_be_new => {
                    return Err(ErrorKind::BeyondEnd { size: 0 }.at(self.path));
                }
                Err(Errno::ENOENT) if !self.at.permissions.contains(Permission::Upload) => {
                    return Err(ErrorKind::NotPermitted(Permission::Upload).at(self.path));
                }
                other => other.at(self.path)?,
            });
            let stat = fstat(&file).at(self.path)?;
            match Claimed::new(file, self.view.holder.as_ref()).at(self.path)? {
                Some(claimed) => match self.at.stat(true) {
                    Ok(there) if is_same_file(&there, &stat) => return Ok(claimed),
                    // It has lost the name since it was opened, and may be an old version by now.
                    _ => {}
                },
                None if give_way(&stat, self.view.account()) => {}
                None => break,
            }
        }
        Err(ErrorKind::Busy.at(self.path))
    }

    fn versions(&self) -> Result<Option<Versions>, Error> {
        self.view.versions(&self.at).at(self.path)
    }

    /// A copy of what is going to be overwritten in place, where there is room for one.
    fn version_of(&self, old: &Claimed, space: &Space) -> Result<Option<Version>, Error> {
        let Some(versions) = self.versions()? else {
            return Ok(None);
        };
        let read = self.at.open(OPEN | OFlag::O_RDONLY).at(self.path)?;
        let read = File::from(read);
        let size = size_of(&fstat(&read).at(self.path)?);
        space.would_fit(old, size).at(self.path)?;
        space.meter.grow(size, 1, (0, 0)).at(self.path)?;
        let version = versions.copy(&read).and_then(Copied::become_version);
        let version = version.inspect_err(|_| space.meter.went(size, 1));
        version.map(Some).at(self.path)
    }
}
