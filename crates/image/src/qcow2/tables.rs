//! The tables of an image in memory, and the order in which they reach the disk.
//!
//! | step | written | then |
//! |---|---|---|
//! | 1 | refcount blocks | barrier: guest data and refcounts are durable before anything refers to them |
//! | 2 | refcount table, and the header when the table has moved | barrier: blocks are found before clusters in them are |
//! | 3 | L2 tables | barrier when new ones have to be found |
//! | 4 | L1 table | |
//! | 5 | | barrier: what was written is durable |
//! | 6 | | what nothing on the disk refers to any more is free in memory; the next step 1 writes it |
//!
//! So a power loss leaves clusters with too high a refcount at worst (leaks), and a cluster is given out again only after
//! the write that freed it is durable.
//!
//! Lazy refcounts (compatible bit 0) allow refcounts to be late while the dirty bit is set. They are written in time in
//! such images, too: nothing has to be repaired after a power loss, and the bit is kept for whoever writes next.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::Arc;

use super::bits::*;
use super::cache::Cache;
use super::fault::{Fault, Faults};
use super::header::Header;
use super::layout::{Entry, Kind, Layout};
use super::refcount::{Clusters, Refcounts, read_table, write_entries};
use crate::storage::{self, Storage};
use crate::{Error, Operation, SECTOR};

/// Bytes of L2 tables that stay in memory.
const CACHED: usize = 4 << 20;
/// Bytes of a piece of an L2 table.
const PIECE: usize = 16 << 10;

/// Tables, refcounts and header of an open image.
pub struct Tables {
    /// Sizes.
    pub layout: Layout,
    /// The header as it is to be.
    pub header: Header,
    /// The active L1 table.
    pub l1: Vec<u64>,
    l1_dirty: BTreeSet<usize>,
    l2: Cache,
    /// Refcounts.
    pub refcounts: Refcounts,
    storage: Arc<dyn Storage>,
    data: Option<Arc<dyn Storage>>,
    header_dirty: bool,
    /// Bytes of L2 tables made since the last commit.
    made: u64,
    /// Clusters to be freed to which the disk still refers.
    dropped: Vec<Clusters>,
    /// Clusters to which nothing on the disk refers any more.
    gone: Vec<Clusters>,
    /// Next byte for compressed data, or 0.
    compressed_end: u64,
    /// First byte that was never part of the file.
    file_end: u64,
    /// Whether anything is waited for. Without, a power loss may leave anything.
    barriers: bool,
    /// Whether guest data or tables were written since the last barrier.
    unflushed: bool,
    /// L2 tables in whose clusters something else lies, by cluster: their flags are not to be changed.
    mixed: BTreeSet<u64>,
    /// Mistakes to be made.
    pub(super) faults: Faults,
}

