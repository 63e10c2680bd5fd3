//! Whether there is room for what comes: on the disk, of which some stays free, and in the user's quota.
use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::ftruncate;
use std::os::fd::AsFd as _;

use crate::storage::error::ErrorKind;
use crate::storage::quota::meter::Meter;
use crate::storage::rules::{Room, available};

/// Bytes after which the disk is looked at again, for others write to it, too.
const LOOK_AGAIN: u64 = 16 << 20;

/// What one may take of a disk with so much free before looking again, `more` of which is asked for now: less where it becomes
/// scarce, for all that are at it at once are given as much.
fn granted(free: u64, more: u64) -> u64 {
    (free / 32).min(LOOK_AGAIN).max(more)
}

/// What an upload has been given and may have yet.
#[derive(Debug)]
pub struct Space {
    min_free: Room,
    /// Bytes that may come before the disk is looked at again.
    left: u64,
    /// How long the file may become, in bytes, by what was given so far.
    given: u64,
    reserved: bool,
    pub meter: Meter,
    /// Bytes and files that will be replaced in the end.
    credit: (u64, u64),
}

impl Space {
    /// For a new file.
    pub fn new(min_free: Room, meter: Meter, credit: (u64, u64)) -> Self {
        Self {
            min_free,
            left: 0,
            given: 0,
            reserved: false,
            meter,
            credit,
        }
    }

    /// The file that is going to be written to has so many bytes, which are counted already.
    pub fn holds(&mut self, size: u64) {
        self.given = size;
    }

    /// Bytes of the disk that may be used, where it can be looked at.
    fn free(&self, file: &File) -> Option<u64> {
        let disk = fstatvfs(file).ok()?;
        Some(available(&disk, self.min_free))
    }

    /// A file comes to be.
    ///
    /// # Errors
    /// `OverQuota`.
    pub fn new_file(&self) -> Result<(), ErrorKind> {
        self.meter.grow(0, 1, self.credit)
    }

    /// Lets the file grow to `end` bytes.
    ///
    /// # Errors
    /// `NoSpace`, `OverQuota`.
    pub fn admit(&mut self, file: &File, end: u64) -> Result<(), ErrorKind> {
        let more = end.saturating_sub(self.given);
        if more == 0 {
            return Ok(());
        }
        let free = (more > self.left).then(|| self.free(file));
        if let Some(free) = free.flatten() {
            if more > free {
                return Err(ErrorKind::NoSpace { free });
            }
            self.left = granted(free, more);
        }
        self.meter.grow(more, 0, self.credit)?;
        self.left = self.left.saturating_sub(more);
        self.given = end;
        Ok(())
    }

    /// Lets the file grow where no blocks of the disk are taken.
    ///
    /// # Errors
    /// `OverQuota`.
    pub fn admit_shared(&mut self, end: u64) -> Result<(), ErrorKind> {
        let more = end.saturating_sub(self.given);
        self.meter.grow(more, 0, self.credit)?;
        self.given = self.given.max(end);
        Ok(())
    }

    /// Whether so many bytes would fit, of which none is counted yet.
    ///
    /// # Errors
    /// `NoRoom`, `OverQuota`.
    pub fn would_fit(&self, file: &File, bytes: u64) -> Result<(), ErrorKind> {
        if let Some(free) = self.free(file).filter(|free| bytes > *free) {
            let needed = bytes;
            return Err(ErrorKind::NoRoom { free, needed });
        }
        self.meter.grow(bytes, 0, self.credit)?;
        self.meter.went(bytes, 0);
        Ok(())
    }

    /// Lets the file grow and takes the blocks of the disk.
    ///
    /// # Errors
    /// `NoRoom`, `OverQuota`.
    pub fn reserve(&mut self, file: &File, position: u64, end: u64) -> Result<(), ErrorKind> {
        let needed = end - position;
        let no_room = |error| match error {
            ErrorKind::NoSpace { free } => ErrorKind::NoRoom { free, needed },
            other => other,
        };
        self.admit(file, end).map_err(no_room)?;
        if needed == 0 {
            return Ok(());
        }
        let (Ok(offset), Ok(length)) = (i64::try_from(position), i64::try_from(needed)) else {
            return Err(ErrorKind::TooLarge);
        };
        let how = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let taken = fallocate(file.as_fd(), how, offset, length);
        // On a disk that is full it may have got some of it.
        self.reserved |= matches!(taken, Ok(()) | Err(Errno::ENOSPC));
        match taken {
            Err(Errno::ENOSPC) => {
                let free = self.free(file).unwrap_or(0);
                Err(ErrorKind::NoRoom { free, needed })
            }
            Err(Errno::EDQUOT) => Err(ErrorKind::Quota),
            Err(Errno::EFBIG) => Err(ErrorKind::TooLarge),
            // File systems that cannot: then the look at the disk has to do.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Gives blocks back that were taken beyond the end.
    pub fn cut_surplus(&self, file: &File, size: u64) {
        if self.reserved {
            if let Ok(size) = i64::try_from(size) {
                // At worst they are free when the file is removed.
                let _ = ftruncate(file, size);
            }
        }
    }

    /// The file has ended at `size` bytes: what was counted beyond does not count.
    pub fn give_back(&mut self, size: u64) {
        self.meter.went(self.given.saturating_sub(size), 0);
        self.given = size;
    }

    /// Looks again whether all fits once `replaced` bytes and files are gone, which may be less than was expected.
    ///
    /// # Errors
    /// `OverQuota`.
    pub fn fits_without(&self, replaced: (u64, u64)) -> Result<(), ErrorKind> {
        match replaced.0 < self.credit.0 || replaced.1 < self.credit.1 {
            true => self.meter.fits(replaced),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_do_not_take_more_than_there_is() {
        let piece = 256 << 10;
        assert_eq!(granted(1 << 40, piece), LOOK_AGAIN);
        for free in [16 << 20, 100 << 20, 400 << 20] {
            assert!(32 * granted(free, piece) <= free, "{free}");
        }
        assert_eq!(granted(1 << 20, piece), piece);
    }
}
