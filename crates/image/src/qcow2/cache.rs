//! Pieces of tables (L2 tables, refcount blocks) in memory.
//!
//! What was changed stays until it is written, in the order that its owner keeps; of the rest, what wasn't used lately
//! goes first (the clock algorithm).

use std::collections::{BTreeSet, HashMap};
use std::io;

use crate::storage::{self, Storage};

struct Piece {
    bytes: Box<[u8]>,
    used: bool,
}

/// Pieces of one size, by their offset in the file.
pub struct Cache {
    unit: usize,
    most: usize,
    pieces: HashMap<u64, Piece>,
    order: Vec<u64>,
    hand: usize,
    dirty: BTreeSet<u64>,
}

impl Cache {
    /// A cache of pieces of `unit` bytes, about `most` bytes in all.
    pub fn new(unit: usize, most: usize) -> Self {
        let most = (most / unit).max(4);
        Self { unit, most, pieces: HashMap::new(), order: Vec::new(), hand: 0, dirty: BTreeSet::new() }
    }

    /// Bytes of a piece.
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// Where the piece that holds `offset` begins.
    pub fn floor(&self, offset: u64) -> u64 {
        offset - offset % self.unit as u64
    }

    /// Whether so much is changed that it should be written.
    pub fn is_crowded(&self) -> bool {
        self.dirty.len() >= self.most.div_ceil(2)
    }

    /// Whether anything is changed.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The piece at `offset`, read if need be.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn get(&mut self, storage: &dyn Storage, offset: u64) -> io::Result<&[u8]> {
        self.load(storage, offset)?;
        Ok(self.piece(offset))
    }

    /// The piece at `offset`, to be changed.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn get_mut(&mut self, storage: &dyn Storage, offset: u64) -> io::Result<&mut [u8]> {
        self.load(storage, offset)?;
        self.dirty.insert(offset);
        Ok(self.pieces.get_mut(&offset).map_or(&mut [], |piece| &mut piece.bytes))
    }

    /// Puts a piece in whose contents on the file don't matter.
    pub fn put(&mut self, offset: u64, bytes: Box<[u8]>) {
        debug_assert_eq!(bytes.len(), self.unit);
        if self.pieces.insert(offset, Piece { bytes, used: true }).is_none() {
            self.order.push(offset);
        }
        self.dirty.insert(offset);
    }

    /// Forgets the pieces of a range, changed or not: nobody needs its contents any more.
    pub fn forget(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let mut at = self.floor(offset);
        // A range may be far longer than what is cached of it.
        if (end - at) / self.unit as u64 > self.pieces.len() as u64 {
            let gone: Vec<u64> = self.pieces.keys().copied().filter(|piece| (at..end).contains(piece)).collect();
            gone.iter().for_each(|piece| self.remove(*piece));
            return;
        }
        while at < end {
            self.remove(at);
            at += self.unit as u64;
        }
    }

    fn remove(&mut self, offset: u64) {
        if self.pieces.remove(&offset).is_some() {
            self.order.retain(|piece| *piece != offset);
            self.dirty.remove(&offset);
        }
    }

    /// Writes all that is changed. What failed to be written stays changed.
    ///
    /// # Errors
    /// When the host fails.
    pub fn write(&mut self, storage: &dyn Storage) -> io::Result<()> {
        while let Some(offset) = self.dirty.first().copied() {
            storage::write(storage, self.piece(offset), offset)?;
            self.dirty.remove(&offset);
        }
        Ok(())
    }

    fn piece(&self, offset: u64) -> &[u8] {
        self.pieces.get(&offset).map_or(&[], |piece| &piece.bytes)
    }

    fn load(&mut self, storage: &dyn Storage, offset: u64) -> io::Result<()> {
        if let Some(piece) = self.pieces.get_mut(&offset) {
            piece.used = true;
            return Ok(());
        }
        let mut bytes = self.make_room().unwrap_or_else(|| vec![0; self.unit].into_boxed_slice());
        storage::read(storage, &mut bytes, offset)?;
        self.pieces.insert(offset, Piece { bytes, used: true });
        self.order.push(offset);
        Ok(())
    }

    // Throws an unchanged piece out when there are enough, and gives its memory.
    fn make_room(&mut self) -> Option<Box<[u8]>> {
        if self.pieces.len() < self.most {
            return None;
        }
        for _ in 0..2 * self.order.len() {
            self.hand = if self.hand >= self.order.len() { 0 } else { self.hand };
            let offset = *self.order.get(self.hand)?;
            let piece = self.pieces.get_mut(&offset)?;
            if self.dirty.contains(&offset) || std::mem::take(&mut piece.used) {
                self.hand += 1;
                continue;
            }
            self.order.swap_remove(self.hand);
            return self.pieces.remove(&offset).map(|piece| piece.bytes);
        }
        None
    }
}
