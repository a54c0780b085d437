//! Persistent bitmaps (Bitmaps): kept as they are, or dropped when the disk's contents change.

use super::bits::*;
use super::bytes::{be16, be32, be64};
use super::header::Bitmaps;
use super::refcount::read_table;
use super::tables::Tables;
use crate::storage::{self, Storage};
use crate::{Error, Operation};

/// A bitmap's entry in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Place of its table.
    pub table_offset: u64,
    /// Entries of its table.
    pub table_entries: u32,
    /// 1: being written, not to be trusted; 2: kept up to date.
    pub flags: u32,
    /// What it tracks; 1, changes, is all that there is.
    pub kind: u8,
    /// Log2 of the bytes that a bit stands for.
    pub granularity_bits: u8,
    /// Its name.
    pub name: String,
}

impl Bitmap {
    /// Why the entry can't be right for a disk of `size` bytes, if it can't. Limits are QEMU's.
    pub fn fault(&self, cluster: u64, size: u64) -> Option<&'static str> {
        const IN_USE: u32 = 1;
        const KNOWN: u32 = 3;
        let bytes = u64::from(self.table_entries) * cluster;
        // Bits are kept in words of 64.
        let needed = size.div_ceil(64 << self.granularity_bits.min(31)).saturating_mul(8).div_ceil(cluster);
        let faults = [
            (self.table_entries == 0 || bytes > 512 << 20, "a table that can't be so long"),
            (
                self.table_offset == 0 || !self.table_offset.is_multiple_of(cluster),
                "a table that is at no cluster's start",
            ),
            (!(9..=31).contains(&self.granularity_bits), "bits for less than 512 bytes or more than 2 GiB"),
            (self.flags & !KNOWN != 0, "flags that nobody knows"),
            (self.kind != 1, "a type that nobody knows"),
            (self.name.is_empty() || self.name.len() > 1023, "no name, or one that is too long"),
            (self.flags & IN_USE == 0 && u64::from(self.table_entries) != needed, "a table that isn't for this disk"),
        ];
        faults.into_iter().find(|(is, _)| *is).map(|(_, what)| what)
    }
}

/// Decodes a bitmap directory.
///
/// # Errors
/// What is wrong with it.
pub fn decode_directory(bytes: &[u8], count: u32) -> Result<Vec<Bitmap>, String> {
    let mut at = 0;
    let mut all = Vec::new();
    for index in 0..count {
        let extra = be32(bytes, at + 20).unwrap_or(0) as usize;
        let name_len = usize::from(be16(bytes, at + 18).unwrap_or(0));
        let name_at = at + 24 + extra;
        let name = name_at.checked_add(name_len).and_then(|end| bytes.get(name_at..end));
        let Some(name) = name else { return Err(format!("bitmap {index} goes past the end of their directory")) };
        all.push(Bitmap {
            table_offset: be64(bytes, at).unwrap_or(0),
            table_entries: be32(bytes, at + 8).unwrap_or(0),
            flags: be32(bytes, at + 12).unwrap_or(0),
            kind: bytes.get(at + 16).copied().unwrap_or(0),
            granularity_bits: bytes.get(at + 17).copied().unwrap_or(0),
            name: String::from_utf8_lossy(name).into_owned(),
        });
        at = (name_at + name_len).next_multiple_of(8);
    }
    Ok(all)
}

/// Reads the bitmap directory.
///
/// # Errors
/// When it can't be read or is wrong.
pub fn read_directory(storage: &dyn Storage, bitmaps: &Bitmaps) -> Result<Vec<Bitmap>, Error> {
    let name = || storage.name().to_owned();
    let mut bytes = vec![0; bitmaps.directory_len as usize];
    storage::read(storage, &mut bytes, bitmaps.directory_offset).map_err(|source| Error::Io {
        name: name(),
        operation: Operation::Read,
        offset: bitmaps.directory_offset,
        source,
    })?;
    decode_directory(&bytes, bitmaps.count).map_err(|what| Error::Damaged { name: name(), what })
}

/// Tells `each` the entries of a bitmap's table, those without any bit left out.
///
/// # Errors
/// When its table can't be read.
pub fn entries(storage: &dyn Storage, bitmap: &Bitmap, each: &mut dyn FnMut(u64)) -> std::io::Result<()> {
    // A damaged table may have any length; behind the end of the file there is nothing in it.
    const AT_ONCE: u64 = 64 << 10;
    let there = storage.len()?.saturating_sub(bitmap.table_offset).div_ceil(8);
    let entries = u64::from(bitmap.table_entries).min(there);
    for first in (0..entries).step_by(AT_ONCE as usize) {
        let table = read_table(storage, bitmap.table_offset + first * 8, AT_ONCE.min(entries - first))?;
        table.into_iter().filter(|entry| *entry != 0).for_each(&mut *each);
    }
    Ok(())
}

/// Takes all bitmaps out of the header and lets go of their clusters. When they weren't to be trusted anyway, whatever
/// they refer to is left alone.
///
/// # Errors
/// When they can't be read.
pub fn drop_all(tables: &mut Tables, storage: &dyn Storage) -> Result<(), Error> {
    let trusted = tables.header.autoclear & autoclear::BITMAPS != 0;
    tables.header.autoclear &= !autoclear::BITMAPS;
    let Some(bitmaps) = tables.header.bitmaps.take() else { return Ok(()) };
    if !trusted {
        return Ok(());
    }
    let layout = tables.layout;
    for bitmap in read_directory(storage, &bitmaps)? {
        let failed = tables.failed(Operation::Read, bitmap.table_offset);
        let mut release = |entry: u64| tables.release(entry & OFFSET, u64::from(entry & OFFSET != 0));
        entries(storage, &bitmap, &mut release).map_err(failed)?;
        tables.release(bitmap.table_offset, layout.clusters(u64::from(bitmap.table_entries) * 8));
    }
    tables.release(bitmaps.directory_offset, layout.clusters(bitmaps.directory_len));
    Ok(())
}
