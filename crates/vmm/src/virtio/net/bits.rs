//! Numbers of the network device (VIRTIO 1.2, 5.1).

#![allow(missing_docs)] // The names are the standard's own.

pub const DEVICE_ID: u16 = 1;

// Feature bits (5.1.3).
pub const FEATURE_CSUM: u64 = 1 << 0;
pub const FEATURE_GUEST_CSUM: u64 = 1 << 1;
pub const FEATURE_MTU: u64 = 1 << 3;
pub const FEATURE_MAC: u64 = 1 << 5;
pub const FEATURE_GUEST_TSO4: u64 = 1 << 7;
pub const FEATURE_GUEST_TSO6: u64 = 1 << 8;
pub const FEATURE_HOST_TSO4: u64 = 1 << 11;
pub const FEATURE_HOST_TSO6: u64 = 1 << 12;
pub const FEATURE_MERGED_BUFFERS: u64 = 1 << 15;
pub const FEATURE_STATUS: u64 = 1 << 16;
pub const FEATURE_CONTROL: u64 = 1 << 17;
pub const FEATURE_CONTROL_RX: u64 = 1 << 18;
pub const FEATURE_CONTROL_RX_EXTRA: u64 = 1 << 20;
pub const FEATURE_CONTROL_MAC: u64 = 1 << 23;

// Queues of a device with one pair (5.1.2).
pub const RECEIVE: u16 = 0;
pub const TRANSMIT: u16 = 1;
pub const CONTROL: u16 = 2;

// Device configuration (5.1.4).
pub const CONFIG_MAC: usize = 0;
pub const CONFIG_STATUS: usize = 6;
pub const CONFIG_MTU: usize = 10;
pub const CONFIG_LEN: usize = 12;
/// The link is up.
pub const STATUS_LINK_UP: u16 = 1;

// A packet's header (5.1.6).
pub const HEADER_LEN: usize = 12;
pub const HEADER_FLAGS: usize = 0;
pub const HEADER_GSO_TYPE: usize = 1;
pub const HEADER_HDR_LEN: usize = 2;
pub const HEADER_GSO_SIZE: usize = 4;
pub const HEADER_CSUM_START: usize = 6;
pub const HEADER_CSUM_OFFSET: usize = 8;
pub const HEADER_NUM_BUFFERS: usize = 10;
pub const FLAG_NEEDS_CSUM: u8 = 1;
pub const FLAG_DATA_VALID: u8 = 2;
pub const GSO_NONE: u8 = 0;
pub const GSO_TCP4: u8 = 1;
pub const GSO_TCP6: u8 = 4;
/// Besides a type: the segments carry congestion marks.
pub const GSO_ECN: u8 = 0x80;

// Control commands (5.1.6.5).
pub const CLASS_RX: u8 = 0;
pub const RX_LAST: u8 = 5;
pub const CLASS_MAC: u8 = 1;
pub const MAC_TABLE_SET: u8 = 0;
pub const MAC_ADDR_SET: u8 = 1;
pub const ACK_OK: u8 = 0;
pub const ACK_ERROR: u8 = 1;
