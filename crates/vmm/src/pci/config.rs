//! Configuration space of one function: bytes, and what software may do to each bit of them.
//!
//! Each bit is read-only, writable, cleared by writing a one, or changed by the hardware. What a changed register
//! brings about is the function's business, not this module's. PCI Local Bus 3.0, chapter 6.

use serde::{Deserialize, Serialize};

use super::bar::{Bar, BarKind};
use super::bits::*;
use crate::device::StateError;

/// What a function says it is (PCI 6.2.1, 6.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, in this order.
    pub class: [u8; 3],
    /// Subsystem vendor id; a bridge has none.
    pub subsystem_vendor: u16,
    /// Subsystem id; a bridge has none.
    pub subsystem: u16,
}

#[derive(Debug, Clone, Copy, Default)]
struct Byte {
    value: u8,
    reset: u8,
    writable: u8,
    clears: u8,
    hardware: u8,
}

/// A function's configuration space. Offsets past its end read zero and take no write.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: Vec<Byte>,
    bars: Vec<Bar>,
    free: usize,
    link: usize,
}

/// The registers that differ from their reset values: pairs of dword offset and value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState(Vec<(u16, u32)>);

impl ConfigSpace {
    /// A type 0 header.
    pub fn endpoint(identity: &Identity) -> Self {
        let mut config = Self::header(identity, 0);
        config.init(SUBSYSTEM_VENDOR_ID, &identity.subsystem_vendor.to_le_bytes());
        config.init(SUBSYSTEM_ID, &identity.subsystem.to_le_bytes());
        config
    }

    /// A type 1 header: bus numbers, windows and bridge control as P2P 3.2 has them, windows closed.
    pub fn bridge(identity: &Identity) -> Self {
        let mut config = Self::header(identity, HEADER_TYPE_BRIDGE);
        config.allow(PRIMARY_BUS, &[0xff; 3]);
        config.init(IO_BASE, &[IO_WINDOW_32BIT; 2]);
        config.allow(IO_BASE, &[0xf0; 2]);
        config.clears(SECONDARY_STATUS, &STATUS_ERRORS.to_le_bytes());
        for offset in [MEMORY_BASE, MEMORY_LIMIT, PREFETCH_BASE, PREFETCH_LIMIT] {
            config.allow(offset, &0xfff0u16.to_le_bytes());
        }
        config.init(PREFETCH_BASE, &PREFETCH_WINDOW_64BIT.to_le_bytes());
        config.init(PREFETCH_LIMIT, &PREFETCH_WINDOW_64BIT.to_le_bytes());
        config.allow(PREFETCH_BASE_UPPER, &[0xff; 12]);
        let control = BRIDGE_CONTROL_PARITY
            | BRIDGE_CONTROL_SERR
            | BRIDGE_CONTROL_ISA
            | BRIDGE_CONTROL_VGA
            | BRIDGE_CONTROL_VGA16
            | BRIDGE_CONTROL_RESET;
        config.allow(BRIDGE_CONTROL, &control.to_le_bytes());
        config
    }

    fn header(identity: &Identity, header_type: u8) -> Self {
        let mut config =
            Self { bytes: vec![Byte::default(); CONVENTIONAL_SIZE], bars: Vec::new(), free: HEADER_END, link: 0 };
        config.init(VENDOR_ID, &identity.vendor.to_le_bytes());
        config.init(DEVICE_ID, &identity.device.to_le_bytes());
        config.init(REVISION_ID, &[identity.revision]);
        let [class, subclass, interface] = identity.class;
        config.init(CLASS_CODE, &[interface, subclass, class]);
        config.init(HEADER_TYPE, &[header_type]);
        let command =
            COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_PARITY | COMMAND_SERR | COMMAND_INTX_DISABLE;
        config.allow(COMMAND, &command.to_le_bytes());
        config.clears(STATUS, &STATUS_ERRORS.to_le_bytes());
        config.allow(CACHE_LINE_SIZE, &[0xff]);
        config.allow(INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Gives the function its extended space (PCIe 7.2.2), with no extended capability in it.
    pub fn extend(&mut self) {
        self.bytes.resize(EXTENDED_SIZE, Byte::default());
    }

    /// Sets value and reset value of registers while the function is built.
    pub fn init(&mut self, offset: usize, values: &[u8]) {
        for (byte, value) in self.range(offset, values.len()).zip(values) {
            byte.value = *value;
            byte.reset = *value;
        }
    }

    /// Makes bits writable.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (byte, mask) in self.range(offset, mask.len()).zip(mask) {
            byte.writable |= mask;
        }
    }

