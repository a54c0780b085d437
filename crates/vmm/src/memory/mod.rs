//! Guest memory.
//!
//! KVM's dirty log doesn't see what the monitor itself writes, so every host write to RAM goes through
//! [`GuestRam`], whose bitmap does.

pub mod layout;
mod ram;
pub mod slots;
pub mod transfer;

use vm_memory::bitmap::AtomicBitmap;

pub use ram::{Backing, MAX_RAM, RamError, allocate, allocate_device};

/// Guest memory as every part of the monitor sees it; carries vm-memory's dirty bitmap.
pub type GuestRam = vm_memory::GuestMemoryMmap<AtomicBitmap>;

/// One contiguous range of guest memory.
pub type GuestRegion = vm_memory::GuestRegionMmap<AtomicBitmap>;

/// Host memory that a range of guest memory shows.
pub type Mapping = vm_memory::MmapRegion<AtomicBitmap>;
