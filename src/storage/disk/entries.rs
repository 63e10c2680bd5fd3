//! The names in a directory, as getdents64(2) gives them: with their kinds, without a copy and without a second descriptor,
//! which opendir(3) would cost.
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use crate::storage::disk::metadata::Kind;
use crate::storage::disk::system;

/// Bytes of entries read at a time, as many as the C libraries read.
const SIZE: usize = 32 * 1024;

/// Where the name begins in an entry: behind inode and offset of eight bytes each, the length of two, the kind of one.
const NAME: usize = 19;

/// A name, and what has it, where the file system tells.
pub type Name<'a> = (&'a [u8], Option<Kind>);

/// What was read of a directory and not yet taken.
#[derive(Debug)]
pub struct Entries {
    buffer: Vec<u8>,
    filled: usize,
    at: usize,
}

impl Entries {
    pub fn new() -> Self {
        Self {
            buffer: vec![0; SIZE],
            filled: 0,
            at: 0,
        }
    }

    /// The next name of the directory, `.` and `..` among them; None at the end.
    ///
    /// # Errors
    /// Those of getdents64(2); `EIO` for what is no entry.
    pub fn next(&mut self, directory: BorrowedFd<'_>) -> Result<Option<Name<'_>>, Errno> {
        if self.at >= self.filled {
            self.at = 0;
            self.filled = match system::read_directory(directory, &mut self.buffer) {
                // It was removed meanwhile.
                Err(Errno::ENOENT) => 0,
                other => other?,
            };
            if self.filled == 0 {
                return Ok(None);
            }
        }
        let read = &self.buffer[self.at..self.filled];
        let length = match read {
            [_, ..] if read.len() > NAME => usize::from(u16::from_ne_bytes([read[16], read[17]])),
            _ => return Err(Errno::EIO),
        };
        let name = read.get(NAME..length).ok_or(Errno::EIO)?;
        let end = name.iter().position(|&byte| byte == 0);
        self.at += length;
        Ok(Some((&name[..end.unwrap_or(name.len())], kind(read[18]))))
    }
}

fn kind(told: u8) -> Option<Kind> {
    match told {
        nix::libc::DT_REG => Some(Kind::File),
        nix::libc::DT_DIR => Some(Kind::Directory),
        nix::libc::DT_LNK => Some(Kind::Symlink),
        nix::libc::DT_UNKNOWN => None,
        _ => Some(Kind::Other),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_name_comes_once_and_with_its_kind() {
        let directory = tempfile::tempdir().unwrap();
        let mut expected = BTreeSet::new();
        // More than are read at a time.
        for number in 0..2000 {
            let name = format!("{number:050}");
            File::create(directory.path().join(&name)).unwrap();
            expected.insert((name, Kind::File));
        }
        fs::create_dir(directory.path().join("d")).unwrap();
        symlink("nowhere", directory.path().join("l")).unwrap();
        for (name, kind) in [
            (".", Kind::Directory),
            ("..", Kind::Directory),
            ("d", Kind::Directory),
            ("l", Kind::Symlink),
        ] {
            expected.insert((name.into(), kind));
        }
        let opened = File::open(directory.path()).unwrap();
        let (mut entries, mut found) = (Entries::new(), Vec::new());
        while let Some((name, kind)) = entries.next(opened.as_fd()).unwrap() {
            let name = String::from_utf8(name.to_vec()).unwrap();
            // Some file systems do not tell.
            let told = expected.iter().find(|(expected, _)| *expected == name);
            let kind = kind.or(told.map(|(_, kind)| *kind)).unwrap();
            found.push((name, kind));
        }
        assert_eq!(found.len(), expected.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(entries.next(opened.as_fd()), Ok(None));
    }
}
