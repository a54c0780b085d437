//! ZRLE (RFC 6143, 7.7.6): tiles of 64x64 pixels, each as solid colour, packed palette, runs, palette runs or raw,
//! whichever is shortest; all through one zlib stream that lasts as long as the connection.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::Pixels;
use crate::pixel::PixelFormat;
use crate::region::{Rect, TILE};

/// Largest palette that the tile types have.
const PALETTE: usize = 127;
/// Largest palette whose indices are packed into bits.
const PACKED: usize = 16;

/// A connection's ZRLE encoder.
pub struct Zrle {
    stream: Compress,
    plain: Vec<u8>,
    tile: Vec<u32>,
}

impl Default for Zrle {
    fn default() -> Self {
        // One level less makes a photograph a tenth longer, and saves a fifth of the time.
        Self { stream: Compress::new(Compression::best(), true), plain: Vec::new(), tile: Vec::new() }
    }
}

impl Zrle {
    /// Appends length and compressed tiles.
    pub fn encode(&mut self, from: Pixels<'_>, area: Rect, format: &PixelFormat, to: &mut Vec<u8>) {
        self.plain.clear();
        for y in (0..area.h).step_by(TILE as usize) {
            for x in (0..area.w).step_by(TILE as usize) {
                let part = Rect { x: area.x + x, y: area.y + y, w: TILE.min(area.w - x), h: TILE.min(area.h - y) };
                self.tile.clear();
                from.rows(part).for_each(|row| self.tile.extend_from_slice(row));
                tile(&self.tile, part.w as usize, format, &mut self.plain);
            }
        }
        let length_at = to.len();
        to.extend_from_slice(&[0; 4]);
        compress(&mut self.stream, &self.plain, to);
        let length = (to.len() - length_at - 4) as u32;
        to[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
        // A whole screen's worth of plain tiles needn't stay with a client that shows a still screen.
        self.plain.shrink_to(1 << 16);
    }
}

// Everything that went in must come out of the client's decompressor now: a sync flush ends each rectangle.
fn compress(stream: &mut Compress, mut plain: &[u8], to: &mut Vec<u8>) {
    loop {
        to.reserve(plain.len() / 2 + 64);
        let before = stream.total_in();
        let status = stream.compress_vec(plain, to, FlushCompress::Sync);
        plain = &plain[(stream.total_in() - before) as usize..];
        let done = plain.is_empty() && to.len() < to.capacity();
        if done || !matches!(status, Ok(Status::Ok)) {
            return;
        }
    }
}

struct Survey {
    palette: Vec<u32>,
    runs: usize,
    /// Runs of one pixel and their total of length bytes, for the size of palette runs.
    single: usize,
    length_bytes: usize,
}

fn survey(tile: &[u32]) -> Survey {
    let mut found = Survey { palette: Vec::new(), runs: 0, single: 0, length_bytes: 0 };
    for run in tile.chunk_by(|a, b| a == b) {
        found.runs += 1;
        found.single += usize::from(run.len() == 1);
        found.length_bytes += (run.len() - 1) / 255 + 1;
        if found.palette.len() <= PALETTE && !found.palette.contains(&run[0]) {
            found.palette.push(run[0]);
        }
    }
    found
}

fn bits(colours: usize) -> usize {
    match colours {
        0..=2 => 1,
        3..=4 => 2,
        _ => 4,
    }
}

fn tile(tile: &[u32], width: usize, format: &PixelFormat, to: &mut Vec<u8>) {
    let found = survey(tile);
    let pixel = format.compact_bytes();
    let colours = found.palette.len();
    if colours == 1 {
        to.push(1);
        return format.put_compact(tile[0], to);
    }
    let raw = tile.len() * pixel;
    let runs = found.runs * pixel + found.length_bytes;
    let palette_runs = match colours {
        0..=PALETTE => colours * pixel + found.runs + found.length_bytes - found.single,
        _ => usize::MAX,
    };
    let packed = match colours {
        0..=PACKED => colours * pixel + (width * bits(colours)).div_ceil(8) * (tile.len() / width),
        _ => usize::MAX,
    };
    let best = raw.min(runs).min(palette_runs).min(packed);
    if best == packed {
        packed_palette(tile, width, &found.palette, format, to);
    } else if best == palette_runs {
        palette_run_lengths(tile, &found.palette, format, to);
    } else if best == runs {
        to.push(128);
        for run in tile.chunk_by(|a, b| a == b) {
            format.put_compact(run[0], to);
            put_length(run.len(), to);
        }
    } else {
        to.push(0);
        format.put_all_compact(tile, to);
    }
}

fn index(palette: &[u32], pixel: u32) -> u8 {
    palette.iter().position(|p| *p == pixel).unwrap_or(0) as u8
}

fn packed_palette(tile: &[u32], width: usize, palette: &[u32], format: &PixelFormat, to: &mut Vec<u8>) {
    to.push(palette.len() as u8);
    palette.iter().for_each(|p| format.put_compact(*p, to));
    let bits = bits(palette.len());
    for row in tile.chunks(width) {
        for group in row.chunks(8 / bits) {
            let mut byte = 0;
            for (place, pixel) in group.iter().enumerate() {
                byte |= index(palette, *pixel) << (8 - bits * (place + 1));
            }
            to.push(byte);
        }
    }
}

fn palette_run_lengths(tile: &[u32], palette: &[u32], format: &PixelFormat, to: &mut Vec<u8>) {
    to.push(128 + palette.len() as u8);
    palette.iter().for_each(|p| format.put_compact(*p, to));
    for run in tile.chunk_by(|a, b| a == b) {
        let index = index(palette, run[0]);
        if run.len() == 1 {
            to.push(index);
        } else {
            to.push(index | 128);
            put_length(run.len(), to);
        }
    }
}

// One more than the sum of the bytes, of which all but the last are 255.
fn put_length(length: usize, to: &mut Vec<u8>) {
    to.extend(std::iter::repeat_n(255, (length - 1) / 255));
    to.push(((length - 1) % 255) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(pixels: &[u32], width: usize) -> Vec<u8> {
        let mut to = Vec::new();
        tile(pixels, width, &PixelFormat::NATIVE, &mut to);
        to
    }

    #[test]
    fn a_solid_tile() {
        assert_eq!(plain(&[0x010203; 12], 4), [1, 3, 2, 1]);
    }

    #[test]
    fn a_packed_palette_of_two_pads_each_row() {
        let (a, b) = (0x0000_0001, 0x0000_0002);
        let rows = [a, b, a, b, a, a, b, b, a, b, b, a, b, b, a, a, b, a];
        assert_eq!(plain(&rows, 9), [2, 1, 0, 0, 2, 0, 0, 0b0101_0011, 0, 0b1101_1001, 0]);
    }

    #[test]
    fn palettes_of_three_and_five_use_two_and_four_bits() {
        assert_eq!(bits(2), 1);
        let three: Vec<u32> = (0..16).map(|i| i % 3).collect();
        assert_eq!(
            plain(&three, 16)[..14],
            [3, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0b0001_1000, 0b0110_0001, 0b1000_0110, 0b0001_1000]
        );
        let five: Vec<u32> = (0..16).map(|i| i % 5).collect();
        assert_eq!(plain(&five, 16)[..17], [5, 0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0, 0, 0x01]);
    }

    #[test]
    fn plain_runs_when_colours_are_many_and_runs_long() {
        let pixels: Vec<u32> = (0..130).flat_map(|c| [c; 31]).collect();
        let coded = plain(&pixels, 62);
        assert_eq!(coded[..9], [128, 0, 0, 0, 30, 1, 0, 0, 30]);
    }

    #[test]
    fn palette_runs_with_lengths_over_255() {
        let mut pixels = vec![7; 600];
        pixels.extend([8, 7, 8]);
        pixels.extend([9; 37]);
        let coded = plain(&pixels, 64);
        // 600 = 1 + 255 + 255 + 89.
        assert_eq!(coded, [131, 7, 0, 0, 8, 0, 0, 9, 0, 0, 128, 255, 255, 89, 1, 0, 1, 130, 36]);
    }

    #[test]
    fn noise_is_raw() {
        let pixels: Vec<u32> = (0..4096u32).map(|i| i.wrapping_mul(2_654_435_761) >> 8).collect();
        let coded = plain(&pixels, 64);
        assert_eq!((coded[0], coded.len()), (0, 1 + 3 * 4096));
    }

    #[test]
    fn a_client_decodes_rectangles_of_every_kind_through_one_stream() {
        let (width, height) = (200usize, 150usize);
        let mut zrle = Zrle::default();
        let mut client = crate::viewer::decode::Zrle::default();
        let mut chance = crate::chance::Chance::new(1);
        let mut random = |n: u32| chance.below(n);
        for colours in [1, 2, 3, 4, 5, 16, 17, 127, 128, 200, 1 << 24] {
            let mut pixels: Vec<u32> = Vec::new();
            while pixels.len() < width * height {
                let run = if random(2) == 0 { 1 } else { 1 + random(700) as usize };
                let colour = random(colours);
                pixels.resize((pixels.len() + run).min(width * height), colour);
            }
            let from = Pixels { pixels: &pixels, stride: width };
            let area = Rect { x: random(50), y: random(50), w: 1 + random(150), h: 1 + random(100) };
            let mut wire = Vec::new();
            zrle.encode(from, area, &PixelFormat::NATIVE, &mut wire);
            let mut seen = vec![0; (area.w * area.h) as usize];
            let mut rest = &wire[..];
            client.decode(&mut rest, Rect { x: 0, y: 0, ..area }, &mut seen, area.w as usize).unwrap();
            assert!(rest.is_empty());
            let want: Vec<u32> = from.rows(area).flatten().copied().collect();
            assert!(seen == want, "{colours} colours");
        }
    }
}
