//! Where things stand in guest-physical memory: one table, from which everything else takes its numbers.
//!
//! It is the q35's map as firmware and kernels expect it (Intel 3 Series Express Chipset datasheet, 4.2; I/O
//! Controller Hub 9 datasheet, 6.4). Ranges that software places itself (BARs, PCIEXBAR) are not in here, only the
//! room they have; ECAM stands where direct boots put it.

use std::fmt::Write;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// First address of the legacy VGA window, where RAM has a hole.
pub const VGA_HOLE: u64 = 0xa_0000;
/// First address of the option ROM and system BIOS area, which is RAM on a direct boot.
pub const BIOS_AREA: u64 = 0xc_0000;
/// First address of the segment in which the tables for a direct boot stand.
pub const TABLES: u64 = 0xe_0000;
/// First address of extended memory.
pub const HIGH_RAM: u64 = MIB;
/// RAM below 4 GiB never reaches this address.
pub const LOW_RAM_LIMIT: u64 = 0xb000_0000;
/// RAM below 4 GiB ends here when the machine has [`LOW_RAM_LIMIT`] bytes or more.
pub const LOW_RAM_OF_LARGE: u64 = 2 * GIB;
/// ECAM (the memory-mapped configuration space) on direct boots.
pub const ECAM: u64 = 0xb000_0000;
/// Length of ECAM: 256 buses.
pub const ECAM_LEN: u64 = 256 * MIB;
/// End of the 32-bit windows in which devices may decode.
pub const DEVICES_END: u64 = IOAPIC;
/// The I/O APIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The HPET's place; this machine has none.
pub const HPET: u64 = 0xfed0_0000;
/// The local APICs and the addresses of messages.
pub const LAPIC: u64 = 0xfee0_0000;
/// Page that VMX needs for guests in real mode (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const IDENTITY_MAP: u64 = 0xfeff_c000;
/// Three pages that VMX needs for guests in real mode (`KVM_SET_TSS_ADDR`).
pub const TSS: u64 = 0xfeff_d000;
/// The top 16 MiB below 4 GiB belong to firmware.
pub const FIRMWARE: u64 = 0xff00_0000;
/// Where the rest of RAM begins.
pub const ABOVE_4G: u64 = 4 * GIB;

/// A range of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub first: u64,
    /// Last address; `u64::MAX` where the processor's physical width ends it.
    pub last: u64,
    /// What stands there.
    pub what: &'static str,
}

/// All ranges, in order, without gap or overlap.
pub const RANGES: &[Range] = &[
    range(0, VGA_HOLE, "RAM"),
    range(VGA_HOLE, BIOS_AREA, "legacy VGA window; no RAM if the machine has a display"),
    range(BIOS_AREA, TABLES, "RAM where option ROMs go"),
    range(TABLES, HIGH_RAM, "RAM; on a direct boot SMBIOS and ACPI tables"),
    range(HIGH_RAM, LOW_RAM_LIMIT, "RAM, up to 2 GiB if the machine has 2.75 GiB or more; devices in what is left"),
    range(ECAM, ECAM + ECAM_LEN, "ECAM on direct boots (elsewhere by PCIEXBAR: devices)"),
    range(ECAM + ECAM_LEN, IOAPIC, "devices (32-bit window)"),
    range(IOAPIC, IOAPIC + PAGE, "I/O APIC"),
    range(IOAPIC + PAGE, HPET, "chipset, nothing there"),
    range(HPET, HPET + PAGE, "HPET's place, nothing there"),
    range(HPET + PAGE, LAPIC, "chipset, nothing there"),
    range(LAPIC, LAPIC + MIB, "local APICs, interrupt messages"),
    range(LAPIC + MIB, IDENTITY_MAP, "nothing"),
    range(IDENTITY_MAP, TSS, "KVM's identity-map page"),
    range(TSS, TSS + 3 * PAGE, "KVM's task state segment"),
    range(TSS + 3 * PAGE, ABOVE_4G, "firmware"),
    Range { first: ABOVE_4G, last: u64::MAX, what: "the rest of RAM, then devices (64-bit window)" },
];

const fn range(first: u64, end: u64, what: &'static str) -> Range {
    Range { first, last: end - 1, what }
}

/// The table as markdown, for `docs/architecture.md`.
pub fn markdown() -> String {
    let mut text = String::from("| first | last | what |\n|---|---|---|\n");
    for range in RANGES {
        let last = if range.last == u64::MAX { "end".into() } else { format!("{:#x}", range.last) };
        // Writing to a String can't fail.
        let _ = writeln!(text, "| {:#x} | {last} | {} |", range.first, range.what);
    }
    text
}

/// How a machine's RAM is split around the hole below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamSplit {
    /// Bytes from address 0 on, the hole of the VGA window included.
    pub below_4g: u64,
    /// Bytes from [`ABOVE_4G`] on.
    pub above_4g: u64,
}

impl RamSplit {
    /// The split of `total` bytes.
    pub fn of(total: u64) -> Self {
        let below_4g = if total < LOW_RAM_LIMIT { total } else { LOW_RAM_OF_LARGE };
        Self { below_4g, above_4g: total - below_4g }
    }

    /// First address past all RAM.
    pub fn end(&self) -> u64 {
        if self.above_4g == 0 { self.below_4g } else { ABOVE_4G + self.above_4g }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_covers_everything_once() {
        assert_eq!(RANGES[0].first, 0);
        for pair in RANGES.windows(2) {
            assert_eq!(pair[0].last + 1, pair[1].first, "{pair:x?}");
            assert!(pair[0].first <= pair[0].last);
        }
        assert_eq!(RANGES[RANGES.len() - 1].last, u64::MAX);
    }

    #[test]
    fn ram_never_reaches_ecam_and_is_never_lost() {
        let limit = LOW_RAM_LIMIT;
        for (total, below) in [
            (128 * MIB, 128 * MIB),
            (2 * GIB, 2 * GIB),
            (limit - PAGE, limit - PAGE),
            (limit, 2 * GIB),
            (6 * GIB, 2 * GIB),
        ] {
            let split = RamSplit::of(total);
            assert_eq!(split.below_4g, below);
            assert_eq!(split.below_4g + split.above_4g, total);
            assert!(split.below_4g <= ECAM);
        }
        assert_eq!(RamSplit::of(6 * GIB).end(), 8 * GIB);
        assert_eq!(RamSplit::of(GIB).end(), GIB);
    }

    #[test]
    fn the_markdown_has_a_row_per_range() {
        let text = markdown();
        assert_eq!(text.lines().count(), RANGES.len() + 2);
        assert!(text.contains("| 0xfec00000 | 0xfec00fff | I/O APIC |"), "{text}");
        assert!(text.ends_with("| 0x100000000 | end | the rest of RAM, then devices (64-bit window) |\n"));
    }
}
