//! What is loaded where, and each fault's own error.

use std::io::Write;

use super::header::put;
use super::samples::{elf, minimal, segment};
use super::*;
use crate::memory::{Backing, allocate};

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn machine(mib: u64) -> (GuestRam, RamSplit) {
    let total = mib << 20;
    (allocate(total, Backing::Private).unwrap(), RamSplit::of(total))
}

fn boot(mib: u64, linux: &Linux) -> Result<(GuestRam, Entry), BootError> {
    let (ram, split) = machine(mib);
    let entry = load(&ram, split, linux, Told { rsdp: 0xe_0000, screen: None })?;
    Ok((ram, entry))
}

fn linux(kernel: &[u8]) -> Linux {
    Linux { kernel: file(kernel), initrd: None, cmdline: "console=ttyS0".into() }
}

fn word(ram: &GuestRam, at: u64) -> u32 {
    ram.read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn a_bzimage_stands_where_it_asked_with_its_parameters() {
    let mut linux = linux(&minimal());
    linux.initrd = Some(file(b"INITRD"));
    let (ram, entry) = boot(64, &linux).unwrap();
    assert_eq!(entry, Entry::Linux64 { rip: 0x100_0200, boot_params: 0x7000 });
    let mut six = [0; 6];
    ram.read_slice(&mut six, GuestAddress(0x100_0000)).unwrap();
    assert_eq!(&six, b"KERNEL");
    assert_eq!(word(&ram, 0x7000 + 0x228), 0x2_0000);
    let mut text = [0; 14];
    ram.read_slice(&mut text, GuestAddress(0x2_0000)).unwrap();
    assert_eq!(&text, b"console=ttyS0\0");
    let (at, len) = (word(&ram, 0x7000 + 0x218), word(&ram, 0x7000 + 0x21c));
    assert_eq!((at, len), ((64 << 20) - 4096, 6));
    ram.read_slice(&mut six, GuestAddress(at.into())).unwrap();
    assert_eq!(&six, b"INITRD");
    assert_eq!(word(&ram, 0x7070), 0xe_0000);
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x71e8)).unwrap(), 4);
    assert_eq!(word(&ram, 0x72d0 + 8), 0xa_0000);
}

#[test]
fn a_bzimage_is_told_of_its_screen() {
    let (ram, split) = machine(64);
    let screen = BootScreen { base: 0xc100_0000, len: 16 << 20, width: 1280, height: 800 };
    let linux = linux(&minimal());
    assert!(has_boot_screen(&linux).unwrap());
    load(&ram, split, &linux, Told { rsdp: 0, screen: Some(screen) }).unwrap();
    let mut info = [0; 0x40];
    ram.read_slice(&mut info, GuestAddress(0x7000)).unwrap();
    assert_eq!(info[0x0f], 0x23);
    assert_eq!(info[0x12..0x20], [0, 5, 0x20, 3, 32, 0, 0, 0, 0, 0xc1, 0, 1, 0, 0], "1280x800x32, 256 times 64 KiB");
    assert_eq!(info[0x24..0x2e], [0, 0x14, 8, 16, 8, 8, 8, 0, 8, 24]);
    assert!(!has_boot_screen(&self::linux(&elf())).unwrap(), "PVH has no place for it");
}

#[test]
fn an_elf_kernel_boots_by_pvh_and_its_bss_is_zero() {
    let (ram, split) = machine(64);
    ram.write_obj(0xdead_beefu32, GuestAddress(0x100_0100)).unwrap();
    let mut linux = linux(&elf());
    linux.initrd = Some(file(b"INITRD"));
    let entry = load(&ram, split, &linux, Told { rsdp: 0xe_0000, screen: None }).unwrap();
    assert_eq!(entry, Entry::Pvh { eip: 0x100_0040, start_info: 0x6000 });
    assert_eq!(word(&ram, 0x100_0100), 0);
    assert_eq!(word(&ram, 0x100_0000), u32::from_le_bytes(*b"KERN"));
    assert_eq!([word(&ram, 0x6000), word(&ram, 0x6004), word(&ram, 0x600c)], [0x336e_c578, 1, 1]);
    assert_eq!([word(&ram, 0x6018), word(&ram, 0x6020)], [0x2_0000, 0xe_0000]);
    let module = u64::from(word(&ram, 0x6010));
    assert_eq!([word(&ram, module), word(&ram, module + 8)], [(64 << 20) - 4096, 6]);
    let map = u64::from(word(&ram, 0x6028));
    assert_eq!([word(&ram, map + 8), word(&ram, map + 16), word(&ram, 0x6030)], [0xa_0000, 1, 4]);
}

