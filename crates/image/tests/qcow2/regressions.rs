//! What has gone wrong once.

use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kiln_image::qcow2::check::{Fix, check, repair};
use kiln_image::qcow2::create::{Preallocation, format};
use kiln_image::qcow2::image::read_header;
use kiln_image::qcow2::snapshots::Snapshot;
use kiln_image::qcow2::{Create, Options, Qcow2};
use kiln_image::storage::{File, Storage};
use kiln_image::testing::{Memory, Noise, Recorder, sound};
use kiln_image::{Access, BlockDevice};

use crate::history;
use crate::scene::{self, Scene};

fn new(create: &Create) -> Qcow2 {
    let disk: Arc<dyn Storage> = Arc::new(Memory::default());
    format(disk.clone(), None, create).unwrap();
    let header = read_header(disk.as_ref()).unwrap();
    Qcow2::open(disk, header, Options::default()).unwrap()
}

#[test]
fn an_l2_table_that_was_let_go_does_not_show_in_new_clusters() {
    let image = new(&Create { size: 512 << 10, cluster_bits: 10, ..Create::default() });
    let write = |at: u64, len: usize| image.write_at(&[IoSlice::new(&vec![1; len])], at).unwrap();
    write(0, 1024);
    // The file's last cluster is this one's L2 table.
    write(256 << 10, 1024);
    image.flush().unwrap();
    image.resize(128 << 10).unwrap();
    image.flush().unwrap();
    write(1024 + 512, 512);
    write(2048 + 512, 512);
    let mut bytes = vec![7; 2048];
    image.read_at(&mut [IoSliceMut::new(&mut bytes)], 1024).unwrap();
    for (index, byte) in bytes.iter().enumerate() {
        assert_eq!(*byte, u8::from(index % 1024 >= 512), "byte {index}");
    }
}

#[test]
fn a_snapshot_of_an_enormous_disk_is_refused_before_it_takes_memory() {
    let image = new(&Create { size: 64 << 10, cluster_bits: 9, ..Create::default() });
    image.create_snapshot("one", 1, 2).unwrap();
    let mut snapshot = image.snapshots().unwrap().remove(0);
    for disk_len in [1 << 40, i64::MAX as u64, 1 << 63, u64::MAX] {
        snapshot.disk_len = disk_len;
        let error = image.apply_snapshot(&snapshot).unwrap_err().to_string();
        assert!(error.contains("has a disk of"), "{error}");
    }
}

#[test]
fn a_snapshot_whose_tables_lie_beyond_any_file_is_told_by_the_check() {
    let scene = Scene::new();
    let path = scene.create("disk.qcow2", &Create { size: 64 << 10, ..Create::default() });
    let image = scene::open(&path, None);
    image.create_snapshot("one", 1, 2).unwrap();
    image.close().unwrap();
    let table = image.header().snapshots_offset;
    drop(image);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&(1u64 << 63).to_be_bytes(), table).unwrap();
    let disk = scene::opened(|| File::open(&path, Access::ReadOnly));
    let report = check(&disk, &read_header(&disk).unwrap(), &mut |_| {}).unwrap();
    assert!(report.corruptions > 0, "{report:?}");
}

#[test]
fn a_disk_whose_refcounts_fill_more_than_a_piece_in_memory_can_be_written() {
    let scene = Scene::new();
    let path = scene.create("disk.qcow2", &Create { size: 1 << 30, ..Create::default() });
    let image = scene::open(&path, None);
    // A sector in each of 12,000 clusters: the file has far more than 8192 of them.
    for number in 0..12_000u64 {
        image.write_at(&[IoSlice::new(&[number as u8 | 1; 512])], number << 16).unwrap();
    }
    image.flush().unwrap();
    image.discard(6000 << 16, 1 << 16).unwrap();
    image.close().unwrap();
    drop(image);
    scene::check(&path);
    let image = scene::open(&path, None);
    for (number, value) in [(0, 1), (6000, 0), (8191, 255), (8192, 1), (11_999, 0xdf)] {
        let mut sector = [7; 512];
        image.read_at(&mut [IoSliceMut::new(&mut sector)], number << 16).unwrap();
        assert_eq!(sector, [value; 512], "cluster {number}");
    }
}

