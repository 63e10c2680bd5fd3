//! The entries of a directory: sorted as long as they are few enough to hold, streamed where they are not, every name
//! once.
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::vec;

use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use crate::storage::disk::reserved::{VERSIONS, is_reserved};
use crate::storage::error::Error;
use crate::storage::metadata::Metadata;
use crate::storage::permissions::Permissions;

/// Names that are held to be sorted.
const SORTED_UP_TO: usize = 10_000;

/// One name of a directory; a link is the link itself.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub metadata: Metadata,
}

/// Iterator over a directory's entries, without `.` and `..`. A file that vanishes meanwhile is left out, and nothing
/// else.
#[derive(Debug)]
pub struct Listing {
    source: Option<Source>,
    names: vec::IntoIter<Vec<u8>>,
    /// Folders that show here; they hide what has their names.
    folders: BTreeMap<Vec<u8>, Metadata>,
    permissions: Permissions,
    parent_writable: bool,
    /// The directory of old versions is no secret here.
    shows_versions: bool,
    path: Vec<u8>,
    started: bool,
}

/// The directory, open, and what was not read of it yet.
struct Source {
    directory: OwnedFd,
    rest: Option<OwningIter>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Listing {
    /// Reads names up to the limit; `directory` is None for a directory that exists only above a folder.
    pub(super) fn new(
        directory: Option<OwnedFd>,
        folders: BTreeMap<Vec<u8>, Metadata>,
        permissions: Permissions,
        (parent_writable, shows_versions): (bool, bool),
        path: &[u8],
    ) -> Result<Self, Error> {
        let fail = |errno| Error::from_errno(errno, path);
        let mut names: Vec<Vec<u8>> = folders.keys().cloned().collect();
        let mut source = None;
        if let Some(fd) = directory {
            let directory = fd.try_clone().map_err(|_| fail(Errno::EMFILE))?;
            let mut rest = Dir::from_fd(fd).map_err(fail)?.into_iter();
            let mut complete = false;
            while names.len() < SORTED_UP_TO {
                match next_name(&mut rest, shows_versions).map_err(fail)? {
                    Some(name) if folders.contains_key(&name) => {}
                    Some(name) => names.push(name),
                    None => {
                        complete = true;
                        break;
                    }
                }
            }
            source = Some(Source {
                directory,
                rest: (!complete).then_some(rest),
            });
        }
        if source.as_ref().is_none_or(|source| source.rest.is_none()) {
            names.sort_unstable();
        }
        let path = path.to_vec();
        Ok(Self {
            source,
            names: names.into_iter(),
            folders,
            permissions,
            parent_writable,
            shows_versions,
            path,
            started: false,
        })
    }

    /// Whether nothing was taken from it yet.
    pub fn is_at_start(&self) -> bool {
        !self.started
    }

    fn next_name(&mut self) -> Option<Result<Vec<u8>, Errno>> {
        if let Some(name) = self.names.next() {
            return Some(Ok(name));
        }
        let rest = self.source.as_mut()?.rest.as_mut()?;
        loop {
            match next_name(rest, self.shows_versions).transpose()? {
                Ok(name) if self.folders.contains_key(&name) => {}
                other => return Some(other),
            }
        }
    }
}

fn next_name(rest: &mut OwningIter, shows_versions: bool) -> Result<Option<Vec<u8>>, Errno> {
    for entry in rest {
        let name = entry?.file_name().to_bytes().to_vec();
        let is_shown = !is_reserved(&name) || (shows_versions && name == VERSIONS);
        if name != b"." && name != b".." && is_shown {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

impl Iterator for Listing {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.started = true;
        loop {
            let name = match self.next_name()? {
                Ok(name) => name,
                Err(errno) => {
                    // The directory cannot be read on: say so once.
                    self.source = None;
                    return Some(Err(Error::from_errno(errno, &self.path)));
                }
            };
            if let Some(metadata) = self.folders.get(&name) {
                return Some(Ok(Entry {
                    name,
                    metadata: metadata.clone(),
                }));
            }
            let source = self.source.as_ref()?;
            match fstatat(
                &source.directory,
                name.as_slice(),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            ) {
                Ok(stat) => {
                    let metadata = Metadata::new(&stat, self.permissions, self.parent_writable);
                    return Some(Ok(Entry { name, metadata }));
                }
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    // One entry that cannot be looked at (a dead network mount) must not hide the others.
                    log::warn!(
                        "a listing leaves out an entry: {}",
                        Error::from_errno(errno, &name)
                    );
                }
            }
        }
    }
}
