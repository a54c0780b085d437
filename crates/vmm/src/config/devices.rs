//! Devices that are plugged into PCI, each with its place. Places are the caller's: the monitor gives none by itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::pci::Place;
use crate::virtio::blk::Drive;
use crate::virtio::net::{Mac, Network};

/// A device in its place. Root ports come before what is behind them.
pub struct PciDevice {
    /// Where.
    pub place: Place,
    /// What.
    pub kind: PciKind,
}

/// What is plugged.
pub enum PciKind {
    /// A root port, into whose slot another device may be plugged.
    RootPort {
        /// Physical slot number, unique in the machine.
        slot: u16,
        /// Other functions of the same device number exist.
        multifunction: bool,
    },
    /// A virtio disk.
    Disk(Drive),
    /// A virtio network card.
    Net {
        /// What it is plugged into.
        network: Arc<dyn Network>,
        /// Its address.
        mac: Mac,
        /// Longest packet, in bytes without the Ethernet header.
        mtu: u16,
        /// Whether the cable is plugged in at first.
        link: bool,
    },
    /// A virtio entropy source, fed by the host's.
    Rng,
    /// A virtio console with one port.
    Console {
        /// What the guest reads.
        input: OwnedFd,
        /// Where its output goes.
        output: OwnedFd,
        /// Columns of the terminal.
        columns: u16,
        /// Rows of the terminal.
        rows: u16,
    },
}

impl std::fmt::Debug for PciDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            PciKind::RootPort { .. } => "root port",
            PciKind::Disk(_) => "disk",
            PciKind::Net { .. } => "network card",
            PciKind::Rng => "rng",
            PciKind::Console { .. } => "console",
        };
        write!(f, "{kind} at {}", self.place)
    }
}
