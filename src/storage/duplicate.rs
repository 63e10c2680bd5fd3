//! Copies of files within the server, also from one folder to another. A copy is an upload whose bytes need not travel:
//! what holds for uploads holds for it.
use std::fs::File;
use std::io;

use nix::sys::stat::fstat;

use crate::storage::error::{At, Error, ErrorKind};
use crate::storage::metadata::Metadata;
use crate::storage::path::VirtualPath;
use crate::storage::upload::Upload;
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
    /// As [`Upload::write_all`]; `NoRoom` before the first byte; `Io` when the source became shorter.
    pub fn step(&mut self) -> Result<usize, Error> {
        let Self { source, upload, .. } = self;
        if !self.started {
            self.started = true;
            upload.know_checksum_of(source);
            if upload.share_all(source)? {
                self.size = upload.received();
                return Ok(usize::try_from(self.size).unwrap_or(usize::MAX));
            }
            upload.would_fit(self.size)?;
        }
        let copied = upload.copy_some(source, self.size)?;
        if copied == 0 && upload.received() < self.size {
            return Err(Error {
                source: Some(io::Error::other("the source became shorter meanwhile")),
                ..Error::new(ErrorKind::Io, upload.path().as_bytes())
            });
        }
        Ok(copied)
    }

    /// Makes the copy the file; returns its size in bytes once it is stored as uploads are.
    ///
    /// # Errors
    /// As [`Upload::finish`].
    pub fn finish(mut self) -> Result<u64, Error> {
        self.upload.check_known_checksum(&self.source);
        Ok(self.upload.finish(&mut |_| Ok::<(), Error>(()))?.size)
    }
}
