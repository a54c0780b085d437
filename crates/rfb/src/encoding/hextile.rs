//! Hextile (RFC 6143, 7.7.4): tiles of 16x16 pixels, each a background with rectangles of one or more other colours on it,
//! or raw where that is no longer. Colours go on from tile to tile.

use super::Pixels;
use crate::bits::hextile::{ANY_SUBRECTS, BACKGROUND, EDGE, FOREGROUND, RAW, SUBRECTS_COLOURED};
use crate::pixel::PixelFormat;
use crate::region::Rect;

/// Colours of a tile that are counted to find its background; with more than these, any of them will do.
const COUNTED: usize = 24;
/// Pixels that are looked at to tell a photograph.
const SAMPLE: usize = 64;

/// What the client remembers of the tiles before.
#[derive(Default)]
struct Colours {
    background: Option<u32>,
    foreground: Option<u32>,
}

pub(super) fn encode(from: Pixels<'_>, area: Rect, format: &PixelFormat, to: &mut Vec<u8>) {
    let (mut colours, mut tile) = (Colours::default(), Tile::default());
    for y in (0..area.h).step_by(EDGE as usize) {
        for x in (0..area.w).step_by(EDGE as usize) {
            let part = Rect { x: area.x + x, y: area.y + y, w: EDGE.min(area.w - x), h: EDGE.min(area.h - y) };
            tile.load(from, part);
            tile.encode(&mut colours, format, to);
        }
    }
}

#[derive(Default)]
struct Tile {
    w: usize,
    h: usize,
    pixels: Vec<u32>,
    /// For each row, a bit for each pixel that is the background or in a rectangle.
    done: [u16; EDGE as usize],
}

impl Tile {
    fn load(&mut self, from: Pixels<'_>, part: Rect) {
        (self.w, self.h) = (part.w as usize, part.h as usize);
        self.pixels.clear();
        from.rows(part).for_each(|row| self.pixels.extend_from_slice(row));
    }

    fn encode(&mut self, colours: &mut Colours, format: &PixelFormat, to: &mut Vec<u8>) {
        let counts = count(&self.pixels);
        if is_noise(&self.pixels, &counts) {
            return self.raw(colours, format, to);
        }
        let Some((background, _)) = counts.iter().copied().max_by_key(|(_, n)| *n) else { return };
        let kind_at = to.len();
        to.push(0);
        let mut kind = 0;
        if colours.background != Some(background) {
            kind |= BACKGROUND;
            format.put(background, to);
        }
        colours.background = Some(background);
        let fits = match counts.as_slice() {
            [_] => true,
            [(a, _), (b, _)] => {
                let other = if *a == background { *b } else { *a };
                kind |= ANY_SUBRECTS;
                if colours.foreground != Some(other) {
                    kind |= FOREGROUND;
                    format.put(other, to);
                }
                colours.foreground = Some(other);
                self.rectangles(background, None, kind_at, format, to)
            }
            _ => {
                kind |= ANY_SUBRECTS | SUBRECTS_COLOURED;
                colours.foreground = None;
                self.rectangles(background, Some(format), kind_at, format, to)
            }
        };
        if fits {
            to[kind_at] = kind;
            return;
        }
        to.truncate(kind_at);
        self.raw(colours, format, to);
    }

    fn raw(&self, colours: &mut Colours, format: &PixelFormat, to: &mut Vec<u8>) {
        to.push(RAW);
        format.put_all(&self.pixels, to);
        *colours = Colours::default();
    }

