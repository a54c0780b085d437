//! What a bridge forwards: bus numbers and windows. PCI-to-PCI Bridge Architecture 1.2, 3.2.5.

use super::bar::{Region, Space};
use super::bits::*;
use super::config::ConfigSpace;

/// A bridge's registers, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarding {
    /// Bus behind the bridge; 0 while not programmed.
    pub secondary: u8,
    /// Highest bus number behind it.
    pub subordinate: u8,
    /// First and last I/O port forwarded.
    pub io: Option<(u64, u64)>,
    /// First and last address of the memory window.
    pub memory: Option<(u64, u64)>,
    /// First and last address of the prefetchable window.
    pub prefetch: Option<(u64, u64)>,
    /// Physical slot number behind it.
    pub slot: u16,
    /// Whether the link behind it is up when something is there.
    pub link: bool,
}

fn window(on: bool, base: u64, limit: u64) -> Option<(u64, u64)> {
    (on && base <= limit).then_some((base, limit))
}

impl Forwarding {
    /// Reads the registers of `config`. Windows are closed while the command register keeps them so.
    pub fn of(config: &ConfigSpace, slot: u16, link: bool) -> Self {
        let command = config.u16(COMMAND);
        let io = |low: usize, high: usize| u64::from(config.u8(low) & 0xf0) << 8 | u64::from(config.u16(high)) << 16;
        let memory = |low: usize| u64::from(config.u16(low) & 0xfff0) << 16;
        let upper = |high: usize| u64::from(config.u32(high)) << 32;
        let on = command & COMMAND_MEMORY != 0;
        let prefetch_base = memory(PREFETCH_BASE) | upper(PREFETCH_BASE_UPPER);
        let prefetch_limit = memory(PREFETCH_LIMIT) | upper(PREFETCH_LIMIT_UPPER) | 0xf_ffff;
        Self {
            secondary: config.u8(SECONDARY_BUS),
            subordinate: config.u8(SUBORDINATE_BUS),
            io: window(command & COMMAND_IO != 0, io(IO_BASE, IO_BASE_UPPER), io(IO_LIMIT, IO_LIMIT_UPPER) | 0xfff),
            memory: window(on, memory(MEMORY_BASE), memory(MEMORY_LIMIT) | 0xf_ffff),
            prefetch: window(on, prefetch_base, prefetch_limit),
            slot,
            link,
        }
    }

    /// Whether the whole region is forwarded downstream.
    pub fn covers(&self, region: &Region) -> bool {
        let Some(last) = region.last() else { return false };
        let within = |window: Option<(u64, u64)>| window.is_some_and(|(low, high)| low <= region.base && last <= high);
        self.link
            && match region.space {
                Space::Port => within(self.io),
                Space::Memory => within(self.memory) || within(self.prefetch),
            }
    }
}
