//! Images in which a field of the header or an entry of a table was overwritten: whoever opens them may refuse them,
//! and must not panic.

use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use kiln_image::qcow2::Create;
use kiln_image::qcow2::bits::OFFSET;
use kiln_image::{BlockDevice, Image, Open};

use crate::scene::*;

const MUTATIONS: u64 = 84;

// A plain image, one with compressed clusters, and one with a backing file.
fn originals(scene: &Scene) -> Vec<PathBuf> {
    let contents = Noise(21).bytes(1 << 20);
    let new = Create { size: 4 << 20, ..Create::default() };
    let plain = scene.create("plain.qcow2", &new);
    change(&plain, |image| write(image, &contents, 256 << 10));
    let compressed = scene.create("compressed.qcow2", &Create { cluster_bits: 12, ..new.clone() });
    change(&compressed, |image| write_compressed(image, &contents, 0));
    let backing = Some((plain.clone().into_os_string(), Some("qcow2".into())));
    let over = scene.create("over.qcow2", &Create { backing, ..new });
    change(&over, |image| write(image, &contents[..256 << 10], 1 << 20));
    vec![plain, compressed, over]
}

fn number(file: &std::fs::File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_be_bytes(bytes)
}

// Overwrites a field of the header, or an entry of one of the tables.
fn mutate(path: &Path, noise: &mut Noise) {
    // Offsets of the header's fields of 4 and 8 bytes (version 3).
    const SHORT: [u64; 9] = [4, 16, 20, 32, 36, 56, 60, 96, 100];
    const LONG: [u64; 8] = [8, 24, 40, 48, 64, 72, 80, 88];
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let (l1, refcount_table) = (number(&file, 40), number(&file, 48));
    let value = match noise.below(5) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << noise.below(64),
        3 => noise.next() & OFFSET,
        _ => noise.next(),
    };
    match noise.below(6) {
        0 => file.write_all_at(&(value as u32).to_be_bytes(), SHORT[noise.below(9) as usize]).unwrap(),
        1 => file.write_all_at(&value.to_be_bytes(), LONG[noise.below(8) as usize]).unwrap(),
        2 => file.write_all_at(&value.to_be_bytes(), l1).unwrap(),
        3 => file.write_all_at(&value.to_be_bytes(), (number(&file, l1) & OFFSET) + 8 * noise.below(64)).unwrap(),
        4 => file.write_all_at(&value.to_be_bytes(), refcount_table).unwrap(),
        _ => file.write_all_at(&value.to_be_bytes(), number(&file, refcount_table) + 8 * noise.below(8)).unwrap(),
    }
}

// What the program `peer` does with it, too: reads, two writes, flush, check.
fn use_with_kiln(path: &Path) {
    let Ok(image) = Image::open(path, Open::writing(None)) else { return };
    let mut part = vec![0; 256 << 10];
    for offset in (0..image.len().min(16 << 20)).step_by(part.len()) {
        let _ = image.read_at(&mut [IoSliceMut::new(&mut part)], offset);
    }
    for offset in [0, (image.len() / 2).next_multiple_of(512)] {
        let _ = image.write_at(&[IoSlice::new(&[1; 512])], offset);
    }
    let _ = image.flush();
    let _ = image.close();
}

#[test]
fn some_of_84_mutated_images_make_it_panic() {
    let scene = Scene::new();
    let originals = originals(&scene);
    let (mut panicked, mut others) = (Vec::new(), Vec::new());
    for seed in 1..=MUTATIONS {
        let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let path = scene.path(&format!("{seed}.qcow2"));
        std::fs::copy(&originals[seed as usize % originals.len()], &path).unwrap();
        mutate(&path, &mut noise);
        let copy = scene.path("copy.qcow2");
        std::fs::copy(&path, &copy).unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| use_with_kiln(&copy))).is_ok(), "kiln panics on mutation {seed}");
        let output = apart(&["use", "qcow2-rs"], &path);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("panicked at") {
            panicked.push(seed);
        } else if !matches!(output.status.code(), Some(0 | 1)) {
            others.push((seed, output.status, said));
        }
        std::fs::remove_file(path).unwrap();
    }
    println!("of {MUTATIONS} mutated images {} made qcow2-rs panic: {panicked:?}", panicked.len());
    println!("neither an error nor a good end, without a panic: {others:?}");
    still(!panicked.is_empty(), "qcow2-rs panics on damaged images");
}
