//! Moving names, with all that has a say in it: locks, old versions, quotas.
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::fcntl::renameat;
use nix::sys::stat::FileStat;

use crate::storage::disk::durable::Order;
use crate::storage::disk::metadata::{Kind, is_same_file, kind, size_of};
use crate::storage::disk::names::{self, HeldName, rename_to_new};
use crate::storage::disk::root::{Place, Root};
use crate::storage::disk::walk::Missed;
use crate::storage::disk::writers::Doomed;
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::path::VirtualPath;
use crate::storage::permissions::Permission;
use crate::storage::quota::counts;
use crate::storage::quota::meter::Meter;
use crate::storage::retention::versions::{Copied, Versions};
use crate::storage::retention::{fresh, lock};
use crate::storage::view::View;

impl View {
    /// Renames; what has the new name is replaced where the user may overwrite, and never otherwise. Durable: clients
    /// upload under another name and then say this, and take it for stored.
    ///
    /// # Errors
    /// `NotPermitted`, `CrossesFolders`, `IsAFolder`, `Exists`, `Locked`; the rest is the kernel's.
    pub fn rename(&self, from: &VirtualPath, to: &VirtualPath) -> Result<(), Error> {
        let (source, target) = (
            self.permitted(from, Permission::Rename)?,
            self.permitted(to, Permission::Rename)?,
        );
        for path in [from, to] {
            if self.leads_to_folder(path) {
                return Err(ErrorKind::IsAFolder.at(path));
            }
        }
        if source.folder != target.folder {
            return Err(ErrorKind::CrossesFolders.at(to));
        }
        let (old, new) = (source.place()?, target.place()?);
        let renaming = Renaming {
            view: self,
            root: source.root()?,
            lock: source.rules.lock,
            versions: self.versions(&target).at(to)?,
            from: (from, source.relative, &old),
            to: (to, target.relative, &new),
            may_replace: target.permissions.contains(Permission::Overwrite),
        };
        renaming.run()?;
        for place in [&old, &new] {
            self.discard_partial(place);
            self.told.set(place, None);
        }
        let order = Order::of(new.directory.as_fd(), self.durable);
        order.after_change(&new.directory).at(to)?;
        order.names_apart(&old.directory).at(to)
    }
}

/// One rename, with all that has a say in it: locks, versions, quota. Each end is the path, where that is below the root, and
/// the directory with the name.
struct Renaming<'a> {
    view: &'a View,
    root: &'a Root,
    lock: Option<Duration>,
    versions: Option<Versions>,
    from: (&'a VirtualPath, &'a [u8], &'a Place),
    to: (&'a VirtualPath, &'a [u8], &'a Place),
    may_replace: bool,
}

impl Renaming<'_> {
    fn run(&self) -> Result<(), Error> {
        let (from, to) = (self.from.2, self.to.2);
        let [here, there] = [from, to].map(|place| self.view.metered.meter(&place.directory));
        if self.lock.is_some() {
            // Outside the lock on names: a directory may hold much.
            let inside = kind(&self.stat(from, self.from.0)?) == Kind::Directory;
            if inside {
                let path = self.from.0.as_bytes();
                lock::check_tree(self.root, self.from.1, self.lock, path)?;
            }
        }
        let moved = match here.counts_as(&there) {
            true => None,
            false => self.size()?,
        };
        let mut copied = None;
        loop {
            let held = self.hold_names()?;
            if self.try_once([&here, &there], moved, copied.take())? {
                return Ok(());
            }
            drop(held);
            if let Some(versions) = &self.versions {
                copied = versions
                    .copy_of(to.directory.as_fd(), &to.name)
                    .at(self.to.0)?;
            }
        }
    }

    /// False where the file that is replaced has to be copied first, to become an old version.
    fn try_once(
        &self,
        [here, there]: [&Meter; 2],
        moved: Option<(u64, u64)>,
        copied: Option<Copied>,
    ) -> Result<bool, Error> {
        let (from, to) = (self.from.2, self.to.2);
        let source = self.stat(from, self.from.0)?;
        if !self.view.has_just_stored(&source) {
            lock::check(&source, self.lock, self.from.0.as_bytes())?;
        }
        let target = self.stat(to, self.to.0).ok();
        let is_same = |target: &FileStat| is_same_file(target, &source);
        let target = target.filter(|target| kind(target) != Kind::Directory && !is_same(target));
        if let Some(target) = &target {
            lock::check(target, self.lock, self.to.0.as_bytes())?;
        }
        let old = target.filter(|target| kind(target) == Kind::File && self.may_replace);
        let version = match (&old, &self.versions) {
            (Some(old), Some(versions)) => {
                let made = versions.make(to.directory.as_fd(), &to.name, old, copied);
                match made.at(self.to.0)? {
                    None => return Ok(false),
                    version => version,
                }
            }
            _ => None,
        };
        if let Some((bytes, files)) = moved {
            // What is moved within the user's own does not come on top.
            let credit = if here.counts() {
                (bytes, files)
            } else {
                (0, 0)
            };
            there.grow(bytes, files, credit).at(self.to.0)?;
        }
        let doomed = old.and_then(|_| Doomed::open(to.directory.as_fd(), &to.name).ok());
        let done = self.rename();
        if let Some((bytes, files)) = moved {
            // Taken from where it was, or given back where it did not come.
            let meter = if done.is_ok() { here } else { there };
            meter.went(bytes, files);
        }
        done?;
        if let Ok(renamed) = self.stat(to, self.to.0) {
            fresh::renew(self.view.account(), &source, &renamed);
        }
        match (version, doomed) {
            (Some(version), _) => version.stand(there),
            (None, Some(doomed)) => there.lost(doomed),
            (None, None) => {}
        }
        Ok(true)
    }

    fn hold_names(&self) -> Result<(HeldName, Option<HeldName>), Error> {
        let [from, to] = [self.from.2, self.to.2].map(|place| (&place.directory, &*place.name));
        HeldName::of_two(from, to).at(self.to.0)
    }

    fn stat(&self, place: &Place, path: &VirtualPath) -> Result<FileStat, Error> {
        names::stat(&place.directory, &place.name).at(path)
    }

    /// Bytes and files that are moved.
    fn size(&self) -> Result<Option<(u64, u64)>, Error> {
        let stat = self.stat(self.from.2, self.from.0)?;
        match kind(&stat) {
            Kind::File => Ok(Some((size_of(&stat), 1))),
            Kind::Directory => {
                let mut unread = None;
                let mut missed = |missed: Missed<'_>| unread = Some(missed.errno);
                let usage = counts::count_below(self.root, self.from.1, &mut missed);
                match (usage.at(self.from.0)?, unread) {
                    (_, Some(errno)) => Err(errno.at(self.from.0)),
                    (usage, None) => Ok(Some((usage.bytes, usage.files))),
                }
            }
            _ => Ok(None),
        }
    }

    fn rename(&self) -> Result<(), Error> {
        let (from, to) = (self.from.2, self.to.2);
        let (old, new) = (from.name.as_slice(), to.name.as_slice());
        let (here, there) = (&from.directory, &to.directory);
        let renamed = if self.may_replace {
            renameat(here, old, there, new)
        } else {
            rename_to_new(here, old, there, new)
        };
        renamed.at(self.to.0)
    }
}
