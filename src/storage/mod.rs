//! Files as one user may see them: virtual paths, the confined root, listings, uploads. Knows no protocol and no sockets.
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// An absolute, normalised path as a client sees it: `/` or `/a/b`; bytes, never required to be UTF-8.
/// Holds no `.`/`..`/empty component and no NUL; a component is at most 255 bytes, the whole at most 4095.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VirtualPath(Vec<u8>);
impl VirtualPath {
    pub fn root() -> Self { todo!() }
    /// Resolves what a client typed against this directory; `..` is lexical and stops at the root.
    pub fn join(&self, _argument: &[u8]) -> Result<Self, Error> { todo!() }
    pub fn parent(&self) -> Self { todo!() }
    /// None for the root.
    pub fn file_name(&self) -> Option<&[u8]> { todo!() }
    pub fn as_bytes(&self) -> &[u8] { todo!() }
}

/// One thing a user may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission { List, Download, Upload, Overwrite, Append, Delete, Rename, Mkdir, Rmdir, Touch, Chmod }
/// A set of permissions (a u16 bit set).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(u16);
impl Permissions {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(0x7ff);
    /// Presets `read-only`, `read-write`, `upload-only`, `add-only`; None for an unknown name.
    pub fn preset(_name: &str) -> Option<Self> { todo!() }
    /// `list`, `download`, ... one permission by its configuration name.
    pub fn named(_name: &str) -> Option<Permission> { todo!() }
    pub fn contains(self, _p: Permission) -> bool { todo!() }
    pub fn with(self, _p: Permission) -> Self { todo!() }
    pub fn intersection(self, _other: Self) -> Self { todo!() }
    pub fn names(self) -> Vec<&'static str> { todo!() }
}

/// Modes of what a user creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes { pub umask: u32, pub file: u32, pub directory: u32, pub group: Option<u32> }

/// A directory of the host shown at a virtual path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSpec { pub path: VirtualPath, pub root: PathBuf, pub permissions: Permissions }

/// What a user may see; opened at login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewSpec { pub root: PathBuf, pub folders: Vec<FolderSpec>, pub permissions: Permissions, pub modes: Modes, pub durable: bool }

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind { File, Directory, Symlink, Other }

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub kind: Kind, pub size: u64, pub modified: i64, pub mode: u32, pub uid: u32, pub gid: u32, pub links: u64,
    pub device: u64, pub inode: u64,
    /// What the configured permissions and the kernel's mode bits together allow the user here.
    pub permissions: Permissions,
}

/// One name of a directory.
#[derive(Clone, Debug)]
pub struct Entry { pub name: Vec<u8>, pub metadata: Metadata }

/// Iterator over a directory's entries: sorted by name up to 10,000, in the file system's order beyond.
pub struct Listing;
impl Iterator for Listing { type Item = Result<Entry, Error>; fn next(&mut self) -> Option<Self::Item> { todo!() } }

/// A regular file opened for reading.
pub struct Download { pub file: File, pub size: u64 }

/// What an upload does with the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How { Replace, Append, At(u64) }

/// A file being received. `finish` makes it the file; dropped unfinished it is not complete.
pub struct Upload;
impl Upload {
    /// Writes all of `bytes` at the current position.
    pub fn write_all(&mut self, _bytes: &[u8]) -> Result<(), Error> { todo!() }
    /// Moves up to `max` bytes from a pipe into the file (splice); returns how many. `Unsupported` errno EINVAL surfaces as `Ok(None)`.
    pub fn splice_from(&mut self, _pipe: BorrowedFd<'_>, _max: usize) -> Result<Option<usize>, Error> { todo!() }
    /// Bytes received so far by this upload.
    pub fn received(&self) -> u64 { todo!() }
    pub fn host_path(&self) -> &Path { todo!() }
    pub fn path(&self) -> &VirtualPath { todo!() }
    /// Flushes (when durable), checks and keeps; returns the file's size.
    pub fn finish(self) -> Result<u64, Error> { todo!() }
}

/// Why storage refused; becomes one reply and one log line.
#[derive(Debug)]
pub struct Error { pub kind: ErrorKind, pub path: Vec<u8>, pub source: Option<io::Error> }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound, NotADirectory, IsADirectory, NotAFile, Exists, NotEmpty, BadName, NameTooLong,
    /// The configuration denies it.
    NotPermitted(Permission),
    /// The kernel denies it.
    Denied, ReadOnly, NoSpace { free: u64 }, Quota, TooLarge, BeyondEnd { size: u64 }, CrossesFolders, IsAFolder, Busy, Shutdown, Io,
}
impl std::fmt::Display for Error { fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }
impl std::error::Error for Error {}

