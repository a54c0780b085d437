//! Bars of two colours, as menus and status lines are, each in a rectangle of its own.
//!
//! ZRLE packs a tile of two colours into one bit a pixel, and a line's bits are the same whether it is lit or not: the zlib
//! stream has them already when a menu's bar moves on. In one rectangle two bars have four colours, and none of that.

use super::Pixels;
use crate::region::Rect;

/// Least rows of a bar, and most bars of an area: each costs a rectangle's header and the end of a zlib block.
const LEAST_ROWS: u32 = 8;
pub(crate) const MOST_BANDS: usize = 4;

/// Appends the bars that `area` consists of, or the area itself.
pub(crate) fn split(from: Pixels<'_>, area: Rect, to: &mut Vec<Rect>) {
    let before = to.len();
    if area.h < 2 * LEAST_ROWS || bands(from, area, to).is_none() {
        to.truncate(before);
        to.push(area);
    }
}

fn bands(from: Pixels<'_>, area: Rect, to: &mut Vec<Rect>) -> Option<()> {
    let (mut colours, mut first) = (Pair::default(), area.y);
    let most = to.len() + MOST_BANDS;
    let mut close = |first: u32, end: u32| {
        to.push(Rect { y: first, h: end - first, ..area });
        (end - first >= LEAST_ROWS && to.len() <= most).then_some(())
    };
    for (row, y) in from.rows(area).zip(area.y..) {
        let both = colours.with(row);
        colours = match both {
            Some(both) => both,
            None => {
                close(first, y)?;
                first = y;
                Pair::default().with(row)?
            }
        };
    }
    close(first, area.y + area.h)
}

/// At most two colours.
#[derive(Clone, Copy, Default)]
struct Pair(Option<u32>, Option<u32>);

impl Pair {
    fn with(mut self, row: &[u32]) -> Option<Self> {
        for pixel in row {
            match self {
                Self(Some(a), _) if a == *pixel => {}
                Self(_, Some(b)) if b == *pixel => {}
                Self(None, _) => self.0 = Some(*pixel),
                Self(_, None) => self.1 = Some(*pixel),
                _ => return None,
            }
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Rect = Rect { x: 1, y: 2, w: 3, h: 24 };

    /// 5 columns, 30 rows; each row of the area has the colours that `row` says.
    fn split_of(row: impl Fn(u32) -> [u32; 3]) -> Vec<(u32, u32)> {
        let mut pixels = vec![9; 5 * 30];
        for y in 0..AREA.h {
            let at = ((AREA.y + y) * 5 + AREA.x) as usize;
            pixels[at..at + 3].copy_from_slice(&row(y));
        }
        let mut found = Vec::new();
        split(Pixels { pixels: &pixels, stride: 5 }, AREA, &mut found);
        assert!(found.iter().all(|band| (band.x, band.w) == (AREA.x, AREA.w)));
        found.iter().map(|band| (band.y, band.h)).collect()
    }

    #[test]
    fn bars_are_split_and_nothing_else_is() {
        let bar = |y: u32| if y < 10 { [1, 1, 2] } else { [3, 4, 3] };
        assert_eq!(split_of(bar), [(2, 10), (12, 14)]);
        // A row of the paper alone belongs to the bar above it.
        assert_eq!(split_of(|y| if y == 9 { [1; 3] } else { bar(y) }), [(2, 10), (12, 14)]);
        let whole = [(AREA.y, AREA.h)];
        assert_eq!(split_of(|_| [1, 2, 1]), whole, "two colours in all");
        assert_eq!(split_of(|y| [1, 2, y]), whole, "many colours");
        assert_eq!(split_of(|y| if y == 20 { [5, 6, 7] } else { bar(y) }), whole, "one row of three colours");
        assert_eq!(split_of(|y| if y < 3 { [5, 6, 5] } else { bar(y) }), whole, "a bar that is too low");
    }
}
