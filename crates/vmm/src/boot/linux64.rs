//! Linux's 64-bit boot protocol: bzImage, boot parameters ("zero page"), entry in long mode.

use vm_memory::{Bytes, GuestAddress};

use super::bits::*;
use super::header::{Header, put};
use super::{BootError, Place, length, memory_map};
use crate::arch::x86_64::regs::Entry;
use crate::display::BootScreen;
use crate::memory::layout::HIGH_RAM;

pub(super) fn load(place: &Place<'_>, start: &[u8]) -> Result<Entry, BootError> {
    let file_len = length(&place.linux.kernel, "kernel")?;
    let header = Header::parse(start, file_len)?;
    if header.load_address < HIGH_RAM {
        return Err(BootError::Malformed("it wants to be loaded below 1 MiB"));
    }
    let len = file_len - header.kernel_offset;
    let end = header.load_address.checked_add(len.max(header.init_size));
    let end = end.ok_or(BootError::Malformed("its load address is absurd"))?;
    place.check_room(end)?;
    place.copy(&place.linux.kernel, "kernel", header.kernel_offset, header.load_address, len)?;
    place.write_cmdline(header.cmdline_max)?;
    let initrd = place.load_initrd(end, header.initrd_max)?;
    let params = boot_params(place, &header, initrd);
    place.ram.write_slice(&params, GuestAddress(BOOT_PARAMS))?;
    Ok(Entry::Linux64 { rip: header.load_address + ENTRY_64, boot_params: BOOT_PARAMS })
}

fn boot_params(place: &Place<'_>, header: &Header, initrd: Option<(u64, u64)>) -> Vec<u8> {
    let mut params = vec![0u8; BOOT_PARAMS_LEN];
    put(&mut params, SETUP_SECTS, &header.raw);
    put(&mut params, TYPE_OF_LOADER, &[0xff]);
    if let Some(flags) = params.get_mut(LOADFLAGS) {
        *flags |= LOADED_HIGH;
    }
    put(&mut params, CMD_LINE_PTR, &(CMDLINE as u32).to_le_bytes());
    // Below 4 GiB by `load_initrd`, so the upper halves stay 0.
    let (address, len) = initrd.unwrap_or((0, 0));
    put(&mut params, RAMDISK_IMAGE, &(address as u32).to_le_bytes());
    put(&mut params, RAMDISK_SIZE, &(len as u32).to_le_bytes());
    put(&mut params, ACPI_RSDP, &place.told.rsdp.to_le_bytes());
    if let Some(screen) = &place.told.screen {
        put_screen(&mut params, screen);
    }
    let map = memory_map::of(place.split);
    for (n, entry) in map.iter().take(E820_MAX).enumerate() {
        let at = E820_TABLE + n * 20;
        put(&mut params, at, &entry.base.to_le_bytes());
        put(&mut params, at + 8, &entry.len.to_le_bytes());
        put(&mut params, at + 16, &(entry.kind as u32).to_le_bytes());
    }
    put(&mut params, E820_ENTRIES, &[map.len().min(E820_MAX) as u8]);
    params
}

// Linux, include/uapi/linux/screen_info.h: a linear framebuffer as VESA's BIOS would describe it, 8 bits a colour.
fn put_screen(params: &mut [u8], screen: &BootScreen) {
    put(params, SCREEN_IS_VGA, &[VIDEO_TYPE_VLFB]);
    put(params, SCREEN_WIDTH, &screen.width.to_le_bytes());
    put(params, SCREEN_HEIGHT, &screen.height.to_le_bytes());
    put(params, SCREEN_DEPTH, &32u16.to_le_bytes());
    // A display's BAR lies below 4 GiB; its length is told in units of 64 KiB.
    put(params, SCREEN_BASE, &(screen.base as u32).to_le_bytes());
    put(params, SCREEN_SIZE, &((screen.len >> 16) as u32).to_le_bytes());
    put(params, SCREEN_STRIDE, &(screen.width * 4).to_le_bytes());
    put(params, SCREEN_COLOURS, &[8, 16, 8, 8, 8, 0, 8, 24]);
}
