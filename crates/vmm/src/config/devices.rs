//! The sections of disks, consoles and the entropy device, all virtio over PCI.

use std::sync::Arc;

use kiln_image::BlockDevice;

use crate::pci::Place;
use crate::virtio::console::Endpoints;

/// A disk.
pub struct Disk {
    /// Its place, on bus 0 or behind a root port.
    pub place: Place,
    /// The opened image.
    pub image: Arc<dyn BlockDevice>,
    /// Request queues, 1 to 64; one a processor is best.
    pub queues: u16,
    /// Serial number, of which the guest sees the first 20 bytes.
    pub serial: String,
}

/// A virtio console with one port.
pub struct Console {
    /// Its place.
    pub place: Place,
    /// The host's ends.
    pub ends: Endpoints,
    /// Width in characters.
    pub columns: u16,
    /// Height in characters.
    pub rows: u16,
}

/// The host's entropy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rng {
    /// Its place.
    pub place: Place,
}
