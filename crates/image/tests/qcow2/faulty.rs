//! A host that fails at any moment: disk full, I/O errors, writes of which only a part got there.
//!
//! Every operation of short rows fails at each of its calls in turn. It says so; the image stays one that a check passes
//! (what leaks is lost space, what is marked dirty is repaired when it is opened); sectors hold what they held or what
//! was written; and once the host is well again the same open image goes on rightly.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use kiln_image::qcow2::check::{Fix, check, repair};
use kiln_image::qcow2::compress::Compressor;
use kiln_image::qcow2::create::format;
use kiln_image::qcow2::image::read_header;
use kiln_image::qcow2::{Compression, Create, Options, Preallocation, Qcow2};
use kiln_image::raw::Raw;
use kiln_image::storage::Storage;
use kiln_image::testing::damage::{Place, damage};
use kiln_image::testing::{CALLS, Call, Faulty, Memory, Noise, Trouble, sound};
use kiln_image::{BlockDevice, Error, Geometry};

const SECTOR: usize = 512;
/// Sectors of a disk.
const SECTORS: usize = 96;

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(usize, usize),
    Zero(usize, usize, bool),
    Discard(usize, usize),
    Compressed(usize),
    Flush,
    Snapshot,
    Apply,
    Delete,
    Resize(usize),
    Empty,
}

use Step::*;

const ROWS: [&[Step]; 4] = [
    &[
        Write(0, 20),
        Write(33, 3),
        Flush,
        Compressed(48),
        Compressed(56),
        Zero(10, 8, true),
        Write(50, 2),
        Flush,
        Write(5, 30),
    ],
    &[Write(0, 40), Zero(2, 20, false), Flush, Discard(0, 32), Write(8, 9), Flush, Write(60, 20), Flush],
    &[Write(0, 24), Snapshot, Write(4, 12), Flush, Apply, Write(20, 10), Delete, Write(0, 8), Flush],
    &[Write(70, 20), Resize(SECTORS + 300), Write(SECTORS + 100, 9), Flush, Resize(80), Flush, Empty, Write(1, 1)],
];

fn kinds() -> Vec<Create> {
    let base = Create { size: (SECTORS * SECTOR) as u64, ..Create::default() };
    let backing = || Some(("base".into(), Some("raw".to_owned())));
    vec![
        Create { cluster_bits: 12, ..base.clone() },
        Create { cluster_bits: 9, version: 2, backing: backing(), ..base.clone() },
        Create { cluster_bits: 9, refcount_order: 6, backing: backing(), ..base.clone() },
        Create { cluster_bits: 14, extended_l2: true, refcount_order: 1, ..base },
    ]
}

fn fill(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes().repeat(SECTOR / 8)).collect()
}

fn backing() -> Arc<dyn BlockDevice> {
    let numbers: Vec<u64> = (0..SECTORS as u64 / 2).map(|n| 1_000_000 + n).collect();
    let geometry = Geometry { logical_block: 512, physical_block: 512 };
    Arc::new(Raw::on(Box::new(Memory::of(fill(&numbers))), geometry, true).unwrap())
}

fn open(disk: Arc<dyn Storage>) -> Result<Qcow2, Error> {
    let header = read_header(disk.as_ref())?;
    let backing = header.backing.is_some().then(backing);
    Qcow2::open(disk, header, Options { backing, unmap: true, ..Options::default() })
}

/// What each sector may hold.
type May = Vec<Vec<u64>>;

/// An image and what is known of it.
struct Patient {
    image: Qcow2,
    disk: Arc<Faulty>,
    next: u64,
    /// When all that is in memory gets to the disk.
    now: May,
    /// When nothing more does.
    durable: May,
    snapshot: Option<May>,
}

impl Patient {
    fn new(create: &Create) -> Self {
        let disk = Arc::new(Faulty::of(Vec::new()));
        format(disk.clone(), None, create).unwrap();
        let image = open(disk.clone()).unwrap();
        let mut now = vec![vec![0]; SECTORS];
        if create.backing.is_some() {
            (0..SECTORS / 2).for_each(|sector| now[sector] = vec![1_000_000 + sector as u64]);
        }
        Self { image, disk, next: 1, durable: now.clone(), now, snapshot: None }
    }

