//! One request: a header, data, and a status byte (VIRTIO 1.2, 5.2.6).
//!
//! Data that lies in a file as it is goes between that and guest memory at once. The rest passes through a buffer of
//! bounded size. No reference to guest memory ever reaches a backend.

use std::io::IoSliceMut;

use kiln_image::{Error, Operation, SECTOR};

use super::bits::*;
use super::drive::{Consequence, DetectZeroes, Drive};
use crate::memory::transfer::Way;
use crate::virtio::{Broken, Chain, Outcome, Segments};

/// Most data in the buffer at once per queue, in bytes; larger requests go in several steps.
const BUFFER: usize = 1 << 20;
/// Most data that goes to or from guest memory at once, in bytes: a pause waits for it.
const MOST_IN_PLACE: u64 = 8 << 20;
/// Most sectors in one segment of a discard or zero request: 1 GiB.
pub(super) const MAX_SECTORS: u32 = 1 << 21;
/// Most segments in one discard or zero request.
pub(super) const MAX_SEGMENTS: u32 = 32;

/// Why a request isn't done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The guest is told so.
    IoError,
    /// The guest is told so.
    Unsupported,
    /// The guest isn't told: it is done again when the machine goes on.
    Stopped,
}

// What the host has done, by the drive's policy for what it has failed.
fn judge(drive: &Drive, operation: Operation, outcome: Result<(), Error>) -> Result<(), Refusal> {
    let Err(error) = outcome else { return Ok(()) };
    match drive.failed(operation, &error) {
        Consequence::Reported => Err(Refusal::IoError),
        Consequence::Stopped => Err(Refusal::Stopped),
        Consequence::Ignored => Ok(()),
    }
}

/// Bytes written into the request's data, or why not all were.
type Served = Result<Result<u64, Refusal>, Broken>;

/// What serves requests.
pub(super) struct Server<'a> {
    pub(super) drive: &'a Drive,
    pub(super) serial: &'a [u8; ID_LEN],
    /// The driver knows no flush, so each write is made durable (5.2.6.2).
    pub(super) write_through: bool,
    pub(super) buffer: &'a mut Vec<u8>,
}

