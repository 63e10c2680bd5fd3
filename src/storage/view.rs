//! Files as one user may see them: a root, and folders of the host shown at paths below. Front ends speak to this and
//! to nothing below it.
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, fstat};
use nix::sys::statvfs::fstatvfs;

use crate::storage::disk::acl::Modes;
use crate::storage::disk::metadata::{Kind, is_writable_directory, kind, size_of};
use crate::storage::disk::mount::is_mounted;
use crate::storage::disk::reserved::VERSIONS;
use crate::storage::disk::root::{Place, Root, position, split};
use crate::storage::disk::walk::below;
use crate::storage::disk::writers::Holder;
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::integrity::record;
use crate::storage::listing::{Links, Listing};
use crate::storage::metadata::{Asked, Metadata, look};
use crate::storage::path::VirtualPath;
use crate::storage::permissions::{Permission, Permissions};
use crate::storage::quota::counts;
use crate::storage::quota::meter::Metered;
use crate::storage::rules::{Quota, Room, Rules, Usage, available};
use crate::storage::upload::partial;
use crate::storage::upload::told::Told;

/// A directory of the host shown at a virtual path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSpec {
    pub path: VirtualPath,
    pub root: PathBuf,
    pub rules: Rules,
}

/// What a user may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewSpec {
    pub root: PathBuf,
    pub rules: Rules,
    pub folders: Vec<FolderSpec>,
    pub modes: Modes,
    /// An upload is on the disk before it counts as received.
    pub durable: bool,
    /// The SHA-256 of an upload is computed as it passes, and kept with the file.
    pub checksums: bool,
    /// What uploads leave free of a disk.
    pub min_free: Room,
    pub metered: Metered,
}

impl ViewSpec {
    /// The root and the directories of the folders, with what holds there.
    pub fn directories(&self) -> impl Iterator<Item = (&PathBuf, &Rules)> {
        let folders = self.folders.iter();
        [(&self.root, &self.rules)]
            .into_iter()
            .chain(folders.map(|folder| (&folder.root, &folder.rules)))
    }

    /// Those whose disk must be mounted and is not.
    pub fn waiting(&self) -> impl Iterator<Item = &PathBuf> {
        self.directories()
            .filter(|(directory, rules)| rules.require_mount && !is_mounted(directory))
            .map(|(directory, _)| directory)
    }
}

/// A regular file opened for reading.
#[derive(Debug)]
pub struct Download {
    pub file: File,
    /// In bytes, at the time it was opened.
    pub size: u64,
}

/// The files of one session.
#[derive(Debug)]
pub struct View {
    /// The first one is the user's root, at `/`.
    folders: Vec<Folder>,
    pub(super) modes: Modes,
    pub(super) durable: bool,
    pub(super) checksums: bool,
    pub(super) min_free: Room,
    pub(super) metered: Metered,
    /// The session that the view was opened for, where another may end it.
    pub(super) holder: Option<Holder>,
    pub(super) told: Told,
}

/// A folder other than the user's root is opened when it is first needed: a disk that is missing at login may come later, and
/// must not keep anybody out meanwhile.
#[derive(Debug)]
struct Folder {
    spec: FolderSpec,
    opened: OnceLock<Root>,
}

impl From<FolderSpec> for Folder {
    fn from(spec: FolderSpec) -> Self {
        let opened = OnceLock::new();
        Self { spec, opened }
    }
}

impl Folder {
    fn root(&self) -> Result<&Root, Errno> {
        if let Some(root) = self.opened.get() {
            return Ok(root);
        }
        let root = Root::open_or_guard(&self.spec.root, self.spec.rules.require_mount)?;
        if root.is_confined() {
            // Facts could still be had of what the sandbox keeps closed.
            log::warn!(
                "{}: outside of the server's sandbox, which must be restarted (setting: sandbox)",
                self.spec.root.display()
            );
            return Err(Errno::EACCES);
        }
        Ok(self.opened.get_or_init(|| root))
    }
}

