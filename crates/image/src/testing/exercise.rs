//! Everything that the qcow2 library does, done to an image that may be damaged in any way: nothing may panic, hang, take
//! much memory or write far away, and what a repair says must be true.

#![allow(clippy::unwrap_used)] // Failing is how a finding shows.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use super::Memory;
use super::sound::BACKING_LEN;
use crate::qcow2::bits::incompatible;
use crate::qcow2::check::{Fix, Repaired, check, repair};
use crate::qcow2::image::read_header;
use crate::qcow2::{Header, Options, Qcow2};
use crate::raw::Raw;
use crate::storage::{Storage, Stretch};
use crate::{BlockDevice, Error, Geometry};

/// Most bytes that the file grows to.
const MOST: u64 = 16 << 20;
/// Most bytes of the disk that are read, and extents.
const READ: u64 = 4 << 20;
const EXTENTS: u32 = 2048;

/// A file that must be written where it is, or right behind its end.
struct Fenced(Memory);

impl Fenced {
    fn inside(&self, offset: u64) {
        // Refcounts may call everything taken that one block of them tells about, 2^24 clusters of 2 MiB; then a new
        // cluster lies behind it.
        let end = self.0.bytes_len() as u64 + (1 << 46);
        assert!(offset <= end, "a write at {offset:#x} to a file of {:#x} bytes", self.0.bytes_len());
    }
}

