//! Damage to qcow2 images: fields of any structure that are out of range, overlap, are unaligned, lie behind the end or
//! refer to themselves; and files that are cut.

use std::fmt;

use crate::qcow2::Header;
use crate::qcow2::bits::{OFFSET, REFCOUNT_OFFSET};
use crate::qcow2::image::read_header;
use crate::testing::Memory;

/// Numbers below the argument, from noise or from a fuzzer.
pub type Choose<'a> = &'a mut dyn FnMut(u64) -> u64;

/// The structure that is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A fixed field.
    Header,
    /// Anything behind the fixed fields.
    Extensions,
    /// An entry of the active L1 table.
    L1,
    /// An entry of an active L2 table, of any kind.
    L2,
    /// An entry of an L2 table that says it is compressed.
    Compressed,
    /// The second half of an extended L2 entry.
    Subclusters,
    /// An entry of the refcount table.
    RefcountTable,
    /// A refcount.
    RefcountBlock,
    /// A word of the snapshot table.
    Snapshots,
    /// An entry of a snapshot's L1 table.
    SnapshotL1,
    /// A word of the bitmap directory, or of a bitmap's table.
    Bitmaps,
    /// The file's end.
    Cut,
}

/// All of them.
pub const PLACES: [Place; 12] = [
    Place::Header,
    Place::Extensions,
    Place::L1,
    Place::L2,
    Place::Compressed,
    Place::Subclusters,
    Place::RefcountTable,
    Place::RefcountBlock,
    Place::Snapshots,
    Place::SnapshotL1,
    Place::Bitmaps,
    Place::Cut,
];

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub place: Place,
    /// Offset in the file.
    pub at: u64,
    /// What stood there.
    pub old: u64,
    /// What stands there now.
    pub new: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:#x}: {:#x} became {:#x}", self.place, self.at, self.old, self.new)
    }
}

fn be64(image: &[u8], at: u64) -> u64 {
    let at = at as usize;
    image.get(at..at.saturating_add(8)).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

// Writes the low `len` bytes. Says whether the place is in the file.
fn put(image: &mut [u8], at: u64, value: u64, len: usize) -> bool {
    let at = at as usize;
    let bytes = value.to_be_bytes();
    match (image.get_mut(at..at.saturating_add(len)), bytes.get(8 - len..)) {
        (Some(place), Some(bytes)) => {
            place.copy_from_slice(bytes);
            true
        }
        _ => false,
    }
}

/// An image's bytes and what its header says.
struct Patient<'a> {
    image: &'a mut Vec<u8>,
    header: Header,
}

