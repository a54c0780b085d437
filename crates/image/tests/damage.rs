//! Damaged images: kiln's check and repair beside qemu-img's.
//!
//! Sound images of all kinds are damaged in every structure, always in the same ways (seeded). What the two say of an
//! image is one of four [`Verdict`]s; where they justly differ, [`EXCUSES`] names the class and the reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // All of it is tests.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_image::qcow2::check::{Finding, Fix, check, repair};
use kiln_image::qcow2::image::read_header;
use kiln_image::qcow2::{Header, Options, Qcow2};
use kiln_image::raw::Raw;
use kiln_image::storage::{Cache, File, Storage};
use kiln_image::testing::damage::{Damage, PLACES, Place, damage};
use kiln_image::testing::{KINDS, Memory, sound};
use kiln_image::{BlockDevice, Geometry};
use parking_lot::Mutex;

/// Images of each place; the header has more fields than the others.
const EACH: usize = 16;
const HEADERS: usize = 50;
/// Most bytes of memory that all of this may take at any moment, both threads together.
const MOST_MEMORY: u64 = 256 << 20;

/// What is said of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// It isn't opened, or the check can't go on.
    Refused,
    Corrupt,
    Leaks,
    Clean,
}

/// A damaged image.
struct Patient {
    bytes: Vec<u8>,
    damage: Damage,
    kind: u16,
}

/// What became of it.
struct Case {
    what: String,
    damage: Damage,
    ours: Verdict,
    theirs: Verdict,
    /// What kiln found before its repair.
    found: Vec<Finding>,
    /// After kiln's repair: by kiln, by QEMU.
    mended: Option<(Verdict, Verdict)>,
    /// After QEMU's repair: by kiln, by QEMU.
    mended_by_qemu: Option<(Verdict, Verdict)>,
    /// What differs in the guest's contents.
    contents: Vec<String>,
}

fn noise(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % limit
    };
    for _ in 0..8 {
        next(2);
    }
    next
}

fn patients() -> Vec<Patient> {
    let mut all = Vec::new();
    let mut seed = 0;
    for place in PLACES {
        let count = if place == Place::Header { HEADERS } else { EACH };
        let mut made = 0;
        while made < count {
            seed += 1;
            let mut choose = noise(seed);
            let kind = choose(KINDS.into()) as u16;
            let mut bytes = sound(kind);
            let Some(damage) = damage(&mut bytes, place, &mut choose) else { continue };
            if damage.old != damage.new {
                all.push(Patient { bytes, damage, kind });
                made += 1;
            }
        }
    }
    all
}

fn backing() -> Vec<u8> {
    vec![9; 1 << 20]
}

/// The data file of those that have one.
fn data() -> Vec<u8> {
    vec![5; 1 << 16]
}

fn options(header: &Header) -> Options {
    let geometry = Geometry { logical_block: 512, physical_block: 512 };
    let below = || Arc::new(Raw::on(Box::new(Memory::of(backing())), geometry, true).unwrap()) as Arc<dyn BlockDevice>;
    Options {
        read_only: true,
        backing: header.backing.is_some().then(below),
        data: (header.incompatible & 4 != 0).then(|| Arc::new(Memory::of(data())) as Arc<dyn Storage>),
        even_corrupt: true,
        ..Options::default()
    }
}

fn judge(disk: &dyn Storage) -> (Verdict, Vec<Finding>) {
    let mut found = Vec::new();
    let report = read_header(disk).and_then(|header| check(disk, &header, &mut |finding| found.push(finding)));
    let verdict = match report {
        Err(_) => Verdict::Refused,
        Ok(report) if report.corruptions > 0 => Verdict::Corrupt,
        Ok(report) if report.leaks > 0 => Verdict::Leaks,
        Ok(_) => Verdict::Clean,
    };
    (verdict, found)
}

fn mend(bytes: &[u8]) -> Option<Vec<u8>> {
    let memory = Arc::new(Memory::of(bytes.to_vec()));
    let disk: Arc<dyn Storage> = memory.clone();
    let header = read_header(disk.as_ref()).ok()?;
    repair(&disk, &header, Fix::All, &mut |_| {}).ok()?;
    drop(disk);
    Some(memory.bytes())
}

