//! MSI-X: the vector table, the pending bits and the masks. PCI Local Bus 3.0, 6.8.2.
//!
//! Vectors are allocated once; masking and rewriting only route them. While a vector is masked its signals stay in
//! its event, and reading the event is how the pending bit is found: nobody watches it.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::bits::*;
use super::config::ConfigSpace;
use crate::device::StateError;
use crate::irq::{MsiMessage, MsiVector};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: [u8; MSIX_ENTRY_LEN],
    pending: bool,
    #[serde(skip)]
    routed: Option<MsiMessage>,
}

impl Entry {
    fn new() -> Self {
        let mut bytes = [0; MSIX_ENTRY_LEN];
        bytes[12] = MSIX_ENTRY_MASK;
        Self { bytes, pending: false, routed: None }
    }

    fn masked(&self) -> bool {
        self.bytes[12] & MSIX_ENTRY_MASK != 0
    }

    fn message(&self) -> MsiMessage {
        let [a0, a1, a2, a3, a4, a5, a6, a7, d0, d1, d2, d3, ..] = self.bytes;
        MsiMessage {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]) & !3,
            data: u32::from_le_bytes([d0, d1, d2, d3]),
        }
    }
}

struct State {
    enabled: bool,
    masked: bool,
    entries: Vec<Entry>,
}

/// Saved table and pending bits; enable and function mask are in configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState(Vec<Entry>);

/// A function's MSI-X.
pub struct Msix {
    vectors: Vec<Arc<dyn MsiVector>>,
    state: Mutex<State>,
}

/// Adds the MSI-X capability: the table stands at the start of BAR `bar`, the pending bits at `pba` in it.
///
/// Returns the capability's offset.
pub fn add_capability(config: &mut ConfigSpace, vectors: u16, bar: u8, table: u32, pba: u32) -> usize {
    let mut body = [0; MSIX_LEN - 2];
    let size = vectors.clamp(1, MSIX_MAX_VECTORS) - 1;
    body[..2].copy_from_slice(&size.to_le_bytes());
    body[2..6].copy_from_slice(&(table & !7 | u32::from(bar)).to_le_bytes());
    body[6..].copy_from_slice(&(pba & !7 | u32::from(bar)).to_le_bytes());
    let at = config.add_capability(CAPABILITY_MSIX, &body);
    config.allow(at + MSIX_CONTROL, &(MSIX_CONTROL_MASK | MSIX_CONTROL_ENABLE).to_le_bytes());
    at
}

impl Msix {
    /// A table over `vectors`; none for a function without MSI-X.
    pub fn new(vectors: Vec<Arc<dyn MsiVector>>) -> Self {
        let entries = vectors.iter().map(|_| Entry::new()).collect();
        Self { vectors, state: Mutex::new(State { enabled: false, masked: false, entries }) }
    }

