//! What firmware would do before a kernel starts, on boots without firmware.
//!
//! All of it goes through the configuration registers that firmware uses, and nothing else in the tree knows these
//! numbers: what was programmed is read back from the registers (`PciHost::snapshot`).

mod scan;
mod space;

use super::bits::*;
use crate::pci::bar::BarKind;
use crate::pci::bits::*;
use crate::pci::intx::{PIRQS, Pin, pirq};
use crate::pci::{Bdf, LOW_WINDOWS_END, PciHost};
use scan::{Function, SizedBar, config16, scan};
use space::{Pools, Space};

const PM_BASE: u16 = 0x600;
const ECAM_BASE: u64 = 0xb000_0000;
const ECAM_LEN: u64 = 256 << 20;
const CHIP_CONFIGURATION_BASE: u32 = 0xfed1_c000;
/// ISA interrupts of PIRQ A to H, as PC firmware spreads them.
const ISA_IRQS: [u8; PIRQS] = [10, 10, 11, 11, 10, 10, 11, 11];
/// Ports for PCI: above all that ISA devices use.
const PORTS: (u64, u64) = (0x1000, 0x1_0000);
/// Windows of bridges come in steps of these (P2P 3.2.5).
const MEMORY_STEP: u64 = 1 << 20;
const PORT_STEP: u64 = 0x1000;
/// Least window of a slot into which something may be plugged later.
const EMPTY_SLOT_WINDOW: u64 = 2 << 20;
/// The 64-bit BARs start at a multiple of this above RAM.
const HIGH_ALIGN: u64 = 1 << 30;

/// The devices don't fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DirectError {
    /// No room for a window or BAR.
    #[error("no address space left for {size:#x} bytes of {what}: take devices or memory out of the machine")]
    NoRoom {
        /// What it is for.
        what: &'static str,
        /// Bytes wanted.
        size: u64,
    },
    /// More root ports than bus numbers.
    #[error("more than 255 root ports: take some out of the machine")]
    NoBus,
}

/// Programs chipset, bridges and devices. The machine has been reset and no vCPU runs.
///
/// # Errors
/// When the devices' BARs don't fit into the address space.
pub fn program(host: &PciHost) -> Result<(), DirectError> {
    chipset(host);
    let functions = number_buses(host)?;
    let low = [(ECAM_BASE + ECAM_LEN, LOW_WINDOWS_END), (host.low_memory_end().min(ECAM_BASE), ECAM_BASE)];
    let high_end = 1u64.checked_shl(host.physical_bits().into()).unwrap_or(u64::MAX);
    let high = (host.high_memory_end().max(1 << 32).next_multiple_of(HIGH_ALIGN), high_end);
    let mut pools = Pools { io: Space::new(&[PORTS]), low: Space::new(&low), high: Space::new(&[high]) };
    place_all(host, &functions, &mut pools)?;
    for function in &functions {
        finish(host, function, &functions);
    }
    Ok(())
}

fn chipset(host: &PciHost) {
    let mch = Bdf { bus: 0, device: MCH_DEVICE, function: 0 };
    host.config_write(mch, PCIEXBAR + 4, &((ECAM_BASE >> 32) as u32).to_le_bytes());
    host.config_write(mch, PCIEXBAR, &((ECAM_BASE | PCIEXBAR_ENABLE) as u32).to_le_bytes());
    let lpc = Bdf { bus: 0, device: LPC_DEVICE, function: 0 };
    host.config_write(lpc, PMBASE, &u32::from(PM_BASE).to_le_bytes());
    host.config_write(lpc, ACPI_CONTROL, &[ACPI_CONTROL_ENABLE]);
    host.config_write(lpc, RCBA, &(CHIP_CONFIGURATION_BASE | RCBA_ENABLE).to_le_bytes());
    let (low, high) = ISA_IRQS.split_at(PIRQS / 2);
    host.config_write(lpc, PIRQ_ROUTE_LOW, low);
    host.config_write(lpc, PIRQ_ROUTE_HIGH, high);
}

// Gives each bridge on bus 0 the next bus number, and finds what is behind it.
fn number_buses(host: &PciHost) -> Result<Vec<Function>, DirectError> {
    let mut functions = scan(host, 0);
    let bridges: Vec<Bdf> = functions.iter().filter(|function| function.bridge).map(|function| function.at).collect();
    for (number, bridge) in (1u16..).zip(bridges) {
        let number = u8::try_from(number).map_err(|_| DirectError::NoBus)?;
        host.config_write(bridge, PRIMARY_BUS, &[0, number, number]);
        let mut behind = scan(host, number);
        for function in &mut behind {
            function.port = Some(bridge);
        }
        functions.append(&mut behind);
    }
    Ok(functions)
}

// Largest first, so that alignment leaves few holes.
fn place_all(host: &PciHost, functions: &[Function], pools: &mut Pools) -> Result<(), DirectError> {
    let mut own: Vec<(Bdf, SizedBar)> = Vec::new();
    for function in functions.iter().filter(|function| function.port.is_none()) {
        own.extend(function.bars.iter().map(|bar| (function.at, *bar)));
    }
    place(host, own, pools)?;
    for bridge in functions.iter().filter(|function| function.bridge) {
        let mut behind: Vec<(Bdf, SizedBar)> = Vec::new();
        for function in functions.iter().filter(|function| function.port == Some(bridge.at)) {
            behind.extend(function.bars.iter().map(|bar| (function.at, *bar)));
        }
        let mut windows = open_windows(host, bridge.at, &behind, pools)?;
        place(host, behind, &mut windows)?;
    }
    Ok(())
}

