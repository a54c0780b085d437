//! PCI and PCI Express: configuration space, bridges, BARs, interrupts.

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
