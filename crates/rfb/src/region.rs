//! Rectangles, and what a client has yet to see: at most one box for each tile of the screen.

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

    /// What it shares with another; empty when they are apart.
    pub fn intersection(self, other: Rect) -> Rect {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let end = |a: u32, al: u32, b: u32, bl: u32| a.saturating_add(al).min(b.saturating_add(bl));
        let w = end(self.x, self.w, other.x, other.w).saturating_sub(x);
        let h = end(self.y, self.h, other.y, other.h).saturating_sub(y);
        Rect { x, y, w, h }
    }

    /// The smallest rectangle around both, neither of which is empty.
    pub fn around(self, other: Rect) -> Rect {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let end = |a: u32, al: u32, b: u32, bl: u32| a.saturating_add(al).max(b.saturating_add(bl));
        Rect { x, y, w: end(self.x, self.w, other.x, other.w) - x, h: end(self.y, self.h, other.y, other.h) - y }
    }

    /// Whether all of `other` lies in it.
    pub fn contains(self, other: Rect) -> bool {
        self.intersection(other) == other
    }

    /// Whether they share a pixel.
    pub fn overlaps(self, other: Rect) -> bool {
        !self.intersection(other).is_empty()
    }

    fn area(self) -> u64 {
        u64::from(self.w) * u64::from(self.h)
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

/// A rectangle's own cost in an update, in pixels that could be sent for it: two that are joined may have so much
/// between them that neither has.
const JOINT: u64 = 64;

/// Areas of a screen: of each tile the smallest box around what was marked there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tiles {
    size: Size,
    columns: u32,
    boxes: Vec<Option<Rect>>,
    marked: usize,
}

impl Tiles {
    /// Nothing of a screen of this size.
    pub fn none(size: Size) -> Self {
        let columns = size.w.div_ceil(TILE);
        let rows = size.h.div_ceil(TILE);
        Self { size, columns, boxes: vec![None; (columns * rows) as usize], marked: 0 }
    }

    /// All of a screen of this size.
    pub fn all(size: Size) -> Self {
        let mut tiles = Self::none(size);
        tiles.mark(size.rect());
        tiles
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.marked == 0
    }

    /// Adds `area`.
    pub fn mark(&mut self, area: Rect) {
        let area = area.clip(self.size);
        if area.is_empty() {
            return;
        }
        for row in area.y / TILE..=(area.y + area.h - 1) / TILE {
            for column in area.x / TILE..=(area.x + area.w - 1) / TILE {
                let part = area.intersection(Rect { x: column * TILE, y: row * TILE, w: TILE, h: TILE });
                let held = &mut self.boxes[(row * self.columns + column) as usize];
                self.marked += usize::from(held.is_none());
                *held = Some(held.map_or(part, |held| held.around(part)));
            }
        }
    }

    /// Whether anything of `area` is there.
    pub fn touches(&self, area: Rect) -> bool {
        !self.is_empty() && self.boxes.iter().flatten().any(|held| held.overlaps(area))
    }

    /// Whether all of `area` is there.
    pub fn covers(&self, area: Rect) -> bool {
        let area = area.clip(self.size);
        (0..).zip(&self.boxes).all(|(n, held)| {
            let tile = Rect { x: n % self.columns * TILE, y: n / self.columns * TILE, w: TILE, h: TILE };
            let part = tile.intersection(area);
            part.is_empty() || held.is_some_and(|held| held.contains(part))
        })
    }

    /// The picture in `to` now is what stood `up` pixels below it (above, if negative), and what there was in `to` is
    /// gone: what was marked where it came from moves along.
    pub fn shift(&mut self, to: Rect, up: i32) {
        let from = Rect { y: to.y.saturating_add_signed(up), ..to };
        let carried: Vec<Rect> =
            self.boxes.iter().flatten().map(|held| held.intersection(from)).filter(|part| !part.is_empty()).collect();
        for held in &mut self.boxes {
            if held.is_some_and(|held| to.contains(held)) {
                *held = None;
                self.marked -= 1;
            }
        }
        for part in carried {
            self.mark(Rect { y: part.y.saturating_add_signed(-up), ..part });
        }
    }