    /// Number of vectors.
    pub fn len(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Whether the function has no MSI-X.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Whether software uses MSI-X, so that no INTx may be raised (PCI 6.8.3.3).
    pub fn enabled(&self) -> bool {
        self.state.lock().enabled
    }

    /// A vector, to signal at.
    pub fn vector(&self, index: u16) -> Option<&Arc<dyn MsiVector>> {
        self.vectors.get(usize::from(index))
    }

    /// Message control was written.
    pub fn control(&self, control: u16) {
        let mut state = self.state.lock();
        let (enabled, masked) = (control & MSIX_CONTROL_ENABLE != 0, control & MSIX_CONTROL_MASK != 0);
        if (state.enabled, state.masked) == (enabled, masked) {
            return;
        }
        (state.enabled, state.masked) = (enabled, masked);
        self.route_all(&mut state);
    }

    /// Reads the table.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        let state = self.state.lock();
        for (i, out) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(i as u64);
            let entry = state.entries.get((at / MSIX_ENTRY_LEN as u64) as usize);
            *out = entry.map_or(0, |entry| entry.bytes[(at % MSIX_ENTRY_LEN as u64) as usize]);
        }
    }

    /// Writes the table. Bytes outside it take no write.
    pub fn table_write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state.lock();
        for (i, byte) in data.iter().enumerate() {
            let at = offset.saturating_add(i as u64);
            let within = (at % MSIX_ENTRY_LEN as u64) as usize;
            // All of vector control but the mask bit is reserved and reads zero (PCI 6.8.2.9).
            let byte = match within {
                12 => byte & MSIX_ENTRY_MASK,
                13..16 => 0,
                _ => *byte,
            };
            if let Some(entry) = state.entries.get_mut((at / MSIX_ENTRY_LEN as u64) as usize) {
                entry.bytes[within] = byte;
            }
        }
        let (first, last) = (offset, offset.saturating_add(data.len() as u64).saturating_sub(1));
        for index in first / MSIX_ENTRY_LEN as u64..=last / MSIX_ENTRY_LEN as u64 {
            self.route(&mut state, index as usize);
        }
    }

    /// Reads the pending bits (PCI 6.8.2.10).
    pub fn pba_read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.state.lock();
        for (i, out) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(i as u64);
            *out = 0;
            for bit in 0..8 {
                let index = at.saturating_mul(8).saturating_add(bit) as usize;
                if self.collect(&mut state, index) {
                    *out |= 1 << bit;
                }
            }
        }
    }

    // Finds out whether a masked vector has been signalled.
    fn collect(&self, state: &mut State, index: usize) -> bool {
        let (Some(entry), Some(vector)) = (state.entries.get_mut(index), self.vectors.get(index)) else {
            return false;
        };
        if entry.routed.is_some() {
            return false;
        }
        if vector.event().read().is_ok() {
            entry.pending = true;
        }
        entry.pending
    }

    fn route_all(&self, state: &mut State) {
        for index in 0..state.entries.len() {
            self.route(state, index);
        }
    }

    fn route(&self, state: &mut State, index: usize) {
        let open = state.enabled && !state.masked;
        let (Some(entry), Some(vector)) = (state.entries.get_mut(index), self.vectors.get(index)) else { return };
        let wanted = (open && !entry.masked()).then(|| entry.message());
        if wanted == entry.routed {
            return;
        }
        if wanted.is_some() && std::mem::take(&mut entry.pending) {
            // Back into the event, from where routing sends it.
            let _ = vector.event().write(1);
        }
        entry.routed = match vector.route(wanted) {
            Ok(()) => wanted,
            Err(error) => {
                log::warn!("MSI-X vector {index} stays masked: {error}");
                None
            }
        };
    }

    /// All vectors masked, nothing pending, MSI-X off.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        (state.enabled, state.masked) = (false, false);
        self.route_all(&mut state);
        for (entry, vector) in state.entries.iter_mut().zip(&self.vectors) {
            let _ = vector.event().read();
            *entry = Entry::new();
        }
    }

    /// Writes table and pending bits down. The device is paused, so no signal comes in between.
    pub fn save(&self) -> MsixState {
        let mut state = self.state.lock();
        for index in 0..state.entries.len() {
            self.collect(&mut state, index);
        }
        MsixState(state.entries.clone())
    }

    /// Takes a saved table over; [`Msix::control`] then opens it.
    ///
    /// # Errors
    /// When it has another size.
    pub fn restore(&self, saved: &MsixState) -> Result<(), StateError> {
        let mut state = self.state.lock();
        if saved.0.len() != state.entries.len() {
            return Err(StateError::Impossible(format!("{} MSI-X vectors", saved.0.len())));
        }
        (state.enabled, state.masked) = (false, false);
        self.route_all(&mut state);
        for (entry, saved) in state.entries.iter_mut().zip(&saved.0) {
            *entry = Entry { routed: None, ..saved.clone() };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Messages, message_log};

    fn two() -> (Messages, Msix) {
        let log = message_log();
        let vectors = (0..2).map(|_| log.vector()).collect();
        (log, Msix::new(vectors))
    }
    fn write_entry(msix: &Msix, index: u64, message: MsiMessage, masked: bool) {
        msix.table_write(index * 16, &message.address.to_le_bytes());
        msix.table_write(index * 16 + 8, &message.data.to_le_bytes());
        msix.table_write(index * 16 + 12, &u32::from(masked).to_le_bytes());
    }
    const A: MsiMessage = MsiMessage { address: 0xfee0_1000, data: 0x41 };
    const B: MsiMessage = MsiMessage { address: 0xfee0_2000, data: 0x42 };

    #[test]
    fn an_open_vector_sends_its_message() {
        let (log, msix) = two();
        msix.control(MSIX_CONTROL_ENABLE);
        write_entry(&msix, 0, A, false);
        msix.vector(0).unwrap().event().write(1).unwrap();
        assert_eq!(log.sent(), [A]);
    }

    #[test]
    fn a_masked_vector_is_pending_and_sends_once_when_unmasked() {
        let (log, msix) = two();
        msix.control(MSIX_CONTROL_ENABLE);
        write_entry(&msix, 1, B, true);
        msix.vector(1).unwrap().event().write(1).unwrap();
        msix.vector(1).unwrap().event().write(1).unwrap();
        let mut pba = [0; 8];
        msix.pba_read(0, &mut pba);
        assert_eq!(pba, [2, 0, 0, 0, 0, 0, 0, 0]);
        assert!(log.sent().is_empty());
        msix.table_write(28, &[0]);
        assert_eq!(log.sent(), [B]);
        msix.pba_read(0, &mut pba);
        assert_eq!(pba, [0; 8]);
    }

    #[test]
    fn the_function_mask_holds_all_vectors_back() {
        let (log, msix) = two();
        msix.control(MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK);
        write_entry(&msix, 0, A, false);
        write_entry(&msix, 1, B, false);
        for vector in 0..2 {
            msix.vector(vector).unwrap().event().write(1).unwrap();
        }
        assert!(log.sent().is_empty());
        msix.control(MSIX_CONTROL_ENABLE);
        assert_eq!(log.sent(), [A, B]);
    }

    #[test]
    fn an_open_vector_can_be_rewritten_without_loss() {
        let (log, msix) = two();
        msix.control(MSIX_CONTROL_ENABLE);
        write_entry(&msix, 0, A, false);
        msix.table_write(8, &B.data.to_le_bytes());
        msix.vector(0).unwrap().event().write(1).unwrap();
        assert_eq!(log.sent(), [MsiMessage { address: A.address, data: B.data }]);
    }

    #[test]
    fn a_pending_masked_vector_survives_save_and_restore() {
        let (_, msix) = two();
        msix.control(MSIX_CONTROL_ENABLE);
        write_entry(&msix, 0, A, true);
        msix.vector(0).unwrap().event().write(1).unwrap();
        let saved = msix.save();
        let (log, other) = two();
        other.restore(&saved).unwrap();
        other.control(MSIX_CONTROL_ENABLE);
        assert!(log.sent().is_empty());
        other.table_write(12, &[0]);
        assert_eq!(log.sent(), [A]);
        assert!(Msix::new(Vec::new()).restore(&saved).is_err());
    }

    #[test]
    fn wild_offsets_neither_write_nor_panic() {
        let (log, msix) = two();
        msix.control(MSIX_CONTROL_ENABLE);
        msix.table_write(30, &[0xff; 8]);
        msix.table_write(u64::MAX - 3, &[0; 4]);
        let mut data = [1; 8];
        msix.table_read(28, &mut data);
        assert_eq!(data, [1, 0, 0, 0, 0, 0, 0, 0]);
        msix.pba_read(u64::MAX - 7, &mut data);
        assert_eq!(data, [0; 8]);
        assert!(log.sent().is_empty());
    }
}