    /// Appends the count and the rectangles of all pixels but the background's, each with its colour if they are
    /// `coloured`. Says no, with part of them appended, once that is as long as raw pixels or they are too many to count.
    fn rectangles(
        &mut self,
        background: u32,
        coloured: Option<&PixelFormat>,
        begin: usize,
        format: &PixelFormat,
        to: &mut Vec<u8>,
    ) -> bool {
        let most = begin + 1 + self.pixels.len() * format.bytes();
        let count_at = to.len();
        to.push(0);
        self.done = [0; EDGE as usize];
        for y in 0..self.h {
            for x in 0..self.w {
                let colour = self.pixels[y * self.w + x];
                if colour == background || self.done[y] >> x & 1 != 0 {
                    continue;
                }
                let (w, h) = self.largest(x, y, colour);
                let columns = ((1u32 << w) - 1) << x;
                self.done[y..y + h].iter_mut().for_each(|row| *row |= columns as u16);
                if let Some(format) = coloured {
                    format.put(colour, to);
                }
                to.extend([(x << 4 | y) as u8, ((w - 1) << 4 | (h - 1)) as u8]);
                if to.len() >= most || to[count_at] == u8::MAX {
                    return false;
                }
                to[count_at] += 1;
            }
        }
        true
    }

    // The larger of the two rectangles of a colour that grow from its corner: first to the right, or first down.
    fn largest(&self, x: usize, y: usize, colour: u32) -> (usize, usize) {
        let is = |x: usize, y: usize| self.pixels[y * self.w + x] == colour && self.done[y] >> x & 1 == 0;
        let right = |y: usize, most: usize| (x..x + most).take_while(|x| is(*x, y)).count();
        let wide = right(y, self.w - x);
        let (mut first, mut narrow) = ((wide, 1), (wide, 1));
        for row in y + 1..self.h {
            let w = right(row, narrow.0);
            if w == 0 {
                break;
            }
            narrow = (w, row - y + 1);
            if w == wide {
                first = narrow;
            }
        }
        if narrow.0 * narrow.1 > first.0 * first.1 { narrow } else { first }
    }
}

// Photographs: hardly a pixel is like its neighbour, and not for a pattern of few colours. Rectangles would be no shorter.
fn is_noise(pixels: &[u32], counts: &[(u32, usize)]) -> bool {
    let sample = pixels.get(..SAMPLE).unwrap_or_default();
    let alike = sample.windows(2).filter(|pair| pair[0] == pair[1]).count();
    counts.len() >= COUNTED && !sample.is_empty() && alike < SAMPLE / 8
}