    /// Takes out the boxes that overlap `area`, neighbours joined.
    pub fn take(&mut self, area: Rect) -> Vec<Rect> {
        let mut taken: Vec<Rect> = Vec::new();
        // Rectangles that end at the row of tiles above, and those of this row, in their order from the left.
        let (mut above, mut here) = (Vec::new(), Vec::new());
        if self.is_empty() || self.columns == 0 {
            return taken;
        }
        for row in self.boxes.chunks_mut(self.columns as usize) {
            for held in row {
                if held.is_some_and(|held| held.overlaps(area))
                    && let Some(part) = held.take()
                {
                    self.marked -= 1;
                    join(&mut here, part);
                }
            }
            pile(&mut taken, &mut above, &mut here);
        }
        taken.extend(above);
        taken
    }
}

// Joins a box to the last one of its row if little lies between.
fn join(row: &mut Vec<Rect>, part: Rect) {
    if let Some(last) = row.last_mut() {
        let joined = last.around(part);
        if joined.area() <= last.area() + part.area() + JOINT.min(part.area()) {
            *last = joined;
            return;
        }
    }
    row.push(part);
}

// Puts a row's rectangles under those above that they go on from; what isn't gone on from is done.
fn pile(done: &mut Vec<Rect>, above: &mut Vec<Rect>, here: &mut Vec<Rect>) {
    for part in here.iter_mut() {
        let fits = |top: &Rect| top.x == part.x && top.w == part.w && top.y + top.h == part.y;
        if let Some(at) = above.iter().position(fits) {
            *part = above.swap_remove(at).around(*part);
        }
    }
    done.append(above);
    std::mem::swap(above, here);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { w: 200, h: 100 };

    fn taken(areas: &[Rect], size: Size) -> Vec<Rect> {
        let mut tiles = Tiles::none(size);
        areas.iter().for_each(|area| tiles.mark(*area));
        let all = tiles.take(size.rect());
        assert!(tiles.is_empty() && tiles.take(size.rect()).is_empty());
        all
    }

    #[test]
    fn areas_come_back_as_they_were_marked_and_clipped() {
        let dot = Rect { x: 10, y: 10, w: 3, h: 2 };
        let corner = Rect { x: 199, y: 99, w: 500, h: 500 };
        assert_eq!(taken(&[dot, corner], SIZE), [dot, Rect { x: 199, y: 99, w: 1, h: 1 }]);
        assert_eq!(taken(&[SIZE.rect()], SIZE), [SIZE.rect()], "rows and columns of tiles are joined");
        let line = Rect { x: 5, y: 60, w: 190, h: 16 };
        assert_eq!(taken(&[line], SIZE), [line], "across two rows of tiles");
    }

    #[test]
    fn two_areas_of_a_tile_share_a_box_and_far_ones_do_not() {
        let [a, b] = [Rect { x: 0, y: 0, w: 1, h: 1 }, Rect { x: 20, y: 30, w: 1, h: 1 }];
        assert_eq!(taken(&[a, b], SIZE), [Rect { x: 0, y: 0, w: 21, h: 31 }]);
        let far = Rect { x: 150, y: 0, w: 9, h: 1 };
        assert_eq!(taken(&[a, far], SIZE), [a, far]);
    }

    #[test]
    fn only_what_overlaps_the_area_is_taken() {
        let mut tiles = Tiles::all(SIZE);
        let dot = Rect { x: 70, y: 70, w: 1, h: 1 };
        assert_eq!(tiles.take(dot), [Rect { x: 64, y: 64, w: 64, h: 36 }]);
        assert!(!tiles.is_empty() && !tiles.touches(dot) && tiles.touches(Rect { x: 0, ..dot }));
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

    #[test]
    fn what_is_marked_moves_with_the_picture() {
        let to = Rect { x: 0, y: 0, w: 200, h: 84 };
        let mut tiles = Tiles::none(SIZE);
        // One that is overwritten, one that moves along, one that stays.
        let lower = Rect { x: 100, y: 20, w: 4, h: 4 };
        for area in [Rect { x: 5, y: 3, w: 2, h: 2 }, lower, Rect { x: 0, y: 90, w: 200, h: 10 }] {
            tiles.mark(area);
        }
        tiles.shift(to, 16);
        let all = tiles.take(SIZE.rect());
        assert_eq!(all[0], Rect { y: 4, ..lower });
        // What was marked below was copied up, and is marked where it was too.
        assert_eq!(all[1..], [Rect { x: 0, y: 74, w: 200, h: 26 }]);
    }
}
