//! Power loss: after any of them the image is sound, and each sector has contents that it may have.
//!
//! A history is a row of random operations on an image in memory that records its writes and flushes. It is cut at random
//! moments; what may be left then is judged by kiln's own check and by the contents, some of it by QEMU as well.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use kiln_image::qcow2::check::check;
use kiln_image::qcow2::compress::Compressor;
use kiln_image::qcow2::create::format;
use kiln_image::qcow2::image::read_header;
use kiln_image::qcow2::snapshots::Snapshot;
use kiln_image::qcow2::{Create, Options, Qcow2};
use kiln_image::raw::Raw;
use kiln_image::storage::Storage;
use kiln_image::testing::{Memory, Recorder};
use kiln_image::{BlockDevice, Geometry};

use crate::contents::Noise;
use crate::scene;

const SECTOR: usize = 512;
/// Operations of a history.
const STEPS: usize = 44;
/// Cuts of a history.
const CUTS: u64 = 6;

/// What the disk's sectors hold: a number for each, 0 for zeros.
type Sectors = Vec<u64>;

/// The state after an operation, by the number of events that it ended with.
struct Moment {
    events: usize,
    sectors: Sectors,
    /// Whether all of it is durable.
    settled: bool,
}

fn fill(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(SECTOR / 8)
}

fn bytes_of(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| fill(*number)).collect()
}

struct History {
    image: Qcow2,
    disk: Arc<Recorder>,
    noise: Noise,
    sectors: Sectors,
    moments: Vec<Moment>,
    snapshots: Vec<(Snapshot, Sectors)>,
    compressor: Compressor,
    backing: Option<Arc<dyn BlockDevice>>,
    next: u64,
}

fn memory_disk(numbers: &[u64]) -> Arc<dyn BlockDevice> {
    let geometry = Geometry { logical_block: 512, physical_block: 512 };
    Arc::new(Raw::on(Box::new(Memory::of(bytes_of(numbers))), geometry, true).unwrap())
}

