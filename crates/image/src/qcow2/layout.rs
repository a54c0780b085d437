//! Arithmetic of clusters, tables and entries: what follows from an image's cluster size, refcount width and version.

use super::bits::*;
use super::header::Header;

/// Sizes that don't change while an image is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Log2 of bytes of a cluster.
    pub cluster_bits: u32,
    /// Log2 of entries of an L2 table.
    pub l2_bits: u32,
    /// Whether L2 entries have 128 bits.
    pub extended: bool,
    /// 2 or 3.
    pub version: u32,
    /// Log2 of bits of a refcount.
    pub refcount_order: u32,
    /// Guest data lies in another file, each cluster at its own guest offset.
    pub data_file: bool,
}

impl Layout {
    /// That of an image with this header.
    pub fn of(header: &Header) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            l2_bits: header.l2_bits(),
            extended: header.has_extended_l2(),
            version: header.version,
            refcount_order: header.refcount_order,
            data_file: header.incompatible & incompatible::DATA_FILE != 0,
        }
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of a subcluster, or of a cluster where there are none.
    pub fn subcluster(&self) -> u64 {
        if self.extended { self.cluster() / u64::from(SUBCLUSTERS) } else { self.cluster() }
    }

    /// Where the cluster of `offset` begins.
    pub fn floor(&self, offset: u64) -> u64 {
        offset & !(self.cluster() - 1)
    }

    /// Offset within its cluster.
    pub fn within(&self, offset: u64) -> u64 {
        offset & (self.cluster() - 1)
    }

    /// Clusters that hold `len` bytes.
    pub fn clusters(&self, len: u64) -> u64 {
        len.div_ceil(self.cluster())
    }

    /// Bytes of an L2 entry.
    pub fn entry_len(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Index into the L1 table of a guest offset.
    pub fn l1_index(&self, guest: u64) -> usize {
        guest.checked_shr(self.cluster_bits + self.l2_bits).unwrap_or(0) as usize
    }

    /// Index into its L2 table of a guest offset.
    pub fn l2_index(&self, guest: u64) -> u64 {
        guest >> self.cluster_bits & ((1 << self.l2_bits) - 1)
    }

    /// Guest bytes that one L2 table maps.
    pub fn l2_reach(&self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits)
    }

    /// Log2 of the refcounts of a refcount block.
    pub fn refcounts_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.refcount_order
    }

    /// Greatest refcount.
    pub fn most_refcount(&self) -> u64 {
        if self.refcount_order == 6 { u64::MAX } else { (1 << (1 << self.refcount_order)) - 1 }
    }
}

/// What stands behind an L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: the backing file's contents, or zeros.
    Unallocated,
    /// Zeros; `host` is kept for it.
    Zero {
        /// Offset of the cluster kept.
        host: Option<u64>,
    },
    /// Data, or with subclusters whatever the bitmap says of each.
    Standard {
        /// Offset of the cluster.
        host: u64,
    },
    /// A compressed cluster.
    Compressed {
        /// Where its data begin.
        host: u64,
        /// Most bytes of it.
        len: u64,
    },
}

/// An L2 entry: descriptor, and with subclusters their bitmap (low half allocated, high half zeros).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// The cluster descriptor.
    pub descriptor: u64,
    /// The subcluster bitmap; 0 without subclusters.
    pub bitmap: u64,
}

/// All subclusters allocated.
pub const ALL_ALLOCATED: u64 = 0x0000_0000_ffff_ffff;
/// All subclusters read zeros.
pub const ALL_ZEROS: u64 = 0xffff_ffff_0000_0000;

impl Entry {
    /// Decodes the 8 or 16 bytes of an entry.
    pub fn decode(bytes: &[u8]) -> Self {
        let word = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
        Self { descriptor: word(0), bitmap: if bytes.len() == 16 { word(8) } else { 0 } }
    }

    /// A data cluster that nobody shares.
    pub fn data(layout: &Layout, host: u64) -> Self {
        Self { descriptor: host | COPIED, bitmap: if layout.extended { ALL_ALLOCATED } else { 0 } }
    }

    /// A cluster of zeros without space.
    pub fn zeros(layout: &Layout) -> Self {
        if layout.extended { Self { descriptor: 0, bitmap: ALL_ZEROS } } else { Self { descriptor: ZERO, bitmap: 0 } }
    }

    /// A compressed cluster of `len` bytes at `host`.
    pub fn compressed(layout: &Layout, host: u64, len: u64) -> Self {
        let shift = compressed_shift(layout);
        let last = (host + len - 1) / COMPRESSED_SECTOR;
        let sectors = last - host / COMPRESSED_SECTOR;
        Self { descriptor: COMPRESSED | sectors << shift | host, bitmap: 0 }
    }

    /// Whether refcount 1 is promised.
    pub fn is_copied(&self) -> bool {
        self.descriptor & COPIED != 0
    }

    /// Host offset of a standard descriptor.
    pub fn offset(&self) -> u64 {
        self.descriptor & OFFSET
    }

