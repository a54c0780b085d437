//! Random requests: what is read is what was written, for kiln and for QEMU.

use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_image::qcow2::compress::Compressor;
use kiln_image::qcow2::{Compression, Create, Qcow2};
use kiln_image::testing::Noise;
use kiln_image::{BlockDevice, Operation, SECTOR};

use crate::scene::{Scene, check, open, qemu_reads};

fn variants() -> Vec<(String, Create)> {
    let mut all = Vec::new();
    for cluster_bits in [9, 10, 12, 14, 16, 21] {
        for version in [2, 3] {
            for refcount_order in 0..=6 {
                if version == 2 && refcount_order != 4 {
                    continue;
                }
                let create = Create { version, cluster_bits, refcount_order, ..Create::default() };
                all.push((format!("v{version} 2^{cluster_bits} refcounts 2^{refcount_order}"), create));
            }
        }
        if cluster_bits >= 14 {
            let create = Create { cluster_bits, extended_l2: true, ..Create::default() };
            all.push((format!("extended 2^{cluster_bits}"), create.clone()));
            let create = Create { compression: Compression::Zstd, ..create };
            all.push((format!("extended zstd 2^{cluster_bits}"), create));
        }
        let create = Create { cluster_bits, data_file: Some(("data".into(), false)), ..Create::default() };
        all.push((format!("data file 2^{cluster_bits}"), create.clone()));
        let create = Create { data_file: Some(("data".into(), true)), ..create };
        all.push((format!("raw data file 2^{cluster_bits}"), create));
    }
    all
}

/// Requests that went to the file at once.
static IN_PLACE: AtomicUsize = AtomicUsize::new(0);

struct Subject {
    image: Qcow2,
    model: Vec<u8>,
    noise: Noise,
    compressor: Option<Compressor>,
}

impl Subject {
    fn range(&mut self) -> (u64, u64) {
        let sectors = self.model.len() as u64 / SECTOR;
        let start = self.noise.below(sectors);
        let most = match self.noise.below(4) {
            0 => sectors,
            1 => 64,
            _ => 600,
        };
        let len = 1 + self.noise.below(most.min(sectors - start));
        (start * SECTOR, len * SECTOR)
    }

    fn step(&mut self) {
        let (at, len) = self.range();
        let place = at as usize..(at + len) as usize;
        match self.noise.below(10) {
            0..=3 => {
                let value = self.noise.next() as u8 | 1;
                let bytes: Vec<u8> = (0..len).map(|n| value ^ (n / 512) as u8).collect();
                if self.noise.next() & 1 == 0 || !self.write_in_place(&bytes, at) {
                    let (a, b) = bytes.split_at(bytes.len() / 3);
                    self.image.write_at(&[IoSlice::new(a), IoSlice::new(b)], at).unwrap();
                }
                self.model[place].copy_from_slice(&bytes);
            }
            4 | 5 => {
                self.image.write_zeroes(at, len, self.noise.next() & 1 == 0).unwrap();
                self.model[place].fill(0);
            }
            6 => {
                let before = self.read();
                self.image.discard(at, len).unwrap();
                // Whole clusters may read zeros now, or what they did: nothing else.
                let after = self.read();
                for (n, (old, new)) in before.iter().zip(&after).enumerate() {
                    assert!(new == old || (*new == 0 && place.contains(&n)), "discard of {place:?} at {n}");
                }
                self.model = after;
            }
            7 if self.compressor.is_some() => {
                let cluster = self.image.header().cluster_size();
                let at = at - at % cluster;
                let end = (at + cluster).min(self.model.len() as u64);
                let value = self.noise.next() as u8;
                let mut bytes: Vec<u8> = (0..cluster).map(|n| value.wrapping_add((n / 7) as u8)).collect();
                bytes[(end - at) as usize..].fill(0);
                let mut out = vec![0; cluster as usize - 1];
                if let Some(len) = self.compressor.as_mut().unwrap().compress(&bytes, &mut out) {
                    self.image.write_compressed(at, &out[..len]).unwrap();
                    self.model[at as usize..end as usize].copy_from_slice(&bytes[..(end - at) as usize]);
                }
            }
            8 => self.image.flush().unwrap(),
            _ => {
                let mut bytes = vec![9; len as usize];
                let (a, b) = bytes.split_at_mut(len as usize / 2);
                self.image.read_at(&mut [IoSliceMut::new(a), IoSliceMut::new(b)], at).unwrap();
                assert!(bytes == self.model[place.clone()], "read of {place:?}");
                if let Some(found) = self.image.in_place(Operation::Read, at, len) {
                    IN_PLACE.fetch_add(1, Ordering::Relaxed);
                    let got = found.file().read_at(&mut bytes, found.offset()).unwrap();
                    assert!(bytes[..got] == self.model[place.clone()][..got], "read of {place:?} in place");
                }
            }
        }
    }

    fn write_in_place(&self, bytes: &[u8], at: u64) -> bool {
        let Some(found) = self.image.in_place(Operation::Write, at, bytes.len() as u64) else { return false };
        IN_PLACE.fetch_add(1, Ordering::Relaxed);
        found.file().write_all_at(bytes, found.offset()).unwrap();
        true
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![7; self.model.len()];
        self.image.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
        bytes
    }
}

fn run(name: &str, create: &Create, seed: u64, steps: u64) {
    let scene = Scene::new();
    // Neither the disk nor its backing file ends with a cluster.
    let size = (3 << 20) + 512 * (seed % 7);
    let mut create = Create { size, ..create.clone() };
    let mut model = vec![0; size as usize];
    let raw_data = create.data_file.as_ref().is_some_and(|(_, raw)| *raw);
    let backing = (seed.is_multiple_of(2) && !raw_data).then(|| {
        let bytes: Vec<u8> = (0..(2 << 20) + 1024u32).map(|n| (n / 512 % 255) as u8 + 1).collect();
        let path = scene.path("base.img");
        std::fs::write(&path, &bytes).unwrap();
        model[..bytes.len()].copy_from_slice(&bytes);
        create.backing = Some(("base.img".into(), Some("raw".into())));
        let raw = kiln_image::raw::Raw::open(&path, kiln_image::Access::ReadOnly).unwrap();
        Arc::new(raw) as Arc<dyn BlockDevice>
    });
    let path = scene.create("disk.qcow2", &create);
    let compressor = create.data_file.is_none().then(|| Compressor::new(create.compression).unwrap());
    let image = open(&path, backing.clone());
    let mut subject = Subject { image, model, noise: Noise(seed * 77 + 1), compressor };
    for step in 0..steps {
        subject.step();
        if step == steps / 2 {
            assert!(subject.read() == subject.model, "{name}: read back");
            subject.image.close().unwrap();
            let Subject { image, model, noise, compressor } = subject;
            drop(image);
            check(&path);
            subject = Subject { image: open(&path, backing.clone()), model, noise, compressor };
        }
    }
    assert!(subject.read() == subject.model, "{name}: read back");
    subject.image.close().unwrap();
    let model = subject.model;
    drop(subject.image);
    check(&path);
    assert!(qemu_reads(&path) == model, "{name}: QEMU reads something else");
}

#[test]
fn what_is_written_is_read_in_every_kind_of_image() {
    for (number, (name, create)) in (0..).zip(variants()) {
        eprintln!("{name}");
        run(&name, &create, number, 60);
        run(&name, &create, number + 1, 60);
    }
    let in_place = IN_PLACE.load(Ordering::Relaxed);
    assert!(in_place > 100, "only {in_place} requests went in place");
}
