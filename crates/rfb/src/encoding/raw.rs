//! Raw encoding (RFC 6143, 7.7.1): the pixels, row by row.

use super::Pixels;
use crate::pixel::PixelFormat;
use crate::region::Rect;

pub(super) fn encode(from: Pixels<'_>, area: Rect, format: &PixelFormat, to: &mut Vec<u8>) {
    to.reserve(area.w as usize * area.h as usize * format.bytes());
    for row in from.rows(area) {
        format.put_all(row, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_area_in_the_clients_format() {
        let pixels = [0, 1, 2, 3, 0x0a0b0c, 5, 6, 7, 8];
        let from = Pixels { pixels: &pixels, stride: 3 };
        let mut to = Vec::new();
        let area = Rect { x: 1, y: 1, w: 2, h: 2 };
        encode(from, area, &PixelFormat::NATIVE, &mut to);
        assert_eq!(to, [12, 11, 10, 0, 5, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0]);
        to.clear();
        encode(from, area, &PixelFormat { big_endian: true, ..PixelFormat::NATIVE }, &mut to);
        assert_eq!(to[..4], [0, 10, 11, 12]);
    }
}
