//! Faults of qcow2-rs. Each is shown beside what kiln, or qemu-img, does with the same image.

use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::Path;

use futures::executor::block_on;
use kiln_image::qcow2::bits::OFFSET;
use kiln_image::qcow2::{Compression, Create};
use kiln_image::{Access, BlockDevice, Open, Operation};
use kiln_peers::adapter::Peer;

use crate::scene::*;

const CLUSTER: u64 = 64 << 10;

fn over(base: &Path, format: &str, size: u64) -> Create {
    Create { size, backing: Some((base.into(), Some(format.into()))), ..Create::default() }
}

// A disk whose backing file is shorter than itself, and its contents.
fn short_below(scene: &Scene, len: u64) -> (std::path::PathBuf, Vec<u8>) {
    let mut contents = Noise(7).bytes(len as usize);
    let base = scene.create("base.qcow2", &Create { size: len, ..Create::default() });
    change(&base, |image| write(image, &contents, 0));
    let top = scene.create("top.qcow2", &over(&base, "qcow2", 2 << 20));
    contents.resize(2 << 20, 0);
    assert!(kiln_reads(&top) == contents, "kiln reads it wrong");
    assert!(qemu_reads(&top, None) == contents, "QEMU reads it wrong");
    (top, contents)
}

// What one request of qcow2-rs leaves in a buffer of 0xa5, and how many bytes it says it has read.
fn read_once(peer: &Peer, offset: u64, len: usize) -> (Vec<u8>, usize) {
    let request = move |device: &kiln_peers::adapter::Device| {
        let mut bytes = vec![0xa5; len];
        let told = block_on(device.read_at(&mut bytes, offset))?;
        Ok((bytes, told))
    };
    peer.ask(Operation::Read, offset, request).unwrap()
}

#[test]
fn behind_the_end_of_a_shorter_backing_file_it_reads_whatever_the_buffer_held() {
    let scene = Scene::new();
    let (top, contents) = short_below(&scene, 1 << 20);
    let peer = peer(&top, Access::ReadOnly);
    assert!(all(&peer).is_ok());
    let (bytes, told) = read_once(&peer, 1 << 20, 4096);
    assert_eq!(contents[1 << 20..][..4096], [0; 4096]);
    still(
        told == 4096 && bytes == [0xa5; 4096],
        "qcow2-rs reports a read behind a shorter backing file that it didn't do",
    );
}

#[test]
fn across_the_end_of_a_shorter_backing_file_it_reads_more_than_was_asked_for() {
    let scene = Scene::new();
    let (top, contents) = short_below(&scene, (1 << 20) - 4096);
    let peer = peer(&top, Access::ReadOnly);
    let (_, told) = read_once(&peer, 0, 1 << 20);
    still(told > 1 << 20, "qcow2-rs says that it read more bytes than it was asked for");
    let (bytes, _) = read_once(&peer, 0, 2 << 20);
    still(bytes != contents, "qcow2-rs reads wrong contents from a disk with a shorter backing file");
}

#[test]
fn a_write_after_a_snapshot_changes_the_snapshot_and_loses_the_rest_of_the_cluster() {
    let scene = Scene::new();
    let path = scene.create("disk.qcow2", &Create { size: 1 << 20, ..Create::default() });
    let old = Noise(7).bytes(1 << 20);
    change(&path, |image| {
        write(image, &old, 0);
        image.create_snapshot("s", 1, 2).unwrap();
    });
    let copy = scene.path("copy.qcow2");
    std::fs::copy(&path, &copy).unwrap();
    let at = 3 * CLUSTER as usize;
    let mut new = old.clone();
    new[at..][..512].fill(9);
    let written = |path: &Path| {
        let (now, then) = (qemu_reads(path, None), qemu_reads(path, Some("s")));
        (now == new, then == old, qemu_check(path).0 == 0)
    };

    change(&copy, |image| write(image, &[9; 512], at as u64));
    assert_eq!(written(&copy), (true, true, true), "kiln");

    let peer = peer(&path, Access::Write);
    let outcome = peer.write_at(&[IoSlice::new(&[9; 512])], at as u64).and_then(|()| peer.flush());
    still(outcome.is_ok(), "qcow2-rs writes to images with snapshots");
    drop(peer);
    let (now, then, check) = written(&path);
    still(!now, "qcow2-rs loses what shares a cluster with a write after a snapshot");
    still(!then, "qcow2-rs changes a snapshot by writing to the disk");
    still(!check, "qcow2-rs breaks the refcounts of an image with a snapshot");
}

