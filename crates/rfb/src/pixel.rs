//! Pixel formats (RFC 6143, 7.4) and the conversion from the frame source's own.
//!
//! A frame source's pixels are `0x00RRGGBB` in a `u32`. Colour maps are not offered: a client that asks for one is
//! refused.

use std::io::{self, Read};

/// Bytes of a PIXEL_FORMAT on the wire.
pub const WIRE_SIZE: usize = 16;

/// A true-colour pixel format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelFormat {
    /// Bits on the wire: 8, 16 or 32.
    pub bits_per_pixel: u8,
    /// Useful bits, at most `bits_per_pixel`.
    pub depth: u8,
    /// Most significant byte first.
    pub big_endian: bool,
    /// Red, green, blue: largest value (2^n - 1).
    pub max: [u16; 3],
    /// Red, green, blue: position of the lowest bit.
    pub shift: [u8; 3],
}

/// Why a format can't be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A colour map was asked for.
    #[error("the client asks for a colour map; only true colour is offered")]
    ColourMap,
    /// Neither 8, 16 nor 32.
    #[error("the client asks for {0} bits per pixel; 8, 16 and 32 exist")]
    BitsPerPixel(u8),
    /// A maximum that isn't 2^n - 1, or a colour that doesn't fit.
    #[error("the client's pixel format is malformed")]
    Malformed,
}

impl PixelFormat {
    /// What the server offers: 32 bits, little-endian, `0x00RRGGBB`.
    pub const NATIVE: PixelFormat =
        PixelFormat { bits_per_pixel: 32, depth: 24, big_endian: false, max: [255; 3], shift: [16, 8, 0] };

    /// As the wire has it.
    pub fn encode(&self) -> [u8; WIRE_SIZE] {
        let [r, g, b] = self.max.map(u16::to_be_bytes);
        let [rs, gs, bs] = self.shift;
        let big = u8::from(self.big_endian);
        [self.bits_per_pixel, self.depth, big, 1, r[0], r[1], g[0], g[1], b[0], b[1], rs, gs, bs, 0, 0, 0]
    }

    /// Reads and checks a format.
    ///
    /// # Errors
    /// When reading fails, or the format can't be served ([`FormatError`]).
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut w = [0; WIRE_SIZE];
        from.read_exact(&mut w)?;
        Self::decode(&w).map_err(io::Error::other)
    }

    /// Checks a format from the wire.
    ///
    /// # Errors
    /// When it can't be served.
    pub fn decode(w: &[u8; WIRE_SIZE]) -> Result<Self, FormatError> {
        let format = Self {
            bits_per_pixel: w[0],
            depth: w[1],
            big_endian: w[2] != 0,
            max: [[w[4], w[5]], [w[6], w[7]], [w[8], w[9]]].map(u16::from_be_bytes),
            shift: [w[10], w[11], w[12]],
        };
        if w[3] == 0 {
            return Err(FormatError::ColourMap);
        }
        if ![8, 16, 32].contains(&format.bits_per_pixel) {
            return Err(FormatError::BitsPerPixel(format.bits_per_pixel));
        }
        let mut used = 0u64;
        for (max, shift) in format.max.into_iter().zip(format.shift) {
            let field = u64::from(max).checked_shl(shift.into()).unwrap_or(u64::MAX);
            let fits = u32::from(shift) + 16 - max.leading_zeros() <= u32::from(format.bits_per_pixel);
            if !(u32::from(max) + 1).is_power_of_two() || max == 0 || !fits || used & field != 0 {
                return Err(FormatError::Malformed);
            }
            used |= field;
        }
        Ok(format)
    }

    /// Bytes of a pixel on the wire.
    pub fn bytes(&self) -> usize {
        usize::from(self.bits_per_pixel) / 8
    }

    /// A pixel's value in this format.
    pub fn value(&self, pixel: u32) -> u32 {
        if *self == Self::NATIVE {
            return pixel & 0x00ff_ffff;
        }
        let channels = [pixel >> 16, pixel >> 8, pixel].map(|c| c & 0xff);
        let mut value = 0;
        for ((channel, max), shift) in channels.into_iter().zip(self.max).zip(self.shift) {
            // Rounded to the nearest level, so that white stays white in every format.
            value |= ((channel * u32::from(max) + 127) / 255) << shift;
        }
        value
    }

    /// Appends a pixel as PIXEL.
    pub fn put(&self, pixel: u32, to: &mut Vec<u8>) {
        let value = self.value(pixel);
        match (self.bits_per_pixel, self.big_endian) {
            (32, false) => to.extend_from_slice(&value.to_le_bytes()),
            (32, true) => to.extend_from_slice(&value.to_be_bytes()),
            (16, false) => to.extend_from_slice(&(value as u16).to_le_bytes()),
            (16, true) => to.extend_from_slice(&(value as u16).to_be_bytes()),
            _ => to.push(value as u8),
        }
    }

    /// Appends pixels as PIXELs.
    pub fn put_all(&self, pixels: &[u32], to: &mut Vec<u8>) {
        to.reserve(pixels.len() * self.bytes());
        if *self == Self::NATIVE {
            to.extend(pixels.iter().flat_map(|pixel| (pixel & 0x00ff_ffff).to_le_bytes()));
        } else {
            pixels.iter().for_each(|pixel| self.put(*pixel, to));
        }
    }

    /// Appends pixels as CPIXELs (7.7.5).
    pub fn put_all_compact(&self, pixels: &[u32], to: &mut Vec<u8>) {
        to.reserve(pixels.len() * self.compact_bytes());
        if *self == Self::NATIVE {
            to.extend(pixels.iter().flat_map(|pixel| {
                let [b, g, r, _] = pixel.to_le_bytes();
                [b, g, r]
            }));
        } else {
            pixels.iter().for_each(|pixel| self.put_compact(*pixel, to));
        }
    }

    /// Which three of a pixel's four bytes CPIXEL keeps (7.7.5): the low or the high ones in value, or all (`None`).
    fn compact(&self) -> Option<Compact> {
        if self.bits_per_pixel != 32 || self.depth > 24 {
            return None;
        }
        let used = self.max.into_iter().zip(self.shift).fold(0u64, |used, (m, s)| used | (u64::from(m) << s));
        if used <= 0x00ff_ffff {
            Some(Compact::Low)
        } else if used & 0xff == 0 {
            Some(Compact::High)
        } else {
            None
        }
    }

    /// Appends a pixel as CPIXEL (7.7.5).
    pub fn put_compact(&self, pixel: u32, to: &mut Vec<u8>) {
        let value = match self.compact() {
            None => return self.put(pixel, to),
            Some(Compact::Low) => self.value(pixel),
            Some(Compact::High) => self.value(pixel) >> 8,
        };
        if self.big_endian {
            to.extend_from_slice(&value.to_be_bytes()[1..]);
        } else {
            to.extend_from_slice(&value.to_le_bytes()[..3]);
        }
    }

    /// Bytes of a CPIXEL.
    pub fn compact_bytes(&self) -> usize {
        if self.compact().is_some() { 3 } else { self.bytes() }
    }
}

