//! What a user changes: uploads begin here, names are made, moved and removed, times and modes set.
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, fchmod, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::error::{Error, ErrorKind};
use super::metadata::{Kind, kind};
use super::partial;
use super::path::VirtualPath;
use super::permissions::Permission;
use super::root::Place;
use super::tree;
use super::upload::{How, Target, Upload, give};
use super::view::{Located, View};

impl View {
    /// # Errors
    /// `NotPermitted`, `IsADirectory`, `NotAFile`, `BeyondEnd`; the rest is the kernel's.
    pub fn begin_upload(&self, path: &VirtualPath, how: How) -> Result<Upload, Error> {
        if self.leads_to_folder(path) {
            return Err(Error::new(ErrorKind::IsADirectory, path.as_bytes()));
        }
        let located = self.locate(path);
        Upload::begin(&self.target(path, &located)?, how)
    }

    /// A new file in the directory whose name begins with `prefix` (RFC 959 STOU).
    ///
    /// # Errors
    /// As [`View::begin_upload`]; `Exists` when no name is free.
    pub fn begin_unique_upload(
        &self,
        directory: &VirtualPath,
        prefix: &[u8],
    ) -> Result<Upload, Error> {
        for number in 0..10_000 {
            let mut name = prefix.to_vec();
            if number > 0 {
                name.extend(format!(".{number}").into_bytes());
            }
            let path = directory.join(&name)?;
            if self.leads_to_folder(&path) {
                continue;
            }
            let located = self.permitted(&path, Permission::Upload)?;
            match Upload::begin_new(&self.target(&path, &located)?) {
                Err(error) if error.kind == ErrorKind::Exists => {}
                other => return other,
            }
        }
        Err(Error::new(ErrorKind::Exists, prefix))
    }

