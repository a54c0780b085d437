//! Register offsets and bits of PCI configuration space.
//!
//! Sources: PCI Local Bus 3.0 ("PCI"), PCI-to-PCI Bridge Architecture 1.2 ("P2P"), PCI Express Base 4.0 ("PCIe").

#![allow(missing_docs)] // The names are the standards' own.

/// Bytes of conventional configuration space (PCI 6.1).
pub const CONVENTIONAL_SIZE: usize = 0x100;
/// Bytes of extended configuration space (PCIe 7.2.2).
pub const EXTENDED_SIZE: usize = 0x1000;

// Header common to both types (PCI 6.1).
pub const VENDOR_ID: usize = 0x00;
pub const DEVICE_ID: usize = 0x02;
pub const COMMAND: usize = 0x04;
pub const STATUS: usize = 0x06;
pub const REVISION_ID: usize = 0x08;
pub const CLASS_CODE: usize = 0x09;
pub const CACHE_LINE_SIZE: usize = 0x0c;
pub const LATENCY_TIMER: usize = 0x0d;
pub const HEADER_TYPE: usize = 0x0e;
pub const BAR0: usize = 0x10;
pub const CAPABILITIES_POINTER: usize = 0x34;
pub const INTERRUPT_LINE: usize = 0x3c;
pub const INTERRUPT_PIN: usize = 0x3d;
/// First byte after the header.
pub const HEADER_END: usize = 0x40;

// Type 0 header (PCI 6.1).
pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
pub const SUBSYSTEM_ID: usize = 0x2e;

// Command register (PCI 6.2.2).
pub const COMMAND_IO: u16 = 1 << 0;
pub const COMMAND_MEMORY: u16 = 1 << 1;
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
pub const COMMAND_PARITY: u16 = 1 << 6;
pub const COMMAND_SERR: u16 = 1 << 8;
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;

// Status register (PCI 6.2.3).
pub const STATUS_INTERRUPT: u16 = 1 << 3;
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Error bits, each cleared by writing a one.
pub const STATUS_ERRORS: u16 = 0xf900;

// Header type register (PCI 6.2.1).
pub const HEADER_TYPE_BRIDGE: u8 = 0x01;
pub const HEADER_TYPE_MULTIFUNCTION: u8 = 0x80;

// Base address registers (PCI 6.2.5.1).
pub const BAR_IO: u32 = 1 << 0;
pub const BAR_64BIT: u32 = 2 << 1;
pub const BAR_PREFETCHABLE: u32 = 1 << 3;

// Type 1 header (P2P 3.2).
pub const PRIMARY_BUS: usize = 0x18;
pub const SECONDARY_BUS: usize = 0x19;
pub const SUBORDINATE_BUS: usize = 0x1a;
pub const IO_BASE: usize = 0x1c;
pub const IO_LIMIT: usize = 0x1d;
pub const SECONDARY_STATUS: usize = 0x1e;
pub const MEMORY_BASE: usize = 0x20;
pub const MEMORY_LIMIT: usize = 0x22;
pub const PREFETCH_BASE: usize = 0x24;
pub const PREFETCH_LIMIT: usize = 0x26;
pub const PREFETCH_BASE_UPPER: usize = 0x28;
pub const PREFETCH_LIMIT_UPPER: usize = 0x2c;
pub const IO_BASE_UPPER: usize = 0x30;
pub const IO_LIMIT_UPPER: usize = 0x32;
pub const BRIDGE_CONTROL: usize = 0x3e;
/// Low bits of the I/O windows' base and limit: 32-bit addressing (P2P 3.2.5.6).
pub const IO_WINDOW_32BIT: u8 = 0x01;
/// Low bits of the prefetchable window's base and limit: 64-bit addressing (P2P 3.2.5.9).
pub const PREFETCH_WINDOW_64BIT: u16 = 0x0001;

// Bridge control register (P2P 3.2.5.18).
pub const BRIDGE_CONTROL_PARITY: u16 = 1 << 0;
pub const BRIDGE_CONTROL_SERR: u16 = 1 << 1;
pub const BRIDGE_CONTROL_ISA: u16 = 1 << 2;
pub const BRIDGE_CONTROL_VGA: u16 = 1 << 3;
pub const BRIDGE_CONTROL_VGA16: u16 = 1 << 4;
pub const BRIDGE_CONTROL_RESET: u16 = 1 << 6;

// Capability ids (PCI appendix H; PCIe 7.9).
pub const CAPABILITY_MSI: u8 = 0x05;
pub const CAPABILITY_VENDOR: u8 = 0x09;
pub const CAPABILITY_EXPRESS: u8 = 0x10;
pub const CAPABILITY_MSIX: u8 = 0x11;

// MSI capability with a 64-bit address (PCI 6.8.1), from its start.
pub const MSI_CONTROL: usize = 0x02;
pub const MSI_ADDRESS: usize = 0x04;
pub const MSI_ADDRESS_UPPER: usize = 0x08;
pub const MSI_DATA: usize = 0x0c;
pub const MSI_LEN: usize = 0x0e;
pub const MSI_CONTROL_ENABLE: u16 = 1 << 0;
pub const MSI_CONTROL_64BIT: u16 = 1 << 7;

// MSI-X capability (PCI 6.8.2.3), from its start.
pub const MSIX_CONTROL: usize = 0x02;
pub const MSIX_LEN: usize = 0x0c;
pub const MSIX_CONTROL_MASK: u16 = 1 << 14;
pub const MSIX_CONTROL_ENABLE: u16 = 1 << 15;
/// Bytes of an MSI-X table entry (PCI 6.8.2.6).
pub const MSIX_ENTRY_LEN: usize = 16;
/// Mask bit in an entry's vector control (PCI 6.8.2.9).
pub const MSIX_ENTRY_MASK: u8 = 1;
/// Most vectors that a function can have (PCI 6.8.2.3).
pub const MSIX_MAX_VECTORS: u16 = 2048;

