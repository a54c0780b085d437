//! A processor's registers at the entry points of a direct boot.
//!
//! * 64-bit: Linux's boot protocol (`Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol"): long mode, paging with
//!   an identity map, flat segments 0x10 and 0x18, RSI at the boot parameters.
//! * PVH (`xen/include/public/arch-x86/hvm/start_info.h`): 32-bit protected mode, paging off, EBX at the start info.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestRam;

/// Where the descriptor table of the 64-bit entry stands.
pub const GDT: u64 = 0x500;
/// Where the empty interrupt table stands.
pub const IDT: u64 = 0x540;
/// Where the page tables of the 64-bit entry stand: six pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// First address past the page tables.
pub const PAGE_TABLES_END: u64 = PAGE_TABLES + 6 * 0x1000;
/// Top of the stack at entry.
pub const STACK: u64 = 0x8ff0;

const _: () = assert!(PAGE_TABLES_END <= crate::memory::layout::VGA_HOLE);

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

// Control registers (SDM volume 3, 2.5) and EFER (2.2.1).
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS: u64 = 1 << 1;
// Page table entries (SDM volume 3, 4.5).
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// Where and how the boot processor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit Linux boot protocol.
    Linux64 {
        /// First instruction.
        rip: u64,
        /// Address of the boot parameters.
        boot_params: u64,
    },
    /// PVH.
    Pvh {
        /// First instruction.
        eip: u32,
        /// Address of the start info.
        start_info: u32,
    },
}

/// Why memory for the entry can't be written.
pub type MemoryError = vm_memory::GuestMemoryError;

impl Entry {
    /// General registers at the entry.
    pub fn regs(self) -> kvm_regs {
        match self {
            Entry::Linux64 { rip, boot_params } => {
                kvm_regs { rip, rsi: boot_params, rsp: STACK, rbp: STACK, rflags: RFLAGS, ..Default::default() }
            }
            Entry::Pvh { eip, start_info } => {
                kvm_regs { rip: eip.into(), rbx: start_info.into(), rflags: RFLAGS, ..Default::default() }
            }
        }
    }

    /// Changes the system registers from what they are at reset to what they are at the entry.
    pub fn set_sregs(self, sregs: &mut kvm_sregs) {
        let long = matches!(self, Entry::Linux64 { .. });
        let (code, data) = (segment(CODE_SELECTOR, Kind::Code { long }), segment(DATA_SELECTOR, Kind::Data));
        sregs.cs = code;
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = segment(TASK_SELECTOR, Kind::Task);
        sregs.cr0 = CR0_PE | CR0_ET;
        sregs.cr4 = 0;
        sregs.efer = 0;
        sregs.idt.base = IDT;
        sregs.idt.limit = 7;
        sregs.gdt.base = GDT;
        sregs.gdt.limit = (descriptors(long).len() * 8 - 1) as u16;
        if long {
            sregs.cr3 = PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.cr0 |= CR0_PG;
            sregs.efer = EFER_LME | EFER_LMA;
        }
    }

    /// Writes the tables that the system registers point at.
    ///
    /// # Errors
    /// When guest memory doesn't reach that far.
    pub fn write_tables(self, ram: &GuestRam) -> Result<(), MemoryError> {
        let long = matches!(self, Entry::Linux64 { .. });
        for (n, descriptor) in (0..).zip(descriptors(long)) {
            ram.write_obj(descriptor, GuestAddress(GDT + n * 8))?;
        }
        ram.write_obj(0u64, GuestAddress(IDT))?;
        if long { write_identity_map(ram) } else { Ok(()) }
    }
}