impl Storage for Fenced {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<u64> {
        self.0.read_at(buffers, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.inside(offset);
        self.0.write_at(buffers, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inside(len);
        self.0.set_len(len)
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<bool> {
        self.inside(offset);
        self.0.zero(offset, len, unmap)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.inside(offset);
        self.0.allocate(offset, len)
    }

    fn stretch(&self, offset: u64) -> io::Result<Stretch> {
        self.0.stretch(offset)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }

    fn block(&self) -> u32 {
        self.0.block()
    }
}

fn options(header: &Header, read_only: bool) -> Options {
    let data = header.incompatible & incompatible::DATA_FILE != 0;
    let data = data.then(|| Arc::new(Memory::limited(vec![5; 1 << 16], MOST)) as Arc<dyn Storage>);
    let backing = header.backing.as_ref().map(|_| {
        let bytes = Memory::of(vec![9; BACKING_LEN as usize]);
        let geometry = Geometry { logical_block: 512, physical_block: 512 };
        Arc::new(Raw::on(Box::new(bytes), geometry, true).unwrap()) as Arc<dyn BlockDevice>
    });
    Options { read_only, data, backing, even_corrupt: true, ..Options::default() }
}

// The disk's contents by extents, as far as one goes; nothing where they can't be read.
fn contents(image: &Qcow2) -> Vec<(u64, Option<Vec<u8>>)> {
    let (mut at, mut left, mut all) = (0, READ, Vec::new());
    for _ in 0..EXTENTS {
        let rest = image.len() - at;
        if rest == 0 || left == 0 {
            break;
        }
        let len = image.extent(at, rest).map_or(1 << 16, |extent| extent.len).min(rest);
        let part = len.min(256 << 10).min(left);
        let mut bytes = vec![0; part as usize];
        let outcome = image.read_at(&mut [IoSliceMut::new(&mut bytes)], at);
        all.push((at, outcome.ok().map(|()| bytes)));
        left -= part;
        at += len;
    }
    all
}

/// Opens an image, reads what is in it, checks and repairs it, and writes to it. Returns what the repair did.
///
/// # Errors
/// When it can't be opened or repaired.
pub fn exercise(bytes: &[u8]) -> Result<Repaired, Error> {
    let disk: Arc<dyn Storage> = Arc::new(Fenced(Memory::limited(bytes.to_vec(), MOST)));
    let header = read_header(disk.as_ref())?;
    let before = {
        let image = Qcow2::open(disk.clone(), header.clone(), options(&header, true))?;
        for index in 0..image.snapshots().map_or(0, |all| all.len().min(3)) {
            let mut image = Qcow2::open(disk.clone(), header.clone(), options(&header, true))?;
            let snapshot = image.snapshots()?.remove(index);
            let _ = image.show(&snapshot).map(|()| contents(&image));
        }
        contents(&image)
    };
    let mut found = Vec::new();
    let report = check(disk.as_ref(), &header, &mut |finding| found.push(finding))?;
    // What is broken is used as well, as it is.
    use_it(&Memory::limited(bytes.to_vec(), MOST), report.corruptions == 0);
    let repaired = repair(&disk, &header, Fix::All, &mut |_| {})?;
    assert_eq!(repaired.before, report, "two checks of the same image");
    let header = read_header(disk.as_ref())?;
    let mut left = Vec::new();
    let after = check(disk.as_ref(), &header, &mut |finding| left.push(finding))?;
    // Where two tables are one, or a table and data, changing one changes the other.
    if !found.iter().chain(&left).any(|finding| finding.what.contains("two things")) {
        assert_eq!(after, repaired.after, "what the repair says is left");
        // References that can't be right are left as they are; refcounts and flags are right now.
        let wrong = left.iter().find(|finding| !finding.is_reference);
        assert!(wrong.is_none(), "left by the repair: {wrong:?} of {found:?}, {header:x?}");
        let image = Qcow2::open(disk.clone(), header.clone(), options(&header, true))?;
        for ((at, old), (_, new)) in before.iter().zip(contents(&image)) {
            assert!(old.is_none() || *old == new, "the repair has changed the disk at {at:#x}: {found:?} {header:x?}");
        }
    }
    let repaired_bytes = bytes_of(disk.as_ref());
    use_it(&Memory::limited(repaired_bytes, MOST), after.corruptions == 0);
    Ok(repaired)
}

fn bytes_of(disk: &dyn Storage) -> Vec<u8> {
    let mut bytes = vec![0; disk.len().unwrap() as usize];
    disk.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
    bytes
}

// Ordinary use of what is there. Of an image that is sound it must leave a sound one.
fn use_it(bytes: &Memory, is_sound: bool) {
    let disk: Arc<dyn Storage> = Arc::new(Fenced(Memory::limited(bytes.bytes(), MOST)));
    let header = read_header(disk.as_ref()).unwrap();
    let Ok(image) = Qcow2::open(disk.clone(), header.clone(), options(&header, false)) else { return };
    let len = image.len().min(1 << 20);
    let cluster = header.cluster_size().min(len);
    let _ = image.write_at(&[IoSlice::new(&vec![0xa5; cluster as usize])], 0);
    let _ = image.write_at(&[IoSlice::new(&[0x5a; 1024])], (len / 5 * 3).saturating_sub(1024));
    let _ = image.write_zeroes(len / 2, cluster.min(len - len / 2), true);
    let _ = image.discard(0, len / 3 / 512 * 512);
    let _ = image.flush();
    let _ = image.write_at(&[IoSlice::new(&vec![0x77; cluster as usize])], (len - cluster) / 512 * 512);
    if let Ok(id) = image.create_snapshot("fuzz", 1, 2) {
        let all = image.snapshots().unwrap_or_default();
        let index = all.iter().position(|snapshot| snapshot.id == id);
        assert!(index.is_some() || !is_sound, "a snapshot that isn't there");
        let index = index.unwrap_or(0);
        let _ = image.write_at(&[IoSlice::new(&[1; 512])], len.saturating_sub(512));
        for snapshot in all.iter().take(4) {
            let _ = image.apply_snapshot(snapshot);
        }
        let _ = image.delete_snapshot(index);
    }
    let _ = image.resize(image.len() + 4 * header.cluster_size());
    let done = image.flush().and_then(|()| image.close());
    drop(image);
    // The header stands, whatever was mapped onto it.
    let header = read_header(disk.as_ref()).unwrap();
    if !is_sound {
        return;
    }
    let mut found = Vec::new();
    let report = check(disk.as_ref(), &header, &mut |finding| found.push(finding));
    if done.is_ok() && header.incompatible & incompatible::DIRTY == 0 {
        assert_eq!(report.unwrap().corruptions, 0, "corrupt after ordinary use: {found:?}");
    }
}
