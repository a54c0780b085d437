//! Goes through everything in an image that refers to clusters.

use super::super::bitmaps;
use super::super::bits::*;
use super::super::layout::{ALL_ALLOCATED, Entry, Kind};
use super::super::refcount::read_table;
use super::super::snapshots;
use super::super::tables::{Named, l2_tables};
use super::{Blocks, Check, Counters, Use};
use crate::Error;
use crate::storage;
use crate::zeros::is_zero;

/// One walk, which counts references.
pub(super) struct Walk<'a, 'b> {
    check: &'a mut Check<'b>,
    counters: Counters,
    /// Where the next data cluster would lie if the disk weren't fragmented.
    next: u64,
    /// How often what is counted is referred to.
    times: u32,
}

impl<'a, 'b> Walk<'a, 'b> {
    pub fn new(check: &'a mut Check<'b>, counters: Counters) -> Self {
        Self { check, counters, next: 0, times: 1 }
    }

    pub fn run(mut self) -> Result<Counters, Error> {
        let layout = self.check.layout;
        let header = self.check.header;
        self.count(Use::Table, "header", 0, layout.cluster());
        let l1_len = u64::from(header.l1_entries) * 8;
        self.count(Use::Table, "L1 table", header.l1_offset, l1_len);
        self.l1("L1 table", header.l1_offset, u64::from(header.l1_entries), true)?;
        self.snapshots()?;
        self.refcount_table()?;
        if header.autoclear & autoclear::BITMAPS != 0 {
            self.bitmaps()?;
        }
        Ok(self.counters)
    }

    // As many more references to each cluster of a range.
    fn count(&mut self, used: Use, what: &str, offset: u64, len: u64) {
        let layout = self.check.layout;
        if len == 0 {
            return;
        }
        let end = offset.saturating_add(len);
        if end.saturating_sub(self.check.file_len) >= layout.cluster() {
            let file_len = self.check.file_len;
            self.counters.miss(offset >> layout.cluster_bits, (end - 1) >> layout.cluster_bits);
            self.check.reference(format!(
                "{what} at {offset:#x} of {len} bytes lies behind the end of the file at {file_len:#x}"
            ));
            return;
        }
        for cluster in offset >> layout.cluster_bits..=(end - 1) >> layout.cluster_bits {
            self.counters.add(cluster, used, self.times);
        }
    }

    fn l1(&mut self, what: &str, offset: u64, entries: u64, is_active: bool) -> Result<(), Error> {
        let layout = self.check.layout;
        let table = read_table(self.check.storage, offset, entries).map_err(self.check.failed(offset))?;
        let mut bytes = vec![0; layout.cluster() as usize];
        for (index, entry) in table.iter().enumerate() {
            if entry & L1_RESERVED != 0 {
                self.check.reference(format!("entry {index} of the {what} has reserved bits set ({entry:#018x})"));
            } else if *entry == COPIED {
                let told = format!("entry {index} of the {what} is marked as not shared, and names no table");
                // Nobody writes to the tables of a snapshot.
                if is_active { self.check.corruption(told) } else { self.check.reference(told) }
            }
        }
        for Named { table: l2, index, times } in l2_tables(&table) {
            if layout.within(l2) != 0 {
                self.check.reference(format!("entry {index} of the {what} is {l2:#x}, which is no cluster's start"));
                continue;
            }
            self.times = times;
            self.count(Use::L2, "L2 table", l2, layout.cluster());
            if l2 < self.check.file_len {
                storage::read(self.check.storage, &mut bytes, l2).map_err(self.check.failed(l2))?;
                used(&bytes, layout.entry_len())
                    .for_each(|(number, entry)| self.l2_entry(l2, number, entry, is_active));
            }
            self.times = 1;
        }
        Ok(())
    }

