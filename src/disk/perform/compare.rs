//! `compare`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use kiln_image::chain::{Image, Open};
use kiln_image::convert::Source;
use kiln_image::zeros;
use kiln_image::{BlockDevice, Error};
use parking_lot::Mutex;

use super::super::{Compare, Dialect};
use super::open;
use crate::failure::{Failure, Status};

/// Bytes compared at once.
const PIECE: u64 = 256 << 10;

pub(super) fn perform(dialect: Dialect, compare: &Compare) -> Result<ExitCode, Failure> {
    let cache = open::cached(compare.cache);
    let how = |format| Open { cache, ..open::for_reading(format, compare.force_share) };
    let left = open::looking(dialect, &compare.left.file, how(compare.left.format))?;
    let right = open::looking(dialect, &compare.right.file, how(compare.right.format))?;
    let different = || match dialect {
        Dialect::Kiln => ExitCode::from(Status::Verification as u8),
        Dialect::QemuImg => ExitCode::from(1),
    };
    let tell = |text: String| {
        if !compare.quiet {
            println!("{text}");
        }
    };
    if left.len() != right.len() {
        if compare.strict {
            tell(format!("The sizes differ: {} and {} bytes.", left.len(), right.len()));
            return Ok(different());
        }
        tell(format!("The sizes differ: {} and {} bytes. What is longer should be zeros.", left.len(), right.len()));
    }
    let comparison = Comparison {
        left: &left,
        right: &right,
        strict: compare.strict,
        total: left.len().max(right.len()),
        next: Mutex::new(0),
        outcome: Mutex::new(None),
        progress: &open::progress(compare.progress),
    };
    if let Some((offset, outcome)) = comparison.run() {
        let why = outcome.map_err(|error| open::failed_reading(&error))?;
        tell(format!("{why} at offset {offset}!"));
        return Ok(different());
    }
    tell("Images are identical.".into());
    open::tell_notes(&left, compare.quiet);
    open::tell_notes(&right, compare.quiet);
    Ok(ExitCode::SUCCESS)
}

/// Where two disks begin to differ and how, or why that can't be told.
type First = (u64, Result<&'static str, Error>);

/// A comparison that all cores work at.
struct Comparison<'a> {
    left: &'a Image,
    right: &'a Image,
    strict: bool,
    total: u64,
    /// Where the next piece begins; nobody takes one behind a difference.
    next: Mutex<u64>,
    outcome: Mutex<Option<First>>,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

/// What is read of both sides, kept for the next piece: memory that is fresh each time costs more than the comparison.
#[derive(Default)]
struct Buffers {
    left: Vec<u8>,
    right: Vec<u8>,
}

impl Comparison<'_> {
    fn run(self) -> Option<First> {
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(8);
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|| self.work());
            }
            self.work();
        });
        (self.progress)(self.total, self.total);
        self.outcome.into_inner()
    }

    fn work(&self) {
        let mut buffers = Buffers::default();
        while let Some((at, piece)) = self.next() {
            let found = piece
                .and_then(|(left_zero, right_zero, len)| self.compare(at, left_zero, right_zero, len, &mut buffers));
            match found {
                Ok(None) => (self.progress)(at, self.total),
                Ok(Some(offset)) => self.found(offset, Ok("Content mismatch")),
                Err(error) => self.found(at, Err(error)),
            }
        }
    }

    fn found(&self, offset: u64, what: Result<&'static str, Error>) {
        let mut outcome = self.outcome.lock();
        if outcome.as_ref().is_none_or(|(first, _)| offset < *first) {
            *outcome = Some((offset, what));
        }
    }

    // The next piece that has to be read: its offset, whether either side is zeros, its length.
    #[allow(clippy::type_complexity, reason = "it is taken apart where it is made")]
    fn next(&self) -> Option<(u64, Result<(bool, bool, u64), Error>)> {
        let mut next = self.next.lock();
        while *next < self.total && self.outcome.lock().is_none() {
            let at = *next;
            let found = look(self.left, at, self.total - at)
                .and_then(|left| look(self.right, at, left.len).map(|right| (left, right)));
            let (left, right) = match found {
                Ok(found) => found,
                Err(error) => {
                    *next = self.total;
                    return Some((at, Err(error)));
                }
            };
            if self.strict && left.there != right.there {
                *next = self.total;
                self.found(at, Ok("Strict mode: the allocation differs"));
                return None;
            }
            let zeros = left.zero && right.zero;
            let len = if zeros { right.len } else { right.len.min(PIECE) };
            *next = at + len;
            if !zeros {
                return Some((at, Ok((left.zero, right.zero, len))));
            }
        }
        None
    }

    // Where a piece differs first.
    fn compare(
        &self,
        at: u64,
        left_zero: bool,
        right_zero: bool,
        len: u64,
        buffers: &mut Buffers,
    ) -> Result<Option<u64>, Error> {
        let read = |image: &Image, buffer: &mut Vec<u8>| {
            buffer.resize(len as usize, 0);
            Source::read(image, buffer, at)
        };
        if !left_zero {
            read(self.left, &mut buffers.left)?;
        }
        if !right_zero {
            read(self.right, &mut buffers.right)?;
        }
        let (a, b) = (&buffers.left, &buffers.right);
        let not_zero = |bytes: &[u8]| match zeros::is_zero(bytes) {
            true => None,
            false => bytes.chunks(512).position(|sector| !zeros::is_zero(sector)),
        };
        let sector = match (left_zero, right_zero) {
            (true, _) => not_zero(b),
            (_, true) => not_zero(a),
            _ if a == b => None,
            _ => a.chunks(512).zip(b.chunks(512)).position(|(a, b)| a != b),
        };
        Ok(sector.map(|sector| at + sector as u64 * 512))
    }
}

/// What a side is at some offset.
struct Side {
    zero: bool,
    /// Whether the image itself says it, in a way that takes space.
    there: bool,
    len: u64,
}

// What an image reads at `at`, behind its end zeros.
fn look(image: &Image, at: u64, most: u64) -> Result<Side, Error> {
    let len = BlockDevice::len(image);
    if at >= len {
        return Ok(Side { zero: true, there: false, len: most });
    }
    let status = image.stretch(at, most.min(len - at), false)?;
    let top = image.stretch(at, status.len, true)?;
    let there = top.allocated && !(top.zero && image.qcow2().is_none());
    Ok(Side { zero: status.zero, there, len: status.len.min(top.len) })
}