    /// Decodes the entry. With external data, offset 0 is a place like any other: COPIED tells.
    pub fn kind(&self, layout: &Layout) -> Kind {
        if self.descriptor & COMPRESSED != 0 {
            let shift = compressed_shift(layout);
            let host = self.descriptor & ((1 << shift) - 1);
            let sectors = (self.descriptor & !(COPIED | COMPRESSED)) >> shift;
            return Kind::Compressed { host, len: (sectors + 1) * COMPRESSED_SECTOR - host % COMPRESSED_SECTOR };
        }
        let there = self.offset() != 0 || (layout.data_file && self.is_copied());
        if layout.extended {
            return match there {
                true => Kind::Standard { host: self.offset() },
                false if self.bitmap == ALL_ZEROS => Kind::Zero { host: None },
                false if self.bitmap == 0 => Kind::Unallocated,
                // Some subclusters read zeros, none has data.
                false => Kind::Zero { host: None },
            };
        }
        // Version 2 has no such flag; the bit must be clear there and is told by the check.
        if self.descriptor & ZERO != 0 && layout.version >= 3 {
            return Kind::Zero { host: there.then(|| self.offset()) };
        }
        if there { Kind::Standard { host: self.offset() } } else { Kind::Unallocated }
    }

    /// Why the entry can't be right, if it can't.
    pub fn fault(&self, layout: &Layout) -> Option<String> {
        if self.descriptor & COMPRESSED != 0 {
            return (layout.data_file).then(|| "a compressed cluster beside an external data file".into());
        }
        if layout.within(self.offset()) != 0 {
            return Some(format!("a data cluster at {:#x}, which is no cluster's start", self.offset()));
        }
        if layout.extended {
            let both = self.bitmap & self.bitmap >> 32 & ALL_ALLOCATED;
            if both != 0 {
                return Some(format!("subclusters that are allocated and zeros at once ({:#018x})", self.bitmap));
            }
            if self.bitmap & ALL_ALLOCATED != 0 && self.offset() == 0 && !layout.data_file {
                return Some(format!("allocated subclusters without a cluster ({:#018x})", self.bitmap));
            }
        }
        None
    }
}

fn compressed_shift(layout: &Layout) -> u32 {
    62 - (layout.cluster_bits - 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(cluster_bits: u32, extended: bool) -> Layout {
        let l2_bits = cluster_bits - if extended { 4 } else { 3 };
        Layout { cluster_bits, l2_bits, extended, version: 3, refcount_order: 4, data_file: false }
    }

    #[test]
    fn descriptors_are_those_of_the_standard() {
        let layout = layout(16, false);
        assert_eq!(Entry::data(&layout, 0x50000).descriptor, 0x8000_0000_0005_0000);
        // Cluster size 64 KiB: the offset has 54 bits, the sectors 8.
        let entry = Entry::compressed(&layout, 0x5_1234, 1000);
        assert_eq!(entry.descriptor, 1 << 62 | 2 << 54 | 0x5_1234);
        assert_eq!(entry.kind(&layout), Kind::Compressed { host: 0x5_1234, len: 3 * 512 - 0x34 });
        assert_eq!(Entry { descriptor: 1, bitmap: 0 }.kind(&layout), Kind::Zero { host: None });
        let kept = Entry { descriptor: COPIED | 0x50001, bitmap: 0 };
        assert_eq!(kept.kind(&layout), Kind::Zero { host: Some(0x50000) });
        assert!(Entry { descriptor: 0x50200, bitmap: 0 }.fault(&layout).is_some());
    }

    #[test]
    fn compressed_clusters_of_every_size_come_back() {
        for bits in CLUSTER_BITS {
            let layout = layout(bits, false);
            for (host, len) in [(512, 1), (513, 511), (513, 512), (0x12_3456, (1 << bits) - 1), (511, 2)] {
                let Kind::Compressed { host: at, len: most } = Entry::compressed(&layout, host, len).kind(&layout)
                else {
                    panic!("{bits}")
                };
                assert_eq!(at, host);
                assert!(most >= len && most < len + 512, "{bits} {host} {len} {most}");
                assert_eq!((at + most) % 512, 0);
            }
        }
    }

    #[test]
    fn subclusters_without_a_cluster_are_told() {
        let layout = layout(16, true);
        assert_eq!(Entry::zeros(&layout).kind(&layout), Kind::Zero { host: None });
        assert!(Entry { descriptor: 0, bitmap: 1 }.fault(&layout).is_some());
        assert!(Entry { descriptor: 0x10000, bitmap: 1 << 32 | 1 }.fault(&layout).is_some());
        assert_eq!(Entry { descriptor: 0x10000, bitmap: 1 << 33 | 1 }.fault(&layout), None);
    }

    #[test]
    fn refcounts_of_every_width_have_their_most() {
        let most = |refcount_order| Layout { refcount_order, ..layout(16, false) }.most_refcount();
        assert_eq!([0, 1, 3, 4, 5, 6].map(most), [1, 3, 255, 65535, u64::from(u32::MAX), u64::MAX]);
    }
}
