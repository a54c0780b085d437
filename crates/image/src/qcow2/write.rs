//! Writing: in place where a cluster is ours alone, else into new clusters that take the old one's place afterwards.

use std::io::IoSlice;
use std::ops::Range;

use super::fault::Fault;
use super::image::Qcow2;
use super::layout::{ALL_ZEROS, Entry, Kind, Layout};
use super::tables::Tables;
use crate::storage;
use crate::{Error, Operation};

/// Most bytes for which clusters are taken at once.
const MOST_AT_ONCE: u64 = 8 << 20;

/// New contents for a run of clusters.
struct Filling {
    /// Guest range, of which the first and last cluster may be touched in part.
    range: Range<u64>,
    /// Where its first cluster lies.
    host: u64,
    /// Whether its clusters have never been part of the file, so that they read zeros.
    fresh: bool,
    /// Whether the clusters are new ones, or those that the entries have.
    new: bool,
}

enum Step {
    /// `len` bytes go straight to `host`.
    InPlace { host: u64, len: u64 },
    /// Clusters are to be filled.
    Fill(Filling),
    /// Somebody else is filling the cluster.
    Wait,
}

// Whether the subclusters of a part of a cluster all have data already.
fn has_data(layout: &Layout, entry: Entry, within: u64, len: u64) -> bool {
    if !layout.extended {
        return true;
    }
    let (first, last) = (within / layout.subcluster(), (within + len - 1) / layout.subcluster());
    (first..=last).all(|number| entry.bitmap >> number & 1 != 0)
}

// The cluster that a write may go to, if the entry has one that nobody shares.
fn own_cluster(layout: &Layout, entry: Entry) -> Option<u64> {
    if !entry.is_copied() {
        return None;
    }
    match entry.kind(layout) {
        Kind::Standard { host } | Kind::Zero { host: Some(host) } => Some(host),
        _ => None,
    }
}

// The part of the cluster of this number that a write touches: where in the cluster, and bytes.
fn part(layout: &Layout, at: u64, len: u64, number: u64) -> (u64, u64) {
    let start = (layout.floor(at) + number * layout.cluster()).max(at);
    (layout.within(start), (layout.cluster() - layout.within(start)).min(at + len - start))
}

// The host offset of the first cluster, and how many bytes of the write from there on may go where they are.
fn in_place(layout: &Layout, entries: &[Entry], at: u64, len: u64) -> Option<(u64, u64)> {
    let own = |entry: Entry, number: u64| {
        let (within, len) = part(layout, at, len, number);
        match entry.kind(layout) {
            Kind::Standard { host } if entry.is_copied() && has_data(layout, entry, within, len) => Some(host),
            _ => None,
        }
    };
    let host = own(entries.first().copied()?, 0)?;
    let together = (0..)
        .zip(entries)
        .take_while(|(number, entry)| own(**entry, *number) == Some(host + number * layout.cluster()));
    Some((host, together.map(|(number, _)| part(layout, at, len, number).1).sum()))
}

/// Places for a write that is to come: [`Qcow2::write_to`].
pub struct Places(Vec<Step>);

impl Qcow2 {
    /// Takes the clusters that a write of `len` bytes at `at` needs. Whoever calls this in the order of offsets gets the
    /// same image every time, however the writes themselves then run side by side.
    ///
    /// # Errors
    /// When the range is not within the disk, or the file can't grow.
    pub fn places(&self, at: u64, len: u64) -> Result<Places, Error> {
        self.check(Operation::Write, at, len)?;
        self.begin()?;
        let _request = self.requests.read();
        let mut steps = Vec::new();
        let mut done = 0;
        while done < len {
            {
                let mut tables = self.tables.lock();
                if tables.is_due() {
                    tables.commit()?;
                }
                tables.own_l2_table(at + done)?;
            }
            let step = self.next_step(at + done, len - done)?;
            done += match &step {
                Step::Wait => {
                    self.wait_for(at + done);
                    continue;
                }
                Step::InPlace { len, .. } => *len,
                Step::Fill(filling) => filling.range.end - filling.range.start,
            };
            steps.push(step);
        }
        Ok(Places(steps))
    }

