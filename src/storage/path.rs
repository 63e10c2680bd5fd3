//! Paths as a client sees them.
use crate::storage::disk::reserved::{VERSIONS, is_reserved};
use crate::storage::error::{At, Error, ErrorKind};

/// The longest name that Linux file systems take, in bytes (`NAME_MAX`).
const LONGEST_NAME: usize = 255;
/// The longest path that a system call takes, without its closing NUL (`PATH_MAX`).
const LONGEST_PATH: usize = 4095;

/// An absolute, normalised path: `/` or `/a/b`. Bytes, never required to be UTF-8. Holds no `.`, `..` or empty
/// component and no NUL; a component is at most 255 bytes long, the whole at most 4095.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VirtualPath(Vec<u8>);

impl Default for VirtualPath {
    fn default() -> Self {
        Self::root()
    }
}

impl AsRef<[u8]> for VirtualPath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl VirtualPath {
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// What a client typed, seen from this directory. `..` takes the name before it away, as typed, and stops at the
    /// root.
    ///
    /// # Errors
    /// `BadName` for a NUL, `NameTooLong`, `Reserved` for a name of the server's own files.
    pub fn join(&self, argument: &[u8]) -> Result<Self, Error> {
        let mut path = if argument.starts_with(b"/") {
            Self::root()
        } else {
            self.clone()
        };
        for component in argument.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => path = path.parent(),
                name => path = path.join_name(name)?,
            }
        }
        Ok(path)
    }

    /// A name in this directory.
    ///
    /// # Errors
    /// `BadName` for what cannot be one, `NameTooLong`, `Reserved`.
    pub fn join_name(&self, name: &[u8]) -> Result<Self, Error> {
        if matches!(name, b"" | b"." | b"..") || name.contains(&0) || name.contains(&b'/') {
            return Err(ErrorKind::BadName.at(name));
        }
        // Whether the old versions can be seen depends on where they are.
        if is_reserved(name) && name != VERSIONS {
            return Err(ErrorKind::Reserved.at(name));
        }
        if !self.has_room_for(name) {
            return Err(ErrorKind::NameTooLong.at(name));
        }
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if path.len() > 1 {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(Self(path))
    }

    /// Whether neither the name nor its path is too long to be said.
    pub(super) fn has_room_for(&self, name: &[u8]) -> bool {
        let slash = usize::from(self.0.len() > 1);
        name.len() <= LONGEST_NAME && self.0.len() + slash + name.len() <= LONGEST_PATH
    }

    /// The directory that it is in; the root is in itself.
    pub fn parent(&self) -> Self {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(0) | None => Self::root(),
            Some(slash) => Self(self.0[..slash].to_vec()),
        }
    }

    /// The last component; None for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.0
            .rsplit(|&byte| byte == b'/')
            .next()
            .filter(|name| !name.is_empty())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What remains of it below `ancestor`: empty for the same path, None where it lies elsewhere.
    pub fn below(&self, ancestor: &Self) -> Option<&[u8]> {
        if ancestor.0.len() == 1 {
            return Some(&self.0[1..]);
        }
        match self.0.strip_prefix(ancestor.0.as_slice())? {
            b"" => Some(b""),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(from: &[u8], argument: &[u8]) -> Vec<u8> {
        VirtualPath::root()
            .join(from)
            .unwrap()
            .join(argument)
            .unwrap()
            .0
    }

    #[test]
    fn arguments_are_resolved_against_the_directory() {
        assert_eq!(join(b"/a", b"b c/./d//"), b"/a/b c/d");
        assert_eq!(join(b"/a/b", b".."), b"/a");
        assert_eq!(join(b"/a", b"../../../x"), b"/x");
        assert_eq!(join(b"/a", b"/"), b"/");
        assert_eq!(join(b"/a", b"\xff\n"), b"/a/\xff\n");
        assert_eq!(join(b"/", b"..."), b"/...");
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        let root = VirtualPath::root();
        assert_eq!(root.join(b"a\0b").unwrap_err().kind, ErrorKind::BadName);
        assert_eq!(
            root.join(&[b'x'; 256]).unwrap_err().kind,
            ErrorKind::NameTooLong
        );
        assert!(root.join(&[b'x'; 255]).is_ok());
        assert_eq!(
            root.join(&b"abc/".repeat(1100)).unwrap_err().kind,
            ErrorKind::NameTooLong
        );
        assert_eq!(root.join_name(b"a/b").unwrap_err().kind, ErrorKind::BadName);
    }

    #[test]
    fn below_goes_by_whole_components() {
        let path = |text: &[u8]| VirtualPath::root().join(text).unwrap();
        assert_eq!(path(b"/a/b").below(&path(b"/a")), Some(&b"b"[..]));
        assert_eq!(path(b"/ab").below(&path(b"/a")), None);
        assert_eq!(path(b"/a").below(&path(b"/")), Some(&b"a"[..]));
        assert_eq!(path(b"/a").below(&path(b"/a")), Some(&b""[..]));
    }
}