// The first 4 GiB, in pages of 2 MiB.
fn write_identity_map(ram: &GuestRam) -> Result<(), MemoryError> {
    let page = |n: u64| PAGE_TABLES + n * 0x1000;
    let mut table = [0u64; 512];
    let mut write = |at: u64, entries: &mut dyn Iterator<Item = u64>| {
        table.fill(0);
        table.iter_mut().zip(entries).for_each(|(to, entry)| *to = entry);
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        ram.write_slice(&bytes, GuestAddress(at))
    };
    write(page(0), &mut [page(1) | PRESENT_WRITABLE].into_iter())?;
    write(page(1), &mut (2..6).map(|n| page(n) | PRESENT_WRITABLE))?;
    for gib in 0..4u64 {
        write(page(2 + gib), &mut (0..512).map(|n| (gib << 30) | (n << 21) | LARGE | PRESENT_WRITABLE))?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Code { long: bool },
    Data,
    Task,
}

// A flat segment: base 0, limit 4 GiB, as SDM volume 3, 3.4.5 encodes it.
fn segment(selector: u16, kind: Kind) -> kvm_segment {
    let (type_, s) = match kind {
        Kind::Code { .. } => (0b1011, 1),
        Kind::Data => (0b0011, 1),
        Kind::Task => (0b1011, 0),
    };
    let long = matches!(kind, Kind::Code { long: true });
    let flat = !matches!(kind, Kind::Task);
    kvm_segment {
        base: 0,
        limit: if flat { 0xffff_ffff } else { 0x67 },
        selector,
        type_,
        s,
        present: 1,
        dpl: 0,
        l: u8::from(long),
        db: u8::from(flat && !long),
        g: u8::from(flat),
        ..Default::default()
    }
}

fn descriptors(long: bool) -> [u64; 5] {
    let code = descriptor(&segment(CODE_SELECTOR, Kind::Code { long }));
    let data = descriptor(&segment(DATA_SELECTOR, Kind::Data));
    [0, 0, code, data, descriptor(&segment(TASK_SELECTOR, Kind::Task))]
}

fn descriptor(s: &kvm_segment) -> u64 {
    let limit = u64::from(if s.g == 1 { s.limit >> 12 } else { s.limit });
    let access = u64::from(s.type_) | u64::from(s.s) << 4 | u64::from(s.dpl) << 5 | u64::from(s.present) << 7;
    let flags = u64::from(s.l) << 1 | u64::from(s.db) << 2 | u64::from(s.g) << 3;
    (limit & 0xffff) | access << 40 | (limit >> 16 & 0xf) << 48 | flags << 52
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, allocate};

    const LINUX: Entry = Entry::Linux64 { rip: 0x10_0200, boot_params: 0x7000 };
    const PVH: Entry = Entry::Pvh { eip: 0x100_0000, start_info: 0x6000 };

    #[test]
    fn descriptors_are_the_well_known_ones() {
        assert_eq!(descriptors(true)[2..4], [0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
        assert_eq!(descriptors(false)[2..4], [0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
        assert_eq!(descriptors(true)[4], 0x0000_8b00_0000_0067);
    }

    #[test]
    fn the_identity_map_maps_each_address_to_itself() {
        let ram = allocate(1 << 20, Backing::Private).unwrap();
        LINUX.write_tables(&ram).unwrap();
        let entry =
            |table: u64, index: u64| -> u64 { ram.read_obj(GuestAddress((table & !0xfff) + index * 8)).unwrap() };
        for address in [0u64, 0x7000, 0x10_0200, 0x8000_0000, 0xffff_ffff] {
            let l3 = entry(PAGE_TABLES, address >> 39);
            let l2 = entry(l3, address >> 30 & 511);
            let leaf = entry(l2, address >> 21 & 511);
            assert_eq!((leaf & !0x1f_ffff) | (address & 0x1f_ffff), address);
            assert_eq!(leaf & (LARGE | PRESENT_WRITABLE), LARGE | PRESENT_WRITABLE);
        }
    }

    #[test]
    fn each_entry_has_its_mode() {
        let mut sregs = kvm_sregs::default();
        LINUX.set_sregs(&mut sregs);
        assert_eq!((sregs.cr0 & CR0_PG, sregs.efer, sregs.cs.l), (CR0_PG, EFER_LME | EFER_LMA, 1));
        assert_eq!(LINUX.regs().rsi, 0x7000);
        PVH.set_sregs(&mut sregs);
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer, sregs.cs.l, sregs.cs.db), (CR0_PE | CR0_ET, 0, 0, 0, 1));
        assert_eq!((PVH.regs().rbx, PVH.regs().rip), (0x6000, 0x100_0000));
    }
}
