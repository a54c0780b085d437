//! A descriptor chain as a driver meant it: bytes to read, then bytes to write (VIRTIO 1.2, 2.7.4).
//!
//! How the driver cut these bytes into descriptors has no meaning (2.7.4.1) and is not to be seen from here on.

use std::fs::File;

use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestRam;
use crate::memory::transfer::{Way, transfer};

/// What a driver did that it must not do. The ring can't be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The available index is further ahead than the ring is long, or can't be read.
    #[error("the available ring is broken")]
    AvailableRing,
    /// The used ring can't be written.
    #[error("the used ring is broken")]
    UsedRing,
    /// The chain loops, leaves its table, is empty, or is longer than 4 GiB.
    #[error("a descriptor chain is broken")]
    Chain,
    /// A writable descriptor stands before a readable one.
    #[error("a descriptor chain has a readable part after a writable one")]
    Order,
    /// A descriptor points outside of memory.
    #[error("a descriptor points outside of memory")]
    Memory,
    /// The chain is too short for what its type demands.
    #[error("a request is too short")]
    Short,
}

/// A run of guest bytes in pieces, used up from the front.
pub struct Segments<'m> {
    memory: &'m GuestRam,
    pieces: std::collections::VecDeque<(GuestAddress, u32)>,
    len: u64,
}

impl<'m> Segments<'m> {
    pub(super) fn new(memory: &'m GuestRam) -> Self {
        Self { memory, pieces: Default::default(), len: 0 }
    }

    pub(super) fn push(&mut self, address: GuestAddress, len: u32) {
        if len > 0 {
            self.pieces.push_back((address, len));
            self.len += u64::from(len);
        }
    }

    fn extend(&mut self, other: Segments<'m>) {
        self.pieces.extend(other.pieces);
        self.len += other.len;
    }

    /// Bytes left.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops bytes from the front; all of them when there are fewer.
    pub fn skip(&mut self, mut count: u64) {
        while count > 0 {
            let Some(part) = self.front(count) else { return };
            count -= part.1 as u64;
        }
    }

    /// Moves all bytes to or from a file at once, and uses them up. Says whether that was possible; if not, they are there
    /// still, and some may have been moved.
    pub fn transfer(&mut self, way: Way, file: &File, offset: u64) -> bool {
        let pieces = self.pieces.iter().map(|(address, len)| (*address, *len as usize));
        let moved = transfer(way, self.memory, pieces, file, offset);
        let is_whole = moved.is_ok_and(|moved| moved as u64 == self.len);
        if is_whole {
            self.pieces.clear();
            self.len = 0;
        }
        is_whole
    }

    // The first piece, at most `limit` bytes of it, which are used up.
    fn front(&mut self, limit: u64) -> Option<(GuestAddress, usize)> {
        let (address, len) = self.pieces.front_mut()?;
        let taken = u64::from(*len).min(limit) as u32;
        let start = *address;
        // A piece that wraps is caught by the access itself, which sees the whole of it.
        *address = GuestAddress(address.0.wrapping_add(u64::from(taken)));
        *len -= taken;
        if *len == 0 {
            self.pieces.pop_front();
        }
        self.len -= u64::from(taken);
        Some((start, taken as usize))
    }

