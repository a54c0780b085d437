//! A row of random operations on an image in memory, and what a power loss within it may leave.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_image::commit::{Commit, commit};
use kiln_image::qcow2::Qcow2;
use kiln_image::qcow2::check::check;
use kiln_image::qcow2::compress::Compressor;
use kiln_image::qcow2::fault::Fault;
use kiln_image::qcow2::image::read_header;
use kiln_image::rebase::{Onto, Rebase, rebase};
use kiln_image::storage::Storage;
use kiln_image::testing::{Memory, Noise, Recorder};
use kiln_image::{BlockDevice, Error, Format, Image, Open};

use crate::start::{Ground, Start, ground, start};

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
    /// What it may lie on.
    pub grounds: Vec<Ground>,
}

impl Left {
    /// Opens the image for writing.
    pub fn open(mut self) -> Result<Arc<Image>, String> {
        let disk = Arc::new(Memory::of(std::mem::take(&mut self.image)));
        self.open_on(disk)
    }

    fn open_on(mut self, disk: Arc<Memory>) -> Result<Arc<Image>, String> {
        let data = self.data.map(|bytes| Arc::new(Memory::of(bytes)) as Arc<dyn Storage>);
        let bytes: Vec<Vec<u8>> = self.grounds.iter_mut().map(|ground| std::mem::take(&mut ground.bytes)).collect();
        let storages = bytes.into_iter().map(|bytes| Arc::new(Memory::of(bytes)) as Arc<dyn Storage>);
        open(disk, data, &self.grounds.iter().zip(storages).collect::<Vec<_>>())
    }
}

// The image on `disk`, over what its header names.
fn open(
    disk: Arc<dyn Storage>,
    data: Option<Arc<dyn Storage>>,
    grounds: &[(&Ground, Arc<dyn Storage>)],
) -> Result<Arc<Image>, String> {
    let header = read_header(disk.as_ref()).map_err(told("header"))?;
    let mut backing = None;
    if let Some(name) = &header.backing {
        let (ground, storage) =
            grounds.iter().find(|(ground, _)| ground.name == *name).ok_or("no such backing file")?;
        ensure!(header.backing_format.as_deref() == Some(ground.format.name()), "the backing file's format is wrong");
        let how = Open::reading(Some(ground.format));
        backing = Some(Image::over(storage.clone(), None, None, how).map_err(told("open what lies below"))?);
    }
    Image::over(disk, data, backing, Open::writing(Some(Format::Qcow2))).map_err(told("open"))
}

pub struct History {
    image: Arc<Image>,
    disk: Arc<Recorder>,
    data: Option<Arc<Recorder>>,
    grounds: Vec<(Ground, Arc<Recorder>)>,
    fault: Option<Fault>,
    noise: Noise,
    sectors: Sectors,
    moments: Vec<Moment>,
    /// Every snapshot that there has ever been, by name.
    snapshots: BTreeMap<String, Sectors>,
    compressor: Compressor,
    next: u64,
    pub what: String,
}

