//! What changes more than single clusters: snapshots and the disk's length.
//!
//! Snapshots move refcounts from 1 to 2 and back, and with them the COPIED flags in many tables at once. In version 3 the
//! dirty bit is set from the first to the last of these writes, so that a power loss between them is repaired when the
//! image is opened. Version 2 has no such bit: there the order sees to it that a flag may be missing, but is never set
//! wrongly.

use super::bits::*;
use super::create::{self, Preallocation};
use super::fault::Fault;
use super::image::Qcow2;
use super::layout::Layout;
use super::refcount::read_table;
use super::snapshots::{self, Snapshot};
use super::tables::Tables;
use crate::storage;
use crate::{BlockDevice, Error, Operation};

fn set_dirty(tables: &mut Tables, dirty: bool) {
    if tables.layout.version < 3 {
        return;
    }
    let old = tables.header.incompatible;
    tables.header.incompatible = if dirty { old | incompatible::DIRTY } else { old & !incompatible::DIRTY };
    if tables.header.incompatible != old {
        tables.change_header();
    }
}

fn name_snapshots(tables: &mut Tables, count: usize, place: u64) {
    tables.header.snapshots = count as u32;
    tables.header.snapshots_offset = place;
    tables.change_header();
}

impl Qcow2 {
    /// All snapshots, as they stand in the table.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, Error> {
        let header = self.tables.lock().header.clone();
        if header.snapshots == 0 {
            return Ok(Vec::new());
        }
        snapshots::read(self.storage.as_ref(), &header).map(|(all, _)| all)
    }

    fn refuse_unless_snapshots(&self) -> Result<(), Error> {
        let unsupported = |what: &str| Err(Error::Unsupported { name: self.name(), what: what.into() });
        if self.layout.data_file {
            return unsupported("it has an external data file, which snapshots would not cover");
        }
        if self.layout.refcount_order == 0 {
            return unsupported("its refcounts have 1 bit, so that nothing can be shared with a snapshot");
        }
        if self.is_read_only() {
            return Err(Error::ReadOnly { name: self.name(), operation: Operation::Write });
        }
        Ok(())
    }

    // Writes a snapshot table to clusters of its own and lets the header name it; the old one is let go.
    fn write_snapshots(&self, tables: &mut Tables, all: &[Snapshot]) -> Result<(), Error> {
        let layout = tables.layout;
        let old = (tables.header.snapshots > 0)
            .then(|| snapshots::read(self.storage.as_ref(), &tables.header))
            .transpose()?
            .map(|(_, len)| (tables.header.snapshots_offset, layout.clusters(len)));
        let mut bytes = Vec::new();
        all.iter().for_each(|snapshot| snapshot.encode(&mut bytes));
        if bytes.len() as u64 > MOST_SNAPSHOT_TABLE || all.len() > MOST_SNAPSHOTS as usize {
            let what = format!("it would have {} snapshots, more than fit into its table", all.len());
            return Err(Error::Unsupported { name: self.name(), what });
        }
        let mut place = 0;
        if !bytes.is_empty() {
            let clusters = layout.clusters(bytes.len() as u64);
            place = tables.allocate(clusters)?;
            tables.take_fresh(place, clusters << layout.cluster_bits);
            bytes.resize((clusters << layout.cluster_bits) as usize, 0);
            if tables.faults.has(Fault::HeaderBeforeSnapshotTable) {
                name_snapshots(tables, all.len(), place);
                tables.commit()?;
            }
            storage::write(self.storage.as_ref(), &bytes, place).map_err(self.failed(Operation::Write, place))?;
            tables.wrote();
        }
        name_snapshots(tables, all.len(), place);
        if let Some((offset, clusters)) = old {
            tables.release(offset, clusters);
        }
        Ok(())
    }

    // Does what must not end half-way. If it does, memory and disk tell different things, and nothing is written any more.
    fn whole<T>(&self, change: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let outcome = change();
        if outcome.is_err() {
            self.stuck.store(true, std::sync::atomic::Ordering::Release);
        }
        outcome
    }

    // Commits and frees at once: nobody else is there.
    fn settle_alone(&self, tables: &mut Tables) -> Result<(), Error> {
        tables.commit()?;
        let gone = tables.take_gone();
        self.codec.forget();
        tables.reclaim(gone).map(drop)
    }

    /// Makes a snapshot of the disk as it is now. `seconds` and `nanoseconds` are the time since 1970. Returns its id.
    ///
    /// # Errors
    /// When the image can't have snapshots, or the host fails.
    pub fn create_snapshot(&self, name: &str, seconds: u32, nanoseconds: u32) -> Result<String, Error> {
        self.refuse_unless_snapshots()?;
        self.begin()?;
        let _alone = self.requests.write();
        let mut tables = self.tables.lock();
        let all = self.listed(&tables)?;
        let last = all.iter().filter_map(|snapshot| snapshot.id.parse::<u64>().ok()).max().unwrap_or(0);
        let Some(id) = last.checked_add(1) else {
            let what = format!("it has a snapshot with the id {last}, behind which there is none");
            return Err(Error::Unsupported { name: self.name(), what });
        };
        self.tell_moved(&mut tables);
        let new = Snapshot {
            id: id.to_string(),
            name: name.into(),
            seconds,
            nanoseconds,
            disk_len: tables.header.size,
            // As QEMU has it where no machine runs.
            instructions: Some(0),
            ..Snapshot::default()
        };
        self.whole(|| self.add_snapshot(&mut tables, all, new))??;
        Ok(id.to_string())
    }

    // A refusal leaves everything as it was.
    fn add_snapshot(
        &self,
        tables: &mut Tables,
        mut all: Vec<Snapshot>,
        new: Snapshot,
    ) -> Result<Result<(), Error>, Error> {
        set_dirty(tables, true);
        self.settle_alone(tables)?;
        tables.mark_copied(|_, _| Ok(false))?;
        tables.spill()?;
        if self.layout.version < 3 {
            // Nothing may be counted twice on the disk that still says it is counted once.
            tables.barrier()?;
        }
        let l1 = tables.l1.clone();
        if let Err(error) = tables.count_tree(&l1, 1) {
            self.mark_by_refcount(tables)?;
            return Ok(Err(error));
        }
        let l1_offset = tables.write_l1_elsewhere(&l1)?;
        all.push(Snapshot { l1_offset, l1_entries: l1.len() as u32, ..new });
        self.write_snapshots(tables, &all)?;
        tables.spill()?;
        set_dirty(tables, false);
        self.settle_alone(tables).map(Ok)
    }

    fn listed(&self, tables: &Tables) -> Result<Vec<Snapshot>, Error> {
        if tables.header.snapshots == 0 {
            return Ok(Vec::new());
        }
        snapshots::read(self.storage.as_ref(), &tables.header).map(|(all, _)| all)
    }

    fn snapshot_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>, Error> {
        let entries = u64::from(snapshot.l1_entries);
        if entries * 8 > MOST_L1 || self.layout.within(snapshot.l1_offset) != 0 {
            let what = format!("the L1 table of its snapshot {:?} can't be where it says", snapshot.name);
            return Err(Error::Damaged { name: self.name(), what });
        }
        let failed = self.failed(Operation::Read, snapshot.l1_offset);
        let l1 = read_table(self.storage.as_ref(), snapshot.l1_offset, entries).map_err(failed)?;
        if let Some(wrong) = l1.iter().find(|entry| self.layout.within(**entry & OFFSET) != 0) {
            let what = format!("its snapshot {:?} has an L2 table at {wrong:#x}", snapshot.name);
            return Err(Error::Damaged { name: self.name(), what });
        }
        Ok(l1)
    }

    // As much of it as is the disk; the machine's state is none.
    fn snapshot_disk(&self, tables: &Tables, snapshot: &Snapshot) -> Result<Vec<u64>, Error> {
        let entries = tables.header.l1_entries_for(snapshot.disk_len);
        if entries > MOST_L1 / 8 || snapshot.disk_len > i64::MAX as u64 {
            let what = format!("its snapshot {:?} has a disk of {} bytes", snapshot.name, snapshot.disk_len);
            return Err(Error::Damaged { name: self.name(), what });
        }
        let mut l1 = self.snapshot_l1(snapshot)?;
        l1.resize(entries as usize, 0);
        Ok(l1)
    }

    /// Puts the disk back to what it was when the snapshot was made. The snapshot stays.
    ///
    /// # Errors
    /// When the snapshot can't be read, or the host fails.
    pub fn apply_snapshot(&self, snapshot: &Snapshot) -> Result<(), Error> {
        self.refuse_unless_snapshots()?;
        self.begin()?;
        let _alone = self.requests.write();
        let mut tables = self.tables.lock();
        let new: Vec<u64> = self.snapshot_disk(&tables, snapshot)?.into_iter().map(|entry| entry & !COPIED).collect();
        self.tell_moved(&mut tables);
        self.whole(|| self.replace_disk(&mut tables, new, snapshot.disk_len))?
    }

    // A refusal leaves everything as it was.
    fn replace_disk(&self, tables: &mut Tables, new: Vec<u64>, len: u64) -> Result<Result<(), Error>, Error> {
        set_dirty(tables, true);
        self.settle_alone(tables)?;
        if let Err(error) = tables.count_tree(&new, 1) {
            set_dirty(tables, false);
            self.settle_alone(tables)?;
            return Ok(Err(error));
        }
        let place = tables.write_l1_elsewhere(&new)?;
        let old = std::mem::take(&mut tables.l1);
        let (old_place, old_clusters) =
            (tables.header.l1_offset, self.layout.clusters(u64::from(tables.header.l1_entries) * 8));
        tables.forget_l2();
        tables.switch_l1(new, place);
        tables.header.size = len;
        self.len.store(len, std::sync::atomic::Ordering::Release);
        tables.release(old_place, old_clusters);
        if self.layout.version < 3 {
            // The header names the new tables before the old ones are counted down.
            self.settle_alone(tables)?;
            tables.count_tree(&old, -1)?;
            return tables.spill().map(Ok);
        }
        // Whatever is counted while the image is dirty is counted anew when that has to be mended.
        tables.count_tree(&old, -1)?;
        tables.spill()?;
        set_dirty(tables, false);
        self.settle_alone(tables).map(Ok)
    }

    /// Shows the disk as it was when the snapshot was made. The image must be open for reading only.
    ///
    /// # Errors
    /// When the snapshot's tables can't be read.
    pub fn show(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let mut tables = self.tables.lock();
        tables.l1 = self.snapshot_disk(&tables, snapshot)?;
        tables.header.size = snapshot.disk_len;
        self.len.store(snapshot.disk_len, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    /// Takes everything out that the image says itself: what lies below shows everywhere.
    ///
    /// # Errors
    /// When it is read-only, its tables can't be read, or the host fails.
    pub fn make_empty(&self) -> Result<(), Error> {
        if self.is_read_only() {
            return Err(Error::ReadOnly { name: self.name(), operation: Operation::Write });
        }
        self.begin()?;
        let _alone = self.requests.write();
        let mut tables = self.tables.lock();
        self.whole(|| {
            for index in 0..tables.l1.len() as u64 {
                self.drop_l2(&mut tables, index * self.layout.l2_reach())?;
            }
            tables.wrote();
            self.settle_alone(&mut tables)?;
            tables.commit()
        })
    }

    /// Names another backing file, or none. Contents of clusters stay as they are.
    ///
    /// # Errors
    /// When it is read-only, the name doesn't fit into the header, or the host fails.
    pub fn set_backing(&self, backing: Option<(std::ffi::OsString, Option<String>)>) -> Result<(), Error> {
        if self.is_read_only() {
            return Err(Error::ReadOnly { name: self.name(), operation: Operation::Write });
        }
        let name_len = backing.as_ref().map_or(0, |(name, _)| name.len());
        if name_len > MOST_BACKING_NAME {
            let what =
                format!("a backing file's name of {name_len} bytes doesn't fit; {MOST_BACKING_NAME} are the most");
            return Err(Error::Unsupported { name: self.name(), what });
        }
        if backing.is_some() && self.header().autoclear & autoclear::DATA_FILE_RAW != 0 {
            let what = "its external data file is a disk of its own, and a disk of its own lies on no other".into();
            return Err(Error::Unsupported { name: self.name(), what });
        }
        self.settle()?;
        let mut tables = self.tables.lock();
        let as_it_is = (tables.header.backing.clone(), tables.header.backing_format.clone());
        if backing.clone().map_or((None, None), |(name, format)| (Some(name), format)) == as_it_is {
            return Ok(());
        }
        let before = tables.header.clone();
        let (name, format) = backing.map_or((None, None), |(name, format)| (Some(name), format));
        tables.header.backing = name;
        tables.header.backing_format = format;
        if let Err(error) = tables.header.encode() {
            tables.header = before;
            return Err(Error::Unsupported { name: self.name(), what: error.to_string() });
        }
        tables.change_header();
        self.whole(|| tables.commit())
    }

    /// Removes a snapshot. `index` is its place in the list.
    ///
    /// # Errors
    /// When the snapshot can't be read, or the host fails.
    pub fn delete_snapshot(&self, index: usize) -> Result<(), Error> {
        self.refuse_unless_snapshots()?;
        self.begin()?;
        let _alone = self.requests.write();
        let mut tables = self.tables.lock();
        let mut all = self.listed(&tables)?;
        if index >= all.len() {
            let what = format!("it has {} snapshots, and none of number {index}", all.len());
            return Err(Error::Unsupported { name: self.name(), what });
        }
        let gone = all.remove(index);
        let l1 = self.snapshot_l1(&gone)?;
        self.tell_moved(&mut tables);
        tables.commit()?;
        self.whole(|| {
            set_dirty(&mut tables, true);
            self.write_snapshots(&mut tables, &all)?;
            tables.release(gone.l1_offset, self.layout.clusters(u64::from(gone.l1_entries) * 8));
            self.settle_alone(&mut tables)?;
            tables.count_tree(&l1, -1)?;
            tables.spill()?;
            if self.layout.version < 3 {
                // What says that it is counted once must be so on the disk.
                tables.barrier()?;
            }
            self.mark_by_refcount(&mut tables)
        })
    }

    // What has refcount 1 is marked so, and the image is clean again.
    fn mark_by_refcount(&self, tables: &mut Tables) -> Result<(), Error> {
        let storage = self.storage.clone();
        tables.mark_copied(|refcounts, cluster| Ok(refcounts.get(storage.as_ref(), cluster)? == 1))?;
        tables.spill()?;
        set_dirty(tables, false);
        self.settle_alone(tables)
    }

    /// Changes the disk's length. What is added reads zeros.
    ///
    /// # Errors
    /// When the image can't have that length, or the host fails.
    pub fn resize(&self, len: u64) -> Result<(), Error> {
        self.resize_with(len, Preallocation::Off)
    }

    /// As [`resize`](Self::resize); what is added takes its space at once, as asked for.
    ///
    /// # Errors
    /// As [`resize`](Self::resize).
    pub fn resize_with(&self, len: u64, preallocation: Preallocation) -> Result<(), Error> {
        if self.is_read_only() {
            return Err(Error::ReadOnly { name: self.name(), operation: Operation::Write });
        }
        let old = self.len();
        if self.layout.version < 3 && self.tables.lock().header.snapshots > 0 {
            let what = "it has snapshots, which can't tell their disk's length in version 2".into();
            return Err(Error::Unsupported { name: self.name(), what });
        }
        if len != old {
            self.begin()?;
        }
        match len.cmp(&old) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => self.shrink(len),
            std::cmp::Ordering::Greater => self.grow(old, len, preallocation),
        }
    }

    fn grow(&self, old: u64, len: u64, preallocation: Preallocation) -> Result<(), Error> {
        {
            let _alone = self.requests.write();
            let mut tables = self.tables.lock();
            let entries = tables.header.l1_entries_for(len);
            if entries * 8 > MOST_L1 || len > i64::MAX as u64 {
                let what = format!("a disk of {len} bytes needs larger clusters");
                return Err(Error::Unsupported { name: self.name(), what });
            }
            if entries > tables.l1.len() as u64 {
                tables.commit()?;
                let mut l1 = tables.l1.clone();
                l1.resize(entries as usize, 0);
                let place = tables.write_l1_elsewhere(&l1)?;
                let (offset, clusters) =
                    (tables.header.l1_offset, self.layout.clusters(u64::from(tables.header.l1_entries) * 8));
                tables.switch_l1(l1, place);
                tables.release(offset, clusters);
                self.whole(|| self.settle_alone(&mut tables))?;
            }
        }
        // What was beyond the end may not show: the rest of the last cluster, and a longer backing file. It is zeroed
        // while the header still tells the old length.
        let hidden = self.backing().map_or(0, |backing| backing.len()).max(old.next_multiple_of(self.layout.cluster()));
        self.len.store(len, std::sync::atomic::Ordering::Release);
        let zeroed = {
            let _request = self.requests.read();
            if hidden > old { self.zero_range(old, hidden.min(len) - old, true) } else { Ok(()) }
        };
        let outcome = zeroed.and_then(|()| self.settle()).and_then(|()| {
            if self.layout.data_file {
                self.data.set_len(len).map_err(self.failed(Operation::Write, len))?;
            }
            let mut tables = self.tables.lock();
            if preallocation != Preallocation::Off {
                create::preallocate(&mut tables, &self.data, preallocation, old..len)?;
                tables.commit()?;
            }
            tables.header.size = len;
            tables.change_header();
            self.whole(|| tables.commit())
        });
        if outcome.is_err() {
            self.len.store(old, std::sync::atomic::Ordering::Release);
        }
        outcome
    }

    fn shrink(&self, len: u64) -> Result<(), Error> {
        let _alone = self.requests.write();
        let mut tables = self.tables.lock();
        self.whole(|| self.cut_at(&mut tables, len))
    }

    fn cut_at(&self, tables: &mut Tables, len: u64) -> Result<(), Error> {
        let layout: Layout = self.layout;
        tables.wrote();
        tables.header.size = len;
        tables.change_header();
        self.settle_alone(tables)?;
        let old = self.len.swap(len, std::sync::atomic::Ordering::AcqRel);
        let mut guest = len.next_multiple_of(layout.cluster());
        while guest < old {
            if tables.l2_table(guest)?.is_none() {
                guest += layout.l2_reach() - guest % layout.l2_reach();
                continue;
            }
            if guest.is_multiple_of(layout.l2_reach()) {
                self.drop_l2(tables, guest)?;
                guest += layout.l2_reach();
                continue;
            }
            let entry = tables.entry(guest)?;
            if entry != Default::default() {
                tables.set_entry(guest, Default::default())?;
                tables.release_entry(entry);
            }
            guest += layout.cluster();
        }
        tables.wrote();
        self.settle_alone(tables)?;
        if layout.data_file {
            self.end.fetch_min(len, std::sync::atomic::Ordering::AcqRel);
            self.data.set_len(len).map_err(self.failed(Operation::Write, len))?;
        }
        tables.commit()
    }

    // A whole L2 table is beyond the end.
    fn drop_l2(&self, tables: &mut Tables, guest: u64) -> Result<(), Error> {
        let Some(table) = tables.l2_table(guest)? else { return Ok(()) };
        let index = self.layout.l1_index(guest);
        let mut at = guest;
        // Each owner of a shared table has its own count on what the table refers to.
        while at < guest + self.layout.l2_reach() {
            for entry in tables.entries(at, 1 << self.layout.l2_bits)? {
                tables.release_entry(entry);
                at += self.layout.cluster();
            }
        }
        tables.set_l1(index, 0);
        tables.release(table, 1);
        Ok(())
    }
}
