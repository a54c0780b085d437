//! Base address registers and the ranges that a function decodes.
//!
//! What is written into a BAR lives in [`super::config`]; who gets the range on a bus is the host's business.
//! PCI Local Bus 3.0, 6.2.5.

use super::bits::*;
pub use crate::doorbell::Space;

/// Kind of a BAR (PCI 6.2.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two slots.
    Memory64,
}

/// A base address register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Number of its (first) slot, 0 to 5.
    pub index: u8,
    /// Kind.
    pub kind: BarKind,
    /// Reads have no side effect and writes may be merged.
    pub prefetchable: bool,
    /// Bytes, a power of two.
    pub size: u64,
}

impl Bar {
    /// A range of I/O ports.
    pub fn io(index: u8, size: u64) -> Self {
        Self { index, kind: BarKind::Io, prefetchable: false, size }
    }

    /// Memory below 4 GiB, not prefetchable.
    pub fn memory32(index: u8, size: u64) -> Self {
        Self { index, kind: BarKind::Memory32, prefetchable: false, size }
    }

    /// Memory anywhere.
    pub fn memory64(index: u8, size: u64, prefetchable: bool) -> Self {
        Self { index, kind: BarKind::Memory64, prefetchable, size }
    }

    /// Address space in which it decodes.
    pub fn space(&self) -> Space {
        match self.kind {
            BarKind::Io => Space::Port,
            BarKind::Memory32 | BarKind::Memory64 => Space::Memory,
        }
    }

    /// Offset of its register in configuration space.
    pub fn offset(&self) -> usize {
        BAR0 + usize::from(self.index) * 4
    }

    /// The read-only low bits.
    pub fn flags(&self) -> u32 {
        let prefetchable = if self.prefetchable { BAR_PREFETCHABLE } else { 0 };
        match self.kind {
            BarKind::Io => BAR_IO,
            BarKind::Memory32 => prefetchable,
            BarKind::Memory64 => BAR_64BIT | prefetchable,
        }
    }

    pub(super) fn last_slot(&self) -> u8 {
        self.index + u8::from(self.kind == BarKind::Memory64)
    }

    pub(super) fn overlaps(&self, other: &Bar) -> bool {
        self.index <= other.last_slot() && other.index <= self.last_slot()
    }
}

/// What a function decodes. Chipset functions have ranges beside their BARs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegionKind {
    /// The host bridge's ECAM (PCIEXBAR).
    Ecam,
    /// The LPC bridge's power management block (PMBASE).
    PowerManagement,
    /// The LPC bridge's chip configuration registers (RCBA).
    ChipConfiguration,
    /// A BAR, by its index.
    Bar(u8),
}

/// A range that a function decodes as its registers stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Which.
    pub kind: RegionKind,
    /// Address space.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Region {
    /// Last address, unless the range wraps.
    pub fn last(&self) -> Option<u64> {
        self.base.checked_add(self.len.checked_sub(1)?)
    }
}
