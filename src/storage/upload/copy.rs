//! An upload that gets what another file of the server holds, instead of what a client sends.
use std::fs::File;
use std::io::ErrorKind as ErrorKindOfIo;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use super::{Upload, length};
use crate::storage::disk::copy;
use crate::storage::disk::system::errno_of;
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
        let size = self.said(length(from))?;
        self.space.admit_shared(size).at(&self.path)?;
        let shared = copy::cloned(from.as_fd(), self.file.as_fd());
        if !self.said(shared)? {
            self.space.give_back(0);
            return Ok(false);
        }
        // It may have grown in between.
        self.position = self.said(length(&self.file))?;
        self.received = self.position;
        let shared = self.space.admit_shared(self.position);
        shared.at(&self.path)?;
        Ok(true)
    }

    /// Whether a whole file would fit.
    ///
    /// # Errors
    /// `NoRoom`, `OverQuota`.
    pub(in crate::storage) fn would_fit(&self, size: u64) -> Result<(), Error> {
        self.space.would_fit(&self.file, size).at(&self.path)
    }

    /// Copies some bytes of the file behind what was received before, from the same offset on and at most up to `end`;
    /// returns how many: none at the end of the file.
    ///
    /// # Errors
    /// As [`Upload::write_all`], and those of reading.
    pub(in crate::storage) fn copy_some(&mut self, from: &File, end: u64) -> Result<usize, Error> {
        let left = end.saturating_sub(self.position);
        if self.takes_pages() {
            self.admit(left.min(copy::STEP) as usize)?;
            let copied = copy::step(from, &self.file, self.position, left);
            let copied = self.said(copied)? as usize;
            self.advance(copied)?;
            return Ok(copied);
        }
        let mut buffer = vec![0; left.min(128 * 1024) as usize];
        let length = loop {
            match from.read_at(&mut buffer, self.position) {
                Err(error) if error.kind() == ErrorKindOfIo::Interrupted => {}
                read => break self.said(read.map_err(errno_of))?,
            }
        };
        self.write_all(&buffer[..length])?;
        Ok(length)
    }
}
