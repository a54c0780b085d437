//! Guest memory.
//!
//! KVM's dirty log doesn't see what the monitor itself writes, so every host write to RAM goes through
//! [`GuestRam`], whose bitmap does.

use vm_memory::bitmap::AtomicBitmap;

/// Guest memory as every part of the monitor sees it; carries vm-memory's dirty bitmap.
pub type GuestRam = vm_memory::GuestMemoryMmap<AtomicBitmap>;

/// One contiguous range of guest memory.
pub type GuestRegion = vm_memory::GuestRegionMmap<AtomicBitmap>;
