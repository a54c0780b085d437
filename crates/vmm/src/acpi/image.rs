//! A set of tables that doesn't know yet where it will stand.
//!
//! Pointers between tables are offsets until [`Image::place`] adds an address and then sums up the tables that hold
//! them. A firmware's table loader does the same with the same lists, which is why they are kept apart from the bytes.

/// A pointer in a table: `width` bytes at `at`, which hold an offset into the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// Where it stands.
    pub at: usize,
    /// Its width in bytes, 4 or 8.
    pub width: usize,
}

/// A checksum: the byte at `at` makes all bytes of a range add up to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum {
    /// First byte of the range.
    pub start: usize,
    /// Length of the range.
    pub len: usize,
    /// The byte itself, inside the range.
    pub at: usize,
}

/// Tables one after the other, with what must be fixed up in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// The bytes; pointers hold offsets, checksums are not right yet.
    pub bytes: Vec<u8>,
    /// All pointers.
    pub pointers: Vec<Pointer>,
    /// All checksums, each after those of the ranges inside its range.
    pub checksums: Vec<Checksum>,
}

impl Image {
    /// Appends bytes at a multiple of `align`. Gives their offset.
    pub fn append(&mut self, align: usize, bytes: &[u8]) -> usize {
        let at = self.bytes.len().next_multiple_of(align.max(1));
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(bytes);
        at
    }

    /// Appends a table with the common header (ACPI 6.5, 5.2.6), whose length and checksum it sets. Gives its offset.
    pub fn append_table(&mut self, table: &[u8]) -> usize {
        let at = self.append(16, table);
        self.put(at + 4, &(table.len() as u32).to_le_bytes());
        self.checksums.push(Checksum { start: at, len: table.len(), at: at + 9 });
        at
    }

    /// Writes a pointer to `target`, an offset.
    pub fn point(&mut self, at: usize, width: usize, target: usize) {
        let bytes = (target as u64).to_le_bytes();
        self.put(at, bytes.get(..width).unwrap_or(&bytes));
        self.pointers.push(Pointer { at, width });
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    /// The bytes as they stand at `base`.
    pub fn place(&self, base: u64) -> Vec<u8> {
        let mut placed = self.clone();
        for pointer in &self.pointers {
            let mut word = [0u8; 8];
            let from = self.bytes.iter().skip(pointer.at).take(pointer.width);
            word.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            let address = (u64::from_le_bytes(word) + base).to_le_bytes();
            placed.put(pointer.at, address.get(..pointer.width).unwrap_or(&address));
        }
        for sum in &self.checksums {
            placed.put(sum.at, &[0]);
            let range = placed.bytes.iter().skip(sum.start).take(sum.len);
            let total = range.fold(0u8, |total, byte| total.wrapping_add(*byte));
            placed.put(sum.at, &[total.wrapping_neg()]);
        }
        placed.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placing_moves_pointers_and_makes_sums_right() {
        let mut image = Image::default();
        let target = image.append_table(&[7; 40]);
        let holder = image.append_table(&[3; 50]);
        image.point(holder + 40, 4, target);
        image.point(holder + 42, 8, holder);
        let bytes = image.place(0xe_0000);
        assert_eq!(holder, 48);
        assert_eq!(bytes[holder + 4..holder + 8], [50, 0, 0, 0]);
        assert_eq!(bytes[holder + 42..holder + 50], (0xe_0000u64 + 48).to_le_bytes());
        for (at, len) in [(target, 40), (holder, 50)] {
            assert_eq!(bytes[at..at + len].iter().fold(0u8, |a, b| a.wrapping_add(*b)), 0);
        }
        assert_ne!(image.place(0x1000), bytes);
    }
}
