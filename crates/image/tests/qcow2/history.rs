//! A row of random operations on an image in memory, and what a power loss within it may leave.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use kiln_image::qcow2::check::check;
use kiln_image::qcow2::compress::Compressor;
use kiln_image::qcow2::image::read_header;
use kiln_image::qcow2::{Options, Qcow2};
use kiln_image::raw::Raw;
use kiln_image::storage::Storage;
use kiln_image::testing::{Memory, Recorder};
use kiln_image::{BlockDevice, Error, Geometry};

use crate::contents::Noise;
use crate::start::{Start, start};

pub const SECTOR: usize = 512;
/// Operations of a history.
const STEPS: usize = 44;

/// What the disk's sectors hold: a number for each, 0 for zeros.
pub type Sectors = Vec<u64>;

/// Fails with a text unless something is so.
macro_rules! ensure {
    ($so:expr, $($what:tt)+) => {
        if !$so {
            return Err(format!($($what)+));
        }
    };
}
pub(crate) use ensure;

/// The state after an operation.
struct Moment {
    /// Number of events that it ended with.
    events: usize,
    sectors: Sectors,
    /// Names of snapshots, in their order.
    snapshots: Vec<String>,
    /// Whether all of it is durable.
    settled: bool,
    /// Whether the operation moves refcounts across 1: only then the image may be dirty meanwhile, or in version 2 have
    /// flags that are missing.
    moves_refcounts: bool,
}

/// What is left of a history's files.
pub struct Left {
    pub image: Vec<u8>,
    pub data: Option<Vec<u8>>,
}

pub struct History {
    pub image: Qcow2,
    disk: Arc<Recorder>,
    data: Option<Arc<Recorder>>,
    noise: Noise,
    sectors: Sectors,
    moments: Vec<Moment>,
    /// Every snapshot that there has ever been, by name.
    snapshots: BTreeMap<String, Sectors>,
    compressor: Compressor,
    pub backing: Option<Arc<dyn BlockDevice>>,
    next: u64,
    pub what: String,
}

fn fill(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(SECTOR / 8)
}

pub fn bytes_of(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| fill(*number)).collect()
}

fn memory_disk(numbers: &[u64]) -> Arc<dyn BlockDevice> {
    let geometry = Geometry { logical_block: 512, physical_block: 512 };
    Arc::new(Raw::on(Box::new(Memory::of(bytes_of(numbers))), geometry, true).unwrap())
}

fn told(what: impl Display) -> impl FnOnce(Error) -> String {
    move |error| {
        let why = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{what}: {error}{why}")
    }
}

// Whether it was done. What can't be done in such an image may be refused, nothing else.
fn done_or_refused(outcome: Result<(), Error>, what: &str) -> Result<bool, String> {
    match outcome {
        Ok(()) => Ok(true),
        Err(Error::Unsupported { .. }) => Ok(false),
        Err(Error::Damaged { what, .. }) if what.contains("more often than its refcount can tell") => Ok(false),
        Err(error) => Err(told(what)(error)),
    }
}

impl History {
    pub fn new(noise: Noise) -> Result<Self, String> {
        let mut noise = noise;
        let Start { image, data, backing, sectors, snapshots, what } = start(&mut noise);
        let disk = Arc::new(Recorder::of(image));
        let data = data.map(|bytes| Arc::new(disk.beside(bytes)));
        let header = read_header(disk.as_ref()).map_err(told("header"))?;
        let compression = header.compression;
        let backing = backing.map(|numbers| memory_disk(&numbers));
        let options = Options {
            backing: backing.clone(),
            data: data.clone().map(|data| data as Arc<dyn Storage>),
            ..Options::default()
        };
        let image = Qcow2::open(disk.clone(), header, options).map_err(told("open"))?;
        let names: Vec<String> = image.snapshots().map_err(told("list"))?.into_iter().map(|one| one.name).collect();
        // A dirty image is repaired when it is opened, and that may be cut as well.
        let moment = |events, moves_refcounts| Moment {
            events,
            sectors: sectors.clone(),
            snapshots: names.clone(),
            settled: true,
            moves_refcounts,
        };
        let moments = vec![moment(0, false), moment(disk.events(), true)];
        let compressor = Compressor::new(compression).unwrap();
        Ok(Self { image, disk, data, noise, sectors, moments, snapshots, compressor, backing, next: 1, what })
    }

    /// Does all its operations.
    pub fn run(&mut self) -> Result<(), String> {
        for step in 1..=STEPS {
            self.step(step % 14 == 0).map_err(|error| format!("operation {step}: {error}"))?;
        }
        let is = read(&self.image)?;
        ensure!(is == self.sectors, "contents without any power loss");
        Ok(())
    }

