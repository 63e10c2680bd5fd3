//! How much users may have: what they store is counted as it comes ([`counts`](crate::storage::quota::counts)), and refused beyond their limit.
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};

use nix::errno::Errno;

use crate::storage::disk::names;
use crate::storage::disk::root::position;
use crate::storage::disk::writers::Doomed;
use crate::storage::error::{Error, ErrorKind};
use crate::storage::quota::counts::{Area, Counts, is_away, locked, signed, usage};
use crate::storage::rules::{Quota, Usage};

/// One user's limit, the areas that count for it, and all that are counted for anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metered {
    pub limit: Quota,
    /// Of the user; none lies in another.
    pub own: Vec<PathBuf>,
    /// Of all users; a change is counted in each that it lies in.
    pub counted: Arc<[PathBuf]>,
}

impl Metered {
    /// The meter of a directory or, where a link leads there, of a file itself. It counts nothing where nobody counts.
    pub fn meter(&self, directory: impl AsFd) -> Meter {
        if self.counted.is_empty() {
            return Meter::default();
        }
        let Ok(here) = position(directory) else {
            return Meter::default();
        };
        let areas = |paths: &[PathBuf]| paths.iter().map(|path| Area::at(path)).collect();
        let (mut counted, own): (Vec<Arc<Area>>, Vec<Arc<Area>>) =
            (areas(&self.counted), areas(&self.own));
        counted.retain(|area| area.holds(&here));
        let is_limited = own.iter().any(|area| area.holds(&here));
        let limit = if is_limited {
            self.limit
        } else {
            Quota::default()
        };
        Meter::new(counted, own, limit)
    }

    /// What the user may still store, in bytes; None without a limit.
    ///
    /// # Errors
    /// When an area cannot be read.
    pub fn left(&self) -> Result<Option<u64>, Error> {
        match self.limit.bytes {
            Some(limit) => Ok(Some(limit.saturating_sub(usage(&self.own)?.bytes))),
            None => Ok(None),
        }
    }
}

/// Counts what happens in one directory: to be had before anything is changed there and until that is counted. Meanwhile the
/// counts are not exact.
#[derive(Debug, Default)]
pub struct Meter {
    counted: Vec<Arc<Area>>,
    own: Vec<Arc<Area>>,
    limit: Quota,
}

impl Meter {
    fn new(counted: Vec<Arc<Area>>, own: Vec<Arc<Area>>, limit: Quota) -> Self {
        for area in &counted {
            area.begin();
        }
        Self {
            counted,
            own,
            limit,
        }
    }

    /// Whether anything is counted.
    pub fn counts(&self) -> bool {
        !self.counted.is_empty()
    }

