//! The header of a qcow2 image: fixed fields, extensions, backing file's name (Header; Header extensions).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::bits::*;
use crate::SECTOR;

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// The name under which users know it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        }
    }
}

/// The bitmaps extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bitmaps {
    /// How many there are.
    pub count: u32,
    /// Bytes of the directory.
    pub directory_len: u64,
    /// Where it is.
    pub directory_offset: u64,
}

/// All that the header says, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Log2 of the cluster size in bytes.
    pub cluster_bits: u32,
    /// Length of the disk in bytes.
    pub size: u64,
    /// Entries of the active L1 table.
    pub l1_entries: u32,
    /// Its place.
    pub l1_offset: u64,
    /// Place of the refcount table.
    pub refcount_table_offset: u64,
    /// Its clusters.
    pub refcount_table_clusters: u32,
    /// Snapshots.
    pub snapshots: u32,
    /// Place of the snapshot table.
    pub snapshots_offset: u64,
    /// Features that a program must know to open the image.
    pub incompatible: u64,
    /// Features that a program may ignore.
    pub compatible: u64,
    /// Features that a program that writes must know or clear.
    pub autoclear: u64,
    /// Log2 of the bits of a refcount.
    pub refcount_order: u32,
    /// How clusters are compressed.
    pub compression: Compression,
    /// Name of the backing file as it stands in the header.
    pub backing: Option<OsString>,
    /// Name of the backing file's format.
    pub backing_format: Option<String>,
    /// Name of the external data file.
    pub data_file: Option<OsString>,
    /// Bitmaps.
    pub bitmaps: Option<Bitmaps>,
    /// Extensions that this program doesn't know, which are kept.
    pub unknown: Vec<(u32, Vec<u8>)>,
    /// Header bytes behind those that this program knows, which are kept.
    pub rest: Vec<u8>,
    /// The backing file's name as it stands in the file, and where.
    pub name_place: Option<(usize, OsString)>,
}

/// Why a header can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The magic number is another's.
    #[error("it has no qcow2 magic number")]
    Magic,
    /// It contradicts itself or the format.
    #[error("{0}")]
    Damaged(String),
    /// It needs something that this program doesn't have.
    #[error("{0}")]
    Unsupported(String),
}

fn damaged<T>(what: impl Into<String>) -> Result<T, HeaderError> {
    Err(HeaderError::Damaged(what.into()))
}

// What isn't there reads 0; that a header ends too early is told on its own.
fn be32(bytes: &[u8], at: usize) -> u32 {
    super::bytes::be32(bytes, at).unwrap_or(0)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    super::bytes::be64(bytes, at).unwrap_or(0)
}

/// Whether an image begins with qcow2's magic number.
pub fn is_qcow2(start: &[u8]) -> bool {
    start.len() >= 4 && be32(start, 0) == MAGIC
}

/// Cluster size in bytes that the fixed fields tell, before anything else is read.
///
/// # Errors
/// When it is no qcow2 image, or the size is out of range.
pub fn cluster_size(start: &[u8]) -> Result<u64, HeaderError> {
    if !is_qcow2(start) {
        return Err(HeaderError::Magic);
    }
    let bits = be32(start, 20);
    if !CLUSTER_BITS.contains(&bits) {
        return damaged(format!("its cluster size is 2^{bits} bytes; 2^9 to 2^21 are possible"));
    }
    Ok(1 << bits)
}

impl Header {
    /// Decodes the first cluster of an image.
    ///
    /// # Errors
    /// When a field is out of range, or asks for what this program doesn't have.
    pub fn decode(first: &[u8]) -> Result<Self, HeaderError> {
        let cluster = cluster_size(first)?;
        if first.len() < HEADER_V2_LEN {
            return damaged(format!("it ends within its header, after {} bytes", first.len()));
        }
        let version = be32(first, 4);
        if version == 1 || version > 3 {
            return Err(HeaderError::Unsupported(format!("its version is {version}; 2 and 3 are known")));
        } else if version == 0 {
            return damaged("its version is 0");
        }
        let mut header = Header {
            version,
            cluster_bits: be32(first, 20),
            size: be64(first, 24),
            l1_entries: be32(first, 36),
            l1_offset: be64(first, 40),
            refcount_table_offset: be64(first, 48),
            refcount_table_clusters: be32(first, 56),
            snapshots: be32(first, 60),
            snapshots_offset: be64(first, 64),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            compression: Compression::Zlib,
            backing: None,
            backing_format: None,
            data_file: None,
            bitmaps: None,
            unknown: Vec::new(),
            rest: Vec::new(),
            name_place: None,
        };
        let mut len = HEADER_V2_LEN;
        if version == 3 {
            len = header.decode_version_3(first, cluster)?;
        }
        header.check_features(first)?;
        let (name, name_len) = (be64(first, 8), be32(first, 16) as usize);
        let end = if name == 0 { cluster } else { name.min(cluster) };
        header.decode_extensions(first, len, end as usize)?;
        if name != 0 {
            header.decode_backing(first, name, name_len, len)?;
        }
        header.check_ranges()?;
        Ok(header)
    }