impl Tables {
    /// Reads the L1 and refcount tables that `header` names.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn load(
        storage: Arc<dyn Storage>,
        data: Option<Arc<dyn Storage>>,
        header: Header,
        barriers: bool,
    ) -> Result<Self, Error> {
        let layout = Layout::of(&header);
        let failed = |offset: u64| {
            let name = storage.name().to_owned();
            move |source| Error::Io { name, operation: Operation::Read, offset, source }
        };
        let file_end = storage.len().map_err(failed(0))?;
        let l1 = read_table(storage.as_ref(), header.l1_offset, u64::from(header.l1_entries))
            .map_err(failed(header.l1_offset))?;
        let entries = u64::from(header.refcount_table_clusters) * layout.cluster() / 8;
        let table = read_table(storage.as_ref(), header.refcount_table_offset, entries)
            .map_err(failed(header.refcount_table_offset))?;
        let mut refcounts = Refcounts::new(layout, header.refcount_table_offset, table);
        refcounts.end_at(layout.clusters(file_end));
        Ok(Self {
            layout,
            l1,
            l1_dirty: BTreeSet::new(),
            l2: Cache::new(PIECE.min(layout.cluster() as usize), CACHED),
            refcounts,
            header,
            storage,
            data,
            header_dirty: false,
            made: 0,
            dropped: Vec::new(),
            gone: Vec::new(),
            compressed_end: 0,
            file_end: file_end.next_multiple_of(layout.cluster()),
            barriers,
            unflushed: false,
            mixed: BTreeSet::new(),
            faults: Faults::default(),
        })
    }

    /// Those of a new image: header, refcount table, its first block, and an L1 table for the header's size. Nothing is
    /// written yet.
    ///
    /// # Errors
    /// When the L1 table would be larger than any program reads, or the host fails.
    pub fn format(storage: Arc<dyn Storage>, data: Option<Arc<dyn Storage>>, header: Header) -> Result<Self, Error> {
        let layout = Layout::of(&header);
        let entries = header.l1_entries_for(header.size);
        if entries * 8 > MOST_L1 || header.size > i64::MAX as u64 {
            let what = format!("a disk of {} bytes needs larger clusters", header.size);
            return Err(Error::Unsupported { name: storage.name().into(), what });
        }
        let mut tables = Self {
            layout,
            l1: vec![0; entries as usize],
            l1_dirty: BTreeSet::new(),
            l2: Cache::new(PIECE.min(layout.cluster() as usize), CACHED),
            refcounts: Refcounts::format(layout),
            header,
            storage,
            data,
            header_dirty: true,
            made: 0,
            dropped: Vec::new(),
            gone: Vec::new(),
            compressed_end: 0,
            file_end: 3 << layout.cluster_bits,
            barriers: false,
            unflushed: false,
            mixed: BTreeSet::new(),
            faults: Faults::default(),
        };
        let table = tables.refcounts.table();
        tables.header.refcount_table_offset = table.first << layout.cluster_bits;
        tables.header.refcount_table_clusters = table.count as u32;
        tables.header.l1_entries = entries as u32;
        let clusters = layout.clusters(entries * 8);
        if clusters > 0 {
            tables.header.l1_offset = tables.allocate(clusters)?;
            tables.take_fresh(tables.header.l1_offset, clusters << layout.cluster_bits);
        }
        // A device has old contents everywhere. What is written of these tables is what isn't zero.
        let failed = tables.failed(Operation::Write, 0);
        let there = tables.storage.len().map_err(&failed)?;
        if there > 0 {
            storage::write_zeroes(tables.storage.as_ref(), 0, tables.file_end, false).map_err(&failed)?;
            tables.file_end = tables.file_end.max(there.next_multiple_of(layout.cluster()));
        }
        Ok(tables)
    }

    fn name(&self) -> String {
        self.storage.name().to_owned()
    }

    /// An error of the host, or of the image when it says so.
    pub fn failed(&self, operation: Operation, offset: u64) -> impl Fn(io::Error) -> Error + use<> {
        let name = self.name();
        move |source| match source.kind() {
            io::ErrorKind::InvalidData => Error::Damaged { name: name.clone(), what: source.to_string() },
            _ => Error::Io { name: name.clone(), operation, offset, source },
        }
    }

    /// An error about the image's contents.
    pub fn damaged<T>(&self, what: impl Into<String>) -> Result<T, Error> {
        Err(Error::Damaged { name: self.name(), what: what.into() })
    }

    // Piece of the L2 table and index in it.
    fn piece(&self, table: u64, guest: u64) -> (u64, usize) {
        let at = table + self.layout.l2_index(guest) * self.layout.entry_len();
        let piece = self.l2.floor(at);
        (piece, (at - piece) as usize)
    }

    /// Offset of the L2 table that maps `guest`, if there is one.
    ///
    /// # Errors
    /// When the L1 entry can't be right.
    pub fn l2_table(&self, guest: u64) -> Result<Option<u64>, Error> {
        let Some(entry) = self.l1.get(self.layout.l1_index(guest)).copied() else { return Ok(None) };
        let offset = entry & OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        if self.layout.within(offset) != 0 {
            return self.damaged(format!("its L1 table names an L2 table at {offset:#x}, which is no cluster's start"));
        }
        Ok(Some(offset))
    }

    /// The entry of the cluster that holds `guest`.
    ///
    /// # Errors
    /// When a table can't be read or the entry can't be right.
    pub fn entry(&mut self, guest: u64) -> Result<Entry, Error> {
        self.entries(guest, 1).map(|entries| entries.first().copied().unwrap_or_default())
    }

    /// Entries from that of `guest` on, as many as lie together in memory, at most `most`; at least one.
    ///
    /// # Errors
    /// As [`entry`](Self::entry).
    pub fn entries(&mut self, guest: u64, most: u64) -> Result<Vec<Entry>, Error> {
        let rest = (1 << self.layout.l2_bits) - self.layout.l2_index(guest);
        let Some(table) = self.l2_table(guest)? else {
            return Ok(vec![Entry::default(); rest.min(most).max(1) as usize]);
        };
        let (piece, at) = self.piece(table, guest);
        let failed = self.failed(Operation::Read, piece);
        let len = self.layout.entry_len() as usize;
        let bytes = self.l2.get(self.storage.as_ref(), piece).map_err(failed)?;
        let entries: Vec<Entry> = bytes
            .get(at..)
            .unwrap_or_default()
            .chunks_exact(len)
            .take(most.max(1) as usize)
            .map(Entry::decode)
            .collect();
        for (number, entry) in (0..).zip(&entries) {
            if let Some(fault) = entry.fault(&self.layout) {
                // The entries before it are right.
                if number > 0 {
                    return Ok(entries.get(..number as usize).unwrap_or_default().to_vec());
                }
                return self.damaged(format!("its L2 table at {table:#x} has {fault}"));
            }
        }
        Ok(entries)
    }

    /// Sets the entry of the cluster that holds `guest`. An L2 table that is missing or shared is made anew.
    ///
    /// # Errors
    /// When a table can't be read or the file can't grow.
    pub fn set_entry(&mut self, guest: u64, entry: Entry) -> Result<(), Error> {
        let table = self.own_l2_table(guest)?;
        let (piece, at) = self.piece(table, guest);
        let failed = self.failed(Operation::Read, piece);
        let bytes = self.l2.get_mut(self.storage.as_ref(), piece).map_err(failed)?;
        if let Some(place) = bytes.get_mut(at..at + 8) {
            place.copy_from_slice(&entry.descriptor.to_be_bytes());
        }
        if self.layout.extended
            && let Some(place) = bytes.get_mut(at + 8..at + 16)
        {
            place.copy_from_slice(&entry.bitmap.to_be_bytes());
        }
        Ok(())
    }

    /// The L2 table that maps `guest`, ours alone: one that is missing or shared is made anew.
    ///
    /// # Errors
    /// When a table can't be read or the file can't grow.
    pub fn own_l2_table(&mut self, guest: u64) -> Result<u64, Error> {
        let index = self.layout.l1_index(guest);
        let old = self.l2_table(guest)?;
        if let Some(old) = old {
            if old >= self.file_end {
                return self.damaged(format!("its L2 table at {old:#x} lies behind the end of its file"));
            }
            if self.l1.get(index).is_some_and(|entry| entry & COPIED != 0) {
                return Ok(old);
            }
        }
        if index >= self.l1.len() {
            return self.damaged(format!("its L1 table has no entry for offset {guest}"));
        }
        let new = self.allocate(1)?;
        self.take_fresh(new, self.layout.cluster());
        self.made += self.layout.cluster();
        let unit = self.l2.unit();
        for piece in (0..self.layout.cluster()).step_by(unit) {
            let bytes = match old {
                None => vec![0; unit].into_boxed_slice(),
                Some(old) => {
                    let failed = self.failed(Operation::Read, old + piece);
                    self.l2.get(self.storage.as_ref(), old + piece).map_err(failed)?.into()
                }
            };
            self.l2.put(new + piece, bytes);
        }
        if let Some(old) = old {
            self.release(old, 1);
        }
        self.set_l1(index, new | COPIED);
        Ok(new)
    }

    /// Begins with refcounts of nothing, whose table and blocks will lie from cluster `end` on, where nothing is yet. The
    /// old ones are left alone.
    pub fn rebuild_refcounts(&mut self, end: u64) {
        self.file_end = self.file_end.max(end << self.layout.cluster_bits);
        self.refcounts = Refcounts::anew(self.layout, end);
    }

    /// Sets a cluster's refcount.
    ///
    /// # Errors
    /// When the file can't grow, or the refcount can't be so great.
    pub fn assign(&mut self, cluster: u64, value: u64) -> Result<(), Error> {
        let failed = self.failed(Operation::Write, cluster << self.layout.cluster_bits);
        let storage = self.storage.clone();
        self.refcounts.allocate_behind(self.file_end >> self.layout.cluster_bits);
        self.refcounts.assign(storage.as_ref(), cluster, value).map_err(failed)
    }

    /// The flags in these L2 tables are not to be changed, because something else lies in their clusters.
    pub fn leave_alone(&mut self, mixed: BTreeSet<u64>) {
        self.mixed = mixed;
    }

    /// Sets or clears COPIED in every entry of the active tables, where it stands, as `is_copied` says of the cluster.
    /// Returns how many were wrong.
    ///
    /// # Errors
    /// When a table can't be read.
    pub fn mark_copied(
        &mut self,
        mut is_copied: impl FnMut(&mut Refcounts, u64) -> io::Result<bool>,
    ) -> Result<u64, Error> {
        let layout = self.layout;
        let storage = self.storage.clone();
        let mut wrong = 0;
        for index in 0..self.l1.len() {
            let entry = self.l1.get(index).copied().unwrap_or(0);
            let table = entry & OFFSET;
            if entry == COPIED {
                self.set_l1(index, 0);
                wrong += 1;
            }
            if table == 0 || layout.within(table) != 0 || table >= self.file_end {
                continue;
            }
            let failed = self.failed(Operation::Read, table);
            let flag = |copied: bool| if copied { COPIED } else { 0 };
            let new =
                entry & !COPIED | flag(is_copied(&mut self.refcounts, table >> layout.cluster_bits).map_err(&failed)?);
            if new != entry {
                self.set_l1(index, new);
                wrong += 1;
            }
        }
        for Named { table, .. } in l2_tables(&self.l1.clone()) {
            let elsewhere = layout.within(table) != 0 || table >= self.file_end;
            if elsewhere || self.mixed.contains(&(table >> layout.cluster_bits)) {
                continue;
            }
            let failed = self.failed(Operation::Read, table);
            let flag = |copied: bool| if copied { COPIED } else { 0 };
            for piece in (table..table + layout.cluster()).step_by(self.l2.unit()) {
                let bytes = self.l2.get(storage.as_ref(), piece).map_err(&failed)?;
                let mut changes = Vec::new();
                for (at, bytes) in
                    (0..).step_by(layout.entry_len() as usize).zip(bytes.chunks_exact(layout.entry_len() as usize))
                {
                    let entry = Entry::decode(bytes);
                    let (Kind::Standard { host } | Kind::Zero { host: Some(host) }) = entry.kind(&layout) else {
                        continue;
                    };
                    if layout.within(host) != 0 {
                        continue;
                    }
                    let copied = layout.data_file
                        || is_copied(&mut self.refcounts, host >> layout.cluster_bits).map_err(&failed)?;
                    let new = entry.descriptor & !COPIED | flag(copied);
                    if new != entry.descriptor {
                        changes.push((at, new));
                    }
                }
                wrong += changes.len() as u64;
                if !changes.is_empty() {
                    let bytes = self.l2.get_mut(storage.as_ref(), piece).map_err(&failed)?;
                    for (at, new) in changes {
                        if let Some(place) = bytes.get_mut(at..at + 8) {
                            place.copy_from_slice(&new.to_be_bytes());
                        }
                    }
                }
            }
            if self.is_crowded() {
                self.commit()?;
            }
        }
        Ok(wrong)
    }

    /// Adds `by` to the refcount of each cluster that a tree of tables refers to: L2 tables and data, as often as they
    /// are referred to.
    ///
    /// # Errors
    /// When a table can't be read, or a refcount would get out of its range. All refcounts are then as they were.
    pub fn count_tree(&mut self, l1: &[u64], by: i64) -> Result<(), Error> {
        if by < 0 {
            // The cluster with room for more compressed data may be free now.
            self.compressed_end = 0;
        }
        let mut done = 0;
        let outcome = self.count_some(l1, by, u64::MAX, &mut done);
        if outcome.is_err() {
            // What could be changed can be changed back.
            self.count_some(l1, -by, done, &mut 0)?;
        }
        outcome
    }

    // Changes the first `most` refcounts, and counts them.
    fn count_some(&mut self, l1: &[u64], by: i64, most: u64, done: &mut u64) -> Result<(), Error> {
        let layout = self.layout;
        let storage = self.storage.clone();
        let mut bytes = vec![0; layout.cluster() as usize];
        for Named { table, times, .. } in l2_tables(l1) {
            // Going through it over and over could take for ever.
            if times > 1 || table >= self.file_end || layout.within(table) != 0 {
                return self.damaged(format!("it has an L2 table at {table:#x}, which can't be one or is used twice"));
            }
            let failed = self.failed(Operation::Read, table);
            storage::read(storage.as_ref(), &mut bytes, table).map_err(&failed)?;
            let mut change = |host: u64, len: u64| {
                let last = (host + len - 1) >> layout.cluster_bits;
                (host >> layout.cluster_bits..=last)
                    .try_for_each(|cluster| {
                        if *done < most {
                            self.refcounts.change(storage.as_ref(), cluster, by)?;
                            *done += 1;
                        }
                        Ok(())
                    })
                    .map_err(&failed)
            };
            for entry in bytes.chunks_exact(layout.entry_len() as usize).map(Entry::decode) {
                match entry.kind(&layout) {
                    Kind::Compressed { host, len } => change(host, len)?,
                    Kind::Standard { host } | Kind::Zero { host: Some(host) } if !layout.data_file => {
                        change(host, layout.cluster())?;
                    }
                    _ => {}
                }
            }
            change(table, layout.cluster())?;
        }
        Ok(())
    }

    /// Writes an L1 table to clusters of its own, without a barrier. Returns its place.
    ///
    /// # Errors
    /// When the host fails.
    pub fn write_l1_elsewhere(&mut self, l1: &[u64]) -> Result<u64, Error> {
        let clusters = self.layout.clusters(l1.len() as u64 * 8);
        if clusters == 0 {
            return Ok(0);
        }
        let place = self.allocate(clusters)?;
        self.take_fresh(place, clusters << self.layout.cluster_bits);
        let mut bytes: Vec<u8> = l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        bytes.resize((clusters << self.layout.cluster_bits) as usize, 0);
        storage::write(self.storage.as_ref(), &bytes, place).map_err(self.failed(Operation::Write, place))?;
        self.unflushed = true;
        Ok(place)
    }

    /// Takes a new active L1 table, which lies at `place` already. The header names it at the next commit.
    pub fn switch_l1(&mut self, l1: Vec<u64>, place: u64) {
        self.l1_dirty.clear();
        self.refcounts.forget_guard();
        self.header.l1_offset = place;
        self.header.l1_entries = l1.len() as u32;
        self.l1 = l1;
        self.header_dirty = true;
    }

    /// Forgets all L2 tables in memory, which are none of the active ones any more. All of them must have been written.
    pub fn forget_l2(&mut self) {
        self.l2 = Cache::new(self.l2.unit(), CACHED);
    }

    /// Sets an entry of the active L1 table.
    pub fn set_l1(&mut self, index: usize, entry: u64) {
        if let Some(place) = self.l1.get_mut(index) {
            *place = entry;
            self.l1_dirty.insert(index);
        }
    }

    /// Takes `count` clusters in a row and returns where they begin.
    ///
    /// # Errors
    /// When the file can't grow.
    pub fn allocate(&mut self, count: u64) -> Result<u64, Error> {
        if self.faults.has(Fault::EarlyReuse) {
            let dropped = std::mem::take(&mut self.dropped);
            self.reclaim(dropped)?;
        }
        self.guard();
        let failed = self.failed(Operation::Write, self.file_end);
        let run = self.refcounts.allocate(self.storage.as_ref(), count).map_err(failed)?;
        Ok(run.first << self.layout.cluster_bits)
    }

    /// From now on no cluster is given out in which a table of this image lies, whatever its refcount says.
    pub fn guard(&mut self) {
        let (layout, header, l1) = (self.layout, &self.header, &self.l1);
        self.refcounts.guard(|| {
            let cluster = |offset: u64| offset >> layout.cluster_bits;
            let l2 = l1.iter().map(|entry| entry & OFFSET).filter(|table| *table != 0).map(cluster);
            let mut all: HashSet<u64> = l2.chain([0]).collect();
            let l1_end = header.l1_offset.saturating_add(u64::from(header.l1_entries) * 8);
            all.extend(cluster(header.l1_offset)..layout.clusters(l1_end));
            all.extend((header.snapshots > 0).then(|| cluster(header.snapshots_offset)));
            all
        });
    }

    /// Refuses to go on when the file ends before its tables do: they would be written far behind its end.
    ///
    /// # Errors
    /// When it does.
    pub fn refuse_lost_tables(&self) -> Result<(), Error> {
        let (header, table) = (&self.header, self.refcounts.table());
        let bits = self.layout.cluster_bits;
        let places = [
            ("L1 table", header.l1_offset, u64::from(header.l1_entries) * 8),
            ("refcount table", table.first << bits, table.count << bits),
        ];
        for (what, offset, len) in places {
            if len > 0 && offset.saturating_add(len) > self.file_end {
                return self.damaged(format!("its {what} at {offset:#x} lies behind the end of its file"));
            }
        }
        Ok(())
    }

    /// Refuses an entry that maps guest data onto one of the image's own tables, or behind the end of its file.
    ///
    /// # Errors
    /// When it does.
    pub fn refuse_metadata(&mut self, host: u64, len: u64) -> Result<(), Error> {
        self.guard();
        let layout = self.layout;
        let run = Clusters { first: host >> layout.cluster_bits, count: layout.clusters(layout.within(host) + len) };
        if let Some(cluster) = self.refcounts.guarded(run) {
            let at = cluster << layout.cluster_bits;
            return self.damaged(format!("it maps guest data to {host:#x}, onto its own tables at {at:#x}"));
        }
        if host.saturating_add(len) > self.file_end {
            let end = self.file_end;
            return self.damaged(format!("it maps guest data to {host:#x}, behind the end of its file at {end:#x}"));
        }
        Ok(())
    }

    /// Takes the clusters right at `offset` if they are free. Says whether they were.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn allocate_at(&mut self, offset: u64, count: u64) -> Result<bool, Error> {
        self.guard();
        let failed = self.failed(Operation::Read, offset);
        let run = Clusters { first: offset >> self.layout.cluster_bits, count };
        self.refcounts.allocate_at(self.storage.as_ref(), run).map_err(failed)
    }

    /// Whether the clusters were never part of the file, so that they read zeros; from now on they are.
    pub fn take_fresh(&mut self, offset: u64, len: u64) -> bool {
        let fresh = offset >= self.file_end;
        self.file_end = self.file_end.max((offset + len).next_multiple_of(self.layout.cluster()));
        fresh
    }

    /// First byte that was never part of the file.
    pub fn file_end(&self) -> u64 {
        self.file_end
    }

    /// Lets go of `count` clusters of a table at `offset`: once each, as soon as nothing on the disk refers to them.
    pub fn release(&mut self, offset: u64, count: u64) {
        if count > 0 {
            let run = Clusters { first: offset >> self.layout.cluster_bits, count };
            self.refcounts.unguard(run);
            self.dropped.push(run);
        }
    }

    /// Lets go of what an entry refers to.
    pub fn release_entry(&mut self, entry: Entry) {
        match entry.kind(&self.layout) {
            Kind::Unallocated | Kind::Zero { host: None } => {}
            Kind::Zero { host: Some(host) } | Kind::Standard { host } => {
                if !self.layout.data_file {
                    self.dropped.push(Clusters { first: host >> self.layout.cluster_bits, count: 1 });
                }
            }
            Kind::Compressed { host, len } => {
                let first = host >> self.layout.cluster_bits;
                let last = (host + len - 1) >> self.layout.cluster_bits;
                self.dropped.push(Clusters { first, count: last - first + 1 });
            }
        }
    }

    /// Gives clusters back that nothing has ever referred to.
    ///
    /// # Errors
    /// When a refcount block can't be read.
    pub fn give_back(&mut self, offset: u64, count: u64) -> Result<(), Error> {
        self.reclaim(vec![Clusters { first: offset >> self.layout.cluster_bits, count }]).map(drop)
    }

    /// Takes `len` bytes for compressed data, behind the last ones where there is room. Returns where they begin.
    ///
    /// # Errors
    /// When the file can't grow.
    pub fn allocate_bytes(&mut self, len: u64) -> Result<u64, Error> {
        let cluster = self.layout.cluster();
        let failed = self.failed(Operation::Write, self.file_end);
        let end = self.compressed_end;
        let mut start = end;
        let room = if end == 0 { 0 } else { end.next_multiple_of(cluster) - end };
        // One cluster can have only so many users.
        let shared = room > 0 && {
            let index = end >> self.layout.cluster_bits;
            let storage = self.storage.clone();
            let count = self.refcounts.get(storage.as_ref(), index).map_err(&failed)?;
            // 0 when its last user has let go of it meanwhile.
            count > 0 && count < self.layout.most_refcount()
        };
        if !shared || len > room {
            let new = self.allocate(1)?;
            // Data may run on into a cluster only when that is the next one.
            if !shared || new != end.next_multiple_of(cluster) {
                start = new;
            }
        }
        // What lies in the cluster that was there already is one more user of it.
        if shared && start == end {
            let storage = self.storage.clone();
            self.refcounts.change(storage.as_ref(), end >> self.layout.cluster_bits, 1).map_err(&failed)?;
        }
        self.compressed_end = start + len;
        if self.layout.within(self.compressed_end) == 0 {
            self.compressed_end = 0;
        }
        self.file_end = self.file_end.max((start + len).next_multiple_of(cluster));
        Ok(start)
    }

    /// Something was written that the next barrier has to cover.
    pub fn wrote(&mut self) {
        self.unflushed = true;
    }

    /// The header is to be written with the next commit.
    pub fn change_header(&mut self) {
        self.header_dirty = true;
    }

    /// Whether so much is changed that it should be written before more is.
    pub fn is_crowded(&self) -> bool {
        self.l2.is_crowded() || self.refcounts.is_crowded()
    }

    /// As [`is_crowded`](Self::is_crowded), by what was allocated alone: whoever allocates in the same order commits at the
    /// same moments, however far others are with their writes.
    pub fn is_due(&self) -> bool {
        self.made >= CACHED as u64 / 2 || self.refcounts.is_crowded()
    }

    /// Waits until everything written is durable.
    ///
    /// # Errors
    /// When the host fails.
    pub fn barrier(&mut self) -> Result<(), Error> {
        if self.barriers && self.unflushed {
            if let Some(data) = &self.data {
                data.flush().map_err(self.failed(Operation::Flush, 0))?;
            }
            self.storage.flush().map_err(self.failed(Operation::Flush, 0))?;
        }
        self.unflushed = false;
        Ok(())
    }

    /// Writes everything that is changed, in its order. What was let go before is then among what
    /// [`take_gone`](Self::take_gone) gives.
    ///
    /// # Errors
    /// When the host fails. What was not written stays changed.
    pub fn commit(&mut self) -> Result<(), Error> {
        self.made = 0;
        let storage = self.storage.clone();
        let failed = self.failed(Operation::Write, 0);
        if let Some(old) = self.refcounts.place_table(storage.as_ref()).map_err(&failed)? {
            let table = self.refcounts.table();
            self.header.refcount_table_offset = table.first << self.layout.cluster_bits;
            self.header.refcount_table_clusters = table.count as u32;
            self.take_fresh(self.header.refcount_table_offset, table.count << self.layout.cluster_bits);
            self.refcounts.unguard(old);
            self.dropped.push(old);
            self.header_dirty = true;
        }
        if self.faults.has(Fault::L2BeforeRefcounts) {
            self.l2.write(storage.as_ref()).map_err(&failed)?;
            self.unflushed = true;
            self.barrier()?;
        }
        let changes = self.l2.is_dirty() || !self.l1_dirty.is_empty() || self.header_dirty;
        if self.refcounts.is_dirty() {
            self.refcounts.write_blocks(storage.as_ref()).map_err(&failed)?;
            self.unflushed = true;
        }
        if changes || self.refcounts.is_table_dirty() {
            self.barrier()?;
        }
        if self.refcounts.is_table_dirty() {
            self.refcounts.write_table(storage.as_ref()).map_err(&failed)?;
            self.unflushed = true;
            self.barrier()?;
        }
        self.write_header()?;
        if self.l2.is_dirty() {
            self.l2.write(storage.as_ref()).map_err(&failed)?;
            self.unflushed = true;
            if !self.l1_dirty.is_empty() {
                self.barrier()?;
            }
        }
        if !self.l1_dirty.is_empty() {
            write_entries(storage.as_ref(), self.header.l1_offset, &self.l1, &mut self.l1_dirty).map_err(&failed)?;
            self.unflushed = true;
        }
        self.barrier()?;
        self.gone.append(&mut self.dropped);
        Ok(())
    }

    /// Writes everything that is changed but the header, in any order; only new refcount blocks are there before the table
    /// names them. Only right when a power loss among these writes does no harm: because the dirty bit is set, or because
    /// all of them are refcounts.
    ///
    /// # Errors
    /// When the host fails. What was not written stays changed.
    pub fn spill(&mut self) -> Result<(), Error> {
        let storage = self.storage.clone();
        let failed = self.failed(Operation::Write, 0);
        let before = self.unflushed;
        self.unflushed |= self.refcounts.is_dirty() || self.l2.is_dirty() || !self.l1_dirty.is_empty();
        self.refcounts.write_blocks(storage.as_ref()).map_err(&failed)?;
        self.l2.write(storage.as_ref()).map_err(&failed)?;
        write_entries(storage.as_ref(), self.header.l1_offset, &self.l1, &mut self.l1_dirty).map_err(&failed)?;
        if self.refcounts.is_table_dirty() && !self.refcounts.has_grown() {
            self.barrier()?;
            self.refcounts.write_table(storage.as_ref()).map_err(&failed)?;
            self.unflushed = true;
        }
        debug_assert!(self.unflushed || !before);
        Ok(())
    }

    /// Clusters to which nothing on the disk refers any more. They go to [`reclaim`](Self::reclaim) when nobody reads
    /// them any more.
    pub fn take_gone(&mut self) -> Vec<Clusters> {
        std::mem::take(&mut self.gone)
    }

    /// Writes the header if it is changed: what lies behind its first sector first. Then it is durable.
    ///
    /// # Errors
    /// When the host fails or it doesn't fit.
    pub fn write_header(&mut self) -> Result<(), Error> {
        if !self.header_dirty {
            return Ok(());
        }
        let bytes = match self.header.encode() {
            Ok(bytes) => bytes,
            Err(error) => return Err(Error::Unsupported { name: self.name(), what: error.to_string() }),
        };
        let failed = self.failed(Operation::Write, 0);
        let (first, rest) = bytes.split_at(bytes.len().min(SECTOR as usize));
        if !rest.is_empty() {
            storage::write(self.storage.as_ref(), rest, SECTOR).map_err(&failed)?;
            self.unflushed = true;
            self.barrier()?;
        }
        // The whole sector, so that nothing of an old header stays behind a shorter one.
        let mut sector = first.to_vec();
        sector.resize(SECTOR as usize, 0);
        storage::write(self.storage.as_ref(), &sector, 0).map_err(&failed)?;
        self.unflushed = true;
        self.barrier()?;
        let name = self.header.backing.clone();
        let at = bytes.get(8..16).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes) as usize;
        self.header.name_place = name.map(|name| (at, name));
        self.header_dirty = false;
        Ok(())
    }

    /// Counts the users of clusters down. Returns those that are free now.
    ///
    /// # Errors
    /// When a refcount block can't be read, or a cluster is free already.
    pub fn reclaim(&mut self, gone: Vec<Clusters>) -> Result<Vec<Clusters>, Error> {
        let storage = self.storage.clone();
        let mut free: Vec<Clusters> = Vec::new();
        for run in gone {
            for cluster in run.first..run.first + run.count {
                let failed = self.failed(Operation::Write, cluster << self.layout.cluster_bits);
                if self.refcounts.change(storage.as_ref(), cluster, -1).map_err(failed)? > 0 {
                    continue;
                }
                let offset = cluster << self.layout.cluster_bits;
                self.l2.forget(offset, self.layout.cluster());
                if self.compressed_end != 0 && self.layout.floor(self.compressed_end) == offset {
                    self.compressed_end = 0;
                }
                match free.last_mut().filter(|last| last.first + last.count == cluster) {
                    Some(last) => last.count += 1,
                    None => free.push(Clusters { first: cluster, count: 1 }),
                }
            }
        }
        Ok(free)
    }
}

/// An L2 table that an L1 table names.
pub struct Named {
    /// Its place.
    pub table: u64,
    /// The entry that names it first.
    pub index: u32,
    /// How many entries do. Only in a damaged image it is more than one.
    pub times: u32,
}

/// The L2 tables that an L1 table names, each once, so that a damaged one takes no longer to go through than another.
/// They come in the order of the entries, or in that of their places when any is named twice.
pub fn l2_tables(l1: &[u64]) -> Vec<Named> {
    let named = (0..).zip(l1).map(|(index, entry)| Named { table: entry & OFFSET, index, times: 1 });
    let mut all: Vec<Named> = named.filter(|named| named.table != 0).collect();
    if all.is_sorted_by(|one, next| one.table < next.table) {
        return all;
    }
    let count = all.len();
    all.sort_unstable_by_key(|named| (named.table, named.index));
    all.dedup_by(|next, one| {
        one.times += u32::from(next.table == one.table);
        next.table == one.table
    });
    if all.len() == count {
        all.sort_unstable_by_key(|named| named.index);
    }
    all
}
