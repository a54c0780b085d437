//! Pictures that move up or down between two looks, as text does: found here, sent as CopyRect (RFC 6143, 7.7.2).
//!
//! Only what a screen of text does is looked for: rows of the same columns, all moved by the same number of rows.

use crate::region::Rect;

/// A part of the screen that moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scroll {
    /// Where it is now.
    pub(crate) to: Rect,
    /// Rows that it went up; negative: down.
    pub(crate) up: i32,
}

/// Least rows and columns of a change in which a move is looked for: less is sent as quickly as it is searched.
const LEAST_ROWS: u32 = 24;
const LEAST_COLUMNS: u32 = 32;
/// Rows that must speak for a distance, and that a part must save.
const LEAST_SAVED: u32 = 8;
/// A row that stands more often than this says nothing about where it came from: blank ones do.
const COMMON: usize = 4;
/// Parts that one look may find.
const MOST_PARTS: usize = 4;

impl Scroll {
    /// Where it was.
    pub(crate) fn from(self) -> Rect {
        Rect { y: self.to.y.saturating_add_signed(self.up), ..self.to }
    }

    /// Does to a picture of `width` columns what a client does that is sent it.
    pub(crate) fn apply(self, pixels: &mut [u32], width: usize) {
        let (to, from) = (self.to, self.from());
        let row = |y: u32| y as usize * width + to.x as usize;
        let copy = |n: u32| {
            let at = row(from.y + n);
            pixels.copy_within(at..at + to.w as usize, row(to.y + n));
        };
        // Rows that are yet to be read aren't written before.
        if self.up > 0 { (0..to.h).for_each(copy) } else { (0..to.h).rev().for_each(copy) }
    }
}

/// A picture's rows between two columns.
struct Rows<'a> {
    pixels: &'a [u32],
    width: usize,
    area: Rect,
    hashes: Vec<u64>,
}

impl<'a> Rows<'a> {
    fn new(pixels: &'a [u32], width: usize, area: Rect) -> Self {
        let mut rows = Self { pixels, width, area, hashes: Vec::new() };
        rows.hashes = (0..area.h).map(|n| hash(rows.row(n))).collect();
        rows
    }

    fn row(&self, n: u32) -> &'a [u32] {
        let at = (self.area.y + n) as usize * self.width + self.area.x as usize;
        self.pixels.get(at..at + self.area.w as usize).unwrap_or_default()
    }

    fn hash(&self, n: u32) -> Option<u64> {
        self.hashes.get(n as usize).copied()
    }
}

// Only to find rows that may be alike: those that are used are compared. Four sums side by side keep the processor busy.
fn hash(row: &[u32]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sums = [row.len() as u64; 4];
    let (eights, rest) = row.as_chunks::<8>();
    for eight in eights {
        for (sum, pair) in sums.iter_mut().zip(eight.as_chunks::<2>().0) {
            *sum = (sum.rotate_left(23) ^ (u64::from(pair[0]) << 32 | u64::from(pair[1]))).wrapping_mul(K);
        }
    }
    rest.iter().chain(&[0]).fold(0, |sum, pixel| (sum ^ u64::from(*pixel)).wrapping_mul(K).rotate_left(23))
        ^ sums.iter().fold(0, |all: u64, sum| (all.rotate_left(23) ^ sum).wrapping_mul(K))
}

/// Finds what moved between two pictures of `width` columns that differ in `changed`, and only there. Done one after the
/// other, the moves bring the old picture nearer to the new one.
pub(crate) fn find(old: &[u32], new: &[u32], width: u32, changed: Rect) -> Vec<Scroll> {
    if changed.h < LEAST_ROWS || changed.w < LEAST_COLUMNS {
        return Vec::new();
    }
    let [old, new] = [old, new].map(|pixels| Rows::new(pixels, width as usize, changed));
    let Some(up) = distance(&old, &new) else { return Vec::new() };
    let mut parts = parts(&old, &new, up);
    parts.sort_by_key(|(saved, _)| std::cmp::Reverse(*saved));
    parts.truncate(MOST_PARTS);
    // No part may overwrite what a later one is copied from.
    parts.sort_by_key(|(_, part)| if up > 0 { i64::from(part.to.y) } else { -i64::from(part.to.y) });
    parts.into_iter().map(|(_, part)| part).collect()
}

// The distance for which most rows speak that aren't where they were.
fn distance(old: &Rows<'_>, new: &Rows<'_>) -> Option<i32> {
    let height = new.area.h;
    let mut places: Vec<(u64, u32)> = old.hashes.iter().copied().zip(0..).collect();
    places.sort_unstable();
    let mut votes = vec![0u32; 2 * height as usize];
    for (n, hash) in (0..height).zip(&new.hashes) {
        let first = places.partition_point(|(other, _)| other < hash);
        let same = places.get(first..).unwrap_or_default().iter().take_while(|(other, _)| other == hash);
        if old.hash(n) == Some(*hash) || same.clone().take(COMMON + 1).count() > COMMON {
            continue;
        }
        for (_, place) in same {
            if let Some(vote) = votes.get_mut((height + place - n) as usize) {
                *vote += 1;
            }
        }
    }
    let (at, most) = votes.iter().enumerate().max_by_key(|(_, count)| **count)?;
    (*most >= LEAST_SAVED).then_some(at as i32 - height as i32)
}

