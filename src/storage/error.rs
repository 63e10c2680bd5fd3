//! Why storage refused something: one kind for each thing a user can do about it.
use std::fmt;
use std::io;

use jiff::Timestamp;
use nix::errno::Errno;

use crate::os::remedy::remedy;
use crate::storage::permissions::Permission;
use crate::storage::rules::Quota as Limit;
use crate::storage::rules::Usage;

/// Becomes one reply and, where it matters, one log line.
#[derive(Debug)]
pub struct Error {
    pub kind: ErrorKind,
    /// The virtual path, or what was typed where it is none.
    pub path: Vec<u8>,
    pub source: Option<io::Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    NotADirectory,
    IsADirectory,
    /// Neither a file nor a directory: a FIFO, a socket, a device.
    NotAFile,
    Exists,
    /// A file is to be copied onto itself.
    SameFile,
    NotEmpty,
    BadName,
    NameTooLong,
    /// A name of the server's own files.
    Reserved,
    /// The configuration denies it.
    NotPermitted(Permission),
    /// The kernel denies it to the user that the server runs as.
    Denied,
    /// The sandbox does, which was made for other directories.
    Confined,
    ReadOnly,
    /// The disk is full; the bytes that are free.
    NoSpace {
        free: u64,
    },
    /// Less is free than was announced, both in bytes.
    NoRoom {
        free: u64,
        needed: u64,
    },
    /// The user's quota: what is stored, and what may be.
    OverQuota {
        used: Usage,
        limit: Limit,
    },
    /// Too young to be changed; until when, in seconds since 1970.
    Locked {
        until: i64,
    },
    /// The disk quota of the file system.
    Quota,
    TooLarge,
    /// An offset beyond the end of the file, which has `size` bytes.
    BeyondEnd {
        size: u64,
    },
    /// What is to come behind a file: an upload of the same user was to replace it and was cut off.
    ReplacementLeft,
    /// What is to be continued: an upload of the same user was cut off under this name, and not when it was to replace this
    /// file.
    OtherLeft,
    /// What is to come behind a file that was told to be of another length.
    LengthChanged,
    CrossesFolders,
    /// A configured folder, or a directory that leads to one.
    IsAFolder,
    Busy,
    /// The root or folder must have a file system mounted at it, and has none.
    NotMounted,
    /// The server ends before the work was done.
    Shutdown,
    Io,
}

impl Error {
    pub fn new(kind: ErrorKind, path: &[u8]) -> Self {
        Self {
            kind,
            path: path.to_vec(),
            source: None,
        }
    }

    /// What an owner can do about it: the setting that would change it, where the configuration refused; where the system did,
    /// what to look at there.
    pub fn advice(&self) -> Option<String> {
        let setting = match self.kind {
            ErrorKind::NotPermitted(_) => "access or permissions of the user or folder",
            ErrorKind::OverQuota { .. } => "quota, quota_files",
            ErrorKind::Locked { .. } => "lock",
            ErrorKind::Confined => "sandbox",
            ErrorKind::NoSpace { .. } | ErrorKind::NoRoom { .. } => "min_free",
            ErrorKind::NotMounted => "require_mount",
            _ => {
                let remedy = self.source.as_ref().and_then(remedy)?;
                return Some(format!("look at {remedy}"));
            }
        };
        Some(format!("setting: {setting}"))
    }
}

/// What goes wrong becomes an error when it is said where.
pub(super) trait At {
    type Output;
    fn at(self, path: &(impl AsRef<[u8]> + ?Sized)) -> Self::Output;
}

impl At for ErrorKind {
    type Output = Error;
    fn at(self, path: &(impl AsRef<[u8]> + ?Sized)) -> Error {
        Error::new(self, path.as_ref())
    }
}

/// What the kernel said about the path.
impl At for Errno {
    type Output = Error;
    fn at(self, path: &(impl AsRef<[u8]> + ?Sized)) -> Error {
        let kind = match self {
            Errno::ENOENT | Errno::ELOOP => ErrorKind::NotFound,
            Errno::ENOTDIR => ErrorKind::NotADirectory,
            Errno::EISDIR => ErrorKind::IsADirectory,
            Errno::ENXIO => ErrorKind::NotAFile,
            Errno::EEXIST => ErrorKind::Exists,
            Errno::ENOTEMPTY => ErrorKind::NotEmpty,
            Errno::ENAMETOOLONG => ErrorKind::NameTooLong,
            Errno::EACCES | Errno::EPERM => ErrorKind::Denied,
            Errno::EROFS => ErrorKind::ReadOnly,
            Errno::ENOSPC => ErrorKind::NoSpace { free: 0 },
            Errno::EDQUOT => ErrorKind::Quota,
            Errno::EFBIG => ErrorKind::TooLarge,
            Errno::EXDEV => ErrorKind::CrossesFolders,
            Errno::EBUSY | Errno::ETXTBSY => ErrorKind::Busy,
            Errno::ENOMEDIUM => ErrorKind::NotMounted,
            // Names that the file system cannot hold (vfat and its kin).
            Errno::EINVAL | Errno::EILSEQ => ErrorKind::BadName,
            _ => ErrorKind::Io,
        };
        Error {
            source: Some(self.into()),
            ..kind.at(path)
        }
    }
}