    fn range(&mut self) -> (usize, usize) {
        let all = self.sectors.len() as u64;
        let start = self.noise.below(all);
        let most = match self.noise.below(3) {
            0 => all - start,
            1 => (all - start).min(3),
            _ => (all - start).min(40),
        };
        let len = 1 + self.noise.below(most);
        (start as usize, len as usize)
    }

    fn step(&mut self, flush: bool) -> Result<(), String> {
        let (start, len) = self.range();
        let (at, bytes) = ((start * SECTOR) as u64, (len * SECTOR) as u64);
        let (mut settled, mut moves_refcounts) = (false, false);
        let operation = if flush { 13 } else { self.noise.below(20) };
        if std::env::var_os("KILN_HISTORIES").is_some_and(|count| count == "1") {
            eprintln!("{} events: operation {operation} on {len} sectors at {start}", self.disk.events());
        }
        match operation {
            0..=6 => {
                let numbers: Vec<u64> = (0..len as u64).map(|n| self.next + n).collect();
                self.next += len as u64;
                self.image.write_at(&[IoSlice::new(&bytes_of(&numbers))], at).map_err(told("write"))?;
                self.sectors[start..start + len].copy_from_slice(&numbers);
            }
            7 | 8 => {
                let unmap = self.noise.next() & 1 == 0;
                self.image.write_zeroes(at, bytes, unmap).map_err(told("zero"))?;
                self.sectors[start..start + len].fill(0);
            }
            9 | 10 => self.discard(start, len)?,
            11 | 12 => self.compressed(start)?,
            13 | 14 => {
                self.image.flush().map_err(told("flush"))?;
                settled = true;
            }
            15 => {
                let len = self.sectors.len() as u64 / 2 + self.noise.below(self.sectors.len() as u64);
                let len = len.clamp(8, 1 << 14);
                if done_or_refused(self.image.resize(len * 512), "resize")? {
                    settled = self.sectors.len() as u64 != len;
                    self.sectors.resize(len as usize, 0);
                }
            }
            _ => (settled, moves_refcounts) = self.snapshot(operation)?,
        }
        let snapshots = self.image.snapshots().map_err(told("list"))?.into_iter().map(|one| one.name).collect();
        let (events, sectors) = (self.disk.events(), self.sectors.clone());
        self.moments.push(Moment { events, sectors, snapshots, settled, moves_refcounts });
        Ok(())
    }

    // Each sector reads zeros or what it did.
    fn discard(&mut self, start: usize, len: usize) -> Result<(), String> {
        self.image.discard((start * SECTOR) as u64, (len * SECTOR) as u64).map_err(told("discard"))?;
        let is = read(&self.image)?;
        for (sector, (new, old)) in is.iter().zip(&self.sectors).enumerate() {
            let may = new == old || (*new == 0 && (start..start + len).contains(&sector));
            ensure!(may, "discard of {len} sectors at {start} turned sector {sector} from {old:#x} into {new:#x}");
        }
        self.sectors = is;
        Ok(())
    }

    // Whether it is durable, and whether it has moved refcounts.
    fn snapshot(&mut self, operation: u64) -> Result<(bool, bool), String> {
        let all = self.image.snapshots().map_err(told("list"))?;
        let one = (!all.is_empty()).then(|| self.noise.below(all.len() as u64) as usize);
        match (operation, one) {
            (16 | 17, _) if all.len() < 3 => {
                let name = format!("s{}", self.moments.len());
                let outcome = self.image.create_snapshot(&name, 1, 2).map(drop);
                if done_or_refused(outcome, "snapshot")? {
                    self.snapshots.insert(name, self.sectors.clone());
                }
            }
            (18, Some(index)) => {
                if done_or_refused(self.image.apply_snapshot(&all[index]), "apply")? {
                    self.sectors = self.snapshots[&all[index].name].clone();
                }
            }
            (19, Some(index)) => self.image.delete_snapshot(index).map_err(told("delete"))?,
            _ => return Ok((false, false)),
        }
        // Refused before anything was done, nothing is durable.
        let can = self.data.is_none() && self.image.header().refcount_order > 0;
        Ok((can, can))
    }

    fn compressed(&mut self, start: usize) -> Result<(), String> {
        let per_cluster = self.image.header().cluster_size() as usize / SECTOR;
        let first = start - start % per_cluster;
        let mut numbers: Vec<u64> = (0..per_cluster as u64).map(|n| self.next + n % 3).collect();
        self.next += 3;
        let end = (first + per_cluster).min(self.sectors.len());
        numbers[end - first..].fill(0);
        let mut out = vec![0; per_cluster * SECTOR - 1];
        if let Some(len) = self.compressor.compress(&bytes_of(&numbers), &mut out) {
            let outcome = self.image.write_compressed((first * SECTOR) as u64, &out[..len]);
            if done_or_refused(outcome, "compressed")? {
                self.sectors[first..end].copy_from_slice(&numbers[..end - first]);
            }
        }
        Ok(())
    }

