//! A storage that remembers in which order it was written and flushed, and what may be left of it after a power loss.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Memory;
use crate::storage::{Storage, Stretch};

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

enum Event {
    Write { offset: u64, bytes: Vec<u8> },
    Zero { offset: u64, len: u64 },
    SetLen(u64),
    Flush,
}

struct Log {
    /// What was there before the first event.
    base: Vec<u8>,
    /// Each with its time on the clock.
    events: Vec<(usize, Event)>,
    /// What the last cut found durable, with the number of events in it: cuts that come in their order go on from here.
    durable: Option<(usize, Memory)>,
}

/// A storage in memory with a log of all that changed it.
pub struct Recorder {
    now: Memory,
    log: Mutex<Log>,
    clock: Arc<AtomicUsize>,
}

/// How much of what is not durable gets there.
#[derive(Clone, Copy)]
enum Mood {
    /// Any contents of each sector.
    Any,
    /// Mostly the last ones.
    Eager,
    /// Whole events, or nothing of them.
    Events,
    /// All but a few sectors.
    AllBut,
}

impl Recorder {
    /// With these bytes, which count as durable.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self::with(bytes, Arc::default())
    }

    /// Another storage with the same clock.
    pub fn beside(&self, bytes: Vec<u8>) -> Self {
        Self::with(bytes, self.clock.clone())
    }

    fn with(bytes: Vec<u8>, clock: Arc<AtomicUsize>) -> Self {
        let log = Log { base: bytes.clone(), events: Vec::new(), durable: None };
        Self { now: Memory::of(bytes), log: Mutex::new(log), clock }
    }

    /// How many changes and flushes there have been of all storages with this one's clock.
    pub fn events(&self) -> usize {
        self.clock.load(Ordering::Relaxed)
    }

    /// How many flushes there have been.
    pub fn flushes(&self) -> usize {
        self.log.lock().events.iter().filter(|(_, event)| matches!(event, Event::Flush)).count()
    }

    /// What a power loss after the first `count` events may leave: everything before the last flush among them, and of
    /// each sector changed since then any of its contents. The file has any of the lengths that it had since then,
    /// whichever sectors have got there. `choose` gives a number below its argument.
    pub fn cut(&self, count: usize, choose: &mut dyn FnMut(u64) -> u64) -> Vec<u8> {
        let mut log = self.log.lock();
        let Log { base, events, durable } = &mut *log;
        let events = events.get(..events.partition_point(|(time, _)| *time < count)).unwrap_or(events);
        let safe = events.iter().rposition(|(_, event)| matches!(event, Event::Flush)).map_or(0, |at| at + 1);
        let (already, disk) =
            durable.take().filter(|(there, _)| *there <= safe).unwrap_or_else(|| (0, Memory::of(base.clone())));
        let (settled, loose) = events.split_at(safe);
        for (_, event) in settled.iter().skip(already) {
            apply(&disk, event);
        }
        let mut bytes = disk.bytes();
        *durable = Some((safe, disk));
        let mood = [Mood::Any, Mood::Eager, Mood::Events, Mood::AllBut][choose(4) as usize % 4];
        let chosen: Vec<bool> = loose.iter().map(|_| choose(2) == 0).collect();
        let (sectors, lens) = versions(&bytes, loose);
        for (sector, versions) in sectors {
            let last = versions.len() as u64;
            let version = match mood {
                Mood::Any => choose(last + 1),
                Mood::Eager if choose(4) > 0 => last,
                Mood::Eager => choose(last + 1),
                Mood::Events => {
                    let is_chosen = |(event, _): &(usize, Vec<u8>)| chosen.get(*event).is_some_and(|chosen| *chosen);
                    versions.iter().rposition(is_chosen).map_or(0, |at| at as u64 + 1)
                }
                Mood::AllBut if choose(16) > 0 => last,
                Mood::AllBut => 0,
            };
            if let Some((_, contents)) = version.checked_sub(1).and_then(|version| versions.get(version as usize)) {
                let end = (sector + 1) * SECTOR;
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                if let Some(place) = bytes.get_mut(sector * SECTOR..end) {
                    place.copy_from_slice(contents);
                }
            }
        }
        // Half of the time the newest: more is left to go wrong then.
        let len = if choose(2) == 0 { lens.len() - 1 } else { choose(lens.len() as u64) as usize };
        bytes.resize(lens.get(len).copied().unwrap_or(0), 0);
        bytes
    }

    fn note(&self, event: Event) {
        // Under the lock, so that the log is in the order of the clock.
        let mut log = self.log.lock();
        let time = self.clock.fetch_add(1, Ordering::Relaxed);
        log.events.push((time, event));
    }
}

/// Contents of a sector, each with the number of the event that made it.
type Versions = Vec<(usize, Vec<u8>)>;

