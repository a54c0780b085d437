//! The memory controller's host bridge, 8086:29c0 at 00:00.0 (MCH 5.1).
//!
//! It places ECAM. Its PAM and SMRAM registers keep what is written; what they do to memory comes with firmware.

use std::sync::Arc;

use super::bits::*;
use crate::bus::BusDevice;
use crate::device::{Device, Saved, StateError};
use crate::pci::bar::{Region, RegionKind, Space};
use crate::pci::bits::COMMAND;
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::function::{Effect, Endpoint};
use crate::pci::intx::Intx;
use crate::pci::msix::Msix;
use crate::pci::{PciFunction, Place};

const KIND: &str = "mch";
const VERSION: u32 = 1;
const IDENTITY: Identity = Identity {
    vendor: 0x8086,
    device: 0x29c0,
    revision: 0x02,
    class: [0x06, 0x00, 0x00],
    subsystem_vendor: SUBSYSTEM_VENDOR,
    subsystem: SUBSYSTEM,
};
/// Memory space and bus master are always on (MCH 5.1.3).
const COMMAND_RESET: u16 = 0x0006;
const COMMAND_FIXED: u16 = 0x0007;

/// The host bridge.
pub struct Mch {
    endpoint: Endpoint,
    ecam: Arc<dyn BusDevice>,
}

impl Mch {
    /// Where it is plugged.
    pub fn place() -> Place {
        Place::root(MCH_DEVICE, 0)
    }

    /// A host bridge that places `ecam`.
    pub fn new(ecam: Arc<dyn BusDevice>) -> Arc<Self> {
        let mut config = ConfigSpace::endpoint(&IDENTITY);
        config.init(COMMAND, &COMMAND_RESET.to_le_bytes());
        config.forbid(COMMAND, &COMMAND_FIXED.to_le_bytes());
        config.init(PCIEXBAR, &PCIEXBAR_RESET.to_le_bytes());
        let writable = PCIEXBAR_BASE_MASK | PCIEXBAR_LENGTH_MASK | PCIEXBAR_ENABLE;
        config.allow(PCIEXBAR, &writable.to_le_bytes());
        config.allow(PAM0, &PAM_WRITABLE);
        config.init(SMRAM, &[SMRAM_RESET, ESMRAMC_RESET]);
        config.allow(SMRAM, &[SMRAM_WRITABLE]);
        config.allow(ESMRAMC, &[ESMRAMC_WRITABLE]);
        let endpoint = Endpoint::new(config, Intx::new(None), Msix::new(Vec::new()), None, None);
        Arc::new(Self { endpoint, ecam })
    }
}

fn ecam_region(register: u64) -> Option<Region> {
    let len: u64 = match (register & PCIEXBAR_LENGTH_MASK) >> PCIEXBAR_LENGTH_SHIFT {
        0 => 256 << 20,
        1 => 128 << 20,
        2 => 64 << 20,
        _ => return None,
    };
    let base = register & PCIEXBAR_BASE_MASK & !(len - 1);
    let enabled = register & PCIEXBAR_ENABLE != 0;
    enabled.then_some(Region { kind: RegionKind::Ecam, space: Space::Memory, base, len })
}

impl PciFunction for Mch {
    fn config_read(&self, offset: usize, data: &mut [u8]) {
        self.endpoint.config_read(offset, data);
    }

    fn config_write(&self, offset: usize, data: &[u8]) -> Effect {
        let effect = self.endpoint.config_write(offset, data);
        let pciexbar = offset < PCIEXBAR + 8 && offset + data.len() > PCIEXBAR;
        Effect { decode: effect.decode || pciexbar, ..effect }
    }

    fn regions(&self) -> Vec<Region> {
        let register = self
            .endpoint
            .with_config(|config| u64::from(config.u32(PCIEXBAR)) | u64::from(config.u32(PCIEXBAR + 4)) << 32);
        ecam_region(register).into_iter().collect()
    }

    fn region_read(&self, _kind: RegionKind, offset: u64, data: &mut [u8]) {
        self.ecam.read(offset, data);
    }

    fn region_write(&self, _kind: RegionKind, offset: u64, data: &[u8]) {
        self.ecam.write(offset, data);
    }
}

impl Device for Mch {
    fn id(&self) -> String {
        KIND.into()
    }

    fn reset(&self) {
        self.endpoint.reset();
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn save(&self) -> Result<Saved, StateError> {
        Saved::new(KIND, VERSION, &self.endpoint.save())
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        self.endpoint.restore(&saved.open(KIND, VERSION)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pciexbar_gives_base_and_length() {
        let region = |register| ecam_region(register).map(|region| (region.base, region.len));
        assert_eq!(region(0xb000_0001), Some((0xb000_0000, 256 << 20)));
        assert_eq!(region(0xb800_0003), Some((0xb800_0000, 128 << 20)));
        assert_eq!(region(0xbc00_0005), Some((0xbc00_0000, 64 << 20)));
        assert_eq!(region(0xbc00_0001), Some((0xb000_0000, 256 << 20)));
        assert_eq!(region(0x40_e000_0001), Some((0x40_e000_0000, 256 << 20)));
        assert_eq!(region(0xb000_0007), None);
        assert_eq!(region(PCIEXBAR_RESET), None);
    }
}