    /// Makes bits read-only again, for a function whose header is more fixed than the standard's.
    pub fn forbid(&mut self, offset: usize, mask: &[u8]) {
        for (byte, mask) in self.range(offset, mask.len()).zip(mask) {
            byte.writable &= !mask;
        }
    }

    /// Makes bits ones that software clears by writing a one and only the hardware sets.
    pub fn clears(&mut self, offset: usize, mask: &[u8]) {
        for (byte, mask) in self.range(offset, mask.len()).zip(mask) {
            byte.clears |= mask;
        }
    }

    /// Makes bits ones that only the hardware changes.
    pub fn hardware(&mut self, offset: usize, mask: &[u8]) {
        for (byte, mask) in self.range(offset, mask.len()).zip(mask) {
            byte.hardware |= mask;
        }
    }

    /// The hardware sets the masked bits of a 16-bit register.
    pub fn update16(&mut self, offset: usize, mask: u16, value: u16) {
        let (mask, value) = (mask.to_le_bytes(), value.to_le_bytes());
        for ((byte, mask), value) in self.range(offset, 2).zip(mask).zip(value) {
            byte.value = byte.value & !mask | value & mask;
        }
    }

    fn range(&mut self, offset: usize, len: usize) -> impl Iterator<Item = &mut Byte> {
        self.bytes.iter_mut().skip(offset).take(len)
    }

