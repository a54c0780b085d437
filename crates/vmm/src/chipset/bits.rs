//! Registers of the chipset.
//!
//! Sources: Intel 3 Series Express Chipset (Q35) data sheet 316966 ("MCH"), I/O Controller Hub 9 data sheet 316972
//! ("ICH9").

#![allow(missing_docs)] // The names are the data sheets' own.

/// Subsystem ids of both functions, by which stock firmware recognises a virtual board.
pub const SUBSYSTEM_VENDOR: u16 = 0x1af4;
pub const SUBSYSTEM: u16 = 0x1100;

// Places on bus 0.
pub const MCH_DEVICE: u8 = 0;
pub const LPC_DEVICE: u8 = 31;

// Host bridge (MCH 5.1).
pub const PCIEXBAR: usize = 0x60;
pub const PCIEXBAR_RESET: u64 = 0xe000_0000;
pub const PCIEXBAR_ENABLE: u64 = 1 << 0;
/// Length: 0 is 256 MiB, 1 is 128 MiB, 2 is 64 MiB (MCH 5.1.14).
pub const PCIEXBAR_LENGTH_SHIFT: u32 = 1;
pub const PCIEXBAR_LENGTH_MASK: u64 = 3 << PCIEXBAR_LENGTH_SHIFT;
/// Base address bits; those below the chosen length are ignored.
pub const PCIEXBAR_BASE_MASK: u64 = !0x3ff_ffff;
pub const PAM0: usize = 0x90;
/// PAM0 has only its upper half (MCH 5.1.16), PAM1 to PAM6 have both.
pub const PAM_WRITABLE: [u8; 7] = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];
pub const SMRAM: usize = 0x9d;
pub const SMRAM_RESET: u8 = 0x02;
/// Open, closed, enabled. The lock bit reads 0: without system management mode there is nothing to lock.
pub const SMRAM_WRITABLE: u8 = 0x68;
pub const ESMRAMC: usize = 0x9e;
pub const ESMRAMC_RESET: u8 = 0x38;
pub const ESMRAMC_WRITABLE: u8 = 0x87;

// LPC bridge (ICH9 13.1).
pub const PMBASE: usize = 0x40;
pub const PMBASE_IO: u32 = 1 << 0;
pub const PMBASE_MASK: u32 = 0xff80;
/// Bytes of the power management block (ICH9 13.8.3).
pub const PM_BLOCK_LEN: u64 = 128;
pub const ACPI_CONTROL: usize = 0x44;
pub const ACPI_CONTROL_ENABLE: u8 = 1 << 7;
pub const ACPI_CONTROL_WRITABLE: u8 = 0x87;
pub const GPIO_BASE: usize = 0x48;
pub const GPIO_CONTROL: usize = 0x4c;
/// PIRQ A to D route.
pub const PIRQ_ROUTE_LOW: usize = 0x60;
pub const SERIAL_IRQ_CONTROL: usize = 0x64;
pub const SERIAL_IRQ_CONTROL_RESET: u8 = 0x10;
/// PIRQ E to H route.
pub const PIRQ_ROUTE_HIGH: usize = 0x68;
pub const PIRQ_ROUTE_RESET: u8 = 0x80;
pub const PIRQ_ROUTE_WRITABLE: u8 = 0x8f;
/// I/O decode ranges and enables, generic decode ranges (ICH9 13.1.20 to 13.1.25).
pub const LPC_IO_DECODE: usize = 0x80;
pub const LPC_IO_DECODE_LEN: usize = 0x14;
/// General power management configuration (ICH9 13.8.1).
pub const GENERAL_PM: usize = 0xa0;
pub const GENERAL_PM_LEN: usize = 0x0c;
pub const BIOS_CONTROL: usize = 0xdc;
/// BIOS write enable.
pub const BIOS_CONTROL_WRITABLE: u8 = 0x01;
pub const RCBA: usize = 0xf0;
pub const RCBA_ENABLE: u32 = 1 << 0;
pub const RCBA_MASK: u32 = 0xffff_c000;

// Chip configuration registers behind RCBA (ICH9 10.1).
pub const CHIP_CONFIGURATION_LEN: usize = 0x4000;
/// Interrupt routes of devices 31, 29, 28, 27, 26 and 25.
pub const INTERRUPT_ROUTES: [usize; 6] = [0x3140, 0x3144, 0x3146, 0x3148, 0x314c, 0x3150];
/// INTA to PIRQ A, up to INTD to PIRQ D.
pub const INTERRUPT_ROUTE_RESET: u16 = 0x3210;
/// Interrupt pins of devices 31, 29, 28, 27, 26 and 25, with their reset values.
pub const INTERRUPT_PINS: [(usize, u32); 6] = [
    (0x3100, 0x0324_3200),
    (0x3108, 0x1000_4321),
    (0x310c, 0x0021_4321),
    (0x3110, 0x0000_0001),
    (0x3114, 0x3000_0321),
    (0x3118, 0x0000_0001),
];
/// General control and status.
pub const GCS: usize = 0x3410;
/// No reboot: the TCO timer never resets the machine. The bit is strapped here, so that a guest's watchdog driver
/// declines instead of guarding with a timer that doesn't run.
pub const GCS_NO_REBOOT: u32 = 1 << 5;