    /// Counts bytes and files that come to be, unless that is more than the user may have. What is going to be replaced in
    /// the end does not count: `credit`, in bytes and files.
    ///
    /// # Errors
    /// `OverQuota`; `Io` where there is a limit and nobody knows what is stored, as the log says then.
    pub fn grow(&self, bytes: u64, files: u64, credit: (u64, u64)) -> Result<(), ErrorKind> {
        for area in &self.own {
            if !self.limit.is_limited() || locked(&area.counts).is_known() {
                continue;
            }
            match area.usage() {
                Err(errno) if !is_away(errno) => {
                    area.warn(errno);
                    return Err(ErrorKind::Io);
                }
                _ => {}
            }
        }
        let is_in =
            |areas: &[Arc<Area>], area: &Area| areas.iter().any(|one| one.path == area.path);
        let mut areas: Vec<&Arc<Area>> = self.own.iter().chain(&self.counted).collect();
        // Always in one order, so that nobody waits for one who waits for them.
        areas.sort_by(|one, other| one.path.cmp(&other.path));
        areas.dedup_by(|one, other| one.path == other.path);
        let mut held: Vec<(&Area, MutexGuard<'_, Counts>)> = areas
            .into_iter()
            .map(|area| (&**area, locked(&area.counts)))
            .collect();
        let own = held.iter().filter(|(area, _)| is_in(&self.own, area));
        let used = own.fold(Usage::default(), |sum, (_, counts)| sum.and(counts.total()));
        let left = |used: u64, more: u64, credit: u64| match more {
            0 => 0,
            more => used.saturating_add(more) - credit.min(used),
        };
        self.check(
            used,
            left(used.bytes, bytes, credit.0),
            left(used.files, files, credit.1),
        )?;
        let counted = held.iter_mut();
        for (_, counts) in counted.filter(|(area, _)| is_in(&self.counted, area)) {
            counts.change.0 += signed(bytes);
            counts.change.1 += signed(files);
        }
        Ok(())
    }

    /// Whether all that is counted fits once `replaced` bytes and files are gone.
    ///
    /// # Errors
    /// `OverQuota`.
    pub fn fits(&self, replaced: (u64, u64)) -> Result<(), ErrorKind> {
        let totals = self.own.iter().map(|area| locked(&area.counts).total());
        let used = totals.fold(Usage::default(), Usage::and);
        self.check(
            used,
            used.bytes.saturating_sub(replaced.0),
            used.files.saturating_sub(replaced.1),
        )
    }

    /// Whether the user may have so many bytes and files.
    fn check(&self, used: Usage, bytes: u64, files: u64) -> Result<(), ErrorKind> {
        let over = |limit: Option<u64>, number: u64| limit.is_some_and(|limit| number > limit);
        match over(self.limit.bytes, bytes) || over(self.limit.files, files) {
            true => Err(ErrorKind::OverQuota {
                used,
                limit: self.limit,
            }),
            false => Ok(()),
        }
    }

    /// Whether both count in the same areas.
    pub fn counts_as(&self, other: &Self) -> bool {
        let paths = |meter: &Self| -> Vec<PathBuf> {
            meter.counted.iter().map(|area| area.path.clone()).collect()
        };
        paths(self) == paths(other)
    }

    /// Counts what is there that nobody was asked about.
    pub fn came(&self, bytes: u64, files: u64) {
        self.change(signed(bytes), signed(files));
    }

    /// Counts what is there no longer.
    pub fn went(&self, bytes: u64, files: u64) {
        self.change(-signed(bytes), -signed(files));
    }

    /// Counts a file as gone that has lost its name.
    pub fn lost(&self, doomed: Doomed) {
        if self.counts() {
            let meter = self.clone();
            doomed.gone(move |size| meter.went(size, 1));
        }
    }

    /// Takes the name of a file away, and counts that.
    ///
    /// # Errors
    /// Those of openat(2) and unlinkat(2).
    pub fn remove(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        if !self.counts() {
            return names::unlink(directory, name);
        }
        let doomed = Doomed::open(directory, name)?;
        names::unlink(directory, name)?;
        self.lost(doomed);
        Ok(())
    }

    fn change(&self, bytes: i64, files: i64) {
        for area in &self.counted {
            let mut counts = locked(&area.counts);
            counts.change.0 += bytes;
            counts.change.1 += files;
        }
    }
}

impl Clone for Meter {
    fn clone(&self) -> Self {
        Self::new(self.counted.clone(), self.own.clone(), self.limit)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        for area in &self.counted {
            area.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::storage::quota::counts::{Record, close};

    #[test]
    fn counts_are_trusted_again_when_all_changes_are_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let fd = File::open(&path).unwrap();
        let is_dirty = || {
            let kept = fs::read(path.join(".thriftpd/quota")).unwrap();
            Record::parse(&kept).unwrap().dirty
        };
        let metered = Metered {
            counted: [path.clone()].into(),
            ..Metered::default()
        };
        let meter = metered.meter(&fd);
        assert!(is_dirty(), "before anything has changed");
        close(&path);
        assert!(is_dirty(), "a change may be under way");
        drop(meter);
        close(&path);
        assert!(!is_dirty());
        drop(metered.meter(&fd));
        assert!(is_dirty());
    }
}
