//! Decoders of a rectangle's pixels in the native format. What they read is checked: a server may say anything.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::{bytes, odd};
use crate::bits::hextile::{ANY_SUBRECTS, BACKGROUND, EDGE, FOREGROUND, RAW, SUBRECTS_COLOURED};
use crate::region::{Rect, TILE};

/// Where a rectangle's pixels go: a picture, row by row.
struct Canvas<'a> {
    pixels: &'a mut [u32],
    stride: usize,
}

impl Canvas<'_> {
    fn fill(&mut self, area: Rect, colour: u32) {
        for y in area.y..area.y + area.h {
            let at = y as usize * self.stride + area.x as usize;
            if let Some(row) = self.pixels.get_mut(at..at + area.w as usize) {
                row.fill(colour);
            }
        }
    }

    fn draw(&mut self, area: Rect, pixels: &[u32]) {
        for (y, from) in (area.y..).zip(pixels.chunks_exact(area.w as usize)) {
            let at = y as usize * self.stride + area.x as usize;
            if let Some(row) = self.pixels.get_mut(at..at + area.w as usize) {
                row.copy_from_slice(from);
            }
        }
    }
}

// The tiles of an area, `edge` pixels wide and high but for the last ones.
fn tiles(area: Rect, edge: u32) -> impl Iterator<Item = Rect> {
    let tile = move |x, y| Rect { x, y, w: edge.min(area.x + area.w - x), h: edge.min(area.y + area.h - y) };
    let columns = move || (area.x..area.x + area.w).step_by(edge as usize);
    (area.y..area.y + area.h).step_by(edge as usize).flat_map(move |y| columns().map(move |x| tile(x, y)))
}

fn pixel(from: &mut impl Read) -> io::Result<u32> {
    Ok(u32::from_le_bytes(bytes(from)?) & 0x00ff_ffff)
}

/// Reads a rectangle in Hextile (RFC 6143, 7.7.4) into a picture of `stride` columns that has room for it.
///
/// # Errors
/// When reading fails, or a tile is malformed.
pub(crate) fn hextile(from: &mut impl Read, area: Rect, pixels: &mut [u32], stride: usize) -> io::Result<()> {
    let mut canvas = Canvas { pixels, stride };
    let (mut background, mut foreground) = (None, None);
    for tile in tiles(area, EDGE) {
        let [kind] = bytes(from)?;
        if kind & RAW != 0 {
            let all = (0..tile.w * tile.h).map(|_| pixel(from)).collect::<io::Result<Vec<_>>>()?;
            canvas.draw(tile, &all);
            (background, foreground) = (None, None);
            continue;
        }
        if kind & BACKGROUND != 0 {
            background = Some(pixel(from)?);
        }
        canvas.fill(tile, background.ok_or_else(|| odd("a Hextile tile has no background"))?);
        if kind & FOREGROUND != 0 {
            foreground = Some(pixel(from)?);
        }
        let [count] = if kind & ANY_SUBRECTS != 0 { bytes(from)? } else { [0] };
        for _ in 0..count {
            if kind & SUBRECTS_COLOURED != 0 {
                foreground = Some(pixel(from)?);
            }
            let colour = foreground.ok_or_else(|| odd("a Hextile rectangle has no colour"))?;
            let [place, size] = bytes(from)?.map(u32::from);
            let part = Rect { x: place >> 4, y: place & 15, w: (size >> 4) + 1, h: (size & 15) + 1 };
            if part.x + part.w > tile.w || part.y + part.h > tile.h {
                return Err(odd("a Hextile rectangle lies outside of its tile"));
            }
            canvas.fill(Rect { x: tile.x + part.x, y: tile.y + part.y, ..part }, colour);
        }
        if kind & SUBRECTS_COLOURED != 0 {
            foreground = None;
        }
    }
    Ok(())
}

/// A connection's ZRLE decoder (RFC 6143, 7.7.6).
pub(crate) struct Zrle(Decompress);

impl Default for Zrle {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Zrle {
    /// Reads a rectangle into a picture of `stride` columns that has room for it.
    ///
    /// # Errors
    /// When reading fails, or what was compressed is malformed.
    pub(crate) fn decode(
        &mut self,
        from: &mut impl Read,
        area: Rect,
        pixels: &mut [u32],
        stride: usize,
    ) -> io::Result<()> {
        let len = u64::from(u32::from_be_bytes(bytes(from)?));
        let mut coded = Vec::new();
        from.take(len).read_to_end(&mut coded)?;
        let plain = self.inflate(&coded, area)?;
        let mut rest = &plain[..];
        let mut canvas = Canvas { pixels, stride };
        for part in tiles(area, TILE) {
            tile(&mut rest, part, &mut canvas)?;
        }
        if rest.is_empty() { Ok(()) } else { Err(odd(format!("ZRLE has {} bytes too many", rest.len()))) }
    }

