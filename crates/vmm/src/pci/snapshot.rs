//! What ACPI must say about the host bridge, read off the registers as they stand.

use super::bar::{Region, RegionKind, Space};
use super::bridge::Forwarding;
use super::{Bdf, PciSnapshot, Place, RootPort, Window};

/// End of the 32-bit windows: the I/O APIC and what lies above it belong to the board.
pub const LOW_WINDOWS_END: u64 = 0xfec0_0000;
const FOUR_GIB: u64 = 1 << 32;
/// The 64-bit window grows in these steps, so that a device plugged later has room beside the others.
const HIGH_WINDOW_STEP: u64 = 1 << 30;

fn window(base: u64, end: u64) -> Option<Window> {
    end.checked_sub(base).filter(|len| *len > 0).map(|len| Window { base, len })
}

fn high_window(ranges: impl Iterator<Item = (u64, u64)>) -> Option<Window> {
    let high = ranges.filter(|(base, _)| *base >= FOUR_GIB);
    let (base, last) = high.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
    let end = last.checked_add(1)?.checked_next_multiple_of(HIGH_WINDOW_STEP)?;
    window(base - base % HIGH_WINDOW_STEP, end)
}

pub(super) fn take(regions: &[Region], bridges: &[(Place, Forwarding)], low_memory_end: u64) -> PciSnapshot {
    let find = |kind| regions.iter().find(|region| region.kind == kind);
    let ecam = find(RegionKind::Ecam).map(|region| Window { base: region.base, len: region.len });
    // An ECAM above 4 GiB or below the end of RAM cuts nothing out of the low windows.
    let hole = ecam.filter(|ecam| ecam.base >= low_memory_end && ecam.base < LOW_WINDOWS_END);
    let below = window(low_memory_end, hole.map_or(LOW_WINDOWS_END, |ecam| ecam.base));
    let above = hole.and_then(|ecam| window(ecam.base.saturating_add(ecam.len), LOW_WINDOWS_END));
    let bars =
        regions.iter().filter(|region| region.space == Space::Memory && matches!(region.kind, RegionKind::Bar(_)));
    let bars = bars.filter_map(|region| Some((region.base, region.last()?)));
    let prefetch = bridges.iter().filter_map(|(_, bridge)| bridge.prefetch);
    PciSnapshot {
        ecam,
        windows: [below, above, high_window(bars.chain(prefetch))].into_iter().flatten().collect(),
        root_ports: bridges
            .iter()
            .map(|(place, bridge)| RootPort {
                at: Bdf { bus: 0, device: place.device, function: place.function },
                secondary: bridge.secondary,
                slot: bridge.slot,
            })
            .collect(),
        pm_base: find(RegionKind::PowerManagement).and_then(|region| u16::try_from(region.base).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ecam(base: u64) -> Region {
        Region { kind: RegionKind::Ecam, space: Space::Memory, base, len: 0x1000_0000 }
    }
    fn bar(base: u64, len: u64) -> Region {
        Region { kind: RegionKind::Bar(0), space: Space::Memory, base, len }
    }

    #[test]
    fn windows_stand_around_ecam_and_bars() {
        let snapshot = take(&[ecam(0xb000_0000), bar(0x8_0000_4000, 0x4000)], &[], 0x8000_0000);
        assert_eq!(
            snapshot.windows,
            [
                Window { base: 0x8000_0000, len: 0x3000_0000 },
                Window { base: 0xc000_0000, len: 0x3ec0_0000 },
                Window { base: 0x8_0000_0000, len: 0x4000_0000 },
            ]
        );
        assert_eq!(snapshot.ecam, Some(Window { base: 0xb000_0000, len: 0x1000_0000 }));
    }

    #[test]
    fn without_ecam_there_is_one_low_window() {
        let snapshot = take(&[bar(0xe000_0000, 0x1000)], &[], 0x4000_0000);
        assert_eq!(snapshot.windows, [Window { base: 0x4000_0000, len: 0xbec0_0000 }]);
    }

    #[test]
    fn an_ecam_just_above_ram_or_at_odd_places_makes_no_empty_window() {
        assert_eq!(take(&[ecam(0xb000_0000)], &[], 0xb000_0000).windows.len(), 1);
        assert_eq!(take(&[ecam(0x10_0000_0000)], &[], 0x8000_0000).windows.len(), 1);
        assert_eq!(take(&[ecam(u64::MAX - 0xfff_ffff)], &[], 0x8000_0000).windows.len(), 1);
    }
}
