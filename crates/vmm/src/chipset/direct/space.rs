//! Free address ranges, given out from their lowest address up.

/// Ranges from which aligned pieces are taken.
pub(super) struct Space {
    free: Vec<(u64, u64)>,
}

impl Space {
    /// Free ranges as pairs of first address and end, in the order in which they are used.
    pub(super) fn new(ranges: &[(u64, u64)]) -> Self {
        Self { free: ranges.iter().copied().filter(|(base, end)| base < end).collect() }
    }

    fn find(&self, size: u64, align: u64) -> Option<(usize, u64)> {
        self.free.iter().enumerate().find_map(|(index, (base, end))| {
            let at = base.checked_next_multiple_of(align.max(1))?;
            (at.checked_add(size)? <= *end).then_some((index, at))
        })
    }

    /// Whether there is room for a piece.
    pub(super) fn fits(&self, size: u64, align: u64) -> bool {
        self.find(size, align).is_some()
    }

    /// Takes a piece. What alignment skips stays free for smaller ones.
    pub(super) fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        let (index, at) = self.find(size, align)?;
        let (base, end) = self.free.remove(index);
        let rest = [(base, at), (at + size, end)];
        for (offset, piece) in rest.into_iter().filter(|(base, end)| base < end).enumerate() {
            self.free.insert(index + offset, piece);
        }
        Some(at)
    }
}

/// The three kinds of address space that BARs take.
pub(super) struct Pools {
    pub(super) io: Space,
    pub(super) low: Space,
    pub(super) high: Space,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned_and_holes_are_used() {
        let mut space = Space::new(&[(0x1100, 0x4000), (0x9000, 0xa000)]);
        assert_eq!(space.take(0x1000, 0x1000), Some(0x2000));
        assert_eq!(space.take(0x100, 0x100), Some(0x1100));
        assert_eq!(space.take(0x1000, 0x1000), Some(0x3000));
        assert_eq!(space.take(0x1000, 0x1000), Some(0x9000));
        assert!(!space.fits(0x1000, 0x1000));
        assert_eq!(space.take(0x100, 0x100), Some(0x1200));
        assert_eq!(space.take(u64::MAX, 1), None);
    }
}
