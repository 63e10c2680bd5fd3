//! Symbolic links that users make: to what is there, in the same root or folder, written so that programs of the host which
//! follow them stay inside as well.
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::unistd::symlinkat;

use crate::storage::disk::durable::Order;
use crate::storage::disk::metadata::{Kind, is_same_file, kind};
use crate::storage::disk::reserved::is_reserved;
use crate::storage::disk::root::position;
use crate::storage::disk::root::{Place, Root};
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::path::VirtualPath;
use crate::storage::permissions::Permission;
use crate::storage::view::View;

impl View {
    /// Makes a link to a file or a directory that is there. Durable.
    ///
    /// # Errors
    /// `NotPermitted(Symlink)`, `CrossesFolders`, `Exists`, `Reserved`; the rest is the kernel's.
    pub fn make_link(&self, target: &VirtualPath, link: &VirtualPath) -> Result<(), Error> {
        let here = self.permitted(link, Permission::Symlink)?;
        if self.leads_to_folder(link) {
            return Err(ErrorKind::Exists.at(link));
        }
        // Whoever may not even look is not told what is there.
        self.metadata(target)?;
        let there = self.locate(target);
        if there.folder != here.folder {
            return Err(ErrorKind::CrossesFolders.at(target));
        }
        if there.relative.is_empty() {
            return Err(ErrorKind::IsAFolder.at(target));
        }
        // One and the same disk for all steps.
        let root = here.root()?.again().at(link)?;
        let opened = root.open_below(there.relative, OFlag::O_PATH);
        let opened = opened.at(target)?;
        if !matches!(
            kind(&fstat(&opened).at(target)?),
            Kind::File | Kind::Directory
        ) {
            return Err(ErrorKind::NotAFile.at(target));
        }
        let place = root.place(here.relative).at(link)?;
        let written = written(&root, &opened, &place)
            .at(target)?
            .ok_or_else(|| ErrorKind::Reserved.at(target))?;
        symlinkat(&written, &place.directory, place.name.as_slice()).at(link)?;
        let order = Order::of(place.directory.as_fd(), self.durable);
        order.after_change(&place.directory).at(link)
    }
}

/// What a link in the place must say to lead to what is open; None for files of the server's own.
///
/// # Errors
/// `ENOENT` for what is not below the root, or was moved in this moment; that of readlink(2).
fn written(root: &Root, target: &OwnedFd, place: &Place) -> Result<Option<PathBuf>, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let top = position(&root.open_below(b"", flags)?)?;
    let below = |fd: &OwnedFd| -> Result<PathBuf, Errno> {
        let position = position(fd)?;
        let below = position.strip_prefix(&top).map_err(|_| Errno::ENOENT)?;
        Ok(below.to_owned())
    };
    let (directory, target_below) = (below(&place.directory)?, below(target)?);
    if target_below.as_os_str().is_empty() {
        return Err(Errno::EBUSY);
    }
    let mut names = target_below.components().chain(directory.components());
    if names.any(|name| is_reserved(name.as_os_str().as_bytes())) {
        return Ok(None);
    }
    // A position is a name that was true for a moment.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let again = root.open_below(target_below.as_os_str().as_bytes(), flags)?;
    let (again, target) = (fstat(again)?, fstat(target)?);
    if !is_same_file(&again, &target) {
        return Err(Errno::ENOENT);
    }
    Ok(Some(relative(&directory, &target_below)))
}

/// The way from one directory to another place, both seen from the same directory above, which it never leaves.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from
        .components()
        .zip(to.components())
        .take_while(|(one, other)| one == other)
        .count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(to.components().skip(common)).collect();
    if way.as_os_str().is_empty() {
        return PathBuf::from(".");
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_goes_up_as_far_as_needed_and_no_further() {
        for (from, to, way) in [
            ("", "file", "file"),
            ("", "a/file", "a/file"),
            ("a", "file", "../file"),
            ("a/b", "a/c/file", "../c/file"),
            ("a/b", "a", ".."),
            ("a/b", "a/b", "."),
            ("ab", "a/file", "../a/file"),
        ] {
            let found = relative(Path::new(from), Path::new(to));
            assert_eq!(found, Path::new(way), "{from} {to}");
        }
    }
}
