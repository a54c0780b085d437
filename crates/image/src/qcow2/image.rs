//! An open image: its parts, its locks, flushing and closing.
//!
//! Locks are taken in this order: `requests` (shared by every read and write, exclusive for whoever changes the shape of
//! the image), then `tables`, then `writing`. Guest data moves while none but `requests` is held.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use super::bits::*;
use super::check;
use super::compress::Codec;
use super::header::{Header, HeaderError, cluster_size};
use super::layout::Layout;
use super::tables::Tables;
use crate::storage::{self, Storage};
use crate::{BlockDevice, Error, Geometry, InPlace, Operation};

/// How an image is opened.
#[derive(Clone, Default)]
pub struct Options {
    /// Nothing is written.
    pub read_only: bool,
    /// Nothing is waited for on the way: fast, and a power loss may leave anything.
    pub no_barriers: bool,
    /// Space of clusters that become free is given back to the host.
    pub unmap: bool,
    /// What unallocated clusters read; zeros without.
    pub backing: Option<Arc<dyn BlockDevice>>,
    /// Where guest data lie, for an image with an external data file.
    pub data: Option<Arc<dyn Storage>>,
    /// An image that is marked corrupt is opened nevertheless.
    pub even_corrupt: bool,
}

/// An open qcow2 image.
pub struct Qcow2 {
    pub(super) layout: Layout,
    pub(super) storage: Arc<dyn Storage>,
    /// Where guest data lie: the image itself or its external data file.
    pub(super) data: Arc<dyn Storage>,
    pub(super) backing: Option<Arc<dyn BlockDevice>>,
    pub(super) codec: Codec,
    pub(super) tables: Mutex<Tables>,
    /// Held by whoever moves guest data to or from a cluster that it has looked up.
    pub(super) requests: RwLock<()>,
    /// Guest ranges for which clusters are being filled.
    pub(super) writing: Mutex<Vec<Range<u64>>>,
    pub(super) written: Condvar,
    pub(super) len: AtomicU64,
    /// Where the file that holds guest data ended at least, once.
    pub(super) end: AtomicU64,
    read_only: bool,
    unmap: bool,
    /// There is no backing file, but there will be one: zeros have to be said.
    pub(super) expects_backing: AtomicBool,
    /// Guest data went in place since the last barrier.
    pub(super) moved: AtomicBool,
    /// The first write has done what comes with it.
    pub(super) begun: AtomicBool,
    /// A change of snapshots or of the disk's length has ended half-way: nothing is written any more.
    pub(super) stuck: AtomicBool,
    /// Things that the user should hear of.
    notes: Mutex<Vec<String>>,
}

/// Reads and decodes the header of an image.
///
/// # Errors
/// When it can't be read, is no qcow2 header, or asks for what this program doesn't have.
pub fn read_header(storage: &dyn Storage) -> Result<Header, Error> {
    let name = || storage.name().to_owned();
    let failed = |source| Error::Io { name: name(), operation: Operation::Read, offset: 0, source };
    let told = |error: HeaderError| match error {
        HeaderError::Unsupported(what) => Error::Unsupported { name: name(), what },
        other => Error::Damaged { name: name(), what: other.to_string() },
    };
    let len = storage.len().map_err(failed)?;
    let mut first = vec![0; HEADER_V3_LEN.min(len as usize)];
    storage::read(storage, &mut first, 0).map_err(failed)?;
    let cluster = cluster_size(&first).map_err(told)?;
    first.resize(cluster.min(len) as usize, 0);
    storage::read(storage, &mut first, 0).map_err(failed)?;
    Header::decode(&first).map_err(told)
}

// An image that is marked as corrupt is not written to.
pub(crate) fn refuse_corrupt(header: &Header, name: &str) -> Result<(), Error> {
    if header.incompatible & incompatible::CORRUPT == 0 {
        return Ok(());
    }
    Err(Error::Damaged { name: name.into(), what: "it is marked as corrupt, and can only be read".into() })
}

