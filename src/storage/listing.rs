//! The entries of a directory: sorted as long as they are few enough to hold, streamed where they are not, every name
//! once.
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::vec;

use nix::errno::Errno;
use nix::fcntl::readlinkat;

use crate::storage::disk::entries::Entries;
use crate::storage::disk::metadata::Kind;
use crate::storage::disk::reserved::{VERSIONS, is_reserved};
use crate::storage::error::{At, Error};
use crate::storage::metadata::{Asked, Metadata, look};
use crate::storage::path::VirtualPath;
use crate::storage::permissions::Permissions;

/// Names that are held to be sorted.
const SORTED_UP_TO: usize = 10_000;

/// One name of a directory; a link is the link itself.
#[derive(Debug)]
pub struct Entry<'a> {
    pub name: &'a [u8],
    /// What was asked for; the kind only of links that the caller wants to follow.
    pub metadata: Metadata,
    /// Where a link leads, as it is written, where that was asked for.
    pub target: Option<Vec<u8>>,
}

/// What a listing does with links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// They are entries like others.
    Shown,
    /// It tells where they lead.
    Read,
    /// Nothing: the caller follows them.
    Left,
}

/// A name that is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    from: usize,
    to: usize,
    kind: Option<Kind>,
}

/// The entries of a directory, without `.` and `..`. A file that vanishes meanwhile is left out, and nothing else.
#[derive(Debug)]
pub struct Listing {
    /// None for a directory that exists only above a folder, and for one that cannot be read on.
    directory: Option<OwnedFd>,
    /// What was not read of it yet.
    rest: Option<Entries>,
    /// The bytes of all names that are held, one behind the other.
    bytes: Vec<u8>,
    held: vec::IntoIter<Held>,
    /// The name that was taken last.
    name: Vec<u8>,
    /// Folders that show here; they hide what has their names.
    folders: BTreeMap<Vec<u8>, Metadata>,
    permissions: Permissions,
    parent_writable: bool,
    /// The directory of old versions is no secret here.
    shows_versions: bool,
    path: VirtualPath,
    asked: (Asked, Links),
    started: bool,
}

impl Listing {
    /// Reads names up to the limit; `directory` is None for a directory that exists only above a folder.
    pub(super) fn new(
        directory: Option<OwnedFd>,
        folders: BTreeMap<Vec<u8>, Metadata>,
        permissions: Permissions,
        (parent_writable, shows_versions): (bool, bool),
        path: &VirtualPath,
        asked: (Asked, Links),
    ) -> Result<Self, Error> {
        let mut listing = Self {
            rest: directory.is_some().then(Entries::new),
            directory,
            bytes: Vec::new(),
            held: Vec::new().into_iter(),
            name: Vec::new(),
            folders,
            permissions,
            parent_writable,
            shows_versions,
            path: path.clone(),
            asked,
            started: false,
        };
        let mut held = Vec::new();
        for name in listing.folders.keys() {
            hold(&mut listing.bytes, &mut held, name, Some(Kind::Directory));
        }
        while held.len() < SORTED_UP_TO {
            match listing.read_name().at(path)? {
                Some(kind) => hold(&mut listing.bytes, &mut held, &listing.name, kind),
                None => {
                    let name = |held: &Held| &listing.bytes[held.from..held.to];
                    held.sort_unstable_by(|one, other| name(one).cmp(name(other)));
                    break;
                }
            }
        }
        listing.held = held.into_iter();
        Ok(listing)
    }

    /// Whether nothing was taken from it yet.
    pub fn is_at_start(&self) -> bool {
        !self.started
    }

    /// Whether names can be taken out of the directory; told where permissions are asked for.
    pub fn is_writable(&self) -> bool {
        self.parent_writable
    }

    /// Makes the next name of the directory the current one which is shown, and not by a folder; tells its kind where the file
    /// system does.
    fn read_name(&mut self) -> Result<Option<Option<Kind>>, Errno> {
        let (Some(directory), Some(rest)) = (&self.directory, &mut self.rest) else {
            return Ok(None);
        };
        while let Some((name, kind)) = rest.next(directory.as_fd())? {
            let is_shown = !is_reserved(name) || (self.shows_versions && name == VERSIONS);
            if is_shown
                && name != b"."
                && name != b".."
                && self.path.has_room_for(name)
                && !self.folders.contains_key(name)
            {
                self.name.clear();
                self.name.extend_from_slice(name);
                return Ok(Some(kind));
            }
        }
        self.rest = None;
        Ok(None)
    }

    /// The same of the names that are held, as long as there are any.
    fn take_name(&mut self) -> Result<Option<Option<Kind>>, Errno> {
        match self.held.next() {
            Some(held) => {
                self.name.clear();
                self.name.extend_from_slice(&self.bytes[held.from..held.to]);
                Ok(Some(held.kind))
            }
            None => self.read_name(),
        }
    }

    /// The next entry.
    pub fn next_entry(&mut self) -> Option<Result<Entry<'_>, Error>> {
        self.started = true;
        let (metadata, target) = loop {
            let kind = match self.take_name() {
                Ok(name) => name?,
                Err(errno) => {
                    // The directory cannot be read on: say so once.
                    (self.directory, self.rest) = (None, None);
                    return Some(Err(errno.at(&self.path)));
                }
            };
            if let Some(metadata) = self.folders.get(&self.name) {
                break (metadata.clone(), None);
            }
            match self.look(kind) {
                Ok(found) => break found,
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    // One entry that cannot be looked at (a dead network mount) must not hide the others; nor may it be missing, for
                    // a client that mirrors would remove its own.
                    let error = errno.at(&self.name);
                    log::warn!("a listing knows nothing of an entry but its name: {error}");
                    break (Metadata::of_kind(kind.unwrap_or(Kind::File)), None);
                }
            }
        };
        Some(Ok(Entry {
            name: &self.name,
            metadata,
            target,
        }))
    }

    fn look(&self, kind: Option<Kind>) -> Result<(Metadata, Option<Vec<u8>>), Errno> {
        let (asked, links) = self.asked;
        let is_left = links == Links::Left && kind == Some(Kind::Symlink);
        if is_left || asked.is_told_by(kind) {
            return Ok((Metadata::of_kind(kind.unwrap_or(Kind::Other)), None));
        }
        let directory = self.directory.as_ref().ok_or(Errno::ENOENT)?;
        let (stat, created) = look(directory.as_fd(), &self.name, asked)?;
        let metadata = Metadata::new(&stat, self.permissions, self.parent_writable);
        // A link that is gone by now is still one.
        let target = match metadata.kind {
            Kind::Symlink if links == Links::Read => {
                readlinkat(directory, self.name.as_slice()).ok()
            }
            _ => None,
        };
        let metadata = Metadata {
            created,
            ..metadata
        };
        Ok((metadata, target.map(OsStringExt::into_vec)))
    }
}

fn hold(bytes: &mut Vec<u8>, held: &mut Vec<Held>, name: &[u8], kind: Option<Kind>) {
    let from = bytes.len();
    bytes.extend_from_slice(name);
    let to = bytes.len();
    held.push(Held { from, to, kind });
}