    // A tile is never longer than a byte, the longest palette and three and a half bytes a pixel.
    fn inflate(&mut self, mut coded: &[u8], area: Rect) -> io::Result<Vec<u8>> {
        let (w, h) = (area.w as usize, area.h as usize);
        let tiles = area.w.div_ceil(TILE) as usize * area.h.div_ceil(TILE) as usize;
        let mut plain = Vec::with_capacity(tiles * 512 + w * h * 4);
        while !coded.is_empty() {
            let before = self.0.total_in();
            let status = self.0.decompress_vec(coded, &mut plain, FlushDecompress::Sync).map_err(io::Error::other)?;
            let used = (self.0.total_in() - before) as usize;
            if used == 0 || matches!(status, Status::StreamEnd) {
                return Err(odd("ZRLE's stream ends or is too long"));
            }
            coded = coded.get(used..).unwrap_or_default();
        }
        Ok(plain)
    }
}

fn compact(from: &mut impl Read) -> io::Result<u32> {
    let [b, g, r] = bytes(from)?;
    Ok(u32::from_le_bytes([b, g, r, 0]))
}

fn tile(from: &mut &[u8], area: Rect, canvas: &mut Canvas<'_>) -> io::Result<()> {
    let [kind] = bytes(from)?;
    let count = (area.w * area.h) as usize;
    let palette = (0..kind & 127).map(|_| compact(from)).collect::<io::Result<Vec<_>>>()?;
    let colour =
        |index: u8| palette.get(usize::from(index)).copied().ok_or_else(|| odd("no such colour in the palette"));
    let mut pixels = Vec::with_capacity(count);
    match kind {
        1 => pixels.resize(count, colour(0)?),
        2..=16 => {
            let bits = [1, 2, 4][usize::from(kind > 2) + usize::from(kind > 4)];
            for _ in 0..area.h {
                let mut row = vec![0; (area.w as usize * bits).div_ceil(8)];
                from.read_exact(&mut row)?;
                for at in (0..area.w as usize).map(|x| x * bits) {
                    let byte = row.get(at / 8).copied().unwrap_or_default();
                    pixels.push(colour(byte >> (8 - bits - at % 8) & ((1 << bits) - 1))?);
                }
            }
        }
        0 | 128 | 130.. => {
            while pixels.len() < count {
                let [index] = if kind > 128 { bytes(from)? } else { [0] };
                let value = if kind > 128 { colour(index & 127)? } else { compact(from)? };
                let runs = kind == 128 || index & 128 != 0;
                let length = if runs { run(from)? } else { 1 };
                if length > count - pixels.len() {
                    return Err(odd("a ZRLE run is longer than its tile"));
                }
                pixels.resize(pixels.len() + length, value);
            }
        }
        _ => return Err(odd(format!("ZRLE has no tiles of the kind {kind}"))),
    }
    canvas.draw(area, &pixels);
    Ok(())
}

fn run(from: &mut impl Read) -> io::Result<usize> {
    let mut length = 1;
    loop {
        let [byte] = bytes(from)?;
        length += usize::from(byte);
        if byte != u8::MAX {
            return Ok(length);
        }
        if length > (TILE * TILE) as usize {
            return Err(odd("a ZRLE run is longer than its tile"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    const AREA: Rect = Rect { x: 1, y: 1, w: 3, h: 2 };

    fn hextile_of(mut coded: &[u8]) -> io::Result<Vec<u32>> {
        let mut pixels = vec![9; 5 * 4];
        hextile(&mut coded, AREA, &mut pixels, 5)?;
        assert!(coded.is_empty());
        Ok(pixels)
    }

    #[test]
    fn hextile_tiles() {
        let (a, b) = (0x010203, 0x0a0b0c);
        let seen = hextile_of(&[2 | 4 | 8, 3, 2, 1, 0, 12, 11, 10, 0, 1, 0x11, 0x10]).unwrap();
        assert_eq!(seen[5..15], [9, a, a, a, 9, 9, a, b, b, 9]);
        for bad in
            [&[0u8][..], &[8, 1, 0, 0], &[2 | 8, 0, 0, 0, 0, 1, 0, 0], &[6 | 8, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x30]]
        {
            assert!(hextile_of(bad).is_err(), "{bad:?}");
        }
    }

    fn zrle_of(plain: &[u8]) -> io::Result<Vec<u32>> {
        let mut coded = Vec::with_capacity(1000);
        Compress::new(Compression::fast(), true).compress_vec(plain, &mut coded, FlushCompress::Sync).unwrap();
        let mut wire = (coded.len() as u32).to_be_bytes().to_vec();
        wire.extend(coded);
        let mut pixels = vec![9; 5 * 4];
        Zrle::default().decode(&mut &wire[..], AREA, &mut pixels, 5)?;
        Ok(pixels)
    }

    #[test]
    fn zrle_tiles_of_each_kind() {
        let rows = |coded: &[u8]| zrle_of(coded).unwrap()[5..15].to_vec();
        assert_eq!(rows(&[1, 7, 0, 0]), [9, 7, 7, 7, 9, 9, 7, 7, 7, 9]);
        let raw: Vec<u8> = (1..7).flat_map(|n| [n, 0, 0]).collect();
        assert_eq!(rows(&[&[0], &raw[..]].concat()), [9, 1, 2, 3, 9, 9, 4, 5, 6, 9]);
        assert_eq!(rows(&[2, 7, 0, 0, 8, 0, 0, 0b0100_0000, 0b1010_0000]), [9, 7, 8, 7, 9, 9, 8, 7, 8, 9]);
        assert_eq!(rows(&[128, 7, 0, 0, 3, 8, 0, 0, 1]), [9, 7, 7, 7, 9, 9, 7, 8, 8, 9]);
        assert_eq!(rows(&[130, 7, 0, 0, 8, 0, 0, 128, 3, 1, 0]), [9, 7, 7, 7, 9, 9, 7, 8, 7, 9]);
    }

    #[test]
    fn a_server_that_sends_anything_is_refused() {
        for bad in [
            &[17u8][..],
            &[129, 0, 0, 0],
            &[128, 7, 0, 0, 6],
            &[130, 0, 0, 0, 0, 0, 0, 2],
            &[1, 7, 0],
            &[1, 7, 0, 0, 0],
        ] {
            assert!(zrle_of(bad).is_err(), "{bad:?}");
        }
        let mut pixels = [0; 20];
        assert!(Zrle::default().decode(&mut &[0, 0, 0, 3, 1, 2, 3][..], AREA, &mut pixels, 5).is_err());
    }
}