    /// Adds a capability after the ones there are (PCI 6.7). `body` is all but the id and the link.
    ///
    /// Returns its offset. A function's capabilities are written down in the source and fit in 192 bytes.
    ///
    /// # Panics
    /// When they don't fit.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.free;
        let end = at + 2 + body.len();
        assert!(end <= CONVENTIONAL_SIZE, "a function's capabilities fit into its configuration space");
        self.init(at, &[id, 0]);
        self.init(at + 2, body);
        if self.link == 0 {
            self.init(CAPABILITIES_POINTER, &[at as u8]);
            let status = self.u16(STATUS) | STATUS_CAPABILITIES;
            self.init(STATUS, &status.to_le_bytes());
        } else {
            self.init(self.link + 1, &[at as u8]);
        }
        self.link = at;
        self.free = end.next_multiple_of(4);
        at
    }

    /// Adds a base address register (PCI 6.2.5).
    ///
    /// # Panics
    /// When its size is no power of two, is too small, or its slot is taken: BARs are written down in the source.
    pub fn add_bar(&mut self, bar: Bar) {
        assert!(bar.size.is_power_of_two() && bar.size >= 16, "a BAR's size is a power of two of at least 16 bytes");
        assert!(self.bars.iter().all(|other| !other.overlaps(&bar)) && bar.last_slot() < 6, "a BAR has its own slots");
        let offset = bar.offset();
        self.init(offset, &bar.flags().to_le_bytes());
        let mask = !(bar.size - 1);
        self.allow(offset, &(mask as u32).to_le_bytes());
        if bar.kind == BarKind::Memory64 {
            self.allow(offset + 4, &((mask >> 32) as u32).to_le_bytes());
        }
        self.bars.push(bar);
    }

    /// The base address registers.
    pub fn bars(&self) -> &[Bar] {
        &self.bars
    }

    /// Where a BAR points, whether or not the function decodes it.
    pub fn bar_base(&self, bar: &Bar) -> u64 {
        let low = u64::from(self.u32(bar.offset()));
        let base = match bar.kind {
            BarKind::Memory64 => low | u64::from(self.u32(bar.offset() + 4)) << 32,
            BarKind::Memory32 | BarKind::Io => low,
        };
        base & !(bar.size - 1)
    }

    /// Reads as software does.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (i, out) in data.iter_mut().enumerate() {
            *out = offset.checked_add(i).and_then(|at| self.bytes.get(at)).map_or(0, |byte| byte.value);
        }
    }

    /// Writes as software does. Says whether anything changed.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> bool {
        let mut changed = false;
        for (byte, new) in self.range(offset, data.len()).zip(data) {
            let value = (byte.value & !byte.writable | new & byte.writable) & !(new & byte.clears);
            changed |= value != byte.value;
            byte.value = value;
        }
        changed
    }

    /// An 8-bit register.
    pub fn u8(&self, offset: usize) -> u8 {
        self.bytes.get(offset).map_or(0, |byte| byte.value)
    }

    /// A 16-bit register.
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.u8(offset), self.u8(offset + 1)])
    }

    /// A 32-bit register.
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    /// All registers back to their reset values.
    pub fn reset(&mut self) {
        for byte in &mut self.bytes {
            byte.value = byte.reset;
        }
    }

    /// What differs from the reset values.
    pub fn save(&self) -> ConfigState {
        let dwords = self.bytes.chunks(4).enumerate().filter(|(_, chunk)| chunk.iter().any(|b| b.value != b.reset));
        ConfigState(dwords.map(|(i, _)| ((i * 4) as u16, self.u32(i * 4))).collect())
    }

    /// Takes over saved values.
    ///
    /// # Errors
    /// When a bit that nothing can change is other than here; nothing has changed then but to reset values.
    pub fn restore(&mut self, state: &ConfigState) -> Result<(), StateError> {
        self.reset();
        for (offset, value) in &state.0 {
            let wrong = || StateError::Impossible(format!("configuration register {offset:#x} is {value:#x}"));
            let offset = usize::from(*offset);
            if offset % 4 != 0 || offset >= self.bytes.len() {
                return Err(wrong());
            }
            for (byte, new) in self.range(offset, 4).zip(value.to_le_bytes()) {
                if (byte.value ^ new) & !(byte.writable | byte.clears | byte.hardware) != 0 {
                    return Err(wrong());
                }
                byte.value = new;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ConfigSpace {
        let mut config = ConfigSpace::endpoint(&Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: [1, 0, 0],
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.add_bar(Bar::memory64(0, 0x4000, true));
        config.add_bar(Bar::memory32(2, 0x1000));
        config.add_bar(Bar::io(3, 0x20));
        config
    }

    #[test]
    fn the_header_reads_as_built() {
        let mut head = [0; 16];
        sample().read(0, &mut head);
        assert_eq!(head, [0xf4, 0x1a, 0x42, 0x10, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn bars_answer_the_sizing_sequence() {
        let mut config = sample();
        config.write(0x10, &[0xff; 20]);
        assert_eq!(config.u32(0x10), 0xffff_c00c);
        assert_eq!(config.u32(0x14), 0xffff_ffff);
        assert_eq!(config.u32(0x18), 0xffff_f000);
        assert_eq!(config.u32(0x1c), 0xffff_ffe1);
        assert_eq!(config.u32(0x20), 0);
        config.write(0x10, &0xdead_beef_1234_5678u64.to_le_bytes());
        assert_eq!(config.bar_base(&Bar::memory64(0, 0x4000, true)), 0xdead_beef_1234_4000);
    }

    #[test]
    fn read_only_bits_stay_and_ones_clear_what_they_should() {
        let mut config = sample();
        assert!(!config.write(0, &[0xff; 4]));
        assert_eq!(config.u32(0), 0x1042_1af4);
        config.update16(STATUS, STATUS_ERRORS, 0x8800);
        assert!(config.write(STATUS, &[0, 0x08]));
        assert_eq!(config.u16(STATUS), 0x8000);
        assert!(!config.write(STATUS, &[0, 0]));
    }

    #[test]
    fn capabilities_are_linked_in_order() {
        let mut config = sample();
        assert_eq!(config.u16(STATUS) & STATUS_CAPABILITIES, 0);
        let first = config.add_capability(CAPABILITY_VENDOR, &[0; 5]);
        let second = config.add_capability(CAPABILITY_MSIX, &[0; 10]);
        assert_eq!((first, second), (0x40, 0x48));
        assert_eq!(config.u8(CAPABILITIES_POINTER), 0x40);
        assert_eq!((config.u8(0x41), config.u8(0x49)), (0x48, 0));
        assert_ne!(config.u16(STATUS) & STATUS_CAPABILITIES, 0);
    }

    #[test]
    fn accesses_past_the_end_read_zero() {
        let mut config = sample();
        let mut data = [7; 8];
        config.read(0xfc, &mut data);
        assert_eq!(data[4..], [0; 4]);
        config.read(usize::MAX - 1, &mut data);
        assert_eq!(data, [0; 8]);
        assert!(!config.write(0x100, &[1; 8]));
        config.extend();
        config.allow(0x100, &[0xff]);
        assert!(config.write(0x100, &[1; 8]));
    }

    #[test]
    fn a_saved_space_comes_back_and_an_impossible_one_does_not() {
        let mut config = sample();
        config.write(COMMAND, &[7, 4]);
        config.write(0x10, &[0, 0x40, 0, 0xe0]);
        let state = config.save();
        let mut other = sample();
        other.restore(&state).unwrap();
        assert_eq!(other.save(), state);
        assert_eq!(other.u16(COMMAND), 0x407);
        assert!(other.restore(&ConfigState(vec![(0, 0x1234_5678)])).is_err());
        assert!(other.restore(&ConfigState(vec![(0x1000, 0)])).is_err());
        assert!(other.restore(&ConfigState(vec![(2, 0)])).is_err());
    }
}
