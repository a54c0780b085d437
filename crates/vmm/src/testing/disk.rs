//! A disk in memory that can be made to fail, to wait, and to tell what it was asked.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use kiln_image::{BlockDevice, Error, Geometry, Operation};
use parking_lot::{Condvar, Mutex};

/// The disk.
pub struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    len: AtomicU64,
    read_only: bool,
    /// While set, reads and writes fail.
    pub failing: AtomicBool,
    /// What fails, fails for want of space.
    pub full: AtomicBool,
    /// Number of discards so far.
    pub discards: AtomicUsize,
    /// Number of times that zeros were written and the space kept.
    pub zeroes_kept: AtomicUsize,
    /// Number of times that zeros were written and the space might be freed.
    pub zeroes_freed: AtomicUsize,
    /// Writes that succeed before everything fails.
    good: AtomicUsize,
    /// Number of writes so far.
    pub writes: AtomicUsize,
    /// Number of flushes so far.
    pub flushes: AtomicUsize,
    held: Mutex<bool>,
    let_go: Condvar,
    waiting: AtomicUsize,
}

impl MemoryDisk {
    /// A disk of zeros.
    pub fn new(len: usize, read_only: bool) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            bytes: Mutex::new(vec![0; len]),
            len: AtomicU64::new(len as u64),
            read_only,
            failing: AtomicBool::new(false),
            full: AtomicBool::new(false),
            discards: AtomicUsize::new(0),
            zeroes_kept: AtomicUsize::new(0),
            zeroes_freed: AtomicUsize::new(0),
            good: AtomicUsize::new(usize::MAX),
            writes: AtomicUsize::new(0),
            flushes: AtomicUsize::new(0),
            held: Mutex::new(false),
            let_go: Condvar::new(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Its content.
    pub fn content(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }

    /// Makes it longer.
    pub fn grow(&self, len: usize) {
        self.bytes.lock().resize(len, 0);
        self.len.store(len as u64, Ordering::Release);
    }

    /// So many writes succeed, then everything fails until `failing` is cleared.
    pub fn fail_after_writes(&self, count: usize) {
        self.good.store(count, Ordering::Release);
    }

    /// From now on requests wait inside, or no longer.
    pub fn hold(&self, held: bool) {
        *self.held.lock() = held;
        self.let_go.notify_all();
    }

    /// Requests that wait inside.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    fn clear(&self, offset: u64, len: u64) {
        self.bytes.lock().iter_mut().skip(offset as usize).take(len as usize).for_each(|byte| *byte = 0);
    }

    fn enter(&self, operation: Operation, offset: u64) -> Result<(), Error> {
        let mut held = self.held.lock();
        self.waiting.fetch_add(1, Ordering::AcqRel);
        while *held {
            self.let_go.wait(&mut held);
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        if operation == Operation::Write {
            let less = |left: usize| if left == usize::MAX { None } else { left.checked_sub(1) };
            let before = self.good.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
            if before == Err(0) {
                self.good.store(usize::MAX, Ordering::Release);
                self.failing.store(true, Ordering::Release);
            }
        }
        if self.failing.load(Ordering::Acquire) {
            let full = self.full.load(Ordering::Acquire);
            let source = if full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other }.into();
            return Err(Error::Io { name: "memory".into(), operation, offset, source });
        }
        Ok(())
    }
}

impl BlockDevice for MemoryDisk {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn geometry(&self) -> Geometry {
        Geometry { logical_block: 512, physical_block: 4096 }
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<(), Error> {
        self.enter(Operation::Read, offset)?;
        let bytes = self.bytes.lock();
        let mut from = bytes.iter().skip(offset as usize);
        for out in buffers.iter_mut().flat_map(|buffer| buffer.iter_mut()) {
            *out = from.next().copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<(), Error> {
        self.enter(Operation::Write, offset)?;
        self.writes.fetch_add(1, Ordering::AcqRel);
        let mut bytes = self.bytes.lock();
        let to = bytes.iter_mut().skip(offset as usize);
        for (byte, new) in to.zip(buffers.iter().flat_map(|buffer| buffer.iter())) {
            *byte = *new;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.enter(Operation::Flush, 0)?;
        self.flushes.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.enter(Operation::Discard, offset)?;
        self.discards.fetch_add(1, Ordering::AcqRel);
        self.clear(offset, len);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.enter(Operation::WriteZeroes, offset)?;
        let count = if unmap { &self.zeroes_freed } else { &self.zeroes_kept };
        count.fetch_add(1, Ordering::AcqRel);
        self.clear(offset, len);
        Ok(())
    }
}
