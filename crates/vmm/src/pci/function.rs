//! What the host asks of a function, and the part of it that all endpoints share.
//!
//! A function keeps its own configuration space and answers accesses to its regions as offsets. It claims no
//! addresses itself: it says what it decodes, and the host places that on the buses.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::bar::{Region, RegionKind, Space};
use super::bits::*;
use super::config::{ConfigSpace, ConfigState};
use super::intx::Intx;
use super::msix::{Msix, MsixState};
use crate::device::{Device, StateError};

/// What a configuration write asks of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// The regions or the bridge's windows and bus numbers may have changed.
    pub decode: bool,
    /// This function is to be reset (PCIe 6.6.2).
    pub reset: bool,
    /// All functions behind this bridge are to be reset (P2P 3.2.5.18).
    pub reset_secondary: bool,
}

/// A PCI function.
pub trait PciFunction: Device {
    /// Reads configuration space as software does.
    fn config_read(&self, offset: usize, data: &mut [u8]);
    /// Writes configuration space as software does.
    fn config_write(&self, offset: usize, data: &[u8]) -> Effect;
    /// What the function decodes as its registers stand. Ranges that make no sense may be among them.
    fn regions(&self) -> Vec<Region>;
    /// Reads at an offset into a region. `data` arrives filled with ones.
    fn region_read(&self, kind: RegionKind, offset: u64, data: &mut [u8]);
    /// Writes at an offset into a region.
    fn region_write(&self, kind: RegionKind, offset: u64, data: &[u8]);
    /// The region now decodes at `base`, or nowhere. Called by the host alone, one call at a time; must not call the
    /// host back.
    fn region_placed(&self, _kind: RegionKind, _base: Option<u64>) {}
    /// What a bridge forwards; `None` for everything else.
    fn forwarding(&self) -> Option<super::bridge::Forwarding> {
        None
    }
    /// What the function shows of its backend has changed: its driver is told to look.
    fn announce(&self) {}
    /// A bridge learns whether there is something behind it.
    fn set_occupied(&self, _occupied: bool) {}
}

/// Configuration space, INTx and MSI-X of an ordinary function.
pub struct Endpoint {
    config: Mutex<ConfigSpace>,
    express: Option<usize>,
    msix_capability: Option<usize>,
    /// Its interrupt pin.
    pub intx: Intx,
    /// Its message vectors.
    pub msix: Msix,
}

/// Saved state of an [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointState {
    config: ConfigState,
    intx: bool,
    msix: MsixState,
}

impl Endpoint {
    /// Joins the parts. `express` and `msix_capability` are offsets of these capabilities in `config`.
    pub fn new(
        config: ConfigSpace,
        intx: Intx,
        msix: Msix,
        express: Option<usize>,
        msix_capability: Option<usize>,
    ) -> Self {
        Self { config: Mutex::new(config), express, msix_capability, intx, msix }
    }

    /// Reads configuration space.
    pub fn config_read(&self, offset: usize, data: &mut [u8]) {
        self.config.lock().read(offset, data);
        // The one bit that follows a wire and not a register (PCI 6.2.3).
        if self.intx.asserted()
            && let Some(at) = STATUS.checked_sub(offset)
            && let Some(byte) = data.get_mut(at)
        {
            *byte |= STATUS_INTERRUPT as u8;
        }
    }

    /// Writes configuration space, with the effects that all endpoints share.
    pub fn config_write(&self, offset: usize, data: &[u8]) -> Effect {
        let mut config = self.config.lock();
        let mut effect = Effect::default();
        if let Some(express) = self.express {
            let high = express + EXPRESS_DEVICE_CONTROL + 1;
            let byte = high.checked_sub(offset).and_then(|at| data.get(at));
            effect.reset = byte.is_some_and(|byte| byte & (DEVICE_CONTROL_FLR >> 8) as u8 != 0);
        }
        if !config.write(offset, data) {
            return effect;
        }
        effect.decode = offset < CAPABILITIES_POINTER;
        self.follow(&config);
        effect
    }

    fn follow(&self, config: &ConfigSpace) {
        self.intx.gate(config.u16(COMMAND) & COMMAND_INTX_DISABLE != 0);
        if let Some(at) = self.msix_capability {
            self.msix.control(config.u16(at + MSIX_CONTROL));
        }
    }

    /// The BARs that decode as the command register stands.
    pub fn regions(&self) -> Vec<Region> {
        bar_regions(&self.config.lock())
    }

    /// Reads a 16- or 32-bit register's bytes through `read`, for what a function adds on top.
    pub fn with_config<T>(&self, read: impl FnOnce(&ConfigSpace) -> T) -> T {
        read(&self.config.lock())
    }

    /// Back to the state after power-on.
    pub fn reset(&self) {
        let mut config = self.config.lock();
        config.reset();
        self.intx.reset();
        self.msix.reset();
    }

    /// Writes the state down.
    pub fn save(&self) -> EndpointState {
        EndpointState { config: self.config.lock().save(), intx: self.intx.asserted(), msix: self.msix.save() }
    }

    /// Takes a saved state over.
    ///
    /// # Errors
    /// When no function of this shape can be in it.
    pub fn restore(&self, state: &EndpointState) -> Result<(), StateError> {
        let mut config = self.config.lock();
        config.restore(&state.config)?;
        self.msix.restore(&state.msix)?;
        self.follow(&config);
        self.intx.set(state.intx);
        Ok(())
    }
}

/// The BARs of `config` that decode as its command register stands (PCI 6.2.2).
pub fn bar_regions(config: &ConfigSpace) -> Vec<Region> {
    let command = config.u16(COMMAND);
    let on = |space| match space {
        Space::Port => command & COMMAND_IO != 0,
        Space::Memory => command & COMMAND_MEMORY != 0,
    };
    let decoded = config.bars().iter().filter(|bar| on(bar.space()));
    decoded
        .map(|bar| Region {
            kind: RegionKind::Bar(bar.index),
            space: bar.space(),
            base: config.bar_base(bar),
            len: bar.size,
        })
        .collect()
}