// A cluster whose compressed form ends in this sector, counted from 1.
fn compressed_to(sectors: usize) -> Vec<u8> {
    let mut noise = Noise(11);
    let noise: Vec<u8> = (0..CLUSTER).map(|_| (noise.next() >> 40) as u8).collect();
    // What can't be compressed, and behind it what takes next to nothing.
    let cluster = |noisy: usize| {
        let mut bytes = noise.clone();
        bytes[noisy..].fill(0);
        bytes
    };
    let (mut least, mut most) = (0, noise.len());
    while least < most {
        let noisy = (least + most).div_ceil(2);
        if compressed_len(&cluster(noisy)) <= sectors * 512 { least = noisy } else { most = noisy - 1 }
    }
    let cluster = cluster(least);
    assert_eq!(compressed_len(&cluster).div_ceil(512), sectors);
    cluster
}

#[test]
fn overwriting_a_compressed_cluster_frees_the_one_behind_it() {
    let scene = Scene::new();
    let path = scene.create("disk.qcow2", &Create { size: 8 * CLUSTER, ..Create::default() });
    // Two of them end with the host cluster that they share; the neighbour lies behind.
    let half = compressed_to(64);
    let neighbour = Noise(5).bytes(CLUSTER as usize);
    let mut contents = [half.as_slice(), &half, &neighbour, &vec![0; 5 * CLUSTER as usize]].concat();
    contents[7 * CLUSTER as usize..].fill(7);
    change(&path, |image| {
        write(image, &contents[7 * CLUSTER as usize..], 7 * CLUSTER);
        write_compressed(image, &contents[..2 * CLUSTER as usize], 0);
        write(image, &neighbour, 2 * CLUSTER);
    });
    assert!(qemu_reads(&path, None) == contents);
    let copy = scene.path("copy.qcow2");
    std::fs::copy(&path, &copy).unwrap();
    // Into both compressed clusters, and where nothing is yet.
    let writes = [0, CLUSTER, 4 * CLUSTER, 5 * CLUSTER];
    let write_all = |disk: &dyn BlockDevice| writes.iter().for_each(|at| write(disk, &[9; 4096], *at));
    for at in writes {
        contents[at as usize..][..4096].fill(9);
    }
    change(&copy, |image| write_all(image));
    assert!(qemu_reads(&copy, None) == contents, "kiln");
    assert_eq!(qemu_check(&copy).0, 0, "kiln");

    let peer = peer(&path, Access::Write);
    write_all(&peer);
    peer.flush().unwrap();
    drop(peer);
    still(qemu_reads(&path, None) != contents, "qcow2-rs leaves wrong contents when it overwrites compressed clusters");
    still(qemu_check(&path).0 == 2, "qcow2-rs breaks refcounts when it overwrites compressed clusters");
}

#[test]
fn overwriting_a_cluster_that_was_hard_to_compress_panics() {
    let scene = Scene::new();
    let path = scene.create("disk.qcow2", &Create { size: CLUSTER, ..Create::default() });
    change(&path, |image| write_compressed(image, &compressed_to(CLUSTER as usize / 512), 0));
    let copy = scene.path("copy.qcow2");
    std::fs::copy(&path, &copy).unwrap();
    change(&copy, |image| write(image, &[9; 512], 0));
    assert_eq!(qemu_check(&copy).0, 0, "kiln");
    let peer = peer(&path, Access::Write);
    let outcome = peer.write_at(&[IoSlice::new(&[9; 512])], 0).map_err(|error| format!("{error:?}"));
    still(
        outcome.is_err_and(|error| error.contains("panicked")),
        "qcow2-rs panics where it overwrites a cluster that was hard to compress",
    );
}

