//! Refcounts and the allocation of clusters (Host cluster management).
//!
//! Nothing is written here: changed blocks and table entries stay in memory until [`super::tables`] writes them in their
//! order. A cluster becomes free in memory only after whatever referred to it is gone from the disk.

use std::collections::{BTreeSet, HashSet};
use std::io;

use super::bits::*;
use super::bytes::{be16, be32, be64};
use super::cache::Cache;
use super::layout::Layout;
use crate::storage::{self, Storage};

/// Bytes of refcount blocks that stay in memory.
const CACHED: usize = 1 << 20;
/// Bytes of a piece of a block.
const PIECE: usize = 16 << 10;

/// Refcount of entry `index` in a block's bytes. Refcount blocks: widths below a byte begin at the low bits.
pub fn get(bytes: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let per_byte = 8 >> order;
            let byte = bytes.get(index / per_byte).copied().unwrap_or(0);
            u64::from(byte >> (index % per_byte * (1 << order))) & ((1 << (1 << order)) - 1)
        }
        3 => bytes.get(index).copied().unwrap_or(0).into(),
        4 => be16(bytes, index * 2).unwrap_or(0).into(),
        5 => be32(bytes, index * 4).unwrap_or(0).into(),
        _ => be64(bytes, index * 8).unwrap_or(0),
    }
}

/// Sets a refcount, which must fit.
pub fn set(bytes: &mut [u8], order: u32, index: usize, value: u64) {
    if order <= 2 {
        let per_byte = 8 >> order;
        let shift = index % per_byte * (1 << order);
        let mask = ((1u32 << (1 << order)) - 1) << shift;
        if let Some(byte) = bytes.get_mut(index / per_byte) {
            *byte = (u32::from(*byte) & !mask | (value as u32) << shift & mask) as u8;
        }
        return;
    }
    let len = 1 << (order - 3);
    if let Some(place) = bytes.get_mut(index * len..(index + 1) * len) {
        place.copy_from_slice(value.to_be_bytes().get(8 - len..).unwrap_or_default());
    }
}

/// A run of clusters, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clusters {
    /// The first one.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// The refcount table, its blocks, and where free clusters are looked for.
pub struct Refcounts {
    layout: Layout,
    table: Vec<u64>,
    /// Where the table that the header names is.
    on_disk: Clusters,
    /// Indexes of changed entries.
    table_dirty: BTreeSet<usize>,
    /// The table has grown, and has no place yet.
    grown: bool,
    blocks: Cache,
    /// No cluster below it is free.
    hint: u64,
    /// First cluster behind all that the file has or will have: nothing of it lies there.
    end: u64,
    /// Clusters of the image's own structures, which a damaged image may call free; nothing until somebody asked.
    guard: Option<HashSet<u64>>,
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "its refcount table can't grow any more")
}

impl Refcounts {
    /// With the table as it is on the disk, at `offset`.
    pub fn new(layout: Layout, offset: u64, table: Vec<u64>) -> Self {
        let blocks = Cache::new(PIECE.min(layout.cluster() as usize), CACHED);
        let count = layout.clusters(table.len() as u64 * 8);
        let on_disk = Clusters { first: offset >> layout.cluster_bits, count };
        let (table_dirty, end, guard) = (BTreeSet::new(), u64::MAX, None);
        Self { layout, table, on_disk, table_dirty, grown: false, blocks, hint: 0, end, guard }
    }

    /// Those of a new image: cluster 0 is the header's, 1 the table's, 2 the first block's.
    pub fn format(layout: Layout) -> Self {
        let mut new = Self::new(layout, layout.cluster(), vec![0; layout.cluster() as usize / 8]);
        let unit = new.blocks.unit();
        let block = layout.cluster() * 2;
        for piece in (0..layout.cluster()).step_by(unit) {
            let mut bytes = vec![0; unit].into_boxed_slice();
            if piece == 0 {
                (0..3).for_each(|cluster| set(&mut bytes, layout.refcount_order, cluster, 1));
            }
            new.blocks.put(block + piece, bytes);
        }
        if let Some(entry) = new.table.first_mut() {
            *entry = block;
        }
        new.table_dirty.insert(0);
        // Nobody else has written any of this.
        new.guard = Some(HashSet::new());
        new
    }

    /// Place of the table in the file.
    pub fn table(&self) -> Clusters {
        self.on_disk
    }

    /// Offsets of refcount blocks, 0 where there is none.
    pub fn blocks(&self) -> &[u64] {
        &self.table
    }

    /// The file has `end` clusters: no block can lie behind them.
    pub fn end_at(&mut self, end: u64) {
        self.end = end;
    }

