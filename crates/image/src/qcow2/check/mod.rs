//! Is an image sound? Every reference to a cluster is counted and compared with its refcount.
//!
//! Nothing is taken from memory: what is on the disk counts. Counting goes in passes when the file has more clusters than
//! counters fit ([`WINDOW`]).

mod repair;
mod walk;

use std::fmt;

use super::bits::*;
use super::header::Header;
use super::layout::Layout;
use super::refcount;
use super::refcount::read_table;
use crate::storage::{self, Storage};
use crate::{Error, Operation};
pub use repair::{Fix, Repaired, repair};
use walk::Walk;

/// Clusters that are counted in one pass: 64 MiB of counters.
pub const WINDOW: u64 = 16 << 20;

/// Something that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether data may be lost or overwritten because of it; otherwise only space is.
    pub is_corruption: bool,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_corruption { "ERROR" } else { "leak" };
        write!(f, "{kind}: {}", self.what)
    }
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// How often data may be lost or overwritten.
    pub corruptions: u64,
    /// Clusters that are taken and used by nothing.
    pub leaks: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Those that have a place in the file.
    pub allocated_clusters: u64,
    /// Those that don't lie behind their neighbour.
    pub fragmented_clusters: u64,
    /// Those that are compressed.
    pub compressed_clusters: u64,
    /// End of the last cluster that is used, in bytes.
    pub image_end: u64,
    /// Whether the refcounts have to be made anew.
    pub must_rebuild: bool,
}

/// A check under way.
pub(super) struct Check<'a> {
    storage: &'a dyn Storage,
    header: &'a Header,
    layout: Layout,
    file_len: u64,
    report: Report,
    tell: &'a mut dyn FnMut(Finding),
}

impl Check<'_> {
    fn corruption(&mut self, what: impl Into<String>) {
        self.report.corruptions += 1;
        (self.tell)(Finding { is_corruption: true, what: what.into() });
    }

    fn failed(&self, offset: u64) -> impl Fn(std::io::Error) -> Error + use<> {
        let name = self.storage.name().to_owned();
        move |source| Error::Io { name: name.clone(), operation: Operation::Read, offset, source }
    }
}

/// Counters of a stretch of clusters.
struct Counters {
    first: u64,
    counts: Vec<u32>,
    /// Greatest cluster that anything refers to, of all.
    last: Option<u64>,
}

impl Counters {
    fn add(&mut self, cluster: u64) {
        self.last = self.last.max(Some(cluster));
        let counter = cluster.checked_sub(self.first).and_then(|index| self.counts.get_mut(index as usize));
        if let Some(counter) = counter {
            *counter = counter.saturating_add(1);
        }
    }

    fn get(&self, cluster: u64) -> u32 {
        cluster.checked_sub(self.first).and_then(|index| self.counts.get(index as usize)).copied().unwrap_or(0)
    }
}

/// Checks an image. `tell` hears of each finding as it comes.
///
/// # Errors
/// When the host fails.
pub fn check(storage: &dyn Storage, header: &Header, tell: &mut dyn FnMut(Finding)) -> Result<Report, Error> {
    check_in(storage, header, WINDOW, tell, &mut |_, _, _| {})
}

/// As [`check`], in passes of `window` clusters; `differs` hears of each cluster whose refcount is not what it should be:
/// cluster, refcount, references.
pub(super) fn check_in(
    storage: &dyn Storage,
    header: &Header,
    window: u64,
    tell: &mut dyn FnMut(Finding),
    differs: &mut dyn FnMut(u64, u64, u32),
) -> Result<Report, Error> {
    let failed = |source| Error::Io { name: storage.name().into(), operation: Operation::Read, offset: 0, source };
    let file_len = storage.len().map_err(failed)?;
    let layout = Layout::of(header);
    let mut check = Check { storage, header, layout, file_len, report: Report::default(), tell };
    check.report.total_clusters = layout.clusters(header.size);
    let mut blocks = Blocks::load(&check)?;
    let mut first = 0;
    let mut end = layout.clusters(file_len);
    loop {
        // Only the first pass tells what is wrong with the structures, and counts them.
        let told = (first > 0).then(|| std::mem::take(&mut check.report));
        let mut mute = |_: Finding| {};
        let counters =
            Counters { first, counts: vec![0; window.min(end - first.min(end)).max(1) as usize], last: None };
        let counters = if told.is_some() {
            let mut again = Check { storage, header, layout, file_len, report: Report::default(), tell: &mut mute };
            Walk::new(&mut again, counters).run()?
        } else {
            Walk::new(&mut check, counters).run()?
        };
        if let Some(told) = told {
            check.report = told;
        }
        end = end.max(counters.last.map_or(0, |last| last + 1)).min(layout.clusters(file_len) + 1);
        let covered = first + counters.counts.len() as u64;
        compare(&mut check, &mut blocks, &counters, first..covered.min(end), differs)?;
        first = covered;
        if first >= end {
            break;
        }
    }
    walk::copied_flags(&mut check, &mut blocks)?;
    Ok(check.report)
}

fn compare(
    check: &mut Check<'_>,
    blocks: &mut Blocks,
    counters: &Counters,
    range: std::ops::Range<u64>,
    differs: &mut dyn FnMut(u64, u64, u32),
) -> Result<(), Error> {
    for cluster in range {
        let references = counters.get(cluster);
        let refcount = blocks.get(check, cluster)?;
        if refcount > 0 || references > 0 {
            check.report.image_end = (cluster + 1) << check.layout.cluster_bits;
        }
        if refcount == u64::from(references) {
            continue;
        }
        let at = cluster << check.layout.cluster_bits;
        let what = format!("cluster {cluster} at {at:#x} has refcount {refcount} and {references} references");
        differs(cluster, refcount, references);
        if refcount > u64::from(references) {
            check.report.leaks += 1;
            (check.tell)(Finding { is_corruption: false, what });
        } else {
            check.report.must_rebuild |= refcount == 0;
            check.corruption(what);
        }
    }
    Ok(())
}

/// Refcounts as they are on the disk, a block at a time.
pub(super) struct Blocks {
    table: Vec<u64>,
    bytes: Vec<u8>,
    loaded: Option<usize>,
}

impl Blocks {
    fn load(check: &Check<'_>) -> Result<Self, Error> {
        let entries = u64::from(check.header.refcount_table_clusters) * check.layout.cluster() / 8;
        let at = check.header.refcount_table_offset;
        let table = read_table(check.storage, at, entries).map_err(check.failed(at))?;
        Ok(Self { table, bytes: vec![0; check.layout.cluster() as usize], loaded: None })
    }

    fn get(&mut self, check: &Check<'_>, cluster: u64) -> Result<u64, Error> {
        let bits = check.layout.refcounts_bits();
        let block = (cluster >> bits) as usize;
        let offset = self.table.get(block).map_or(0, |entry| entry & REFCOUNT_OFFSET);
        if offset == 0 || check.layout.within(offset) != 0 {
            return Ok(0);
        }
        if self.loaded != Some(block) {
            self.loaded = None;
            storage::read(check.storage, &mut self.bytes, offset).map_err(check.failed(offset))?;
            self.loaded = Some(block);
        }
        Ok(refcount::get(&self.bytes, check.layout.refcount_order, (cluster & ((1 << bits) - 1)) as usize))
    }
}
