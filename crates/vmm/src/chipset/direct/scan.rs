//! Finds the functions of a bus and how large their BARs are (PCI 6.2.5.1).

use crate::pci::bar::BarKind;
use crate::pci::bits::*;
use crate::pci::{Bdf, PciHost};

/// A BAR and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizedBar {
    pub(super) offset: usize,
    pub(super) kind: BarKind,
    pub(super) prefetchable: bool,
    pub(super) size: u64,
}

/// A function that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) at: Bdf,
    pub(super) bridge: bool,
    /// The root port that it is behind.
    pub(super) port: Option<Bdf>,
    /// Interrupt pin register: 0 none, 1 INTA.
    pub(super) pin: u8,
    pub(super) bars: Vec<SizedBar>,
}

fn config8(host: &PciHost, at: Bdf, offset: usize) -> u8 {
    let mut value = [0];
    host.config_read(at, offset, &mut value);
    u8::from_le_bytes(value)
}

pub(super) fn config16(host: &PciHost, at: Bdf, offset: usize) -> u16 {
    let mut value = [0; 2];
    host.config_read(at, offset, &mut value);
    u16::from_le_bytes(value)
}

fn config32(host: &PciHost, at: Bdf, offset: usize) -> u32 {
    let mut value = [0; 4];
    host.config_read(at, offset, &mut value);
    u32::from_le_bytes(value)
}

/// All functions of a bus. Their decoding is off afterwards.
pub(super) fn scan(host: &PciHost, bus: u8) -> Vec<Function> {
    let mut found = Vec::new();
    for device in 0..32 {
        for function in 0..8 {
            let at = Bdf { bus, device, function };
            if config16(host, at, VENDOR_ID) != 0xffff {
                found.push(examine(host, at));
            }
            let first = Bdf { function: 0, ..at };
            let multifunction = config8(host, first, HEADER_TYPE) & HEADER_TYPE_MULTIFUNCTION != 0;
            if function == 0 && (config16(host, first, VENDOR_ID) == 0xffff || !multifunction) {
                break;
            }
        }
    }
    found
}

fn examine(host: &PciHost, at: Bdf) -> Function {
    let bridge = config8(host, at, HEADER_TYPE) & !HEADER_TYPE_MULTIFUNCTION == HEADER_TYPE_BRIDGE;
    let slots = if bridge { 2 } else { 6 };
    let decoding = COMMAND_IO | COMMAND_MEMORY;
    let command = config16(host, at, COMMAND) & !decoding;
    let mut bars = Vec::new();
    let mut slot = 0;
    host.config_write(at, COMMAND, &command.to_le_bytes());
    while slot < slots {
        let bar = probe(host, at, slot);
        slot += if bar.is_some_and(|bar| bar.kind == BarKind::Memory64) { 2 } else { 1 };
        bars.extend(bar);
    }
    Function { at, bridge, port: None, pin: config8(host, at, INTERRUPT_PIN), bars }
}

// Writes ones, reads the mask back, and puts zero in their place: the BAR is nowhere until it is placed.
fn probe(host: &PciHost, at: Bdf, slot: usize) -> Option<SizedBar> {
    let offset = BAR0 + slot * 4;
    let ones = |offset| {
        host.config_write(at, offset, &[0xff; 4]);
        let mask = config32(host, at, offset);
        host.config_write(at, offset, &[0; 4]);
        mask
    };
    let low = ones(offset);
    if low == 0 {
        return None;
    }
    if low & BAR_IO != 0 {
        let size = u64::from(!(low & !3) & 0xffff) + 1;
        return Some(SizedBar { offset, kind: BarKind::Io, prefetchable: false, size });
    }
    let wide = low & BAR_64BIT != 0;
    let high = if wide { ones(offset + 4) } else { u32::MAX };
    let mask = u64::from(low & !0xf) | u64::from(high) << 32;
    let kind = if wide { BarKind::Memory64 } else { BarKind::Memory32 };
    let size = (!mask).checked_add(1)?;
    Some(SizedBar { offset, kind, prefetchable: low & BAR_PREFETCHABLE != 0, size })
}
