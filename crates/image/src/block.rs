//! What every opened disk can do, whatever its format.

use std::io::{IoSlice, IoSliceMut};

use crate::Error;

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
