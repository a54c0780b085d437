//! Pointers, checksums, and the compiler's own opinion.

use super::*;
use crate::pci::{Bdf, RootPort, Window};
use std::process::Command;

const BASE: u64 = 0xe_0000;

fn machine() -> Machine {
    let at = |device| Bdf { bus: 0, device, function: 0 };
    Machine {
        apic_ids: (0..64).collect(),
        pci: PciSnapshot {
            ecam: Some(Window { base: 0xb000_0000, len: 0x1000_0000 }),
            windows: vec![
                Window { base: 0x8000_0000, len: 0x3000_0000 },
                Window { base: 0xc000_0000, len: 0x3ec0_0000 },
                Window { base: 0x8_0000_0000, len: 0x4000_0000 },
            ],
            root_ports: (1..5).map(|n| RootPort { at: at(n), secondary: n, slot: n.into() }).collect(),
            pm_base: Some(0x600),
        },
        ps2: true,
        rtc: true,
        serials: vec![(0x3f8, 4), (0x2f8, 3)],
    }
}

fn u32_at(bytes: &[u8], at: u64) -> u64 {
    u32::from_le_bytes(bytes[at as usize..][..4].try_into().unwrap()).into()
}

fn u64_at(bytes: &[u8], at: u64) -> u64 {
    u64::from_le_bytes(bytes[at as usize..][..8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at an address, its length and checksum checked.
fn table(image: &[u8], address: u64) -> (&str, &[u8]) {
    let at = address - BASE;
    let len = u32_at(image, at + 4);
    let bytes = &image[at as usize..][..len as usize];
    assert_eq!(sum(bytes), 0);
    (std::str::from_utf8(&bytes[..4]).unwrap(), bytes)
}

#[test]
fn every_table_is_reached_from_the_root_and_adds_up() {
    let (image, rsdp) = tables(&machine());
    let bytes = image.place(BASE);
    let root = &bytes[rsdp..];
    assert_eq!((&root[..8], sum(&root[..20]), sum(&root[..36])), (&b"RSD PTR "[..], 0, 0));
    let (signature, xsdt) = table(&bytes, u64_at(root, 24));
    assert_eq!(signature, "XSDT");
    let listed: Vec<_> = (36..xsdt.len()).step_by(8).map(|at| table(&bytes, u64_at(xsdt, at as u64))).collect();
    assert_eq!(listed.iter().map(|t| t.0).collect::<Vec<_>>(), ["FACP", "APIC", "MCFG"]);
    let fadt = listed[0].1;
    assert_eq!(table(&bytes, u32_at(fadt, 40)).0, "DSDT");
    assert_eq!(u32_at(fadt, 40), u64_at(fadt, 140));
    let facs = u32_at(fadt, 36) - BASE;
    assert_eq!((&bytes[facs as usize..][..4], facs % 64), (&b"FACS"[..], 0));
    assert_eq!(u64_at(listed[2].1, 44), 0xb000_0000);
    assert_eq!(listed[2].1[54..56], [0, 4], "first and last bus");
}

#[test]
fn fixed_hardware_stands_where_the_bridge_puts_it() {
    for base in [0x600u16, 0xb000] {
        let mut machine = machine();
        machine.pci.pm_base = Some(base);
        let fadt = fixed::fadt(&machine);
        let base = u64::from(base);
        let blocks = [56, 64, 76, 80].map(|at| u32_at(&fadt, at));
        assert_eq!(blocks, [base, base + 4, base + 8, base + 0x20]);
        assert_eq!([fadt[88], fadt[89], fadt[91], fadt[92]], [4, 2, 4, 16]);
        assert_eq!((u32_at(&fadt, 48), fadt[46]), (0, 9), "no SMI_CMD; SCI 9");
        assert_eq!((u64_at(&fadt, 120), fadt[128]), (0xcf9, 6));
    }
}

#[test]
fn the_small_machine_says_what_it_lacks() {
    let mut small = Machine { ps2: false, rtc: false, serials: vec![], ..machine() };
    small.pci.root_ports.clear();
    let fadt = fixed::fadt(&small);
    assert_eq!((u32_at(&fadt, 80), fadt[92]), (0, 0), "no slot, no general event");
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0b10_0101);
    let dsdt = dsdt::build(&small);
    for (absent, id) in [("keyboard", 0x0303u16), ("clock", 0x0b00), ("serial", 0x0501)] {
        let id = [0x0c, 0x41, 0xd0, id.to_be_bytes()[0], id.to_be_bytes()[1]];
        assert!(!dsdt.windows(5).any(|w| w == id), "{absent}");
        assert!(dsdt::build(&machine()).windows(5).any(|w| w == id), "{absent}");
    }
}

#[test]
fn all_tables_fit_below_the_smbios_segment() {
    let (image, _) = tables(&machine());
    assert!(image.bytes.len() < 0x1_0000, "{:#x}", image.bytes.len());
}

/// Skipped, loudly, where the compiler isn't installed; the test script installs it.
#[test]
fn the_acpi_compiler_takes_the_tables() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("iasl (package acpica-tools) is not installed: the tables were not compiled");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, rsdp) = tables(&machine());
    let bytes = image.place(BASE);
    let (_, xsdt) = table(&bytes, u64_at(&bytes, rsdp as u64 + 24));
    let mut addresses: Vec<_> = (36..xsdt.len()).step_by(8).map(|at| u64_at(xsdt, at as u64)).collect();
    addresses.push(u32_at(table(&bytes, addresses[0]).1, 40));
    for address in addresses {
        let (signature, table) = table(&bytes, address);
        std::fs::write(folder.path().join(format!("{signature}.aml")), table).unwrap();
        let run = |args: &[&str]| {
            let output = Command::new("iasl").args(args).current_dir(&folder).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{signature}: {text}");
            text
        };
        run(&["-d", &format!("{signature}.aml")]);
        let said = run(&["-vs", &format!("{signature}.dsl")]);
        assert!(said.contains("0 Errors") || said.contains("Compilation successful"), "{signature}: {said}");
        assert!(!said.contains("Warning  "), "{signature}: {said}");
    }
}
