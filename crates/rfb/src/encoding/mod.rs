//! Encodings of a rectangle's pixels (RFC 6143, 7.7).

pub(crate) mod bands;
mod hextile;
mod raw;
pub mod zrle;

use crate::bits::encoding;
use crate::pixel::PixelFormat;
use crate::region::Rect;
use zrle::Zrle;

/// Pixels of a whole screen, from which rectangles are encoded.
#[derive(Debug, Clone, Copy)]
pub struct Pixels<'a> {
    /// Row by row, `0x00RRGGBB`.
    pub pixels: &'a [u32],
    /// Pixels in a row.
    pub stride: usize,
}

impl<'a> Pixels<'a> {
    /// The rows of `area`, which lies inside.
    pub fn rows(self, area: Rect) -> impl Iterator<Item = &'a [u32]> + Clone {
        let (x, w) = (area.x as usize, area.w as usize);
        let first = area.y as usize;
        (first..first + area.h as usize)
            .map(move |y| self.pixels.get(y * self.stride + x..y * self.stride + x + w).unwrap_or_default())
    }
}

/// A client's encoder; ZRLE keeps its compressor for the connection's life.
pub enum Encoder {
    /// 7.7.1
    Raw,
    /// 7.7.4
    Hextile,
    /// 7.7.6
    Zrle(Box<Zrle>),
}

impl Encoder {
    /// The first of the client's encodings that is offered, Raw if there is none. A compressor that exists is kept:
    /// its stream goes on even if the client used another encoding in between.
    pub fn choose(wanted: &[i32], zrle: &mut Option<Box<Zrle>>) -> Self {
        match wanted.iter().find(|e| [encoding::RAW, encoding::HEXTILE, encoding::ZRLE].contains(e)) {
            Some(&encoding::HEXTILE) => Encoder::Hextile,
            Some(&encoding::ZRLE) => Encoder::Zrle(zrle.take().unwrap_or_default()),
            _ => Encoder::Raw,
        }
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        match self {
            Encoder::Raw => encoding::RAW,
            Encoder::Hextile => encoding::HEXTILE,
            Encoder::Zrle(_) => encoding::ZRLE,
        }
    }

    /// Appends the pixels of `area` in `format`.
    pub fn encode(&mut self, from: Pixels<'_>, area: Rect, format: &PixelFormat, to: &mut Vec<u8>) {
        match self {
            Encoder::Raw => raw::encode(from, area, format, to),
            Encoder::Hextile => hextile::encode(from, area, format, to),
            Encoder::Zrle(zrle) => zrle.encode(from, area, format, to),
        }
    }
}
