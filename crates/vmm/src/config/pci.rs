//! The section of PCI Express root ports.

use crate::pci::Place;

/// A root port, behind which one device has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootPort {
    /// Its place on bus 0.
    pub place: Place,
    /// Physical slot number, which no other port has.
    pub slot: u16,
    /// Whether other functions share its device number.
    pub multifunction: bool,
}