// Contents that each sector had one after the other, and lengths of the file.
fn versions(before: &[u8], loose: &[(usize, Event)]) -> (BTreeMap<usize, Versions>, Vec<usize>) {
    let mut sectors: BTreeMap<usize, Versions> = BTreeMap::new();
    let mut lens = vec![before.len()];
    for (number, (_, event)) in loose.iter().enumerate() {
        let old = lens.last().copied().unwrap_or(0);
        let (range, new) = match event {
            Event::Write { offset, bytes } => {
                let range = *offset as usize..*offset as usize + bytes.len();
                (range.clone(), old.max(range.end))
            }
            Event::Zero { offset, len } => (*offset as usize..((offset + len) as usize).min(old), old),
            // What is cut off never comes back.
            Event::SetLen(len) => (*len as usize..old, *len as usize),
            Event::Flush => continue,
        };
        if new != old {
            lens.push(new);
        }
        if range.is_empty() {
            continue;
        }
        for sector in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            let start = sector * SECTOR;
            let versions = sectors.entry(sector).or_default();
            let mut contents = versions.last().map_or_else(|| sector_of(before, start), |(_, last)| last.clone());
            let (from, to) = (range.start.max(start), range.end.min(start + SECTOR));
            if let Some(place) = contents.get_mut(from - start..to - start) {
                match event {
                    Event::Write { offset, bytes } => {
                        let at = from - *offset as usize;
                        place.copy_from_slice(bytes.get(at..at + place.len()).unwrap_or_default());
                    }
                    _ => place.fill(0),
                }
            }
            versions.push((number, contents));
        }
    }
    (sectors, lens)
}

// A sector as it lies in the bytes, with zeros behind their end.
fn sector_of(bytes: &[u8], start: usize) -> Vec<u8> {
    let there = bytes.get(start.min(bytes.len())..(start + SECTOR).min(bytes.len())).unwrap_or_default();
    let mut sector = there.to_vec();
    sector.resize(SECTOR, 0);
    sector
}

fn apply(to: &Memory, event: &Event) {
    // Memory never fails.
    let _ = match event {
        Event::Write { offset, bytes } => to.write_at(&[IoSlice::new(bytes)], *offset),
        Event::Zero { offset, len } => to.zero(*offset, *len, true).map(drop),
        Event::SetLen(len) => to.set_len(*len),
        Event::Flush => Ok(()),
    };
}

impl Storage for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn len(&self) -> io::Result<u64> {
        self.now.len()
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<u64> {
        self.now.read_at(buffers, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes = buffers.iter().map(|buffer| &**buffer).collect::<Vec<_>>().concat();
        self.note(Event::Write { offset, bytes });
        self.now.write_at(buffers, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.note(Event::Flush);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Event::SetLen(len));
        self.now.set_len(len)
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<bool> {
        self.note(Event::Zero { offset, len });
        self.now.zero(offset, len, unmap)
    }

    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn stretch(&self, offset: u64) -> io::Result<Stretch> {
        self.now.stretch(offset)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.now.allocated()
    }

    fn block(&self) -> u32 {
        SECTOR as u32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // Failing is how a test shows it.

    use std::collections::BTreeSet;

    use super::*;
    use crate::storage::write;

    // All that a power loss may leave, found by trying often enough.
    fn left(disk: &Recorder, count: usize) -> BTreeSet<Vec<u8>> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut choose = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        (0..4000).map(|_| disk.cut(count, &mut choose)).collect()
    }

    fn sectors(numbers: &[u8]) -> Vec<u8> {
        numbers.iter().flat_map(|number| [*number; SECTOR]).collect()
    }

    #[test]
    fn sectors_are_torn_apart_and_go_back_to_any_of_their_contents() {
        let disk = Recorder::of(sectors(&[1, 1]));
        write(&disk, &sectors(&[2, 2]), 0).unwrap();
        write(&disk, &sectors(&[3]), 0).unwrap();
        let all: BTreeSet<_> =
            [[1, 1], [1, 2], [2, 1], [2, 2], [3, 1], [3, 2]].iter().map(|numbers| sectors(numbers)).collect();
        assert_eq!(left(&disk, 2), all);
        disk.flush().unwrap();
        assert_eq!(left(&disk, 2), all);
        assert_eq!(left(&disk, 3), BTreeSet::from([sectors(&[3, 2])]));
    }

    #[test]
    fn a_file_that_grows_may_be_left_shorter_or_with_zeros() {
        let disk = Recorder::of(sectors(&[1]));
        write(&disk, &sectors(&[2]), 512).unwrap();
        write(&disk, &[3; 100], 1024).unwrap();
        let longest = |two: u8, three: u8| [sectors(&[1, two]), vec![three; 100]].concat();
        let all = [
            sectors(&[1]),
            sectors(&[1, 0]),
            sectors(&[1, 2]),
            longest(0, 0),
            longest(0, 3),
            longest(2, 0),
            longest(2, 3),
        ];
        assert_eq!(left(&disk, 2), BTreeSet::from(all));
    }

    #[test]
    fn what_was_cut_off_stays_or_reads_zeros() {
        let disk = Recorder::of(sectors(&[1, 2]));
        disk.set_len(512).unwrap();
        disk.set_len(1024).unwrap();
        assert_eq!(left(&disk, 2), BTreeSet::from([sectors(&[1]), sectors(&[1, 0]), sectors(&[1, 2])]));
    }

    #[test]
    fn storages_with_one_clock_are_cut_at_one_time() {
        let a = Recorder::of(Vec::new());
        let b = a.beside(Vec::new());
        write(&a, b"a", 0).unwrap();
        write(&b, b"b", 0).unwrap();
        a.flush().unwrap();
        b.flush().unwrap();
        assert_eq!((a.events(), b.events()), (4, 4));
        assert_eq!((left(&a, 3).len(), left(&b, 3).len()), (1, 3));
    }
}