    fn l2_entry(&mut self, table: u64, number: usize, entry: Entry, is_active: bool) {
        let layout = self.check.layout;
        let tell = |walk: &mut Self, what: &str| {
            let bits = entry.descriptor;
            walk.check.reference(format!("entry {number} of the L2 table at {table:#x} {what} ({bits:#018x})"));
        };
        match entry.kind(&layout) {
            Kind::Compressed { host, len } => {
                if entry.is_copied() {
                    tell(self, "is compressed and marked as not shared");
                }
                if layout.data_file {
                    return tell(self, "is compressed, beside an external data file");
                }
                if layout.extended && entry.bitmap != 0 {
                    return tell(self, "is compressed and has subclusters");
                }
                self.count(Use::Data, "compressed data", host, len);
                if is_active {
                    self.check.report.allocated_clusters += 1;
                    self.check.report.compressed_clusters += 1;
                    // They lie anywhere.
                    self.check.report.fragmented_clusters += 1;
                }
                return;
            }
            _ if entry.descriptor & L2_RESERVED != 0 || (layout.extended && entry.descriptor & ZERO != 0) => {
                tell(self, "has reserved bits set");
            }
            _ => {}
        }
        let host = match entry.kind(&layout) {
            Kind::Standard { host } | Kind::Zero { host: Some(host) } => host,
            _ => {
                if layout.extended && entry.bitmap & ALL_ALLOCATED != 0 {
                    tell(self, "has allocated subclusters and no cluster");
                }
                return;
            }
        };
        if layout.extended && entry.bitmap & entry.bitmap >> 32 & ALL_ALLOCATED != 0 {
            return tell(self, "has subclusters that are allocated and zeros at once");
        }
        if layout.within(host) != 0 {
            return tell(self, "is no cluster's start");
        }
        if is_active {
            self.check.report.allocated_clusters += 1;
            if self.next != 0 && host != self.next {
                self.check.report.fragmented_clusters += 1;
            }
            self.next = host + layout.cluster();
        }
        if !layout.data_file {
            self.count(Use::Data, "data", host, layout.cluster());
        }
    }

