//! Copying disks: from one or several images to another one, allocation by allocation, on all cores.
//!
//! A walk over the sources' allocation gives out pieces in the order of their offsets. Workers read pieces and look for
//! zeros (and compress) side by side; then each waits for its turn to take its places in the target, and writes. So the
//! same input gives the same bytes on any number of cores, and no more is in memory than a piece for each worker.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::chain::{Image, Node, Status};
use crate::qcow2::Qcow2;
use crate::qcow2::compress::Compressor;
use crate::qcow2::read::Contents;
use crate::storage::File;
use crate::zeros;
use crate::{BlockDevice, Error, Operation};

/// Bytes that a worker copies at once: enough for few calls, and few enough for its processor's cache.
const PIECE: u64 = 512 << 10;

/// What a target reads where nothing has been written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Zeros.
    Zeros,
    /// A backing file's contents, which are the sources' where their tops say nothing.
    Backing,
    /// Anything.
    Unknown,
}

/// How to copy.
pub struct Convert<'a> {
    /// Where from.
    pub source: &'a dyn Source,
    /// What the target reads where nothing is written.
    pub before: Before,
    /// So many zero bytes in a row become a hole (raw targets, and others that have contents); 0 never.
    pub sparse: u64,
    /// The target has contents, which are overwritten.
    pub in_place: bool,
    /// Let the kernel copy between raw disks where it can.
    pub offload: bool,
    /// Write compressed clusters.
    pub compress: bool,
    /// What can't be read becomes zeros.
    pub salvage: bool,
    /// How many workers; all cores if none.
    pub workers: Option<NonZeroUsize>,
    /// Bytes a second at most.
    pub rate_limit: Option<u64>,
    /// Whether the whole is to be given up.
    pub stop: &'a AtomicBool,
    /// Hears how many of how many bytes are done.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
}

/// Something to copy from.
pub trait Source: Sync {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// When it can't be read.
    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error>;

    /// The file and its offset where the bytes at `offset` lie as they are, for `len` bytes.
    fn in_file(&self, _offset: u64, _len: u64) -> Option<(&File, u64)> {
        None
    }

    /// What there is at `offset`, for at most `most` bytes. With `top` what lies below isn't looked at, and `allocated`
    /// says whether the top says anything.
    ///
    /// # Errors
    /// When tables can't be read.
    fn stretch(&self, offset: u64, most: u64, top: bool) -> Result<Status, Error>;
}

impl Source for Image {
    fn size(&self) -> u64 {
        BlockDevice::len(self)
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        self.read_at(&mut [IoSliceMut::new(bytes)], offset)
    }

    fn stretch(&self, offset: u64, most: u64, top: bool) -> Result<Status, Error> {
        let mut most = most;
        for image in self.chain() {
            let len = BlockDevice::len(image);
            if offset >= len {
                break;
            }
            let status = image.status(offset, most.min(len - offset))?;
            if status.allocated || top {
                return Ok(status);
            }
            most = status.len;
        }
        // Nothing anywhere, or behind the end of what lies below.
        Ok(Status { len: most, allocated: !top, zero: true, data: false, compressed: false, host: None })
    }
}

/// Several disks, one behind the other.
pub struct Joined(pub Vec<Arc<Image>>);

impl Joined {
    // The disk that `offset` lies in, and the offset in it.
    fn part(&self, offset: u64) -> Option<(&Image, u64)> {
        let mut rest = offset;
        for image in &self.0 {
            if rest < image.len() {
                return Some((image, rest));
            }
            rest -= image.len();
        }
        None
    }
}

impl Source for Joined {
    fn size(&self) -> u64 {
        self.0.iter().map(|image| image.len()).sum()
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        let (mut rest, mut at) = (bytes, offset);
        while !rest.is_empty() {
            let Some((image, within)) = self.part(at) else { break };
            let len = (image.len() - within).min(rest.len() as u64);
            let (head, tail) = rest.split_at_mut(len as usize);
            image.read_at(&mut [IoSliceMut::new(head)], within)?;
            (rest, at) = (tail, at + len);
        }
        Ok(())
    }

    fn in_file(&self, offset: u64, len: u64) -> Option<(&File, u64)> {
        let (image, within) = self.part(offset)?;
        let whole = within + len <= BlockDevice::len(image);
        let file = image.file().filter(|_| whole && image.qcow2().is_none())?;
        Some((file, within))
    }

    fn stretch(&self, offset: u64, most: u64, top: bool) -> Result<Status, Error> {
        match self.part(offset) {
            Some((image, within)) => image.stretch(within, most.min(image.len() - within), top),
            None => Ok(Status { len: most, allocated: true, zero: true, data: false, compressed: false, host: None }),
        }
    }
}