enum Compact {
    Low,
    High,
}

#[cfg(test)]
mod tests {
    use super::*;

    const RGB565: PixelFormat =
        PixelFormat { bits_per_pixel: 16, depth: 16, big_endian: false, max: [31, 63, 31], shift: [11, 5, 0] };
    const BGR233: PixelFormat =
        PixelFormat { bits_per_pixel: 8, depth: 8, big_endian: false, max: [7, 7, 3], shift: [0, 3, 6] };

    #[test]
    fn native_is_these_bytes() {
        let wire = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        assert_eq!(PixelFormat::NATIVE.encode(), wire);
        assert_eq!(PixelFormat::decode(&wire), Ok(PixelFormat::NATIVE));
    }

    #[test]
    fn formats_survive_the_wire() {
        for format in [PixelFormat::NATIVE, RGB565, BGR233, PixelFormat { big_endian: true, ..RGB565 }] {
            assert_eq!(PixelFormat::read(&mut &format.encode()[..]).unwrap(), format);
        }
    }

    #[test]
    fn unservable_formats_are_refused() {
        let good = PixelFormat::NATIVE.encode();
        let with = |at: usize, byte: u8| {
            let mut wire = good;
            wire[at] = byte;
            PixelFormat::decode(&wire)
        };
        assert_eq!(with(3, 0), Err(FormatError::ColourMap));
        assert_eq!(with(0, 24), Err(FormatError::BitsPerPixel(24)));
        assert_eq!(with(5, 254), Err(FormatError::Malformed), "a maximum that isn't 2^n - 1");
        assert_eq!(with(5, 0), Err(FormatError::Malformed), "a colour of no bits");
        assert_eq!(with(10, 25), Err(FormatError::Malformed), "red runs out of the pixel");
        assert_eq!(with(10, 255), Err(FormatError::Malformed));
        assert_eq!(with(10, 4), Err(FormatError::Malformed), "red overlaps green");
    }

    #[test]
    fn colours_are_scaled_to_the_format() {
        let put = |format: &PixelFormat, pixel| {
            let mut to = Vec::new();
            format.put(pixel, &mut to);
            to
        };
        assert_eq!(put(&PixelFormat::NATIVE, 0x123456), [0x56, 0x34, 0x12, 0]);
        assert_eq!(put(&PixelFormat { big_endian: true, ..PixelFormat::NATIVE }, 0x123456), [0, 0x12, 0x34, 0x56]);
        assert_eq!(put(&RGB565, 0xff0000), [0x00, 0xf8]);
        assert_eq!(put(&PixelFormat { big_endian: true, ..RGB565 }, 0xff0000), [0xf8, 0x00]);
        for format in [RGB565, BGR233] {
            assert_eq!(format.value(0xffffff), (1 << format.depth) - 1, "white is the largest value");
            assert_eq!(format.value(0), 0);
        }
        assert_eq!(put(&BGR233, 0x0000ff), [0xc0]);
    }

    #[test]
    fn compact_pixels_drop_the_byte_without_colour() {
        let put = |format: &PixelFormat| {
            let mut to = Vec::new();
            format.put_compact(0x123456, &mut to);
            assert_eq!(to.len(), format.compact_bytes());
            to
        };
        let native = PixelFormat::NATIVE;
        assert_eq!(put(&native), [0x56, 0x34, 0x12]);
        assert_eq!(put(&PixelFormat { big_endian: true, ..native }), [0x12, 0x34, 0x56]);
        let high = PixelFormat { shift: [24, 16, 8], ..native };
        assert_eq!(put(&high), [0x56, 0x34, 0x12]);
        assert_eq!(put(&PixelFormat { big_endian: true, ..high }), [0x12, 0x34, 0x56]);
        assert_eq!(put(&PixelFormat { depth: 32, ..native }), [0x56, 0x34, 0x12, 0]);
        assert_eq!(put(&RGB565).len(), 2);
    }
}
