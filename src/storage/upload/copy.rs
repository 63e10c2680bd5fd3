//! An upload that gets what another file of the server holds, instead of what a client sends.
use std::fs::File;
use std::io::ErrorKind as ErrorKindOfIo;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;

use super::{Upload, length};
use crate::storage::disk::copy;
use crate::storage::error::{At, Error};
use crate::storage::integrity::checksum;

impl Upload {
    /// Where a checksum is wanted: takes that of the file to be copied, if it is stored, for that of the copy.
    pub(in crate::storage) fn know_checksum_of(&mut self, from: &File) {
        if self.digest.is_some() {
            self.known_digest = checksum::stored(from);
        }
        if self.known_digest.is_some() {
            self.digest = None;
        }
    }

    /// Forgets it if the file has changed since.
    pub(in crate::storage) fn check_known_checksum(&mut self, from: &File) {
        if self.known_digest.is_some() && checksum::stored(from) != self.known_digest {
            self.known_digest = None;
        }
    }

    /// Makes an upload that has received nothing hold all that the file holds, sharing its blocks; false where the file
    /// system cannot, and nothing was done.
    ///
    /// # Errors
    /// `OverQuota`, for shared blocks count too; else as [`Upload::write_all`].
    pub(in crate::storage) fn share_all(&mut self, from: &File) -> Result<bool, Error> {
        if !self.takes_pages() {
            return Ok(false);
        }
        self.cut()?;
        let size = length(from).map_err(|errno| self.failed(errno))?;
        let admitted = self.space.admit_shared(size);
        admitted.at(&self.path)?;
        let shared = copy::cloned(from.as_fd(), self.file.as_fd());
        if !shared.map_err(|errno| self.failed(errno))? {
            self.space.give_back(0);
            return Ok(false);
        }
        // It may have grown in between.
        self.position = length(&self.file).map_err(|errno| self.failed(errno))?;
        self.received = self.position;
        let admitted = self.space.admit_shared(self.position);
        admitted.at(&self.path)?;
        Ok(true)
    }

    /// Whether a whole file would fit.
    ///
    /// # Errors
    /// `NoRoom`, `OverQuota`.
    pub(in crate::storage) fn would_fit(&self, size: u64) -> Result<(), Error> {
        let fits = self.space.would_fit(&self.file, size);
        fits.at(&self.path)
    }

    /// Copies some bytes of the file behind what was received before, from the same offset on and at most up to `end`;
    /// returns how many: none at the end of the file.
    ///
    /// # Errors
    /// As [`Upload::write_all`], and those of reading.
    pub(in crate::storage) fn copy_some(&mut self, from: &File, end: u64) -> Result<usize, Error> {
        let left = end.saturating_sub(self.position);
        let length = usize::try_from(left).map_or(copy::STEP, |left| left.min(copy::STEP));
        if length == 0 {
            return Ok(0);
        }
        if !self.takes_pages() {
            return self.copy_through_memory(from, length);
        }
        self.admit(length)?;
        let copied = copy::step_of(from.as_fd(), self.file.as_fd(), self.position, length);
        let copied = copied.map_err(|errno| self.failed(errno))?;
        self.advance(copied)?;
        Ok(copied)
    }
    fn copy_through_memory(&mut self, from: &File, most: usize) -> Result<usize, Error> {
        let mut buffer = vec![0; most.min(128 * 1024)];
        loop {
            match from.read_at(&mut buffer, self.position) {
                Ok(length) => {
                    self.write_all(&buffer[..length])?;
                    return Ok(length);
                }
                Err(error) if error.kind() == ErrorKindOfIo::Interrupted => {}
                Err(error) => {
                    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                    return Err(self.failed(errno));
                }
            }
        }
    }
}
