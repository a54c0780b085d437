//! The tables of plain data: FADT, FACS, MADT, MCFG, XSDT, RSDP (ACPI 6.5, 5.2; PCI Firmware 3.3, 4.1.2).

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, facs::FACS, rsdp::Rsdp};

use super::{Machine, OEM_ID, OEM_REVISION, OEM_TABLE_ID, to_bytes};
use crate::chipset::pm;
use crate::legacy::ports::RESET_CONTROL;
use crate::machine::SCI;
use crate::memory::layout::{IOAPIC, LAPIC};
use crate::pci::Window;

/// RST_CNT: full reset, now.
const RESET_VALUE: u8 = 0x06;
/// CMOS register that holds the century.
const CENTURY: u8 = 0x32;
// IAPC_BOOT_ARCH (5.2.9.3).
const LEGACY_DEVICES: u16 = 1 << 0;
const KEYBOARD_CONTROLLER: u16 = 1 << 1;
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_RTC: u16 = 1 << 5;
/// Latencies that say "there is no such state" (5.2.9).
const NO_C2: u16 = 0xfff;

/// Where FADT points at FACS: 4 bytes, and 8 in the extended field.
pub const FADT_FACS: (usize, usize) = (36, 132);
/// Where FADT points at DSDT.
pub const FADT_DSDT: (usize, usize) = (40, 140);
/// Where XSDT's entries begin.
pub const XSDT_ENTRIES: usize = 36;
/// Where RSDP points at XSDT.
pub const RSDP_XSDT: usize = 24;
/// What RSDP's first checksum covers, and where it and the second stand.
pub const RSDP_SUMS: [(usize, usize); 2] = [(20, 8), (36, 32)];

pub fn fadt(machine: &Machine) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // The power button is fixed hardware; there is no sleep button, and the clock wakes nobody.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C2.into();
    fadt.sci_int = u16::from(SCI).into();
    fadt.reset_reg = register(RESET_CONTROL.into(), 8, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.iapc_boot_arch = boot_arch(machine).into();
    if machine.rtc {
        fadt.century = CENTURY;
    }
    if let Some(base) = machine.pci.pm_base {
        // General events are those of slots. A machine without slots has none to tell of, and its system needn't
        // silence sixteen registers on its way up.
        power_management(&mut fadt, base.into(), !machine.pci.root_ports.is_empty());
    }
    to_bytes(&fadt.finalize() as &FADT)
}

fn power_management(fadt: &mut FADTBuilder, base: u64, events: bool) {
    let at = |offset: u16| base + u64::from(offset);
    let low = |offset: u16| (at(offset) as u32).into();
    fadt.pm1a_evt_blk = low(pm::PM1_EVENT);
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = register(at(pm::PM1_EVENT), 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = low(pm::PM1_CONTROL);
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = register(at(pm::PM1_CONTROL), 16, AccessSize::WordAccess);
    fadt.pm_tmr_blk = low(pm::TIMER);
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = register(at(pm::TIMER), 32, AccessSize::DwordAccess);
    if events {
        fadt.gpe0_blk = low(pm::GPE0);
        fadt.gpe0_blk_len = pm::GPE0_LEN;
        fadt.x_gpe0_blk = register(at(pm::GPE0), pm::GPE0_LEN * 8, AccessSize::ByteAccess);
    }
}

fn register(address: u64, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, address)
}

fn boot_arch(machine: &Machine) -> u16 {
    let mut flags = LEGACY_DEVICES | NO_VGA;
    if machine.ps2 {
        flags |= KEYBOARD_CONTROLLER;
    }
    if !machine.rtc {
        flags |= NO_CMOS_RTC;
    }
    flags
}

pub fn facs() -> Vec<u8> {
    to_bytes(&FACS::new())
}

/// The machine has 8259s besides the APICs (MADT flags, 5.2.12).
const PCAT_COMPAT: u32 = 1;
// Interrupt controller structures (5.2.12.5, 5.2.12.7) and their flags: active high, level triggered.
const SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
const AS_THE_BUS: u16 = 0;
const LEVEL_HIGH: u16 = 0b1101;

pub fn madt(machine: &Machine) -> Vec<u8> {
    let mut madt = Sdt::new(*b"APIC", 44, 4, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(36, LAPIC as u32);
    madt.write_u32(40, PCAT_COMPAT);
    for (number, id) in (0u8..).zip(&machine.apic_ids) {
        madt.append_slice(&to_bytes(&ProcessorLocalApic::new(number, *id, EnabledStatus::Enabled)));
    }
    madt.append_slice(&to_bytes(&IoApic::new(0, IOAPIC as u32, 0)));
    // IRQ 0 comes in on pin 2.
    madt.append_slice(&source_override(0, 2, AS_THE_BUS));
    // PIRQs may share these, so they are levels: SCI, and where the links can go.
    for irq in [5, SCI, 10, 11] {
        madt.append_slice(&source_override(irq, irq, LEVEL_HIGH));
    }
    // LINT1 of every processor.
    madt.append_slice(&[LOCAL_APIC_NMI, 6, 0xff, 0, 0, 1]);
    madt.as_slice().to_vec()
}

fn source_override(irq: u8, gsi: u8, flags: u16) -> [u8; 10] {
    let [low, high] = flags.to_le_bytes();
    [SOURCE_OVERRIDE, 10, 0, irq, gsi, 0, 0, 0, low, high]
}

pub fn mcfg(ecam: Window, last_bus: u8) -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    // A megabyte a bus.
    let decoded = (ecam.len >> 20).clamp(1, 256) - 1;
    mcfg.add_ecam(ecam.base, 0, 0, last_bus.min(decoded as u8));
    to_bytes(&mcfg as &dyn Aml)
}

/// An XSDT with room for so many pointers.
pub fn xsdt(entries: usize) -> Vec<u8> {
    let len = XSDT_ENTRIES + 8 * entries;
    Sdt::new(*b"XSDT", len as u32, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION).as_slice().to_vec()
}

pub fn rsdp() -> Vec<u8> {
    to_bytes(&Rsdp::new(OEM_ID, 0))
}
