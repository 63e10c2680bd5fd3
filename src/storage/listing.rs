//! The entries of a directory: sorted as long as they are few enough to hold, streamed where they are not, every name
//! once.
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::vec;

use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;

use crate::storage::disk::names;
use crate::storage::disk::reserved::{VERSIONS, is_reserved};
use crate::storage::error::{At, Error};
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
    /// None for a directory that exists only above a folder, and for one that cannot be read on.
    directory: Option<OwnedFd>,
    /// What was not read of it yet.
    rest: Option<OwningIter>,
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

impl Listing {
    /// Reads names up to the limit; `directory` is None for a directory that exists only above a folder.
    pub(super) fn new(
        directory: Option<OwnedFd>,
        folders: BTreeMap<Vec<u8>, Metadata>,
        permissions: Permissions,
        (parent_writable, shows_versions): (bool, bool),
        path: &[u8],
    ) -> Result<Self, Error> {
        let copy = directory.as_ref().map(OwnedFd::try_clone).transpose();
        let copy = copy.map_err(|_| Errno::EMFILE.at(path))?;
        let opened = copy.map(Dir::from_fd).transpose().at(path)?;
        let mut names: Vec<Vec<u8>> = folders.keys().cloned().collect();
        let mut listing = Self {
            directory,
            rest: opened.map(Dir::into_iter),
            names: Vec::new().into_iter(),
            folders,
            permissions,
            parent_writable,
            shows_versions,
            path: path.to_vec(),
            started: false,
        };
        while names.len() < SORTED_UP_TO {
            match listing.read_name().transpose().at(path)? {
                Some(name) => names.push(name),
                None => {
                    names.sort_unstable();
                    break;
                }
            }
        }
        listing.names = names.into_iter();
        Ok(listing)
    }

    /// Whether nothing was taken from it yet.
    pub fn is_at_start(&self) -> bool {
        !self.started
    }

    /// The next name of the directory that is shown, and not by a folder.
    fn read_name(&mut self) -> Option<Result<Vec<u8>, Errno>> {
        for entry in self.rest.as_mut()? {
            let name = match entry {
                Ok(entry) => entry.file_name().to_bytes().to_vec(),
                Err(errno) => return Some(Err(errno)),
            };
            let is_shown = !is_reserved(&name) || (self.shows_versions && name == VERSIONS);
            if is_shown && name != b"." && name != b".." && !self.folders.contains_key(&name) {
                return Some(Ok(name));
            }
        }
        self.rest = None;
        None
    }
}

impl Iterator for Listing {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.started = true;
        loop {
            let name = match self.names.next().map(Ok).or_else(|| self.read_name())? {
                Ok(name) => name,
                Err(errno) => {
                    // The directory cannot be read on: say so once.
                    (self.directory, self.rest) = (None, None);
                    return Some(Err(errno.at(&self.path)));
                }
            };
            if let Some(metadata) = self.folders.get(&name).cloned() {
                return Some(Ok(Entry { name, metadata }));
            }
            let directory = self.directory.as_ref()?;
            match names::stat(directory, &name) {
                Ok(stat) => {
                    let metadata = Metadata::new(&stat, self.permissions, self.parent_writable);
                    return Some(Ok(Entry { name, metadata }));
                }
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    // One entry that cannot be looked at (a dead network mount) must not hide the others.
                    let error = errno.at(&name);
                    log::warn!("a listing leaves out an entry: {error}");
                }
            }
        }
    }
}