    // Returns the header's length.
    fn decode_version_3(&mut self, first: &[u8], cluster: u64) -> Result<usize, HeaderError> {
        if first.len() < HEADER_V3_LEAST as usize {
            return damaged(format!("it ends within its header, after {} bytes", first.len()));
        }
        self.incompatible = be64(first, 72);
        self.compatible = be64(first, 80);
        self.autoclear = be64(first, 88);
        self.refcount_order = be32(first, 96);
        let len = be32(first, 100);
        if len < HEADER_V3_LEAST || !len.is_multiple_of(8) || u64::from(len) > cluster {
            return damaged(format!("its header length is {len}"));
        }
        if self.refcount_order > 6 {
            return damaged(format!("its refcounts have 2^{} bits; 64 are the most", self.refcount_order));
        }
        let len = len as usize;
        let Some(all) = first.get(..len) else { return damaged("it ends within its header") };
        let kind = if len > HEADER_V3_LEAST as usize { all.get(104).copied().unwrap_or(0) } else { 0 };
        self.compression = match kind {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            other => return Err(HeaderError::Unsupported(format!("its compression type {other} is not known"))),
        };
        let flagged = self.incompatible & incompatible::COMPRESSION != 0;
        if flagged != (self.compression != Compression::Zlib) {
            return damaged(format!(
                "its compression type is {}, but the feature bit says the opposite",
                self.compression.name()
            ));
        }
        self.rest = all.get(HEADER_V3_LEN..).unwrap_or_default().to_vec();
        Ok(len)
    }