// Overwrites the L2 entry of a guest cluster in the image's only L2 table.
fn set_entry(path: &Path, cluster: u64, entry: impl FnOnce(&dyn Fn(u64) -> u64) -> u64) {
    let header = kiln(path, Open::reading(None)).qcow2().unwrap().header();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let number = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let table = number(header.l1_offset) & OFFSET;
    let entry = entry(&|cluster| number(table + cluster * 8));
    file.write_all_at(&entry.to_be_bytes(), table + cluster * 8).unwrap();
}

#[test]
fn its_check_passes_images_that_point_to_free_and_to_shared_clusters() {
    let scene = Scene::new();
    for (name, what) in [("free.qcow2", "a free cluster"), ("shared.qcow2", "one cluster for two")] {
        let path = scene.create(name, &Create { size: 1 << 20, ..Create::default() });
        change(&path, |image| write(image, &[7; 4 * CLUSTER as usize], 0));
        assert!(peer(&path, Access::ReadOnly).check().is_ok(), "sound");
        let end = std::fs::metadata(&path).unwrap().len().next_multiple_of(CLUSTER);
        set_entry(&path, 8, |entry| if name == "free.qcow2" { 1 << 63 | end } else { entry(1) });
        assert_eq!(qemu_check(&path).0, 2, "QEMU on {what}");
        assert!(kiln_check(&path).corruptions > 0, "kiln on {what}");
        still(peer(&path, Access::ReadOnly).check().is_ok(), "the check of qcow2-rs passes broken images");
    }
}

#[test]
fn refcounts_of_2_and_4_bits_are_shifted_by_single_bits() {
    let scene = Scene::new();
    for (order, bits) in [(1, 2), (2, 4)] {
        let path = scene
            .create(&format!("{bits}.qcow2"), &Create { size: 1 << 20, refcount_order: order, ..Create::default() });
        let old = Noise(3).bytes(3 * CLUSTER as usize);
        change(&path, |image| write(image, &old, 0));
        let peer = peer(&path, Access::Write);
        // That it says so would do; what it must not do is to break the image.
        let _ = (0..4).try_for_each(|n| peer.write_at(&[IoSlice::new(&[9; 512])], (8 + n) * CLUSTER));
        let _ = peer.flush();
        drop(peer);
        still(qemu_check(&path).0 == 2, "qcow2-rs breaks images with refcounts of 2 or 4 bits");
    }
}

#[test]
fn an_encrypted_image_is_opened_as_if_it_were_plain() {
    let scene = Scene::new();
    let path = encrypted(&scene);
    assert!(kiln_image::Image::open(&path, Open::reading(None)).is_err(), "kiln");
    let peer = Peer::open(&path, Access::ReadOnly);
    let bytes = peer.and_then(|peer| all(&peer));
    still(
        bytes.is_ok_and(|bytes| bytes[..4096] != [0x5a; 4096] && bytes[..4096] != [0; 4096]),
        "qcow2-rs gives out an encrypted image's bytes as a disk",
    );
}

#[test]
fn a_raw_backing_file_is_refused() {
    let scene = Scene::new();
    let base = scene.path("base.raw");
    std::fs::write(&base, [7; 1 << 20]).unwrap();
    let top = scene.create("top.qcow2", &over(&base, "raw", 1 << 20));
    assert!(kiln_reads(&top) == [7; 1 << 20], "kiln");
    still(Peer::open(&top, Access::ReadOnly).is_err(), "qcow2-rs has no raw backing files");
}

#[test]
fn zstd_extended_l2_and_clusters_below_4_kib_are_not_had() {
    let scene = Scene::new();
    let plain = Create { size: 1 << 20, ..Create::default() };
    for (name, new) in [
        ("zstd", Create { compression: Compression::Zstd, ..plain.clone() }),
        ("extended L2", Create { extended_l2: true, ..plain.clone() }),
        ("clusters of 2 KiB", Create { cluster_bits: 11, ..plain.clone() }),
    ] {
        let path = scene.create(name, &new);
        let contents = Noise(2).bytes(1 << 20);
        change(&path, |image| write(image, &contents, 0));
        assert!(kiln_reads(&path) == contents, "kiln: {name}");
        let read = apart(&["read", "qcow2-rs"], &path);
        still(!read.status.success(), &format!("qcow2-rs can't read images with {name}"));
    }
}
