//! What the card's monitor says of itself.
//!
//! VESA Enhanced EDID Standard, release A revision 2 (EDID 1.4): one base block. Its preferred mode is the one that a
//! direct boot sets up and that guests switch to by themselves.

/// Preferred width in pixels.
pub const PREFERRED_WIDTH: u16 = 1280;
/// Preferred height in pixels.
pub const PREFERRED_HEIGHT: u16 = 800;

/// Bytes of a block.
pub const BLOCK: usize = 128;

/// Standard timings that are offered too: width, height, and the aspect's code (3.9).
const STANDARD: [(u16, u8); 8] = [
    (1024, 0b01), // 4:3
    (800, 0b01),
    (640, 0b01),
    (1280, 0b10), // 5:4
    (1920, 0b11), // 16:9
    (1600, 0b01),
    (1440, 0b00), // 16:10
    (1680, 0b00),
];

/// The block.
pub fn block() -> [u8; BLOCK] {
    let mut edid = [0; BLOCK];
    edid[..8].copy_from_slice(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    edid[8..10].copy_from_slice(&vendor(b"KLN").to_be_bytes());
    edid[10..12].copy_from_slice(&1u16.to_le_bytes()); // product
    edid[16..18].copy_from_slice(&[0xff, 36]); // 3.4.4: a model of the year 1990 + 36
    edid[18..20].copy_from_slice(&[1, 4]);
    edid[20] = 0xa5; // 3.6.1: digital, 8 bits a colour, DisplayPort
    edid[21..23].copy_from_slice(&centimetres());
    edid[23] = 120; // gamma 2.2
    edid[24] = 0x06; // 3.6.4: RGB 4:4:4, sRGB, preferred timing is native
    // 3.7: sRGB's chromaticity.
    edid[25..35].copy_from_slice(&[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    edid[35..38].copy_from_slice(&[0x21, 0x08, 0]); // 3.8: 640x480, 800x600, 1024x768, all at 60 Hz
    for (slot, (width, aspect)) in edid[38..54].chunks_exact_mut(2).zip(STANDARD) {
        slot.copy_from_slice(&[(width / 8 - 31) as u8, aspect << 6]);
    }
    edid[54..72].copy_from_slice(&preferred());
    edid[72..90].copy_from_slice(&text(0xfc, b"kiln"));
    edid[90..108].copy_from_slice(&limits());
    edid[108..126].copy_from_slice(&text(0xff, b"0"));
    let sum = edid.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    edid[127] = sum.wrapping_neg();
    edid
}

// 3.4.1: three letters of five bits.
fn vendor(letters: &[u8; 3]) -> u16 {
    letters.iter().fold(0, |id, letter| id << 5 | u16::from(letter - b'A' + 1))
}

// At 100 dots per inch.
fn centimetres() -> [u8; 2] {
    [PREFERRED_WIDTH, PREFERRED_HEIGHT].map(|pixels| (u32::from(pixels) * 254 / 10_000) as u8)
}

// 3.10.2. Blanking as CVT's reduced blanking has it: 160 pixels a line, 23 lines a frame at 60 Hz.
fn preferred() -> [u8; 18] {
    let (width, height) = (u32::from(PREFERRED_WIDTH), u32::from(PREFERRED_HEIGHT));
    let (h_blank, v_blank) = (160u32, 23u32);
    let clock = (width + h_blank) * (height + v_blank) * 60 / 10_000;
    let [h_mm, v_mm] = centimetres().map(|cm| u32::from(cm) * 10);
    let (h_front, h_sync, v_front, v_sync) = (48u32, 32u32, 3u32, 6u32);
    let low = |n: u32| (n & 0xff) as u8;
    let nibbles = |high: u32, low: u32| ((high >> 8) << 4 | low >> 8) as u8;
    [
        low(clock),
        (clock >> 8) as u8,
        low(width),
        low(h_blank),
        nibbles(width, h_blank),
        low(height),
        low(v_blank),
        nibbles(height, v_blank),
        low(h_front),
        low(h_sync),
        (v_front << 4 | v_sync) as u8,
        0,
        low(h_mm),
        low(v_mm),
        nibbles(h_mm, v_mm),
        0,
        0,
        0x1a, // digital separate sync, horizontal positive
    ]
}

// 3.10.3.9: 50 to 125 Hz, 30 to 160 kHz, up to 300 MHz.
fn limits() -> [u8; 18] {
    let mut descriptor = [0x20; 18];
    descriptor[..12].copy_from_slice(&[0, 0, 0, 0xfd, 0, 50, 125, 30, 160, 30, 1, 0x0a]);
    descriptor
}

// 3.10.3.4: text of up to 13 bytes, ended by a line feed.
fn text(tag: u8, words: &[u8]) -> [u8; 18] {
    let mut descriptor = [0x20; 18];
    descriptor[..5].copy_from_slice(&[0, 0, 0, tag, 0]);
    let end = 5 + words.len().min(12);
    descriptor[5..end].copy_from_slice(&words[..end - 5]);
    descriptor[end] = 0x0a;
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_whole_and_prefers_the_boot_screens_mode() {
        let edid = block();
        assert_eq!(edid.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
        assert_eq!(edid[..8], [0, 255, 255, 255, 255, 255, 255, 0]);
        let timing = &edid[54..72];
        let width = u16::from(timing[2]) | u16::from(timing[4] >> 4) << 8;
        let height = u16::from(timing[5]) | u16::from(timing[7] >> 4) << 8;
        assert_eq!((width, height), (PREFERRED_WIDTH, PREFERRED_HEIGHT));
        assert_eq!(edid[8..10], [0x2d, 0x8e], "KLN");
        assert_eq!(edid[72..82], *b"\0\0\0\xfc\0kiln\n");
    }
}
