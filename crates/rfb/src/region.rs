//! Rectangles, and the set of tiles that a client has yet to see.

/// A rectangle in pixels from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub w: u32,
    /// Height.
    pub h: u32,
}

impl Rect {
    /// The part of it that lies in a screen of this size.
    pub fn clip(self, size: Size) -> Rect {
        let (x, y) = (self.x.min(size.w), self.y.min(size.h));
        let w = self.x.saturating_add(self.w).min(size.w) - x;
        let h = self.y.saturating_add(self.h).min(size.h) - y;
        Rect { x, y, w, h }
    }

    /// Whether it has no pixel.
    pub fn is_empty(self) -> bool {
        self.w == 0 || self.h == 0
    }

    fn overlaps(self, other: Rect) -> bool {
        let apart = |a: u32, al: u32, b: u32, bl: u32| a >= b.saturating_add(bl) || b >= a.saturating_add(al);
        !apart(self.x, self.w, other.x, other.w) && !apart(self.y, self.h, other.y, other.h)
    }
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Size {
    /// Width.
    pub w: u32,
    /// Height.
    pub h: u32,
}

impl Size {
    /// All of it.
    pub fn rect(self) -> Rect {
        Rect { x: 0, y: 0, w: self.w, h: self.h }
    }

    /// Pixels.
    pub fn area(self) -> usize {
        self.w as usize * self.h as usize
    }
}

/// Edge of a tile in pixels; ZRLE's (RFC 6143, 7.7.6).
pub const TILE: u32 = 64;

/// A set of tiles of a screen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tiles {
    size: Size,
    columns: u32,
    marks: Vec<bool>,
    marked: usize,
}

impl Tiles {
    /// No tile of a screen of this size.
    pub fn none(size: Size) -> Self {
        let columns = size.w.div_ceil(TILE);
        let rows = size.h.div_ceil(TILE);
        Self { size, columns, marks: vec![false; (columns * rows) as usize], marked: 0 }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.marked == 0
    }

    /// Adds every tile that `area` touches.
    pub fn mark(&mut self, area: Rect) {
        let area = area.clip(self.size);
        if area.is_empty() {
            return;
        }
        for row in area.y / TILE..=(area.y + area.h - 1) / TILE {
            for column in area.x / TILE..=(area.x + area.w - 1) / TILE {
                let mark = &mut self.marks[(row * self.columns + column) as usize];
                self.marked += usize::from(!*mark);
                *mark = true;
            }
        }
    }

    /// Takes out the tiles that overlap `area`, joined along their row.
    pub fn take(&mut self, area: Rect) -> Vec<Rect> {
        let mut taken: Vec<Rect> = Vec::new();
        for index in 0..self.marks.len() as u32 {
            if !self.marks[index as usize] {
                continue;
            }
            let tile = Rect { x: index % self.columns * TILE, y: index / self.columns * TILE, w: TILE, h: TILE };
            let tile = tile.clip(self.size);
            if !tile.overlaps(area) {
                continue;
            }
            self.marks[index as usize] = false;
            self.marked -= 1;
            match taken.last_mut() {
                Some(last) if last.y == tile.y && last.x + last.w == tile.x => last.w += tile.w,
                _ => taken.push(tile),
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_joined_along_rows_and_clipped() {
        let size = Size { w: 200, h: 100 };
        let mut tiles = Tiles::none(size);
        tiles.mark(Rect { x: 60, y: 10, w: 10, h: 1 });
        tiles.mark(Rect { x: 199, y: 99, w: 500, h: 500 });
        assert_eq!(tiles.take(size.rect()), [Rect { x: 0, y: 0, w: 128, h: 64 }, Rect { x: 192, y: 64, w: 8, h: 36 }]);
        assert!(tiles.is_empty());
        assert!(tiles.take(size.rect()).is_empty());
    }

    #[test]
    fn only_what_overlaps_the_area_is_taken() {
        let size = Size { w: 200, h: 100 };
        let mut tiles = Tiles::none(size);
        tiles.mark(size.rect());
        assert_eq!(tiles.take(Rect { x: 70, y: 70, w: 1, h: 1 }), [Rect { x: 64, y: 64, w: 64, h: 36 }]);
        assert!(!tiles.is_empty());
    }

    #[test]
    fn areas_outside_are_nothing() {
        let mut tiles = Tiles::none(Size { w: 10, h: 10 });
        tiles.mark(Rect { x: 10, y: 0, w: 5, h: 5 });
        tiles.mark(Rect { x: u32::MAX, y: u32::MAX, w: u32::MAX, h: u32::MAX });
        tiles.mark(Rect::default());
        assert!(tiles.is_empty());
        Tiles::none(Size::default()).mark(Rect { x: 0, y: 0, w: 9, h: 9 });
    }
}
