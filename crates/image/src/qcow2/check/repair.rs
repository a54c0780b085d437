//! Mending what a check finds.
//!
//! Refcounts follow references, never the other way round, and COPIED flags follow refcounts. No table entry that maps
//! guest data is touched. In version 3 the dirty bit is set meanwhile.

use std::sync::Arc;

use super::super::bits::*;
use super::super::header::Header;
use super::super::tables::Tables;
use super::{Finding, Report, WINDOW, check, check_in};
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
    let mut wrong = Vec::new();
    let mut fixed = 0;
    let before = check_in(storage.as_ref(), header, WINDOW, tell, &mut |cluster, refcount, references| {
        if fix == Fix::All || refcount > u64::from(references) {
            wrong.push((cluster, u64::from(references)));
            fixed += u64::from(refcount < u64::from(references));
        }
    })?;
    if fix == Fix::Leaks && before.must_rebuild {
        let what = "its refcounts have to be made anew, which is more than freeing leaked clusters".into();
        return Err(Error::Unsupported { name: storage.name().into(), what });
    }
    let bits = header.incompatible & (incompatible::DIRTY | incompatible::CORRUPT);
    if wrong.is_empty() && before.corruptions == 0 && bits == 0 {
        return Ok(Repaired { after: before.clone(), before, corruptions_fixed: 0 });
    }
    let mut tables = Tables::load(storage.clone(), None, header.clone(), true)?;
    if tables.layout.version >= 3 && header.incompatible & incompatible::DIRTY == 0 {
        tables.header.incompatible |= incompatible::DIRTY;
        tables.change_header();
        tables.commit()?;
    }
    let rebuild = fix == Fix::All && before.must_rebuild;
    if rebuild {
        rebuild_refcounts(storage, header, &mut tables)?;
    } else {
        for (cluster, references) in wrong {
            tables.assign(cluster, references)?;
        }
    }
    if fix == Fix::All {
        tables.commit()?;
        let layout = tables.layout;
        let end = tables.file_end() >> layout.cluster_bits;
        fixed += tables.mark_copied(|refcounts, cluster| {
            Ok(cluster < end.max(cluster) && refcounts.get(storage.as_ref(), cluster)? == 1)
        })?;
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

// Everything that is referred to, but the old refcount table and blocks, gets its refcount in new blocks.
fn rebuild_refcounts(storage: &Arc<dyn Storage>, header: &Header, tables: &mut Tables) -> Result<(), Error> {
    let without = Header { refcount_table_clusters: 0, ..header.clone() };
    let mut counts = Vec::new();
    check_in(storage.as_ref(), &without, WINDOW, &mut |_| {}, &mut |cluster, _, references| {
        counts.push((cluster, u64::from(references)));
    })?;
    tables.rebuild_refcounts();
    for (cluster, references) in counts {
        tables.assign(cluster, references)?;
    }
    Ok(())
}
