//! Making a new image.

use std::ffi::OsString;
use std::sync::Arc;

use super::bits::*;
use super::header::{Compression, Header};
use super::layout::Entry;
use super::tables::Tables;
use crate::storage::{self, Storage};
use crate::{Error, Operation};

/// Space that a new image takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// None.
    #[default]
    Off,
    /// All tables, and places for all data.
    Metadata,
    /// Its data's space as well, as far as the host can reserve it.
    Falloc,
    /// Its data's space, written with zeros.
    Full,
}

/// What a new image is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Length of the disk in bytes; rounded up to whole sectors.
    pub size: u64,
    /// 2 or 3.
    pub version: u32,
    /// Log2 of the bytes of a cluster.
    pub cluster_bits: u32,
    /// Log2 of the bits of a refcount.
    pub refcount_order: u32,
    /// Refcounts may be written late.
    pub lazy_refcounts: bool,
    /// How clusters are compressed.
    pub compression: Compression,
    /// L2 entries with subclusters.
    pub extended_l2: bool,
    /// Backing file's name and format.
    pub backing: Option<(OsString, Option<String>)>,
    /// External data file's name, as it stands in the header, and whether it is a raw image by itself.
    pub data_file: Option<(OsString, bool)>,
    /// Space taken at once.
    pub preallocation: Preallocation,
}

impl Default for Create {
    fn default() -> Self {
        Self {
            size: 0,
            version: 3,
            cluster_bits: DEFAULT_CLUSTER_BITS,
            refcount_order: 4,
            lazy_refcounts: false,
            compression: Compression::Zlib,
            extended_l2: false,
            backing: None,
            data_file: None,
            preallocation: Preallocation::Off,
        }
    }
}

impl Create {
    /// Why this can't be, if it can't.
    pub fn fault(&self) -> Option<String> {
        let old = self.version < 3;
        let faults = [
            (!CLUSTER_BITS.contains(&self.cluster_bits), "clusters have 512 bytes to 2 MiB"),
            (self.refcount_order > 6, "refcounts have 1 to 64 bits"),
            (old && self.refcount_order != 4, "version 2 (compat=0.10) has refcounts of 16 bits only"),
            (old && self.lazy_refcounts, "version 2 (compat=0.10) has no lazy refcounts"),
            (old && self.compression != Compression::Zlib, "version 2 (compat=0.10) compresses by zlib only"),
            (old && self.extended_l2, "version 2 (compat=0.10) has no extended L2 entries"),
            (old && self.data_file.is_some(), "version 2 (compat=0.10) has no external data file"),
            (
                self.extended_l2 && self.cluster_bits < EXTENDED_L2_LEAST_BITS,
                "extended L2 entries need clusters of at least 16 KiB",
            ),
            (
                self.data_file.as_ref().is_some_and(|(_, raw)| *raw) && self.backing.is_some(),
                "a raw external data file and a backing file can't be had together",
            ),
            (
                self.preallocation != Preallocation::Off && self.backing.is_some() && !self.extended_l2,
                "preallocation would hide the backing file",
            ),
            (
                self.backing.as_ref().is_some_and(|(name, _)| name.len() > MOST_BACKING_NAME),
                "the backing file's name has more than 1023 bytes",
            ),
        ];
        faults.into_iter().find(|(is, _)| *is).map(|(_, what)| what.to_owned())
    }

    fn header(&self) -> Header {
        let mut header = Header {
            version: self.version,
            cluster_bits: self.cluster_bits,
            size: self.size.next_multiple_of(crate::SECTOR),
            l1_entries: 0,
            l1_offset: 0,
            refcount_table_offset: 0,
            refcount_table_clusters: 0,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: 0,
            compatible: if self.lazy_refcounts { LAZY_REFCOUNTS } else { 0 },
            autoclear: 0,
            refcount_order: self.refcount_order,
            compression: self.compression,
            backing: self.backing.as_ref().map(|(name, _)| name.clone()),
            backing_format: self.backing.as_ref().and_then(|(_, format)| format.clone()),
            data_file: self.data_file.as_ref().map(|(name, _)| name.clone()),
            bitmaps: None,
            unknown: Vec::new(),
            rest: Vec::new(),
            name_place: None,
        };
        if self.compression != Compression::Zlib {
            header.incompatible |= incompatible::COMPRESSION;
        }
        if self.extended_l2 {
            header.incompatible |= incompatible::EXTENDED_L2;
        }
        if let Some((_, raw)) = &self.data_file {
            header.incompatible |= incompatible::DATA_FILE;
            header.autoclear |= if *raw { autoclear::DATA_FILE_RAW } else { 0 };
        }
        header
    }
}

