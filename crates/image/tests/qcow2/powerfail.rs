//! Power loss: after any of them the image is sound, and each sector has contents that it may have.
//!
//! A history ([`crate::history`]) is cut at random moments; what may be left then is judged by kiln's own check and by
//! the contents, some of it by QEMU as well. Mistakes in the order of writes show that the model sees them.

use std::sync::atomic::{AtomicU64, Ordering};

use kiln_image::Format;
use kiln_image::qcow2::fault::Fault;
use kiln_image::qcow2::image::read_header;
use kiln_image::testing::{Memory, Noise};

use crate::history::{History, Left, bytes_of, ensure, read};
use crate::scene;

/// Cuts of a history.
const CUTS: u64 = 6;
/// Of so many cuts QEMU judges one, unless `KILN_QEMU` says another number.
const QEMU: u64 = 10;
/// How many histories there are unless `KILN_HISTORIES` says.
const HISTORIES: u64 = 20_000;
/// Most histories with each mistake.
const WITH_FAULT: u64 = 400;

/// Where a history has gone wrong.
enum Wrong {
    /// Before any power loss.
    Operation(String),
    /// After one.
    Cut(String),
}

// A number that the environment may set.
fn number(name: &str, unless: u64) -> u64 {
    std::env::var(name).map_or(unless, |number| number.parse().unwrap())
}

fn history(seed: u64, fault: Option<Fault>, qemu: u64) -> Result<(), Wrong> {
    let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..8 {
        noise.next();
    }
    let mut history = History::new(Noise(noise.next() | 1), fault).map_err(Wrong::Operation)?;
    history.run().map_err(|error| Wrong::Operation(format!("{error}; {}", history.what)))?;
    let events = history.events() as u64;
    let mut cuts: Vec<usize> = (0..CUTS).map(|_| noise.below(events + 1) as usize).collect();
    cuts.sort_unstable();
    for (cut, at) in (0..).zip(cuts) {
        let left = history.cut(at, &mut |limit| noise.below(limit));
        let by_qemu = fault.is_none() && (seed * CUTS + cut).is_multiple_of(qemu);
        let outcome = if by_qemu { qemu_judges(&left) } else { Ok(()) };
        outcome.and_then(|()| history.judge(left, at)).map_err(|error| {
            Wrong::Cut(format!("cut {cut} after {at} of {events} events: {error}; {}", history.what))
        })?;
    }
    Ok(())
}

fn qemu_judges(left: &Left) -> Result<(), String> {
    let scene = scene::Scene::new();
    let path = scene.path("left.qcow2");
    std::fs::write(&path, &left.image).unwrap();
    if let Some(data) = &left.data {
        std::fs::write(scene.path("data"), data).unwrap();
    }
    for ground in &left.grounds {
        let path = scene.path(ground.name.to_str().unwrap());
        std::fs::write(&path, &ground.bytes).unwrap();
        if ground.format == Format::Qcow2 {
            let (code, text) = scene::qemu_check(&path, &[]);
            ensure!([0, 3].contains(&code), "qemu-img check of {}: {code} {text}", ground.name.display());
        }
    }
    let header = read_header(&Memory::of(left.image.clone())).map_err(|error| error.to_string())?;
    // Repaired at open, when it is marked; in version 2 flags may be missing.
    let (mut fix, mut allowed) = (Vec::new(), vec![0, 3]);
    if header.incompatible & 1 != 0 || header.version == 2 {
        fix = vec!["-r", "all"];
        allowed = vec![0];
    }
    let (code, text) = scene::qemu_check(&path, &fix);
    ensure!(allowed.contains(&code), "qemu-img check: {code} {text}");
    let image = std::fs::read(&path).unwrap();
    let image = Left { image, data: left.data.clone(), grounds: left.grounds.clone() }.open()?;
    let ours = read(&image)?;
    ensure!(scene::qemu_reads(&path) == bytes_of(&ours), "QEMU reads something else");
    Ok(())
}

// Calls `run` with each seed on all processors, until it is true for one. Returns how many seeds it took.
fn some(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> bool + Sync) -> Option<u64> {
    let (next, found) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |count| count.get()) {
            scope.spawn(|| {
                while found.load(Ordering::Relaxed) == u64::MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    if seed > seeds.start && (seed - seeds.start).is_multiple_of(50_000) {
                        eprintln!("{} have been run", seed - seeds.start);
                    }
                    if run(seed) {
                        found.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let found = found.into_inner();
    (found < u64::MAX).then(|| found - seeds.start + 1)
}

#[test]
fn after_a_power_loss_nothing_is_lost_that_was_flushed() {
    let (first, count) = (number("KILN_FIRST", 0), number("KILN_HISTORIES", HISTORIES));
    let qemu = number("KILN_QEMU", QEMU);
    let bad = some(first..first + count, |seed| {
        let (Err(Wrong::Operation(what)) | Err(Wrong::Cut(what))) = history(seed, None, qemu) else { return false };
        eprintln!("KILN_FIRST={seed} KILN_HISTORIES=1 runs it alone: {what}");
        true
    });
    assert_eq!(bad, None, "a history has gone wrong");
    println!("{count} histories, {} cuts, one in {qemu} judged by QEMU as well", count * CUTS);
}

#[test]
fn mistakes_in_the_order_of_writes_are_caught() {
    let faults = [
        Fault::L2BeforeRefcounts,
        Fault::L2BeforeData,
        Fault::L2BeforeCopiedData,
        Fault::EarlyReuse,
        Fault::HeaderBeforeSnapshotTable,
    ];
    for fault in faults {
        // Without a power loss each of them works.
        let caught = some(0..WITH_FAULT, |seed| match history(seed, Some(fault), 1) {
            Ok(()) => false,
            Err(Wrong::Cut(what)) => {
                println!("{fault:?}: seed {seed}, {what}");
                true
            }
            Err(Wrong::Operation(what)) => panic!("{fault:?}: seed {seed} went wrong before any power loss: {what}"),
        });
        let caught = caught.unwrap_or_else(|| panic!("{fault:?} was not caught"));
        println!("{fault:?}: caught by history {caught}");
    }
}
