//! Reads text off a picture of a screen, cell by cell, with the font that drew it.
//!
//! No guessing: a cell is read when its pixels have two colours and the ones of one colour are exactly a glyph.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

/// Stands in the second cell of a wide character.
pub const SECOND_HALF: char = '\0';

/// Width of a cell in pixels.
const CELL_WIDTH: usize = 8;

/// A font of glyphs 8 or 16 pixels wide.
pub struct Font {
    height: usize,
    /// Rows of a glyph, the leftmost pixel in the highest bit of `width`, to its character.
    glyphs: HashMap<(usize, Vec<u32>), char>,
}

struct Bgf<'a>(&'a [u8]);

impl Bgf<'_> {
    fn u32(&self, at: usize) -> Result<u32> {
        let bytes = self.0.get(at..).and_then(|b| b.first_chunk()).context("the font is cut short")?;
        Ok(u32::from_le_bytes(*bytes))
    }
    fn place(&self, at: usize) -> Result<usize> {
        Ok(self.u32(at)? as usize)
    }
}

impl Font {
    /// Reads a font in bogl's form, as the Debian installer brings it for its text screens.
    ///
    /// A header of magic, name, height, index mask and the places of three tables (64-bit little-endian as the 64-bit
    /// installer maps it): where the characters of each index value begin, the characters (high bits, and the width in the low
    /// ones, then the glyph's place), and the glyphs, a 32-bit row each, leftmost pixel highest.
    ///
    /// # Errors
    /// When the file isn't such a font.
    pub fn bgf(file: &[u8]) -> Result<Self> {
        if !file.starts_with(b"BGF1") {
            bail!("not a bogl font");
        }
        let font = Bgf(file);
        let (height, mask) = (font.place(12)?, font.u32(16)?);
        let (offsets, index, content) = (font.place(20)?, font.place(28)?, font.place(36)?);
        let mut glyphs = HashMap::new();
        for low in 0..=mask {
            let mut at = index + font.place(offsets + low as usize * 4)? * 4;
            loop {
                let entry = font.u32(at)?;
                if entry == 0 {
                    break;
                }
                let (code, width) = (entry & !mask | low, (entry & mask) as usize);
                let rows = content + font.place(at + 4)? * 4;
                let rows: Vec<u32> = (0..height).map(|row| font.u32(rows + row * 4)).collect::<Result<_>>()?;
                if let (Some(letter), 8 | 16) = (char::from_u32(code), width) {
                    let rows = rows.iter().map(|row| row >> (32 - width)).collect();
                    // Letters that look alike are one: the first in Unicode's order.
                    let slot = glyphs.entry((width, rows)).or_insert(letter);
                    *slot = letter.min(*slot);
                }
                at += 8;
            }
        }
        Ok(Self { height, glyphs })
    }

    /// Height of a cell in pixels.
    pub fn height(&self) -> usize {
        self.height
    }
}

/// What stands in the cells of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Rows of cells; `None` where no glyph fits. The second half of a wide character is [`SECOND_HALF`].
    pub rows: Vec<Vec<Option<char>>>,
}

impl Grid {
    /// Reads a picture `width` pixels wide.
    pub fn read(pixels: &[u32], width: usize, font: &Font) -> Self {
        let rows = pixels.chunks_exact(width * font.height).map(|band| row(band, width, font)).collect();
        Self { rows }
    }

    /// The text, a line per row, unread cells as U+FFFD.
    pub fn text(&self) -> String {
        let line = |row: &Vec<Option<char>>| -> String {
            let cells = row.iter().filter(|cell| **cell != Some(SECOND_HALF));
            let text: String = cells.map(|cell| cell.unwrap_or('\u{fffd}')).collect();
            text.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Cells that are not blank, and how many of them were read.
    pub fn score(&self) -> (usize, usize) {
        let shown = |cell: &&Option<char>| !matches!(**cell, Some(' ' | SECOND_HALF));
        let cells = self.rows.iter().flatten().filter(shown);
        cells.fold((0, 0), |(all, read), cell| (all + 1, read + usize::from(cell.is_some())))
    }
}

fn row(band: &[u32], width: usize, font: &Font) -> Vec<Option<char>> {
    let columns = width / CELL_WIDTH;
    let mut cells = Vec::with_capacity(columns);
    while cells.len() < columns {
        let x = cells.len() * CELL_WIDTH;
        let narrow = cell(band, width, x, CELL_WIDTH, font);
        if narrow.is_none()
            && cells.len() + 1 < columns
            && let Some(wide) = cell(band, width, x, 2 * CELL_WIDTH, font)
        {
            cells.extend([Some(wide), Some(SECOND_HALF)]);
            continue;
        }
        cells.push(narrow);
    }
    cells
}

fn cell(band: &[u32], width: usize, x: usize, w: usize, font: &Font) -> Option<char> {
    let lines: Vec<&[u32]> = band.chunks_exact(width).map(|line| line.get(x..x + w).unwrap_or_default()).collect();
    let first = *lines.first()?.first()?;
    let mut others = lines.iter().flat_map(|l| l.iter()).filter(|p| **p != first);
    let Some(second) = others.next() else { return Some(' ') };
    if others.any(|p| p != second) {
        return None;
    }
    let ink = |colour: u32| -> Vec<u32> {
        let bits = |line: &&[u32]| line.iter().fold(0, |bits, p| bits << 1 | u32::from(*p == colour));
        lines.iter().map(bits).collect()
    };
    let glyph = |colour: u32| font.glyphs.get(&(w, ink(colour))).copied();
    glyph(*second).or_else(|| glyph(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn font() -> Font {
        let mut glyphs = HashMap::new();
        glyphs.insert((8, vec![0b0001_1000, 0b1111_1111]), 'A');
        glyphs.insert((16, vec![0x8001, 0xffff]), '中');
        Font { height: 2, glyphs }
    }

    fn draw(rows: &[&str]) -> Vec<u32> {
        rows.iter().flat_map(|row| row.bytes().map(|b| if b == b'#' { 0xffffff } else { 0x0000aa })).collect()
    }

    #[test]
    fn glyphs_are_read_in_either_colour_and_blanks_are_blanks() {
        let pixels = draw(&["...##...........#......#", "########.........#######"]);
        let inverted: Vec<u32> = pixels.iter().map(|p| if *p == 0xffffff { 0xaa } else { 0xffffff }).collect();
        for picture in [pixels, inverted] {
            let grid = Grid::read(&picture, 24, &font());
            assert_eq!(grid.rows, [[Some('A'), Some(' '), None]]);
            assert_eq!(grid.score(), (2, 1));
            assert_eq!(grid.text(), "A \u{fffd}");
        }
    }

    #[test]
    fn wide_characters_take_two_cells() {
        let pixels = draw(&["#..............#", "################"]);
        let grid = Grid::read(&pixels, 16, &font());
        assert_eq!(grid.rows, [[Some('中'), Some(SECOND_HALF)]]);
        assert_eq!((grid.text().as_str(), grid.score()), ("中", (1, 1)));
    }

    #[test]
    fn what_is_no_font_is_refused() {
        assert!(Font::bgf(b"PSF").is_err());
        assert!(Font::bgf(b"BGF14\0\0\0").is_err());
    }
}
