//! Numbers of the block device (VIRTIO 1.2, 5.2).

#![allow(missing_docs)] // The names are the standard's own.

pub const DEVICE_ID: u16 = 2;

// Feature bits (5.2.3).
pub const FEATURE_SEG_MAX: u64 = 1 << 2;
pub const FEATURE_READ_ONLY: u64 = 1 << 5;
pub const FEATURE_BLOCK_SIZE: u64 = 1 << 6;
pub const FEATURE_FLUSH: u64 = 1 << 9;
pub const FEATURE_TOPOLOGY: u64 = 1 << 10;
pub const FEATURE_MULTI_QUEUE: u64 = 1 << 12;
pub const FEATURE_DISCARD: u64 = 1 << 13;
pub const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

// Device configuration (5.2.4).
pub const CONFIG_CAPACITY: usize = 0;
pub const CONFIG_SEG_MAX: usize = 12;
pub const CONFIG_BLOCK_SIZE: usize = 20;
pub const CONFIG_PHYSICAL_BLOCK_EXPONENT: usize = 24;
pub const CONFIG_MIN_IO_SIZE: usize = 26;
pub const CONFIG_OPTIMAL_IO_SIZE: usize = 28;
pub const CONFIG_NUM_QUEUES: usize = 34;
pub const CONFIG_MAX_DISCARD_SECTORS: usize = 36;
pub const CONFIG_MAX_DISCARD_SEGMENTS: usize = 40;
pub const CONFIG_DISCARD_ALIGNMENT: usize = 44;
pub const CONFIG_MAX_ZEROES_SECTORS: usize = 48;
pub const CONFIG_MAX_ZEROES_SEGMENTS: usize = 52;
pub const CONFIG_ZEROES_MAY_UNMAP: usize = 56;
pub const CONFIG_LEN: usize = 60;

// Request types (5.2.6).
pub const REQUEST_IN: u32 = 0;
pub const REQUEST_OUT: u32 = 1;
pub const REQUEST_FLUSH: u32 = 4;
pub const REQUEST_GET_ID: u32 = 8;
pub const REQUEST_DISCARD: u32 = 11;
pub const REQUEST_WRITE_ZEROES: u32 = 13;

// Request status (5.2.6).
pub const STATUS_OK: u8 = 0;
pub const STATUS_IO_ERROR: u8 = 1;
pub const STATUS_UNSUPPORTED: u8 = 2;

/// Bytes of a serial number (5.2.6).
pub const ID_LEN: usize = 20;
/// The one flag of a segment to zero: its space may be freed (5.2.6).
pub const SEGMENT_UNMAP: u32 = 1;