impl Qcow2 {
    /// Opens an image whose header is `header`.
    ///
    /// # Errors
    /// When its tables can't be read, or it can't be opened in this way.
    pub fn open(storage: Arc<dyn Storage>, header: Header, options: Options) -> Result<Self, Error> {
        let name = storage.name().to_owned();
        if !options.read_only && !options.even_corrupt {
            refuse_corrupt(&header, &name)?;
        }
        let mut notes = Vec::new();
        let header = if !options.read_only && header.incompatible & incompatible::DIRTY != 0 {
            notes.push("it was not closed properly; its refcounts were repaired".into());
            check::repair(&storage, &header, check::Fix::All, &mut |_| {})?;
            read_header(storage.as_ref())?
        } else {
            header
        };
        let layout = Layout::of(&header);
        if layout.data_file != options.data.is_some() {
            let what = "its external data file must be opened with it".into();
            return Err(Error::Unsupported { name, what });
        }
        let (len, codec) = (header.size, Codec::new(header.compression));
        let data = options.data.clone().unwrap_or_else(|| storage.clone());
        let tables = Tables::load(storage.clone(), options.data, header, !options.no_barriers)?;
        let end = data.len().map_err(|source| Error::Open { path: data.name().into(), source })?;
        Ok(Self {
            layout,
            storage,
            data,
            backing: options.backing,
            codec,
            tables: Mutex::new(tables),
            requests: RwLock::new(()),
            writing: Mutex::new(Vec::new()),
            written: Condvar::new(),
            len: AtomicU64::new(len),
            end: AtomicU64::new(end),
            read_only: options.read_only,
            unmap: options.unmap,
            expects_backing: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            notes: Mutex::new(notes),
        })
    }

    /// What the user should hear of, since the last time this was asked.
    pub fn notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock())
    }

    pub(super) fn note(&self, what: impl Into<String>) {
        self.notes.lock().push(what.into());
    }

    /// The header as it is now.
    pub fn header(&self) -> Header {
        self.tables.lock().header.clone()
    }

    /// A backing file is about to be named: from now on zeros that are written are said, also where nothing else is.
    pub fn expect_backing(&self) {
        self.expects_backing.store(true, Ordering::Release);
    }

    /// Whether what isn't said reads zeros, now and later.
    pub(super) fn is_bare(&self) -> bool {
        self.backing.is_none() && !self.expects_backing.load(Ordering::Acquire)
    }

    /// What it lies on, for unallocated clusters.
    pub fn backing(&self) -> Option<&Arc<dyn BlockDevice>> {
        self.backing.as_ref()
    }

    pub(super) fn name(&self) -> String {
        self.storage.name().to_owned()
    }

    pub(super) fn failed(&self, operation: Operation, offset: u64) -> impl Fn(std::io::Error) -> Error + use<'_> {
        move |source| Error::Io { name: self.name(), operation, offset, source }
    }

    /// Does what comes with the first change: features that this program doesn't keep true are switched off.
    pub(super) fn begin(&self) -> Result<(), Error> {
        self.refuse_stuck()?;
        if self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut tables = self.tables.lock();
        if self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        tables.refuse_lost_tables()?;
        let unknown = tables.header.autoclear & !(autoclear::BITMAPS | autoclear::DATA_FILE_RAW);
        let bitmaps = tables.header.bitmaps.is_some();
        if unknown != 0 || bitmaps {
            if bitmaps {
                super::bitmaps::drop_all(&mut tables, self.storage.as_ref())?;
                self.note("its bitmaps were dropped, because its contents change and they would no longer agree");
            }
            tables.header.autoclear &= autoclear::DATA_FILE_RAW;
            tables.change_header();
            tables.commit()?;
            let gone = tables.take_gone();
            tables.reclaim(gone)?;
        }
        self.begun.store(true, Ordering::Release);
        Ok(())
    }

    // What is on the disk then is what a power loss would leave: whole, or marked and repaired by whoever opens it next.
    fn refuse_stuck(&self) -> Result<(), Error> {
        if !self.stuck.load(Ordering::Acquire) {
            return Ok(());
        }
        let source = std::io::Error::other("an earlier change of the image failed half-way; it must be opened anew");
        Err(self.failed(Operation::Write, 0)(source))
    }

    /// The next barrier covers data that went in place, too.
    pub(super) fn tell_moved(&self, tables: &mut Tables) {
        if self.moved.swap(false, Ordering::AcqRel) {
            tables.wrote();
        }
    }

    /// Writes what is in memory and makes it durable. Freed clusters can be given out again afterwards.
    pub(super) fn settle(&self) -> Result<(), Error> {
        self.refuse_stuck()?;
        let gone = {
            let mut tables = self.tables.lock();
            self.tell_moved(&mut tables);
            tables.commit()?;
            tables.take_gone()
        };
        if gone.is_empty() {
            return Ok(());
        }
        // Whoever had looked such a cluster up before it was let go may still be reading it.
        drop(self.requests.write());
        let mut tables = self.tables.lock();
        self.codec.forget();
        let free = tables.reclaim(gone)?;
        if self.unmap {
            for run in free {
                let (offset, len) = (run.first << self.layout.cluster_bits, run.count << self.layout.cluster_bits);
                self.storage.zero(offset, len, true).map_err(self.failed(Operation::Discard, offset))?;
            }
        }
        Ok(())
    }

    /// Writes everything, also what may wait at a flush. The image is as good as closed afterwards.
    ///
    /// # Errors
    /// When the host fails.
    pub fn close(&self) -> Result<(), Error> {
        if self.read_only {
            return Ok(());
        }
        self.settle()?;
        let mut tables = self.tables.lock();
        // Once more for the refcounts that went down. Nobody has to wait for these: what is lost of them are leaks.
        tables.spill()?;
        let end = tables.file_end();
        if !self.layout.data_file && self.storage.len().is_ok_and(|len| len < self.end.load(Ordering::Acquire)) {
            // Lengthened again, it would read zeros where data is gone.
            let what = "its file was cut short while it was in use, and data in it is lost".into();
            return Err(Error::Damaged { name: self.name(), what });
        }
        if self.begun.load(Ordering::Acquire) && self.storage.len().is_ok_and(|len| len < end) {
            self.storage.set_len(end).map_err(self.failed(Operation::Write, end))?;
        }
        Ok(())
    }

    pub(super) fn check(&self, operation: Operation, offset: u64, len: u64) -> Result<(), Error> {
        if self.read_only && operation != Operation::Read {
            return Err(Error::ReadOnly { name: self.name(), operation });
        }
        let end = self.len();
        match offset.checked_add(len) {
            Some(last) if last <= end => Ok(()),
            _ => Err(Error::OutOfRange { name: self.name(), operation, offset, len, end }),
        }
    }
}

