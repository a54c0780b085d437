//! Numbers of the qcow2 format. Section names are those of QEMU's `docs/interop/qcow2.rst`; limits that the document
//! leaves open are QEMU's, so that no image made here is refused there.

/// "QFI\xfb". Header.
pub const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a version 2 header.
pub const HEADER_V2_LEN: usize = 72;
/// Bytes of a version 3 header with the compression type. Additional fields.
pub const HEADER_V3_LEN: usize = 112;
/// Least header length of version 3.
pub const HEADER_V3_LEAST: u32 = 104;

/// Cluster sizes: 512 bytes to 2 MiB.
pub const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Cluster size unless asked for otherwise.
pub const DEFAULT_CLUSTER_BITS: u32 = 16;
/// Most bytes of an L1 table.
pub const MOST_L1: u64 = 32 << 20;
/// Most bytes of a refcount table.
pub const MOST_REFCOUNT_TABLE: u64 = 8 << 20;
/// Most snapshots.
pub const MOST_SNAPSHOTS: u32 = 65_536;
/// Most bytes of a snapshot table.
pub const MOST_SNAPSHOT_TABLE: u64 = 1024 * MOST_SNAPSHOTS as u64;
/// Most bytes of extra data of one snapshot.
pub const MOST_SNAPSHOT_EXTRA: u32 = 1024;
/// Most bytes of a backing file's name.
pub const MOST_BACKING_NAME: usize = 1023;

/// Incompatible features.
pub mod incompatible {
    /// Refcounts may be wrong.
    pub const DIRTY: u64 = 1 << 0;
    /// Some structure is damaged; not to be written.
    pub const CORRUPT: u64 = 1 << 1;
    /// Guest data lies in another file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// The compression type isn't deflate.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries of 128 bits, with subclusters.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// All that this program knows.
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Compatible feature: refcounts may be written late.
pub const LAZY_REFCOUNTS: u64 = 1 << 0;

/// Autoclear features: whoever writes and doesn't know one clears it.
pub mod autoclear {
    /// Bitmaps agree with the data.
    pub const BITMAPS: u64 = 1 << 0;
    /// The external data file can be read as a raw image.
    pub const DATA_FILE_RAW: u64 = 1 << 1;
}

/// Header extension types.
pub mod extension {
    /// End of the list.
    pub const END: u32 = 0;
    /// Name of the backing file's format.
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// Names of feature bits, for messages.
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    /// Where the bitmap directory is.
    pub const BITMAPS: u32 = 0x2385_2875;
    /// Full disk encryption header.
    pub const ENCRYPTION: u32 = 0x0537_be77;
    /// Name of the external data file.
    pub const DATA_FILE: u32 = 0x4441_5441;
}

/// L1 and L2 entries: the cluster behind this entry has refcount 1.
pub const COPIED: u64 = 1 << 63;
/// L2 entry: a compressed cluster descriptor.
pub const COMPRESSED: u64 = 1 << 62;
/// Standard cluster descriptor: reads zeros.
pub const ZERO: u64 = 1 << 0;
/// Host offset of L1, L2 and bitmap table entries.
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of a bitmap table entry that must be clear; the lowest is for entries without an offset.
pub const BITMAP_RESERVED: u64 = 0xff00_0000_0000_01fe;
/// Bits of an L1 entry that must be clear.
pub const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bits of a standard cluster descriptor that must be clear.
pub const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Refcount table entry: offset of a refcount block.
pub const REFCOUNT_OFFSET: u64 = 0xffff_ffff_ffff_fe00;
/// Subclusters of a cluster with extended L2 entries.
pub const SUBCLUSTERS: u32 = 32;
/// Least cluster size with extended L2 entries.
pub const EXTENDED_L2_LEAST_BITS: u32 = 14;
/// Units in which the length of a compressed cluster is told.
pub const COMPRESSED_SECTOR: u64 = 512;
/// Most bytes of a file whose offsets an entry can hold.
pub const MOST_OFFSET: u64 = 1 << 56;
