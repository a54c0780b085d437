//! Where an image's bytes lie: the lower end of every tree of nodes.
//!
//! A format ([`crate::raw`], [`crate::qcow2`]) reads and writes its own structures and the guest's data through
//! [`Storage`] and knows nothing of files. [`File`] is the one that users meet; tests put recorders and failing ones in
//! its place.

mod direct;
mod engine;
mod file;

use std::io::{self, IoSlice, IoSliceMut};

pub use file::File;

/// How a file is used by way of the page cache, as QEMU's cache modes have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cache {
    /// Past it (open(2), O_DIRECT).
    pub direct: bool,
    /// Each write returns only when it is durable (open(2), O_DSYNC).
    pub sync: bool,
}

/// A stretch of a storage that is data or a hole throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Whether bytes are kept for it; a hole reads zeros.
    pub data: bool,
    /// First byte behind it.
    pub end: u64,
}

/// Bytes under numbers, which grow when written behind their end.
///
/// Calls block and may come from any number of threads. What was written is durable once a later
/// [`flush`](Storage::flush) has returned, and until then each 512-byte sector of it may be old or new after a power
/// loss.
pub trait Storage: Send + Sync {
    /// Its name in messages.
    fn name(&self) -> &str;

    /// Length in bytes.
    ///
    /// # Errors
    /// When the host fails.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no byte at all.
    ///
    /// # Errors
    /// As [`len`](Storage::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffers` from `offset` on; behind the end with zeros. Returns how many bytes lay before the end. The slices
    /// may be advanced on the way.
    ///
    /// # Errors
    /// When the host fails; `buffers` may have been written to then.
    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<u64>;

    /// Writes `buffers` at `offset`.
    ///
    /// # Errors
    /// When the host fails; a part may have been written then.
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Returns once everything written is on stable storage.
    ///
    /// # Errors
    /// When the host fails; what was written since the last good flush may be lost then.
    fn flush(&self) -> io::Result<()>;

    /// Cuts it, or lengthens it by a hole.
    ///
    /// # Errors
    /// When the host fails, or it has a length that can't change (a block device).
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The range reads zeros afterwards; with `unmap` its space is given back, without it the space is kept. Says whether
    /// the host can do it; if not, nothing has changed.
    ///
    /// # Errors
    /// When the host fails.
    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<bool>;

    /// Keeps space for the range, whose contents stay. It grows to hold the range. Says whether the host can do it.
    ///
    /// # Errors
    /// When the host fails, e.g. for want of space.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<bool>;

    /// The stretch that `offset` lies in. Everything is data where the host doesn't tell.
    ///
    /// # Errors
    /// When the host fails.
    fn stretch(&self, offset: u64) -> io::Result<Stretch>;

    /// Bytes of disk space taken.
    ///
    /// # Errors
    /// When the host fails.
    fn allocated(&self) -> io::Result<u64>;

    /// Bytes to which requests should be aligned: the least block that is written without reading.
    fn block(&self) -> u32;

    /// The file or block device, if it is one.
    fn as_file(&self) -> Option<&File> {
        None
    }
}

impl<T: Storage + ?Sized> Storage for std::sync::Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<u64> {
        (**self).read_at(buffers, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        (**self).write_at(buffers, offset)
    }

    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<bool> {
        (**self).zero(offset, len, unmap)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<bool> {
        (**self).allocate(offset, len)
    }

    fn stretch(&self, offset: u64) -> io::Result<Stretch> {
        (**self).stretch(offset)
    }

    fn allocated(&self) -> io::Result<u64> {
        (**self).allocated()
    }

    fn block(&self) -> u32 {
        (**self).block()
    }

    fn as_file(&self) -> Option<&File> {
        (**self).as_file()
    }
}

/// Fills one buffer. As [`Storage::read_at`].
///
/// # Errors
/// When the host fails.
pub fn read(storage: &dyn Storage, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    storage.read_at(&mut [IoSliceMut::new(buffer)], offset).map(drop)
}

/// Writes one buffer.
///
/// # Errors
/// When the host fails.
pub fn write(storage: &dyn Storage, buffer: &[u8], offset: u64) -> io::Result<()> {
    storage.write_at(&[IoSlice::new(buffer)], offset)
}

/// Most bytes of zeros written at once where the host has no better way.
const ZEROES: usize = 64 << 10;

/// Makes the range read zeros in whatever way the host can. As [`Storage::zero`].
///
/// # Errors
/// When the host fails.
pub fn write_zeroes(storage: &dyn Storage, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    if len == 0 || (unmap && storage.zero(offset, len, true)?) || storage.zero(offset, len, false)? {
        return Ok(());
    }
    let zeroes = [0; ZEROES];
    let mut done = 0;
    while done < len {
        let part = zeroes.get(..(len - done).min(ZEROES as u64) as usize).unwrap_or(&zeroes);
        write(storage, part, offset + done)?;
        done += part.len() as u64;
    }
    Ok(())
}