/// Files as one user may see them.
pub struct View;
impl View {
    pub fn open(_spec: &ViewSpec) -> Result<Self, Error> { todo!() }
    /// Whether the path's folder permits `p`.
    pub fn permits(&self, _path: &VirtualPath, _p: Permission) -> bool { todo!() }
    pub fn permits_anywhere(&self, _p: Permission) -> bool { todo!() }
    /// Where the path lies on the host, for logs.
    pub fn host_path(&self, _path: &VirtualPath) -> PathBuf { todo!() }
    /// Follows symlinks within the root.
    pub fn metadata(&self, _path: &VirtualPath) -> Result<Metadata, Error> { todo!() }
    pub fn symlink_metadata(&self, _path: &VirtualPath) -> Result<Metadata, Error> { todo!() }
    pub fn link_target(&self, _path: &VirtualPath) -> Option<Vec<u8>> { todo!() }
    /// Seconds since 1970 of the file's birth, where the file system knows it.
    pub fn created(&self, _path: &VirtualPath) -> Option<i64> { todo!() }
    /// Succeeds when the path is a directory the user may enter.
    pub fn check_directory(&self, _path: &VirtualPath) -> Result<(), Error> { todo!() }
    pub fn list(&self, _path: &VirtualPath) -> Result<Listing, Error> { todo!() }
    pub fn open_for_reading(&self, _path: &VirtualPath) -> Result<Download, Error> { todo!() }
    pub fn begin_upload(&self, _path: &VirtualPath, _how: How) -> Result<Upload, Error> { todo!() }
    /// STOU: a new, unique name in the directory that starts with `prefix`.
    pub fn begin_unique_upload(&self, _directory: &VirtualPath, _prefix: &[u8]) -> Result<Upload, Error> { todo!() }
    pub fn rename(&self, _from: &VirtualPath, _to: &VirtualPath) -> Result<(), Error> { todo!() }
    pub fn remove_file(&self, _path: &VirtualPath) -> Result<(), Error> { todo!() }
    pub fn make_directory(&self, _path: &VirtualPath) -> Result<(), Error> { todo!() }
    pub fn remove_directory(&self, _path: &VirtualPath) -> Result<(), Error> { todo!() }
    /// RMDA: removes the tree; `go_on` is asked before each entry.
    pub fn remove_tree(&self, _path: &VirtualPath, _go_on: &mut dyn FnMut() -> bool) -> Result<(), Error> { todo!() }
    /// Access time is left alone when None.
    pub fn set_times(&self, _path: &VirtualPath, _modified: i64, _accessed: Option<i64>) -> Result<(), Error> { todo!() }
    pub fn set_mode(&self, _path: &VirtualPath, _mode: u32) -> Result<(), Error> { todo!() }
    /// Bytes free to this user where the path (or its parent) lies.
    pub fn available(&self, _path: &VirtualPath) -> Result<u64, Error> { todo!() }
}
/// Names of users and groups by id, read from /etc/passwd and /etc/group once and cached.
pub fn user_name(_uid: u32) -> String { todo!() }
pub fn group_name(_gid: u32) -> String { todo!() }
