//! Is an image sound? Every reference to a cluster is counted and compared with its refcount.
//!
//! Nothing is taken from memory: what is on the disk counts. Counting goes in passes when the file has more clusters than
//! counters fit ([`WINDOW`]).

mod repair;
mod walk;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

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
    /// Whether something refers to what it can't refer to. Only whoever knows what was meant could mend that.
    pub is_reference: bool,
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
    /// Clusters that are an L2 table and something else.
    mixed: BTreeSet<u64>,
    tell: &'a mut dyn FnMut(Finding),
}

/// What a cluster is used for. Nothing can be right where two of them meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Guest data, also compressed.
    Data,
    /// An L2 table, which snapshots share.
    L2,
    /// Any other table, used once.
    Table,
}

impl Check<'_> {
    // A refcount or a flag that is wrong.
    fn corruption(&mut self, what: impl Into<String>) {
        self.report.corruptions += 1;
        (self.tell)(Finding { is_corruption: true, is_reference: false, what: what.into() });
    }

    // A reference that can't be right.
    fn reference(&mut self, what: impl Into<String>) {
        self.report.corruptions += 1;
        (self.tell)(Finding { is_corruption: true, is_reference: true, what: what.into() });
    }

    fn failed(&self, offset: u64) -> impl Fn(std::io::Error) -> Error + use<> {
        let name = self.storage.name().to_owned();
        move |source| Error::Io { name: name.clone(), operation: Operation::Read, offset, source }
    }
}

/// Counters of a stretch of clusters.
struct Counters {
    first: u64,
    /// References in the low bits; in the high ones what the cluster is used for.
    counts: Vec<u32>,
    /// Greatest cluster that anything refers to, of all within the file.
    last: Option<u64>,
    /// Clusters behind the end of the file in which the greatest reference is looked for.
    watched: Range<u64>,
    /// That reference.
    beyond: Option<u64>,
}

const DATA: u32 = 1 << 31;
const L2: u32 = 1 << 30;
const TABLE: u32 = 1 << 29;
const TWO_TABLES: u32 = 1 << 28;
const MOST_REFERENCES: u32 = TWO_TABLES - 1;

impl Counters {
    fn new(first: u64, count: u64) -> Self {
        Self { first, counts: vec![0; count as usize], last: None, watched: 0..0, beyond: None }
    }

    fn add(&mut self, cluster: u64, what: Use, times: u32) {
        self.last = self.last.max(Some(cluster));
        let counter = cluster.checked_sub(self.first).and_then(|index| self.counts.get_mut(index as usize));
        if let Some(counter) = counter {
            let flag = match what {
                Use::Data => DATA,
                Use::L2 => L2,
                Use::Table if *counter & TABLE != 0 => TWO_TABLES,
                Use::Table => TABLE,
            };
            let references = (*counter & MOST_REFERENCES).saturating_add(times).min(MOST_REFERENCES);
            *counter = *counter & !MOST_REFERENCES | references | flag;
        }
    }

    // References behind the end.
    fn miss(&mut self, first: u64, last: u64) {
        if first < self.watched.end && last >= self.watched.start {
            self.beyond = self.beyond.max(Some(last.min(self.watched.end - 1)));
        }
    }

    fn word(&self, cluster: u64) -> u32 {
        cluster.checked_sub(self.first).and_then(|index| self.counts.get(index as usize)).copied().unwrap_or(0)
    }

    fn get(&self, cluster: u64) -> u32 {
        self.word(cluster) & MOST_REFERENCES
    }
}

// Whether uses meet that can't.
fn is_mixed(word: u32) -> bool {
    word & TWO_TABLES != 0 || !matches!(word & (DATA | L2 | TABLE), 0 | DATA | L2 | TABLE)
}

/// Checks an image. `tell` hears of each finding as it comes.
///
/// # Errors
/// When the host fails.
pub fn check(storage: &dyn Storage, header: &Header, tell: &mut dyn FnMut(Finding)) -> Result<Report, Error> {
    let scope = Scope { window: WINDOW, file_len: file_len(storage)? };
    check_in(storage, header, scope, tell, &mut |_, _, _| {}).map(|(report, _)| report)
}

