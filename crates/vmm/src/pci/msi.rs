//! MSI with one vector and a 64-bit address. PCI Local Bus 3.0, 6.8.1. Used by bridges; devices have MSI-X.

use std::sync::Arc;

use super::bits::*;
use super::config::ConfigSpace;
use crate::irq::{MsiMessage, MsiVector};

/// A function's MSI capability. Its registers, and so its saved state, are in configuration space.
pub struct Msi {
    vector: Arc<dyn MsiVector>,
    at: usize,
}

impl Msi {
    /// Adds the capability to `config`.
    pub fn new(config: &mut ConfigSpace, vector: Arc<dyn MsiVector>) -> Self {
        let mut body = [0; MSI_LEN - 2];
        body[..2].copy_from_slice(&MSI_CONTROL_64BIT.to_le_bytes());
        let at = config.add_capability(CAPABILITY_MSI, &body);
        config.allow(at + MSI_CONTROL, &MSI_CONTROL_ENABLE.to_le_bytes());
        config.allow(at + MSI_ADDRESS, &0xffff_fffcu32.to_le_bytes());
        config.allow(at + MSI_ADDRESS_UPPER, &[0xff; 4]);
        config.allow(at + MSI_DATA, &[0xff; 2]);
        Self { vector, at }
    }

    /// Routes the vector as the registers stand. Idempotent.
    pub fn follow(&self, config: &ConfigSpace) {
        let address =
            u64::from(config.u32(self.at + MSI_ADDRESS)) | u64::from(config.u32(self.at + MSI_ADDRESS_UPPER)) << 32;
        let message = MsiMessage { address, data: u32::from(config.u16(self.at + MSI_DATA)) };
        if let Err(error) = self.vector.route(self.enabled(config).then_some(message)) {
            log::warn!("MSI stays off: {error}");
        }
    }

    /// Whether software uses MSI in place of INTx.
    pub fn enabled(&self, config: &ConfigSpace) -> bool {
        config.u16(self.at + MSI_CONTROL) & MSI_CONTROL_ENABLE != 0
    }

    /// Sends the message.
    pub fn signal(&self) {
        // The event only refuses when its count is full, and then a message is under way anyhow.
        let _ = self.vector.event().write(1);
    }
}
