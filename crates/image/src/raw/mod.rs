//! Raw images: a file or block device whose bytes are the disk's.
//!
//! Opening is by path or by an open descriptor; either way the file is locked first ([`crate::lock`]). A file whose
//! length is no multiple of a sector is padded with zeros, as QEMU does. One that is cut short while it is open fails where
//! it is read, which QEMU reads as zeros.

mod create;

use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub use create::create;

use crate::lock::Access;
use crate::storage::{self, File, Storage};
use crate::{BlockDevice, Error, Geometry, InPlace, Operation, SECTOR};

/// An opened raw image.
pub struct Raw {
    len: AtomicU64,
    /// Where the file ended when it was looked at: the length, less what fills up the last sector.
    end: AtomicU64,
    read_only: bool,
    geometry: Geometry,
    storage: Box<dyn Storage>,
}

impl Raw {
    /// Opens and locks the image at `path`. It is neither created nor truncated.
    ///
    /// # Errors
    /// When it can't be opened, is no file or block device, or is in use.
    pub fn open(path: &Path, access: Access) -> Result<Self, Error> {
        Self::of(File::open(path, access)?, access)
    }

    /// Takes over an open file, which must be open for reading, and for writing when `access` writes. `name` stands
    /// in errors. A lock that the open file has already is kept.
    ///
    /// # Errors
    /// When it is no file or block device, or is in use.
    pub fn from_file(file: std::fs::File, name: &str, access: Access) -> Result<Self, Error> {
        Self::of(File::from_file(file, name, access)?, access)
    }

    fn of(file: File, access: Access) -> Result<Self, Error> {
        let geometry = file.geometry();
        Self::on(Box::new(file), geometry, !access.writes())
    }

    /// A raw image on any storage.
    ///
    /// # Errors
    /// When its length can't be had.
    pub fn on(storage: Box<dyn Storage>, geometry: Geometry, read_only: bool) -> Result<Self, Error> {
        let raw = Self { len: AtomicU64::new(0), end: AtomicU64::new(0), read_only, geometry, storage };
        raw.refresh()?;
        Ok(raw)
    }

    /// Looks at the length anew, after somebody has changed it. Returns it.
    ///
    /// # Errors
    /// When the host fails.
    pub fn refresh(&self) -> Result<u64, Error> {
        let end = self.storage.len().map_err(|source| Error::Open { path: self.storage.name().into(), source })?;
        let len = end.checked_next_multiple_of(SECTOR).unwrap_or(end - end % SECTOR);
        self.end.store(end, Ordering::Release);
        self.len.store(len, Ordering::Release);
        Ok(len)
    }

    /// Changes its length.
    ///
    /// # Errors
    /// When it is read-only, a block device, or the host fails.
    pub fn resize(&self, len: u64) -> Result<(), Error> {
        if self.read_only {
            return Err(Error::ReadOnly { name: self.storage.name().into(), operation: Operation::Write });
        }
        self.storage.set_len(len).map_err(self.failed(Operation::Write, len))?;
        self.refresh().map(drop)
    }

    /// Where its bytes lie.
    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    fn check(&self, operation: Operation, offset: u64, len: u64) -> Result<(), Error> {
        if self.read_only && operation != Operation::Read {
            return Err(Error::ReadOnly { name: self.storage.name().into(), operation });
        }
        let end = self.len();
        match offset.checked_add(len) {
            Some(last) if last <= end => Ok(()),
            _ => Err(Error::OutOfRange { name: self.storage.name().into(), operation, offset, len, end }),
        }
    }

    fn failed(&self, operation: Operation, offset: u64) -> impl Fn(io::Error) -> Error {
        move |source| Error::Io { name: self.storage.name().into(), operation, offset, source }
    }
}

impl BlockDevice for Raw {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<(), Error> {
        let total = buffers.iter().map(|buffer| buffer.len() as u64).fold(0, u64::saturating_add);
        self.check(Operation::Read, offset, total)?;
        let there = self.storage.read_at(buffers, offset).map_err(self.failed(Operation::Read, offset))?;
        let wanted = self.end.load(Ordering::Acquire).saturating_sub(offset).min(total);
        if there < wanted {
            let end = self.storage.len().unwrap_or(offset + there);
            let why = format!("the file ends at byte {end}: it was cut short while it was in use");
            return Err(self.failed(Operation::Read, offset)(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
        }
        Ok(())
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<(), Error> {
        let total = buffers.iter().map(|buffer| buffer.len() as u64).fold(0, u64::saturating_add);
        self.check(Operation::Write, offset, total)?;
        self.storage.write_at(buffers, offset).map_err(self.failed(Operation::Write, offset))
    }

    fn in_place(&self, operation: Operation, offset: u64, len: u64) -> Option<InPlace<'_>> {
        self.check(operation, offset, len).ok()?;
        Some(InPlace::fixed(self.storage.as_file()?.plain()?, offset))
    }

    fn flush(&self) -> Result<(), Error> {
        if self.read_only {
            return Ok(());
        }
        self.storage.flush().map_err(self.failed(Operation::Flush, 0))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.check(Operation::Discard, offset, len)?;
        self.storage.zero(offset, len, true).map(drop).map_err(self.failed(Operation::Discard, offset))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.check(Operation::WriteZeroes, offset, len)?;
        storage::write_zeroes(self.storage.as_ref(), offset, len, unmap)
            .map_err(self.failed(Operation::WriteZeroes, offset))
    }
}
