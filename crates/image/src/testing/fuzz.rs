//! Bodies of the fuzz targets, which seeded tests run as well: any bytes are a part of an image.

#![allow(clippy::unwrap_used)] // Failing is how a finding shows.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::Memory;
use super::damage::{PLACES, damage};
use super::exercise::exercise;
use super::sound::{KINDS, sound};
use crate::qcow2::bits::CLUSTER_BITS;
use crate::qcow2::compress::{Codec, Compressor};
use crate::qcow2::image::read_header;
use crate::qcow2::layout::Layout;
use crate::qcow2::{Compression, Header, snapshots};

/// A first cluster that says anything. What is understood comes back the same.
pub fn fuzz_header(bytes: &[u8]) {
    let Ok(header) = Header::decode(bytes) else { return };
    let Ok(again) = header.encode() else { return };
    let back = Header::decode(&again).unwrap();
    // What isn't written: a format name without a backing file.
    let place = back.name_place.clone();
    let format = header.backing_format.clone().filter(|_| header.backing.is_some());
    assert_eq!(back, Header { name_place: place, backing_format: format, ..header });
}

/// Any number of the input's bytes as numbers, zeros when it has run out.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        let (head, tail) = self.0.split_at(self.0.len().min(if limit > 256 { 4 } else { 1 }));
        self.0 = tail;
        head.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)) % limit
    }
}

/// Most places that one input damages.
const DAMAGES: usize = 8;

/// An image of any kind that is damaged in a few places: opened, read, checked, repaired, used.
pub fn fuzz_tables(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let mut image = sound_once(numbers.below(u64::from(KINDS)) as u16);
    for _ in 0..DAMAGES {
        if numbers.0.is_empty() {
            break;
        }
        let place = PLACES[numbers.below(PLACES.len() as u64) as usize];
        let _ = damage(&mut image, place, &mut |limit| numbers.below(limit));
    }
    let _ = exercise(&image);
}

// Making one takes longer than damaging it. All of them together would take a GiB.
fn sound_once(kind: u16) -> Vec<u8> {
    const MOST: usize = 32;
    static MADE: Mutex<BTreeMap<u16, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock();
    if made.len() >= MOST && !made.contains_key(&kind) {
        made.clear();
    }
    made.entry(kind).or_insert_with(|| sound(kind)).clone()
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
    let decode = |data: Vec<u8>| {
        let codec = Codec::new(compression);
        let len = (data.len() as u64).min(2 << layout.cluster_bits);
        let memory = Memory::of(data);
        // The second time it may come out of memory.
        let [first, again] = [(); 2].map(|()| codec.cluster(&memory, &layout, 0, len).ok());
        assert_eq!(first, again);
        first.inspect(|cluster| assert_eq!(cluster.len() as u64, layout.cluster()))
    };
    if kind & 2 == 0 {
        decode(data.to_vec());
        return;
    }
    // Sound data, which come back; and the same with a byte changed.
    let Some(([place, value], data)) = data.split_first_chunk().filter(|(_, data)| !data.is_empty()) else { return };
    let cluster: Vec<u8> = data.iter().copied().cycle().take(layout.cluster() as usize).collect();
    let mut out = vec![0; cluster.len() - 1];
    let Some(len) = Compressor::new(compression).unwrap().compress(&cluster, &mut out) else { return };
    out.truncate(len);
    assert!(decode(out.clone()).is_some_and(|back| *back == *cluster));
    let place = usize::from(*place) * len / 256;
    if let Some(byte) = out.get_mut(place) {
        *byte ^= *value;
    }
    decode(out);
}

/// A snapshot table. What is understood comes back the same.
pub fn fuzz_snapshots(bytes: &[u8]) {
    let Some(([count, more], table)) = bytes.split_first_chunk() else { return };
    let mut header = read_header(&Memory::of(sound_once(0))).unwrap();
    // Thousands of empty ones take long and show nothing new.
    (header.snapshots, header.snapshots_offset) = (u32::from(*count) << (more % 5), 0);
    let Ok((all, len)) = snapshots::read(&Memory::of(table.to_vec()), &header) else { return };
    assert!(len >= all.len() as u64 * 40);
    let mut again = Vec::new();
    all.iter().for_each(|snapshot| snapshot.encode(&mut again));
    let (back, _) = snapshots::read(&Memory::of(again), &header).unwrap();
    assert_eq!(back, all);
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

    #[test]
    fn an_image_that_is_damaged_anywhere_does_no_harm() {
        for seed in 0..3000 {
            let bytes = noise(seed, 2 + seed as usize % 60);
            if std::panic::catch_unwind(|| fuzz_tables(&bytes)).is_err() {
                panic!("seed {seed}: {bytes:x?}");
            }
        }
    }
}
