//! Past the page cache (open(2), O_DIRECT), for requests of any place, length and memory.
//!
//! The kernel takes whole blocks in aligned memory only. What is not in such memory goes through a buffer that is; what
//! is not whole blocks is written through the page cache, by a second open file. Both see the same bytes: before the
//! kernel reads or writes directly it writes back what the cache holds of the range, and afterwards it drops it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use parking_lot::{Mutex, RwLock};
use rustix::fs::OFlags;

use super::engine::{Blocking, Engine};

/// Bytes to which places, lengths and memory are aligned: a page, which is no less than any device asks for.
const BLOCK: usize = 4096;
/// Most bytes of a transfer.
const MOST: usize = 1 << 20;

/// Whole blocks past the page cache.
pub(super) struct Direct {
    direct: File,
    cached: Blocking,
    /// Held alone by whoever writes a part of a block: the page that it goes through must not be written directly
    /// meanwhile.
    parts: RwLock<()>,
    spare: Mutex<Vec<Buffer>>,
}

/// Memory with an aligned part of `MOST` bytes.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; MOST + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { bytes, start }
    }

    fn get(&mut self, len: usize) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + len.min(MOST)).unwrap_or_default()
    }
}

impl Direct {
    /// Beside a file that is open already, which keeps its locks.
    pub(super) fn new(cached: File, write: bool, sync: bool) -> io::Result<Self> {
        let flags = OFlags::DIRECT | if sync { OFlags::DSYNC } else { OFlags::empty() };
        // The file itself, whatever has become of its name.
        let path = format!("/proc/self/fd/{}", cached.as_raw_fd());
        let direct = File::options().read(true).write(write).custom_flags(flags.bits() as i32).open(path);
        let direct = direct.map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::INVAL.raw_os_error() => {
                let what = "its file system can't go past the page cache (O_DIRECT); take another cache mode";
                io::Error::new(io::ErrorKind::Unsupported, what)
            }
            _ => error,
        })?;
        Ok(Self { direct, cached: Blocking(cached), parts: RwLock::new(()), spare: Mutex::new(Vec::new()) })
    }

    fn with_buffer<T>(&self, run: impl FnOnce(&mut Buffer) -> T) -> T {
        let spare = self.spare.lock().pop();
        let mut buffer = spare.unwrap_or_else(Buffer::new);
        let done = run(&mut buffer);
        self.spare.lock().push(buffer);
        done
    }
}

fn total(lens: impl Iterator<Item = usize>) -> usize {
    lens.fold(0, usize::saturating_add)
}

impl Engine for Direct {
    fn file(&self) -> &File {
        self.cached.file()
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        // From the beginning of the first block to the end of the last one.
        let skip = (offset % BLOCK as u64) as usize;
        let wanted = total(buffers.iter().map(|buffer| buffer.len())).min(MOST - skip);
        let len = (skip + wanted).next_multiple_of(BLOCK);
        self.with_buffer(|whole| {
            let whole = whole.get(len);
            let read = rustix::io::pread(&self.direct, &mut *whole, offset - skip as u64)?;
            let there = read.saturating_sub(skip).min(wanted);
            let mut rest = whole.get(skip..skip + there).unwrap_or_default();
            for buffer in buffers {
                let (head, tail) = rest.split_at(buffer.len().min(rest.len()));
                buffer.get_mut(..head.len()).unwrap_or_default().copy_from_slice(head);
                rest = tail;
            }
            Ok(there)
        })
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let skip = (offset % BLOCK as u64) as usize;
        let wanted = total(buffers.iter().map(|buffer| buffer.len())).min(MOST);
        let direct = skip == 0 && wanted >= BLOCK;
        // Whole blocks, or what there is of the first one.
        let len = if direct { wanted / BLOCK * BLOCK } else { wanted.min(BLOCK - skip) };
        self.with_buffer(|whole| {
            let whole = whole.get(len);
            let mut rest = &mut *whole;
            for buffer in buffers {
                let (head, tail) = rest.split_at_mut(buffer.len().min(rest.len()));
                head.copy_from_slice(buffer.get(..head.len()).unwrap_or_default());
                rest = tail;
            }
            if direct {
                let _shared = self.parts.read();
                Ok(rustix::io::pwrite(&self.direct, whole, offset)?)
            } else {
                let _alone = self.parts.write();
                self.cached.write(&[IoSlice::new(whole)], offset)
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.cached.flush()
    }
}
