//! Raw images: what is written comes back, and nothing else is touched.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // All of it is tests.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use kiln_image::raw::{Raw, create};
use kiln_image::{Access, BlockDevice, Error};
use proptest::prelude::*;
use tempfile::TempDir;

fn image(size: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    create(&path, size).unwrap();
    (folder, path)
}

fn read(disk: &Raw, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xee; len];
    disk.read_at(&mut [IoSliceMut::new(&mut data)], offset).unwrap();
    data
}

#[test]
fn a_created_image_is_sparse_private_and_alone() {
    let (folder, path) = image(10 << 30);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), 10 << 30);
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert!(metadata.blocks() * 512 < 1 << 20);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn creating_never_replaces_and_leaves_nothing_behind() {
    let (folder, path) = image(4096);
    fs::write(&path, b"precious").unwrap();
    assert!(matches!(create(&path, 8192), Err(Error::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    std::os::unix::fs::symlink("nowhere", folder.path().join("dangling")).unwrap();
    assert!(matches!(create(&folder.path().join("dangling"), 8192), Err(Error::Exists { .. })));
    let error = create(&folder.path().join("missing/disk.img"), 1).unwrap_err();
    assert_eq!(error.hint(), Some("make the folder first"));
    let error = create(&folder.path().join("huge.img"), u64::MAX >> 1).unwrap_err();
    assert!(matches!(error, Error::Create { .. }), "{error}");
    assert!(create(&folder.path().join("wild.img"), u64::MAX).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn two_creators_at_once_make_one_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u64)
            .map(|n| {
                scope.spawn({
                    let path = &path;
                    move || create(path, (n + 1) * 4096).is_ok()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn odd_lengths_are_padded_to_a_sector() {
    let (_folder, path) = image(0);
    fs::write(&path, [7; 700]).unwrap();
    let disk = Raw::open(&path, Access::Write).unwrap();
    assert_eq!(disk.len(), 1024);
    let mut expected = vec![7; 700];
    expected.resize(1024, 0);
    assert_eq!(read(&disk, 0, 1024), expected);
    disk.write_at(&[IoSlice::new(&[8; 512])], 512).unwrap();
    assert_eq!(read(&disk, 512, 512), [8; 512]);
}

#[test]
fn a_file_that_is_cut_short_is_told_and_not_read_as_zeros() {
    let (_folder, path) = image(1 << 20);
    let disk = Raw::open(&path, Access::Write).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(6000).unwrap();
    assert_eq!(read(&disk, 0, 6000), vec![0; 6000]);
    let error = disk.read_at(&mut [IoSliceMut::new(&mut [0; 4096])], 4096).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(why, "the file ends at byte 6000: it was cut short while it was in use");
    let error = disk.read_at(&mut [IoSliceMut::new(&mut [0; 4096])], 8192).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("ends at byte 6000"), "{error}");
    file.set_len(1 << 20).unwrap();
    assert_eq!(read(&disk, 8192, 4096), vec![0; 4096]);
    // Its owner may cut it: what is behind then is no part of the disk.
    disk.resize(4096).unwrap();
    assert_eq!(read(&disk, 0, 4096), vec![0; 4096]);
}

#[test]
fn ranges_outside_the_disk_are_refused_and_leave_it_as_it_was() {
    let (_folder, path) = image(4096);
    let disk = Raw::open(&path, Access::Write).unwrap();
    for (offset, len) in [(4096, 1), (0, 4097), (u64::MAX, 1), (u64::MAX - 3, 8)] {
        let mut data = vec![0; len];
        let outcome = disk.read_at(&mut [IoSliceMut::new(&mut data)], offset);
        assert!(matches!(outcome, Err(Error::OutOfRange { .. })), "{offset}+{len}");
        assert!(disk.write_at(&[IoSlice::new(&data)], offset).is_err());
        assert!(disk.discard(offset, len as u64).is_err());
        assert!(disk.write_zeroes(offset, len as u64, true).is_err());
    }
    assert!(disk.discard(4096, 0).is_ok());
    assert_eq!(fs::metadata(&path).unwrap().len(), 4096);
}

#[test]
fn discard_and_unmapping_zeroes_give_space_back_and_plain_zeroes_keep_it() {
    let (_folder, path) = image(1 << 20);
    let disk = Raw::open(&path, Access::Write).unwrap();
    let full = || {
        disk.write_at(&[IoSlice::new(&vec![5; 1 << 20])], 0).unwrap();
        disk.flush().unwrap();
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
    };
    full();
    disk.discard(0, 1 << 19).unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() * 512 <= 1 << 19);
    full();
    disk.write_zeroes(0, 1 << 19, true).unwrap();
    assert_eq!(read(&disk, 0, 1 << 20)[..1 << 19], vec![0; 1 << 19]);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 <= 1 << 19);
    full();
    disk.write_zeroes(100, 1 << 19, false).unwrap();
    let back = read(&disk, 0, 1 << 20);
    assert!(back[..100].iter().chain(&back[100 + (1 << 19)..]).all(|byte| *byte == 5));
    assert!(back[100..100 + (1 << 19)].iter().all(|byte| *byte == 0));
    assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
}

#[test]
fn a_read_only_disk_takes_no_write() {
    let (_folder, path) = image(4096);
    let disk = Raw::open(&path, Access::ReadOnly).unwrap();
    assert!(disk.is_read_only());
    for outcome in [disk.write_at(&[IoSlice::new(&[1])], 0), disk.discard(0, 512), disk.write_zeroes(0, 512, false)] {
        assert!(matches!(outcome, Err(Error::ReadOnly { .. })));
    }
    disk.flush().unwrap();
    assert_eq!(read(&disk, 0, 4096), [0; 4096]);
}

#[test]
fn what_is_no_disk_is_refused_by_what_it_is() {
    let (folder, path) = image(4096);
    let say = |path: PathBuf, access| Raw::open(&path, access).err().unwrap();
    let error = say(folder.path().into(), Access::Write);
    assert_eq!(error.to_string(), format!("{} is a folder, not a disk image", folder.path().display()));
    assert_eq!(error.hint(), Some("name a regular file or a block device"));
    assert!(say(folder.path().into(), Access::ReadOnly).to_string().contains("a folder"));
    assert!(say("/dev/null".into(), Access::Write).to_string().contains("a character device"));
    let missing = say(path.with_extension("none"), Access::Write);
    assert_eq!(missing.hint(), Some("check the path, or give a size to create it"));
}

#[test]
fn a_grown_file_is_seen_after_a_refresh() {
    let (_folder, path) = image(4096);
    let disk = Raw::open(&path, Access::Write).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(8192).unwrap();
    assert_eq!(disk.len(), 4096);
    assert_eq!(disk.refresh().unwrap(), 8192);
    assert_eq!(disk.len(), 8192);
}

#[test]
fn threads_write_side_by_side() {
    let (_folder, path) = image(8 << 20);
    let disk = Raw::open(&path, Access::Write).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let disk = &disk;
            scope.spawn(move || {
                for block in (thread..2048).step_by(8) {
                    let data = [(block % 251) as u8; 4096];
                    disk.write_at(&[IoSlice::new(&data[..100]), IoSlice::new(&data[100..])], block * 4096).unwrap();
                }
            });
        }
    });
    for block in 0..2048u64 {
        assert_eq!(read(&disk, block * 4096, 4096), [(block % 251) as u8; 4096]);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>, usize),
    Discard(u64, u64),
    Zeroes(u64, u64, bool),
    Flush,
}

const SIZE: u64 = 64 << 10;

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SIZE, 0..SIZE).prop_map(|(offset, len)| (offset, len.min(SIZE - offset)));
    prop_oneof![
        (0..SIZE, prop::collection::vec(any::<u8>(), 0..9000), 0..9000usize).prop_map(|(offset, mut data, cut)| {
            data.truncate((SIZE - offset) as usize);
            Step::Write(offset, data, cut)
        }),
        range().prop_map(|(offset, len)| Step::Discard(offset, len)),
        (range(), any::<bool>()).prop_map(|((offset, len), unmap)| Step::Zeroes(offset, len, unmap)),
        Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // The model is a plain array; a discarded range reads zeros on files.
    #[test]
    fn any_sequence_leaves_what_an_array_would_hold(steps in prop::collection::vec(step(), 1..20)) {
        let (_folder, path) = image(SIZE);
        let disk = Raw::open(&path, Access::Write).unwrap();
        let mut model = vec![0u8; SIZE as usize];
        for step in steps {
            match step {
                Step::Write(offset, data, cut) => {
                    let (head, tail) = data.split_at(cut.min(data.len()));
                    disk.write_at(&[IoSlice::new(head), IoSlice::new(tail)], offset).unwrap();
                    model[offset as usize..][..data.len()].copy_from_slice(&data);
                }
                Step::Discard(offset, len) => {
                    disk.discard(offset, len).unwrap();
                    model[offset as usize..][..len as usize].fill(0);
                }
                Step::Zeroes(offset, len, unmap) => {
                    disk.write_zeroes(offset, len, unmap).unwrap();
                    model[offset as usize..][..len as usize].fill(0);
                }
                Step::Flush => disk.flush().unwrap(),
            }
        }
        prop_assert!(read(&disk, 0, SIZE as usize) == model);
        prop_assert!(fs::read(&path).unwrap() == model);
    }
}