    /// Takes the clusters of the image's own structures in, its refcount blocks aside, unless they are known already.
    pub fn guard(&mut self, clusters: impl FnOnce() -> HashSet<u64>) {
        if self.guard.is_some() {
            return;
        }
        let mut all = clusters();
        let blocks = self.table.iter().map(|entry| entry & REFCOUNT_OFFSET).filter(|block| *block != 0);
        all.extend(blocks.map(|block| block >> self.layout.cluster_bits));
        all.extend(self.on_disk.first..self.on_disk.first + self.on_disk.count);
        self.guard = Some(all);
    }

    /// The image's structures are others now: they are to be asked for anew.
    pub fn forget_guard(&mut self) {
        self.guard = None;
    }

    /// A structure gives its clusters up.
    pub fn unguard(&mut self, gone: Clusters) {
        if let Some(guard) = &mut self.guard {
            (gone.first..gone.first + gone.count).for_each(|cluster| {
                guard.remove(&cluster);
            });
        }
    }

    /// The first of these clusters in which one of the image's own structures lies, as far as they were taken in.
    pub fn guarded(&self, run: Clusters) -> Option<u64> {
        let guard = self.guard.as_ref()?;
        (run.first..run.first + run.count).find(|cluster| guard.contains(cluster))
    }

    fn block_of(&self, cluster: u64) -> usize {
        (cluster >> self.layout.refcounts_bits()) as usize
    }