impl BlockDevice for Qcow2 {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn geometry(&self) -> Geometry {
        Geometry { logical_block: crate::SECTOR as u32, physical_block: self.storage.block().max(crate::SECTOR as u32) }
    }

    fn read_at(&self, buffers: &mut [std::io::IoSliceMut<'_>], offset: u64) -> Result<(), Error> {
        let total = buffers.iter().map(|buffer| buffer.len() as u64).fold(0, u64::saturating_add);
        self.check(Operation::Read, offset, total)?;
        let _request = self.requests.read();
        self.read_buffers(buffers, offset)
    }

    fn write_at(&self, buffers: &[std::io::IoSlice<'_>], offset: u64) -> Result<(), Error> {
        let total = buffers.iter().map(|buffer| buffer.len() as u64).fold(0, u64::saturating_add);
        self.check(Operation::Write, offset, total)?;
        self.begin()?;
        let _request = self.requests.read();
        self.write_buffers(buffers, offset)
    }

    fn in_place(&self, operation: Operation, offset: u64, len: u64) -> Option<InPlace<'_>> {
        self.check(operation, offset, len).ok()?;
        let file = self.data.as_file()?.plain()?;
        let writes = operation == Operation::Write;
        if writes {
            self.begin().ok()?;
        }
        let held = self.requests.read();
        let host = if writes { self.place_of_write(offset, len) } else { self.place_of_read(offset, len) }?;
        Some(InPlace::held(file, host, writes.then_some(&self.moved), held))
    }

    fn flush(&self) -> Result<(), Error> {
        if self.read_only { Ok(()) } else { self.settle() }
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.check(Operation::Discard, offset, len)?;
        self.begin()?;
        let _request = self.requests.read();
        self.discard_range(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.check(Operation::WriteZeroes, offset, len)?;
        self.begin()?;
        let _request = self.requests.read();
        self.zero_range(offset, len, unmap)
    }
}
