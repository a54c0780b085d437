//! Bodies of the fuzz targets, which seeded tests run as well: any bytes are a part of an image.

#![allow(clippy::unwrap_used)] // Failing is how a finding shows.

use std::ffi::OsString;
use std::io::IoSlice;
use std::sync::Arc;

use super::Memory;
use crate::BlockDevice;
use crate::qcow2::bits::CLUSTER_BITS;
use crate::qcow2::compress::{Codec, Compressor};
use crate::qcow2::create::format;
use crate::qcow2::image::read_header;
use crate::qcow2::layout::Layout;
use crate::qcow2::{Compression, Create, Header, Options, Qcow2, snapshots};
use crate::storage::Storage;

/// A first cluster that says anything. What is understood comes back the same.
pub fn fuzz_header(bytes: &[u8]) {
    let Ok(header) = Header::decode(bytes) else { return };
    let Ok(again) = header.encode() else { return };
    let back = Header::decode(&again).unwrap();
    // What isn't written: a format name without a backing file, and text that isn't UTF-8.
    let place = back.name_place.clone();
    let format = header.backing_format.clone().filter(|_| header.backing.is_some());
    assert_eq!(back, Header { name_place: place, backing_format: format, ..header });
}

// A sound image with something in it.
fn sound(kind: u8) -> Vec<u8> {
    let cluster_bits = [9, 12, 14, 16][usize::from(kind & 3)];
    let version = if kind & 4 == 0 { 3 } else { 2 };
    let create = Create {
        size: (24 << cluster_bits) + 512,
        version,
        cluster_bits,
        refcount_order: if version == 2 { 4 } else { u32::from(kind >> 3 & 7).min(6) },
        extended_l2: version == 3 && cluster_bits >= 14 && kind & 0x40 != 0,
        backing: (kind & 0x80 != 0).then(|| (OsString::from("base"), Some("raw".to_owned()))),
        ..Create::default()
    };
    let memory = Arc::new(Memory::default());
    let disk: Arc<dyn Storage> = memory.clone();
    format(disk.clone(), None, &create).unwrap();
    let image = Qcow2::open(disk.clone(), read_header(disk.as_ref()).unwrap(), Options::default()).unwrap();
    let cluster = 1usize << cluster_bits;
    image.write_at(&[IoSlice::new(&vec![1; 5 * cluster])], 0).unwrap();
    let mut out = vec![0; cluster - 1];
    let len = Compressor::new(Compression::Zlib).unwrap().compress(&vec![2; cluster], &mut out).unwrap();
    image.write_compressed(8 << cluster_bits, out.get(..len).unwrap_or_default()).unwrap();
    // Refcounts of 1 bit can't share.
    let _ = image.create_snapshot("one", 1, 2);
    image.write_at(&[IoSlice::new(&vec![3; cluster])], 2 << cluster_bits).unwrap();
    image.write_zeroes(12 << cluster_bits, 3 << cluster_bits, false).unwrap();
    image.close().unwrap();
    drop(image);
    memory.bytes()
}

/// Compressed data of one cluster.
pub fn fuzz_compressed(bytes: &[u8]) {
    let Some(([kind, bits], data)) = bytes.split_first_chunk() else { return };
    let compression = if kind & 1 == 0 { Compression::Zlib } else { Compression::Zstd };
    let span = u32::from(*bits) % (CLUSTER_BITS.end() - CLUSTER_BITS.start() + 1);
    let mut layout = Layout {
        cluster_bits: CLUSTER_BITS.start() + span,
        l2_bits: 0,
        extended: false,
        version: 3,
        refcount_order: 4,
        data_file: false,
    };
    layout.l2_bits = layout.cluster_bits - 3;
    let memory = Memory::of(data.to_vec());
    let codec = Codec::new(compression);
    let len = (data.len() as u64).min(2 << layout.cluster_bits);
    for _ in 0..2 {
        if let Ok(cluster) = codec.cluster(&memory, &layout, 0, len) {
            assert_eq!(cluster.len() as u64, layout.cluster());
        }
    }
}

/// A snapshot table. What is understood comes back the same.
pub fn fuzz_snapshots(bytes: &[u8]) {
    let Some(([count, more], table)) = bytes.split_first_chunk() else { return };
    let image = sound(0);
    let mut header = read_header(&Memory::of(image)).unwrap();
    (header.snapshots, header.snapshots_offset) = (u32::from(*count) << (more % 12), 0);
    let Ok((all, len)) = snapshots::read(&Memory::of(table.to_vec()), &header) else { return };
    assert!(len >= all.len() as u64 * 40);
    let mut again = Vec::new();
    all.iter().for_each(|snapshot| snapshot.encode(&mut again));
    let (back, _) = snapshots::read(&Memory::of(again), &header).unwrap();
    // Names that are no UTF-8 get longer on the way, and may be too long then.
    if all.iter().all(|one| !one.name.contains('\u{fffd}') && !one.id.contains('\u{fffd}')) {
        assert_eq!(back, all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::header::tests::plain;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn a_header_that_says_anything_comes_back_or_is_refused() {
        for seed in 0..4000 {
            let mut bytes = plain().encode().unwrap();
            bytes.resize(1 << 9, 0);
            for change in noise(seed, 24).chunks_exact(4) {
                let at = usize::from(u16::from_be_bytes([change[0] % 2, change[1]]));
                if let Some(byte) = bytes.get_mut(if change[2] & 1 == 0 { at } else { at % 128 }) {
                    *byte = change[3];
                }
            }
            fuzz_header(&bytes);
        }
    }

    #[test]
    fn compressed_data_that_say_anything_do_no_harm() {
        for seed in 0..2000 {
            fuzz_compressed(&noise(seed, 700));
        }
        let mut out = vec![0; 4095];
        let len = Compressor::new(Compression::Zstd).unwrap().compress(&[7; 4096], &mut out).unwrap();
        for seed in 0..2000 {
            let mut bytes = [&[1, 3], out.get(..len).unwrap()].concat();
            let change = noise(seed, 3);
            let at = 2 + usize::from(change[0]) % len;
            bytes[at] = change[1];
            fuzz_compressed(&bytes);
        }
    }

    #[test]
    fn a_snapshot_table_that_says_anything_comes_back_or_is_refused() {
        for seed in 0..500 {
            let mut bytes = noise(seed, 900);
            // Mostly short lengths, or nothing would be understood.
            for at in (2..800).step_by(64) {
                bytes[at + 12..at + 16].copy_from_slice(&[0, 3, 0, 5]);
                bytes[at + 36..at + 40].copy_from_slice(&[0, 0, 0, 16]);
            }
            fuzz_snapshots(&bytes);
        }
    }
}
