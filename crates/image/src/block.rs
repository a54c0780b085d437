//! What every opened disk can do, whatever its format.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLockReadGuard;

use crate::{Error, Operation};

/// Bytes of a sector, the unit in which disks are counted.
pub const SECTOR: u64 = 512;

/// Block sizes of a disk, in bytes; powers of two of at least [`SECTOR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Least unit that the disk can read or write.
    pub logical_block: u32,
    /// Least unit that it writes without reading first.
    pub physical_block: u32,
}

/// A range of a disk that lies in a file as it is. While this lives its place is given to nobody else.
pub struct InPlace<'a> {
    file: &'a File,
    offset: u64,
    /// Told that something was written, once it may have been.
    written: Option<&'a AtomicBool>,
    _held: Option<RwLockReadGuard<'a, ()>>,
}

impl<'a> InPlace<'a> {
    /// A range that never moves.
    pub(crate) fn fixed(file: &'a File, offset: u64) -> Self {
        Self { file, offset, written: None, _held: None }
    }

    /// A range that stays where it is while `held` lives.
    pub(crate) fn held(
        file: &'a File,
        offset: u64,
        written: Option<&'a AtomicBool>,
        held: RwLockReadGuard<'a, ()>,
    ) -> Self {
        Self { file, offset, written, _held: Some(held) }
    }

    /// The file.
    pub fn file(&self) -> &File {
        self.file
    }

    /// Where the range begins in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl Drop for InPlace<'_> {
    fn drop(&mut self) {
        if let Some(written) = self.written {
            written.store(true, Ordering::Release);
        }
    }
}

/// An opened disk.
///
/// Its methods block and may be called from any number of threads. Two calls that overlap are in no order; a
/// [`flush`](BlockDevice::flush) covers the writes that had returned before it was called.
pub trait BlockDevice: Send + Sync {
    /// Length in bytes, a multiple of [`SECTOR`]. It may change while the disk is open.
    fn len(&self) -> u64;

    /// Whether it has no sector at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether writes are refused.
    fn is_read_only(&self) -> bool;

    /// Block sizes.
    fn geometry(&self) -> Geometry;

    /// Fills all of `buffers` from `offset` on.
    ///
    /// # Errors
    /// When the range is not within the disk or the host fails; `buffers` may have been written to then.
    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<(), Error>;

    /// Writes all of `buffers` at `offset`.
    ///
    /// # Errors
    /// When the disk is read-only, the range is not within it, or the host fails; a part may have been written then.
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<(), Error>;

    /// Where a read or write (`operation`) of a range may go to a file at once, for whoever can hand the kernel memory that
    /// is nobody's to refer to, such as a guest's. `None`: by [`read_at`](BlockDevice::read_at) and
    /// [`write_at`](BlockDevice::write_at). A transfer there that fails or is short is done again by these, which know
    /// what is wrong; the place must be let go before.
    fn in_place(&self, operation: Operation, offset: u64, len: u64) -> Option<InPlace<'_>> {
        let _ = (operation, offset, len);
        None
    }

    /// Returns once everything written is on stable storage.
    ///
    /// # Errors
    /// When the host fails; what was written since the last good flush may be lost then.
    fn flush(&self) -> Result<(), Error>;

    /// The range's contents are no longer needed. What it reads afterwards is undefined, but of the old contents or
    /// zeros.
    ///
    /// # Errors
    /// As [`write_at`](BlockDevice::write_at); that a host can't discard is none.
    fn discard(&self, offset: u64, len: u64) -> Result<(), Error>;

    /// The range reads zeros afterwards. With `unmap` the host may free its space, without it the space stays taken.
    ///
    /// # Errors
    /// As [`write_at`](BlockDevice::write_at).
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error>;
}
