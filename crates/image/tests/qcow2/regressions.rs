//! What has gone wrong once.

use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kiln_image::qcow2::check::check;
use kiln_image::qcow2::create::format;
use kiln_image::qcow2::image::read_header;
use kiln_image::qcow2::{Create, Options, Qcow2};
use kiln_image::storage::{File, Storage};
use kiln_image::testing::Memory;
use kiln_image::{Access, BlockDevice};

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
    let disk = File::open(&path, Access::ReadOnly).unwrap();
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
