//! Going through a tree: one directory open at a time, however deep it is; no link is followed.
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::sys::stat::FileStat;

use crate::storage::disk::metadata::{Kind, kind};
use crate::storage::disk::names::stat;
use crate::storage::disk::root::{DIRECTORY, Root, without_trace};

/// What is met on the way: anything but a directory.
pub struct Met<'a> {
    /// Where it is, and where that is below the root.
    pub directory: BorrowedFd<'a>,
    pub relative: &'a [u8],
    pub name: &'a [u8],
    /// Of a link, the link itself.
    pub stat: &'a FileStat,
}

/// What cannot be looked at, by its path below the root, and why.
pub struct Missed<'a> {
    pub relative: &'a [u8],
    pub errno: Errno,
}

/// Who is shown all that.
pub type Visit<'a> = dyn FnMut(Result<&Met<'_>, Missed<'_>>) -> ControlFlow<()> + 'a;

/// Shows all that lies below a directory to `visit`, and what of it may not be read, until it breaks. `enter` is asked for each
/// directory's path below the root. What vanishes meanwhile is passed over.
///
/// # Errors
/// When the directory itself cannot be opened.
pub fn walk_all(
    root: &Root,
    from: &[u8],
    enter: &dyn Fn(&[u8]) -> bool,
    visit: &mut Visit<'_>,
) -> Result<(), Errno> {
    // All of it on one disk, whatever is mounted meanwhile.
    let root = &root.again()?;
    let open = |relative: &[u8]| without_trace(DIRECTORY, |flags| root.open_below(relative, flags));
    walk_by(&open, from, enter, visit)
}

/// The same within the file system that is mounted at the root: of what is mounted below `visit` is told that it is `EXDEV`.
///
/// # Errors
/// As [`walk_all`].
pub fn walk_mount(
    root: &Root,
    from: &[u8],
    enter: &dyn Fn(&[u8]) -> bool,
    visit: &mut Visit<'_>,
) -> Result<(), Errno> {
    let open = |relative: &[u8]| root.open_on_same_mount(relative);
    walk_by(&open, from, enter, visit)
}

/// `open` opens a directory below the root.
fn walk_by(
    open: &dyn Fn(&[u8]) -> Result<OwnedFd, Errno>,
    from: &[u8],
    enter: &dyn Fn(&[u8]) -> bool,
    visit: &mut Visit<'_>,
) -> Result<(), Errno> {
    let mut first = Some(open(from)?);
    let mut ahead = vec![from.to_vec()];
    while let Some(relative) = ahead.pop() {
        let opened = first.take().map_or_else(|| open(&relative), Ok);
        let directory = match opened {
            Ok(directory) => directory,
            Err(errno) if missed(visit, &relative, errno).is_break() => return Ok(()),
            Err(_) => continue,
        };
        for name in names(&directory)? {
            let name = match &name {
                Ok(name) => name.as_slice(),
                Err(errno) if missed(visit, &relative, *errno).is_break() => return Ok(()),
                Err(_) => break,
            };
            let stat = stat(&directory, name);
            let goes_on = match &stat {
                Ok(stat) if kind(stat) == Kind::Directory => {
                    let below = below(&relative, name);
                    if enter(&below) {
                        ahead.push(below);
                    }
                    continue;
                }
                Ok(stat) => visit(Ok(&Met {
                    directory: directory.as_fd(),
                    relative: &relative,
                    name,
                    stat,
                })),
                Err(errno) => missed(visit, &below(&relative, name), *errno),
            };
            if goes_on.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The names in a directory that is open for reading, from where it was read up to.
///
/// # Errors
/// `EMFILE`; each name may be one of readdir(3).
pub fn names(directory: impl AsFd) -> Result<impl Iterator<Item = Result<Vec<u8>, Errno>>, Errno> {
    let copy = directory.as_fd().try_clone_to_owned();
    let names = Dir::from_fd(copy.map_err(|_| Errno::EMFILE)?)?.into_iter();
    let names = names.map(|entry| Ok(entry?.file_name().to_bytes().to_vec()));
    Ok(names.filter(|name| !matches!(name.as_deref(), Ok(b"." | b".."))))
}

fn missed(visit: &mut Visit<'_>, relative: &[u8], errno: Errno) -> ControlFlow<()> {
    match errno {
        // It vanished meanwhile.
        Errno::ENOENT => ControlFlow::Continue(()),
        errno => visit(Err(Missed { relative, errno })),
    }
}

/// The path of a name in a directory below the root.
pub fn below(relative: &[u8], name: &[u8]) -> Vec<u8> {
    let separator: &[u8] = if relative.is_empty() { b"" } else { b"/" };
    [relative, separator, name].concat()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// When it was last read; set to two days ago first, which a mount with `relatime` would change.
    fn read_by(directory: &Path, read: &dyn Fn()) -> bool {
        let then = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
        let times = fs::FileTimes::new().set_accessed(then);
        let file = fs::File::open(directory).unwrap();
        file.set_times(times).unwrap();
        let before = fs::metadata(directory).unwrap().accessed().unwrap();
        read();
        fs::metadata(directory).unwrap().accessed().unwrap() != before
    }

    #[test]
    fn a_walk_leaves_no_trace_in_the_directories() {
        let top = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let inner = top.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("file"), "").unwrap();
        if !read_by(&inner, &|| {
            assert_eq!(fs::read_dir(&inner).unwrap().count(), 1)
        }) {
            crate::skips::skip("reading leaves no trace here at all (noatime)");
            return;
        }
        let root = Root::open(top.path()).unwrap();
        for walk in [walk_all, walk_mount] {
            let is_traced = read_by(&inner, &|| {
                let mut met = 0;
                walk(&root, b"", &|_| true, &mut |_| {
                    met += 1;
                    ControlFlow::Continue(())
                })
                .unwrap();
                assert_eq!(met, 1);
            });
            assert!(!is_traced);
        }
    }
}