/// Where a virtual path lies.
#[derive(Clone, Copy)]
pub(super) struct Located<'a> {
    pub path: &'a VirtualPath,
    /// Two paths with the same number lie in the same folder.
    pub folder: usize,
    pub root: Result<&'a Root, Errno>,
    pub relative: &'a [u8],
    pub permissions: Permissions,
    pub rules: &'a Rules,
}

impl<'a> Located<'a> {
    pub fn root(&self) -> Result<&'a Root, Error> {
        self.root.at(self.path)
    }

    /// The directory with the last name.
    pub fn place(&self) -> Result<Place, Error> {
        self.root()?.place(self.relative).at(self.path)
    }

    pub fn open(&self, flags: OFlag) -> Result<OwnedFd, Errno> {
        self.root?.open_below(self.relative, flags)
    }

    pub fn stat(&self, follow: bool) -> Result<FileStat, Errno> {
        self.root?.stat(self.relative, follow)
    }
}

/// Whether a path below a root leads into the old versions, or would if those were there.
fn is_old_version(relative: &[u8]) -> bool {
    let mut names = relative.split(|&byte| byte == b'/');
    names.any(|name| name == VERSIONS)
}

impl View {
    /// # Errors
    /// When the root cannot be opened. A folder that cannot is found out about when it is entered, and so is a root whose disk
    /// must be mounted and is not.
    pub fn open(spec: &ViewSpec) -> Result<Self, Error> {
        let root = Root::open_or_guard(&spec.root, spec.rules.require_mount).at(b"/")?;
        if root.is_confined() {
            return Err(ErrorKind::Confined.at(b"/"));
        }
        let first = FolderSpec {
            path: VirtualPath::root(),
            root: spec.root.clone(),
            rules: spec.rules,
        };
        let mut folders = vec![Folder::from(first)];
        folders[0].opened = root.into();
        folders.extend(spec.folders.iter().cloned().map(Folder::from));
        Ok(Self {
            folders,
            modes: spec.modes,
            durable: spec.durable,
            checksums: spec.checksums,
            min_free: spec.min_free,
            metered: spec.metered.clone(),
            holder: None,
            told: Told::default(),
        })
    }

    /// Says whose uploads those of the view are: the same account may continue one that stands still, at the cost of the
    /// session that holds it.
    pub fn set_holder(&mut self, holder: Holder) {
        self.holder = Some(holder);
    }

    /// Whose session it is; empty where that was not said.
    pub(super) fn account(&self) -> &str {
        self.holder.as_ref().map_or("", Holder::account)
    }

    // ---- where things are

    /// The longest folder that the path lies in.
    pub(super) fn locate<'a>(&'a self, path: &'a VirtualPath) -> Located<'a> {
        let way_to = |(index, folder): (usize, &'a Folder)| {
            Some((index, folder, path.below(&folder.spec.path)?))
        };
        let inside = self.folders.iter().enumerate().rev().filter_map(way_to);
        let nearest = inside.min_by_key(|(_, _, relative)| relative.len());
        let (index, folder, relative) = nearest.expect("every path lies in the root");
        let mut located = Located {
            path,
            folder: index,
            root: folder.root(),
            relative,
            permissions: folder.spec.rules.permissions,
            rules: &folder.spec.rules,
        };
        if is_old_version(relative) {
            // Those can be looked at where that is wanted, and never be changed.
            located.permissions = match located.rules.show_versions {
                true => located.permissions.and(Permissions::READ_ONLY),
                false => Permissions::NONE,
            };
        }
        located
    }

    /// Remembers that the user has stored a file of `size` bytes, of which so many came now. What keeps that from being
    /// remembered goes to the log.
    pub fn note_upload(&self, user: &str, path: &VirtualPath, size: u64, received: u64) {
        let located = self.locate(path);
        let noted = located
            .root
            .and_then(|root| record::note(root, user, path.as_bytes(), size, received));
        if let Err(errno) = noted {
            let shown = self.host_path(path);
            log::warn!(
                "{}: the upload is not noted for `thriftpd backups`: {}",
                shown.display(),
                errno.desc()
            );
        }
    }