fn file_len(storage: &dyn Storage) -> Result<u64, Error> {
    let failed = |source| Error::Io { name: storage.name().into(), operation: Operation::Read, offset: 0, source };
    storage.len().map_err(failed)
}

/// How an image is gone through.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    /// Clusters that are counted in one pass.
    window: u64,
    /// Length that the file is taken to have, in bytes. Behind its real one it reads zeros.
    file_len: u64,
}

/// First cluster behind all that the file has, and that anything in it refers to anywhere near: what is written from
/// there on lies on nothing. What is far away, more than the file's length again, is no place that it ever had.
fn free_end(storage: &dyn Storage, header: &Header) -> Result<u64, Error> {
    const NEAR: u64 = 64 << 20;
    let (file_len, layout) = (file_len(storage)?, Layout::of(header));
    let mut end = layout.clusters(file_len);
    loop {
        let (report, mixed, tell) = (Report::default(), BTreeSet::new(), &mut |_: Finding| {});
        let mut check = Check { storage, header, layout, file_len, report, mixed, tell };
        let watched = end..end.saturating_add(end.max(NEAR >> layout.cluster_bits));
        let counters = Walk::new(&mut check, Counters { watched, ..Counters::new(end, 0) }).run()?;
        match counters.beyond {
            // A table may begin right at the end of the file.
            None => return Ok(end.max(counters.last.map_or(0, |last| last + 1))),
            Some(cluster) => end = cluster + 1,
        }
    }
}

/// As [`check`], within a scope; `differs` hears of each cluster whose refcount is not what it should be:
/// cluster, refcount, references. Returns as well which L2 tables lie on something else: their flags tell nothing.
pub(super) fn check_in(
    storage: &dyn Storage,
    header: &Header,
    scope: Scope,
    tell: &mut dyn FnMut(Finding),
    differs: &mut dyn FnMut(u64, u64, u32),
) -> Result<(Report, BTreeSet<u64>), Error> {
    let (Scope { window, file_len }, layout) = (scope, Layout::of(header));
    let (report, mixed) = (Report::default(), BTreeSet::new());
    let mut check = Check { storage, header, layout, file_len, report, mixed, tell };
    check.report.total_clusters = layout.clusters(header.size);
    let mut blocks = Blocks::load(&check)?;
    let mut first = 0;
    let mut end = layout.clusters(file_len);
    loop {
        // Only the first pass tells what is wrong with the structures, and counts them.
        let told = (first > 0).then(|| std::mem::take(&mut check.report));
        let mut mute = |_: Finding| {};
        let counters = Counters::new(first, window.min(end - first.min(end)).max(1));
        let counters = if told.is_some() {
            let (report, mixed) = (Report::default(), BTreeSet::new());
            let mut again = Check { storage, header, layout, file_len, report, mixed, tell: &mut mute };
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
    Ok((check.report, check.mixed))
}

fn compare(
    check: &mut Check<'_>,
    blocks: &mut Blocks,
    counters: &Counters,
    range: Range<u64>,
    differs: &mut dyn FnMut(u64, u64, u32),
) -> Result<(), Error> {
    for cluster in range {
        let word = counters.word(cluster);
        let references = word & MOST_REFERENCES;
        let refcount = blocks.get(check, cluster)?;
        if is_mixed(word) {
            let at = cluster << check.layout.cluster_bits;
            check.reference(format!("cluster {cluster} at {at:#x} is used for two things at once"));
            if word & L2 != 0 {
                check.mixed.insert(cluster);
            }
        }
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
            (check.tell)(Finding { is_corruption: false, is_reference: false, what });
        } else {
            check.report.must_rebuild |= refcount == 0;
            if u64::from(references) > check.layout.most_refcount() {
                check.reference(what + ", more than it can tell");
            } else {
                check.corruption(what);
            }
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
        if self.loaded != Some(block) {
            let offset = self.table.get(block).map_or(0, |entry| entry & REFCOUNT_OFFSET);
            if offset == 0 || check.layout.within(offset) != 0 {
                return Ok(0);
            }
            self.loaded = None;
            storage::read(check.storage, &mut self.bytes, offset).map_err(check.failed(offset))?;
            self.loaded = Some(block);
        }
        Ok(refcount::get(&self.bytes, check.layout.refcount_order, (cluster & ((1 << bits) - 1)) as usize))
    }
}
