//! A regular file or a block device.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::io::Errno;

use super::direct::Direct;
use super::engine::{self, Blocking, Engine};
use super::{Cache, Storage, Stretch};
use crate::lock::{self, Access};
use crate::{Error, Geometry, SECTOR};

/// A file or block device that has been opened and locked.
pub struct File {
    name: String,
    is_device: bool,
    geometry: Geometry,
    engine: Box<dyn Engine>,
    /// A flush has failed. What the kernel then forgot will not come back, so no later flush may succeed.
    lost: AtomicBool,
}

impl File {
    /// Opens and locks the file at `path`. It is neither created nor truncated.
    ///
    /// # Errors
    /// When it can't be opened, is no file or block device, or is in use.
    pub fn open(path: &Path, access: Access) -> Result<Self, Error> {
        Self::open_with(path, access, Cache::default())
    }

    /// As [`open`](Self::open), with a cache mode.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when its file system can't do so.
    pub fn open_with(path: &Path, access: Access, cache: Cache) -> Result<Self, Error> {
        // A FIFO would wait for its other end: ask first, and don't wait.
        let kind =
            std::fs::metadata(path).map(|about| FileType::from_raw_mode(std::os::unix::fs::MetadataExt::mode(&about)));
        if let Ok(kind) = kind {
            is_disk(kind, || path.display().to_string())?;
        }
        let flags = if cache.sync { OFlags::DSYNC.bits() as i32 } else { 0 };
        let open = std::fs::File::options().read(true).write(access.writes()).custom_flags(flags).open(path);
        let file = open.map_err(|source| Error::Open { path: path.into(), source })?;
        Self::from_file_with(file, &path.display().to_string(), access, cache)
    }

    /// Opens a file for reading without a look at locks: somebody may be writing to it.
    ///
    /// # Errors
    /// When it can't be opened, or is no file or block device.
    pub fn open_unlocked(path: &Path, cache: Cache) -> Result<Self, Error> {
        let file = std::fs::File::open(path).map_err(|source| Error::Open { path: path.into(), source })?;
        Self::new(file, &path.display().to_string(), false, cache)
    }

    /// Takes over an open file, which must be open for reading, and for writing when `access` writes. `name` stands in
    /// errors. A lock that the open file has already is kept.
    ///
    /// # Errors
    /// When it is no file or block device, or is in use.
    pub fn from_file(file: std::fs::File, name: &str, access: Access) -> Result<Self, Error> {
        Self::from_file_with(file, name, access, Cache::default())
    }

    /// As [`from_file`](Self::from_file), with a cache mode.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file), and when its file system can't do so.
    pub fn from_file_with(file: std::fs::File, name: &str, access: Access, cache: Cache) -> Result<Self, Error> {
        let new = Self::new(file, name, access.writes(), cache)?;
        lock::acquire(new.file(), name, access)?;
        Ok(new)
    }

    fn new(file: std::fs::File, name: &str, write: bool, cache: Cache) -> Result<Self, Error> {
        let failed = |errno: Errno| Error::Open { path: name.into(), source: errno.into() };
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        is_disk(kind, || name.into())?;
        let geometry = match kind {
            FileType::BlockDevice => Geometry {
                logical_block: rustix::fs::ioctl_blksszget(&file).map_err(failed)?,
                physical_block: rustix::fs::ioctl_blkpbszget(&file).map_err(failed)?,
            },
            _ => Geometry { logical_block: SECTOR as u32, physical_block: physical_block(stat.st_blksize as u64) },
        };
        let is_device = kind == FileType::BlockDevice;
        let engine: Box<dyn Engine> = if cache.direct {
            let direct = Direct::new(file, write, cache.sync);
            Box::new(direct.map_err(|source| Error::Open { path: name.into(), source })?)
        } else {
            Box::new(Blocking(file))
        };
        Ok(Self { name: name.into(), is_device, geometry, engine, lost: AtomicBool::new(false) })
    }

