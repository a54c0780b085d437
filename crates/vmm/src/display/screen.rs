//! The picture: what a viewer or a screenshot gets to see.

use vm_memory::{Bytes, VolatileMemory};

use super::dispi::Mode;
use super::{Display, bits};
use crate::memory::layout::PAGE;

/// Size while no mode is on, and the picture is black: that of VGA's text mode.
const NO_MODE: (u32, u32) = (720, 400);

/// A rectangle in pixels from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub w: u32,
    /// Height.
    pub h: u32,
}

impl Display {
    /// Width and height of the picture in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.card.lock().dispi.mode().map_or(NO_MODE, |mode| (mode.width, mode.height))
    }

    /// Begins or ends the log of changes. One watcher at a time.
    pub fn watch(&self, on: bool) {
        let mut view = self.view.lock();
        view.watching = on;
        if on {
            if view.reader.is_none() {
                self.begin_log(&mut view);
            }
        } else if let (Some(region), Some(reader)) = (view.region, view.reader.take()) {
            // The region is known, so is the reader.
            let _ = self.slots.unwatch(region, reader);
        }
    }

    /// Adds the areas that may have changed since the last call, or since [`Display::watch`] began.
    pub fn changes(&self, areas: &mut Vec<Area>) {
        let (mode, epoch) = {
            let card = self.card.lock();
            (card.dispi.mode(), card.epoch)
        };
        let mut view = self.view.lock();
        let dirty = match (view.region, view.reader) {
            (Some(region), Some(reader)) => self.slots.take_dirty(region, reader).unwrap_or_default(),
            _ => Vec::new(),
        };
        let moved = view.seen.replace(epoch) != Some(epoch);
        let logged = view.reader.is_some();
        drop(view);
        let Some(mode) = mode else {
            if moved {
                areas.push(Area { x: 0, y: 0, w: NO_MODE.0, h: NO_MODE.1 });
            }
            return;
        };
        // Without a log (the BAR isn't shown) every look is at all of it.
        if moved || !logged {
            areas.push(Area { x: 0, y: 0, w: mode.width, h: mode.height });
        } else {
            rows(&mode, &dirty, areas);
        }
    }

    /// Copies the pixels of `area` as `0x00RRGGBB`, row by row without gaps, into `to`. Says no when the area doesn't
    /// lie inside the picture as it is now, or `to` has another length.
    pub fn copy(&self, area: Area, to: &mut [u32]) -> bool {
        let card = self.card.lock();
        let (width, height) = card.dispi.mode().map_or(NO_MODE, |mode| (mode.width, mode.height));
        let inside = area.x.checked_add(area.w).is_some_and(|x| x <= width)
            && area.y.checked_add(area.h).is_some_and(|y| y <= height);
        if !inside || to.len() != area.w as usize * area.h as usize {
            return false;
        }
        let Some(mode) = card.dispi.mode().filter(|_| card.vga.shows()) else {
            to.fill(0);
            return true;
        };
        let palette: Vec<u32> = match mode.bpp {
            8 => {
                let eight = card.dispi.read(bits::dispi::ENABLE) & bits::dispi::DAC_8BIT != 0;
                (0..=u8::MAX).map(|index| card.vga.palette(index, eight)).collect()
            }
            _ => Vec::new(),
        };
        drop(card);
        self.copy_rows(&mode, area, &palette, to)
    }

    fn copy_rows(&self, mode: &Mode, area: Area, palette: &[u32], to: &mut [u32]) -> bool {
        if area.w == 0 {
            return true;
        }
        let memory = self.memory.0.as_volatile_slice();
        let bytes = mode.pixel_bytes();
        let mut line = vec![0u8; area.w as usize * bytes];
        for (row, y) in to.chunks_exact_mut(area.w as usize).zip(area.y as usize..) {
            let from = mode.offset + y * mode.stride + area.x as usize * bytes;
            if memory.read_slice(&mut line, from).is_err() {
                return false;
            }
            for (pixel, raw) in row.iter_mut().zip(line.chunks_exact(bytes)) {
                *pixel = colour(mode.bpp, raw, palette);
            }
        }
        true
    }
}

