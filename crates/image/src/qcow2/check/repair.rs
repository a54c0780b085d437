//! Mending what a check finds.
//!
//! Refcounts follow references, never the other way round, and COPIED flags follow refcounts. No table entry that maps
//! guest data is touched. In version 3 the dirty bit is set meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::bits::*;
use super::super::header::Header;
use super::super::tables::Tables;
use super::{Finding, Report, Scope, WINDOW, check, check_in, file_len, free_end};
use crate::Error;
use crate::storage::Storage;

/// What is to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fix {
    /// Clusters that are taken and used by nothing.
    Leaks,
    /// Everything that can be.
    All,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Repaired {
    /// What was found before.
    pub before: Report,
    /// What is left.
    pub after: Report,
    /// Corruptions that were mended: wrong refcounts, and the flags that were wrong after them.
    pub corruptions_fixed: u64,
}

impl Repaired {
    /// Leaks that are gone.
    pub fn leaks_fixed(&self) -> u64 {
        self.before.leaks.saturating_sub(self.after.leaks)
    }
}

/// Checks an image and mends it. `tell` hears of what was found before.
///
/// # Errors
/// When the host fails.
pub fn repair(
    storage: &Arc<dyn Storage>,
    header: &Header,
    fix: Fix,
    tell: &mut dyn FnMut(Finding),
) -> Result<Repaired, Error> {
    let (mut wrong, mut fixed) = (false, 0);
    let scope = Scope { window: WINDOW, file_len: file_len(storage.as_ref())? };
    let (before, _) = check_in(storage.as_ref(), header, scope, tell, &mut |_, refcount, references| {
        if fix == Fix::All || refcount > u64::from(references) {
            wrong = true;
            fixed += u64::from(refcount < u64::from(references));
        }
    })?;
    if fix == Fix::Leaks && before.must_rebuild {
        let what = "its refcounts have to be made anew, which is more than freeing leaked clusters".into();
        return Err(Error::Unsupported { name: storage.name().into(), what });
    }
    let bits = header.incompatible & (incompatible::DIRTY | incompatible::CORRUPT);
    if !wrong && before.corruptions == 0 && bits == 0 {
        return Ok(Repaired { after: before.clone(), before, corruptions_fixed: 0 });
    }
    let mut tables = Tables::load(storage.clone(), None, header.clone(), true)?;
    if tables.layout.version >= 3 && header.incompatible & incompatible::DIRTY == 0 {
        tables.header.incompatible |= incompatible::DIRTY;
        tables.change_header();
        tables.commit()?;
    }
    let mixed = if fix == Fix::All && before.must_rebuild {
        // What is referred to by anything but the old refcount table and blocks gets its refcount in new blocks. Nothing
        // may refer to their place already: what a file that was cut has lost reads zeros instead.
        let without = Header { refcount_table_clusters: 0, ..header.clone() };
        let end = free_end(storage.as_ref(), header)?;
        let file_len = end << tables.layout.cluster_bits;
        tables.rebuild_refcounts(end);
        assign_references(storage, &without, Scope { file_len, ..scope }, Fix::All, &mut tables)?
    } else {
        assign_references(storage, header, scope, fix, &mut tables)?
    };
    if fix == Fix::All {
        tables.commit()?;
        tables.leave_alone(mixed);
        fixed += tables.mark_copied(|refcounts, cluster| Ok(refcounts.get(storage.as_ref(), cluster)? == 1))?;
    }
    tables.commit()?;
    let gone = tables.take_gone();
    tables.reclaim(gone)?;
    tables.commit()?;
    let after = check(storage.as_ref(), &tables.header, &mut |_| {})?;
    // Refcounts are as right as they can be. What is left of anything else stays marked, if it was.
    if tables.layout.version >= 3 {
        let mended = if after.corruptions == 0 { incompatible::CORRUPT } else { 0 };
        tables.header.incompatible &= !(incompatible::DIRTY | mended);
        tables.change_header();
        tables.commit()?;
    }
    Ok(Repaired { before, after, corruptions_fixed: fixed })
}

// Each cluster with a wrong refcount gets the right one. That is counted once more and not kept: it may be all of them.
// Returns which L2 tables lie on something else.
fn assign_references(
    storage: &Arc<dyn Storage>,
    header: &Header,
    scope: Scope,
    fix: Fix,
    tables: &mut Tables,
) -> Result<BTreeSet<u64>, Error> {
    let (mut outcome, most) = (Ok(()), tables.layout.most_refcount());
    let (_, mixed) = check_in(storage.as_ref(), header, scope, &mut |_| {}, &mut |cluster, refcount, references| {
        if outcome.is_ok() && (fix == Fix::All || refcount > u64::from(references)) {
            // What has more references than its refcount can tell keeps being told by every check.
            outcome = tables.assign(cluster, u64::from(references).min(most));
            if outcome.is_ok() && tables.is_crowded() {
                outcome = tables.spill();
            }
        }
    })?;
    outcome.map(|()| mixed)
}