    fn changed(&mut self, start: usize, new: &[u64], done: bool) {
        let len = self.now.len();
        for (sector, number) in (start..len).zip(new) {
            if done {
                self.now[sector].clear();
            }
            self.now[sector].push(*number);
            self.durable[sector].push(*number);
        }
    }

    // Both contents are possible when it isn't done.
    fn replaced(&mut self, new: &May, done: bool) {
        for (sector, new) in new.iter().enumerate().take(self.now.len()) {
            if done {
                self.now[sector].clear();
            }
            self.now[sector].extend(new);
            self.durable[sector].extend(new);
        }
        if done {
            self.durable = self.now.clone();
        }
    }

    fn step(&mut self, step: Step) -> Result<(), Error> {
        let len = self.image.len() as usize / SECTOR;
        let at = |sector: usize| (sector * SECTOR) as u64;
        match step {
            Write(start, count) => {
                let start = start.min(len);
                let count = count.min(len.saturating_sub(start));
                let numbers: Vec<u64> = (0..count as u64).map(|n| self.next + n).collect();
                self.next += 100;
                let outcome = self.image.write_at(&[IoSlice::new(&fill(&numbers))], at(start));
                self.changed(start, &numbers, outcome.is_ok());
                outcome
            }
            Compressed(start) => {
                let cluster = self.image.header().cluster_size() as usize;
                let start = start - start % (cluster / SECTOR);
                let numbers = vec![self.next; cluster / SECTOR];
                self.next += 100;
                let mut out = vec![0; cluster - 1];
                let size = Compressor::new(Compression::Zlib).unwrap().compress(&fill(&numbers), &mut out).unwrap();
                let outcome = self.image.write_compressed(at(start), &out[..size]);
                self.changed(start, &numbers, outcome.is_ok());
                outcome
            }
            Zero(start, count, unmap) => {
                let outcome = self.image.write_zeroes(at(start), at(count), unmap);
                self.changed(start, &vec![0; count], outcome.is_ok());
                outcome
            }
            Discard(start, count) => {
                let outcome = self.image.discard(at(start), at(count));
                self.changed(start, &vec![0; count], false);
                outcome
            }
            Flush => {
                let outcome = self.image.flush();
                if outcome.is_ok() {
                    self.durable = self.now.clone();
                }
                outcome
            }
            Snapshot => {
                self.snapshot.get_or_insert(self.now.clone());
                let outcome = self.image.create_snapshot("one", 1, 2).map(drop);
                if outcome.is_ok() {
                    self.durable = self.now.clone();
                }
                outcome
            }
            Apply | Delete => {
                let all = self.image.snapshots()?;
                let Some(one) = all.first() else { return Ok(()) };
                if matches!(step, Delete) {
                    let outcome = self.image.delete_snapshot(0);
                    if outcome.is_ok() {
                        self.durable = self.now.clone();
                    }
                    outcome
                } else {
                    let outcome = self.image.apply_snapshot(one);
                    let new = self.snapshot.clone().unwrap();
                    self.replaced(&new, outcome.is_ok());
                    outcome
                }
            }
            Resize(new) => {
                let outcome = self.image.resize(at(new));
                self.resized(len, new, outcome.is_ok());
                outcome
            }
            Empty => {
                let outcome = self.image.make_empty();
                let has_backing = self.image.header().backing.is_some();
                let below =
                    |sector: usize| if has_backing && sector < SECTORS / 2 { 1_000_000 + sector as u64 } else { 0 };
                let new: May = (0..self.now.len()).map(|sector| vec![below(sector)]).collect();
                self.replaced(&new, outcome.is_ok());
                outcome
            }
        }
    }

    fn resized(&mut self, old: usize, new: usize, done: bool) {
        // What comes beyond the end is zeros, whatever was there.
        for sector in old.min(new)..old.max(new).max(self.now.len()) {
            if sector >= self.now.len() {
                self.now.push(vec![0]);
                self.durable.push(vec![0]);
            } else {
                self.now[sector].push(0);
                self.durable[sector].push(0);
            }
        }
        if done {
            self.now.truncate(new);
        }
    }
}