/// Writes a new image onto a storage, whose old contents are lost; `data` is that of its external data file.
///
/// Nothing is flushed.
///
/// # Errors
/// When it can't be as asked, or the host fails.
pub fn format(storage: Arc<dyn Storage>, data: Option<Arc<dyn Storage>>, new: &Create) -> Result<(), Error> {
    let name = storage.name().to_owned();
    if let Some(what) = new.fault() {
        return Err(Error::Unsupported { name, what });
    }
    let mut tables = Tables::format(storage.clone(), data.clone(), new.header())?;
    let failed = |source| Error::Io { name: name.clone(), operation: Operation::Write, offset: 0, source };
    if new.preallocation != Preallocation::Off {
        let size = tables.header.size;
        preallocate(&mut tables, &data.clone().unwrap_or_else(|| storage.clone()), new.preallocation, 0..size)?;
    }
    if let Some(data) = &data {
        data.set_len(tables.header.size).map_err(failed)?;
    }
    tables.commit()?;
    // A refcount table that has grown has left its first place.
    let gone = tables.take_gone();
    if !gone.is_empty() {
        tables.reclaim(gone)?;
        tables.commit()?;
    }
    let end = tables.file_end();
    if storage.len().map_err(failed)? < end {
        storage.set_len(end).map_err(failed)?;
    }
    Ok(())
}

/// Takes places for all clusters of a guest range that have none yet, and space as asked for. `target` is where guest data
/// lie.
///
/// # Errors
/// When the host fails.
pub(super) fn preallocate(
    tables: &mut Tables,
    target: &Arc<dyn Storage>,
    how: Preallocation,
    range: std::ops::Range<u64>,
) -> Result<(), Error> {
    let layout = tables.layout;
    let end = range.end.next_multiple_of(layout.cluster());
    let mut guest = range.start.next_multiple_of(layout.cluster());
    while guest < end {
        let most = layout.l2_reach() - guest % layout.l2_reach();
        let count = (end - guest).min(most) >> layout.cluster_bits;
        let len = count << layout.cluster_bits;
        let host = if layout.data_file { guest } else { tables.allocate(count)? };
        let fresh = layout.data_file || tables.take_fresh(host, len);
        for number in 0..count {
            let at = number << layout.cluster_bits;
            let mut entry = Entry::data(&layout, host + at);
            if layout.extended && (how == Preallocation::Metadata || tables.header.backing.is_some()) {
                // A place for each subcluster, and none of them allocated: what lies below shows.
                entry.bitmap = 0;
            }
            let old = tables.entry(guest + at)?;
            tables.set_entry(guest + at, entry)?;
            tables.release_entry(old);
        }
        let failed = tables.failed(Operation::Write, host);
        match how {
            Preallocation::Falloc if fresh && target.allocate(host, len).map_err(&failed)? => {}
            Preallocation::Falloc | Preallocation::Full => {
                write_zero_bytes(target.as_ref(), host, len).map_err(&failed)?;
            }
            // What was freed before has old contents.
            Preallocation::Metadata if !fresh => {
                storage::write_zeroes(target.as_ref(), host, len, true).map_err(&failed)?;
            }
            Preallocation::Off | Preallocation::Metadata => {}
        }
        tables.wrote();
        guest += len;
        if tables.is_crowded() {
            tables.commit()?;
        }
    }
    Ok(())
}

fn write_zero_bytes(target: &dyn Storage, offset: u64, len: u64) -> std::io::Result<()> {
    static ZEROES: [u8; 256 << 10] = [0; 256 << 10];
    let mut done = 0;
    while done < len {
        let part = ZEROES.get(..(len - done).min(ZEROES.len() as u64) as usize).unwrap_or(&ZEROES);
        storage::write(target, part, offset + done)?;
        done += part.len() as u64;
    }
    Ok(())
}
