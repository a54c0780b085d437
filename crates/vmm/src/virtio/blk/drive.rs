//! What stands behind a disk device: an image, and what is done where the guest leaves it open or the host fails.

use std::sync::Arc;

use kiln_image::zeros::is_zero;
use kiln_image::{BlockDevice, Error, Operation};

/// What is done with a request that the host fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    Report,
    /// The machine is to be paused; the request is done again when it goes on.
    Stop,
    /// [`Stop`](OnError::Stop) when the host has no space left, else [`Report`](OnError::Report).
    StopWithoutSpace,
    /// The guest is told that all is well.
    Ignore,
}

/// What is done with a write of nothing but zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetectZeroes {
    /// It is written.
    Off,
    /// Zeros take its place, and its space stays taken.
    On,
    /// Zeros take its place, and its space may be freed.
    Unmap,
}

/// What became of a request that the host failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The guest was told.
    Reported,
    /// It waits for the machine to be paused and to go on.
    Stopped,
    /// The guest was told that all is well.
    Ignored,
}

/// A request that the host failed.
#[derive(Debug, Clone)]
pub struct DiskError {
    /// The drive's name.
    pub drive: String,
    /// What was asked for.
    pub operation: Operation,
    /// Whether it was for want of space.
    pub no_space: bool,
    /// Why, with all causes.
    pub why: String,
    /// What became of the request.
    pub consequence: Consequence,
}

/// Hears of requests that the host fails, on the thread of the queue they came by: it must not wait for that.
pub type Witness = dyn Fn(DiskError) + Send + Sync;

/// A disk, and how requests on it are served.
#[derive(Clone)]
pub struct Drive {
    /// Its name in messages, e.g. `vda`.
    pub name: String,
    /// What is behind it.
    pub disk: Arc<dyn BlockDevice>,
    /// Queues, 1 to 64.
    pub queues: u16,
    /// Serial number; the guest sees 20 bytes of it.
    pub serial: String,
    /// Writes may wait for the guest's flush; without, each is durable before the guest hears of it.
    pub write_cache: bool,
    /// Flushes do nothing: a power loss of the host may leave anything.
    pub ignore_flush: bool,
    /// Discards give space back to the host; without, they do nothing.
    pub unmap: bool,
    /// Writes of zeros.
    pub detect_zeroes: DetectZeroes,
    /// Reads that fail.
    pub on_read_error: OnError,
    /// Writes, flushes, discards that fail.
    pub on_write_error: OnError,
    /// Who hears of failures.
    pub witness: Arc<Witness>,
}

impl Drive {
    /// A drive as QEMU has it when nothing else is said: with a write cache, discards that do nothing, and errors told
    /// to the guest but for want of space.
    pub fn new(name: &str, disk: Arc<dyn BlockDevice>) -> Self {
        Self {
            name: name.into(),
            disk,
            queues: 1,
            serial: String::new(),
            write_cache: true,
            ignore_flush: false,
            unmap: false,
            detect_zeroes: DetectZeroes::Off,
            on_read_error: OnError::Report,
            on_write_error: OnError::StopWithoutSpace,
            witness: Arc::new(|_| ()),
        }
    }

    /// Makes what was written durable.
    pub(super) fn flush(&self) -> Result<(), Error> {
        if self.ignore_flush { Ok(()) } else { self.disk.flush() }
    }

    /// Writes, or writes zeros if that is what it comes to.
    pub(super) fn write(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        if self.detect_zeroes != DetectZeroes::Off && is_zero(data) {
            let unmap = self.detect_zeroes == DetectZeroes::Unmap && self.unmap;
            return self.disk.write_zeroes(offset, data.len() as u64, unmap);
        }
        self.disk.write_at(&[std::io::IoSlice::new(data)], offset)
    }

    /// Gives space back, if it is to be given back.
    pub(super) fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        if self.unmap { self.disk.discard(offset, len) } else { Ok(()) }
    }

    /// Writes zeros; the guest allows its space to be freed if `unmap`.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.disk.write_zeroes(offset, len, unmap && self.unmap)
    }

    /// Decides what becomes of a request that failed, and tells the witness.
    pub(super) fn failed(&self, operation: Operation, error: &Error) -> Consequence {
        let no_space = is_out_of_space(error);
        let policy = if operation == Operation::Read { self.on_read_error } else { self.on_write_error };
        let consequence = match policy {
            OnError::Stop => Consequence::Stopped,
            OnError::StopWithoutSpace if no_space => Consequence::Stopped,
            OnError::Report | OnError::StopWithoutSpace => Consequence::Reported,
            OnError::Ignore => Consequence::Ignored,
        };
        let why = super::chain_of(error);
        (self.witness)(DiskError { drive: self.name.clone(), operation, no_space, why, consequence });
        consequence
    }
}

fn is_out_of_space(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
}

impl std::fmt::Debug for Drive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Drive({}, {} bytes)", self.name, self.disk.len())
    }
}
