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
    /// Log2 of the bytes that a bit stands for.
    pub granularity_bits: u8,
    /// Its name.
    pub name: String,
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

/// Clusters that hold a bitmap's bits.
///
/// # Errors
/// When its table can't be read.
pub fn data_clusters(storage: &dyn Storage, bitmap: &Bitmap) -> std::io::Result<Vec<u64>> {
    let table = read_table(storage, bitmap.table_offset, u64::from(bitmap.table_entries))?;
    Ok(table.into_iter().map(|entry| entry & OFFSET).filter(|offset| *offset != 0).collect())
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
        for cluster in data_clusters(storage, &bitmap).map_err(failed)? {
            tables.release(cluster, 1);
        }
        tables.release(bitmap.table_offset, layout.clusters(u64::from(bitmap.table_entries) * 8));
    }
    tables.release(bitmaps.directory_offset, layout.clusters(bitmaps.directory_len));
    Ok(())
}
