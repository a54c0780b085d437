//! The firmware configuration device: what firmware is told of the machine it finds itself on, and what it is to hand on, ACPI's
//! tables among it.
//!
//! Firmware selects an item by its key and reads on from there, byte by byte at a port or by requests in memory. All items are for
//! reading.

pub mod bits;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod items;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

pub use self::items::{Content, ItemError, Items, Make};
use crate::bus::BusDevice;
use crate::device::{Device, Saved, StateError};
use crate::memory::GuestRam;
use bits::*;

const KIND: &str = "fw_cfg";
const VERSION: u32 = 1;
/// Bytes that go to memory at once.
const STEP: usize = 64 << 10;

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    key: u16,
    /// Where the next byte is read.
    at: u64,
    /// Upper half of the next request's address.
    high: u32,
    /// What has been made since the reset, by key.
    made: BTreeMap<u16, Vec<u8>>,
}

/// The device.
pub struct FwCfg {
    items: BTreeMap<u16, Content>,
    ram: GuestRam,
    state: Mutex<State>,
}

impl FwCfg {
    /// A device with such items, whose requests are in `ram`.
    pub fn new(items: Items, ram: GuestRam) -> Arc<Self> {
        Arc::new(Self { items: items.by_key(), ram, state: Mutex::default() })
    }

    fn select(&self, state: &mut State, selector: u16) {
        (state.key, state.at) = (selector & !SELECT_WRITE, 0);
        if let Some(Content::Made { len, make }) = self.items.get(&state.key) {
            state.made.entry(state.key).or_insert_with(|| {
                let mut bytes = make();
                if bytes.len() > *len {
                    log::error!("firmware item {:#x} has {} bytes of {len}; its end is lost", state.key, bytes.len());
                }
                bytes.resize(*len, 0);
                bytes
            });
        }
    }

    // The selected item. One that isn't there is empty.
    fn item<'a>(&'a self, state: &'a State) -> &'a [u8] {
        match self.items.get(&state.key) {
            Some(Content::Fixed(bytes)) => bytes,
            Some(Content::Made { .. }) => state.made.get(&state.key).map_or(&[], Vec::as_slice),
            None => &[],
        }
    }

    // Reads on; zeros behind an item's end.
    fn read_on(&self, state: &mut State, to: &mut [u8]) {
        to.fill(0);
        let at = usize::try_from(state.at).unwrap_or(usize::MAX);
        let rest = self.item(state).get(at..).unwrap_or_default();
        for (to, from) in to.iter_mut().zip(rest) {
            *to = *from;
        }
        state.at = state.at.saturating_add(to.len() as u64);
    }

    fn request(&self, state: &mut State, address: u64) {
        let mut request = [0; REQUEST_LEN];
        let place = GuestAddress(address);
        // There is nobody to be told: the request isn't in memory.
        if self.ram.read_slice(&mut request, place).is_err() {
            return;
        }
        let word =
            |at: usize| request.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b));
        let (control, len) = (word(0), word(4));
        let at = u64::from(word(8)) << 32 | u64::from(word(12));
        if control & CONTROL_SELECT != 0 {
            self.select(state, (control >> 16) as u16);
        }
        let done = if control & CONTROL_READ != 0 {
            self.read_to(state, at, len)
        } else if control & CONTROL_WRITE != 0 {
            // Nothing is for writing.
            false
        } else {
            if control & CONTROL_SKIP != 0 {
                state.at = state.at.saturating_add(len.into());
            }
            true
        };
        let outcome = if done { 0 } else { CONTROL_ERROR };
        let _ = self.ram.write_slice(&outcome.to_be_bytes(), place);
    }

    // Says whether all of it found memory; none is written otherwise.
    fn read_to(&self, state: &mut State, at: u64, len: u32) -> bool {
        if !self.ram.check_range(GuestAddress(at), len as usize) {
            return false;
        }
        let mut bytes = vec![0; STEP.min(len as usize)];
        let mut done = 0;
        while done < len {
            let step = STEP.min((len - done) as usize);
            let Some(piece) = bytes.get_mut(..step) else { return false };
            self.read_on(state, piece);
            if self.ram.write_slice(piece, GuestAddress(at + u64::from(done))).is_err() {
                return false;
            }
            done += step as u32;
        }
        true
    }
}

impl BusDevice for FwCfg {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match offset {
            // A string instruction comes as one access.
            DATA => self.read_on(&mut self.state.lock(), data),
            DMA_HIGH.. => {
                for (to, at) in data.iter_mut().zip(offset - DMA_HIGH..) {
                    *to = usize::try_from(at).ok().and_then(|at| DMA_SIGNATURE.get(at).copied()).unwrap_or(0xff);
                }
            }
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state.lock();
        match (offset, data) {
            (SELECTOR, [low, high]) => self.select(&mut state, u16::from_le_bytes([*low, *high])),
            (DMA_HIGH, [a, b, c, d]) => state.high = u32::from_be_bytes([*a, *b, *c, *d]),
            (DMA_LOW, [a, b, c, d]) => {
                let low = u32::from_be_bytes([*a, *b, *c, *d]);
                let high = std::mem::take(&mut state.high);
                self.request(&mut state, u64::from(high) << 32 | u64::from(low));
            }
            (DMA_HIGH, [a, b, c, d, e, f, g, h]) => {
                state.high = 0;
                self.request(&mut state, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
            }
            _ => {}
        }
    }
}

impl Device for FwCfg {
    fn id(&self) -> String {
        KIND.into()
    }

    fn reset(&self) {
        *self.state.lock() = State::default();
    }

    // Requests are done before the guest's write is: nothing is in flight while the vCPUs stand.
    fn pause(&self) {}

    fn resume(&self) {}

    fn save(&self) -> Result<Saved, StateError> {
        Saved::new(KIND, VERSION, &*self.state.lock())
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state: State = saved.open(KIND, VERSION)?;
        let fits = |(key, bytes): (&u16, &Vec<u8>)| match self.items.get(key) {
            Some(Content::Made { len, .. }) => bytes.len() == *len,
            _ => false,
        };
        if !state.made.iter().all(fits) {
            return Err(StateError::Impossible("it has made items that this machine hasn't".into()));
        }
        *self.state.lock() = state;
        Ok(())
    }
}