/// An image of 64 clusters of 64 KiB with data in the first 16, as bytes.
fn filled() -> Vec<u8> {
    let disk = Arc::new(Memory::default());
    format(disk.clone(), None, &Create { size: 4 << 20, ..Create::default() }).unwrap();
    let image = on(&disk, Options::default());
    image.write_at(&[IoSlice::new(&vec![7; 1 << 20])], 0).unwrap();
    image.close().unwrap();
    drop(image);
    disk.bytes()
}

fn on(disk: &Arc<Memory>, options: Options) -> Qcow2 {
    let header = read_header(disk.as_ref()).unwrap();
    Qcow2::open(disk.clone(), header, options).unwrap()
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
}

fn get(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
}

#[test]
fn clusters_of_own_tables_are_not_given_out_though_refcounts_call_them_free() {
    let mut bytes = filled();
    let header = read_header(&Memory::of(bytes.clone())).unwrap();
    let block = get(&bytes, header.refcount_table_offset) as usize;
    bytes[block..block + (1 << 16)].fill(0);
    let disk = Arc::new(Memory::of(bytes.clone()));
    let image = on(&disk, Options::default());
    let error = image.write_at(&[IoSlice::new(&[1; 512])], 2 << 20).unwrap_err().to_string();
    assert!(error.contains("free, where one of its own tables lies"), "{error}");
    assert_eq!(disk.bytes(), bytes);
}

#[test]
fn what_is_mapped_or_lies_far_behind_the_file_s_end_is_not_written() {
    let sound = filled();
    let header = read_header(&Memory::of(sound.clone())).unwrap();
    let l2 = get(&sound, header.l1_offset) & !(1 << 63);
    let copied = 1 << 63;
    let far = copied | 1 << 50;
    // An L2 entry, an L1 entry, a refcount block, the L1 table, the refcount table.
    for (at, value) in
        [(l2, far), (header.l1_offset, far), (header.refcount_table_offset, 1 << 50), (40, 1 << 50), (48, 1 << 50)]
    {
        let mut bytes = sound.clone();
        put(&mut bytes, at, value);
        let disk = Arc::new(Memory::of(bytes.clone()));
        let image = on(&disk, Options::default());
        let outcome = image
            .write_at(&[IoSlice::new(&[1; 512])], 0)
            .and_then(|()| image.write_at(&[IoSlice::new(&[1; 512])], 3 << 20));
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("behind the end of its file"), "{at:#x}: {error}");
        let _ = image.close();
        assert!(disk.len().unwrap() < bytes.len() as u64 + (1 << 20), "{at:#x}");
    }
}

#[test]
fn a_file_that_is_cut_short_in_use_is_told_and_not_lengthened() {
    let disk = Arc::new(Memory::of(filled()));
    let image = on(&disk, Options::default());
    image.write_at(&[IoSlice::new(&vec![8; 1 << 20])], 1 << 20).unwrap();
    image.flush().unwrap();
    let end = disk.len().unwrap();
    disk.set_len(end - (256 << 10)).unwrap();
    let mut bytes = vec![0; 1 << 20];
    let error = image.read_at(&mut [IoSliceMut::new(&mut bytes)], 1 << 20).unwrap_err();
    let told = std::error::Error::source(&error).unwrap().to_string();
    assert!(told.contains("it was cut short while it was in use"), "{told}");
    image.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7), "what is there is read");
    let error = image.close().unwrap_err().to_string();
    assert!(error.contains("data in it is lost"), "{error}");
    assert_eq!(disk.len().unwrap(), end - (256 << 10));
}