    /// How many changes and flushes there have been.
    pub fn events(&self) -> usize {
        self.disk.events()
    }

    /// What a power loss may leave.
    pub fn cut(&self, events: usize, choose: &mut dyn FnMut(u64) -> u64) -> Left {
        let image = self.disk.cut(events, choose);
        Left { image, data: self.data.as_ref().map(|data| data.cut(events, choose)) }
    }

    /// Judges what a power loss behind `events` events has left. The contents that are allowed are those since the last
    /// settled moment.
    pub fn judge(&self, left: Left, events: usize) -> Result<(), String> {
        let ended = self.moments.partition_point(|moment| moment.events <= events);
        // The operation that was under way may have done anything of what it does.
        let last = ended.min(self.moments.len() - 1);
        let first = self.moments[..ended].iter().rposition(|moment| moment.settled).unwrap_or(0);
        let allowed = &self.moments[first..=last];
        let moving = self.moments.get(ended).is_some_and(|moment| moment.moves_refcounts);
        let disk: Arc<dyn Storage> = Arc::new(Memory::of(left.image));
        let header = read_header(disk.as_ref()).map_err(told("header"))?;
        let dirty = header.incompatible & 1 != 0;
        // QEMU's dirty image is so until it is repaired.
        ensure!(!dirty || moving || ended <= 1, "the dirty bit is set, and nothing under way needs it");
        if !dirty {
            sound(disk.as_ref(), header.version == 2 && moving)?;
        }
        let data = left.data.map(|bytes| Arc::new(Memory::of(bytes)) as Arc<dyn Storage>);
        let options = Options { backing: self.backing.clone(), data, ..Options::default() };
        let image = Qcow2::open(disk.clone(), header, options).map_err(told("open"))?;
        if dirty {
            sound(disk.as_ref(), false).map_err(|error| format!("repaired: {error}"))?;
        }
        let is = read(&image)?;
        let len = is.len();
        ensure!(allowed.iter().any(|moment| moment.sectors.len() == len), "a disk of {len} sectors");
        for (sector, number) in is.iter().enumerate() {
            let may = |moment: &Moment| moment.sectors.get(sector) == Some(number);
            ensure!(allowed.iter().any(may), "sector {sector} is {number:#x}");
        }
        self.judge_snapshots(&image, allowed)?;
        sound(disk.as_ref(), false).or_else(|error| if moving { Ok(()) } else { Err(error) })
    }

    // Those that are there are those that may be, and each has its disk.
    fn judge_snapshots(&self, image: &Qcow2, allowed: &[Moment]) -> Result<(), String> {
        let all = image.snapshots().map_err(told("list"))?;
        let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
        ensure!(allowed.iter().any(|moment| moment.snapshots == names), "the snapshots are {names:?}");
        for snapshot in &all {
            if done_or_refused(image.apply_snapshot(snapshot), "apply")? {
                let same = self.snapshots.get(&snapshot.name) == Some(&read(image)?);
                // One that was refused at its making never was.
                ensure!(same, "snapshot {} has other contents", snapshot.name);
            }
        }
        Ok(())
    }
}

// Sound but for leaks, and in version 2 for missing flags.
fn sound(disk: &dyn Storage, flags_may_miss: bool) -> Result<(), String> {
    let mut found = Vec::new();
    let header = read_header(disk).map_err(told("header"))?;
    let report = check(disk, &header, &mut |finding| found.push(finding)).map_err(told("check"))?;
    found.retain(|finding| finding.is_corruption && !(flags_may_miss && finding.what.contains("refcount 1, its")));
    ensure!(found.is_empty(), "{} corruptions: {found:?}", report.corruptions);
    Ok(())
}

/// A disk's contents, of which no sector may be torn.
pub fn read(image: &Qcow2) -> Result<Sectors, String> {
    let mut bytes = vec![7; image.len() as usize];
    image.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).map_err(told("read"))?;
    let numbers = bytes.chunks(SECTOR).enumerate().map(|(index, sector)| {
        let number = u64::from_le_bytes(sector[..8].try_into().unwrap());
        let same = sector.chunks(8).all(|part| part == number.to_le_bytes());
        ensure!(same, "sector {index} is torn: {sector:x?}");
        Ok(number)
    });
    numbers.collect()
}