fn place(host: &PciHost, mut bars: Vec<(Bdf, SizedBar)>, pools: &mut Pools) -> Result<(), DirectError> {
    bars.sort_by_key(|(_, bar)| std::cmp::Reverse(bar.size));
    for (at, bar) in bars {
        let (what, pool) = match bar.pool() {
            Pool::Io => ("I/O ports", &mut pools.io),
            Pool::High if pools.high.fits(bar.size, bar.size) => ("memory above 4 GiB", &mut pools.high),
            Pool::High | Pool::Low => ("memory below 4 GiB", &mut pools.low),
        };
        let base = pool.take(bar.size, bar.size).ok_or(DirectError::NoRoom { what, size: bar.size })?;
        host.config_write(at, bar.offset, &(base as u32).to_le_bytes());
        if bar.kind == BarKind::Memory64 {
            host.config_write(at, bar.offset + 4, &((base >> 32) as u32).to_le_bytes());
        }
    }
    Ok(())
}

/// Where a BAR may stand: a bridge's prefetchable window is the only one that reaches above 4 GiB (P2P 3.2.5.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Io,
    Low,
    High,
}

impl SizedBar {
    fn pool(&self) -> Pool {
        match (self.kind, self.prefetchable) {
            (BarKind::Io, _) => Pool::Io,
            (BarKind::Memory64, true) => Pool::High,
            (BarKind::Memory32 | BarKind::Memory64, _) => Pool::Low,
        }
    }
}

// Room for all BARs of a pool, each aligned to its size, in a window of whole steps.
fn window_size(bars: &[(Bdf, SizedBar)], pool: Pool, step: u64, least: u64) -> (u64, u64) {
    let sizes = bars.iter().filter(|(_, bar)| bar.pool() == pool).map(|(_, bar)| bar.size);
    let align = sizes.clone().max().unwrap_or(0).max(step);
    (sizes.fold(0u64, u64::saturating_add).max(least).checked_next_multiple_of(step).unwrap_or(u64::MAX), align)
}

fn open_windows(
    host: &PciHost,
    bridge: Bdf,
    behind: &[(Bdf, SizedBar)],
    pools: &mut Pools,
) -> Result<Pools, DirectError> {
    let mut windows = Pools { io: Space::new(&[]), low: Space::new(&[]), high: Space::new(&[]) };
    let (size, align) = window_size(behind, Pool::Io, PORT_STEP, 0);
    if size > 0 {
        let base = pools.io.take(size, align).ok_or(DirectError::NoRoom { what: "I/O ports", size })?;
        windows.io = Space::new(&[(base, base + size)]);
        let limit = base + size - 1;
        host.config_write(bridge, IO_BASE, &[(base >> 8) as u8, (limit >> 8) as u8]);
    } else {
        // Base above limit: closed (P2P 3.2.5.6).
        host.config_write(bridge, IO_BASE, &[0xf0, 0x00]);
    }
    let (size, align) = window_size(behind, Pool::Low, MEMORY_STEP, EMPTY_SLOT_WINDOW);
    let base = pools.low.take(size, align).ok_or(DirectError::NoRoom { what: "memory below 4 GiB", size })?;
    windows.low = Space::new(&[(base, base + size)]);
    write_window(host, bridge, MEMORY_BASE, base, base + size - 1);
    let (size, align) = window_size(behind, Pool::High, MEMORY_STEP, EMPTY_SLOT_WINDOW);
    let pool = if pools.high.fits(size, align) { &mut pools.high } else { &mut pools.low };
    let base = pool.take(size, align).ok_or(DirectError::NoRoom { what: "prefetchable memory", size })?;
    windows.high = Space::new(&[(base, base + size)]);
    let limit = base + size - 1;
    write_window(host, bridge, PREFETCH_BASE, base, limit);
    host.config_write(bridge, PREFETCH_BASE_UPPER, &((base >> 32) as u32).to_le_bytes());
    host.config_write(bridge, PREFETCH_LIMIT_UPPER, &((limit >> 32) as u32).to_le_bytes());
    Ok(windows)
}

fn write_window(host: &PciHost, bridge: Bdf, register: usize, base: u64, limit: u64) {
    let value = (base >> 16 & 0xfff0) | (limit >> 16 & 0xfff0) << 16;
    host.config_write(bridge, register, &(value as u32).to_le_bytes());
}

// Decoding on, and the interrupt line that a kernel without ACPI would look at.
fn finish(host: &PciHost, function: &Function, all: &[Function]) {
    let mut command = config16(host, function.at, COMMAND);
    for bar in &function.bars {
        command |= if bar.kind == BarKind::Io { COMMAND_IO } else { COMMAND_MEMORY };
    }
    if function.bridge {
        command |= COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_SERR;
        host.config_write(function.at, BRIDGE_CONTROL, &BRIDGE_CONTROL_SERR.to_le_bytes());
    }
    host.config_write(function.at, COMMAND, &command.to_le_bytes());
    if let Some(pin) = function.pin.checked_sub(1).and_then(|pin| Pin::ALL.get(usize::from(pin))) {
        let port = function.port.and_then(|port| all.iter().find(|other| other.at == port));
        let (device, pin) = match port {
            None => (function.at.device, *pin),
            Some(port) => (port.at.device, pin.swizzled(function.at.device)),
        };
        let irq = ISA_IRQS.get(usize::from(pirq(device, pin))).copied().unwrap_or(0xff);
        host.config_write(function.at, INTERRUPT_LINE, &[irq]);
    }
}
