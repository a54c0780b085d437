//! Sound images of every kind, small, with something in all of their structures: what damage is done to.

#![allow(clippy::unwrap_used)] // Failing is how a test shows it.

use std::ffi::OsString;
use std::io::IoSlice;
use std::sync::Arc;

use super::Memory;
use crate::BlockDevice;
use crate::qcow2::bits::autoclear;
use crate::qcow2::check::{Fix, repair};
use crate::qcow2::compress::Compressor;
use crate::qcow2::create::format;
use crate::qcow2::header::Bitmaps;
use crate::qcow2::image::read_header;
use crate::qcow2::{Compression, Create, Options, Qcow2};
use crate::storage::{self, Storage};

/// Kinds of [`sound`] images: all numbers below are one each.
pub const KINDS: u16 = 1 << 10;

/// Bytes of the file below those that have one.
pub const BACKING_LEN: u64 = 1 << 20;

/// What the image of this kind is: bits 0 and 1 its cluster size, 2 its version, 3 to 5 its refcounts, 6 extended L2
/// entries, 7 a backing file, 8 bitmaps, 9 zstd.
fn create(kind: u16) -> Create {
    let cluster_bits = [9, 12, 14, 16][usize::from(kind & 3)];
    let version = if kind & 4 == 0 { 3 } else { 2 };
    let new = version == 3;
    Create {
        size: (24 << cluster_bits) + 512,
        version,
        cluster_bits,
        refcount_order: if new { u32::from(kind >> 3 & 7).min(6) } else { 4 },
        extended_l2: new && cluster_bits >= 14 && kind & 0x40 != 0,
        backing: (kind & 0x80 != 0).then(|| (OsString::from("base"), Some("raw".to_owned()))),
        compression: if new && kind & 0x200 != 0 { Compression::Zstd } else { Compression::Zlib },
        // The kind that is left over has its data in another file.
        data_file: (new && kind >> 3 & 7 == 7).then(|| (OsString::from("data"), false)),
        ..Create::default()
    }
}

/// A sound image of a kind: data, compressed data, zeros with and without a place, a snapshot. Guest data of some kinds
/// lies in another file, which is not handed out.
pub fn sound(kind: u16) -> Vec<u8> {
    let create = create(kind);
    let memory = Arc::new(Memory::default());
    let disk: Arc<dyn Storage> = memory.clone();
    let data = create.data_file.is_some().then(|| Arc::new(Memory::default()) as Arc<dyn Storage>);
    format(disk.clone(), data.clone(), &create).unwrap();
    let header = read_header(disk.as_ref()).unwrap();
    let image = Qcow2::open(disk.clone(), header, Options { data, ..Options::default() }).unwrap();
    let (bits, cluster) = (create.cluster_bits, 1usize << create.cluster_bits);
    image.write_at(&[IoSlice::new(&vec![1; 5 * cluster])], 0).unwrap();
    let mut out = vec![0; cluster - 1];
    for (number, byte) in [(8, 2), (9, 4), (10, 5)] {
        let len = Compressor::new(create.compression).unwrap().compress(&vec![byte; cluster], &mut out).unwrap();
        // Beside a data file nothing can be compressed.
        let _ = image.write_compressed(number << bits, out.get(..len).unwrap_or_default());
    }
    // Refcounts of 1 bit can't share, and a data file has none.
    let _ = image.create_snapshot("one", 1, 2);
    image.write_at(&[IoSlice::new(&vec![3; cluster])], 2 << bits).unwrap();
    image.write_at(&[IoSlice::new(&[6; 512])], 20 << bits).unwrap();
    image.write_zeroes(12 << bits, 3 << bits, false).unwrap();
    image.write_zeroes(1 << bits, 2 << bits, false).unwrap();
    let _ = image.create_snapshot("another", 3, 4);
    image.close().unwrap();
    drop(image);
    if create.version == 3 && kind & 0x100 != 0 {
        add_bitmap(&disk);
    }
    memory.bytes()
}

// A bitmap of one cluster, as QEMU would have made it. Its clusters get their refcounts by a repair.
fn add_bitmap(disk: &Arc<dyn Storage>) {
    let mut header = read_header(disk.as_ref()).unwrap();
    let cluster = header.cluster_size();
    let directory_offset = disk.len().unwrap().next_multiple_of(cluster);
    let (table, bits) = (directory_offset + cluster, directory_offset + 2 * cluster);
    // Table, entries, flags (kept up to date), type (dirty tracking), granularity, lengths of name and extra data, name.
    let mut directory = table.to_be_bytes().to_vec();
    directory.extend([0, 0, 0, 1, 0, 0, 0, 2, 1, 16, 0, 2, 0, 0, 0, 0]);
    directory.extend(b"b0");
    directory.resize(32, 0);
    storage::write(disk.as_ref(), &directory, directory_offset).unwrap();
    storage::write(disk.as_ref(), &bits.to_be_bytes(), table).unwrap();
    storage::write(disk.as_ref(), &vec![0; cluster as usize], bits).unwrap();
    header.bitmaps = Some(Bitmaps { count: 1, directory_len: directory.len() as u64, directory_offset });
    header.autoclear |= autoclear::BITMAPS;
    storage::write(disk.as_ref(), &header.encode().unwrap(), 0).unwrap();
    repair(disk, &header, Fix::All, &mut |_| {}).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::check::check;

    #[test]
    fn all_kinds_are_sound() {
        for kind in 0..KINDS {
            let disk = Memory::of(sound(kind));
            let mut found = Vec::new();
            let report = check(&disk, &read_header(&disk).unwrap(), &mut |finding| found.push(finding)).unwrap();
            assert_eq!((report.corruptions, report.leaks), (0, 0), "{kind}: {found:?}");
        }
    }
}