    /// Writes to the places taken for it.
    ///
    /// # Errors
    /// When the host fails; what was not written reads as before.
    pub fn write_to(&self, places: Places, bytes: &[u8]) -> Result<(), Error> {
        let _request = self.requests.read();
        let mut rest = bytes;
        let mut outcome = Ok(());
        for step in places.0 {
            let len = match &step {
                Step::Wait => 0,
                Step::InPlace { len, .. } => *len,
                Step::Fill(filling) => filling.range.end - filling.range.start,
            };
            let (head, tail) = rest.split_at((len as usize).min(rest.len()));
            rest = tail;
            let done = match step {
                Step::Wait => Ok(()),
                Step::InPlace { host, .. } => self.write_in_place(&[IoSlice::new(head)], host),
                // Places that will not be used are given back.
                Step::Fill(filling) if outcome.is_ok() => self.fill(&filling, &[IoSlice::new(head)]),
                Step::Fill(filling) => {
                    self.give_up(&filling);
                    Ok(())
                }
            };
            outcome = outcome.and(done);
        }
        outcome
    }

    pub(super) fn write_buffers(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<(), Error> {
        let mut list = buffers.to_vec();
        let (mut rest, mut at) = (list.as_mut_slice(), offset);
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let len: u64 = rest.iter().map(|buffer| buffer.len() as u64).sum();
            self.make_room()?;
            let done = match self.next_step(at, len)? {
                Step::Wait => {
                    self.wait_for(at);
                    continue;
                }
                Step::InPlace { host, len } => {
                    let head = take(rest, len as usize);
                    self.write_in_place(&head, host)?;
                    len
                }
                Step::Fill(filling) => {
                    let len = filling.range.end - filling.range.start;
                    let head = take(rest, len as usize);
                    self.fill(&filling, &head)?;
                    len
                }
            };
            IoSlice::advance_slices(&mut rest, done as usize);
            at += done;
        }
        Ok(())
    }