fn colour(bpp: u16, raw: &[u8], palette: &[u32]) -> u32 {
    let byte = |at: usize| u32::from(raw.get(at).copied().unwrap_or(0));
    match bpp {
        32 | 24 => byte(2) << 16 | byte(1) << 8 | byte(0),
        16 => {
            let p = byte(1) << 8 | byte(0);
            widen(p >> 11, 5) << 16 | widen(p >> 5, 6) << 8 | widen(p, 5)
        }
        15 => {
            let p = byte(1) << 8 | byte(0);
            widen(p >> 10, 5) << 16 | widen(p >> 5, 5) << 8 | widen(p, 5)
        }
        _ => palette.get(byte(0) as usize).copied().unwrap_or(0),
    }
}

// The largest level of `bits` bits becomes 255.
fn widen(level: u32, bits: u32) -> u32 {
    let max = (1 << bits) - 1;
    (level & max) * 255 / max
}

/// Rows that the dirty pages touch, joined.
fn rows(mode: &Mode, dirty: &[u64], areas: &mut Vec<Area>) {
    let page = PAGE as usize;
    let end = mode.offset + mode.stride * mode.height as usize;
    let mut next = 0;
    for number in mode.offset / page..end.div_ceil(page) {
        let is_dirty = dirty.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 != 0);
        if !is_dirty {
            continue;
        }
        let row = |byte: usize| (byte.saturating_sub(mode.offset) / mode.stride) as u32;
        let first = row(number * page).max(next);
        next = (row((number + 1) * page - 1) + 1).min(mode.height);
        if first >= next {
            continue;
        }
        match areas.last_mut() {
            Some(last) if last.y + last.h == first => last.h = next - last.y,
            _ => areas.push(Area { x: 0, y: first, w: mode.width, h: next - first }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: Mode = Mode { width: 1280, height: 800, bpp: 32, stride: 5120, offset: 0 };

    fn touched(mode: &Mode, pages: &[usize]) -> Vec<(u32, u32)> {
        let mut dirty = vec![0u64; 64];
        pages.iter().for_each(|p| dirty[p / 64] |= 1 << (p % 64));
        let mut areas = Vec::new();
        rows(mode, &dirty, &mut areas);
        areas.iter().map(|a| (a.y, a.h)).collect()
    }

    #[test]
    fn dirty_pages_become_rows() {
        assert_eq!(touched(&MODE, &[]), []);
        assert_eq!(touched(&MODE, &[0]), [(0, 1)]);
        assert_eq!(touched(&MODE, &[1]), [(0, 2)], "a page across two rows");
        assert_eq!(touched(&MODE, &[0, 1, 2]), [(0, 3)]);
        assert_eq!(touched(&MODE, &[0, 100, 999]), [(0, 1), (80, 1), (799, 1)]);
        assert_eq!(touched(&MODE, &[1000, 2000]), [], "outside of what is visible");
    }

    #[test]
    fn a_shifted_picture_counts_from_its_offset() {
        let shifted = Mode { offset: 5120 * 10 + 40, height: 5, ..MODE };
        assert_eq!(touched(&shifted, &[12]), [(0, 1)]);
        assert_eq!(touched(&shifted, &[0, 11]), []);
    }

    #[test]
    fn colours_of_each_depth() {
        assert_eq!(colour(32, &[1, 2, 3, 0xff], &[]), 0x030201);
        assert_eq!(colour(24, &[1, 2, 3], &[]), 0x030201);
        assert_eq!(colour(16, &[0xff, 0xff], &[]), 0xffffff);
        assert_eq!(colour(16, &[0x00, 0xf8], &[]), 0xff0000);
        assert_eq!(colour(15, &[0xe0, 0x03], &[]), 0x00ff00);
        assert_eq!(colour(8, &[1], &[0, 0x123456]), 0x123456);
    }
}
