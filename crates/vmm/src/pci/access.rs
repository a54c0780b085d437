//! The two roads into configuration space: ports 0xcf8/0xcfc and ECAM.
//!
//! PCI Local Bus 3.0, 3.2.2.3.2; PCI Express Base 4.0, 7.2.2. The chipset's reset control register lies at port 0xcf9,
//! inside CONFIG_ADDRESS: only an access of one byte there reaches it, only one of four bytes at 0xcf8 is
//! CONFIG_ADDRESS (ICH9 13.7.5).

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Bdf;
use super::bits::*;
use super::host::PciHost;
use crate::bus::BusDevice;

/// Ports 0xcf8 to 0xcff.
pub(super) struct ConfigPorts {
    host: Weak<PciHost>,
    reset_control: Arc<dyn BusDevice>,
    address: Mutex<u32>,
}

impl ConfigPorts {
    pub(super) fn new(host: Weak<PciHost>, reset_control: Arc<dyn BusDevice>) -> Self {
        Self { host, reset_control, address: Mutex::new(0) }
    }

    pub(super) fn address(&self) -> u32 {
        *self.address.lock()
    }

    pub(super) fn set_address(&self, address: u32) {
        *self.address.lock() = address & CONFIG_ADDRESS_MASK;
    }

    // Where an access to CONFIG_DATA at `offset` goes.
    fn target(&self, offset: u64) -> Option<(Arc<PciHost>, Bdf, usize)> {
        let address = self.address();
        if address & CONFIG_ADDRESS_ENABLE == 0 {
            return None;
        }
        let [register, devfn, bus, _] = address.to_le_bytes();
        let at = Bdf { bus, device: devfn >> 3, function: devfn & 7 };
        Some((self.host.upgrade()?, at, usize::from(register) | (offset & 3) as usize))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address().to_le_bytes()),
            (RESET_CONTROL_OFFSET, 1) => self.reset_control.read(0, data),
            (4..8, _) => {
                if let Some((host, at, register)) = self.target(offset) {
                    host.config_read(at, register, data);
                }
            }
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, [a, b, c, d]) => self.set_address(u32::from_le_bytes([*a, *b, *c, *d])),
            (RESET_CONTROL_OFFSET, [_]) => self.reset_control.write(0, data),
            (4..8, _) => {
                if let Some((host, at, register)) = self.target(offset) {
                    host.config_write(at, register, data);
                }
            }
            _ => {}
        }
    }
}

/// All functions' configuration spaces in memory: one 4 KiB page each.
pub(super) struct Ecam(pub(super) Weak<PciHost>);

impl Ecam {
    fn target(&self, offset: u64, len: usize) -> Option<(Arc<PciHost>, Bdf, usize)> {
        let register = (offset & 0xfff) as usize;
        if register + len > EXTENDED_SIZE {
            return None;
        }
        let [devfn, bus, ..] = (offset >> 12).to_le_bytes();
        let at = Bdf { bus, device: devfn >> 3, function: devfn & 7 };
        Some((self.0.upgrade()?, at, register))
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((host, at, register)) = self.target(offset, data.len()) {
            host.config_read(at, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((host, at, register)) = self.target(offset, data.len()) {
            host.config_write(at, register, data);
        }
    }
}
