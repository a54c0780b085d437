//! Reading: from a guest range to stretches that lie together in the file.

use std::io::IoSliceMut;
use std::sync::atomic::Ordering;

use super::bits::*;
use super::image::Qcow2;
use super::layout::{Entry, Kind, Layout};
use super::tables::Tables;
use crate::storage::{self, Storage};
use crate::{BlockDevice, Error, Operation};

/// What a stretch of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// What the backing file says, or zeros.
    Unallocated,
    /// As unallocated, in subclusters of a cluster that has a place.
    Kept {
        /// Offset of that place.
        host: u64,
    },
    /// Zeros; `host` is kept for them.
    Zero {
        /// Offset of the space kept.
        host: Option<u64>,
    },
    /// Data at `host`.
    Data {
        /// Offset in the data file or the image.
        host: u64,
    },
    /// Within one compressed cluster, whose `len` bytes begin at `host`.
    Compressed {
        /// Offset of its data.
        host: u64,
        /// Most bytes of it.
        len: u64,
    },
}

/// A stretch of the disk that is of one kind and lies together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// What it is.
    pub contents: Contents,
}

// What the part of a cluster is that begins `within` bytes into it, and how far that goes within the cluster.
fn part(layout: &Layout, entry: Entry, within: u64) -> Extent {
    let rest = layout.cluster() - within;
    let whole = |contents| Extent { len: rest, contents };
    let kind = entry.kind(layout);
    if !layout.extended {
        return whole(match kind {
            Kind::Unallocated => Contents::Unallocated,
            Kind::Zero { host } => Contents::Zero { host: host.map(|host| host + within) },
            Kind::Standard { host } => Contents::Data { host: host + within },
            Kind::Compressed { host, len } => Contents::Compressed { host, len },
        });
    }
    let host = match kind {
        Kind::Compressed { host, len } => return whole(Contents::Compressed { host, len }),
        Kind::Standard { host } => Some(host),
        _ => None,
    };
    let state = |number: u64| (entry.bitmap >> number & 1 != 0, entry.bitmap >> (number + 32) & 1 != 0);
    let first = within / layout.subcluster();
    let same = state(first);
    let end = (first..u64::from(SUBCLUSTERS)).find(|n| state(*n) != same).unwrap_or(SUBCLUSTERS.into());
    let contents = match (same, host) {
        ((true, _), Some(host)) => Contents::Data { host: host + within },
        ((_, true), host) => Contents::Zero { host: host.map(|host| host + within) },
        (_, Some(host)) => Contents::Kept { host: host + within },
        _ => Contents::Unallocated,
    };
    Extent { len: end * layout.subcluster() - within, contents }
}

// Whether `next`, right behind `extent` on the disk, goes on where it ends.
fn goes_on(extent: Extent, next: Contents) -> bool {
    match (extent.contents, next) {
        (Contents::Unallocated, Contents::Unallocated) => true,
        (Contents::Zero { host: None }, Contents::Zero { host: None }) => true,
        (Contents::Zero { host: Some(a) }, Contents::Zero { host: Some(b) }) => a + extent.len == b,
        (Contents::Data { host: a }, Contents::Data { host: b }) => a + extent.len == b,
        (Contents::Kept { host: a }, Contents::Kept { host: b }) => a + extent.len == b,
        _ => false,
    }
}

/// The extent at `offset`, at most `most` bytes (at least 1).
///
/// # Errors
/// When a table can't be read or is wrong.
pub fn extent(tables: &mut Tables, offset: u64, most: u64) -> Result<Extent, Error> {
    let layout = tables.layout;
    let mut found: Option<Extent> = None;
    let mut at = offset;
    // Extents are short or long: few entries are decoded first, then more and more.
    let mut batch = 4u64;
    'pieces: while at - offset < most {
        let clusters = (layout.within(at) + most - (at - offset)).div_ceil(layout.cluster());
        // Where no table is, none is read.
        if tables.l2_table(at)?.is_none() {
            let next = Extent { len: layout.l2_reach() - at % layout.l2_reach(), contents: Contents::Unallocated };
            match &mut found {
                None => found = Some(next),
                Some(found) if goes_on(*found, next.contents) => found.len += next.len,
                Some(_) => break,
            }
            at += next.len;
            continue;
        }
        batch = u64::saturating_mul(batch, 4);
        for entry in tables.entries(at, clusters.min(batch))? {
            let cluster_end = layout.floor(at) + layout.cluster();
            while at < cluster_end {
                let next = part(&layout, entry, layout.within(at));
                match &mut found {
                    None => found = Some(next),
                    Some(found) if goes_on(*found, next.contents) => found.len += next.len,
                    Some(_) => break 'pieces,
                }
                at += next.len;
            }
        }
    }
    let found = found.unwrap_or(Extent { len: most, contents: Contents::Unallocated });
    Ok(Extent { len: found.len.min(most), ..found })
}

impl Qcow2 {
    /// What the disk is at `offset`, for at most `most` bytes.
    ///
    /// # Errors
    /// When a table can't be read or is wrong.
    pub fn extent(&self, offset: u64, most: u64) -> Result<Extent, Error> {
        extent(&mut self.tables.lock(), offset, most)
    }

