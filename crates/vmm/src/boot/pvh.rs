//! PVH: an ELF kernel, the start info, entry in 32-bit protected mode.

use vm_memory::{Bytes, GuestAddress};

use super::bits::*;
use super::elf::Kernel;
use super::{BootError, Place, length, memory_map};
use crate::arch::x86_64::regs::Entry;
use crate::memory::layout::HIGH_RAM;

/// Length of the start info, version 1.
const START_INFO_LEN: u64 = 56;
/// Length of a module's entry.
const MODULE_LEN: u64 = 32;

pub(super) fn load(place: &Place<'_>) -> Result<Entry, BootError> {
    let file = &place.linux.kernel;
    let kernel = Kernel::parse(file)?;
    let file_len = length(file, "kernel")?;
    let mut end = HIGH_RAM;
    for segment in &kernel.segments {
        if segment.offset.checked_add(segment.file_len).is_none_or(|end| end > file_len) {
            return Err(BootError::Malformed("it is cut short"));
        }
        if segment.address < HIGH_RAM {
            return Err(BootError::Malformed("it wants to be loaded below 1 MiB"));
        }
        end = end.max(segment.address + segment.memory_len);
    }
    place.check_room(end)?;
    for segment in &kernel.segments {
        place.copy(file, "kernel", segment.offset, segment.address, segment.file_len)?;
        zero(place, segment.address + segment.file_len, segment.memory_len - segment.file_len)?;
    }
    place.write_cmdline(CMDLINE_ROOM - 1)?;
    let initrd = place.load_initrd(end, u64::from(u32::MAX))?;
    place.ram.write_slice(&start_info(place, initrd), GuestAddress(START_INFO))?;
    Ok(Entry::Pvh { eip: kernel.entry, start_info: START_INFO as u32 })
}

// RAM holds what was there before: after a reset that is the last life's data.
fn zero(place: &Place<'_>, at: u64, len: u64) -> Result<(), BootError> {
    let zeros = [0u8; 4096];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(zeros.len() as u64);
        let slice = zeros.get(..part as usize).unwrap_or(&zeros);
        place.ram.write_slice(slice, GuestAddress(at + done))?;
        done += part;
    }
    Ok(())
}

// The structure, then its module list, then its memory map.
fn start_info(place: &Place<'_>, initrd: Option<(u64, u64)>) -> Vec<u8> {
    let map = memory_map::of(place.split);
    let modules = START_INFO + START_INFO_LEN;
    let ranges = modules + MODULE_LEN;
    let mut info = Vec::new();
    let mut words = |list: &[u32]| list.iter().for_each(|n| info.extend(n.to_le_bytes()));
    words(&[START_INFO_MAGIC, 1, 0, u32::from(initrd.is_some())]);
    let mut longs = |list: &[u64]| list.iter().for_each(|n| info.extend(n.to_le_bytes()));
    longs(&[if initrd.is_some() { modules } else { 0 }, CMDLINE, place.told.rsdp, ranges]);
    info.extend((map.len() as u32).to_le_bytes());
    info.extend(0u32.to_le_bytes());
    let (address, len) = initrd.unwrap_or((0, 0));
    for field in [address, len, 0, 0] {
        info.extend(field.to_le_bytes());
    }
    for entry in map {
        info.extend(entry.base.to_le_bytes());
        info.extend(entry.len.to_le_bytes());
        info.extend((entry.kind as u32).to_le_bytes());
        info.extend(0u32.to_le_bytes());
    }
    info
}