/// Keeps work at so many bytes a second.
pub struct Pace<'a> {
    limit: Option<u64>,
    stop: &'a AtomicBool,
    began: Instant,
}

impl<'a> Pace<'a> {
    /// At most `limit` bytes a second from now on; `stop` ends every wait.
    pub fn new(limit: Option<u64>, stop: &'a AtomicBool) -> Self {
        Self { limit: limit.filter(|limit| *limit > 0), stop, began: Instant::now() }
    }

    /// Waits until `done` bytes may have been worked at.
    pub fn keep(&self, done: u64) {
        let Some(limit) = self.limit else { return };
        let due = self.began + Duration::from_secs_f64(done as f64 / limit as f64);
        // In steps, so that a stop is heard.
        while !self.stop.load(Ordering::Relaxed) {
            let early = due.saturating_duration_since(Instant::now());
            if early.is_zero() {
                return;
            }
            std::thread::sleep(early.min(Duration::from_millis(100)));
        }
    }
}

/// What was not copied as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that couldn't be read and are zeros now, with the first reason.
    pub unreadable: Option<(u64, String)>,
    /// The user has stopped it.
    pub stopped: bool,
}

enum Work {
    Copy,
    Zero,
}

struct Piece {
    number: u64,
    at: u64,
    len: u64,
    work: Work,
}

struct Walk {
    at: u64,
    number: u64,
    /// A stretch that was looked up and isn't given out yet.
    found: Option<(Status, u64)>,
}

struct Copying<'a> {
    how: &'a Convert<'a>,
    target: &'a Image,
    total: u64,
    cluster: u64,
    /// Whether pieces wait for their turns: where the target gives out places.
    ordered: bool,
    walk: Mutex<Walk>,
    /// The piece whose turn it is to take its places.
    turn: Mutex<u64>,
    next_turn: Condvar,
    done: AtomicU64,
    /// Of these, bytes that were copied: what a rate limits.
    copied: AtomicU64,
    failed: Mutex<BTreeMap<u64, Error>>,
    gave_up: AtomicBool,
    unreadable: Mutex<Option<(u64, String)>>,
    pace: Pace<'a>,
}

/// Copies. The target must be as long as the sources together; it is not closed.
///
/// # Errors
/// The first one in the order of offsets.
pub fn convert(how: &Convert<'_>, target: &Image) -> Result<Outcome, Error> {
    let total = how.source.size();
    let cluster = target.qcow2().map_or(1, |qcow2| qcow2.header().cluster_size());
    let copying = Copying {
        how,
        target,
        total,
        cluster,
        ordered: target.qcow2().is_some(),
        walk: Mutex::new(Walk { at: 0, number: 0, found: None }),
        turn: Mutex::new(0),
        next_turn: Condvar::new(),
        done: AtomicU64::new(0),
        copied: AtomicU64::new(0),
        failed: Mutex::new(BTreeMap::new()),
        gave_up: AtomicBool::new(false),
        unreadable: Mutex::new(None),
        pace: Pace::new(how.rate_limit, how.stop),
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = how.workers.map_or(cores, NonZeroUsize::get).min(16);
    (how.progress)(0, total);
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|| copying.work());
        }
        copying.work();
    });
    let stopped = how.stop.load(Ordering::Relaxed);
    if let Some((_, error)) = copying.failed.lock().pop_first() {
        return Err(error);
    }
    if !stopped {
        (how.progress)(total, total);
    }
    let unreadable = copying.unreadable.lock().take();
    Ok(Outcome { unreadable, stopped })
}

