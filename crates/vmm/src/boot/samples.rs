//! Small files that pass for kernels, for tests and the fuzz target.

use super::bits::*;
use super::header::put;

/// The smallest file that passes for a 64-bit kernel.
pub fn minimal() -> Vec<u8> {
    let mut file = vec![0u8; 5 * 512 + 0x1000];
    put(&mut file, SETUP_SECTS, &[4]);
    put(&mut file, BOOT_FLAG, &BOOT_MAGIC.to_le_bytes());
    put(&mut file, HEADER_LEN, &[0x6a]);
    put(&mut file, HEADER, &HEADER_MAGIC.to_le_bytes());
    put(&mut file, VERSION, &0x20fu16.to_le_bytes());
    put(&mut file, XLOADFLAGS, &XLF_KERNEL_64.to_le_bytes());
    put(&mut file, CMDLINE_SIZE, &2047u32.to_le_bytes());
    put(&mut file, PREF_ADDRESS, &0x100_0000u64.to_le_bytes());
    put(&mut file, INIT_SIZE, &0x20_0000u32.to_le_bytes());
    put(&mut file, INITRD_ADDR_MAX, &0x7fff_ffffu32.to_le_bytes());
    put(&mut file, 5 * 512, b"KERNEL");
    file
}

/// An ELF kernel of one segment at 16 MiB with the PVH note.
pub fn elf() -> Vec<u8> {
    let mut elf = vec![0u8; 0x1000];
    put(&mut elf, 0, b"\x7fELF\x02\x01\x01");
    put(&mut elf, 18, &62u16.to_le_bytes());
    put(&mut elf, 32, &64u64.to_le_bytes());
    put(&mut elf, 54, &56u16.to_le_bytes());
    put(&mut elf, 56, &2u16.to_le_bytes());
    segment(&mut elf, 0, 1, [0x800, 0x100_0000, 0x100, 0x2000]);
    segment(&mut elf, 1, 4, [0x400, 0, 40, 40]);
    // Another owner's note first: 4 bytes of name, 3 of descriptor, padded.
    put(&mut elf, 0x400, &[4, 0, 0, 0, 3, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut elf, 0x40c, b"GNU\0abc\0");
    put(&mut elf, 0x414, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut elf, 0x420, b"Xen\0\x40\0\0\x01");
    put(&mut elf, 0x800, b"KERNEL");
    elf
}

/// Writes the `n`th program header: offset in the file, address, length in the file and in memory.
pub fn segment(elf: &mut [u8], n: usize, kind: u32, [offset, address, file_len, memory_len]: [u64; 4]) {
    let at = 64 + n * 56;
    put(elf, at, &kind.to_le_bytes());
    put(elf, at + 8, &offset.to_le_bytes());
    put(elf, at + 24, &address.to_le_bytes());
    put(elf, at + 32, &file_len.to_le_bytes());
    put(elf, at + 40, &memory_len.to_le_bytes());
}
