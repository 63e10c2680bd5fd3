//! Moving names, with all that has a say in it: locks, old versions, quotas.
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::fcntl::renameat;
use nix::sys::stat::FileStat;

use crate::storage::disk::durable::Order;
use crate::storage::disk::metadata::{Kind, is_same_file, kind, size_of};
use crate::storage::disk::names::{self, HeldName, rename_to_new};
use crate::storage::disk::root::Place;
use crate::storage::disk::walk::Missed;
use crate::storage::disk::writers::Doomed;
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::path::VirtualPath;
use crate::storage::permissions::Permission;
use crate::storage::quota::counts;
use crate::storage::quota::meter::Meter;
use crate::storage::retention::versions::{Copied, Versions};
use crate::storage::retention::{fresh, lock};
use crate::storage::view::{Located, View};

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
        let renaming = Renaming {
            view: self,
            lock: source.rules.lock,
            versions: self.versions(&target).at(to)?,
            may_replace: target.permissions.contains(Permission::Overwrite),
            from: End::new(source)?,
            to: End::new(target)?,
        };
        renaming.run()?;
        let [old, new] = [&renaming.from.place, &renaming.to.place];
        for place in [old, new] {
            self.discard_partial(place);
            self.told.set(place, None);
        }
        let order = Order::of(new.directory.as_fd(), self.durable);
        order.after_change(&new.directory).at(to)?;
        order.names_apart(&old.directory).at(to)
    }
}

/// One of the two names.
struct End<'a> {
    at: Located<'a>,
    place: Place,
}

impl<'a> End<'a> {
    fn new(at: Located<'a>) -> Result<Self, Error> {
        let place = at.place()?;
        Ok(Self { at, place })
    }

    fn stat(&self) -> Result<FileStat, Error> {
        names::stat(&self.place.directory, &self.place.name).at(self.at.path)
    }
}

/// One rename, with all that has a say in it: locks, versions, quota.
struct Renaming<'a> {
    view: &'a View,
    lock: Option<Duration>,
    versions: Option<Versions>,
    from: End<'a>,
    to: End<'a>,
    may_replace: bool,
}

impl Renaming<'_> {
    fn run(&self) -> Result<(), Error> {
        let Self { from, to, view, .. } = self;
        let [here, there] = [from, to].map(|end| view.metered.meter(&end.place.directory));
        if self.lock.is_some() {
            // Outside the lock on names: a directory may hold much.
            if kind(&from.stat()?) == Kind::Directory {
                let (root, path) = (from.at.root()?, from.at.path.as_bytes());
                lock::check_tree(root, from.at.relative, self.lock, path)?;
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
                let copy = versions.copy_of(to.place.directory.as_fd(), &to.place.name);
                copied = copy.at(to.at.path)?;
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
        let (from, to) = (&self.from, &self.to);
        let (directory, name) = (to.place.directory.as_fd(), &to.place.name);
        let source = from.stat()?;
        if !self.view.has_just_stored(&source) {
            lock::check(&source, self.lock, from.at.path.as_bytes())?;
        }
        let target = to.stat().ok();
        let is_same = |target: &FileStat| is_same_file(target, &source);
        let target = target.filter(|target| kind(target) != Kind::Directory && !is_same(target));
        if let Some(target) = &target {
            lock::check(target, self.lock, to.at.path.as_bytes())?;
        }
        let old = target.filter(|target| kind(target) == Kind::File && self.may_replace);
        let version = match (&old, &self.versions) {
            (Some(old), Some(versions)) => {
                let made = versions.make(directory, name, old, copied);
                match made.at(self.to.at.path)? {
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
            there.grow(bytes, files, credit).at(self.to.at.path)?;
        }
        let doomed = old.and_then(|_| Doomed::open(directory, name).ok());
        let done = self.rename();
        if let Some((bytes, files)) = moved {
            // Taken from where it was, or given back where it did not come.
            let meter = if done.is_ok() { here } else { there };
            meter.went(bytes, files);
        }
        done?;
        if let Ok(renamed) = to.stat() {
            let account = self.view.account();
            fresh::table().renew(account, &source, &renamed, Instant::now());
        }
        match (version, doomed) {
            (Some(version), _) => version.stand(there),
            (None, Some(doomed)) => there.lost(doomed),
            (None, None) => {}
        }
        Ok(true)
    }

    fn hold_names(&self) -> Result<(HeldName, Option<HeldName>), Error> {
        let [from, to] = [&self.from.place, &self.to.place].map(|at| (&at.directory, &*at.name));
        HeldName::of_two(from, to).at(self.to.at.path)
    }

    /// Bytes and files that are moved.
    fn size(&self) -> Result<Option<(u64, u64)>, Error> {
        let at = &self.from.at;
        let stat = self.from.stat()?;
        match kind(&stat) {
            Kind::File => Ok(Some((size_of(&stat), 1))),
            Kind::Directory => {
                let mut unread = None;
                let mut missed = |missed: Missed<'_>| unread = Some(missed.errno);
                let usage = counts::count_below(at.root()?, at.relative, &mut missed);
                match (usage.at(at.path)?, unread) {
                    (_, Some(errno)) => Err(errno.at(at.path)),
                    (usage, None) => Ok(Some((usage.bytes, usage.files))),
                }
            }
            _ => Ok(None),
        }
    }

    fn rename(&self) -> Result<(), Error> {
        let (from, to) = (&self.from.place, &self.to.place);
        let (old, new) = (from.name.as_slice(), to.name.as_slice());
        let (here, there) = (&from.directory, &to.directory);
        let renamed = if self.may_replace {
            renameat(here, old, there, new)
        } else {
            rename_to_new(here, old, there, new)
        };
        renamed.at(self.to.at.path)
    }
}
