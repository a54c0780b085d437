//! Direct boot: a Linux kernel into guest memory without firmware.
//!
//! Two protocols: Linux's own 64-bit one for bzImages, PVH for ELF kernels. Which one a file wants is found by its
//! content. Firmware boots are not here.

mod bits;
mod elf;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
pub mod header;
mod linux64;
pub mod memory_map;
mod pvh;
#[cfg(any(test, feature = "testing"))]
mod samples;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use crate::arch::x86_64::regs::Entry;
use crate::display::BootScreen;
use crate::memory::GuestRam;
use crate::memory::layout::{PAGE, RamSplit};
use bits::{CMDLINE, CMDLINE_ROOM};

/// What to boot. The files stay open: a reset reads them again.
#[derive(Debug)]
pub struct Linux {
    /// bzImage or ELF kernel.
    pub kernel: File,
    /// Initial RAM disk.
    pub initrd: Option<File>,
    /// Command line, without a NUL.
    pub cmdline: String,
}

/// Why a kernel can't be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Neither bzImage nor ELF.
    #[error(
        "the kernel file is no Linux kernel (neither a bzImage nor an ELF file): give the file that boots, often called vmlinuz, linux or bzImage"
    )]
    NoKernel,
    /// A kernel for another processor mode or machine.
    #[error("the kernel has no 64-bit entry: only x86-64 kernels boot directly; take one that is built for 64 bits")]
    Not64Bit,
    /// An ELF file without the PVH note.
    #[error("the ELF file has no PVH entry: take the bzImage, or a kernel built with CONFIG_PVH=y")]
    NoPvhEntry,
    /// The kernel contradicts itself.
    #[error("the kernel file is damaged: {0}; fetch it again")]
    Malformed(&'static str),
    /// The kernel needs more memory.
    #[error("the kernel needs {needed:#x} bytes of memory below 4 GiB, the machine has {ram:#x}: give it more memory")]
    KernelTooBig {
        /// First address that it doesn't need.
        needed: u64,
        /// End of RAM below 4 GiB.
        ram: u64,
    },
    /// The initrd doesn't fit.
    #[error(
        "the initrd of {len} bytes doesn't fit between the kernel's end at {above:#x} and {below:#x}: give the machine more memory"
    )]
    InitrdTooBig {
        /// Length of the initrd in bytes.
        len: u64,
        /// End of what the kernel needs.
        above: u64,
        /// End of the room: of RAM, or where the kernel allows initrds.
        below: u64,
    },
    /// The initrd has no content.
    #[error("the initrd file is empty: leave it out, or fetch it again")]
    InitrdEmpty,
    /// The command line is too long.
    #[error("the kernel command line has {len} bytes, the kernel takes at most {max}: shorten it")]
    CmdlineTooLong {
        /// Its length in bytes.
        len: u64,
        /// What the kernel, or the room for it, allows.
        max: u64,
    },
    /// The command line has a byte that ends it.
    #[error("the kernel command line contains a NUL byte: remove it")]
    CmdlineNul,
    /// A file can't be read.
    #[error("the {0} can't be read")]
    Read(&'static str, #[source] io::Error),
    /// Guest memory doesn't reach as far as the boot protocol needs.
    #[error("the machine's memory is too small to boot Linux: give it at least 32 MiB")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// What a kernel is told of its machine beside the memory map.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// Address of ACPI's root pointer.
    pub rsdp: u64,
    /// The screen that it begins with.
    pub screen: Option<BootScreen>,
}

/// Whether the kernel's boot protocol can tell it of a screen: Linux's own can, PVH can't.
///
/// # Errors
/// When the kernel can't be read.
pub fn has_boot_screen(linux: &Linux) -> Result<bool, BootError> {
    Ok(!header::is_elf(&peek(&linux.kernel)?))
}

/// Loads a kernel and says where the boot processor begins.
///
/// # Errors
/// When the kernel, initrd or command line can't be booted; guest memory may have changed.
pub fn load(ram: &GuestRam, split: RamSplit, linux: &Linux, told: Told) -> Result<Entry, BootError> {
    if linux.cmdline.contains('\0') {
        return Err(BootError::CmdlineNul);
    }
    let start = peek(&linux.kernel)?;
    let place = Place { ram, split, linux, told };
    let entry = if header::is_elf(&start) { pvh::load(&place)? } else { linux64::load(&place, &start)? };
    entry.write_tables(ram)?;
    Ok(entry)
}

struct Place<'a> {
    ram: &'a GuestRam,
    split: RamSplit,
    linux: &'a Linux,
    told: Told,
}

impl Place<'_> {
    fn write_cmdline(&self, max: u64) -> Result<(), BootError> {
        let text = self.linux.cmdline.as_bytes();
        let max = max.min(CMDLINE_ROOM - 1);
        let len = text.len() as u64;
        if len > max {
            return Err(BootError::CmdlineTooLong { len, max });
        }
        self.ram.write_slice(text, GuestAddress(CMDLINE))?;
        Ok(self.ram.write_obj(0u8, GuestAddress(CMDLINE + len))?)
    }

    // As high as it may be, so that the kernel has room to grow. Gives address and length.
    fn load_initrd(&self, above: u64, highest: u64) -> Result<Option<(u64, u64)>, BootError> {
        let Some(file) = &self.linux.initrd else { return Ok(None) };
        let len = length(file, "initrd")?;
        if len == 0 {
            return Err(BootError::InitrdEmpty);
        }
        let below = self.split.below_4g.min(highest.saturating_add(1));
        let refused = || BootError::InitrdTooBig { len, above, below };
        let base = below.checked_sub(len).ok_or_else(refused)? & !(PAGE - 1);
        if base < above {
            return Err(refused());
        }
        self.copy(file, "initrd", 0, base, len)?;
        Ok(Some((base, len)))
    }

    fn check_room(&self, end: u64) -> Result<(), BootError> {
        let ram = self.split.below_4g;
        if end > ram { Err(BootError::KernelTooBig { needed: end, ram }) } else { Ok(()) }
    }

    fn copy(&self, file: &File, what: &'static str, offset: u64, to: u64, len: u64) -> Result<(), BootError> {
        let mut file = file;
        file.seek(SeekFrom::Start(offset)).map_err(|e| BootError::Read(what, e))?;
        let len = usize::try_from(len).map_err(|_| BootError::Malformed("its length is absurd"))?;
        Ok(self.ram.read_exact_volatile_from(GuestAddress(to), &mut file, len)?)
    }
}

fn length(file: &File, what: &'static str) -> Result<u64, BootError> {
    Ok(file.metadata().map_err(|e| BootError::Read(what, e))?.len())
}

fn peek(file: &File) -> Result<Vec<u8>, BootError> {
    let refused = |e| BootError::Read("kernel", e);
    let mut file = file;
    file.rewind().map_err(refused)?;
    let mut start = Vec::new();
    file.take(header::PEEK as u64).read_to_end(&mut start).map_err(refused)?;
    Ok(start)
}

#[cfg(test)]
mod tests;
