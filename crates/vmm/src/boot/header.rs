//! The bzImage header: found, checked, and nothing believed.

use super::BootError;
use super::bits::*;

/// What the header of a 64-bit kernel says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The header as it stands in the file from 0x1f1 on; it becomes part of the boot parameters.
    pub raw: Vec<u8>,
    /// Where the kernel proper begins in the file.
    pub kernel_offset: u64,
    /// Where it would like to be loaded.
    pub load_address: u64,
    /// Memory that it needs there.
    pub init_size: u64,
    /// Longest command line in bytes.
    pub cmdline_max: u64,
    /// Highest address that the initrd may occupy.
    pub initrd_max: u64,
}

/// How much of the file [`Header::parse`] wants to see.
pub const PEEK: usize = 0x400;

impl Header {
    /// Reads the header from the first bytes of a kernel file. `file_len` is the length of the whole.
    ///
    /// # Errors
    /// When it is no bzImage, has no 64-bit entry, or is cut short.
    pub fn parse(start: &[u8], file_len: u64) -> Result<Self, BootError> {
        let boot_flag = u16_at(start, BOOT_FLAG);
        if boot_flag != Some(BOOT_MAGIC) || u32_at(start, HEADER) != Some(HEADER_MAGIC) {
            return Err(BootError::NoKernel);
        }
        let version = u16_at(start, VERSION).ok_or(BootError::NoKernel)?;
        let xloadflags = u16_at(start, XLOADFLAGS).unwrap_or(0);
        if version < VERSION_64BIT || xloadflags & XLF_KERNEL_64 == 0 {
            return Err(BootError::Not64Bit);
        }
        // The byte at 0x201 is the offset of the jump over the header, which is its length.
        let end = HEADER + usize::from(*start.get(HEADER_LEN).ok_or(BootError::NoKernel)?);
        let raw = start.get(SETUP_SECTS..end).ok_or(BootError::Malformed("its header is cut short"))?.to_vec();
        if end < INIT_SIZE + 4 {
            return Err(BootError::Malformed("its header is shorter than its version's"));
        }
        let sectors = match start.get(SETUP_SECTS) {
            Some(0) | None => 4,
            Some(n) => u64::from(*n),
        };
        let kernel_offset = (sectors + 1) * 512;
        if kernel_offset + ENTRY_64 >= file_len {
            return Err(BootError::Malformed("it ends before its 64-bit entry"));
        }
        Ok(Self {
            raw,
            kernel_offset,
            load_address: u64_at(start, PREF_ADDRESS).unwrap_or(0),
            init_size: u64::from(u32_at(start, INIT_SIZE).unwrap_or(0)),
            cmdline_max: u64::from(u32_at(start, CMDLINE_SIZE).unwrap_or(0)),
            initrd_max: u64::from(u32_at(start, INITRD_ADDR_MAX).unwrap_or(0)),
        })
    }
}

/// Whether the file starts as ELF does.
pub fn is_elf(start: &[u8]) -> bool {
    start.starts_with(&ELF_MAGIC)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u16_at(from: &[u8], at: usize) -> Option<u16> {
    bytes(from, at).map(u16::from_le_bytes)
}

pub(super) fn u32_at(from: &[u8], at: usize) -> Option<u32> {
    bytes(from, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(from: &[u8], at: usize) -> Option<u64> {
    bytes(from, at).map(u64::from_le_bytes)
}

/// Puts little-endian bytes into a buffer; what falls outside is dropped.
pub(super) fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    into.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
mod tests {
    use super::super::samples::minimal;
    use super::*;

    fn parse(file: &[u8]) -> Result<Header, BootError> {
        Header::parse(&file[..PEEK.min(file.len())], file.len() as u64)
    }

    #[test]
    fn a_kernel_says_where_it_wants_to_be() {
        let header = parse(&minimal()).unwrap();
        assert_eq!((header.kernel_offset, header.load_address, header.init_size), (2560, 0x100_0000, 0x20_0000));
        assert_eq!((header.cmdline_max, header.initrd_max), (2047, 0x7fff_ffff));
        assert_eq!(header.raw.len(), 0x202 + 0x6a - 0x1f1);
        let mut old = minimal();
        put(&mut old, SETUP_SECTS, &[0]);
        assert_eq!(parse(&old).unwrap().kernel_offset, 2560);
    }

    #[test]
    fn what_is_no_kernel_is_told_from_one_of_another_width() {
        assert!(matches!(parse(b""), Err(BootError::NoKernel)));
        assert!(matches!(parse(&[0; 8192]), Err(BootError::NoKernel)));
        assert!(matches!(parse(b"<!DOCTYPE html>"), Err(BootError::NoKernel)));
        let mut narrow = minimal();
        put(&mut narrow, XLOADFLAGS, &[0, 0]);
        assert!(matches!(parse(&narrow), Err(BootError::Not64Bit)));
        let mut old = minimal();
        put(&mut old, VERSION, &0x20bu16.to_le_bytes());
        assert!(matches!(parse(&old), Err(BootError::Not64Bit)));
    }

    #[test]
    fn a_cut_kernel_is_malformed() {
        let file = minimal();
        assert!(matches!(parse(&file[..2560 + 0x200]), Err(BootError::Malformed(_))));
        let mut short = minimal();
        put(&mut short, HEADER_LEN, &[0x20]);
        assert!(matches!(parse(&short), Err(BootError::Malformed(_))));
        for len in 0..0x280 {
            assert!(Header::parse(&file[..len], file.len() as u64).is_err() || len >= 0x26c, "{len:#x}");
        }
    }
}
