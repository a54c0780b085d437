//! Ports, keys and bits of the firmware configuration device.
//!
//! QEMU, "Firmware Configuration (fw_cfg) Device" (docs/specs/fw_cfg).

/// First port.
pub const PORT: u64 = 0x510;
/// Ports 0x510 to 0x51b.
pub const LEN: u64 = 12;

/// Selector, 16 bits, written.
pub const SELECTOR: u64 = 0;
/// Data, byte by byte, read. It is the selector's second byte.
pub const DATA: u64 = 1;
/// Address of a DMA request, 64 bits of big-endian order: the upper half,
pub const DMA_HIGH: u64 = 4;
/// and the lower one, with which the request begins.
pub const DMA_LOW: u64 = 8;

/// What the address register reads as: "QEMU CFG".
pub const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// Key of four bytes by which the device is known.
pub const KEY_SIGNATURE: u16 = 0x0000;
/// Their value.
pub const SIGNATURE: [u8; 4] = *b"QEMU";
/// Key of the features.
pub const KEY_FEATURES: u16 = 0x0001;
/// Feature: selector and data port.
pub const FEATURE_TRADITIONAL: u32 = 1 << 0;
/// Feature: DMA.
pub const FEATURE_DMA: u32 = 1 << 1;
/// Key of the list of files.
pub const KEY_DIRECTORY: u16 = 0x0019;
/// Key of the first file.
pub const KEY_FIRST_FILE: u16 = 0x0020;
/// A selector's bit that once asked to write; it selects the same item.
pub const SELECT_WRITE: u16 = 1 << 14;
/// A selector's bit of items of the architecture's own.
pub const SELECT_ARCHITECTURE: u16 = 1 << 15;

/// Bytes of a directory's entry: size, key, two of nothing, name.
pub const ENTRY_LEN: usize = 64;
/// Bytes of a name, one of which ends it.
pub const NAME_LEN: usize = 56;

/// Bytes of a request: control, length, address, all of big-endian order.
pub const REQUEST_LEN: usize = 16;
/// Control: it failed.
pub const CONTROL_ERROR: u32 = 1 << 0;
/// Control: bytes of the item go to memory.
pub const CONTROL_READ: u32 = 1 << 1;
/// Control: bytes are passed over.
pub const CONTROL_SKIP: u32 = 1 << 2;
/// Control: an item is selected, whose key stands in the upper half.
pub const CONTROL_SELECT: u32 = 1 << 3;
/// Control: bytes of memory go to the item.
pub const CONTROL_WRITE: u32 = 1 << 4;