    fn snapshots(&mut self) -> Result<(), Error> {
        let header = self.check.header;
        if header.snapshots == 0 {
            return Ok(());
        }
        let (all, len) = match snapshots::read(self.check.storage, header) {
            Ok(found) => found,
            Err(Error::Damaged { what, .. }) => {
                self.check.reference(what);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for snapshot in all {
            let (offset, entries) = (snapshot.l1_offset, u64::from(snapshot.l1_entries));
            let what = format!("L1 table of snapshot {}", in_short(&snapshot.name));
            if self.check.layout.within(offset) != 0 {
                self.check.reference(format!("the {what} is at {offset:#x}, which is no cluster's start"));
                continue;
            }
            if entries * 8 > MOST_L1 {
                self.check.reference(format!("the {what} has {entries} entries"));
                continue;
            }
            self.count(Use::Table, &what, offset, entries * 8);
            // That it isn't there has just been told.
            if offset >= self.check.file_len {
                continue;
            }
            self.l1(&what, offset, entries, false)?;
        }
        self.count(Use::Table, "snapshot table", header.snapshots_offset, len);
        Ok(())
    }

    fn refcount_table(&mut self) -> Result<(), Error> {
        let (layout, header) = (self.check.layout, self.check.header);
        let len = u64::from(header.refcount_table_clusters) << layout.cluster_bits;
        let at = header.refcount_table_offset;
        self.count(Use::Table, "refcount table", at, len);
        let table = read_table(self.check.storage, at, len / 8).map_err(self.check.failed(at))?;
        let clusters = layout.clusters(self.check.file_len);
        for (number, entry) in table.into_iter().enumerate() {
            let offset = entry & REFCOUNT_OFFSET;
            if entry & !REFCOUNT_OFFSET != 0 {
                self.check.report.must_rebuild = true;
                self.check.corruption(format!("refcount table entry {number} has reserved bits set ({entry:#x})"));
            }
            if offset == 0 {
                continue;
            }
            if layout.within(offset) != 0 {
                self.check.report.must_rebuild = true;
                self.check
                    .corruption(format!("refcount block {number} is at {offset:#x}, which is no cluster's start"));
                continue;
            }
            if offset >> layout.cluster_bits >= clusters {
                self.check.report.must_rebuild = true;
                self.check
                    .corruption(format!("refcount block {number} at {offset:#x} lies behind the end of the file"));
                continue;
            }
            self.count(Use::Table, "refcount block", offset, layout.cluster());
            let references = self.counters.get(offset >> layout.cluster_bits);
            if references > 1 {
                self.check.report.must_rebuild = true;
                self.check.corruption(format!("refcount block {number} at {offset:#x} is used by {references}"));
            }
        }
        Ok(())
    }

    fn bitmaps(&mut self) -> Result<(), Error> {
        let Some(all) = self.check.header.bitmaps else { return Ok(()) };
        self.count(Use::Table, "bitmap directory", all.directory_offset, all.directory_len);
        let found = match bitmaps::read_directory(self.check.storage, &all) {
            Ok(found) => found,
            Err(Error::Damaged { what, .. }) => {
                self.check.reference(what);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (cluster, size) = (self.check.layout.cluster(), self.check.header.size);
        if let Some((bitmap, what)) = found.iter().find_map(|one| Some((one, one.fault(cluster, size)?))) {
            self.check.reference(format!("bitmap {:?} has {what}", bitmap.name));
            return Ok(());
        }
        for bitmap in found {
            let (offset, len) = (bitmap.table_offset, u64::from(bitmap.table_entries) * 8);
            self.count(Use::Table, "bitmap table", offset, len);
            if offset >= self.check.file_len {
                continue;
            }
            let (storage, cluster) = (self.check.storage, self.check.layout.cluster());
            let mut count = |entry: u64| {
                let (data, all_ones) = (entry & OFFSET, entry & 1 != 0);
                if entry & BITMAP_RESERVED != 0 || data & (cluster - 1) != 0 || (data != 0 && all_ones) {
                    self.check.reference(format!("bitmap {:?} has the table entry {entry:#018x}", bitmap.name));
                } else if data != 0 {
                    self.count(Use::Table, "bitmap data", data, cluster);
                }
            };
            let read = bitmaps::entries(storage, &bitmap, &mut count);
            read.map_err(self.check.failed(offset))?;
        }
        Ok(())
    }
}

/// Whether each reference of the active tables says truly whether its cluster has refcount 1.
pub(super) fn copied_flags(check: &mut Check<'_>, blocks: &mut Blocks) -> Result<(), Error> {
    let (layout, header) = (check.layout, check.header);
    let l1 = read_table(check.storage, header.l1_offset, u64::from(header.l1_entries))
        .map_err(check.failed(header.l1_offset))?;
    let mut bytes = vec![0; layout.cluster() as usize];
    for l1_entry in &l1 {
        let l2 = l1_entry & OFFSET;
        if l2 == 0 || layout.within(l2) != 0 || l2 >= check.file_len {
            continue;
        }
        let refcount = blocks.get(check, l2 >> layout.cluster_bits)?;
        if (refcount == 1) != (l1_entry & COPIED != 0) {
            check.corruption(format!(
                "the L2 table at {l2:#x} has refcount {refcount}, its L1 entry is {l1_entry:#018x}"
            ));
        }
    }
    for Named { table: l2, .. } in l2_tables(&l1) {
        let elsewhere = layout.within(l2) != 0 || l2 >= check.file_len;
        if elsewhere || check.mixed.contains(&(l2 >> layout.cluster_bits)) {
            continue;
        }
        storage::read(check.storage, &mut bytes, l2).map_err(check.failed(l2))?;
        for (_, entry) in used(&bytes, layout.entry_len()) {
            let (Kind::Standard { host } | Kind::Zero { host: Some(host) }) = entry.kind(&layout) else { continue };
            if layout.within(host) != 0 {
                continue;
            }
            let refcount = if layout.data_file { 1 } else { blocks.get(check, host >> layout.cluster_bits)? };
            if (refcount == 1) != entry.is_copied() {
                let bits = entry.descriptor;
                check.corruption(format!(
                    "the cluster at {host:#x} has refcount {refcount}, its L2 entry is {bits:#018x}"
                ));
            }
        }
    }
    Ok(())
}

// The entries of an L2 table with their numbers, but for those in runs of zeros: they have nothing to tell, and most of a
// table is made of them.
fn used(table: &[u8], entry: u64) -> impl Iterator<Item = (usize, Entry)> {
    /// Bytes looked at together: a whole number of entries, and of them in the smallest table.
    const RUN: usize = 512;
    let entry = entry as usize;
    let runs = table.chunks(RUN).enumerate().filter(|(_, run)| !is_zero(run));
    runs.flat_map(move |(number, run)| {
        let first = number * RUN / entry;
        run.chunks_exact(entry).enumerate().map(move |(index, bytes)| (first + index, Entry::decode(bytes)))
    })
}

// A damaged image's names may have 64 KiB, and stand in as many messages as it has tables.
fn in_short(name: &str) -> String {
    const MOST: usize = 64;
    match name.char_indices().nth(MOST) {
        None => format!("{name:?}"),
        Some((end, _)) => format!("{:?}…", name.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::in_short;

    #[test]
    fn a_long_name_is_told_by_its_beginning() {
        assert_eq!(in_short("one"), "\"one\"");
        assert_eq!(in_short(&"\u{e9}".repeat(70_000)), format!("{:?}…", "\u{e9}".repeat(64)));
    }
}
