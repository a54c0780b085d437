//! ACPI tables, made from the machine as it stands (ACPI 6.5).
//!
//! Nothing here is a register: what the tables describe is read off the PCI host's snapshot, so tables made after a
//! BAR has moved are right again. They are made as an [`Image`], which knows its pointers and checksums.

mod dsdt;
mod fixed;
mod image;

use acpi_tables::Aml;

pub use image::{Checksum, Image, Pointer};

use crate::pci::PciSnapshot;
use fixed::{FADT_DSDT, FADT_FACS, RSDP_SUMS, RSDP_XSDT, XSDT_ENTRIES};

const OEM_ID: [u8; 6] = *b"KILN  ";
const OEM_TABLE_ID: [u8; 8] = *b"KILNQ35 ";
const OEM_REVISION: u32 = 1;

/// What the tables describe.
#[derive(Debug, Clone)]
pub struct Machine {
    /// APIC ids, the boot processor's first.
    pub apic_ids: Vec<u8>,
    /// The PCI host as software has programmed it.
    pub pci: PciSnapshot,
    /// Keyboard controller.
    pub ps2: bool,
    /// CMOS clock.
    pub rtc: bool,
    /// Serial ports: port and interrupt.
    pub serials: Vec<(u16, u32)>,
}

impl Machine {
    /// The highest bus number in use. More aren't told of: Linux probes 32 devices on every bus that MCFG covers, two
    /// exits each.
    fn last_bus(&self) -> u8 {
        self.pci.root_ports.iter().map(|port| port.secondary).max().unwrap_or(0)
    }
}

/// The tables, and the offset of the root pointer in them.
pub fn tables(machine: &Machine) -> (Image, usize) {
    let mut image = Image::default();
    let facs = image.append(64, &fixed::facs());
    let dsdt = image.append_table(&dsdt::build(machine));
    let fadt = image.append_table(&fixed::fadt(machine));
    image.point(fadt + FADT_FACS.0, 4, facs);
    image.point(fadt + FADT_DSDT.0, 4, dsdt);
    image.point(fadt + FADT_DSDT.1, 8, dsdt);
    let mut listed = vec![fadt, image.append_table(&fixed::madt(machine))];
    if let Some(ecam) = machine.pci.ecam {
        listed.push(image.append_table(&fixed::mcfg(ecam, machine.last_bus())));
    }
    let xsdt = image.append_table(&fixed::xsdt(listed.len()));
    for (n, table) in listed.into_iter().enumerate() {
        image.point(xsdt + XSDT_ENTRIES + 8 * n, 8, table);
    }
    let rsdp = image.append(16, &fixed::rsdp());
    image.point(rsdp + RSDP_XSDT, 8, xsdt);
    for (len, at) in RSDP_SUMS {
        image.checksums.push(Checksum { start: rsdp, len, at: rsdp + at });
    }
    (image, rsdp)
}

fn to_bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
