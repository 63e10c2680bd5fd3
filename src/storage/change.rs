//! What a user changes: uploads begin here, names are made and removed, times and modes set.
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::storage::disk::acl;
use crate::storage::disk::durable::Order;
use crate::storage::disk::metadata::{Kind, is_same_file, kind};
use crate::storage::disk::names::{self, HeldName};
use crate::storage::disk::reserved::{STATE, VERSIONS, is_partial_name, is_reserved};
use crate::storage::disk::root::{DIRECTORY, Place, name_of};
use crate::storage::disk::tree;
use crate::storage::disk::walk::below;
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::integrity::checksum;
use crate::storage::path::VirtualPath;
use crate::storage::permissions::Permission;
use crate::storage::quota::meter::Meter;
use crate::storage::retention::arrival;
use crate::storage::retention::versions::Versions;
use crate::storage::retention::{fresh, lock};
use crate::storage::upload::partial::{self, Left};
use crate::storage::view::{Located, View};

impl View {
    /// Removes the file, and what uploads to its name have left. Not flushed: after a power cut it may be there again for the
    /// few seconds before, which hurts nobody and spares a commit of the journal a file.
    ///
    /// # Errors
    /// `NotPermitted(Delete)`, `IsADirectory`, `Locked`; the rest is the kernel's.
    pub fn remove_file(&self, path: &VirtualPath) -> Result<(), Error> {
        let (located, place) = self.removable(path, Permission::Delete)?;
        self.told.set(&place, None);
        let versions = self.versions(&located).at(path)?;
        let meter = self.metered.meter(&place.directory);
        let (directory, lock) = (place.directory.as_fd(), located.rules.lock);
        let removed = unlink(directory, &place.name, versions, lock, &meter);
        let may_be_cut_off = matches!(removed, Ok(()) | Err(Unlinked::Refused(Errno::ENOENT)));
        match removed {
            _ if may_be_cut_off && self.discard_partial(&place) => Ok(()),
            removed => removed.map_err(|error| error.of(path)),
        }
    }

    /// Removes what an upload of the account to a name has left, unless somebody works on it: to be continued it would have to
    /// be what the name will stand for. Whether there was any.
    pub(super) fn discard_partial(&self, place: &Place) -> bool {
        let name = partial::name_of(self.account(), &place.name);
        let meter = self.metered.meter(&place.directory);
        partial::discard(place.directory.as_fd(), &name, &meter) == Ok(true)
    }

    /// Where old versions of a file go; None where none are kept.
    ///
    /// # Errors
    /// As [`Root::again`].
    pub(super) fn versions(&self, of: &Located<'_>) -> Result<Option<Versions>, Errno> {
        if of.rules.versions == 0 {
            return Ok(None);
        }
        Ok(Some(Versions {
            of: (of.root?.again()?, of.relative.to_vec()),
            most: of.rules.versions,
            durable: self.durable,
            min_free: self.min_free,
        }))
    }

    /// Removes an empty directory. What uploads have left in it does not count. Not flushed, as [`View::remove_file`].
    ///
    /// # Errors
    /// `NotPermitted(Rmdir)`, `NotEmpty`, `NotADirectory`; the rest is the kernel's.
    pub fn remove_directory(&self, path: &VirtualPath) -> Result<(), Error> {
        let (_, place) = self.removable(path, Permission::Rmdir)?;
        let (directory, name) = (place.directory.as_fd(), place.name.as_slice());
        let remove = || unlinkat(directory, name, UnlinkatFlags::RemoveDir);
        let removed = remove().or_else(|errno| {
            if errno != Errno::ENOTEMPTY {
                return Err(errno);
            }
            let inside = names::open(directory, name, DIRECTORY)?;
            match partial::discard_all(inside.as_fd(), &self.metered.meter(&inside))? {
                true => remove(),
                false => Err(errno),
            }
        });
        removed.at(path)
    }