// Runs of rows that came from `up` rows below, with the count of those that differ from what stood there.
fn parts(old: &Rows<'_>, new: &Rows<'_>, up: i32) -> Vec<(u32, Scroll)> {
    let mut found = Vec::new();
    let mut open: Option<(u32, u32)> = None;
    for n in 0..=new.area.h {
        let from = n.checked_add_signed(up).filter(|from| n < new.area.h && *from < old.area.h);
        let same = from.is_some_and(|from| new.hash(n) == old.hash(from) && new.row(n) == old.row(from));
        match (same, open) {
            (true, _) => {
                let (first, saved) = open.unwrap_or((n, 0));
                open = Some((first, saved + u32::from(new.hash(n) != old.hash(n))));
            }
            (false, Some((first, saved))) => {
                if saved >= LEAST_SAVED {
                    let to = Rect { y: new.area.y + first, h: n - first, ..new.area };
                    found.push((saved, Scroll { to, up }));
                }
                open = None;
            }
            (false, None) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: u32 = 80;
    const HEIGHT: u32 = 96;
    const ALL: Rect = Rect { x: 0, y: 0, w: WIDTH, h: HEIGHT };

    /// Rows of text, each unlike the others; every third is blank.
    fn text(first: u32) -> Vec<u32> {
        let pixel = |x: u32, y: u32| if y.is_multiple_of(3) { 0 } else { (y * 977 + x).wrapping_mul(0x9e37_79b9) >> 8 };
        (first..first + HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| pixel(x, y))).collect()
    }

    fn after(found: &[Scroll], old: &[u32]) -> Vec<u32> {
        let mut pixels = old.to_vec();
        found.iter().for_each(|scroll| scroll.apply(&mut pixels, WIDTH as usize));
        pixels
    }

    fn rows(pixels: &[u32], range: std::ops::Range<u32>) -> &[u32] {
        &pixels[(range.start * WIDTH) as usize..(range.end * WIDTH) as usize]
    }

    #[test]
    fn text_that_goes_up_or_down_is_one_move() {
        let found = find(&text(0), &text(16), WIDTH, ALL);
        assert_eq!(found, [Scroll { to: Rect { h: HEIGHT - 16, ..ALL }, up: 16 }]);
        assert_eq!(rows(&after(&found, &text(0)), 0..80), rows(&text(16), 0..80));
        let found = find(&text(16), &text(0), WIDTH, ALL);
        assert_eq!(found, [Scroll { to: Rect { y: 16, h: HEIGHT - 16, ..ALL }, up: -16 }]);
        assert_eq!(rows(&after(&found, &text(16)), 16..96), rows(&text(0), 16..96));
    }

    #[test]
    fn a_part_between_columns_moves_alone() {
        let area = Rect { x: 20, y: 10, w: 40, h: 60 };
        let (old, moved) = (text(0), text(5));
        let mut new = old.clone();
        for y in area.y..area.y + area.h {
            let at = (y * WIDTH + area.x) as usize;
            new[at..at + 40].copy_from_slice(&moved[at..at + 40]);
        }
        let found = find(&old, &new, WIDTH, area);
        assert_eq!(found, [Scroll { to: Rect { h: 55, ..area }, up: 5 }]);
    }

    #[test]
    fn what_stands_between_splits_the_move_and_the_parts_keep_out_of_each_others_way() {
        for (from, to) in [(0, 7), (7, 0)] {
            let (old, mut new) = (text(from), text(to));
            new[(40 * WIDTH) as usize..(41 * WIDTH) as usize].fill(0x123456);
            let found = find(&old, &new, WIDTH, ALL);
            assert_eq!(found.len(), 2);
            let (pixels, moved) = (after(&found, &old), found.iter().map(|s| s.to));
            moved.for_each(|area| {
                let range = area.y..area.y + area.h;
                assert_eq!(rows(&pixels, range.clone()), rows(&new, range));
            });
        }
    }

    #[test]
    fn other_pictures_did_not_move() {
        assert_eq!(find(&text(0), &text(1000), WIDTH, ALL), []);
        let blank = vec![0; (WIDTH * HEIGHT) as usize];
        assert_eq!(find(&text(0), &blank, WIDTH, ALL), []);
        assert_eq!(find(&blank, &text(0), WIDTH, ALL), []);
        assert_eq!(find(&text(0), &text(8), WIDTH, Rect { h: LEAST_ROWS - 1, ..ALL }), [], "too little");
    }

    #[test]
    fn a_move_and_the_place_it_came_from() {
        let mut pixels: Vec<u32> = (0..16).collect();
        let scroll = Scroll { to: Rect { x: 1, y: 0, w: 2, h: 3 }, up: 1 };
        assert_eq!(scroll.from(), Rect { x: 1, y: 1, w: 2, h: 3 });
        scroll.apply(&mut pixels, 4);
        assert_eq!(pixels, [0, 5, 6, 3, 4, 9, 10, 7, 8, 13, 14, 11, 12, 13, 14, 15]);
        Scroll { to: Rect { x: 0, y: 2, w: 1, h: 2 }, up: -2 }.apply(&mut pixels, 4);
        assert_eq!(pixels[8..], [0, 13, 14, 11, 4, 13, 14, 15]);
    }
}