    /// What the user has stored and may store; None without a quota.
    ///
    /// # Errors
    /// When it cannot be counted.
    pub fn quota(&self) -> Result<Option<(Usage, Quota)>, Error> {
        let Metered { limit, own, .. } = &self.metered;
        match limit.is_limited() {
            true => Ok(Some((counts::usage(own)?, *limit))),
            false => Ok(None),
        }
    }

    pub(super) fn permitted<'a>(
        &'a self,
        path: &'a VirtualPath,
        permission: Permission,
    ) -> Result<Located<'a>, Error> {
        let located = self.locate(path);
        match located.permissions.contains(permission) {
            true => Ok(located),
            false => Err(ErrorKind::NotPermitted(permission).at(path)),
        }
    }

    pub fn permits(&self, path: &VirtualPath, permission: Permission) -> bool {
        self.locate(path).permissions.contains(permission)
    }

    pub fn permits_anywhere(&self, permission: Permission) -> bool {
        let mut rules = self.folders.iter().map(|folder| &folder.spec.rules);
        rules.any(|rules| rules.permissions.contains(permission))
    }

    /// Where the path lies on the host, for logs.
    pub fn host_path(&self, path: &VirtualPath) -> PathBuf {
        let located = self.locate(path);
        match located.root {
            Ok(root) => root.host_path(located.relative),
            Err(_) => self.folders[located.folder].spec.root.clone(),
        }
    }

    /// The same without any link, for programs of the host: they would follow links that were moved, or begin with a slash,
    /// out of the root. Of what is gone already, where it would be.
    pub fn real_path(&self, path: &VirtualPath) -> PathBuf {
        let located = self.locate(path);
        let open = |relative: &[u8]| {
            let opened = located.root?.open_below(relative, OFlag::O_PATH)?;
            match fstat(&opened)?.st_nlink {
                0 => Err(Errno::ENOENT),
                _ => position(&opened),
            }
        };
        let of_directory = || {
            let (directory, name) = split(located.relative);
            open(directory).map(|directory| directory.join(OsStr::from_bytes(name)))
        };
        let found = open(located.relative).or_else(|_| of_directory());
        found.unwrap_or_else(|_| self.host_path(path))
    }

    /// Whether the path is the root, or a folder is shown there or below it: what stays where it is.
    pub(super) fn leads_to_folder(&self, path: &VirtualPath) -> bool {
        let mut folders = self.folders.iter();
        folders.any(|folder| folder.spec.path.below(path).is_some())
    }

    pub(super) fn is_above_folder(&self, path: &VirtualPath) -> bool {
        let mut below = (self.folders.iter()).filter_map(|folder| folder.spec.path.below(path));
        below.any(|below| !below.is_empty())
    }

    // ---- looking

    /// Facts of what is at the path; links are followed.
    ///
    /// # Errors
    /// `NotFound` above all.
    pub fn metadata(&self, path: &VirtualPath) -> Result<Metadata, Error> {
        self.look(path, true)
    }

    /// The same; while nothing has the name, the facts of what an upload to it has left, by which clients resume.
    ///
    /// # Errors
    /// As [`View::metadata`].
    pub fn metadata_or_partial(&self, path: &VirtualPath) -> Result<Metadata, Error> {
        self.metadata_to_tell(path, false)
    }

    /// The same, for a client that is told the length: what it appends begins there.
    ///
    /// # Errors
    /// As [`View::metadata`].
    pub fn metadata_with_length(&self, path: &VirtualPath) -> Result<Metadata, Error> {
        self.metadata_to_tell(path, true)
    }

    fn metadata_to_tell(&self, path: &VirtualPath, tells: bool) -> Result<Metadata, Error> {
        let located = self.locate(path);
        let error = match self.metadata(path) {
            Err(error) if error.kind == ErrorKind::NotFound => error,
            other => {
                if tells && !self.told.is_empty() {
                    if let Ok(place) = located.place() {
                        self.told.set(&place, None);
                    }
                }
                return other;
            }
        };
        let Ok(place) = located.place() else {
            return Err(error);
        };
        let name = partial::name_of(self.account(), &place.name);
        let left = partial::told(place.directory.as_fd(), &name);
        if tells && (left.is_some() || !self.told.is_empty()) {
            self.told.set(&place, left.as_ref().map(size_of));
        }
        let left = left.ok_or(error)?;
        Ok(Metadata::new(&left, located.permissions, false))
    }

    /// The same as [`View::metadata`], of a link itself.
    ///
    /// # Errors
    /// As [`View::metadata`].
    pub fn symlink_metadata(&self, path: &VirtualPath) -> Result<Metadata, Error> {
        self.look(path, false)
    }

    fn look(&self, path: &VirtualPath, follow: bool) -> Result<Metadata, Error> {
        let located = self.locate(path);
        let seeing = Permissions::READ_ONLY.with(Permission::Upload);
        if located.permissions.and(seeing) == Permissions::NONE {
            return Err(ErrorKind::NotPermitted(Permission::List).at(path));
        }
        match located.stat(follow) {
            Ok(stat) => {
                // A root and a folder stay where they are, whatever the directory above allows.
                let parent_writable = !self.leads_to_folder(path) && parent_is_writable(&located);
                Ok(Metadata::new(&stat, located.permissions, parent_writable))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) if self.is_above_folder(path) => {
                Ok(Metadata::of_synthetic_directory(located.permissions))
            }
            Err(errno) => Err(errno.at(path)),
        }
    }

    /// The same as [`View::metadata`], of a link in a directory that is being listed, and whether that is writable is known.
    ///
    /// # Errors
    /// `NotFound` for one that leads nowhere.
    pub fn metadata_through_link(
        &self,
        path: &VirtualPath,
        asked: Asked,
        is_writable: bool,
    ) -> Result<Metadata, Error> {
        let located = self.locate(path);
        let opened = located.open(OFlag::O_PATH);
        let found = opened.and_then(|opened| look(opened.as_fd(), b"", asked));
        let (stat, created) = found.at(path)?;
        let metadata = Metadata::new(&stat, located.permissions, is_writable);
        Ok(Metadata {
            created,
            ..metadata
        })
    }

    /// Where a link leads, as it is written.
    pub fn link_target(&self, path: &VirtualPath) -> Option<Vec<u8>> {
        let Place { directory, name } = self.locate(path).place().ok()?;
        let target = readlinkat(&directory, name.as_slice()).ok()?;
        Some(target.into_vec())
    }

    /// When it was created, in seconds since 1970, where the file system knows.
    pub fn created(&self, path: &VirtualPath) -> Option<i64> {
        let fd = self.locate(path).open(OFlag::O_PATH).ok()?;
        let created = File::from(fd).metadata().ok()?.created().ok()?;
        i64::try_from(created.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
    }

    /// Succeeds for a directory that the user may enter.
    ///
    /// # Errors
    /// `NotADirectory`, `NotFound`, `Denied`.
    pub fn check_directory(&self, path: &VirtualPath) -> Result<(), Error> {
        let metadata = self.metadata(path)?;
        if metadata.kind != Kind::Directory {
            return Err(ErrorKind::NotADirectory.at(path));
        }
        if metadata.device != 0 {
            // Only entering tells whether the kernel allows to enter.
            let located = self.locate(path);
            let inside = Located {
                relative: &below(located.relative, b"."),
                ..located
            };
            inside.stat(true).at(path)?;
        }
        Ok(())
    }

    /// The entries of a directory, with the folders that are shown there, and the facts of them that are asked for.
    ///
    /// # Errors
    /// `NotPermitted(List)`, `NotFound`, `NotADirectory`, `Denied`.
    pub fn list(&self, path: &VirtualPath, asked: Asked, links: Links) -> Result<Listing, Error> {
        let located = self.permitted(path, Permission::List)?;
        let folders = self.folders_in(path);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        let directory = match located.open(flags) {
            Ok(directory) => Some(directory),
            Err(Errno::ENOENT | Errno::ENOTDIR) if self.is_above_folder(path) => None,
            Err(errno) => return Err(errno.at(path)),
        };
        let writable =
            asked.contains(Asked::PERMISSIONS) && directory.as_ref().is_some_and(is_writable);
        let shows_versions = located.rules.show_versions && located.relative.is_empty();
        Listing::new(
            directory,
            folders,
            located.permissions,
            (writable, shows_versions),
            path,
            (asked, links),
        )
    }

    /// The folders whose next component lies in this directory, with their facts.
    fn folders_in(&self, directory: &VirtualPath) -> BTreeMap<Vec<u8>, Metadata> {
        let mut found = BTreeMap::new();
        for folder in &self.folders {
            let below = folder.spec.path.below(directory).unwrap_or_default();
            let name = below.split(|&byte| byte == b'/').next().unwrap_or_default();
            // It lies elsewhere, or is this directory itself.
            let Ok(path) = directory.join_name(name) else {
                continue;
            };
            // A folder whose disk is missing is shown all the same.
            let metadata = self.metadata(&path).unwrap_or_else(|_| {
                Metadata::of_synthetic_directory(folder.spec.rules.permissions)
            });
            found.insert(name.to_vec(), metadata);
        }
        found
    }

    /// # Errors
    /// `NotPermitted(Download)`, `IsADirectory`, `NotAFile`, `NotFound`, `Denied`.
    pub fn open_for_reading(&self, path: &VirtualPath) -> Result<Download, Error> {
        let located = self.permitted(path, Permission::Download)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        if (located.root).is_ok_and(|root| root.is_special(located.relative)) {
            return Err(ErrorKind::NotAFile.at(path));
        }
        let fd = match located.open(flags) {
            Err(Errno::ENOENT) if self.is_above_folder(path) => {
                return Err(ErrorKind::IsADirectory.at(path));
            }
            other => other.at(path)?,
        };
        let stat = fstat(&fd).at(path)?;
        must_be_file(&stat).at(path)?;
        Ok(Download {
            file: File::from(fd),
            size: size_of(&stat),
        })
    }

    /// Bytes that the user may still write where the path lies: what is free of the disk, but for what stays free, or what is
    /// left of the quota.
    ///
    /// # Errors
    /// When neither the path nor its directory is there.
    pub fn available(&self, path: &VirtualPath) -> Result<u64, Error> {
        let located = self.locate(path);
        let fd = match located.open(OFlag::O_PATH) {
            Err(Errno::ENOENT) => located.place()?.directory,
            other => other.at(path)?,
        };
        let disk = fstatvfs(fd).at(path)?;
        let free = available(&disk, self.min_free);
        Ok(self.metered.left()?.map_or(free, |left| left.min(free)))
    }

    /// Bytes that no file can be longer than, wherever it lies, whatever it replaces and however much of it is there.
    pub fn most_room(&self) -> u64 {
        let room = self.folders.iter().filter_map(|folder| {
            let directory = folder.root().ok()?.open_below(b"", OFlag::O_PATH);
            let disk = fstatvfs(directory.ok()?).ok()?;
            let size = disk.blocks().saturating_mul(disk.fragment_size());
            Some(size.saturating_sub(self.min_free.of(size)))
        });
        let room = room.max().unwrap_or(0);
        room.min(self.metered.limit.bytes.unwrap_or(u64::MAX))
    }
}

/// # Errors
/// `IsADirectory`, `NotAFile`.
pub(super) fn must_be_file(stat: &FileStat) -> Result<(), ErrorKind> {
    match kind(stat) {
        Kind::File => Ok(()),
        Kind::Directory => Err(ErrorKind::IsADirectory),
        Kind::Symlink | Kind::Other => Err(ErrorKind::NotAFile),
    }
}

fn parent_is_writable(located: &Located<'_>) -> bool {
    (located.place()).is_ok_and(|place| is_writable(&place.directory))
}

fn is_writable(directory: &OwnedFd) -> bool {
    fstat(directory).is_ok_and(|stat| is_writable_directory(&stat))
}
