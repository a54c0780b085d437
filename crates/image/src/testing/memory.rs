//! A storage in memory.

use std::io::{self, IoSlice, IoSliceMut};

use parking_lot::Mutex;

use crate::storage::{Storage, Stretch};

/// Bytes in memory. All of it counts as data.
#[derive(Default)]
pub struct Memory(Mutex<Vec<u8>>);

impl Memory {
    /// With these bytes.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(bytes))
    }

    /// All bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().clone()
    }

    /// How many there are.
    pub(super) fn bytes_len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Storage for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let bytes = self.0.lock();
        let mut at = offset as usize;
        for buffer in buffers {
            let there = bytes.get(at.min(bytes.len())..).unwrap_or_default();
            let len = there.len().min(buffer.len());
            let (head, tail) = buffer.split_at_mut(len);
            head.copy_from_slice(there.get(..len).unwrap_or_default());
            tail.fill(0);
            at += buffer.len();
        }
        Ok(())
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.lock();
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
        self.0.lock().resize(len as usize, 0);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<bool> {
        let mut bytes = self.0.lock();
        let end = ((offset + len) as usize).min(bytes.len());
        if let Some(range) = bytes.get_mut(offset as usize..end) {
            range.fill(0);
        }
        Ok(true)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<bool> {
        let mut bytes = self.0.lock();
        let end = (offset + len) as usize;
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
