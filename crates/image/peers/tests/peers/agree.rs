//! What qcow2-rs supports, it does as kiln does: each reads what the other has written, and qemu-img is content.
//!
//! It supports versions 2 and 3 without incompatible features and snapshots, clusters of 4 KiB to 2 MiB, refcounts of 1, 8,
//! 16, 32 and 64 bits (2 and 4 it reckons wrong), compressed clusters that are only read, and qcow2 backing files that are
//! no shorter.

use std::path::Path;

use kiln_image::qcow2::Create;
use kiln_image::{Access, BlockDevice};
use qcow2_rs::utils::make_temp_qcow2_img;

use crate::scene::*;

const SIZE: u64 = 12 << 20;

fn shapes() -> Vec<Create> {
    let mut all = Vec::new();
    for cluster_bits in [12, 14, 16, 18, 21] {
        let new = Create { size: SIZE, cluster_bits, ..Create::default() };
        all.extend([0, 3, 4, 5, 6].map(|refcount_order| Create { refcount_order, ..new.clone() }));
        all.push(Create { version: 2, ..new });
    }
    all
}

fn name(new: &Create) -> String {
    format!("v{}-{}-{}", new.version, new.cluster_bits, new.refcount_order)
}

// Writes runs of bytes, mostly not aligned to anything, and zeros, to a disk and to what it is to be.
fn fill(disk: &dyn BlockDevice, contents: &mut [u8], noise: &mut Noise) {
    for turn in 0..40 {
        let len = 1 + noise.below(if turn % 8 == 0 { 1 << 20 } else { 50_000 });
        let at = noise.below(contents.len() as u64 - len);
        let place = &mut contents[at as usize..][..len as usize];
        if turn % 5 == 4 {
            place.fill(0);
            disk.write_zeroes(at, len, false).unwrap();
        } else {
            place.copy_from_slice(&noise.bytes(len as usize));
            write(disk, place, at);
        }
        if turn % 16 == 15 {
            disk.flush().unwrap();
        }
    }
    disk.flush().unwrap();
}

#[track_caller]
fn all_read(path: &Path, contents: &[u8], what: &str) {
    assert!(all(&peer(path, Access::ReadOnly)).unwrap() == contents, "qcow2-rs: {what}");
    assert!(kiln_reads(path) == contents, "kiln: {what}");
    assert!(qemu_reads(path, None) == contents, "QEMU: {what}");
    let (code, said) = qemu_check(path);
    assert_eq!(code, 0, "{what}: {said}");
}

#[test]
fn it_reads_what_kiln_writes() {
    let scene = Scene::new();
    let mut noise = Noise(0x1234_5678);
    for new in shapes() {
        let path = scene.create(&name(&new), &new);
        let mut contents = vec![0; SIZE as usize];
        change(&path, |image| fill(image, &mut contents, &mut noise));
        all_read(&path, &contents, &name(&new));
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn kiln_reads_what_it_writes() {
    let scene = Scene::new();
    let mut noise = Noise(0x8765_4321);
    for new in shapes() {
        let path = scene.create(&name(&new), &new);
        let mut contents = vec![0; SIZE as usize];
        // First kiln, then qcow2-rs into what kiln has left, and kiln again. No zeros at first: where a zero cluster has
        // kept its place, qcow2-rs takes another one, and the first is lost space.
        let bytes = noise.bytes(3 << 20);
        contents[2 << 20..5 << 20].copy_from_slice(&bytes);
        change(&path, |image| write(image, &bytes, 2 << 20));
        fill(&peer(&path, Access::Write), &mut contents, &mut noise);
        all_read(&path, &contents, &name(&new));
        change(&path, |image| fill(image, &mut contents, &mut noise));
        all_read(&path, &contents, &name(&new));
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn kiln_reads_and_writes_images_that_it_makes() {
    let mut noise = Noise(0x5555_aaaa);
    for cluster_bits in [12, 16, 21] {
        for refcount_order in [0, 3, 4, 5, 6] {
            let what = format!("2^{cluster_bits} refcounts 2^{refcount_order}");
            let file = make_temp_qcow2_img(SIZE, cluster_bits, refcount_order);
            let mut contents = vec![0; SIZE as usize];
            fill(&peer(file.path(), Access::Write), &mut contents, &mut noise);
            all_read(file.path(), &contents, &what);
            change(file.path(), |image| fill(image, &mut contents, &mut noise));
            all_read(file.path(), &contents, &what);
        }
    }
}

#[test]
fn it_reads_the_compressed_clusters_that_kiln_writes() {
    let scene = Scene::new();
    let mut noise = Noise(0x1111_2222);
    for cluster_bits in [12, 14, 16, 18, 21] {
        for version in [2, 3] {
            let new = Create { size: SIZE, cluster_bits, version, ..Create::default() };
            let path = scene.create(&name(&new), &new);
            let mut contents = noise.bytes(SIZE as usize);
            contents[4 << 20..6 << 20].fill(0);
            change(&path, |image| write_compressed(image, &contents, 0));
            all_read(&path, &contents, &name(&new));
        }
    }
}

#[test]
fn both_read_and_write_above_qcow2_images_of_at_least_their_length() {
    let scene = Scene::new();
    let mut noise = Noise(0x7777_1111);
    for (turn, below) in [SIZE, SIZE + (1 << 20), 3 * SIZE].into_iter().enumerate() {
        let base =
            scene.create(&format!("base-{turn}"), &Create { size: below, cluster_bits: 14, ..Create::default() });
        let mut contents = vec![0; below as usize];
        change(&base, |image| fill(image, &mut contents, &mut noise));
        contents.truncate(SIZE as usize);
        // By its name alone: it begins where the upper image lies.
        let backing = Some((base.file_name().unwrap().into(), Some("qcow2".into())));
        let top = scene.create(&format!("top-{turn}"), &Create { size: SIZE, backing, ..Create::default() });
        all_read(&top, &contents, "empty");
        fill(&peer(&top, Access::Write), &mut contents, &mut noise);
        all_read(&top, &contents, "written by qcow2-rs");
        change(&top, |image| fill(image, &mut contents, &mut noise));
        all_read(&top, &contents, "written by kiln");
    }
}