// The first colours with how often each comes.
fn count(pixels: &[u32]) -> Vec<(u32, usize)> {
    let mut counts: Vec<(u32, usize)> = Vec::with_capacity(COUNTED);
    for run in pixels.chunk_by(|a, b| a == b) {
        let full = counts.len() >= COUNTED;
        if full && counts.iter().all(|(_, n)| *n < 4) {
            // No background in sight.
            break;
        }
        match counts.iter_mut().find(|(colour, _)| *colour == run[0]) {
            Some((_, n)) => *n += run.len(),
            None if full => {}
            None => counts.push((run[0], run.len())),
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::viewer::decode;

    const A: u32 = 0x010203;
    const B: u32 = 0x0a0b0c;

    fn coded(pixels: &[u32], width: usize) -> Vec<u8> {
        let mut to = Vec::new();
        let area = Rect { x: 0, y: 0, w: width as u32, h: (pixels.len() / width) as u32 };
        encode(Pixels { pixels, stride: width }, area, &PixelFormat::NATIVE, &mut to);
        to
    }

    #[test]
    fn solid_tiles_name_their_colour_once() {
        assert_eq!(coded(&[A; 256], 16), [2, 3, 2, 1, 0]);
        assert_eq!(coded(&[A; 3 * 16 * 16], 48), [2, 3, 2, 1, 0, 0, 0]);
        assert_eq!(coded(&[[A; 16], [B; 16]].concat(), 32), [2, 3, 2, 1, 0, 2, 12, 11, 10, 0]);
    }

    #[test]
    fn one_other_colour_is_the_foreground() {
        let mut pixels = [A; 20];
        pixels[6] = B;
        pixels[11] = B;
        // A row of 5: (1,1) and (1,2) make one rectangle.
        assert_eq!(coded(&pixels, 5), [2 | 4 | 8, 3, 2, 1, 0, 12, 11, 10, 0, 1, 0x11, 0x01]);
        // The second tile has the same two.
        let mut wide = vec![A; 2 * 256];
        wide[0] = B;
        wide[32 + 16] = B;
        assert_eq!(coded(&wide, 32), [2 | 4 | 8, 3, 2, 1, 0, 12, 11, 10, 0, 1, 0x00, 0x00, 8, 1, 0x01, 0x00]);
    }

    #[test]
    fn more_colours_come_with_their_rectangles_and_leave_no_foreground() {
        let mut pixels = vec![A; 2 * 256];
        pixels[0..2].fill(B);
        pixels[2] = 7;
        pixels[16] = B;
        assert_eq!(
            coded(&pixels, 32),
            [
                [2 | 8 | 16, 3, 2, 1, 0, 2].as_slice(),
                &[12, 11, 10, 0, 0x00, 0x10],
                &[7, 0, 0, 0, 0x20, 0x00],
                &[4 | 8, 12, 11, 10, 0, 1, 0x00, 0x00],
            ]
            .concat()
        );
    }

    #[test]
    fn a_foreground_is_named_again_after_coloured_rectangles() {
        let mut pixels = vec![A; 3 * 256];
        pixels[0] = B;
        pixels[16..18].copy_from_slice(&[7, 8]);
        pixels[32] = B;
        assert_eq!(
            coded(&pixels, 48),
            [
                [2 | 4 | 8, 3, 2, 1, 0, 12, 11, 10, 0, 1, 0x00, 0x00].as_slice(),
                &[8 | 16, 2, 7, 0, 0, 0, 0x00, 0x00, 8, 0, 0, 0, 0x10, 0x00],
                &[4 | 8, 12, 11, 10, 0, 1, 0x00, 0x00],
            ]
            .concat()
        );
    }

    #[test]
    fn noise_is_raw_and_the_next_tile_names_its_colours() {
        let noise: Vec<u32> = (0..256u32).map(|n| n.wrapping_mul(0x9e37_79b9) >> 8).collect();
        let mut pixels = Vec::new();
        noise.chunks(16).for_each(|row| pixels.extend([row, &[A; 16], row].concat()));
        let coded = coded(&pixels, 48);
        assert_eq!(coded.len(), 2 * (1 + 4 * 256) + 5);
        assert_eq!((coded[0], &coded[1 + 1024..6 + 1024]), (1, &[2, 3, 2, 1, 0][..]));
    }

    #[test]
    fn a_client_decodes_what_was_encoded_of_every_kind() {
        let mut chance = crate::chance::Chance::new(1);
        let mut random = |n: u32| chance.below(n);
        for colours in [1, 2, 3, 5, 23, 24, 25, 200, 1 << 24] {
            for longest in [1, 3, 40, 600] {
                let (w, h) = (1 + random(90), 1 + random(70));
                let mut pixels = Vec::new();
                while pixels.len() < (w * h) as usize {
                    let run = 1 + random(longest) as usize;
                    pixels.resize((pixels.len() + run).min((w * h) as usize), random(colours));
                }
                let coded = coded(&pixels, w as usize);
                let most = pixels.len() * 4 + (w.div_ceil(16) * h.div_ceil(16)) as usize;
                assert!(coded.len() <= most, "{} bytes, raw {most}", coded.len());
                let mut seen = vec![0; pixels.len()];
                let mut rest = &coded[..];
                let area = Rect { x: 0, y: 0, w, h };
                decode::hextile(&mut rest, area, &mut seen, w as usize).unwrap();
                assert!(rest.is_empty());
                assert!(seen == pixels, "{colours} colours, {w}x{h}");
            }
        }
    }

    #[test]
    fn pixels_are_the_clients() {
        let format =
            PixelFormat { bits_per_pixel: 16, depth: 16, big_endian: true, max: [31, 63, 31], shift: [11, 5, 0] };
        let mut to = Vec::new();
        let area = Rect { x: 0, y: 0, w: 2, h: 1 };
        encode(Pixels { pixels: &[0xff0000, 0x0000ff], stride: 2 }, area, &format, &mut to);
        // Both come as often; the later one is the background. As rectangles that is longer than raw.
        assert_eq!(to, [1, 0xf8, 0x00, 0x00, 0x1f]);
    }
}