impl Server<'_> {
    /// Serves a request whole, or leaves it for later when the machine is to be paused.
    ///
    /// # Errors
    /// When header or status have no room: that request can't be answered.
    pub(super) fn serve(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken> {
        let mut status = chain.writable.split_end(1)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = chain.readable.read_array::<16>()?;
        let offset = u64::from_le_bytes(sector).checked_mul(SECTOR);
        let outcome = match u32::from_le_bytes([t0, t1, t2, t3]) {
            REQUEST_IN => self.read(&mut chain.writable, offset)?,
            REQUEST_OUT => self.write(&mut chain.readable, offset)?,
            REQUEST_FLUSH => self.flush(),
            REQUEST_GET_ID => chain.writable.write(self.serial).map(|written| Ok(written as u64))?,
            kind @ (REQUEST_DISCARD | REQUEST_WRITE_ZEROES) => self.segments(&mut chain.readable, kind)?,
            _ => Err(Refusal::Unsupported),
        };
        let (code, written) = match outcome {
            Ok(written) => (STATUS_OK, written),
            Err(Refusal::IoError) => (STATUS_IO_ERROR, 0),
            Err(Refusal::Unsupported) => (STATUS_UNSUPPORTED, 0),
            Err(Refusal::Stopped) => return Ok(Outcome::Stopped),
        };
        status.write(&[code])?;
        // A chain is shorter than 4 GiB, so this only saturates where nothing was lost.
        Ok(Outcome::Done(u32::try_from(written + 1).unwrap_or(u32::MAX)))
    }

    // Whole sectors within the disk, or an I/O error.
    fn range(&self, offset: Option<u64>, len: u64) -> Result<u64, Refusal> {
        let start = offset.ok_or(Refusal::IoError)?;
        let end = start.checked_add(len).ok_or(Refusal::IoError)?;
        if len.is_multiple_of(SECTOR) && end <= self.drive.disk.len() { Ok(start) } else { Err(Refusal::IoError) }
    }

    fn read(&mut self, data: &mut Segments<'_>, offset: Option<u64>) -> Served {
        let total = data.len();
        let mut at = match self.range(offset, total) {
            Ok(start) => start,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if self.in_place(Operation::Read, data, at) {
            return Ok(Ok(total));
        }
        while !data.is_empty() {
            let buffer = sized(self.buffer, data.len());
            let read = self.drive.disk.read_at(&mut [IoSliceMut::new(buffer)], at);
            if read.is_err() {
                // What an earlier request has left there is not this one's.
                buffer.fill(0);
            }
            if let Err(refusal) = judge(self.drive, Operation::Read, read) {
                return Ok(Err(refusal));
            }
            at += data.write(buffer)? as u64;
        }
        Ok(Ok(total))
    }

    fn write(&mut self, data: &mut Segments<'_>, offset: Option<u64>) -> Served {
        if self.drive.disk.is_read_only() {
            return Ok(Err(Refusal::IoError));
        }
        let mut at = match self.range(offset, data.len()) {
            Ok(start) => start,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if self.drive.detect_zeroes == DetectZeroes::Off && self.in_place(Operation::Write, data, at) {
            return Ok(self.settle());
        }
        while !data.is_empty() {
            let buffer = sized(self.buffer, data.len());
            let len = data.read(buffer)?;
            let written = self.drive.write(buffer, at);
            if let Err(refusal) = judge(self.drive, Operation::Write, written) {
                return Ok(Err(refusal));
            }
            at += len as u64;
        }
        Ok(self.settle())
    }

    // Without a copy, where the image lets it. What goes wrong is left to the way through the buffer, which finds out what.
    fn in_place(&self, operation: Operation, data: &mut Segments<'_>, at: u64) -> bool {
        if data.len() > MOST_IN_PLACE {
            return false;
        }
        let way = if operation == Operation::Read { Way::In } else { Way::Out };
        let place = self.drive.disk.in_place(operation, at, data.len());
        place.is_some_and(|place| data.transfer(way, place.file(), place.offset()))
    }

    fn settle(&self) -> Result<u64, Refusal> {
        if self.write_through { self.flush() } else { Ok(0) }
    }

    fn flush(&self) -> Result<u64, Refusal> {
        judge(self.drive, Operation::Flush, self.drive.flush()).map(|()| 0)
    }

    fn segments(&mut self, data: &mut Segments<'_>, kind: u32) -> Served {
        let count = data.len() / 16;
        if self.drive.disk.is_read_only() || count == 0 || !data.len().is_multiple_of(16) || count > MAX_SEGMENTS.into()
        {
            return Ok(Err(Refusal::IoError));
        }
        // All are looked at before the first is done.
        let mut ranges = Vec::new();
        while !data.is_empty() {
            let segment = data.read_array()?;
            match self.segment(segment, kind) {
                Ok(range) => ranges.push(range),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        for (offset, len, unmap) in ranges {
            let outcome = match kind {
                REQUEST_DISCARD => judge(self.drive, Operation::Discard, self.drive.discard(offset, len)),
                _ => judge(self.drive, Operation::WriteZeroes, self.drive.write_zeroes(offset, len, unmap)),
            };
            if let Err(refusal) = outcome {
                return Ok(Err(refusal));
            }
        }
        Ok(self.settle())
    }

    fn segment(&self, segment: [u8; 16], kind: u32) -> Result<(u64, u64, bool), Refusal> {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = segment;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        // Unknown flags, and unmap on a discard, are for the device to say that it doesn't know (5.2.6.2).
        let known = if kind == REQUEST_WRITE_ZEROES { SEGMENT_UNMAP } else { 0 };
        if flags & !known != 0 {
            return Err(Refusal::Unsupported);
        }
        if sectors > MAX_SECTORS {
            return Err(Refusal::IoError);
        }
        let len = u64::from(sectors) * SECTOR;
        let offset = self.range(sector.checked_mul(SECTOR), len)?;
        Ok((offset, len, flags & SEGMENT_UNMAP != 0))
    }
}

// The buffer, at the length of the next step. It grows to the largest request seen and no further than the bound.
fn sized(buffer: &mut Vec<u8>, wanted: u64) -> &mut [u8] {
    let len = wanted.min(BUFFER as u64) as usize;
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    buffer.get_mut(..len).unwrap_or_default()
}
