//! Raw images: a file or block device whose bytes are the disk's.
//!
//! Opening is by path or by an open descriptor; either way the file is locked first ([`crate::lock`]). A file whose
//! length is no multiple of a sector is padded with zeros, as QEMU does.

mod create;
mod engine;

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, FileType, SeekFrom};

pub use create::create;
use engine::{Blocking, Engine};

use crate::lock::{self, Access};
use crate::{BlockDevice, Error, Geometry, Operation, SECTOR};

/// Most bytes of zeros written at once where the host has no better way.
const ZEROES: usize = 64 << 10;

/// An opened raw image.
pub struct Raw {
    name: String,
    len: AtomicU64,
    read_only: bool,
    geometry: Geometry,
    engine: Box<dyn Engine>,
}

impl Raw {
    /// Opens and locks the image at `path`. It is neither created nor truncated.
    ///
    /// # Errors
    /// When it can't be opened, is no file or block device, or is in use.
    pub fn open(path: &Path, access: Access) -> Result<Self, Error> {
        let open = File::options().read(true).write(access.writes()).open(path);
        let file = open.map_err(|source| match source.kind() {
            io::ErrorKind::IsADirectory => {
                Error::NotADisk { name: path.display().to_string(), what: kind_name(FileType::Directory) }
            }
            _ => Error::Open { path: path.into(), source },
        })?;
        Self::from_file(file, &path.display().to_string(), access)
    }

    /// Takes over an open file, which must be open for reading, and for writing when `access` writes. `name` stands
    /// in errors. A lock that the open file has already is kept.
    ///
    /// # Errors
    /// When it is no file or block device, or is in use.
    pub fn from_file(file: File, name: &str, access: Access) -> Result<Self, Error> {
        let failed = |errno: rustix::io::Errno| Error::Open { path: name.into(), source: errno.into() };
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
            return Err(Error::NotADisk { name: name.into(), what: kind_name(kind) });
        }
        lock::acquire(&file, name, access)?;
        let sector = SECTOR as u32;
        let geometry = match kind {
            FileType::BlockDevice => Geometry {
                logical_block: rustix::fs::ioctl_blksszget(&file).map_err(failed)?,
                physical_block: rustix::fs::ioctl_blkpbszget(&file).map_err(failed)?,
            },
            _ => Geometry { logical_block: sector, physical_block: physical_block(stat.st_blksize as u64) },
        };
        let raw = Self {
            name: name.into(),
            len: AtomicU64::new(0),
            read_only: !access.writes(),
            geometry,
            engine: Box::new(Blocking(file)),
        };
        raw.refresh()?;
        Ok(raw)
    }

    /// Looks at the length anew, after somebody has changed it. Returns it.
    ///
    /// # Errors
    /// When the host fails.
    pub fn refresh(&self) -> Result<u64, Error> {
        // Seeking to the end works for files and devices, and nobody uses the position.
        let end = rustix::fs::seek(self.engine.file(), SeekFrom::End(0))
            .map_err(|errno| Error::Open { path: self.name.as_str().into(), source: errno.into() })?;
        let len = end.checked_next_multiple_of(SECTOR).unwrap_or(end - end % SECTOR);
        self.len.store(len, Ordering::Release);
        Ok(len)
    }

    fn check(&self, operation: Operation, offset: u64, len: u64) -> Result<(), Error> {
        if self.read_only && operation != Operation::Read {
            return Err(Error::ReadOnly { name: self.name.clone(), operation });
        }
        let end = self.len();
        match offset.checked_add(len) {
            Some(last) if last <= end => Ok(()),
            _ => Err(Error::OutOfRange { name: self.name.clone(), operation, offset, len, end }),
        }
    }

    fn failed(&self, operation: Operation, offset: u64) -> impl Fn(io::Error) -> Error {
        move |source| Error::Io { name: self.name.clone(), operation, offset, source }
    }

    // Says whether the host could do it.
    fn allocate(&self, operation: Operation, flags: FallocateFlags, offset: u64, len: u64) -> Result<bool, Error> {
        use rustix::io::Errno;
        if len == 0 {
            return Ok(true);
        }
        loop {
            return match rustix::fs::fallocate(self.engine.file(), flags | FallocateFlags::KEEP_SIZE, offset, len) {
                Ok(()) => Ok(true),
                Err(Errno::INTR) => continue,
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL | Errno::PERM) => Ok(false),
                Err(errno) => Err(self.failed(operation, offset)(errno.into())),
            };
        }
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a folder",
        FileType::Socket => "a socket",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice => "a character device",
        _ => "something else",
    }
}

// A file system's preferred size, when it is one that a disk could have.
fn physical_block(preferred: u64) -> u32 {
    if preferred.is_power_of_two() && (SECTOR..=4096).contains(&preferred) { preferred as u32 } else { SECTOR as u32 }
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
        engine::read_all(self.engine.as_ref(), buffers, offset).map_err(self.failed(Operation::Read, offset))
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<(), Error> {
        let total = buffers.iter().map(|buffer| buffer.len() as u64).fold(0, u64::saturating_add);
        self.check(Operation::Write, offset, total)?;
        engine::write_all(self.engine.as_ref(), buffers, offset).map_err(self.failed(Operation::Write, offset))
    }

    fn flush(&self) -> Result<(), Error> {
        if self.read_only {
            return Ok(());
        }
        self.engine.flush().map_err(self.failed(Operation::Flush, 0))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.check(Operation::Discard, offset, len)?;
        self.allocate(Operation::Discard, FallocateFlags::PUNCH_HOLE, offset, len).map(drop)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        let operation = Operation::WriteZeroes;
        self.check(operation, offset, len)?;
        if unmap && self.allocate(operation, FallocateFlags::PUNCH_HOLE, offset, len)? {
            return Ok(());
        }
        if self.allocate(operation, FallocateFlags::ZERO_RANGE, offset, len)? {
            return Ok(());
        }
        let zeroes = [0; ZEROES];
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let part = zeroes.get(..(end - at).min(ZEROES as u64) as usize).unwrap_or(&zeroes);
            engine::write_all(self.engine.as_ref(), &[IoSlice::new(part)], at).map_err(self.failed(operation, at))?;
            at += part.len() as u64;
        }
        Ok(())
    }
}
