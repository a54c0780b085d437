//! The memory section.

use crate::memory::Backing;

/// A machine's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes, a multiple of 4096.
    pub bytes: u64,
    /// What stands behind it.
    pub backing: Backing,
}