#[test]
fn initrds_respect_ram_and_the_kernels_limit() {
    let with = |kernel: &[u8], len: u64| {
        let mut linux = linux(kernel);
        let initrd = tempfile::tempfile().unwrap();
        initrd.set_len(len).unwrap();
        linux.initrd = Some(initrd);
        boot(64, &linux)
    };
    let room = (64 << 20) - 0x120_0000;
    with(&minimal(), room).unwrap();
    assert!(matches!(with(&minimal(), room + 1), Err(BootError::InitrdTooBig { .. })));
    assert!(matches!(with(&minimal(), 1 << 40), Err(BootError::InitrdTooBig { .. })));
    assert!(matches!(with(&minimal(), 0), Err(BootError::InitrdEmpty)));
    let mut low = minimal();
    put(&mut low, 0x22c, &0x1ff_ffffu32.to_le_bytes());
    let (ram, _) = with(&low, 4096).unwrap();
    assert_eq!(word(&ram, 0x7218), 0x1ff_f000);
    put(&mut low, 0x22c, &0x10_ffffu32.to_le_bytes());
    assert!(matches!(with(&low, 4096), Err(BootError::InitrdTooBig { below: 0x11_0000, .. })));
}

#[test]
fn command_lines_have_a_limit() {
    let with = |cmdline: String| boot(64, &Linux { cmdline, ..linux(&minimal()) });
    with("x".repeat(2047)).unwrap();
    assert!(matches!(with("x".repeat(2048)), Err(BootError::CmdlineTooLong { len: 2048, max: 2047 })));
    assert!(matches!(with("a\0b".into()), Err(BootError::CmdlineNul)));
    let huge = Linux { cmdline: "x".repeat(0x1_0000), ..linux(&elf()) };
    assert!(matches!(boot(64, &huge), Err(BootError::CmdlineTooLong { max: 0xffff, .. })));
}

#[test]
fn kernels_that_do_not_fit_or_lie_are_refused() {
    assert!(matches!(boot(16, &linux(&minimal())), Err(BootError::KernelTooBig { needed: 0x120_0000, .. })));
    let mut kernel = minimal();
    put(&mut kernel, 0x258, &0x7000u64.to_le_bytes());
    assert!(matches!(boot(64, &linux(&kernel)), Err(BootError::Malformed(_))));
    put(&mut kernel, 0x258, &u64::MAX.to_le_bytes());
    assert!(matches!(boot(64, &linux(&kernel)), Err(BootError::Malformed(_))));
    assert!(matches!(boot(64, &linux(b"#!/bin/sh\n")), Err(BootError::NoKernel)));
}

#[test]
fn elf_files_that_lie_are_refused() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut elf = elf();
        change(&mut elf);
        boot(64, &linux(&elf)).map(|_| ())
    };
    with(&|_| ()).unwrap();
    assert!(matches!(with(&|e| e[4] = 1), Err(BootError::Not64Bit)));
    assert!(matches!(with(&|e| e[18] = 3), Err(BootError::Not64Bit)));
    assert!(matches!(with(&|e| e[0x420] = b'Y'), Err(BootError::NoPvhEntry)));
    assert!(matches!(with(&|e| e.truncate(0x880)), Err(BootError::Malformed(_))));
    assert!(matches!(with(&|e| e.truncate(32)), Err(BootError::Malformed(_))));
    let load = |place| move |e: &mut Vec<u8>| segment(e, 0, 1, place);
    assert!(matches!(with(&load([0x800, 0x7000, 16, 16])), Err(BootError::Malformed(_))));
    assert!(matches!(with(&load([0x800, 0x100_0000, 32, 16])), Err(BootError::Malformed(_))));
    assert!(matches!(with(&load([u64::MAX, 0x100_0000, 16, 16])), Err(BootError::Malformed(_))));
    assert!(matches!(with(&load([0x800, u64::MAX, 16, 16])), Err(BootError::Malformed(_))));
    assert!(matches!(with(&load([0x800, 1 << 30, 16, 16])), Err(BootError::KernelTooBig { .. })));
    let note = |len| move |e: &mut Vec<u8>| segment(e, 1, 4, [0x400, 0, len, len]);
    assert!(matches!(with(&note(u64::MAX)), Err(BootError::Malformed(_))));
    assert!(matches!(with(&note(20)), Err(BootError::NoPvhEntry)));
}