impl History {
    fn new(create: &Create, seed: u64) -> Self {
        let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let sectors_per_cluster = 1u64 << (create.cluster_bits - 9);
        let len = (6 + noise.below(20)) * sectors_per_cluster + noise.below(sectors_per_cluster);
        let mut sectors = vec![0; len.max(8) as usize];
        let mut create = Create { size: sectors.len() as u64 * 512, ..create.clone() };
        let backing = noise.next().is_multiple_of(2).then(|| {
            let below: Sectors = (0..sectors.len() as u64 / 2 + noise.below(9)).map(|n| (1 << 40) + n + 1).collect();
            let shared = below.len().min(sectors.len());
            sectors[..shared].copy_from_slice(&below[..shared]);
            create.backing = Some(("base".into(), Some("raw".into())));
            memory_disk(&below)
        });
        let fresh: Arc<dyn Storage> = Arc::new(Memory::default());
        format(fresh.clone(), None, &create).unwrap();
        let mut bytes = vec![0; fresh.len().unwrap() as usize];
        fresh.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
        let disk = Arc::new(Recorder::of(bytes));
        let header = read_header(disk.as_ref()).unwrap();
        let options = Options { backing: backing.clone(), ..Options::default() };
        let image = Qcow2::open(disk.clone(), header, options).unwrap();
        let moments = vec![Moment { events: 0, sectors: sectors.clone(), settled: true }];
        let compressor = Compressor::new(create.compression).unwrap();
        Self { image, disk, noise, sectors, moments, snapshots: Vec::new(), compressor, backing, next: 1 }
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

    fn step(&mut self, with_snapshots: bool) {
        let (start, len) = self.range();
        let (at, bytes) = ((start * SECTOR) as u64, (len * SECTOR) as u64);
        let mut settled = false;
        let operation = self.noise.below(20);
        if std::env::var_os("KILN_FIRST").is_some() {
            eprintln!("{} events: operation {operation} on {len} sectors at {start}", self.disk.events());
        }
        match operation {
            0..=6 => {
                let numbers: Vec<u64> = (0..len as u64).map(|n| self.next + n).collect();
                self.next += len as u64;
                self.image.write_at(&[IoSlice::new(&bytes_of(&numbers))], at).unwrap();
                self.sectors[start..start + len].copy_from_slice(&numbers);
            }
            7 | 8 => {
                self.image.write_zeroes(at, bytes, self.noise.next() & 1 == 0).unwrap();
                self.sectors[start..start + len].fill(0);
            }
            9 | 10 => {
                self.image.discard(at, bytes).unwrap();
                self.sectors = self.read();
            }
            11 | 12 => self.compressed(start),
            13 | 14 => {
                self.image.flush().unwrap();
                settled = true;
            }
            15 => {
                let len = self.sectors.len() as u64 / 2 + self.noise.below(self.sectors.len() as u64);
                let fits = self.image.resize(len.max(8) * 512);
                if fits.is_ok() {
                    settled = self.sectors.len() as u64 != len.max(8);
                    self.sectors.resize(len.max(8) as usize, 0);
                }
            }
            _ if !with_snapshots => {}
            16 | 17 if self.snapshots.len() < 3 => {
                // Narrow refcounts can't count many snapshots.
                if self.image.create_snapshot("s", 1, 2).is_ok() {
                    let made = self.image.snapshots().unwrap().pop().unwrap();
                    self.snapshots.push((made, self.sectors.clone()));
                }
                settled = true;
            }
            18 if !self.snapshots.is_empty() => {
                let index = self.noise.below(self.snapshots.len() as u64) as usize;
                let (snapshot, sectors) = self.snapshots[index].clone();
                if self.image.apply_snapshot(&snapshot).is_ok() {
                    self.sectors = sectors;
                }
                settled = true;
            }
            19 if !self.snapshots.is_empty() => {
                let index = self.noise.below(self.snapshots.len() as u64) as usize;
                self.image.delete_snapshot(index).unwrap();
                self.snapshots.remove(index);
                settled = true;
            }
            _ => {}
        }
        self.moments.push(Moment { events: self.disk.events(), sectors: self.sectors.clone(), settled });
    }

    fn compressed(&mut self, start: usize) {
        let per_cluster = self.image.header().cluster_size() as usize / SECTOR;
        let first = start - start % per_cluster;
        let mut numbers: Vec<u64> = (0..per_cluster as u64).map(|n| self.next + n % 3).collect();
        self.next += 3;
        let end = (first + per_cluster).min(self.sectors.len());
        numbers[end - first..].fill(0);
        let mut out = vec![0; per_cluster * SECTOR - 1];
        if let Some(len) = self.compressor.compress(&bytes_of(&numbers), &mut out) {
            self.image.write_compressed((first * SECTOR) as u64, &out[..len]).unwrap();
            self.sectors[first..end].copy_from_slice(&numbers[..end - first]);
        }
    }

    fn read(&self) -> Sectors {
        read(&self.image)
    }

    // The contents that are allowed after a power loss behind `events` events: those since the last settled moment.
    fn judge(&self, left: Vec<u8>, events: usize, what: &str) {
        let ended = self.moments.partition_point(|moment| moment.events <= events);
        // The operation that was under way may have done anything of what it does.
        let last = ended.min(self.moments.len() - 1);
        let first = self.moments[..ended].iter().rposition(|moment| moment.settled).unwrap_or(0);
        let allowed = &self.moments[first..=last];
        let disk: Arc<dyn Storage> = Arc::new(Memory::of(left));
        let header = read_header(disk.as_ref()).unwrap();
        let dirty = header.incompatible & 1 != 0;
        if !dirty {
            let mut found = Vec::new();
            let report = check(disk.as_ref(), &header, &mut |finding| found.push(finding.to_string())).unwrap();
            let missing_flags = header.version == 2
                && found
                    .iter()
                    .filter(|what| what.starts_with("ERROR"))
                    .all(|what| what.contains("refcount 1, its") && what.contains("entry is 0x0"));
            assert!(report.corruptions == 0 || missing_flags, "{what}: {found:?}");
        }
        let options = Options { backing: self.backing.clone(), ..Options::default() };
        let image = Qcow2::open(disk.clone(), header, options).unwrap();
        if dirty {
            let mut found = Vec::new();
            let report = check(disk.as_ref(), &image.header(), &mut |finding| found.push(finding.to_string())).unwrap();
            assert!(report.corruptions == 0, "{what}, repaired: {found:?}");
        }
        let is = read(&image);
        assert!(
            allowed.iter().any(|moment| moment.sectors.len() == is.len()),
            "{what}: a disk of {} sectors",
            is.len()
        );
        for (sector, number) in is.iter().enumerate() {
            let may = |moment: &Moment| moment.sectors.get(sector).copied().unwrap_or(0) == *number;
            assert!(allowed.iter().any(may), "{what}: sector {sector} is {number:#x}");
        }
    }
}

fn read(image: &Qcow2) -> Sectors {
    let mut bytes = vec![7; image.len() as usize];
    image.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
    bytes
        .chunks(SECTOR)
        .map(|sector| {
            let number = u64::from_le_bytes(sector[..8].try_into().unwrap());
            assert!(sector.chunks(8).all(|part| part == number.to_le_bytes()), "a torn sector");
            number
        })
        .collect()
}

fn create(noise: &mut Noise) -> Create {
    // Large clusters are slow, and what goes wrong goes wrong in small ones, too.
    let cluster_bits = [9, 9, 9, 10, 10, 11, 12, 12, 13, 14, 14, 15, 16, 16, 17, 18, 19, 20, 21];
    let most = if noise.below(8) == 0 { cluster_bits.len() } else { 11 };
    let cluster_bits = cluster_bits[noise.below(most as u64) as usize];
    let version = if noise.below(3) == 0 { 2 } else { 3 };
    let refcount_order = if version == 2 { 4 } else { noise.below(7) as u32 };
    let extended_l2 = version == 3 && cluster_bits >= 14 && noise.below(2) == 0;
    Create { version, cluster_bits, refcount_order, extended_l2, ..Create::default() }
}

fn history(seed: u64) {
    let mut noise = Noise(seed * 2 + 1);
    for _ in 0..8 {
        noise.next();
    }
    let create = create(&mut noise);
    let with_snapshots = create.refcount_order > 0;
    let mut history = History::new(&create, seed);
    for _ in 0..STEPS {
        history.step(with_snapshots);
    }
    assert_eq!(history.read(), history.sectors, "seed {seed}: contents without any power loss");
    let events = history.disk.events() as u64;
    for cut in 0..CUTS {
        let at = noise.below(events + 1) as usize;
        let left = history.disk.cut(at, &mut |limit| noise.below(limit));
        let what = format!("seed {seed}, cut {cut} after {at} of {events} events, {create:?}");
        if (seed * CUTS + cut).is_multiple_of(97) {
            qemu_judges(&history, &left, &what);
        }
        history.judge(left, at, &what);
    }
}

fn qemu_judges(history: &History, left: &[u8], what: &str) {
    let scene = scene::Scene::new();
    let path = scene.path("left.qcow2");
    std::fs::write(&path, left).unwrap();
    if let Some(backing) = &history.backing {
        let mut bytes = vec![0; backing.len() as usize];
        backing.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
        std::fs::write(scene.path("base"), bytes).unwrap();
    }
    let header = read_header(&Memory::of(left.to_vec())).unwrap();
    // Repaired at open, when it is marked; in version 2 flags may be missing.
    let (mut fix, mut allowed) = (Vec::new(), vec![0, 3]);
    if header.incompatible & 1 != 0 || header.version == 2 {
        fix = vec!["-r", "all"];
        allowed = vec![0];
    }
    let (code, text) = scene::qemu_check(&path, &fix);
    assert!(allowed.contains(&code), "{what}: qemu-img check: {code} {text}");
    let image = scene::open(&path, history.backing.clone());
    let ours = read(&image);
    drop(image);
    assert!(scene::qemu_reads(&path) == bytes_of(&ours), "{what}: QEMU reads something else");
}

/// How many histories there are unless `KILN_HISTORIES` says.
const HISTORIES: u64 = 3000;

#[test]
fn after_a_power_loss_nothing_is_lost_that_was_flushed() {
    let count = std::env::var("KILN_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(HISTORIES);
    let first: u64 = std::env::var("KILN_FIRST").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    let next = std::sync::atomic::AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |count| count.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    if let Err(error) = std::panic::catch_unwind(|| history(seed)) {
                        eprintln!("seed {seed} failed: KILN_FIRST={seed} KILN_HISTORIES=1 runs it alone");
                        std::panic::resume_unwind(error);
                    }
                }
            });
        }
    });
    println!("{count} histories, {} cuts", count * CUTS);
}