// PCI Express capability, version 2 (PCIe 7.5.3), from its start.
pub const EXPRESS_FLAGS: usize = 0x02;
pub const EXPRESS_DEVICE_CAPABILITIES: usize = 0x04;
pub const EXPRESS_DEVICE_CONTROL: usize = 0x08;
pub const EXPRESS_DEVICE_STATUS: usize = 0x0a;
pub const EXPRESS_LINK_CAPABILITIES: usize = 0x0c;
pub const EXPRESS_LINK_CONTROL: usize = 0x10;
pub const EXPRESS_LINK_STATUS: usize = 0x12;
pub const EXPRESS_SLOT_CAPABILITIES: usize = 0x14;
pub const EXPRESS_SLOT_CONTROL: usize = 0x18;
pub const EXPRESS_SLOT_STATUS: usize = 0x1a;
pub const EXPRESS_ROOT_CONTROL: usize = 0x1c;
pub const EXPRESS_ROOT_STATUS: usize = 0x20;
pub const EXPRESS_DEVICE_CONTROL_2: usize = 0x28;
pub const EXPRESS_LINK_CAPABILITIES_2: usize = 0x2c;
pub const EXPRESS_LINK_CONTROL_2: usize = 0x30;
pub const EXPRESS_LEN: usize = 0x3c;

// PCI Express capabilities register (PCIe 7.5.3.2).
pub const EXPRESS_VERSION: u16 = 2;
pub const EXPRESS_TYPE_ENDPOINT: u16 = 0 << 4;
pub const EXPRESS_TYPE_ROOT_PORT: u16 = 4 << 4;
pub const EXPRESS_SLOT_IMPLEMENTED: u16 = 1 << 8;

// Device capabilities and control (PCIe 7.5.3.3, 7.5.3.4).
pub const DEVICE_CAPABILITIES_ROLE_ERRORS: u32 = 1 << 15;
pub const DEVICE_CAPABILITIES_FLR: u32 = 1 << 28;
pub const DEVICE_CONTROL_FLR: u16 = 1 << 15;
/// Error reporting, relaxed ordering, payload size, no snoop, read request size: kept, without effect.
pub const DEVICE_CONTROL_WRITABLE: u16 = 0x78ff;
/// Default of device control: read requests of 512 bytes, relaxed ordering and no snoop allowed.
pub const DEVICE_CONTROL_DEFAULT: u16 = 0x2810;
pub const DEVICE_STATUS_ERRORS: u16 = 0x000f;

// Link (PCIe 7.5.3.6 to 7.5.3.8).
pub const LINK_SPEED_8GT: u32 = 3;
pub const LINK_WIDTH_X8: u32 = 8 << 4;
pub const LINK_CAPABILITIES_ACTIVE_REPORTING: u32 = 1 << 20;
pub const LINK_CAPABILITIES_PORT_SHIFT: u32 = 24;
pub const LINK_CONTROL_DISABLE: u16 = 1 << 4;
/// ASPM, read completion boundary, link disable, common clock, extended synch: kept.
pub const LINK_CONTROL_WRITABLE: u16 = 0x00db;
pub const LINK_STATUS_ACTIVE: u16 = 1 << 13;
/// Supported link speeds vector: 2.5, 5 and 8 GT/s (PCIe 7.5.3.18).
pub const LINK_CAPABILITIES_2_SPEEDS: u32 = 0x0e;
/// Target link speed (PCIe 7.5.3.19).
pub const LINK_CONTROL_2_WRITABLE: u16 = 0x000f;

// Slot (PCIe 7.5.3.9 to 7.5.3.11).
pub const SLOT_CAPABILITIES_SURPRISE: u32 = 1 << 5;
pub const SLOT_CAPABILITIES_HOT_PLUG: u32 = 1 << 6;
pub const SLOT_CAPABILITIES_NO_COMMAND_COMPLETED: u32 = 1 << 18;
pub const SLOT_CAPABILITIES_NUMBER_SHIFT: u32 = 19;
pub const SLOT_CONTROL_PRESENCE: u16 = 1 << 3;
pub const SLOT_CONTROL_HOT_PLUG: u16 = 1 << 5;
pub const SLOT_CONTROL_LINK: u16 = 1 << 12;
pub const SLOT_STATUS_PRESENCE_CHANGED: u16 = 1 << 3;
pub const SLOT_STATUS_PRESENT: u16 = 1 << 6;
pub const SLOT_STATUS_LINK_CHANGED: u16 = 1 << 8;

// Root control and status (PCIe 7.5.3.12, 7.5.3.14).
pub const ROOT_CONTROL_WRITABLE: u16 = 0x000f;
pub const ROOT_STATUS_PME: u32 = 1 << 16;

// Configuration mechanism 1 (PCI 3.2.2.3.2).
pub const CONFIG_ADDRESS_PORT: u64 = 0xcf8;
/// CONFIG_ADDRESS and CONFIG_DATA together.
pub const CONFIG_PORTS_LEN: u64 = 8;
pub const CONFIG_ADDRESS_ENABLE: u32 = 1 << 31;
/// Bits of CONFIG_ADDRESS that exist.
pub const CONFIG_ADDRESS_MASK: u32 = 0x80ff_fffc;
/// Offset of the chipset's reset control register, which hides inside CONFIG_ADDRESS (ICH9 13.7.5).
pub const RESET_CONTROL_OFFSET: u64 = 1;