/// Sectors of the disk, nothing where they can't be read.
fn contents(bytes: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let disk = Arc::new(Memory::of(bytes.to_vec()));
    let header = read_header(disk.as_ref()).ok()?;
    let options = options(&header);
    let image = Qcow2::open(disk, header, options).ok()?;
    let sector = |at: u64| {
        let mut bytes = vec![0; 512];
        image.read_at(&mut [IoSliceMut::new(&mut bytes)], at).ok().map(|()| bytes)
    };
    // Far more than any of them had before it was damaged.
    Some((0..image.len().min(2 << 20)).step_by(512).map(sector).collect())
}

/// A folder in which qemu-img sees an image and what belongs to it.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base"), backing()).unwrap();
        Self(folder)
    }

    fn put(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("image");
        std::fs::write(self.0.path().join("data"), data()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn run(&self, words: &[&str], path: &Path) -> i32 {
        let mut command = Command::new("timeout");
        command.args(["30", "qemu-img"]).args(words).arg(path).current_dir(self.0.path());
        let output = command.output().unwrap();
        output.status.code().unwrap_or_else(|| panic!("{words:?}: {output:?}"))
    }

    fn judge(&self, path: &Path) -> Verdict {
        match self.run(&["check", "-q", "-f", "qcow2"], path) {
            0 => Verdict::Clean,
            2 => Verdict::Corrupt,
            3 => Verdict::Leaks,
            1 => Verdict::Refused,
            other => panic!("qemu-img check ends with {other}"),
        }
    }

    /// The disk, where all of it can be read.
    fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let raw = self.0.path().join("raw");
        let _ = std::fs::remove_file(&raw);
        let words = ["dd", "-U", "-f", "qcow2", "-O", "raw", "bs=64k", "count=32"];
        let (from, to) = (format!("if={}", path.display()), format!("of={}", raw.display()));
        let output = Command::new("timeout")
            .args(["30", "qemu-img"])
            .args(words)
            .args([from, to])
            .current_dir(self.0.path())
            .output()
            .unwrap();
        output.status.success().then(|| std::fs::read(&raw).unwrap())
    }
}

fn compare(what: &str, ours: Option<&Vec<Option<Vec<u8>>>>, theirs: Option<&Vec<u8>>) -> Option<String> {
    let (ours, theirs) = (ours?, theirs?);
    let differs =
        ours.iter().zip(theirs.chunks(512)).position(|(one, other)| one.as_ref().is_some_and(|one| one != other));
    differs.map(|sector| format!("{what}: sector {sector}"))
}

fn same(what: &str, before: Option<&Vec<Option<Vec<u8>>>>, after: Option<&Vec<Option<Vec<u8>>>>) -> Option<String> {
    let (before, after) = (before?, after?);
    let differs = before.iter().zip(after).position(|(old, new)| old.is_some() && old != new);
    differs.map(|sector| format!("{what}: sector {sector}"))
}

fn treat(patient: &Patient, bench: &Bench) -> Case {
    let (ours, found) = judge(&Memory::of(patient.bytes.clone()));
    let path = bench.put(&patient.bytes);
    let theirs = bench.judge(&path);
    let before = contents(&patient.bytes);
    let mut differences = Vec::new();
    if ours != Verdict::Refused && theirs != Verdict::Refused {
        differences.extend(compare("before", before.as_ref(), bench.contents(&path).as_ref()));
    }
    let mended = mend(&patient.bytes).map(|bytes| {
        let path = bench.put(&bytes);
        let after = contents(&bytes);
        differences.extend(same("mended by kiln", before.as_ref(), after.as_ref()));
        differences.extend(compare("mended by kiln, read by QEMU", after.as_ref(), bench.contents(&path).as_ref()));
        (judge(&Memory::of(bytes)).0, bench.judge(&path))
    });
    let path = bench.put(&patient.bytes);
    let refused = bench.run(&["check", "-q", "-f", "qcow2", "-r", "all"], &path) == 1;
    // It makes files of GiB of some, nearly all of it holes.
    let mended_by_qemu = (!refused && theirs != Verdict::Refused)
        .then(|| (judge(&File::open_unlocked(&path, Cache::default()).unwrap()).0, bench.judge(&path)));
    let what = format!("kind {:#x}: {}", patient.kind, patient.damage);
    let damage = patient.damage.clone();
    Case { what, damage, ours, theirs, found, mended, mended_by_qemu, contents: differences }
}

/// A class of images of which the two justly say different things.
struct Excuse {
    why: &'static str,
    is: fn(&Case) -> bool,
}