    fn write_in_place(&self, buffers: &[IoSlice<'_>], host: u64) -> Result<(), Error> {
        let outcome = self.put(buffers, host);
        self.moved.store(true, std::sync::atomic::Ordering::Release);
        outcome
    }

    fn put(&self, buffers: &[IoSlice<'_>], host: u64) -> Result<(), Error> {
        self.data.write_at(buffers, host).map_err(self.failed(Operation::Write, host))?;
        let len: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        self.end.fetch_max(host + len, std::sync::atomic::Ordering::AcqRel);
        Ok(())
    }

    /// Where a write of the whole range may go as it is.
    pub(super) fn place_of_write(&self, at: u64, len: u64) -> Option<u64> {
        if len == 0 || len > MOST_AT_ONCE {
            return None;
        }
        self.make_room().ok()?;
        let layout = self.layout;
        let mut tables = self.tables.lock();
        if self.is_being_written(&(layout.floor(at)..at + len)) {
            return None;
        }
        let within = layout.within(at);
        let entries = tables.entries(at, (within + len).div_ceil(layout.cluster())).ok()?;
        let (host, end) = in_place(&layout, &entries, at, len)?;
        self.refuse_metadata(&mut tables, host, within + end).ok()?;
        (end == len).then_some(host + within)
    }

    fn is_being_written(&self, range: &Range<u64>) -> bool {
        self.writing.lock().iter().any(|other| other.start < range.end && range.start < other.end)
    }

    fn wait_for(&self, at: u64) {
        let start = self.layout.floor(at);
        let range = start..start + self.layout.cluster();
        let mut writing = self.writing.lock();
        while writing.iter().any(|other| other.start < range.end && range.start < other.end) {
            self.written.wait(&mut writing);
        }
    }

    // Writes tables when too much of them waits. Nothing is given back here: readers of what was let go may still be under
    // way.
    fn make_room(&self) -> Result<(), Error> {
        let mut tables = self.tables.lock();
        if tables.is_crowded() { tables.commit() } else { Ok(()) }
    }

    fn next_step(&self, at: u64, len: u64) -> Result<Step, Error> {
        let layout = self.layout;
        let mut tables = self.tables.lock();
        let len = len.min(MOST_AT_ONCE);
        let first = layout.floor(at);
        if self.is_being_written(&(first..first + layout.cluster())) {
            return Ok(Step::Wait);
        }
        let within = layout.within(at);
        let clusters = (within + len).div_ceil(layout.cluster());
        let entries = tables.entries(at, clusters)?;
        let entry = entries.first().copied().unwrap_or_default();
        if let Some((host, end)) = in_place(&layout, &entries, at, len) {
            self.refuse_metadata(&mut tables, host, within + end)?;
            return Ok(Step::InPlace { host: host + within, len: end });
        }
        if let Some(host) = own_cluster(&layout, entry) {
            // Space that was kept: zeros, or subclusters without data.
            let range = at..at + part(&layout, at, len, 0).1;
            self.refuse_metadata(&mut tables, host, layout.cluster())?;
            return Ok(Step::Fill(self.begin_filling(Filling { range, host, fresh: false, new: false })));
        }
        let mut count = 0;
        for (number, entry) in (0..).zip(&entries) {
            let start = first + number * layout.cluster();
            let ours = own_cluster(&layout, *entry).is_some();
            if ours || (number > 0 && self.is_being_written(&(start..start + layout.cluster()))) {
                break;
            }
            count += 1;
        }
        let range = at..(first + count * layout.cluster()).min(at + len);
        let (host, fresh) = self.place_for(&mut tables, first, count)?;
        Ok(Step::Fill(self.begin_filling(Filling { range, host, fresh, new: true })))
    }

    // Clusters for new data: the next free ones, or with an external data file those of the same offset.
    fn place_for(&self, tables: &mut Tables, guest: u64, count: u64) -> Result<(u64, bool), Error> {
        if self.layout.data_file {
            return Ok((guest, false));
        }
        let host = tables.allocate(count)?;
        let fresh = tables.take_fresh(host, count * self.layout.cluster());
        Ok((host, fresh))
    }

    fn begin_filling(&self, filling: Filling) -> Filling {
        self.writing.lock().push(self.clusters_of(&filling));
        filling
    }

    fn clusters_of(&self, filling: &Filling) -> Range<u64> {
        let end = filling.range.end.next_multiple_of(self.layout.cluster());
        self.layout.floor(filling.range.start)..end
    }

    // A damaged image may map data onto its own tables: better refuse than overwrite them.
    fn refuse_metadata(&self, tables: &mut Tables, host: u64, len: u64) -> Result<(), Error> {
        if self.layout.data_file { Ok(()) } else { tables.refuse_metadata(host, len) }
    }

    fn fill(&self, filling: &Filling, buffers: &[IoSlice<'_>]) -> Result<(), Error> {
        let outcome = self.fill_clusters(filling, buffers);
        match outcome {
            Ok(()) => self.end_filling(filling),
            Err(_) => self.give_up(filling),
        }
        outcome
    }

    fn give_up(&self, filling: &Filling) {
        if filling.new && !self.layout.data_file {
            let clusters = self.clusters_of(filling);
            let count = (clusters.end - clusters.start) >> self.layout.cluster_bits;
            // There is an error already, which is the one to tell.
            let _ = self.tables.lock().give_back(filling.host, count);
        }
        self.end_filling(filling);
    }

    fn end_filling(&self, filling: &Filling) {
        let clusters = self.clusters_of(filling);
        let mut writing = self.writing.lock();
        if let Some(index) = writing.iter().position(|range| *range == clusters) {
            writing.swap_remove(index);
        }
        drop(writing);
        self.written.notify_all();
    }

    // Writes the data and what of the old contents the touched units keep; then they take the old ones' place.
    fn fill_clusters(&self, filling: &Filling, buffers: &[IoSlice<'_>]) -> Result<(), Error> {
        let unit = self.copied_unit(filling)?;
        let (start, end) = (filling.range.start, filling.range.end);
        let (from, to) = (start - start % unit, end.next_multiple_of(unit));
        let host = filling.host + (from - self.layout.floor(start));
        let head = self.old_contents(from..start, filling.fresh)?;
        let tail = self.old_contents(end..to, filling.fresh)?;
        let mut parts = Vec::with_capacity(buffers.len() + 2);
        let skip = head.as_ref().map_or(start - from, |_| 0);
        parts.extend(head.as_deref().map(IoSlice::new));
        parts.extend(buffers.iter().map(|buffer| IoSlice::new(buffer)));
        parts.extend(tail.as_deref().map(IoSlice::new));
        parts.retain(|part| !part.is_empty());
        let linked = self.links_early(filling, buffers)?;
        self.put(&parts, host + skip)?;
        if linked { Ok(()) } else { self.link(filling) }
    }

    // Never but for tests that want this mistake.
    fn links_early(&self, filling: &Filling, buffers: &[IoSlice<'_>]) -> Result<bool, Error> {
        if !cfg!(any(test, feature = "testing")) {
            return Ok(false);
        }
        let (data, copied) = {
            let tables = self.tables.lock();
            (tables.faults.has(Fault::L2BeforeData), tables.faults.has(Fault::L2BeforeCopiedData))
        };
        if copied {
            let host = filling.host + self.layout.within(filling.range.start);
            self.data.write_at(buffers, host).map_err(self.failed(Operation::Write, host))?;
        }
        if data || copied {
            self.link(filling)?;
            self.tables.lock().commit()?;
        }
        Ok(data || copied)
    }

    // What is copied around the data: with subclusters only those that are touched, unless the cluster moves and has
    // more of them than zeros.
    fn copied_unit(&self, filling: &Filling) -> Result<u64, Error> {
        let layout = self.layout;
        if !layout.extended {
            return Ok(layout.cluster());
        }
        let mut tables = self.tables.lock();
        let entries = tables.entries(filling.range.start, 1)?;
        let entry = entries.first().copied().unwrap_or_default();
        let keeps = match entry.kind(&layout) {
            Kind::Compressed { .. } => true,
            Kind::Standard { .. } => filling.new,
            _ => false,
        };
        let one = layout.floor(filling.range.start) == layout.floor(filling.range.end - 1);
        Ok(if keeps || !one { layout.cluster() } else { layout.subcluster() })
    }

    // Nothing when zeros are there already.
    fn old_contents(&self, range: Range<u64>, fresh: bool) -> Result<Option<Vec<u8>>, Error> {
        let len = (range.end - range.start) as usize;
        let mut bytes = vec![0; len];
        // The disk may end within its last cluster.
        let there = self.size().saturating_sub(range.start).min(len as u64) as usize;
        if let Some(part) = bytes.get_mut(..there).filter(|part| !part.is_empty()) {
            self.read_one(part, range.start)?;
        }
        if fresh && bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    // Puts the new clusters in the old ones' place.
    fn link(&self, filling: &Filling) -> Result<(), Error> {
        let layout = self.layout;
        let unit = self.copied_unit(filling)?;
        let mut tables = self.tables.lock();
        let clusters = self.clusters_of(filling);
        for guest in clusters.clone().step_by(layout.cluster() as usize) {
            let host = filling.host + (guest - clusters.start);
            let old = tables.entry(guest)?;
            let mut new = Entry::data(&layout, host);
            if layout.extended && unit < layout.cluster() {
                let (first, last) = (filling.range.start.max(guest), filling.range.end.min(guest + layout.cluster()));
                let touched = (layout.within(first) / layout.subcluster()
                    ..=(layout.within(last - 1)) / layout.subcluster())
                    .fold(0u64, |bits, number| bits | 1 << number);
                new.bitmap = (old.bitmap | touched) & !(touched << 32);
            }
            tables.set_entry(guest, new)?;
            if filling.new {
                tables.release_entry(old);
            }
        }
        tables.wrote();
        Ok(())
    }

    pub(super) fn size(&self) -> u64 {
        self.len.load(std::sync::atomic::Ordering::Acquire)
    }

    pub(super) fn discard_range(&self, offset: u64, len: u64) -> Result<(), Error> {
        let layout = self.layout;
        // Version 2 can't say "zeros": the backing file would show through.
        if layout.version < 3 && self.backing.is_some() {
            return Ok(());
        }
        let size = self.size();
        let start = offset.next_multiple_of(layout.cluster());
        let end = offset + len;
        let end = if end == size { end.next_multiple_of(layout.cluster()) } else { layout.floor(end) };
        self.each_cluster(start..end.max(start), |tables, guest, old| {
            let kind = old.kind(&layout);
            let keeps_nothing = matches!(kind, Kind::Unallocated) && self.is_bare();
            let is_zeros = matches!(kind, Kind::Zero { host: None }) && (!layout.extended || old.bitmap == ALL_ZEROS);
            if keeps_nothing || is_zeros {
                return Ok(());
            }
            let new = if layout.version >= 3 { Entry::zeros(&layout) } else { Entry::default() };
            tables.set_entry(guest, new)?;
            tables.release_entry(old);
            tables.wrote();
            Ok(())
        })?;
        if layout.data_file && start < end {
            self.data.zero(start, end.min(size) - start, true).map_err(self.failed(Operation::Discard, start))?;
        }
        Ok(())
    }

    // Calls `change` for each cluster that nobody is filling; L2 tables that aren't there are made only when needed.
    fn each_cluster(
        &self,
        range: Range<u64>,
        mut change: impl FnMut(&mut Tables, u64, Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut guest = range.start;
        while guest < range.end {
            let mut tables = self.tables.lock();
            if tables.is_crowded() {
                tables.commit()?;
            }
            if self.is_being_written(&(guest..guest + self.layout.cluster())) {
                drop(tables);
                self.wait_for(guest);
                continue;
            }
            if self.is_bare() && tables.l2_table(guest)?.is_none() {
                // Nothing there, and nothing below: zeros already.
                guest += self.layout.l2_reach() - guest % self.layout.l2_reach();
                continue;
            }
            let old = tables.entry(guest)?;
            change(&mut tables, guest, old)?;
            guest += self.layout.cluster();
        }
        Ok(())
    }

    pub(super) fn zero_range(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        let layout = self.layout;
        let unit = layout.subcluster();
        let (size, end) = (self.size(), offset + len);
        if len == 0 {
            return Ok(());
        }
        // The last cluster may be longer than the disk.
        let last = if end == size { end.next_multiple_of(unit) } else { end - end % unit };
        let first = offset.next_multiple_of(unit);
        if layout.version < 3 || first >= last {
            return self.write_zero_bytes(offset, len, unmap);
        }
        self.write_zero_bytes(offset, first - offset, unmap)?;
        self.write_zero_bytes(last.min(end), end.saturating_sub(last), unmap)?;
        let whole_first = first.next_multiple_of(layout.cluster());
        let whole_last = if end == size { last.next_multiple_of(layout.cluster()) } else { layout.floor(last) };
        if whole_first > whole_last {
            return self.zero_subclusters(first..last, unmap);
        }
        self.zero_subclusters(first..whole_first, unmap)?;
        self.zero_subclusters(whole_last..last.max(whole_last), unmap)?;
        self.each_cluster(whole_first..whole_last, |tables, guest, old| {
            let kind = old.kind(&layout);
            if matches!(kind, Kind::Unallocated) && self.is_bare() {
                return Ok(());
            }
            let mut new = Entry::zeros(&layout);
            let keeps = !unmap && own_cluster(&layout, old).is_some();
            if keeps {
                new.descriptor |= old.descriptor;
            }
            if new == old {
                return Ok(());
            }
            tables.set_entry(guest, new)?;
            if !keeps {
                tables.release_entry(old);
            }
            tables.wrote();
            Ok(())
        })?;
        if layout.data_file && whole_first < whole_last {
            let len = whole_last.min(size) - whole_first;
            storage::write_zeroes(self.data.as_ref(), whole_first, len, unmap)
                .map_err(self.failed(Operation::WriteZeroes, whole_first))?;
        }
        Ok(())
    }

    // Subclusters of one cluster.
    fn zero_subclusters(&self, range: Range<u64>, unmap: bool) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        let layout = self.layout;
        let guest = layout.floor(range.start);
        let mut compressed = false;
        self.each_cluster(guest..guest + layout.cluster(), |tables, guest, old| {
            if matches!(old.kind(&layout), Kind::Compressed { .. }) {
                compressed = true;
                return Ok(());
            }
            let bits = (layout.within(range.start) / layout.subcluster()
                ..=layout.within(range.end - 1) / layout.subcluster())
                .fold(0u64, |bits, number| bits | 1 << number);
            let bitmap = (old.bitmap & !bits) | bits << 32;
            let new = Entry { bitmap, ..old };
            if new != old {
                tables.set_entry(guest, new)?;
                tables.wrote();
            }
            Ok(())
        })?;
        if compressed { self.write_zero_bytes(range.start, range.end - range.start, unmap) } else { Ok(()) }
    }

    // A backing file that ends before reads zeros, unless another one is about to take its place.
    fn reads_zeros_below(&self, at: u64) -> bool {
        let expects = self.expects_backing.load(std::sync::atomic::Ordering::Acquire);
        !expects && self.backing.as_ref().is_some_and(|backing| backing.len() <= at)
    }

    // Zeros as data, except where they are already.
    fn write_zero_bytes(&self, offset: u64, len: u64, _unmap: bool) -> Result<(), Error> {
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        let mut at = offset;
        let end = (offset + len).min(self.size());
        while at < end {
            let extent = self.extent(at, (end - at).min(ZEROES.len() as u64))?;
            let zeros = match extent.contents {
                super::read::Contents::Zero { .. } => true,
                super::read::Contents::Unallocated | super::read::Contents::Kept { .. } => {
                    self.is_bare() || self.reads_zeros_below(at)
                }
                _ => false,
            };
            if !zeros {
                let part = ZEROES.get(..extent.len as usize).unwrap_or(&ZEROES);
                self.write_buffers(&[IoSlice::new(part)], at)?;
            }
            at += extent.len;
        }
        Ok(())
    }

    /// Takes room for the compressed form of the cluster that begins at `at`. As [`places`](Self::places).
    ///
    /// # Errors
    /// When the image can't have compressed clusters, or the file can't grow.
    pub fn compressed_place(&self, at: u64, len: u64) -> Result<CompressedPlace, Error> {
        self.begin()?;
        let _request = self.requests.read();
        if self.layout.data_file {
            let what = "it has an external data file, beside which nothing can be compressed".into();
            return Err(Error::Unsupported { name: self.name(), what });
        }
        let range = at..at + self.layout.cluster();
        loop {
            self.wait_for(at);
            let mut tables = self.tables.lock();
            if self.is_being_written(&range) {
                continue;
            }
            if tables.is_due() {
                tables.commit()?;
            }
            tables.own_l2_table(at)?;
            let host = tables.allocate_bytes(len)?;
            self.writing.lock().push(range);
            return Ok(CompressedPlace { at, host });
        }
    }

    /// Writes the compressed form of a cluster to the place taken for it.
    ///
    /// # Errors
    /// When the host fails; the cluster then reads as before.
    pub fn write_compressed_to(&self, place: CompressedPlace, compressed: &[u8]) -> Result<(), Error> {
        let _request = self.requests.read();
        let (layout, CompressedPlace { at, host }) = (self.layout, place);
        let outcome = storage::write(self.storage.as_ref(), compressed, host)
            .map_err(self.failed(Operation::Write, host))
            .and_then(|()| {
                let mut tables = self.tables.lock();
                let old = tables.entry(at)?;
                tables.set_entry(at, Entry::compressed(&layout, host, compressed.len() as u64))?;
                tables.release_entry(old);
                tables.wrote();
                Ok(())
            });
        let range = at..at + layout.cluster();
        self.writing.lock().retain(|other| *other != range);
        self.written.notify_all();
        outcome
    }

    /// Writes the compressed form of a whole cluster (of the disk's last one, padded with zeros). `at` is its beginning.
    ///
    /// # Errors
    /// When the host fails, or the image can't have compressed clusters.
    pub fn write_compressed(&self, at: u64, compressed: &[u8]) -> Result<(), Error> {
        let place = self.compressed_place(at, compressed.len() as u64)?;
        self.write_compressed_to(place, compressed)
    }
}

/// A place for a compressed cluster: [`Qcow2::write_compressed_to`].
pub struct CompressedPlace {
    at: u64,
    host: u64,
}

// The first `len` bytes of the buffers.
fn take<'a>(buffers: &'a [IoSlice<'_>], len: usize) -> Vec<IoSlice<'a>> {
    let mut left = len;
    let mut head = Vec::new();
    for buffer in buffers {
        if left == 0 {
            break;
        }
        let part = buffer.len().min(left);
        left -= part;
        head.push(IoSlice::new(buffer.get(..part).unwrap_or_default()));
    }
    head
}