    fn removable<'a>(
        &'a self,
        path: &'a VirtualPath,
        permission: Permission,
    ) -> Result<(Located<'a>, Place), Error> {
        let located = self.permitted(path, permission)?;
        if self.leads_to_folder(path) {
            return Err(ErrorKind::IsAFolder.at(path));
        }
        Ok((located, located.place()?))
    }

    /// Removes a directory with all in it; `go_on` is asked before each step. Folders within are in the way, and so is a
    /// locked file.
    ///
    /// # Errors
    /// `NotPermitted`, `IsAFolder`, `Locked`, `Shutdown` when `go_on` said no; the rest is the kernel's.
    pub fn remove_tree(
        &self,
        path: &VirtualPath,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        self.permitted(path, Permission::Delete)?;
        let (located, _) = self.removable(path, Permission::Rmdir)?;
        let root = located.root()?;
        // Found out before anything is gone; what is stored meanwhile, when its turn comes.
        lock::check_tree(root, located.relative, located.rules.lock, path.as_bytes())?;
        // A root of another user within counts what it has by itself.
        let mut meter: Option<(Vec<u8>, Meter)> = None;
        let removed = tree::remove(
            root,
            located.relative,
            go_on,
            &mut |directory, above, name| {
                let lies_in =
                    |state: &[u8]| above.split(|&byte| byte == b'/').any(|one| one == state);
                if lies_in(STATE) {
                    // What the server remembers of that root is nobody's file.
                    return Ok(names::unlink(directory, name)?);
                }
                if meter.as_ref().is_none_or(|(of, _)| of != above) {
                    meter = None;
                }
                let (_, meter) =
                    meter.get_or_insert_with(|| (above.to_vec(), self.metered.meter(directory)));
                // Old versions of that root's files become no versions of ours.
                let versions = match lies_in(VERSIONS) || is_reserved(name) {
                    true => None,
                    false => self.versions(&Located {
                        relative: &below(above, name),
                        ..located
                    })?,
                };
                // Held until it is gone: nobody begins to work on it meanwhile.
                let _held = match is_partial_name(name) {
                    true => match partial::claim(directory, name, None)? {
                        Left::Partial(file) => Some(file),
                        Left::Nothing | Left::InUse(_) => return Err(Errno::EBUSY.into()),
                    },
                    false => None,
                };
                unlink(directory, name, versions, located.rules.lock, meter)
            },
        );
        match removed {
            Ok(true) => Ok(()),
            Ok(false) => Err(ErrorKind::Shutdown.at(path)),
            Err(error) => Err(error.of(path)),
        }
    }

    /// Durable.
    ///
    /// # Errors
    /// `NotPermitted(Mkdir)`, `Exists`; the rest is the kernel's.
    pub fn make_directory(&self, path: &VirtualPath) -> Result<(), Error> {
        let located = self.permitted(path, Permission::Mkdir)?;
        if self.leads_to_folder(path) {
            return Err(ErrorKind::Exists.at(path));
        }
        if located.relative.is_empty() {
            return Err(Errno::EEXIST.at(path));
        }
        let place = located.place()?;
        let (directory, name) = (place.directory.as_fd(), place.name.as_slice());
        mkdirat(directory, name, acl::creation_mode(directory, self.modes)).at(path)?;
        let made = names::open(directory, name, DIRECTORY).at(path)?;
        acl::give_directory(directory, made.as_fd(), self.modes).at(path)?;
        let order = Order::of(made.as_fd(), self.durable);
        order.after_change(&made).at(path)?;
        order.names_apart(directory).at(path)
    }

    /// Sets the time of modification, and that of the last access where one is given, in seconds since 1970. Not flushed:
    /// after a power cut a file may be as young as its upload, and a client that compares stores it again.
    ///
    /// # Errors
    /// `NotPermitted(Touch)`, `Locked` unless the account has just stored the file; the rest is the kernel's.
    pub fn set_times(
        &self,
        path: &VirtualPath,
        modified: i64,
        accessed: Option<i64>,
    ) -> Result<(), Error> {
        let fd = self.open_for_attributes(path, None)?;
        let accessed = accessed.map_or(TimeSpec::UTIME_OMIT, |seconds| TimeSpec::new(seconds, 0));
        let before = fstat(&fd);
        let checksum = checksum::valid_record(fd.as_fd());
        arrival::remember(fd.as_fd());
        futimens(&fd, &accessed, &TimeSpec::new(modified, 0)).at(path)?;
        if let Some(mut checksum) = checksum {
            // Not for whatever time it has: somebody else may have written to it meanwhile.
            checksum.modified = (modified, 0);
            checksum::keep(fd.as_fd(), &checksum);
        }
        if let (Ok(before), Ok(after)) = (before, fstat(&fd)) {
            fresh::table().renew(self.account(), &before, &after, Instant::now());
        }
        Ok(())
    }

    /// Sets the permission bits; the special ones (set-user-ID and so on) never. Not flushed.
    ///
    /// # Errors
    /// `NotPermitted(Chmod)`, `Locked`; the rest is the kernel's.
    pub fn set_mode(&self, path: &VirtualPath, mode: u32) -> Result<(), Error> {
        let fd = self.open_for_attributes(path, Some(mode))?;
        let mode = Mode::from_bits_truncate(mode & 0o777);
        let set = match fchmod(&fd, mode) {
            // Of a directory that cannot be read.
            Err(Errno::EBADF) => {
                let name = name_of(&fd);
                fchmodat(AT_FDCWD, name.as_str(), mode, FchmodatFlags::FollowSymlink)
            }
            other => other,
        };
        set.at(path)
    }

    /// For the permission bits that are going to be set, or the times. Files and directories only: opening a device can do
    /// something. For its mode a directory which cannot be read is opened
    /// as a mere path.
    fn open_for_attributes(&self, path: &VirtualPath, mode: Option<u32>) -> Result<OwnedFd, Error> {
        let permission = match mode {
            None => Permission::Touch,
            Some(_) => Permission::Chmod,
        };
        let located = self.permitted(path, permission)?;
        let root = located.root()?;
        let stat = root.stat(located.relative, true).at(path)?;
        match kind(&stat) {
            Kind::File | Kind::Directory => {}
            _ => return Err(ErrorKind::NotAFile.at(path)),
        }
        if mode.is_some() || !self.has_just_stored(&stat) {
            lock::check(&stat, located.rules.lock, path.as_bytes())?;
        }
        let is_directory = kind(&stat) == Kind::Directory;
        if is_directory && !mode.is_some_and(|mode| only_opens(&stat, mode)) {
            let (relative, lock) = (located.relative, located.rules.lock);
            lock::check_tree(root, relative, lock, path.as_bytes())?;
        }
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let open = |access| root.open_below(located.relative, flags | access);
        let opened = match open(OFlag::O_RDONLY) {
            Err(Errno::EACCES) if is_directory && mode.is_some() => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
                root.open_below(located.relative, flags)
            }
            // Owners can set the mode of files that they cannot read.
            Err(Errno::EACCES) => open(OFlag::O_WRONLY),
            other => other,
        };
        let opened = opened.at(path)?;
        // What has the name by now may be locked.
        match fstat(&opened) {
            Ok(now) if is_same_file(&now, &stat) => Ok(opened),
            _ => Err(ErrorKind::Busy.at(path)),
        }
    }

    /// Whether the account of this session has stored the file some minutes ago at most.
    pub(super) fn has_just_stored(&self, stat: &FileStat) -> bool {
        fresh::table().is_fresh(self.account(), stat, Instant::now())
    }
}