    /// Copies the next bytes out of guest memory and says how many: fewer than asked only at the end.
    ///
    /// # Errors
    /// When a piece is not in memory.
    pub fn read(&mut self, data: &mut [u8]) -> Result<usize, Broken> {
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some((address, len)) = self.front(rest.len() as u64) else { break };
            let part = rest.get_mut(..len).ok_or(Broken::Memory)?;
            self.memory.read_slice(part, address).map_err(|_| Broken::Memory)?;
            done += len;
        }
        Ok(done)
    }

    /// Copies bytes into guest memory and says how many: fewer than given only at the end.
    ///
    /// # Errors
    /// When a piece is not in memory.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Broken> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let Some((address, len)) = self.front(rest.len() as u64) else { break };
            let part = rest.get(..len).ok_or(Broken::Memory)?;
            self.memory.write_slice(part, address).map_err(|_| Broken::Memory)?;
            done += len;
        }
        Ok(done)
    }

    /// Reads exactly as many bytes as the array has.
    ///
    /// # Errors
    /// When fewer are left or a piece is not in memory.
    pub fn read_array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut data = [0; N];
        if self.read(&mut data)? == N { Ok(data) } else { Err(Broken::Short) }
    }

    /// Takes the last `count` bytes off.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn split_end(&mut self, count: u64) -> Result<Segments<'m>, Broken> {
        let mut end = Segments::new(self.memory);
        let mut keep = self.len.checked_sub(count).ok_or(Broken::Short)?;
        let mut kept = Segments::new(self.memory);
        for (address, len) in self.pieces.drain(..) {
            let here = keep.min(u64::from(len)) as u32;
            kept.push(address, here);
            end.push(GuestAddress(address.0.wrapping_add(u64::from(here))), len - here);
            keep -= u64::from(here);
        }
        *self = kept;
        Ok(end)
    }
}

/// A chain taken from a ring, or several joined to one.
pub struct Chain<'m> {
    pub(super) heads: Heads,
    /// What the driver sends.
    pub readable: Segments<'m>,
    /// Room for what the device answers.
    pub writable: Segments<'m>,
}

impl Chain<'_> {
    /// How many of the driver's chains the first so many written bytes take, at least 1.
    pub fn buffers_for(&self, len: u64) -> u16 {
        self.heads.shares(len).count() as u16
    }
}

/// Heads of joined chains, each with its chain's bytes to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heads {
    first: (u16, u64),
    more: Vec<(u16, u64)>,
}

impl Heads {
    pub(super) fn new(head: u16, room: u64) -> Self {
        Self { first: (head, room), more: Vec::new() }
    }

    pub(super) fn count(&self) -> u16 {
        1 + self.more.len() as u16
    }

    /// Heads of the chains that `written` bytes have gone to, with each one's share: full but for the last.
    pub(super) fn shares(&self, written: u64) -> impl Iterator<Item = (u16, u32)> {
        let mut left = written;
        let mut is_first = true;
        std::iter::once(&self.first).chain(&self.more).map_while(move |(head, room)| {
            (left > 0 || std::mem::take(&mut is_first)).then(|| {
                is_first = false;
                let share = left.min(*room);
                left -= share;
                (*head, share as u32)
            })
        })
    }
}

impl<'m> Chain<'m> {
    /// Puts another chain behind this one, of which nothing is to be read.
    pub(super) fn join(&mut self, other: Chain<'m>) {
        self.writable.extend(other.writable);
        self.heads.more.push(other.heads.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x2000), 0x1000)]).unwrap()
    }

    #[test]
    fn pieces_read_and_write_as_one_run() {
        let memory = memory();
        let pieces = |memory| {
            let mut run = Segments::new(memory);
            run.push(GuestAddress(0x10), 3);
            run.push(GuestAddress(0x20), 0);
            run.push(GuestAddress(0x2000), 4);
            run
        };
        let mut run = pieces(&memory);
        assert_eq!((run.write(b"abcd"), run.len()), (Ok(4), 3));
        assert_eq!((run.write(b"efghij"), run.len()), (Ok(3), 0));
        let mut run = pieces(&memory);
        run.skip(2);
        let mut end = run.split_end(2).unwrap();
        let mut data = [0; 9];
        assert_eq!(run.read(&mut data), Ok(3));
        assert_eq!(&data[..3], b"cde");
        assert_eq!(end.read_array(), Ok(*b"fg"));
        assert_eq!(end.read_array::<1>(), Err(Broken::Short));
        assert!(run.split_end(1).is_err());
    }

    #[test]
    fn a_piece_outside_of_memory_is_found() {
        let memory = memory();
        for (address, len) in [(0xfff, 2), (0x1000, 1), (u64::MAX, 2), (0x2fff, 0xffff_ffff)] {
            let mut run = Segments::new(&memory);
            run.push(GuestAddress(address), len);
            assert_eq!(run.read(&mut [0; 2]), Err(Broken::Memory), "{address:#x}+{len:#x}");
        }
    }
}