fn read(image: &Qcow2) -> Result<Vec<u64>, Error> {
    let mut bytes = vec![7; image.len() as usize];
    image.read_at(&mut [IoSliceMut::new(&mut bytes)], 0)?;
    Ok(bytes.chunks(SECTOR).map(|sector| u64::from_le_bytes(sector[..8].try_into().unwrap())).collect())
}

fn holds(what: &str, is: &[u64], may: &May) {
    for (sector, (number, may)) in is.iter().zip(may).enumerate() {
        assert!(may.contains(number), "{what}: sector {sector} holds {number}, not of {may:?}");
    }
}

// What is on the disk now, as the next one to open it finds it.
fn judge(what: &str, bytes: Vec<u8>, may: &May) {
    let disk: Arc<dyn Storage> = Arc::new(Memory::of(bytes));
    let header = read_header(disk.as_ref()).unwrap_or_else(|error| panic!("{what}: {error}"));
    if header.incompatible & 1 == 0 {
        let mut found = Vec::new();
        check(disk.as_ref(), &header, &mut |finding| found.push(finding)).unwrap();
        // Version 2 has no dirty bit: a flag may be missing there.
        let harmless = |what: &str| header.version == 2 && what.contains("refcount 1, its");
        found.retain(|finding| finding.is_corruption && !harmless(&finding.what));
        assert!(found.is_empty(), "{what}: {found:?}");
    }
    let image = open(disk.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let header = image.header();
    let report = check(disk.as_ref(), &header, &mut |_| {}).unwrap();
    assert!(report.corruptions == 0 || header.version == 2, "{what}: {report:?}");
    holds(what, &read(&image).unwrap(), may);
}

// How often each kind of call is made in a row of steps that go well.
fn calls(create: &Create, row: &[Step]) -> Vec<(Call, usize)> {
    let mut patient = Patient::new(create);
    // Counts from now on, and never fails.
    patient.disk.fail(Trouble { call: Call::Read, after: usize::MAX, errno: 0, torn: 0, lasts: false });
    for step in row {
        match patient.step(*step) {
            Ok(()) | Err(Error::Unsupported { .. }) => {}
            Err(error) => panic!("{step:?}: {error}"),
        }
    }
    patient.image.close().unwrap();
    CALLS.into_iter().map(|call| (call, patient.disk.calls(call))).collect()
}

// Does a row with a fault in it. The operation that hits it fails, and what comes after goes on: with the host well
// again, or not.
fn fails(create: &Create, row: &[Step], trouble: Trouble) {
    let what = format!("{trouble:?} in {row:?} of {create:?}");
    let mut patient = Patient::new(create);
    patient.disk.fail(trouble);
    let mut failed = false;
    for step in row {
        match patient.step(*step) {
            Ok(()) | Err(Error::Unsupported { .. }) => {}
            Err(error) => {
                failed = true;
                assert!(matches!(error, Error::Io { .. }) || trouble.lasts, "{what}: {step:?}: {error:?}");
            }
        }
    }
    if trouble.lasts {
        // Nobody closes it: the power of this process is gone.
        patient.disk.heal();
        judge(&what, patient.disk.bytes(), &patient.durable);
        return;
    }
    let closed = patient.image.close();
    let hits = patient.disk.heal();
    assert!(hits > 0, "{what}: never got there");
    // A call that only helps (giving space back) may fail unheard.
    let helps = trouble.call == Call::Zero;
    assert!(failed || closed.is_err() || helps, "{what}: nobody heard of it");
    // The host is well: what is open goes on, or says that it can't.
    let numbers = [777_777; 3];
    let more = patient.image.write_at(&[IoSlice::new(&fill(&numbers))], 40 * SECTOR as u64);
    let refuses = |error: &Error| {
        std::error::Error::source(error).is_some_and(|source| source.to_string().contains("must be opened anew"))
    };
    if let Err(error) = &more {
        assert!(refuses(error), "{what}: {error:?}");
        assert!(patient.image.flush().is_err_and(|error| refuses(&error)), "{what}");
        patient.durable.iter_mut().zip(&patient.now).for_each(|(durable, now)| durable.extend(now));
        return judge(&what, patient.disk.bytes(), &patient.durable);
    }
    patient.changed(40, &numbers, true);
    holds(&what, &read(&patient.image).unwrap_or_else(|error| panic!("{what}: {error}")), &patient.now);
    patient.image.flush().unwrap_or_else(|error| panic!("{what}: {error}"));
    patient.image.close().unwrap_or_else(|error| panic!("{what}: {error}"));
    judge(&what, patient.disk.bytes(), &patient.now);
}

#[test]
fn every_call_of_every_operation_may_fail() {
    let mut count = 0;
    for create in kinds() {
        for row in ROWS {
            for (call, calls) in calls(&create, row) {
                for after in 0..calls {
                    let torn: &[usize] = if call == Call::Write { &[0, 512, 700, 4096] } else { &[0] };
                    for torn in torn {
                        let errno = if call == Call::Write { libc::ENOSPC } else { libc::EIO };
                        for lasts in [false, true] {
                            fails(&create, row, Trouble { call, after, errno, torn: *torn, lasts });
                            count += 1;
                        }
                    }
                }
            }
        }
    }
    println!("{count} faults");
}

#[test]
fn a_new_image_that_can_t_be_written_is_told() {
    for preallocation in [Preallocation::Off, Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full] {
        let create = Create { size: 1 << 20, cluster_bits: 12, preallocation, ..Create::default() };
        let disk = Arc::new(Faulty::of(Vec::new()));
        format(disk.clone(), None, &create).unwrap();
        for call in CALLS {
            for after in 0..disk.calls(call) {
                let faulty = Arc::new(Faulty::of(Vec::new()));
                faulty.fail(Trouble { call, after, errno: libc::ENOSPC, torn: 100, lasts: false });
                let outcome = format(faulty.clone(), None, &create);
                assert!(matches!(outcome, Err(Error::Io { .. })), "{call:?} {after}: {outcome:?}");
                assert_eq!(faulty.heal(), 1);
            }
        }
    }
}

#[test]
fn a_repair_may_fail_anywhere_and_be_done_again() {
    let mut noise = Noise(99);
    let (mut done, mut faults) = (0, 0);
    while done < 24 {
        let mut bytes = sound([0x10, 0x11, 0x4, 0x1][done % 4]);
        let place = [Place::RefcountBlock, Place::L2, Place::RefcountTable, Place::Cut][done / 4 % 4];
        let Some(_) = damage(&mut bytes, place, &mut |limit| noise.below(limit)) else { continue };
        let whole = Arc::new(Faulty::of(bytes.clone()));
        let storage: Arc<dyn Storage> = whole.clone();
        let Ok(header) = read_header(storage.as_ref()) else { continue };
        whole.fail(Trouble { call: Call::Read, after: usize::MAX, errno: 0, torn: 0, lasts: false });
        let Ok(repaired) = repair(&storage, &header, Fix::All, &mut |_| {}) else { continue };
        if repaired.before.corruptions + repaired.before.leaks == 0 || repaired.after.corruptions > 0 {
            continue;
        }
        done += 1;
        for call in CALLS {
            for after in 0..whole.calls(call) {
                let disk = Arc::new(Faulty::of(bytes.clone()));
                let storage: Arc<dyn Storage> = disk.clone();
                disk.fail(Trouble { call, after, errno: libc::EIO, torn: 64, lasts: false });
                let outcome = repair(&storage, &header, Fix::All, &mut |_| {});
                assert!(outcome.is_err() && disk.heal() == 1, "{place:?} {call:?} {after}: {outcome:?}");
                let header = read_header(storage.as_ref()).unwrap();
                let again = repair(&storage, &header, Fix::All, &mut |_| {}).unwrap();
                assert_eq!((again.after.corruptions, again.after.leaks), (0, 0), "{place:?} {call:?} {after}");
                faults += 1;
            }
        }
    }
    println!("{faults} faults");
}
