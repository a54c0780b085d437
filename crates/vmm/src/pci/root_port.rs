//! A PCI Express root port: a bridge from bus 0 to one hot-plug capable slot.
//!
//! It has the ids by which guests know QEMU's generic root port. PCI Express Base 4.0, 6.7 (hot-plug) and 7.5;
//! PCI-to-PCI Bridge Architecture 1.2.

use std::sync::Arc;

use parking_lot::Mutex;

use super::bar::{Region, RegionKind};
use super::bits::*;
use super::bridge::Forwarding;
use super::config::{ConfigSpace, ConfigState, Identity};
use super::function::{Effect, PciFunction};
use super::intx::{Intx, Pin};
use super::msi::Msi;
use super::{Place, express};
use crate::device::{Device, Saved, StateError};
use crate::irq::{Line, MsiVector};

const KIND: &str = "pcie-root-port";
const VERSION: u32 = 1;
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x000c,
    revision: 0,
    class: [0x06, 0x04, 0x00],
    subsystem_vendor: 0,
    subsystem: 0,
};

/// The pin that all root ports use.
pub const PIN: Pin = Pin::A;

struct State {
    config: ConfigSpace,
    occupied: bool,
}

/// A root port.
pub struct RootPort {
    place: Place,
    slot: u16,
    express: usize,
    intx: Intx,
    msi: Msi,
    state: Mutex<State>,
}

impl RootPort {
    /// A port at `place` on bus 0 with physical slot number `slot` (below 8192, unique in the machine).
    ///
    /// `multifunction` is set on function 0 of a device whose other functions are ports, too. `line` is that of
    /// [`PIN`].
    pub fn new(place: Place, slot: u16, multifunction: bool, line: Line, vector: Arc<dyn MsiVector>) -> Arc<Self> {
        let mut config = ConfigSpace::bridge(&IDENTITY);
        if multifunction {
            config.init(HEADER_TYPE, &[HEADER_TYPE_BRIDGE | HEADER_TYPE_MULTIFUNCTION]);
        }
        config.init(INTERRUPT_PIN, &[PIN.number() + 1]);
        let port = place.device << 3 | place.function;
        let express = express::add_root_port(&mut config, slot, port);
        let msi = Msi::new(&mut config, vector);
        let state = Mutex::new(State { config, occupied: false });
        Arc::new(Self { place, slot, express, intx: Intx::new(Some(line)), msi, state })
    }

    // A hot-plug event interrupts while its status bit, its enable bit and the common enable bit are on (PCIe 6.7.3.4).
    fn event_pending(&self, config: &ConfigSpace) -> bool {
        let control = config.u16(self.express + EXPRESS_SLOT_CONTROL);
        let status = config.u16(self.express + EXPRESS_SLOT_STATUS);
        let presence = control & SLOT_CONTROL_PRESENCE != 0 && status & SLOT_STATUS_PRESENCE_CHANGED != 0;
        let link = control & SLOT_CONTROL_LINK != 0 && status & SLOT_STATUS_LINK_CHANGED != 0;
        control & SLOT_CONTROL_HOT_PLUG != 0 && (presence || link)
    }

    fn follow(&self, config: &ConfigSpace, was_pending: bool) {
        self.msi.follow(config);
        self.intx.gate(config.u16(COMMAND) & COMMAND_INTX_DISABLE != 0);
        let pending = self.event_pending(config);
        let msi = self.msi.enabled(config);
        self.intx.set(pending && !msi);
        if pending && !was_pending && msi {
            self.msi.signal();
        }
    }

    // Registers as they are right after reset, with the slot as it is.
    fn fresh(&self, state: &mut State) {
        state.config.reset();
        express::show_occupied(&mut state.config, self.express, state.occupied);
    }
}

impl PciFunction for RootPort {
    fn config_read(&self, offset: usize, data: &mut [u8]) {
        self.state.lock().config.read(offset, data);
        if self.intx.asserted()
            && let Some(at) = STATUS.checked_sub(offset)
            && let Some(byte) = data.get_mut(at)
        {
            *byte |= STATUS_INTERRUPT as u8;
        }
    }

    fn config_write(&self, offset: usize, data: &[u8]) -> Effect {
        let mut state = self.state.lock();
        let was_pending = self.event_pending(&state.config);
        let link_before = state.config.u16(self.express + EXPRESS_LINK_CONTROL) & LINK_CONTROL_DISABLE;
        let reset_before = state.config.u16(BRIDGE_CONTROL) & BRIDGE_CONTROL_RESET;
        if !state.config.write(offset, data) {
            return Effect::default();
        }
        let link_after = state.config.u16(self.express + EXPRESS_LINK_CONTROL) & LINK_CONTROL_DISABLE;
        if link_before != link_after {
            let occupied = state.occupied;
            express::show_occupied(&mut state.config, self.express, occupied);
            if occupied {
                let changed = SLOT_STATUS_LINK_CHANGED;
                state.config.update16(self.express + EXPRESS_SLOT_STATUS, changed, changed);
            }
        }
        let reset_after = state.config.u16(BRIDGE_CONTROL) & BRIDGE_CONTROL_RESET;
        self.follow(&state.config, was_pending);
        Effect {
            decode: offset < HEADER_END || link_before != link_after,
            reset: false,
            // A link that goes down resets what is behind it (PCIe 6.6.1).
            reset_secondary: reset_after & !reset_before != 0 || link_after & !link_before != 0,
        }
    }

    fn regions(&self) -> Vec<Region> {
        Vec::new()
    }

    fn region_read(&self, _kind: RegionKind, _offset: u64, _data: &mut [u8]) {}

    fn region_write(&self, _kind: RegionKind, _offset: u64, _data: &[u8]) {}

    fn forwarding(&self) -> Option<Forwarding> {
        let state = self.state.lock();
        let link = state.config.u16(self.express + EXPRESS_LINK_CONTROL) & LINK_CONTROL_DISABLE == 0
            && state.config.u16(BRIDGE_CONTROL) & BRIDGE_CONTROL_RESET == 0;
        Some(Forwarding::of(&state.config, self.slot, link))
    }

    fn set_occupied(&self, occupied: bool) {
        let mut state = self.state.lock();
        if state.occupied == occupied {
            return;
        }
        let was_pending = self.event_pending(&state.config);
        state.occupied = occupied;
        express::show_occupied(&mut state.config, self.express, occupied);
        let changed = SLOT_STATUS_PRESENCE_CHANGED | SLOT_STATUS_LINK_CHANGED;
        state.config.update16(self.express + EXPRESS_SLOT_STATUS, changed, changed);
        self.follow(&state.config, was_pending);
    }
}

impl Device for RootPort {
    fn id(&self) -> String {
        format!("{KIND}@{}", self.place)
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        self.fresh(&mut state);
        self.intx.reset();
        self.follow(&state.config, false);
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn save(&self) -> Result<Saved, StateError> {
        let state = self.state.lock();
        // Presence comes from what is plugged, the interrupt from the registers.
        Saved::new(KIND, VERSION, &state.config.save())
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let saved: ConfigState = saved.open(KIND, VERSION)?;
        let mut state = self.state.lock();
        state.config.restore(&saved)?;
        let occupied = state.occupied;
        express::show_occupied(&mut state.config, self.express, occupied);
        let pending = self.event_pending(&state.config);
        self.follow(&state.config, pending);
        Ok(())
    }
}
