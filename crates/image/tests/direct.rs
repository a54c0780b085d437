//! Past the page cache: requests of any place and length, from several threads at once.

#![allow(clippy::unwrap_used)] // Failing is how a test shows it.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::path::Path;

use kiln_image::storage::{self, Cache, Storage};
use kiln_image::testing::Noise;
use kiln_image::{Access, Error};

const DIRECT: Cache = Cache { direct: true, sync: false };

// None where the file system can't.
fn open(path: &Path) -> Option<storage::File> {
    match storage::File::open_with(path, Access::Write, DIRECT) {
        Err(Error::Open { source, .. }) if source.kind() == ErrorKind::Unsupported => {
            println!("not tried: {source}");
            None
        }
        other => Some(other.unwrap()),
    }
}

fn folder() -> tempfile::TempDir {
    // On a disk, where the folder for temporary files may be in memory.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

// Flags of all open files of this process that lie at `path`.
fn flags(path: &Path) -> Vec<u32> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let about = Path::new("/proc/self/fdinfo").join(entry.file_name());
            let text = std::fs::read_to_string(about).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            all.push(u32::from_str_radix(line.trim(), 8).unwrap());
        }
    }
    all
}

#[test]
fn the_file_is_open_for_direct_transfers() {
    let folder = folder();
    let path = folder.path().join("disk").canonicalize().unwrap_or_else(|_| folder.path().join("disk"));
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let Some(file) = open(&path) else { return };
    let flag = libc::O_DIRECT as u32;
    assert_eq!(flags(&path).iter().filter(|flags| **flags & flag != 0).count(), 1);
    assert!(file.plain().is_none(), "nobody else reads and writes it as this does");
    drop(file);
    assert!(flags(&path).is_empty());
    assert!(storage::File::open(&path, Access::Write).unwrap().plain().is_some());
}

#[test]
fn any_place_and_any_length() {
    let folder = folder();
    let path = folder.path().join("disk");
    File::create(&path).unwrap();
    let Some(file) = open(&path) else { return };
    let (mut model, mut noise) = (Vec::new(), Noise(99));
    for step in 0..600u32 {
        let at = match noise.below(3) {
            0 => noise.below(4 << 20),
            1 => noise.below(1 << 10) * 4096,
            _ => noise.below(8 << 10) * 512,
        };
        let len = match noise.below(4) {
            0 => noise.below(9),
            1 => noise.below(5000),
            2 => noise.below(16) * 4096,
            _ => noise.below(3 << 20),
        };
        let (start, end) = (at as usize, (at + len) as usize);
        let cut = noise.below(len + 1) as usize;
        if noise.below(2) == 0 {
            let bytes: Vec<u8> = (0..len).map(|n| (n / 7 + u64::from(step)) as u8).collect();
            let (a, b) = bytes.split_at(cut);
            file.write_at(&[IoSlice::new(a), IoSlice::new(b)], at).unwrap();
            if model.len() < end && len > 0 {
                model.resize(end, 0);
            }
            if len > 0 {
                model[start..end].copy_from_slice(&bytes);
            }
        } else {
            let mut bytes = vec![9; len as usize];
            let (a, b) = bytes.split_at_mut(cut);
            file.read_at(&mut [IoSliceMut::new(a), IoSliceMut::new(b)], at).unwrap();
            for (n, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, model.get(start + n).copied().unwrap_or(0), "step {step}, at {}", start + n);
            }
        }
    }
    file.flush().unwrap();
    assert_eq!(file.len().unwrap(), model.len() as u64);
    drop(file);
    assert!(std::fs::read(&path).unwrap() == model, "read in the ordinary way");
}

#[test]
fn who_writes_a_part_of_a_block_doesnt_take_back_the_rest() {
    const PAGES: u64 = 64;
    let folder = folder();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(PAGES * 4096).unwrap();
    let Some(file) = open(&path) else { return };
    for round in 1..=200u8 {
        std::thread::scope(|scope| {
            let write = |skip: u64, len: usize| {
                let file = &file;
                scope.spawn(move || {
                    for page in 0..PAGES {
                        storage::write(file, &vec![round; len], page * 4096 + skip).unwrap();
                    }
                });
            };
            // Whole blocks, and a sector in each of them, which goes through the page cache.
            write(0, 4096);
            write(1024, 512);
        });
        // Whichever came last, all of it is of this round.
        let mut bytes = vec![0; PAGES as usize * 4096];
        storage::read(&file, &mut bytes, 0).unwrap();
        let old = bytes.iter().position(|byte| *byte != round);
        assert_eq!(old, None, "round {round}");
    }
    drop(file);
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 200));
}