impl Copying<'_> {
    fn work(&self) {
        let mut buffer = Vec::new();
        let mut packed = Vec::new();
        let mut compressor = None;
        loop {
            let piece = match self.next() {
                Ok(Some(piece)) => piece,
                Ok(None) => return,
                Err((number, error)) => {
                    self.fail(number, error);
                    return;
                }
            };
            if self.gave_up.load(Ordering::Relaxed) || self.how.stop.load(Ordering::Relaxed) {
                self.pass(piece.number);
                continue;
            }
            let outcome = match piece.work {
                Work::Zero => self.zero(&piece),
                Work::Copy => self.copy(&piece, &mut buffer, &mut packed, &mut compressor),
            };
            if let Err(error) = outcome {
                self.fail(piece.number, error);
            }
            self.pass(piece.number);
            let done = self.done.fetch_add(piece.len, Ordering::Relaxed) + piece.len;
            (self.how.progress)(done, self.total);
            if matches!(piece.work, Work::Copy) {
                self.pace.keep(self.copied.fetch_add(piece.len, Ordering::Relaxed) + piece.len);
            }
        }
    }

    fn fail(&self, number: u64, error: Error) {
        self.failed.lock().insert(number, error);
        self.gave_up.store(true, Ordering::Relaxed);
        self.next_turn.notify_all();
    }

    fn wait_for_turn(&self, number: u64) {
        if !self.ordered {
            return;
        }
        let mut turn = self.turn.lock();
        while *turn != number {
            self.next_turn.wait(&mut turn);
        }
    }

    // The next one's turn, unless this one has passed it on already.
    fn pass(&self, number: u64) {
        if !self.ordered {
            return;
        }
        let mut turn = self.turn.lock();
        while *turn < number {
            self.next_turn.wait(&mut turn);
        }
        if *turn == number {
            *turn += 1;
            self.next_turn.notify_all();
        }
    }

    fn next(&self) -> Result<Option<Piece>, (u64, Error)> {
        let mut walk = self.walk.lock();
        loop {
            let stopped = self.how.stop.load(Ordering::Relaxed) || self.gave_up.load(Ordering::Relaxed);
            if walk.at >= self.total || stopped {
                return Ok(None);
            }
            let (status, end) = match walk.found {
                Some((status, end)) if walk.at < end => (status, end),
                _ => {
                    let status = self.look(walk.at).map_err(|error| (walk.number, error))?;
                    (status, walk.at + status.len)
                }
            };
            walk.found = Some((status, end));
            let mut work = match () {
                () if !status.allocated => None,
                () if status.zero => (self.how.before != Before::Zeros).then_some(Work::Zero),
                () => Some(Work::Copy),
            };
            // Pieces begin and end where clusters of the target do, so that no two have one in common: what shares a
            // cluster with data is copied with them.
            let mut end = end;
            if end < self.total && !end.is_multiple_of(self.cluster) && !matches!(work, Some(Work::Copy)) {
                end -= end % self.cluster;
            }
            if end <= walk.at {
                work = Some(Work::Copy);
            }
            if matches!(work, Some(Work::Copy)) {
                let unit = if self.how.compress { self.cluster } else { self.cluster.max(PIECE) };
                let boundary = ((walk.at / unit + 1) * unit).min(self.total);
                end = end.max(walk.at + 1).next_multiple_of(self.cluster).min(boundary);
            }
            let (at, len) = (walk.at, end - walk.at);
            walk.at = end;
            let Some(work) = work else {
                self.done.fetch_add(len, Ordering::Relaxed);
                continue;
            };
            let number = walk.number;
            walk.number += 1;
            return Ok(Some(Piece { number, at, len, work }));
        }
    }

    fn look(&self, at: u64) -> Result<Status, Error> {
        let most = self.total - at;
        match self.how.source.stretch(at, most, self.how.before == Before::Backing) {
            // What the tables don't tell has to be found out by reading.
            Err(_) if self.how.salvage => {
                let len = self.cluster.max(64 << 10).min(most);
                Ok(Status { len, allocated: true, zero: false, data: true, compressed: false, host: None })
            }
            other => other,
        }
    }

    fn zero(&self, piece: &Piece) -> Result<(), Error> {
        self.wait_for_turn(piece.number);
        self.target.write_zeroes(piece.at, piece.len, true)
    }

    fn copy(
        &self,
        piece: &Piece,
        buffer: &mut Vec<u8>,
        packed: &mut Vec<u8>,
        compressor: &mut Option<Compressor>,
    ) -> Result<(), Error> {
        if self.how.offload && self.copy_offloaded(piece)? {
            return Ok(());
        }
        buffer.resize(piece.len as usize, 0);
        self.read(piece, buffer)?;
        match self.target.node() {
            Node::Raw(_) => self.write_raw(piece, buffer),
            Node::Qcow2(qcow2) if self.how.compress => self.write_compressed(qcow2, piece, buffer, packed, compressor),
            Node::Qcow2(qcow2) => self.write_clusters(qcow2, piece, buffer),
        }
    }

    // Whether the kernel could copy it.
    fn copy_offloaded(&self, piece: &Piece) -> Result<bool, Error> {
        let (Node::Raw(_), Some(to), Some((from, at))) =
            (self.target.node(), self.target.file(), self.how.source.in_file(piece.at, piece.len))
        else {
            return Ok(false);
        };
        to.copy_from(from, at, piece.at, piece.len).map_err(|source| Error::Io {
            name: self.target.path().display().to_string(),
            operation: Operation::Write,
            offset: piece.at,
            source,
        })
    }

    fn read(&self, piece: &Piece, buffer: &mut [u8]) -> Result<(), Error> {
        let source = self.how.source;
        match source.read(buffer, piece.at) {
            Err(error) if self.how.salvage => {
                // Sector by sector: only what really can't be read is lost.
                let mut lost = 0;
                for (number, sector) in (0..).zip(buffer.chunks_mut(512)) {
                    if source.read(sector, piece.at + number * 512).is_err() {
                        sector.fill(0);
                        lost += sector.len() as u64;
                    }
                }
                let mut unreadable = self.unreadable.lock();
                let before = unreadable.take();
                let (bytes, why) = before.unwrap_or_else(|| (0, error.to_string()));
                *unreadable = Some((bytes + lost, why));
                Ok(())
            }
            other => other,
        }
    }

    fn write_raw(&self, piece: &Piece, buffer: &[u8]) -> Result<(), Error> {
        if self.how.sparse == 0 {
            return self.target.write_at(&[IoSlice::new(buffer)], piece.at);
        }
        for (start, len, zero) in zeros::runs(buffer, self.how.sparse as usize) {
            let (at, part) = (piece.at + start as u64, buffer.get(start..start + len).unwrap_or_default());
            match (zero, self.how.before) {
                (true, Before::Zeros) => {}
                (true, _) => self.target.write_zeroes(at, len as u64, true)?,
                (false, _) => self.target.write_at(&[IoSlice::new(part)], at)?,
            }
        }
        Ok(())
    }

    fn write_clusters(&self, qcow2: &Qcow2, piece: &Piece, buffer: &[u8]) -> Result<(), Error> {
        if self.how.in_place {
            // Runs may share clusters, so each is written before the next one gets its place.
            self.wait_for_turn(piece.number);
            return self.write_raw(piece, buffer);
        }
        let runs = if self.how.sparse == 0 {
            vec![(0, buffer.len(), false)]
        } else {
            zeros::runs(buffer, self.cluster as usize)
        };
        self.wait_for_turn(piece.number);
        let mut places = Vec::new();
        for (start, len, zero) in runs {
            let (at, len) = (piece.at + start as u64, len as u64);
            match (zero, self.how.before) {
                (true, Before::Zeros) => {}
                (true, _) => qcow2.write_zeroes(at, len, true)?,
                (false, _) => places.push((start, len as usize, qcow2.places(at, len)?)),
            }
        }
        self.pass(piece.number);
        for (start, len, place) in places {
            qcow2.write_to(place, buffer.get(start..start + len).unwrap_or_default())?;
        }
        Ok(())
    }

    // As qemu-img: what is compressed is written once.
    fn refuse_overwriting(&self, qcow2: &Qcow2, piece: &Piece) -> Result<(), Error> {
        let there = qcow2.extent(piece.at, piece.len)?.contents;
        if matches!(there, Contents::Data { .. } | Contents::Compressed { .. }) {
            let what = format!("it has data at {} already, and compressed clusters overwrite nothing", piece.at);
            return Err(Error::Unsupported { name: self.target.path().display().to_string(), what });
        }
        Ok(())
    }

    fn write_compressed(
        &self,
        qcow2: &Qcow2,
        piece: &Piece,
        buffer: &mut Vec<u8>,
        packed: &mut Vec<u8>,
        compressor: &mut Option<Compressor>,
    ) -> Result<(), Error> {
        if self.how.sparse > 0 && zeros::is_zero(buffer) {
            self.wait_for_turn(piece.number);
            return match self.how.before {
                Before::Zeros => Ok(()),
                _ => qcow2.write_zeroes(piece.at, piece.len, true),
            };
        }
        if self.how.in_place {
            self.wait_for_turn(piece.number);
            self.refuse_overwriting(qcow2, piece)?;
        }
        let whole = buffer.len();
        buffer.resize(self.cluster as usize, 0);
        packed.resize(self.cluster as usize - 1, 0);
        if compressor.is_none() {
            let made = Compressor::new(qcow2.header().compression);
            let failed = |source| Error::Open { path: self.target.path().into(), source };
            *compressor = Some(made.map_err(failed)?);
        }
        let len = compressor.as_mut().and_then(|compressor| compressor.compress(buffer, packed));
        self.wait_for_turn(piece.number);
        match len {
            Some(len) => {
                let place = qcow2.compressed_place(piece.at, len as u64)?;
                self.pass(piece.number);
                qcow2.write_compressed_to(place, packed.get(..len).unwrap_or_default())
            }
            None => {
                let places = qcow2.places(piece.at, whole as u64)?;
                self.pass(piece.number);
                qcow2.write_to(places, buffer.get(..whole).unwrap_or_default())
            }
        }
    }
}