    fn check_features(&self, first: &[u8]) -> Result<(), HeaderError> {
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            let bits: Vec<String> = (0..64).filter(|n| unknown >> n & 1 != 0).map(|n: u32| n.to_string()).collect();
            return Err(HeaderError::Unsupported(format!(
                "it needs incompatible feature {} that this program doesn't know",
                bits.join(", ")
            )));
        }
        match be32(first, 32) {
            0 => {}
            1 => return Err(HeaderError::Unsupported("it is encrypted (aes)".into())),
            2 => return Err(HeaderError::Unsupported("it is encrypted (luks)".into())),
            other => return damaged(format!("its encryption method is {other}")),
        }
        if self.incompatible & incompatible::EXTENDED_L2 != 0 && self.cluster_bits < EXTENDED_L2_LEAST_BITS {
            return damaged("it has extended L2 entries and clusters of less than 16 KiB");
        }
        if self.autoclear & autoclear::DATA_FILE_RAW != 0 && self.incompatible & incompatible::DATA_FILE == 0 {
            return damaged("its external data file is to be a raw image, and it has none");
        }
        Ok(())
    }

    fn decode_extensions(&mut self, first: &[u8], start: usize, end: usize) -> Result<(), HeaderError> {
        let area = first.get(..end.min(first.len())).unwrap_or(first);
        let mut at = start;
        while let Some(body_at) = at.checked_add(8).filter(|&at| at <= area.len()) {
            let (kind, len) = (be32(area, at), be32(area, at + 4) as usize);
            let Some(body) = body_at.checked_add(len).and_then(|end| area.get(body_at..end)) else {
                return damaged(format!(
                    "header extension {kind:#010x} at {at} has {len} bytes, past the header's end"
                ));
            };
            if kind == extension::END {
                break;
            }
            self.take_extension(kind, body)?;
            at = body_at.saturating_add(len.next_multiple_of(8));
        }
        if self.incompatible & incompatible::DATA_FILE == 0 && self.data_file.is_some() {
            self.data_file = None;
        }
        Ok(())
    }

    fn take_extension(&mut self, kind: u32, body: &[u8]) -> Result<(), HeaderError> {
        match kind {
            extension::BACKING_FORMAT => {
                if body.len() > 15 {
                    return damaged(format!("the name of its backing file's format has {} bytes", body.len()));
                }
                // No format has such a name, and it couldn't be written again as it was.
                let Ok(name) = std::str::from_utf8(body) else {
                    return damaged("the name of its backing file's format is no text");
                };
                self.backing_format = Some(name.to_owned());
            }
            extension::FEATURE_NAMES => {}
            extension::DATA_FILE => self.data_file = Some(OsString::from_vec(body.to_vec())),
            extension::ENCRYPTION => return Err(HeaderError::Unsupported("it is encrypted (luks)".into())),
            extension::BITMAPS if self.version == 3 => {
                if body.len() != 24 {
                    return damaged(format!("its bitmaps extension has {} bytes; 24 are right", body.len()));
                }
                let bitmaps =
                    Bitmaps { count: be32(body, 0), directory_len: be64(body, 8), directory_offset: be64(body, 16) };
                self.check_bitmaps(bitmaps)?;
                self.bitmaps = Some(bitmaps);
            }
            _ => self.unknown.push((kind, body.to_vec())),
        }
        Ok(())
    }

    fn check_bitmaps(&self, bitmaps: Bitmaps) -> Result<(), HeaderError> {
        // Without its autoclear bit the extension is to be ignored, whatever it says.
        if self.autoclear & autoclear::BITMAPS == 0 {
            return Ok(());
        }
        let least = u64::from(bitmaps.count) * 24;
        if bitmaps.count == 0
            || bitmaps.count > 65_535
            || bitmaps.directory_len < least
            || bitmaps.directory_len > 64 << 20
        {
            return damaged(format!(
                "its {} bitmaps have a directory of {} bytes",
                bitmaps.count, bitmaps.directory_len
            ));
        }
        if !self.is_aligned(bitmaps.directory_offset) {
            return damaged(format!("its bitmap directory is at {:#x}, which is no cluster", bitmaps.directory_offset));
        }
        Ok(())
    }

    fn decode_backing(&mut self, first: &[u8], at: u64, len: usize, least: usize) -> Result<(), HeaderError> {
        let cluster = self.cluster_size();
        if at > cluster || (at as usize) < least {
            return damaged(format!("its backing file's name is at {at:#x}"));
        }
        if len > MOST_BACKING_NAME.min((cluster - at) as usize) {
            return damaged(format!("its backing file's name has {len} bytes"));
        }
        let at = at as usize;
        let Some(name) = first.get(at..at + len) else { return damaged("it ends within its backing file's name") };
        self.backing = (len > 0).then(|| OsString::from_vec(name.to_vec()));
        self.name_place = self.backing.clone().map(|name| (at, name));
        Ok(())
    }

    fn is_aligned(&self, offset: u64) -> bool {
        offset & (self.cluster_size() - 1) == 0
    }

    fn check_ranges(&self) -> Result<(), HeaderError> {
        let table = |what: &str, offset: u64, len: u64, most: u64| {
            if len > most {
                damaged(format!("its {what} has {len} bytes; {most} are the most"))
            } else if !self.is_aligned(offset) || offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
                damaged(format!("its {what} is at {offset:#x}"))
            } else {
                Ok(())
            }
        };
        let refcounts = u64::from(self.refcount_table_clusters) << self.cluster_bits;
        table("refcount table", self.refcount_table_offset, refcounts, MOST_REFCOUNT_TABLE)?;
        if self.snapshots > MOST_SNAPSHOTS {
            return damaged(format!("it has {} snapshots; {MOST_SNAPSHOTS} are the most", self.snapshots));
        }
        table("snapshot table", self.snapshots_offset, u64::from(self.snapshots) * 40, MOST_SNAPSHOT_TABLE)?;
        table("L1 table", self.l1_offset, u64::from(self.l1_entries) * 8, MOST_L1)?;
        let needed = self.l1_entries_for(self.size);
        if needed > u64::from(u32::MAX) || self.size > i64::MAX as u64 {
            return damaged(format!("its disk has {} bytes, more than its clusters can hold", self.size));
        }
        if u64::from(self.l1_entries) < needed {
            return damaged(format!("its L1 table has {} entries; its size needs {needed}", self.l1_entries));
        }
        Ok(())
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether L2 entries have 128 bits.
    pub fn has_extended_l2(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    /// Bytes of an L2 entry.
    pub fn l2_entry_len(&self) -> u64 {
        if self.has_extended_l2() { 16 } else { 8 }
    }

    /// Log2 of the entries of an L2 table.
    pub fn l2_bits(&self) -> u32 {
        self.cluster_bits - self.l2_entry_len().trailing_zeros()
    }

    /// Entries that an L1 table needs for a disk of `size` bytes.
    pub fn l1_entries_for(&self, size: u64) -> u64 {
        let shift = self.cluster_bits + self.l2_bits();
        if shift >= 64 { u64::from(size > 0) } else { size.div_ceil(1 << shift) }
    }

    /// Encodes the header: one cluster at most.
    ///
    /// Everything but the backing file's name lies in the first sector whenever it can, and a new name goes to where the
    /// old one isn't. So the bytes behind the first sector can be written first, and its own write then changes the
    /// header from the old to the new one at once. The table of feature names, for messages only, is left out where it
    /// would not fit.
    ///
    /// # Errors
    /// When it all doesn't fit into a cluster.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        let cluster = self.cluster_size() as usize;
        let mut out = self.fixed();
        let bare = out.len();
        self.extensions(&mut out, true);
        if out.len() > SECTOR as usize {
            out.truncate(bare);
            self.extensions(&mut out, false);
        }
        if let Some(name) = &self.backing {
            let at = self.place_for_name(out.len(), name);
            out.resize(at, 0);
            out.extend(name.as_bytes());
            put(&mut out, 8, &(at as u64).to_be_bytes());
            put(&mut out, 16, &(name.len() as u32).to_be_bytes());
        }
        if out.len() > cluster {
            return damaged(format!("its header would have {} bytes, more than a cluster", out.len()));
        }
        Ok(out)
    }

    // `end` is where extensions end.
    fn place_for_name(&self, end: usize, name: &OsString) -> usize {
        let Some((old, old_name)) = &self.name_place else { return end };
        if old_name == name && *old >= end {
            return *old;
        }
        let (cluster, old_end) = (self.cluster_size() as usize, old + old_name.len());
        let free = |at: usize| at + name.len() <= *old || at >= old_end || at + name.len() <= SECTOR as usize;
        let behind = old_end.max(end).next_multiple_of(8);
        if !free(end) && behind + name.len() <= cluster { behind } else { end }
    }

    fn fixed(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let words = |out: &mut Vec<u8>, word: u32| out.extend(word.to_be_bytes());
        words(&mut out, MAGIC);
        words(&mut out, self.version);
        out.extend([0; 12]);
        words(&mut out, self.cluster_bits);
        out.extend(self.size.to_be_bytes());
        words(&mut out, 0);
        words(&mut out, self.l1_entries);
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.refcount_table_offset.to_be_bytes());
        words(&mut out, self.refcount_table_clusters);
        words(&mut out, self.snapshots);
        out.extend(self.snapshots_offset.to_be_bytes());
        if self.version >= 3 {
            out.extend(self.incompatible.to_be_bytes());
            out.extend(self.compatible.to_be_bytes());
            out.extend(self.autoclear.to_be_bytes());
            words(&mut out, self.refcount_order);
            words(&mut out, (HEADER_V3_LEN + self.rest.len()) as u32);
            out.extend([u8::from(self.compression == Compression::Zstd), 0, 0, 0, 0, 0, 0, 0]);
            out.extend(&self.rest);
        }
        out
    }

    // Small ones first: what changes should lie in the first sector.
    fn extensions(&self, out: &mut Vec<u8>, names: bool) {
        if let Some(format) = self.backing_format.as_ref().filter(|_| self.backing.is_some()) {
            extension(out, extension::BACKING_FORMAT, format.as_bytes());
        }
        if let Some(bitmaps) = &self.bitmaps {
            let mut body = Vec::with_capacity(24);
            body.extend(bitmaps.count.to_be_bytes());
            body.extend([0; 4]);
            body.extend(bitmaps.directory_len.to_be_bytes());
            body.extend(bitmaps.directory_offset.to_be_bytes());
            extension(out, extension::BITMAPS, &body);
        }
        if let Some(name) = &self.data_file {
            extension(out, extension::DATA_FILE, name.as_bytes());
        }
        for (kind, body) in &self.unknown {
            extension(out, *kind, body);
        }
        if names && self.version >= 3 {
            extension(out, extension::FEATURE_NAMES, &feature_names());
        }
        extension(out, extension::END, &[]);
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn extension(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(8), 0);
}

// Feature name table: type, bit, name padded to 46 bytes.
fn feature_names() -> Vec<u8> {
    const NAMES: [(u8, u8, &str); 8] = [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (0, 2, "external data file"),
        (0, 3, "compression type"),
        (0, 4, "extended L2 entries"),
        (1, 0, "lazy refcounts"),
        (2, 0, "bitmaps"),
        (2, 1, "raw external data"),
    ];
    let mut out = Vec::with_capacity(48 * NAMES.len());
    for (kind, bit, name) in NAMES {
        let start = out.len();
        out.extend([kind, bit]);
        out.extend(name.as_bytes());
        out.resize(start + 48, 0);
    }
    out
}

#[cfg(test)]
#[path = "header_tests.rs"]
pub(crate) mod tests;