impl<T, Cause: At> At for Result<T, Cause> {
    type Output = Result<T, Cause::Output>;
    fn at(self, path: &(impl AsRef<[u8]> + ?Sized)) -> Self::Output {
        self.map_err(|cause| cause.at(path))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ErrorKind::NotFound => f.write_str("no such file or directory"),
            ErrorKind::NotADirectory => f.write_str("not a directory"),
            ErrorKind::IsADirectory => f.write_str("is a directory"),
            ErrorKind::NotAFile => f.write_str("not a regular file"),
            ErrorKind::Exists => f.write_str("exists already"),
            ErrorKind::SameFile => f.write_str("is the very file that is to be copied"),
            ErrorKind::NotEmpty => f.write_str("the directory is not empty"),
            ErrorKind::BadName => f.write_str("not a name that can be used here"),
            ErrorKind::NameTooLong => f.write_str("the name is too long"),
            ErrorKind::Reserved => f.write_str("such names are kept for the server's own files"),
            ErrorKind::NotPermitted(permission) => {
                write!(f, "you have no permission for this ({})", permission.name())
            }
            ErrorKind::Denied => f.write_str("the system denies access"),
            ErrorKind::Confined => {
                f.write_str("outside of the server's sandbox: it must be restarted")
            }
            ErrorKind::ReadOnly => f.write_str("the file system is read-only"),
            ErrorKind::NoSpace { free } => write!(f, "the disk is full: {free} bytes are free"),
            ErrorKind::NoRoom { free, needed } => {
                write!(
                    f,
                    "there is no room: {needed} bytes are needed, {free} are free"
                )
            }
            ErrorKind::OverQuota { used, limit } => write_over_quota(f, used, limit),
            ErrorKind::Locked { until } => match Timestamp::from_second(until) {
                Ok(until) => write!(f, "too young to be changed: locked until {until}"),
                Err(_) => f.write_str("too young to be changed"),
            },
            ErrorKind::Quota => f.write_str("the disk quota is used up"),
            ErrorKind::TooLarge => f.write_str("too large for the file system"),
            ErrorKind::BeyondEnd { size } => {
                write!(f, "the offset is beyond the end: the file has {size} bytes")
            }
            ErrorKind::ReplacementLeft => f.write_str(
                "an upload that was to replace this file was cut off: continue it with REST and STOR, or begin anew with STOR",
            ),
            ErrorKind::OtherLeft => f.write_str(
                "an upload of yours to this name was cut off, and another file was stored meanwhile: begin anew with STOR",
            ),
            ErrorKind::LengthChanged => f.write_str(
                "its length has changed since it was told: ask for it again with SIZE, and continue there",
            ),
            ErrorKind::CrossesFolders => {
                f.write_str("the two names lie in different folders or file systems")
            }
            ErrorKind::IsAFolder => f.write_str("a configured folder stays where it is"),
            ErrorKind::Busy => f.write_str("in use; try again later"),
            ErrorKind::NotMounted => f.write_str(
                "the disk of this root or folder is not mounted; try again later, it is taken up by itself",
            ),
            ErrorKind::Shutdown => f.write_str("the server is shutting down"),
            ErrorKind::Io => match &self.source {
                Some(source) => write!(f, "{source}"),
                None => f.write_str("input or output failed"),
            },
        }
    }
}

fn write_over_quota(f: &mut fmt::Formatter<'_>, used: Usage, limit: Limit) -> fmt::Result {
    f.write_str("more than your quota:")?;
    if let Some(bytes) = limit.bytes {
        write!(f, " {} of {bytes} bytes", used.bytes)?;
    }
    if let Some(files) = limit.files {
        let and = if limit.bytes.is_some() { " and" } else { "" };
        write!(f, "{and} {} of {files} files", used.files)?;
    }
    f.write_str(" are used")
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