    fn target<'a>(
        &self,
        path: &'a VirtualPath,
        located: &Located<'a>,
    ) -> Result<Target<'a>, Error> {
        Ok(Target {
            root: located
                .root
                .map_err(|errno| Error::from_errno(errno, path.as_bytes()))?,
            relative: located.relative,
            path,
            permissions: located.permissions,
            modes: self.modes,
            durable: self.durable,
            uploads: located.rules.uploads,
        })
    }

    /// Renames; what has the new name is replaced where the user may overwrite, and never otherwise.
    ///
    /// # Errors
    /// `NotPermitted`, `CrossesFolders`, `IsAFolder`, `Exists`; the rest is the kernel's.
    pub fn rename(&self, from: &VirtualPath, to: &VirtualPath) -> Result<(), Error> {
        let (source, target) = (
            self.permitted(from, Permission::Rename)?,
            self.permitted(to, Permission::Rename)?,
        );
        for path in [from, to] {
            if self.leads_to_folder(path) {
                return Err(Error::new(ErrorKind::IsAFolder, path.as_bytes()));
            }
        }
        if source.folder != target.folder {
            return Err(Error::new(ErrorKind::CrossesFolders, to.as_bytes()));
        }
        let may_replace = target.permissions.contains(Permission::Overwrite);
        let old = source.root.and_then(|root| root.place(source.relative));
        let old = old.map_err(|errno| Error::from_errno(errno, from.as_bytes()))?;
        let fail = |errno| Error::from_errno(errno, to.as_bytes());
        let new = target
            .root
            .and_then(|root| root.place(target.relative))
            .map_err(fail)?;
        let (old_name, new_name) = (old.name.as_slice(), new.name.as_slice());
        if may_replace {
            renameat(&old.directory, old_name, &new.directory, new_name).map_err(fail)
        } else {
            let flags = RenameFlags::RENAME_NOREPLACE;
            renameat2(&old.directory, old_name, &new.directory, new_name, flags).map_err(fail)
        }
    }

    /// Removes the file, and what uploads to its name have left.
    ///
    /// # Errors
    /// `NotPermitted(Delete)`, `IsADirectory`; the rest is the kernel's.
    pub fn remove_file(&self, path: &VirtualPath) -> Result<(), Error> {
        let place = self.removable(path, Permission::Delete)?;
        let directory = place.directory.as_fd();
        let removed = unlinkat(directory, place.name.as_slice(), UnlinkatFlags::NoRemoveDir);
        match removed {
            Ok(()) | Err(Errno::ENOENT) => {
                let left = partial::discard(directory, &place.name);
                if left { Ok(()) } else { removed }
            }
            other => other,
        }
        .map_err(|errno| Error::from_errno(errno, path.as_bytes()))
    }

    /// Removes an empty directory. What uploads have left in it does not count.
    ///
    /// # Errors
    /// `NotPermitted(Rmdir)`, `NotEmpty`, `NotADirectory`; the rest is the kernel's.
    pub fn remove_directory(&self, path: &VirtualPath) -> Result<(), Error> {
        let place = self.removable(path, Permission::Rmdir)?;
        let (directory, name) = (place.directory.as_fd(), place.name.as_slice());
        let remove = || unlinkat(directory, name, UnlinkatFlags::RemoveDir);
        let removed = remove().or_else(|errno| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            if errno == Errno::ENOTEMPTY
                && partial::discard_all(openat(directory, name, flags, Mode::empty())?)?
            {
                return remove();
            }
            Err(errno)
        });
        removed.map_err(|errno| Error::from_errno(errno, path.as_bytes()))
    }

    fn removable(&self, path: &VirtualPath, permission: Permission) -> Result<Place, Error> {
        let located = self.permitted(path, permission)?;
        if self.leads_to_folder(path) {
            return Err(Error::new(ErrorKind::IsAFolder, path.as_bytes()));
        }
        let place = located.root.and_then(|root| root.place(located.relative));
        place.map_err(|errno| Error::from_errno(errno, path.as_bytes()))
    }

    /// Removes a directory with all in it; `go_on` is asked before each step. Folders within are in the way.
    ///
    /// # Errors
    /// `NotPermitted`, `IsAFolder`, `Shutdown` when `go_on` said no; the rest is the kernel's.
    pub fn remove_tree(
        &self,
        path: &VirtualPath,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        self.permitted(path, Permission::Delete)?;
        let located = self.permitted(path, Permission::Rmdir)?;
        if self.leads_to_folder(path) {
            return Err(Error::new(ErrorKind::IsAFolder, path.as_bytes()));
        }
        match located
            .root
            .and_then(|root| tree::remove(root, located.relative, go_on))
        {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(ErrorKind::Shutdown, path.as_bytes())),
            Err(errno) => Err(Error::from_errno(errno, path.as_bytes())),
        }
    }

    /// # Errors
    /// `NotPermitted(Mkdir)`, `Exists`; the rest is the kernel's.
    pub fn make_directory(&self, path: &VirtualPath) -> Result<(), Error> {
        let located = self.permitted(path, Permission::Mkdir)?;
        if self.leads_to_folder(path) {
            return Err(Error::new(ErrorKind::Exists, path.as_bytes()));
        }
        let fail = |errno| Error::from_errno(errno, path.as_bytes());
        let root = located.root.map_err(fail)?;
        if located.relative.is_empty() {
            return Err(fail(Errno::EEXIST));
        }
        let place = root.place(located.relative).map_err(fail)?;
        mkdirat(&place.directory, place.name.as_slice(), Mode::S_IRWXU).map_err(fail)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(
            &place.directory,
            place.name.as_slice(),
            flags,
            Mode::empty(),
        )
        .map_err(fail)?;
        give(made.as_fd(), self.modes.of_directories(), self.modes.group).map_err(fail)
    }

    /// Sets the time of modification, and that of the last access where one is given, in seconds since 1970.
    ///
    /// # Errors
    /// `NotPermitted(Touch)`; the rest is the kernel's.
    pub fn set_times(
        &self,
        path: &VirtualPath,
        modified: i64,
        accessed: Option<i64>,
    ) -> Result<(), Error> {
        let fd = self.open_for_attributes(path, Permission::Touch)?;
        let accessed = accessed.map_or(TimeSpec::UTIME_OMIT, |seconds| TimeSpec::new(seconds, 0));
        futimens(&fd, &accessed, &TimeSpec::new(modified, 0))
            .map_err(|errno| Error::from_errno(errno, path.as_bytes()))
    }

    /// Sets the permission bits; the special ones (set-user-ID and so on) never.
    ///
    /// # Errors
    /// `NotPermitted(Chmod)`; the rest is the kernel's.
    pub fn set_mode(&self, path: &VirtualPath, mode: u32) -> Result<(), Error> {
        let fd = self.open_for_attributes(path, Permission::Chmod)?;
        fchmod(&fd, Mode::from_bits_truncate(mode & 0o777))
            .map_err(|errno| Error::from_errno(errno, path.as_bytes()))
    }

    /// Files and directories only: opening a device can do something.
    fn open_for_attributes(
        &self,
        path: &VirtualPath,
        permission: Permission,
    ) -> Result<OwnedFd, Error> {
        let located = self.permitted(path, permission)?;
        let fail = |errno| Error::from_errno(errno, path.as_bytes());
        let root = located.root.map_err(fail)?;
        match kind(&root.stat(located.relative, true).map_err(fail)?) {
            Kind::File | Kind::Directory => {}
            _ => return Err(Error::new(ErrorKind::NotAFile, path.as_bytes())),
        }
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let open = |access| root.open_below(located.relative, flags | access, Mode::empty());
        match open(OFlag::O_RDONLY) {
            // Owners can set the mode of files that they cannot read.
            Err(Errno::EACCES) => open(OFlag::O_WRONLY).map_err(fail),
            other => other.map_err(fail),
        }
    }
}
