//! The memory map that a direct boot hands to the kernel (e820).
//!
//! What isn't listed is free for devices. ECAM must be reserved here, or Linux doesn't use it.

use crate::memory::layout::{ABOVE_4G, ECAM, ECAM_LEN, HIGH_RAM, RamSplit, TABLES, VGA_HOLE};

/// Kind of a memory range; the numbers are ACPI's (6.5, 15.4) and PVH's alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Memory for the system.
    Ram = 1,
    /// Hands off.
    Reserved = 2,
}

/// A range of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: Kind,
}

/// The map of a machine with the given RAM.
pub fn of(ram: RamSplit) -> Vec<Entry> {
    let entry = |base: u64, end: u64, kind| Entry { base, len: end - base, kind };
    let mut map = vec![entry(0, VGA_HOLE.min(ram.below_4g), Kind::Ram)];
    if ram.below_4g > TABLES {
        map.push(entry(TABLES, HIGH_RAM.min(ram.below_4g), Kind::Reserved));
    }
    if ram.below_4g > HIGH_RAM {
        map.push(entry(HIGH_RAM, ram.below_4g, Kind::Ram));
    }
    map.push(entry(ECAM, ECAM + ECAM_LEN, Kind::Reserved));
    if ram.above_4g > 0 {
        map.push(entry(ABOVE_4G, ABOVE_4G + ram.above_4g, Kind::Ram));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_sorted_and_holds_all_ram_but_the_first_megabytes_end() {
        for total in [1u64 << 20, 128 << 20, 2 << 30, 6 << 30] {
            let map = of(RamSplit::of(total));
            for pair in map.windows(2) {
                assert!(pair[0].base + pair[0].len <= pair[1].base, "{map:x?}");
            }
            let ram: u64 = map.iter().filter(|e| e.kind == Kind::Ram).map(|e| e.len).sum();
            assert_eq!(ram, total - (HIGH_RAM - VGA_HOLE));
            assert!(map.contains(&Entry { base: ECAM, len: ECAM_LEN, kind: Kind::Reserved }));
        }
    }
}