impl Patient<'_> {
    // Entries of a table that `is` says yes to; any one now and then.
    fn entry(&self, table: u64, count: u64, step: u64, is: impl Fn(u64) -> bool, choose: Choose<'_>) -> Option<u64> {
        let fitting: Vec<u64> =
            (0..count.min(1 << 13)).map(|n| table + n * step).filter(|at| is(be64(self.image, *at))).collect();
        if choose(8) == 0 && count > 0 {
            return Some(table + choose(count) * step);
        }
        let index = choose((fitting.len() as u64).max(1)) as usize;
        fitting.get(index).copied()
    }

    fn l2_entry(&self, is: impl Fn(u64) -> bool, choose: Choose<'_>) -> Option<u64> {
        let header = &self.header;
        let used = |entry| entry & OFFSET != 0;
        let l1 = self.entry(header.l1_offset, header.l1_entries.into(), 8, used, choose)?;
        let table = be64(self.image, l1) & OFFSET;
        let step = header.l2_entry_len();
        if table == 0 { None } else { self.entry(table, header.cluster_size() / step, step, is, choose) }
    }

    // Where the damage goes, and the bytes of the field.
    fn place(&self, place: Place, choose: Choose<'_>) -> Option<(u64, usize)> {
        let header = &self.header;
        let cluster = header.cluster_size();
        let used = |entry| entry & OFFSET != 0;
        let word = |at: u64| (at, 8);
        Some(match place {
            Place::Header => {
                // Fields and their widths; what the magic number and encryption say is another format.
                const FIELDS: [(u64, usize); 19] = [
                    (4, 4),
                    (8, 8),
                    (16, 4),
                    (20, 4),
                    (24, 8),
                    (32, 4),
                    (36, 4),
                    (40, 8),
                    (48, 8),
                    (56, 4),
                    (60, 4),
                    (64, 8),
                    (72, 8),
                    (80, 8),
                    (88, 8),
                    (96, 4),
                    (100, 4),
                    (104, 1),
                    (105, 1),
                ];
                let fields = if header.version == 3 { FIELDS.len() } else { 12 };
                *FIELDS.get(choose(fields as u64) as usize)?
            }
            Place::Extensions => (if header.version == 3 { 112 } else { 72 } + choose(300), 1),
            Place::L1 => word(self.entry(header.l1_offset, header.l1_entries.into(), 8, used, choose)?),
            Place::L2 => word(self.l2_entry(|entry| entry != 0, choose)?),
            Place::Compressed => word(self.l2_entry(|entry| entry >> 62 & 1 != 0, choose)?),
            Place::Subclusters if header.has_extended_l2() => word(self.l2_entry(|entry| entry != 0, choose)? + 8),
            Place::RefcountTable => {
                let count = u64::from(header.refcount_table_clusters) * cluster / 8;
                word(self.entry(header.refcount_table_offset, count, 8, |entry| entry != 0, choose)?)
            }
            Place::RefcountBlock => {
                let block = be64(self.image, header.refcount_table_offset) & REFCOUNT_OFFSET;
                let used = (self.image.len() as u64 / cluster + 1) << header.refcount_order;
                (block + choose((used / 8 + 1).min(cluster)), 1)
            }
            Place::Snapshots if header.snapshots > 0 => (header.snapshots_offset + choose(17) * 4, 4),
            Place::SnapshotL1 if header.snapshots > 0 => {
                let l1 = be64(self.image, header.snapshots_offset);
                let count = be64(self.image, header.snapshots_offset + 8) >> 32;
                word(self.entry(l1, count, 8, used, choose)?)
            }
            Place::Bitmaps => {
                let directory = header.bitmaps?.directory_offset;
                if choose(4) == 0 { word(be64(self.image, directory)) } else { (directory + choose(6) * 4, 4) }
            }
            Place::Subclusters | Place::Snapshots | Place::SnapshotL1 | Place::Cut => return None,
        })
    }

    // What takes the place of a field at `at`.
    fn value(&self, old: u64, at: u64, len: usize, choose: Choose<'_>) -> u64 {
        let cluster = self.header.cluster_size();
        let file = self.image.len() as u64;
        let bits = 8 * len as u64;
        let flags = old & !OFFSET;
        let in_file = choose(file.max(1));
        match choose(12) {
            0 => 0,
            1 => old ^ 1 << choose(bits),
            2 => flags | (in_file & !(cluster - 1)),
            3 => flags | in_file,
            // Itself.
            4 => flags | (at & !(cluster - 1)),
            5 => flags | (file.next_multiple_of(cluster) + choose(9) * cluster),
            6 => flags | (1 << 55),
            7 => (1 << (bits - 1)) - choose(3),
            8 => u64::MAX - choose(3) * cluster,
            9 => old.wrapping_add(1 << choose(bits.min(32))),
            10 => choose(70),
            _ => old ^ 1 << (bits - 1),
        }
    }
}

/// Damages an image at a place. Says what it did, or nothing where the image has no such place.
pub fn damage(image: &mut Vec<u8>, place: Place, choose: Choose<'_>) -> Option<Damage> {
    let header = read_header(&Memory::of(image.clone())).ok()?;
    let file = image.len() as u64;
    if place == Place::Cut {
        let cluster = header.cluster_size();
        let new = if choose(2) == 0 { choose(file.max(1)) } else { file.saturating_sub(choose(cluster)) };
        image.truncate(new as usize);
        return Some(Damage { place, at: new, old: file, new });
    }
    let patient = Patient { image, header };
    let (at, len) = patient.place(place, choose)?;
    let shift = 64 - 8 * len as u64;
    let old = be64(patient.image, at) >> shift;
    let new = patient.value(old, at, len, choose) << shift >> shift;
    put(image, at, new, len).then_some(Damage { place, at, old, new })
}