    /// Whether far more clusters are taken than the file has space for, as after `preallocation=metadata`.
    ///
    /// # Errors
    /// When refcounts can't be read.
    pub fn is_preallocated(&self) -> Result<bool, Error> {
        let failed = self.failed(Operation::Read, 0);
        let (len, real) = (self.storage.len().map_err(&failed)?, self.storage.allocated().map_err(&failed)?);
        let real = real >> self.layout.cluster_bits;
        // As QEMU has it: a tenth more, and at least two.
        let most = (real * 10 / 9).max(real + 2);
        let mut tables = self.tables.lock();
        let mut taken = 0;
        for cluster in 0..self.layout.clusters(len) {
            taken += u64::from(tables.refcounts.get(self.storage.as_ref(), cluster).map_err(&failed)? > 0);
            if taken >= most {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn read_buffers(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<(), Error> {
        let (mut rest, mut at) = (buffers, offset);
        IoSliceMut::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let len = rest.iter().map(|buffer| buffer.len() as u64).sum();
            let extent = self.extent(at, len)?;
            if extent.len == len {
                return self.read_extent(extent, rest, at);
            }
            let mut head = take(rest, extent.len as usize);
            self.read_extent(extent, &mut head, at)?;
            drop(head);
            IoSliceMut::advance_slices(&mut rest, extent.len as usize);
            at += extent.len;
        }
        Ok(())
    }

    fn read_extent(&self, extent: Extent, buffers: &mut [IoSliceMut<'_>], at: u64) -> Result<(), Error> {
        match extent.contents {
            Contents::Zero { .. } => {
                buffers.iter_mut().for_each(|buffer| buffer.fill(0));
                Ok(())
            }
            Contents::Data { host } => {
                let wanted: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
                let there = self.data.read_at(buffers, host).map_err(self.failed(Operation::Read, host))?;
                if there < wanted { self.refuse_cut(host, there, wanted) } else { Ok(()) }
            }
            Contents::Unallocated | Contents::Kept { .. } => read_below(self.backing.as_deref(), buffers, at),
            Contents::Compressed { host, len } => {
                let cluster = self.codec.cluster(self.storage.as_ref(), &self.layout, host, len)?;
                let mut from = cluster.get(self.layout.within(at) as usize..).unwrap_or_default();
                for buffer in buffers {
                    let (head, tail) = from.split_at(buffer.len().min(from.len()));
                    buffer.get_mut(..head.len()).unwrap_or_default().copy_from_slice(head);
                    from = tail;
                }
                Ok(())
            }
        }
    }

    // A file may end before its last cluster does: what is behind reads zeros. But not what was there once.
    fn refuse_cut(&self, host: u64, there: u64, wanted: u64) -> Result<(), Error> {
        if host + there >= (host + wanted).min(self.end.load(Ordering::Acquire)) {
            return Ok(());
        }
        let end = self.data.len().unwrap_or(host + there);
        let why = format!("the file ends at byte {end}: it was cut short while it was in use");
        Err(self.failed(Operation::Read, host)(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, why)))
    }

    /// Where a read of the whole range may go as it is.
    pub(super) fn place_of_read(&self, offset: u64, len: u64) -> Option<u64> {
        match self.extent(offset, len).ok()? {
            Extent { len: there, contents: Contents::Data { host } } if there == len => Some(host),
            _ => None,
        }
    }

    /// Reads one buffer. The caller holds `requests`.
    pub(super) fn read_one(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        self.read_buffers(&mut [IoSliceMut::new(buffer)], offset)
    }
}

/// Reads what lies below: the backing file, and zeros behind its end or without one.
///
/// # Errors
/// When the backing file can't be read.
pub fn read_below(backing: Option<&dyn BlockDevice>, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<(), Error> {
    let total: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
    let there = backing.map_or(0, |backing| backing.len().saturating_sub(offset)).min(total);
    let mut skip = there;
    for buffer in buffers.iter_mut() {
        let from = skip.min(buffer.len() as u64);
        skip -= from;
        buffer.get_mut(from as usize..).unwrap_or_default().fill(0);
    }
    match backing {
        Some(backing) if there == total => backing.read_at(buffers, offset),
        Some(backing) if there > 0 => backing.read_at(&mut take(buffers, there as usize), offset),
        _ => Ok(()),
    }
}

// The first `len` bytes of the buffers.
fn take<'a>(buffers: &'a mut [IoSliceMut<'_>], len: usize) -> Vec<IoSliceMut<'a>> {
    let mut left = len;
    let mut head = Vec::new();
    for buffer in buffers {
        if left == 0 {
            break;
        }
        let part = buffer.len().min(left);
        left -= part;
        head.push(IoSliceMut::new(buffer.get_mut(..part).unwrap_or_default()));
    }
    head
}

/// Reads the bytes of a compressed cluster; the file may end within the last sector of it.
///
/// # Errors
/// When the host fails.
pub fn compressed_bytes(storage: &dyn Storage, host: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    storage::read(storage, &mut bytes, host)?;
    Ok(bytes)
}