    // Piece of the block and index in it, if there is a block.
    fn place(&self, cluster: u64) -> io::Result<Option<(u64, usize)>> {
        let block = self.table.get(self.block_of(cluster)).copied().unwrap_or(0);
        if block & REFCOUNT_OFFSET == 0 {
            return Ok(None);
        }
        if self.layout.within(block & REFCOUNT_OFFSET) != 0 {
            let what = format!("it has a refcount block at {block:#x}, which is no cluster's start");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if block >> self.layout.cluster_bits >= self.end {
            let what = format!("it has a refcount block at {block:#x}, behind the end of its file");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let index = cluster & ((1 << self.layout.refcounts_bits()) - 1);
        let bit = index << self.layout.refcount_order;
        let unit_bits = self.blocks.unit() as u64 * 8;
        let piece = (block & REFCOUNT_OFFSET) + bit / unit_bits * self.blocks.unit() as u64;
        Ok(Some((piece, ((bit % unit_bits) >> self.layout.refcount_order) as usize)))
    }

    /// Refcount of a cluster; 0 where there is no block.
    ///
    /// # Errors
    /// When the block can't be read.
    pub fn get(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<u64> {
        let Some((piece, index)) = self.place(cluster)? else { return Ok(0) };
        Ok(get(self.blocks.get(storage, piece)?, self.layout.refcount_order, index))
    }

    // The block must be there.
    fn put(&mut self, storage: &dyn Storage, cluster: u64, value: u64) -> io::Result<()> {
        let Some((piece, index)) = self.place(cluster)? else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a cluster without a refcount block"));
        };
        set(self.blocks.get_mut(storage, piece)?, self.layout.refcount_order, index, value);
        Ok(())
    }

    /// Adds to (or takes from) a cluster's refcount. Returns what it is then.
    ///
    /// # Errors
    /// When it would be below zero or more than its width holds, or the block can't be read.
    pub fn change(&mut self, storage: &dyn Storage, cluster: u64, by: i64) -> io::Result<u64> {
        let old = self.get(storage, cluster)?;
        let new = old.checked_add_signed(by).filter(|new| *new <= self.layout.most_refcount()).ok_or_else(|| {
            let what = if by < 0 { "freed, but is free already" } else { "used more often than its refcount can tell" };
            let at = cluster << self.layout.cluster_bits;
            io::Error::new(io::ErrorKind::InvalidData, format!("the cluster at {at:#x} is {what}"))
        })?;
        self.put(storage, cluster, new)?;
        if new == 0 {
            self.hint = self.hint.min(cluster);
        }
        Ok(new)
    }

    /// No cluster below `cluster` is given out, whatever its refcount says.
    pub fn allocate_behind(&mut self, cluster: u64) {
        self.hint = self.hint.max(cluster);
    }

    /// Sets a cluster's refcount. A block that is missing is made.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate), and when the refcount can't be so great.
    pub fn assign(&mut self, storage: &dyn Storage, cluster: u64, value: u64) -> io::Result<()> {
        if value > self.layout.most_refcount() {
            let what = format!("a cluster with {value} references, more than its refcount can tell");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if self.place(cluster)?.is_none() {
            let hint = self.hint;
            let place = self.allocate(storage, 1)?.first;
            if self.place(cluster)?.is_none() {
                self.add_block(storage, self.block_of(cluster), place)?;
            } else {
                // Making room has made the block.
                self.change(storage, place, -1)?;
            }
            self.hint = self.hint.max(hint);
        }
        self.put(storage, cluster, value)
    }

    /// An empty table, whose clusters are all to be behind `cluster`.
    pub fn anew(layout: Layout, cluster: u64) -> Self {
        let mut new = Self::new(layout, 0, Vec::new());
        new.on_disk = Clusters { first: 0, count: 0 };
        new.hint = cluster;
        new
    }

    /// Takes `count` clusters in a row, each with refcount 1.
    ///
    /// # Errors
    /// When the file can't grow so far, or a block can't be read.
    pub fn allocate(&mut self, storage: &dyn Storage, count: u64) -> io::Result<Clusters> {
        loop {
            let first = self.find(storage, count)?;
            if first.checked_add(count).is_none_or(|end| end > MOST_OFFSET >> self.layout.cluster_bits) {
                return Err(too_large());
            }
            let mut blocks = self.block_of(first)..=self.block_of(first + count - 1);
            if let Some(missing) = blocks.find(|block| self.table.get(*block).is_none_or(|offset| *offset == 0)) {
                // The run's first cluster becomes the block, and the run is looked for anew behind it. It lies in the range
                // of a block that is there, or of the missing one, which then describes itself.
                self.add_block(storage, missing, first)?;
                continue;
            }
            self.fill(storage, first, count)?;
            self.end = self.end.max(first + count);
            if first == self.hint {
                self.hint += count;
            }
            return Ok(Clusters { first, count });
        }
    }

    /// Takes clusters at a place if all of them are free there. Says whether they were.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn allocate_at(&mut self, storage: &dyn Storage, wanted: Clusters) -> io::Result<bool> {
        for cluster in wanted.first..wanted.first + wanted.count {
            if self.get(storage, cluster)? != 0 {
                return Ok(false);
            }
        }
        let mut blocks = self.block_of(wanted.first)..=self.block_of(wanted.first + wanted.count - 1);
        if blocks.any(|block| self.table.get(block).is_none_or(|offset| *offset == 0)) {
            return Ok(false);
        }
        self.fill(storage, wanted.first, wanted.count)?;
        Ok(true)
    }

    fn fill(&mut self, storage: &dyn Storage, first: u64, count: u64) -> io::Result<()> {
        self.refuse_guarded(first, count)?;
        (first..first + count).try_for_each(|cluster| self.put(storage, cluster, 1))
    }

    fn refuse_guarded(&self, first: u64, count: u64) -> io::Result<()> {
        let Some(cluster) = self.guarded(Clusters { first, count }) else { return Ok(()) };
        let at = cluster << self.layout.cluster_bits;
        let what = format!("its refcounts call the cluster at {at:#x} free, where one of its own tables lies");
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    // First of `count` free clusters in a row.
    fn find(&mut self, storage: &dyn Storage, count: u64) -> io::Result<u64> {
        let mut first_free = None;
        let (mut at, mut run) = (self.hint, 0);
        while run < count {
            let in_piece = self.rest_of_piece(at).min(count.saturating_mul(2).max(64));
            let Some((piece, index)) = self.place(at)? else {
                // No block: all of its range is free.
                first_free = first_free.or(Some(at));
                let rest = (1 << self.layout.refcounts_bits()) - (at & ((1 << self.layout.refcounts_bits()) - 1));
                let step = rest.min(count - run);
                (at, run) = (at + step, run + step);
                continue;
            };
            let order = self.layout.refcount_order;
            let bytes = self.blocks.get(storage, piece)?;
            for step in 0..in_piece {
                if get(bytes, order, index + step as usize) == 0 {
                    first_free = first_free.or(Some(at + step));
                    run += 1;
                    if run == count {
                        at += step + 1;
                        break;
                    }
                } else {
                    run = 0;
                }
            }
            if run < count {
                at += in_piece;
            }
        }
        self.hint = first_free.unwrap_or(at);
        Ok(at - count)
    }

    // Clusters from this one to the end of its piece.
    fn rest_of_piece(&self, cluster: u64) -> u64 {
        let per_piece = ((self.blocks.unit() as u64 * 8) >> self.layout.refcount_order).max(1);
        per_piece - cluster % per_piece
    }

    // Makes block number `block` at the free cluster `place`.
    fn add_block(&mut self, storage: &dyn Storage, block: usize, place: u64) -> io::Result<()> {
        self.refuse_guarded(place, 1)?;
        if block >= self.table.len() {
            self.grow_table(block)?;
        }
        self.end = self.end.max(place + 1);
        let offset = place << self.layout.cluster_bits;
        let unit = self.blocks.unit() as u64;
        for piece in 0..self.layout.cluster() / unit {
            self.blocks.put(offset + piece * unit, vec![0; unit as usize].into_boxed_slice());
        }
        if let Some(entry) = self.table.get_mut(block) {
            *entry = offset;
        }
        self.table_dirty.insert(block);
        self.put(storage, place, 1)
    }

    // In memory only: the longer table gets its place when it is written.
    fn grow_table(&mut self, block: usize) -> io::Result<()> {
        let entries = (block as u64 + 1).max(self.table.len() as u64 * 3 / 2);
        let entries = entries.next_multiple_of(self.layout.cluster() / 8).min(MOST_REFCOUNT_TABLE / 8);
        if entries <= block as u64 {
            return Err(too_large());
        }
        self.table.resize(entries as usize, 0);
        self.grown = true;
        Ok(())
    }

    /// Whether any block is changed.
    pub fn is_dirty(&self) -> bool {
        self.blocks.is_dirty()
    }

    /// Whether the table needs a new place before it can be written.
    pub fn has_grown(&self) -> bool {
        self.grown
    }

    /// Whether any table entry is changed.
    pub fn is_table_dirty(&self) -> bool {
        self.grown || !self.table_dirty.is_empty()
    }

    /// Whether so many blocks are changed that they should be written.
    pub fn is_crowded(&self) -> bool {
        self.blocks.is_crowded()
    }

    /// Gives a table that has grown a new place, which the header has to name. Returns the old place, which is free from
    /// then on, or nothing when the table hasn't grown.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn place_table(&mut self, storage: &dyn Storage) -> io::Result<Option<Clusters>> {
        while self.grown {
            let len = self.table.len();
            let new = self.allocate(storage, self.layout.clusters(len as u64 * 8))?;
            // Finding room for it may have made it grow once more.
            if self.table.len() == len {
                self.grown = false;
                self.table_dirty.extend(0..len);
                return Ok(Some(std::mem::replace(&mut self.on_disk, new)));
            }
            for cluster in new.first..new.first + new.count {
                self.change(storage, cluster, -1)?;
            }
        }
        Ok(None)
    }

    /// Writes changed blocks.
    ///
    /// # Errors
    /// When the host fails.
    pub fn write_blocks(&mut self, storage: &dyn Storage) -> io::Result<()> {
        self.blocks.write(storage)
    }

    /// Writes changed table entries.
    ///
    /// # Errors
    /// When the host fails.
    pub fn write_table(&mut self, storage: &dyn Storage) -> io::Result<()> {
        let offset = self.on_disk.first << self.layout.cluster_bits;
        write_entries(storage, offset, &self.table, &mut self.table_dirty)
    }

    /// Forgets blocks in memory, which others have changed on the disk.
    pub fn forget(&mut self, offset: u64) {
        self.blocks.forget(offset, self.layout.cluster());
    }
}

/// Reads a table of 64-bit entries; what lies behind the end of the file is 0.
///
/// # Errors
/// When the host fails.
pub fn read_table(storage: &dyn Storage, offset: u64, entries: u64) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; entries as usize * 8];
    storage::read(storage, &mut bytes, offset)?;
    Ok(bytes.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_be_bytes)).collect())
}

/// Writes the changed entries of a table of 64-bit entries, whole sectors at a time.
///
/// # Errors
/// When the host fails; what wasn't written stays changed.
pub fn write_entries(storage: &dyn Storage, offset: u64, table: &[u64], dirty: &mut BTreeSet<usize>) -> io::Result<()> {
    // Entries of a sector, and of the longest single write.
    const SECTOR: usize = 64;
    const MOST: usize = 64 * SECTOR;
    while let Some(first) = dirty.first().map(|index| index / SECTOR * SECTOR) {
        let mut end = first;
        // Sectors in a row go together.
        while end < first + MOST && dirty.range(end..end + SECTOR).next().is_some() {
            end += SECTOR;
        }
        let end = end.min(table.len());
        let bytes: Vec<u8> =
            table.get(first..end).unwrap_or_default().iter().flat_map(|entry| entry.to_be_bytes()).collect();
        storage::write(storage, &bytes, offset + first as u64 * 8)?;
        let end = end.max(first + 1);
        while dirty.first().is_some_and(|index| *index < end) {
            dirty.pop_first();
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "refcount_tests.rs"]
mod tests;
