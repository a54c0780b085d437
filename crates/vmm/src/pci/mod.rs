//! PCI and PCI Express: configuration space, bridges, BARs, interrupts.
//!
//! [`host::PciHost`] is the root complex; what is plugged into it is a [`function::PciFunction`]. A configuration
//! write goes host -> function -> [`function::Effect`] -> host, which then places the function's regions on the buses
//! anew. Functions never call the host.

mod access;
pub mod bar;
pub mod bits;
pub mod bridge;
pub mod config;
mod decode;
pub mod express;
pub mod function;
pub mod host;
pub mod intx;
pub mod msi;
pub mod msix;
pub mod root_port;
mod snapshot;
#[cfg(test)]
mod tests;

pub use function::PciFunction;
pub use host::{PciHost, PlugError, Surroundings};
pub use snapshot::LOW_WINDOWS_END;

use serde::{Deserialize, Serialize};

/// A root port's place on bus 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortPlace {
    /// Device number, below 32.
    pub device: u8,
    /// Function number, below 8.
    pub function: u8,
}

/// Where a function is plugged, whatever numbers software gives to buses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The root port that it is behind; on bus 0 when there is none.
    pub port: Option<PortPlace>,
    /// Device number, below 32; 0 behind a port.
    pub device: u8,
    /// Function number, below 8.
    pub function: u8,
}

impl Place {
    /// A place on bus 0.
    pub fn root(device: u8, function: u8) -> Self {
        Self { port: None, device, function }
    }

    /// Function `function` of the device behind the root port at `port_device.port_function`.
    pub fn behind(port_device: u8, port_function: u8, function: u8) -> Self {
        Self { port: Some(PortPlace { device: port_device, function: port_function }), device: 0, function }
    }

    /// The place of the root port above.
    pub fn port_place(&self) -> Option<Place> {
        self.port.map(|port| Place::root(port.device, port.function))
    }

    fn is_valid(&self) -> bool {
        let above = self.port.is_none_or(|port| port.device < 32 && port.function < 8 && self.device == 0);
        above && self.device < 32 && self.function < 8
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(port) = &self.port {
            write!(f, "{:02x}.{:x}/", port.device, port.function)?;
        }
        write!(f, "{:02x}.{:x}", self.device, self.function)
    }
}

/// A function's place: bus, device, function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Bdf {
    /// Bus number, 0 is the root complex's.
    pub bus: u8,
    /// Device number, below 32.
    pub device: u8,
    /// Function number, below 8.
    pub function: u8,
}

impl std::fmt::Display for Bdf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x}:{:02x}.{:x}", self.bus, self.device, self.function)
    }
}

/// A contiguous range of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A root port as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootPort {
    /// Its place on bus 0.
    pub at: Bdf,
    /// Bus behind it (secondary), 0 while not programmed.
    pub secondary: u8,
    /// Physical slot number, as its slot capabilities say.
    pub slot: u16,
}

/// The host bridge as software has programmed it, which the ACPI tables describe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PciSnapshot {
    /// ECAM's range, when PCIEXBAR enables it.
    pub ecam: Option<Window>,
    /// Memory windows in which devices decode: 32-bit ones below and above ECAM, then a 64-bit one where BARs are.
    pub windows: Vec<Window>,
    /// The root ports.
    pub root_ports: Vec<RootPort>,
    /// Base of the power management block in port space, when the LPC bridge enables it.
    pub pm_base: Option<u16>,
}
