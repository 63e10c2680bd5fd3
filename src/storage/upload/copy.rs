//! Copies of files within the server, also from one folder to another. A copy is an upload whose bytes need not travel:
//! what holds for uploads holds for it.
use std::fs::File;
use std::io::{self, ErrorKind as ErrorKindOfIo};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use nix::sys::stat::fstat;

use super::{Upload, length};
use crate::storage::disk::copy;
use crate::storage::disk::system::errno_of;
use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::integrity::checksum;
use crate::storage::metadata::Metadata;
use crate::storage::path::VirtualPath;
use crate::storage::view::{Download, View};

/// A copy under way. Dropped unfinished it leaves the target as it was.
#[derive(Debug)]
pub struct Copying {
    source: File,
    /// Of the source when it was opened, in bytes; what is added to it meanwhile is not copied.
    size: u64,
    upload: Upload,
    started: bool,
}

impl View {
    /// # Errors
    /// As [`View::open_for_reading`] of the one and [`View::begin_upload`] of the other; `SameFile`.
    pub fn begin_copy(&self, from: &VirtualPath, to: &VirtualPath) -> Result<Copying, Error> {
        let Download { file, size } = self.open_for_reading(from)?;
        let source = fstat(&file).at(from)?;
        // Under another name too: it might be emptied before it is read.
        let target = self.metadata(to).ok();
        let is_same =
            |target: Metadata| (target.device, target.inode) == (source.st_dev, source.st_ino);
        if target.is_some_and(is_same) {
            return Err(ErrorKind::SameFile.at(to));
        }
        Ok(Copying {
            source: file,
            size,
            upload: self.begin_upload_of_copy(to)?,
            started: false,
        })
    }
}

impl Copying {
    /// Copies some more; returns how many bytes, 0 when all are.
    ///
    /// # Errors
    /// As [`Upload::write_all`], and those of reading; `NoRoom` before the first byte; `Io` when the source became shorter.
    pub fn step(&mut self) -> Result<usize, Error> {
        if !self.started {
            self.started = true;
            if self.share_all()? {
                return Ok(usize::try_from(self.size).unwrap_or(usize::MAX));
            }
            let Upload { space, file, .. } = &self.upload;
            space.would_fit(file, self.size).at(&self.upload.path)?;
        }
        let copied = self.copy_some()?;
        if copied == 0 && self.upload.received < self.size {
            return Err(Error {
                source: Some(io::Error::other("the source became shorter meanwhile")),
                ..ErrorKind::Io.at(&self.upload.path)
            });
        }
        Ok(copied)
    }

    /// Makes the copy share the blocks of the source; false where the file system cannot, and nothing was done. Where a checksum
    /// is wanted, takes that of the source, if it is stored; blocks of which none is known have to be read.
    fn share_all(&mut self) -> Result<bool, Error> {
        let Self { source, upload, .. } = self;
        if upload.digest.is_some() {
            upload.known_digest = checksum::stored(source);
        }
        if upload.known_digest.is_some() {
            upload.digest = None;
        }
        if !upload.takes_pages() {
            return Ok(false);
        }
        upload.cut()?;
        let size = upload.said(length(source))?;
        upload.space.admit_shared(size).at(&upload.path)?;
        let shared = copy::cloned(source.as_fd(), upload.file.as_fd());
        if !upload.said(shared)? {
            upload.space.give_back(0);
            return Ok(false);
        }
        // It may have grown in between.
        self.size = upload.said(length(&upload.file))?;
        (upload.position, upload.received) = (self.size, self.size);
        upload.space.admit_shared(self.size).at(&upload.path)?;
        Ok(true)
    }

    /// Copies some bytes behind what was copied before; returns how many: none at the end of the source.
    fn copy_some(&mut self) -> Result<usize, Error> {
        let Self { source, upload, .. } = self;
        let left = self.size.saturating_sub(upload.position);
        if upload.takes_pages() {
            upload.admit(left.min(copy::STEP) as usize)?;
            let copied = copy::step(source, &upload.file, upload.position, left);
            let copied = upload.said(copied)? as usize;
            upload.advance(copied)?;
            return Ok(copied);
        }
        let mut buffer = vec![0; left.min(128 * 1024) as usize];
        let length = loop {
            match source.read_at(&mut buffer, upload.position) {
                Err(error) if error.kind() == ErrorKindOfIo::Interrupted => {}
                read => break upload.said(read.map_err(errno_of))?,
            }
        };
        upload.write_all(&buffer[..length])?;
        Ok(length)
    }

    /// Makes the copy the file; returns its size in bytes once it is stored as uploads are.
    ///
    /// # Errors
    /// As [`Upload::finish`].
    pub fn finish(mut self) -> Result<u64, Error> {
        let known = &mut self.upload.known_digest;
        if known.is_some() && checksum::stored(&self.source) != *known {
            // The source has changed since.
            *known = None;
        }
        Ok(self.upload.finish(&mut |_| Ok::<(), Error>(()))?.size)
    }
}