pub fn bytes_of(numbers: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; numbers.len() * SECTOR];
    for (sector, number) in bytes.chunks_exact_mut(SECTOR).zip(numbers) {
        for part in sector.chunks_exact_mut(8) {
            part.copy_from_slice(&number.to_le_bytes());
        }
    }
    bytes
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
    pub fn new(noise: Noise, fault: Option<Fault>) -> Result<Self, String> {
        let mut noise = noise;
        let Start { image, data, ground, sectors, snapshots, what } = start(&mut noise);
        let disk = Arc::new(Recorder::of(image));
        let data = data.map(|bytes| Arc::new(disk.beside(bytes)));
        let grounds = ground.into_iter().map(|ground| {
            let recorder = Arc::new(disk.beside(ground.bytes.clone()));
            (ground, recorder)
        });
        let grounds = grounds.collect::<Vec<_>>();
        let image = Self::open(&disk, data.as_ref(), &grounds, fault)?;
        let names = names(qcow2(&image))?;
        // A dirty image is repaired when it is opened, and that may be cut as well.
        let moment = |events, moves_refcounts| Moment {
            events,
            sectors: sectors.clone(),
            snapshots: names.clone(),
            settled: true,
            moves_refcounts,
        };
        let moments = vec![moment(0, false), moment(disk.events(), true)];
        let compressor = Compressor::new(qcow2(&image).header().compression).unwrap();
        let next = 1;
        Ok(Self { image, disk, data, grounds, fault, noise, sectors, moments, snapshots, compressor, next, what })
    }

    fn open(
        disk: &Arc<Recorder>,
        data: Option<&Arc<Recorder>>,
        grounds: &[(Ground, Arc<Recorder>)],
        fault: Option<Fault>,
    ) -> Result<Arc<Image>, String> {
        let data = data.map(|data| data.clone() as Arc<dyn Storage>);
        let grounds = grounds.iter().map(|(ground, disk)| (ground, disk.clone() as Arc<dyn Storage>));
        let image = open(disk.clone(), data, &grounds.collect::<Vec<_>>())?;
        if let Some(fault) = fault {
            qcow2(&image).inject(fault);
        }
        Ok(image)
    }

    // Opens what was closed.
    fn reopen(&mut self) -> Result<(), String> {
        self.image = Self::open(&self.disk, self.data.as_ref(), &self.grounds, self.fault)?;
        let is = read(&self.image)?;
        ensure!(is == self.sectors, "contents after the image was closed and opened");
        Ok(())
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
        let operation = if flush { 13 } else { self.noise.below(22) };
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
            16..=19 => (settled, moves_refcounts) = self.snapshot(operation)?,
            20 => settled = self.commit()?,
            _ => settled = self.rebase()?,
        }
        let snapshots = names(qcow2(&self.image))?;
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

    // Merges the image into what it lies on. Says whether it did: all is durable then.
    fn commit(&mut self) -> Result<bool, String> {
        let name = qcow2(&self.image).header().backing;
        let Some((ground, disk)) = self.grounds.iter().find(|(ground, _)| Some(&ground.name) == name.as_ref()) else {
            return Ok(false);
        };
        // Snapshots would show what is merged below them.
        if !names(qcow2(&self.image))?.is_empty() {
            return Ok(false);
        }
        let base =
            Image::over(disk.clone(), None, None, Open::writing(Some(ground.format))).map_err(told("open base"))?;
        if let (Some(fault), Some(qcow2)) = (self.fault, base.qcow2()) {
            qcow2.inject(fault);
        }
        let keep = self.noise.below(4) == 0;
        let stop = AtomicBool::new(false);
        let how = Commit { depth: 1, keep, rate_limit: None, stop: &stop, progress: &|_, _| {} };
        let outcome = commit(&how, &self.image, &base).map(|ended| assert!(ended));
        let done = done_or_refused(outcome, "commit")?;
        if done {
            self.reopen()?;
        }
        Ok(done)
    }

    // Puts the image onto another ground. Says whether it did: all is durable then.
    fn rebase(&mut self) -> Result<bool, String> {
        // Snapshots would show the new ground.
        if !names(qcow2(&self.image))?.is_empty() {
            return Ok(false);
        }
        if !self.grounds.iter().any(|(ground, _)| ground.name == "other") {
            let other = ground("other", 2 << 40, self.sectors.len(), &mut self.noise);
            let disk = Arc::new(self.disk.beside(other.bytes.clone()));
            self.grounds.push((other, disk));
        }
        let one = self.noise.below(self.grounds.len() as u64 + 1) as usize;
        let new = self.grounds.get(one).map(|(ground, disk)| {
            let image = Image::over(disk.clone(), None, None, Open::reading(Some(ground.format)));
            image.map(|image| (ground.name.clone(), image)).map_err(told("open the new ground"))
        });
        let new = new.transpose()?;
        let stop = AtomicBool::new(false);
        let how = Rebase {
            onto: new.as_ref().map(|(name, image)| Onto { image, name: name.clone() }),
            compress: self.data.is_none() && self.noise.below(4) == 0,
            stop: &stop,
            progress: &|_, _| {},
        };
        let outcome = rebase(&how, &self.image).map(|ended| assert!(ended));
        let done = done_or_refused(outcome, "rebase")?;
        if done {
            self.reopen()?;
        }
        Ok(done)
    }

    // Whether it is durable, and whether it has moved refcounts.
    fn snapshot(&mut self, operation: u64) -> Result<(bool, bool), String> {
        let image = qcow2(&self.image);
        let all = image.snapshots().map_err(told("list"))?;
        let one = (!all.is_empty()).then(|| self.noise.below(all.len() as u64) as usize);
        match (operation, one) {
            (16 | 17, _) if all.len() < 3 => {
                let name = format!("s{}", self.moments.len());
                let outcome = image.create_snapshot(&name, 1, 2).map(drop);
                if done_or_refused(outcome, "snapshot")? {
                    self.snapshots.insert(name, self.sectors.clone());
                }
            }
            (18, Some(index)) => {
                if done_or_refused(image.apply_snapshot(&all[index]), "apply")? {
                    self.sectors = self.snapshots[&all[index].name].clone();
                }
            }
            (19, Some(index)) => image.delete_snapshot(index).map_err(told("delete"))?,
            _ => return Ok((false, false)),
        }
        // Refused before anything was done, nothing is durable.
        let can = self.data.is_none() && image.header().refcount_order > 0;
        Ok((can, can))
    }

    fn compressed(&mut self, start: usize) -> Result<(), String> {
        let per_cluster = qcow2(&self.image).header().cluster_size() as usize / SECTOR;
        let first = start - start % per_cluster;
        let mut numbers: Vec<u64> = (0..per_cluster as u64).map(|n| self.next + n % 3).collect();
        self.next += 3;
        let end = (first + per_cluster).min(self.sectors.len());
        numbers[end - first..].fill(0);
        let mut out = vec![0; per_cluster * SECTOR - 1];
        if let Some(len) = self.compressor.compress(&bytes_of(&numbers), &mut out) {
            let outcome = qcow2(&self.image).write_compressed((first * SECTOR) as u64, &out[..len]);
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
        let data = self.data.as_ref().map(|data| data.cut(events, choose));
        let cut =
            |(ground, disk): &(Ground, Arc<Recorder>)| Ground { bytes: disk.cut(events, choose), ..ground.clone() };
        Left { image, data, grounds: self.grounds.iter().map(cut).collect() }
    }

    /// Judges what a power loss behind `events` events has left. The contents that are allowed are those since the last
    /// settled moment.
    pub fn judge(&self, mut left: Left, events: usize) -> Result<(), String> {
        let ended = self.moments.partition_point(|moment| moment.events <= events);
        // The operation that was under way may have done anything of what it does.
        let last = ended.min(self.moments.len() - 1);
        let first = self.moments[..ended].iter().rposition(|moment| moment.settled).unwrap_or(0);
        let allowed = &self.moments[first..=last];
        let moving = self.moments.get(ended).is_some_and(|moment| moment.moves_refcounts);
        for ground in &left.grounds {
            ground.judge()?;
        }
        let disk = Arc::new(Memory::of(std::mem::take(&mut left.image)));
        let header = read_header(disk.as_ref()).map_err(told("header"))?;
        let dirty = header.incompatible & 1 != 0;
        // QEMU's dirty image is so until it is repaired.
        ensure!(!dirty || moving || ended <= 1, "the dirty bit is set, and nothing under way needs it");
        if !dirty {
            sound(disk.as_ref(), header.version == 2 && moving)?;
        }
        let image = left.open_on(disk.clone())?;
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
    fn judge_snapshots(&self, image: &Image, allowed: &[Moment]) -> Result<(), String> {
        let all = qcow2(image).snapshots().map_err(told("list"))?;
        let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
        ensure!(allowed.iter().any(|moment| moment.snapshots == names), "the snapshots are {names:?}");
        for snapshot in &all {
            if done_or_refused(qcow2(image).apply_snapshot(snapshot), "apply")? {
                let same = self.snapshots.get(&snapshot.name) == Some(&read(image)?);
                // One that was refused at its making never was.
                ensure!(same, "snapshot {} has other contents", snapshot.name);
            }
        }
        Ok(())
    }
}

fn qcow2(image: &Image) -> &Qcow2 {
    image.qcow2().unwrap()
}

fn names(image: &Qcow2) -> Result<Vec<String>, String> {
    Ok(image.snapshots().map_err(told("list"))?.into_iter().map(|one| one.name).collect())
}

impl Ground {
    // It is sound, and its snapshot has what it had.
    fn judge(&self) -> Result<(), String> {
        if self.format == Format::Raw {
            return Ok(());
        }
        let disk = Arc::new(Memory::of(self.bytes.clone()));
        let header = read_header(disk.as_ref()).map_err(told("header of what lies below"))?;
        ensure!(header.incompatible & 1 == 0, "what lies below is dirty");
        sound(disk.as_ref(), false).map_err(|error| format!("what lies below: {error}"))?;
        let Some(sectors) = &self.snapshot else { return Ok(()) };
        let image = open(disk, None, &[])?;
        let all = qcow2(&image).snapshots().map_err(told("list below"))?;
        qcow2(&image).apply_snapshot(&all[0]).map_err(told("apply below"))?;
        ensure!(read(&image)? == *sectors, "the snapshot below has other contents");
        Ok(())
    }
}

// Sound but for leaks, and in version 2 for missing flags.
pub fn sound(disk: &dyn Storage, flags_may_miss: bool) -> Result<(), String> {
    let mut found = Vec::new();
    let header = read_header(disk).map_err(told("header"))?;
    let report = check(disk, &header, &mut |finding| found.push(finding)).map_err(told("check"))?;
    found.retain(|finding| finding.is_corruption && !(flags_may_miss && finding.what.contains("refcount 1, its")));
    ensure!(found.is_empty(), "{} corruptions: {found:?}", report.corruptions);
    Ok(())
}

/// A disk's contents, of which no sector may be torn.
pub fn read(image: &Image) -> Result<Sectors, String> {
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