    /// Copies a range of another file without bringing its bytes here (copy_file_range(2)); file systems may share them.
    /// Says whether the host can do it; a part may have been copied if not.
    ///
    /// # Errors
    /// When the host fails.
    pub fn copy_from(&self, from: &Self, offset: u64, to: u64, len: u64) -> io::Result<bool> {
        let (mut offset, mut to, end) = (offset, to, offset + len);
        while offset < end {
            let rest = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let (from, onto) = (from.engine.file(), self.engine.file());
            match rustix::fs::copy_file_range(from, Some(&mut offset), onto, Some(&mut to), rest) {
                // The source ends before.
                Ok(0) => return Ok(false),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    /// Block sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether it is a block device: its length is its own.
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// The open file.
    pub fn file(&self) -> &std::fs::File {
        self.engine.file()
    }

    /// The open file, if reads and writes of it by others are as good as those by this; not past the page cache, where
    /// places, lengths and memory must be aligned.
    pub fn plain(&self) -> Option<&std::fs::File> {
        self.engine.plain()
    }

    // Says whether the host could do it.
    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
        if len == 0 {
            return Ok(true);
        }
        loop {
            return match rustix::fs::fallocate(self.engine.file(), flags, offset, len) {
                Ok(()) => Ok(true),
                Err(Errno::INTR) => continue,
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL | Errno::PERM) => Ok(false),
                Err(errno) => Err(errno.into()),
            };
        }
    }

    fn seek(&self, to: SeekFrom) -> Result<u64, Errno> {
        // Nobody uses the position, so moving it disturbs nobody.
        rustix::fs::seek(self.engine.file(), to)
    }
}

fn is_disk(kind: FileType, name: impl FnOnce() -> String) -> Result<(), Error> {
    let what = match kind {
        FileType::RegularFile | FileType::BlockDevice => return Ok(()),
        FileType::Directory => "a folder",
        FileType::Socket => "a socket",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice => "a character device",
        _ => "something else",
    };
    Err(Error::NotADisk { name: name(), what })
}

// A file system's preferred size, when it is one that a disk could have.
fn physical_block(preferred: u64) -> u32 {
    if preferred.is_power_of_two() && (SECTOR..=4096).contains(&preferred) { preferred as u32 } else { SECTOR as u32 }
}

impl Storage for File {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> io::Result<u64> {
        // Seeking to the end works for files and devices.
        Ok(self.seek(SeekFrom::End(0))?)
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<u64> {
        engine::read_all(self.engine.as_ref(), buffers, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        engine::write_all(self.engine.as_ref(), buffers, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.lost.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush failed, and what was written before it may be lost"));
        }
        loop {
            return match self.engine.flush() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.lost.store(true, Ordering::Release);
                    Err(error)
                }
                Ok(()) => Ok(()),
            };
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        loop {
            return match rustix::fs::ftruncate(self.engine.file(), len) {
                Err(Errno::INTR) => continue,
                other => Ok(other?),
            };
        }
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<bool> {
        let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        self.fallocate(how | FallocateFlags::KEEP_SIZE, offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.fallocate(FallocateFlags::empty(), offset, len)
    }

    fn stretch(&self, offset: u64) -> io::Result<Stretch> {
        if self.is_device {
            return Ok(Stretch { data: true, end: self.len()?.max(offset) });
        }
        match self.seek(SeekFrom::Data(offset)) {
            // Nothing but a hole up to the end, or offset is behind the end.
            Err(Errno::NXIO) => Ok(Stretch { data: false, end: self.len()?.max(offset) }),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                Ok(Stretch { data: true, end: self.len()?.max(offset) })
            }
            Err(errno) => Err(errno.into()),
            Ok(data) if data > offset => Ok(Stretch { data: false, end: data }),
            Ok(_) => Ok(Stretch { data: true, end: self.seek(SeekFrom::Hole(offset))? }),
        }
    }

    fn allocated(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstat(self.engine.file())?;
        Ok((stat.st_blocks as u64).saturating_mul(512))
    }

    fn block(&self) -> u32 {
        self.geometry.physical_block
    }

    fn as_file(&self) -> Option<&File> {
        Some(self)
    }
}