const EXCUSES: &[Excuse] = &[
    Excuse {
        why: "qemu-img's check gives up at a snapshot table, bitmap or refcount block that can't be; kiln's goes on and \
              tells what else is wrong",
        is: |case| {
            const PLACES: [Place; 4] = [Place::Snapshots, Place::Bitmaps, Place::RefcountTable, Place::Cut];
            case.ours == Verdict::Corrupt && case.theirs == Verdict::Refused && PLACES.contains(&case.damage.place)
        },
    },
    Excuse {
        why: "where two tables are one, or a table and data, kiln keeps telling; qemu-img only makes the refcount 2",
        is: |case| case.ours == case.theirs && case.contents.is_empty() && tells(case, "two things"),
    },
    Excuse {
        why: "a reference that can't be right is left by both: nobody knows what was meant",
        is: |case| {
            let left = |mended: Option<(Verdict, Verdict)>| mended.is_none_or(|(ours, _)| ours == Verdict::Corrupt);
            let told = case.found.iter().any(|finding| finding.is_reference);
            let as_good = case.mended.is_some_and(|(ours, theirs)| ours == theirs || theirs == Verdict::Refused);
            same_before(case) && told && as_good && left(case.mended) && left(case.mended_by_qemu)
        },
    },
    Excuse {
        why: "of snapshots and bitmaps that can't be, qemu-img's repair leaves less to be told; kiln's leaves them alone",
        is: |case| {
            const PLACES: [Place; 3] = [Place::Snapshots, Place::SnapshotL1, Place::Bitmaps];
            let is_header = case.damage.place == Place::Header && [0x3c, 0x40].contains(&case.damage.at);
            same_before(case) && (is_header || PLACES.contains(&case.damage.place))
        },
    },
    Excuse {
        why: "kiln's repair mends more: an L1 entry with a flag and no table, a cut file's lost end",
        is: |case| same_before(case) && case.mended == CLEAN,
    },
];

const CLEAN: Option<(Verdict, Verdict)> = Some((Verdict::Clean, Verdict::Clean));

fn tells(case: &Case, what: &str) -> bool {
    case.found.iter().any(|finding| finding.what.contains(what))
}

fn same_before(case: &Case) -> bool {
    case.ours == case.theirs && case.contents.is_empty()
}

fn fault(case: &Case) -> Option<String> {
    if case.ours != case.theirs {
        return Some(format!("kiln says {:?}, QEMU {:?}", case.ours, case.theirs));
    }
    if !case.contents.is_empty() {
        return Some(format!("contents: {:?}", case.contents));
    }
    let refused = case.ours == Verdict::Refused;
    (!refused && (case.mended != CLEAN || case.mended_by_qemu != CLEAN))
        .then(|| format!("mended by kiln: {:?}, by QEMU: {:?}", case.mended, case.mended_by_qemu))
}

#[test]
fn both_checks_and_repairs_agree() {
    let patients = patients();
    let next = AtomicUsize::new(0);
    let cases = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let bench = Bench::new();
                while let Some(patient) = patients.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let case = treat(patient, &bench);
                    cases.lock().push(case);
                }
            });
        }
    });
    let cases = cases.into_inner();
    let mut verdicts = BTreeMap::new();
    let mut excused: BTreeMap<&str, usize> = BTreeMap::new();
    let mut bad = Vec::new();
    for case in &cases {
        *verdicts.entry(case.ours).or_insert(0) += 1;
        let Some(fault) = fault(case) else { continue };
        match EXCUSES.iter().find(|excuse| (excuse.is)(case)) {
            Some(excuse) => *excused.entry(excuse.why).or_default() += 1,
            None => bad.push(format!(
                "{}\n  {fault}\n  {:?}",
                case.what,
                case.found.iter().take(3).map(|f| &f.what).collect::<Vec<_>>()
            )),
        }
    }
    println!("{} damaged images: {verdicts:?}", cases.len());
    for (why, count) in &excused {
        println!("{count} differ: {why}");
    }
    assert!(bad.is_empty(), "{} of {}:\n{}", bad.len(), cases.len(), bad.join("\n"));
    assert!(cases.len() >= 200);
    for excuse in EXCUSES {
        assert!(excused.contains_key(excuse.why), "never needed: {}", excuse.why);
    }
    let peak = peak_memory();
    println!("{} MiB at most", peak >> 20);
    assert!(peak < MOST_MEMORY, "{} MiB", peak >> 20);
}

/// Most bytes of memory that this process has had (VmHWM of proc(5)).
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}
