//! Numbers of the virtio standard that all device types share.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.2.

#![allow(missing_docs)] // The names are the standard's own.

/// PCI vendor, and base to which a device type's id is added (4.1.2).
pub const PCI_VENDOR: u16 = 0x1af4;
pub const PCI_DEVICE_BASE: u16 = 0x1040;
/// Revision of a device without a legacy interface (4.1.2.1).
pub const PCI_REVISION: u8 = 1;
/// Subsystem id; the standard leaves it free.
pub const PCI_SUBSYSTEM: u16 = 0x1100;

// Reserved feature bits (6).
pub const FEATURE_INDIRECT_DESC: u64 = 1 << 28;
pub const FEATURE_EVENT_IDX: u64 = 1 << 29;
pub const FEATURE_VERSION_1: u64 = 1 << 32;

// Device status (2.1).
pub const STATUS_ACKNOWLEDGE: u8 = 1;
pub const STATUS_DRIVER: u8 = 2;
pub const STATUS_DRIVER_OK: u8 = 4;
pub const STATUS_FEATURES_OK: u8 = 8;
pub const STATUS_NEEDS_RESET: u8 = 64;
pub const STATUS_FAILED: u8 = 128;

/// No vector (4.1.4.3).
pub const NO_VECTOR: u16 = 0xffff;

// Interrupt status (4.1.4.5).
pub const ISR_QUEUE: u8 = 1;
pub const ISR_CONFIG: u8 = 2;

// Structure types in a virtio capability (4.1.4).
pub const CAP_COMMON: u8 = 1;
pub const CAP_NOTIFY: u8 = 2;
pub const CAP_ISR: u8 = 3;
pub const CAP_DEVICE: u8 = 4;
pub const CAP_PCI: u8 = 5;

// Fields of a virtio capability, from its start (4.1.4).
pub const CAP_TYPE: usize = 3;
pub const CAP_BAR: usize = 4;
pub const CAP_OFFSET: usize = 8;
pub const CAP_LENGTH: usize = 12;
pub const CAP_LEN: usize = 16;
/// Notification capability: the multiplier follows (4.1.4.4).
pub const CAP_NOTIFY_LEN: usize = 20;
/// Configuration access capability: its data window follows (4.1.4.9).
pub const CAP_PCI_DATA: usize = 16;
pub const CAP_PCI_LEN: usize = 20;

// Common configuration structure (4.1.4.3).
pub const COMMON_DEVICE_FEATURE_SELECT: usize = 0x00;
pub const COMMON_DEVICE_FEATURE: usize = 0x04;
pub const COMMON_DRIVER_FEATURE_SELECT: usize = 0x08;
pub const COMMON_DRIVER_FEATURE: usize = 0x0c;
pub const COMMON_CONFIG_VECTOR: usize = 0x10;
pub const COMMON_NUM_QUEUES: usize = 0x12;
pub const COMMON_STATUS: usize = 0x14;
pub const COMMON_GENERATION: usize = 0x15;
pub const COMMON_QUEUE_SELECT: usize = 0x16;
pub const COMMON_QUEUE_SIZE: usize = 0x18;
pub const COMMON_QUEUE_VECTOR: usize = 0x1a;
pub const COMMON_QUEUE_ENABLE: usize = 0x1c;
pub const COMMON_QUEUE_NOTIFY_OFF: usize = 0x1e;
pub const COMMON_QUEUE_DESC: usize = 0x20;
pub const COMMON_QUEUE_DRIVER: usize = 0x28;
pub const COMMON_QUEUE_DEVICE: usize = 0x30;
pub const COMMON_LEN: usize = 0x38;
