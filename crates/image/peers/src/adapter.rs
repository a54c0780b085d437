//! qcow2-rs as a block device of kiln's.
//!
//! Its device serves one thread and its requests stay there, so each device lives on a thread of its own, and callers
//! hand it jobs. It moves whole sectors only: what isn't aligned is read around and, for writes, merged. It looks for a
//! backing file from where the program runs; here relative names begin where the upper image lies, as the format has it.

use std::io::{self, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;

use futures::executor::block_on;
use kiln_image::{Access, BlockDevice, Error, Geometry, Operation, SECTOR, chain};
use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::error::Qcow2Result;
use qcow2_rs::sync_io::Qcow2IoSync;
use qcow2_rs::utils::qcow2_alloc_dev_sync;

/// Its device over plain reads and writes.
pub type Device = Qcow2Dev<Qcow2IoSync>;

type Job = Box<dyn FnOnce(&Device) + Send>;

/// Log2 of the bytes that it moves at least.
const SECTOR_BITS: u8 = SECTOR.trailing_zeros() as u8;
/// Most images below each other.
const DEEPEST: usize = 200;

/// An image opened by qcow2-rs. What was written since the last [`flush`](BlockDevice::flush) is lost when it goes.
pub struct Peer {
    name: String,
    len: u64,
    read_only: bool,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

fn open_device(path: &Path, params: &Qcow2DevParams, depth: usize) -> Qcow2Result<Device> {
    // It unwraps its own attempt to open the file.
    let mut how = std::fs::File::options();
    how.read(true).write(!params.is_read_only()).open(path)?;
    let file = Qcow2IoSync::new(path, params.is_read_only(), params.is_direct_io());
    let (mut device, backing) = qcow2_alloc_dev_sync(path, file, params)?;
    if let Some(name) = backing {
        if depth == DEEPEST {
            return Err("the chain of backing files is too long".into());
        }
        let below: PathBuf = chain::below(path, name.as_os_str());
        let params = params.clone();
        params.mark_backing_dev(Some(true));
        device.set_backing_dev(Box::new(open_device(&below, &params, depth + 1)?));
    }
    Ok(device)
}

impl Peer {
    /// Opens the image at `path`, and qcow2 images below it.
    ///
    /// # Errors
    /// When qcow2-rs says so or panics.
    pub fn open(path: &Path, access: Access) -> Result<Self, Error> {
        let name = path.display().to_string();
        let (jobs, work) = channel::<Job>();
        let (tell, told) = sync_channel(1);
        let (place, read_only) = (path.to_path_buf(), !access.writes());
        let thread = std::thread::spawn(move || {
            let params = Qcow2DevParams::new(SECTOR_BITS, None, None, read_only, false);
            let opened = open_device(&place, &params, 1).and_then(|device| {
                block_on(device.qcow2_prep_io())?;
                Ok(device)
            });
            match opened {
                Ok(device) => {
                    if tell.send(Ok(device.info.virtual_size())).is_ok() {
                        work.into_iter().for_each(|job| job(&device));
                    }
                }
                // Whoever opens it waits for this; if not, nobody has to hear.
                Err(error) => drop(tell.send(Err(error.to_string()))),
            }
        });
        let failed = |why: String| Error::Open { path: path.into(), source: io::Error::other(why) };
        let size = told.recv().map_err(|_| failed(PANICKED.into()))?.map_err(failed)?;
        let len = size / SECTOR * SECTOR;
        Ok(Self { name, len, read_only, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Lets its thread do something with the device.
    ///
    /// # Errors
    /// When that fails, or qcow2-rs panics, now or earlier.
    pub fn ask<T: Send + 'static>(
        &self,
        operation: Operation,
        offset: u64,
        job: impl FnOnce(&Device) -> Qcow2Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let failed =
            |why: String| Error::Io { name: self.name.clone(), operation, offset, source: io::Error::other(why) };
        let (tell, told) = sync_channel(1);
        let job: Job = Box::new(move |device| {
            // Whoever asked waits for this; if not, nobody has to hear.
            drop(tell.send(job(device).map_err(|error| error.to_string())));
        });
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .and_then(|()| told.recv().ok())
            .unwrap_or_else(|| Err(PANICKED.into()))
            .map_err(failed)
    }

    /// Its own check.
    ///
    /// # Errors
    /// What it finds, or that it panicked.
    pub fn check(&self) -> Result<(), Error> {
        self.ask(Operation::Read, 0, |device| block_on(device.check()))
    }

    fn range(&self, operation: Operation, offset: u64, len: u64) -> Result<(), Error> {
        if self.read_only && operation != Operation::Read {
            return Err(Error::ReadOnly { name: self.name.clone(), operation });
        }
        match offset.checked_add(len) {
            Some(last) if last <= self.len => Ok(()),
            _ => Err(Error::OutOfRange { name: self.name.clone(), operation, offset, len, end: self.len }),
        }
    }

    // Whole sectors around a range.
    fn around(&self, offset: u64, len: usize) -> Result<(u64, Vec<u8>), Error> {
        let first = offset / SECTOR * SECTOR;
        let end = (offset + len as u64).next_multiple_of(SECTOR);
        let bytes = self.ask(Operation::Read, first, move |device| {
            let mut bytes = vec![0; (end - first) as usize];
            match block_on(device.read_at(&mut bytes, first))? {
                all if all == bytes.len() => Ok(bytes),
                part => Err(format!("it read {part} of {} bytes", bytes.len()).into()),
            }
        })?;
        Ok((first, bytes))
    }

    fn put(&self, bytes: Vec<u8>, offset: u64) -> Result<(), Error> {
        let whole = offset.is_multiple_of(SECTOR) && (bytes.len() as u64).is_multiple_of(SECTOR);
        let (first, bytes) = if whole {
            (offset, bytes)
        } else {
            let (first, mut sectors) = self.around(offset, bytes.len())?;
            let start = (offset - first) as usize;
            sectors[start..start + bytes.len()].copy_from_slice(&bytes);
            (first, sectors)
        };
        self.ask(Operation::Write, first, move |device| block_on(device.write_at(&bytes, first)))
    }
}

const PANICKED: &str = "qcow2-rs panicked";

impl Drop for Peer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was told to whoever asked for what made it panic.
            let _ = thread.join();
        }
    }
}

impl BlockDevice for Peer {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn geometry(&self) -> Geometry {
        Geometry { logical_block: SECTOR as u32, physical_block: SECTOR as u32 }
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<(), Error> {
        let total: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        self.range(Operation::Read, offset, total as u64)?;
        if total == 0 {
            return Ok(());
        }
        let (first, bytes) = self.around(offset, total)?;
        let mut at = (offset - first) as usize;
        for buffer in buffers {
            let len = buffer.len();
            buffer.copy_from_slice(&bytes[at..at + len]);
            at += len;
        }
        Ok(())
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<(), Error> {
        let bytes = buffers.iter().flat_map(|buffer| buffer.iter()).copied().collect::<Vec<u8>>();
        self.range(Operation::Write, offset, bytes.len() as u64)?;
        if bytes.is_empty() { Ok(()) } else { self.put(bytes, offset) }
    }

    fn flush(&self) -> Result<(), Error> {
        if self.read_only {
            return Ok(());
        }
        self.ask(Operation::Flush, 0, |device| {
            block_on(device.flush_meta())?;
            block_on(device.fsync_range(0, 0))
        })
    }

    /// It has no discard; the contents stay.
    fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.range(Operation::Discard, offset, len)
    }

    /// It has no such operation; zero bytes are written.
    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> Result<(), Error> {
        const PIECE: u64 = 1 << 20;
        self.range(Operation::WriteZeroes, offset, len)?;
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let part = (end - at).min(PIECE);
            self.put(vec![0; part as usize], at)?;
            at += part;
        }
        Ok(())
    }
}
