//! Buses: which device answers an address.
//!
//! One [`Bus`] for ports, one for memory. Devices get offsets, never addresses, and their ranges may move at any
//! time (BARs, ECAM, PMBASE). An access that no device claims reads all ones and writes nothing, as on a PC; so does
//! one that straddles two ranges.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// A device's answers to accesses inside its range.
///
/// Called from vCPU threads, several at once. Widths are what the guest used (1, 2, 4 or 8 bytes from KVM, any from
/// a fuzzer): a device answers odd ones as its chip does, or leaves all ones; it never panics.
pub trait BusDevice: Send + Sync {
    /// Reads `data.len()` bytes at `offset`. `data` arrives filled with ones.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// The range overlaps one that is already claimed, is empty, or runs past the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the range {base:#x}+{len:#x} can't be claimed: {why}")]
pub struct ClaimError {
    /// First address asked for.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
    /// What is in the way.
    pub why: &'static str,
}

struct Claim {
    len: u64,
    device: Arc<dyn BusDevice>,
}

/// An address space in which devices claim ranges.
#[derive(Default)]
pub struct Bus {
    claims: RwLock<BTreeMap<u64, Claim>>,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `[base, base+len)` to `device`.
    ///
    /// # Errors
    /// When the range is empty, wraps, or overlaps a claimed one; nothing has changed then.
    pub fn claim(&self, base: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), ClaimError> {
        let refuse = |why| Err(ClaimError { base, len, why });
        if len == 0 {
            return refuse("it is empty");
        }
        let Some(last) = base.checked_add(len - 1) else {
            return refuse("it runs past the end of the address space");
        };
        let mut claims = self.claims.write();
        if let Some((start, claim)) = claims.range(..=last).next_back()
            && start + (claim.len - 1) >= base
        {
            return refuse("another device has it");
        }
        claims.insert(base, Claim { len, device });
        Ok(())
    }

    /// Takes back the range that starts at `base`. Says whether there was one.
    pub fn release(&self, base: u64) -> bool {
        self.claims.write().remove(&base).is_some()
    }

    /// Reads into `data`; all ones when nobody claims the whole access. Says whether somebody did.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                device.read(offset, data);
                true
            }
            None => false,
        }
    }

    /// Writes `data`; dropped when nobody claims the whole access. Says whether somebody did.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }

    // The lock is released before the device is called: a device may claim and release ranges in its handler.
    fn find(&self, address: u64, len: usize) -> Option<(u64, Arc<dyn BusDevice>)> {
        let claims = self.claims.read();
        let (start, claim) = claims.range(..=address).next_back()?;
        let offset = address - start;
        let end = offset.checked_add(len as u64)?;
        (end <= claim.len).then(|| (offset, claim.device.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    struct Scratch(Mutex<[u8; 16]>);
    impl BusDevice for Scratch {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.copy_from_slice(&self.0.lock()[offset as usize..][..data.len()]);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock()[offset as usize..][..data.len()].copy_from_slice(data);
        }
    }
    fn scratch() -> Arc<Scratch> {
        Arc::new(Scratch(Mutex::new([0; 16])))
    }

    #[test]
    fn accesses_reach_the_device_as_offsets() {
        let bus = Bus::new();
        let device = scratch();
        bus.claim(0x100, 16, device.clone()).unwrap();
        assert!(bus.write(0x10e, &[1, 2]));
        assert_eq!(device.0.lock()[14..], [1, 2]);
        let mut two = [0; 2];
        assert!(bus.read(0x10e, &mut two));
        assert_eq!(two, [1, 2]);
    }

    #[test]
    fn unclaimed_and_straddling_accesses_read_ones() {
        let bus = Bus::new();
        bus.claim(0x100, 16, scratch()).unwrap();
        for address in [0xff, 0x10f, 0x110, u64::MAX] {
            let mut two = [0; 2];
            assert!(!bus.read(address, &mut two), "{address:#x}");
            assert_eq!(two, [0xff; 2]);
            assert!(!bus.write(address, &two));
        }
    }

    #[test]
    fn claims_neither_overlap_nor_wrap() {
        let bus = Bus::new();
        bus.claim(0x100, 16, scratch()).unwrap();
        for (base, len) in [(0x100, 1), (0xf8, 9), (0x10f, 1), (0x0, 0x1000), (5, 0), (u64::MAX, 2)] {
            assert!(bus.claim(base, len, scratch()).is_err(), "{base:#x}+{len:#x}");
        }
        bus.claim(0xf8, 8, scratch()).unwrap();
        bus.claim(0x110, 8, scratch()).unwrap();
        bus.claim(u64::MAX, 1, scratch()).unwrap();
    }

    #[test]
    fn a_released_range_can_be_claimed_elsewhere() {
        let bus = Bus::new();
        bus.claim(0x100, 16, scratch()).unwrap();
        assert!(bus.release(0x100));
        assert!(!bus.release(0x100));
        bus.claim(0x0f8, 16, scratch()).unwrap();
    }
}
