//! A storage in memory.

use std::io::{self, IoSlice, IoSliceMut};

use parking_lot::Mutex;

use crate::storage::{Storage, Stretch};

/// Bytes in memory. All of it counts as data.
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    most: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl Memory {
    /// With these bytes.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self::limited(bytes, i64::MAX as u64)
    }

    /// With these bytes, on a disk that is full when it would get longer than `most`.
    pub fn limited(bytes: Vec<u8>, most: u64) -> Self {
        Self { bytes: Mutex::new(bytes), most }
    }

    // Offsets that a file can't have are refused, as the kernel does.
    fn end(&self, offset: u64, len: u64, grows: bool) -> io::Result<usize> {
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        if grows && end > self.most.max(self.len()?) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(end as usize)
    }

    /// All bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }

    /// How many there are.
    pub(super) fn bytes_len(&self) -> usize {
        self.bytes.lock().len()
    }
}

impl Storage for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<u64> {
        self.end(offset, buffers.iter().map(|buffer| buffer.len() as u64).sum(), false)?;
        let bytes = self.bytes.lock();
        let (mut at, mut found) = (offset as usize, 0);
        for buffer in buffers {
            let there = bytes.get(at.min(bytes.len())..).unwrap_or_default();
            let len = there.len().min(buffer.len());
            let (head, tail) = buffer.split_at_mut(len);
            head.copy_from_slice(there.get(..len).unwrap_or_default());
            tail.fill(0);
            at += buffer.len();
            found += len as u64;
        }
        Ok(found)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.end(offset, buffers.iter().map(|buffer| buffer.len() as u64).sum(), true)?;
        let mut bytes = self.bytes.lock();
        let mut at = offset as usize;
        for buffer in buffers {
            let end = at + buffer.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            if let Some(place) = bytes.get_mut(at..end) {
                place.copy_from_slice(buffer);
            }
            at = end;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = self.end(0, len, true)?;
        self.bytes.lock().resize(len, 0);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<bool> {
        let end = self.end(offset, len, false)?;
        let mut bytes = self.bytes.lock();
        let end = end.min(bytes.len());
        if let Some(range) = bytes.get_mut(offset as usize..end) {
            range.fill(0);
        }
        Ok(true)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<bool> {
        let end = self.end(offset, len, true)?;
        let mut bytes = self.bytes.lock();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        Ok(true)
    }

    fn stretch(&self, offset: u64) -> io::Result<Stretch> {
        Ok(Stretch { data: true, end: self.len()?.max(offset) })
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    fn block(&self) -> u32 {
        1
    }
}
