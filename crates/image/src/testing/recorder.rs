//! A storage that remembers in which order it was written and flushed, and what may be left of it after a power loss.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};

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
    events: Vec<Event>,
}

/// A storage in memory with a log of all that changed it.
pub struct Recorder {
    now: Memory,
    log: Mutex<Log>,
}

impl Recorder {
    /// With these bytes, which count as durable.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { now: Memory::of(bytes.clone()), log: Mutex::new(Log { base: bytes, events: Vec::new() }) }
    }

    /// How many changes and flushes there have been.
    pub fn events(&self) -> usize {
        self.log.lock().events.len()
    }

    /// How many flushes there have been.
    pub fn flushes(&self) -> usize {
        self.log.lock().events.iter().filter(|event| matches!(event, Event::Flush)).count()
    }

    /// What a power loss after the first `count` events may leave: everything before the last flush among them, and of
    /// each sector changed since then any of its contents. `choose` gives a number below its argument.
    pub fn cut(&self, count: usize, choose: &mut dyn FnMut(u64) -> u64) -> Vec<u8> {
        let log = self.log.lock();
        let events = log.events.get(..count).unwrap_or(&log.events);
        let safe = events.iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |at| at + 1);
        let (durable, loose) = events.split_at(safe);
        let disk = Memory::of(log.base.clone());
        for event in durable {
            apply(&disk, event);
        }
        let mut bytes = disk.bytes();
        // Contents that each sector had since then, one after the other.
        let mut sectors: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        let later = Memory::of(bytes.clone());
        for event in loose {
            apply(&later, event);
            let (offset, len) = match event {
                Event::Write { offset, bytes } => (*offset as usize, bytes.len()),
                Event::Zero { offset, len } => (*offset as usize, *len as usize),
                Event::SetLen(_) | Event::Flush => continue,
            };
            for sector in offset / SECTOR..(offset + len).div_ceil(SECTOR) {
                let mut contents = [0; SECTOR];
                // Memory reads zeros behind its end, and never fails.
                let _ = later.read_at(&mut [IoSliceMut::new(&mut contents)], (sector * SECTOR) as u64);
                sectors.entry(sector).or_default().push(contents.to_vec());
            }
        }
        // Half of the time most of it has got there, else little.
        let eager = choose(2) == 0;
        for (sector, versions) in sectors {
            let count = versions.len() as u64 + 1;
            let version = if choose(4) > 0 && eager { count - 1 } else { choose(count) };
            if let Some(contents) = version.checked_sub(1).and_then(|version| versions.get(version as usize)) {
                let end = (sector + 1) * SECTOR;
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                if let Some(place) = bytes.get_mut(sector * SECTOR..end) {
                    place.copy_from_slice(contents);
                }
            }
        }
        bytes
    }

    fn note(&self, event: Event) {
        self.log.lock().events.push(event);
    }
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

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.now.read_at(buffers, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
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