#[test]
fn a_snapshot_of_an_enormous_disk_is_not_shown_for_ever() {
    let image = new(&Create { size: 64 << 10, cluster_bits: 9, ..Create::default() });
    image.create_snapshot("one", 1, 2).unwrap();
    let mut snapshot = image.snapshots().unwrap().remove(0);
    snapshot.disk_len = i64::MAX as u64;
    let mut image = image;
    let error = image.show(&snapshot).unwrap_err().to_string();
    assert!(error.contains("has a disk of"), "{error}");
}

#[test]
fn a_snapshot_behind_the_last_id_is_refused() {
    let disk = Arc::new(Memory::default());
    format(disk.clone(), None, &Create { size: 64 << 10, ..Create::default() }).unwrap();
    let image = on(&disk, Options::default());
    image.create_snapshot("one", 1, 2).unwrap();
    image.close().unwrap();
    let mut entry = Vec::new();
    let last = Snapshot { id: u64::MAX.to_string(), ..image.snapshots().unwrap().remove(0) };
    last.encode(&mut entry);
    disk.write_at(&[IoSlice::new(&entry)], image.header().snapshots_offset).unwrap();
    drop(image);
    let error = on(&disk, Options::default()).create_snapshot("two", 1, 2).unwrap_err().to_string();
    assert!(error.contains("behind which there is none"), "{error}");
}

#[test]
fn new_refcounts_of_a_cut_image_do_not_lie_where_its_entries_point() {
    let sound = filled();
    // Refcounts and tables are in the first half, data on both sides of the cut.
    for cut in [12 << 16, 9 << 16, (9 << 16) + 700] {
        let mut bytes = sound.clone();
        bytes.truncate(cut);
        let header = read_header(&Memory::of(bytes.clone())).unwrap();
        let block = get(&bytes, header.refcount_table_offset) as usize;
        bytes[block..block + (1 << 16)].fill(0);
        let disk = Arc::new(Memory::of(bytes));
        let storage: Arc<dyn Storage> = disk.clone();
        repair(&storage, &header, Fix::All, &mut |_| {}).unwrap();
        let image = on(&disk, Options::default());
        let mut contents = vec![1; 1 << 20];
        image.read_at(&mut [IoSliceMut::new(&mut contents)], 0).unwrap();
        // What was lost reads zeros, not tables.
        assert!(contents.iter().all(|byte| [0, 7].contains(byte)), "cut at {cut}");
        image.write_at(&[IoSlice::new(&vec![9; 1 << 20])], 0).unwrap();
        image.close().unwrap();
        let report = check(disk.as_ref(), &image.header(), &mut |_| {}).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "cut at {cut}");
    }
}

#[test]
fn tables_that_name_one_table_over_and_over_are_gone_through_once() {
    // 2^22 entries, each of them the same L2 table of 2^18: 2^40 entries in all.
    let mut disk = Memory::default();
    let create = Create { size: 1 << 60, cluster_bits: 21, ..Create::default() };
    let storage: Arc<dyn Storage> = Arc::new(std::mem::take(&mut disk));
    format(storage.clone(), None, &create).unwrap();
    let header = read_header(storage.as_ref()).unwrap();
    let table = storage.len().unwrap();
    storage.set_len(table + (4 << 21)).unwrap();
    let l1 = (table | 1 << 63).to_be_bytes().repeat(header.l1_entries as usize);
    storage.write_at(&[IoSlice::new(&l1)], header.l1_offset).unwrap();
    let l2 = ((table + (2 << 21)) | 1 << 63).to_be_bytes().repeat(1 << 18);
    storage.write_at(&[IoSlice::new(&l2)], table).unwrap();
    let report = check(storage.as_ref(), &header, &mut |_| {}).unwrap();
    assert!(report.corruptions > 0, "{report:?}");
    let image = Qcow2::open(storage, header, Options::default()).unwrap();
    let error = image.create_snapshot("one", 1, 2).unwrap_err().to_string();
    assert!(error.contains("used twice"), "{error}");
}

