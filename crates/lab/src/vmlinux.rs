//! The ELF kernel inside a bzImage.
//!
//! Source: Linux, Documentation/arch/x86/boot.rst (`setup_sects`, `payload_offset`, `payload_length`); the LZ4
//! "legacy frame" of the LZ4 frame format description.

use std::io::Read;

use anyhow::{Context, Result, bail};

const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Unpacks the kernel.
///
/// # Errors
/// When it isn't a bzImage or is compressed with something else than LZ4, which is what Debian uses.
pub fn extract(bzimage: &[u8]) -> Result<Vec<u8>> {
    if bzimage.get(0x202..0x206) != Some(b"HdrS") {
        bail!("not a Linux bzImage: the boot header is missing");
    }
    let word =
        |at: usize| bzimage.get(at..).and_then(|b| b.first_chunk::<4>()).map(|b| u32::from_le_bytes(*b) as usize);
    let setup = match bzimage[SETUP_SECTS] {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup + 1) * 512 + word(PAYLOAD_OFFSET).context("the kernel is cut short")?;
    let len = word(PAYLOAD_LENGTH).context("the kernel is cut short")?;
    let payload = bzimage.get(start..start + len).context("the kernel is cut short")?;
    if !payload.starts_with(&LZ4_LEGACY) {
        bail!(
            "the kernel inside is compressed with something else than LZ4: {:02x?}",
            &payload[..payload.len().min(6)]
        );
    }
    // The build appends the unpacked size (4 bytes) to the stream.
    let stream = &payload[..payload.len() - 4];
    let mut elf = Vec::new();
    lz4_flex::frame::FrameDecoder::new(stream).read_to_end(&mut elf).context("unpacking the kernel")?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("what is inside the bzImage is no ELF file");
    }
    Ok(elf)
}