/// Whether the mode takes no right from anybody, and lets nobody write but the owner: that harms no file, and is how a directory
/// that cannot be read becomes one that can.
fn only_opens(stat: &FileStat, mode: u32) -> bool {
    let (old, new) = (stat.st_mode & 0o777, mode & 0o777);
    old & !new == 0 && new & !old & 0o022 == 0
}

/// Takes one name away that is no directory, unless it is locked: a file becomes an old version where those are kept. Counts
/// what is gone.
fn unlink(
    directory: BorrowedFd<'_>,
    name: &[u8],
    versions: Option<Versions>,
    lock: Option<Duration>,
    meter: &Meter,
) -> Result<(), Unlinked> {
    let mut copied = None;
    loop {
        // An upload that has just been given the name may have to give it back.
        let held = HeldName::of(directory, name)?;
        let stat = names::stat(directory, name)?;
        if let Some(until) = lock::locked_until(&stat, lock) {
            return Err(Unlinked::Locked(until));
        }
        if kind(&stat) != Kind::File {
            return Ok(names::unlink(directory, name)?);
        }
        let Some(versions) = &versions else {
            return Ok(meter.remove(directory, name)?);
        };
        if copied.is_none() {
            if versions.take(directory, name, meter)? {
                return Ok(());
            }
        } else if let Some(version) = versions.make(directory, name, &stat, copied.take())? {
            names::unlink(directory, name)?;
            version.stand(meter);
            return Ok(());
        }
        drop(held);
        copied = versions.copy_of(directory, name)?;
    }
}

impl From<Errno> for Unlinked {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// Why a name was not removed.
#[derive(PartialEq, Eq)]
enum Unlinked {
    Refused(Errno),
    /// Until when, in seconds since 1970.
    Locked(i64),
}

impl Unlinked {
    fn of(self, path: &VirtualPath) -> Error {
        match self {
            Self::Refused(errno) => errno.at(path),
            Self::Locked(until) => ErrorKind::Locked { until }.at(path),
        }
    }
}