#[test]
fn a_bitmap_s_table_of_any_length_takes_no_memory() {
    let mut bytes = sound(1 | 0x100);
    let header = read_header(&Memory::of(bytes.clone())).unwrap();
    let directory = header.bitmaps.unwrap().directory_offset as usize;
    // 2^32 - 1 entries would be 32 GiB.
    bytes[directory + 8..directory + 12].fill(0xff);
    let report = check(&Memory::of(bytes), &header, &mut |_| {}).unwrap();
    assert!(report.corruptions > 0, "{report:?}");
}

#[test]
fn what_was_on_a_device_before_does_not_show_in_a_new_image() {
    let kinds = [(9, 4, false), (9, 0, false), (9, 6, false), (12, 4, false), (16, 4, false), (16, 3, true)];
    for (cluster_bits, refcount_order, extended_l2) in kinds {
        for preallocation in [Preallocation::Off, Preallocation::Metadata, Preallocation::Full] {
            let what = format!("clusters 2^{cluster_bits}, refcounts 2^{refcount_order}, {preallocation:?}");
            let size = 2 << 20;
            let create = Create { size, cluster_bits, refcount_order, extended_l2, preallocation, ..Create::default() };
            let disk: Arc<dyn Storage> = Arc::new(Memory::of(vec![0x5a; 8 << 20]));
            format(disk.clone(), None, &create).unwrap();
            let open = || Qcow2::open(disk.clone(), read_header(disk.as_ref()).unwrap(), Options::default()).unwrap();
            let image = open();
            let mut is = vec![7; size as usize];
            image.read_at(&mut [IoSliceMut::new(&mut is)], 0).unwrap();
            assert!(is.iter().all(|byte| *byte == 0), "{what}: it doesn't read zeros");
            // A sector here and there, so that most of what is taken isn't written by the guest.
            let mut model = vec![0; size as usize];
            for place in (0..size as usize).step_by(7 * 512) {
                image.write_at(&[IoSlice::new(&[1; 512])], place as u64).unwrap();
                model[place..place + 512].fill(1);
            }
            image.close().unwrap();
            drop(image);
            open().read_at(&mut [IoSliceMut::new(&mut is)], 0).unwrap();
            assert!(is == model, "{what}: what was written");
            let mut found = Vec::new();
            let header = read_header(disk.as_ref()).unwrap();
            check(disk.as_ref(), &header, &mut |finding| found.push(finding)).unwrap();
            assert!(found.is_empty(), "{what}: {found:?}");
        }
    }
}

/// In version 2 a snapshot counts all clusters up before the header names it, without a dirty bit.
#[test]
fn a_snapshot_that_needs_a_refcount_block_has_it_written_before_the_table_names_it() {
    let create = Create { size: 256 << 10, cluster_bits: 9, version: 2, ..Create::default() };
    let mut needed = 0;
    // A block tells of 256 clusters: somewhere among these the snapshot's own tables need the second one.
    for clusters in 200..256u64 {
        let empty: Arc<Memory> = Arc::default();
        format(empty.clone(), None, &create).unwrap();
        let disk = Arc::new(Recorder::of(empty.bytes()));
        let image = Qcow2::open(disk.clone(), read_header(disk.as_ref()).unwrap(), Options::default()).unwrap();
        for cluster in 0.. {
            if disk.len().unwrap() >> 9 >= clusters {
                break;
            }
            image.write_at(&[IoSlice::new(&[1; 512])], cluster << 9).unwrap();
        }
        image.flush().unwrap();
        let before = disk.events();
        let table = |disk: &Recorder| {
            let mut entries = [0; 16];
            kiln_image::storage::read(disk, &mut entries, 512).unwrap();
            entries
        };
        let old = table(&disk);
        image.create_snapshot("one", 1, 2).unwrap();
        needed += u32::from(table(&disk) != old);
        let mut noise = Noise(clusters);
        for cut in before..=disk.events() {
            for _ in 0..40 {
                let left = Memory::of(disk.cut(cut, &mut |limit| noise.below(limit)));
                history::sound(&left, true)
                    .unwrap_or_else(|error| panic!("{clusters} clusters, cut at {cut}: {error}"));
            }
        }
    }
    assert!(needed > 0, "no snapshot needed a block");
}
