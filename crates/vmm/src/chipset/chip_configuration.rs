//! The chip configuration registers behind RCBA: 16 KiB that keep what is written (ICH9 10.1).
//!
//! The interrupt routes and the no-reboot strap are read-only and tell what the machine does.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::bits::*;
use crate::device::StateError;

/// The registers.
pub struct ChipConfiguration {
    bytes: Mutex<Vec<u8>>,
}

/// The dwords that differ from reset: offset and value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipConfigurationState(Vec<(u16, u32)>);

fn fresh() -> Vec<u8> {
    let mut bytes = vec![0; CHIP_CONFIGURATION_LEN];
    let mut set = |at: usize, value: &[u8]| {
        for (byte, value) in bytes.iter_mut().skip(at).zip(value) {
            *byte = *value;
        }
    };
    for route in INTERRUPT_ROUTES {
        set(route, &INTERRUPT_ROUTE_RESET.to_le_bytes());
    }
    for (pins, value) in INTERRUPT_PINS {
        set(pins, &value.to_le_bytes());
    }
    set(GCS, &GCS_NO_REBOOT.to_le_bytes());
    bytes
}

fn read_only(at: usize) -> bool {
    INTERRUPT_ROUTES.iter().any(|route| (*route..route + 2).contains(&at)) || (GCS..GCS + 4).contains(&at)
}

fn dwords(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk))
}

impl Default for ChipConfiguration {
    fn default() -> Self {
        Self { bytes: Mutex::new(fresh()) }
    }
}

impl ChipConfiguration {
    /// Reads at an offset; zeros past the end.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.bytes.lock();
        for (i, out) in data.iter_mut().enumerate() {
            *out = bytes.get((offset as usize).saturating_add(i)).copied().unwrap_or(0);
        }
    }

    /// Writes at an offset; nothing past the end.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut bytes = self.bytes.lock();
        for (i, new) in data.iter().enumerate() {
            let at = (offset as usize).saturating_add(i);
            if let Some(byte) = bytes.get_mut(at).filter(|_| !read_only(at)) {
                *byte = *new;
            }
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&self) {
        *self.bytes.lock() = fresh();
    }

    /// Writes the state down.
    pub fn save(&self) -> ChipConfigurationState {
        let bytes = self.bytes.lock();
        let fresh = fresh();
        let changed = dwords(&bytes).zip(dwords(&fresh)).enumerate().filter(|(_, (now, reset))| now != reset);
        ChipConfigurationState(changed.map(|(i, (now, _))| ((i * 4) as u16, now)).collect())
    }

    /// Takes a saved state over.
    ///
    /// # Errors
    /// When a register is out of range or one that can't change.
    pub fn restore(&self, state: &ChipConfigurationState) -> Result<(), StateError> {
        self.reset();
        for (offset, value) in &state.0 {
            self.write(u64::from(*offset), &value.to_le_bytes());
            let mut now = [0; 4];
            self.read(u64::from(*offset), &mut now);
            if now != value.to_le_bytes() {
                return Err(StateError::Impossible(format!("chip register {offset:#x} is {value:#x}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_and_straps_read_as_the_machine_is_and_the_rest_is_kept() {
        let chip = ChipConfiguration::default();
        chip.write(0x3140, &[0; 8]);
        chip.write(GCS as u64, &[0; 4]);
        chip.write(0x3404, &[0x80]);
        chip.write(0x3ffe, &[1; 8]);
        let mut word = [0; 4];
        chip.read(0x3140, &mut word);
        assert_eq!(word, [0x10, 0x32, 0, 0]);
        chip.read(GCS as u64, &mut word);
        assert_eq!(word, [0x20, 0, 0, 0]);
        chip.read(0x3404, &mut word);
        assert_eq!(word, [0x80, 0, 0, 0]);
        chip.read(0x3ffe, &mut word);
        assert_eq!(word, [1, 1, 0, 0]);
        let other = ChipConfiguration::default();
        other.restore(&chip.save()).unwrap();
        assert_eq!(other.save(), chip.save());
        assert!(other.restore(&ChipConfigurationState(vec![(0x3410, 0)])).is_err());
        assert!(other.restore(&ChipConfigurationState(vec![(0x4000, 1)])).is_err());
    }
}
