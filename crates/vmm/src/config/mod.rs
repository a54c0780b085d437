//! What a machine is made of: one structure, split by section.
//!
//! It holds opened files and backends, never paths, so that the process can be confined before it runs a guest.
//! Defaults and rules across sections are the caller's; what can't be built is refused when it is.

mod actions;
mod devices;
mod display;
mod legacy;
mod memory;

use std::os::fd::OwnedFd;

pub use actions::{Action, Actions};
pub use devices::{PciDevice, PciKind};
pub use display::Display;
pub use legacy::{Legacy, Rtc};
pub use memory::Memory;

pub use crate::arch::x86_64::MAX_VCPUS;
pub use crate::arch::x86_64::cpuid::Topology;
pub use crate::boot::Linux;
pub use crate::memory::Backing;

/// How machines of this kiln behave. It is kept with each machine and with each saved state; 0 may still change.
pub const VERSION: &str = "kiln-q35-0";

/// A machine.
#[derive(Debug)]
pub struct Config {
    /// An opened `/dev/kvm`.
    pub kvm: OwnedFd,
    /// Processors, 1 to [`MAX_VCPUS`] in all.
    pub cpus: Topology,
    /// Memory.
    pub memory: Memory,
    /// What it boots.
    pub boot: Linux,
    /// Its identity, in the order in which it is written.
    pub uuid: [u8; 16],
    /// Devices of the first PCs.
    pub legacy: Legacy,
    /// Devices in PCI slots, root ports before what is behind them.
    pub pci: Vec<PciDevice>,
    /// Its display, if it has one.
    pub display: Option<Display>,
    /// What follows when the guest ends or resets.
    pub actions: Actions,
}
