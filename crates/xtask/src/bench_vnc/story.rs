//! What is shown: a walk through a menu, scrolled lines of text, redraws of a photograph. Made, not taken, and the same in
//! every run.

/// The screen in pixels.
pub(super) const WIDTH: usize = 1024;
pub(super) const HEIGHT: usize = 768;

/// A character cell in pixels.
const CELL: (usize, usize) = (8, 16);
const COLUMNS: usize = WIDTH / CELL.0;
const LINES: usize = HEIGHT / CELL.1;

/// A picture, `0x00RRGGBB`.
pub(super) type Picture = Vec<u32>;

/// Hands each picture of a story to `show`, in order.
pub(super) type Story = fn(show: &mut dyn FnMut(&[u32]) -> anyhow::Result<()>) -> anyhow::Result<()>;

/// The stories with their names.
pub(super) const STORIES: [(&str, Story); 3] =
    [("menu walk, 120 steps", menu), ("2,000 lines scrolled", scroll), ("photograph, 12 redraws", photograph)];

/// Numbers by chance, the same for the same seed.
fn chance(seed: u32) -> impl FnMut(u32) -> u32 {
    let mut state = u64::from(seed) << 8 | 1;
    move |below| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % u64::from(below)) as u32
    }
}

// Strokes as letters have them: a few uprights and bars, different for each character.
fn glyph(character: u32) -> [u8; CELL.1] {
    let mut rows = [0; CELL.1];
    if character == 0 {
        return rows;
    }
    let mut chance = chance(character * 7919);
    for _ in 0..2 {
        let (column, from, to) = (1 + chance(6), 3 + chance(4), 8 + chance(5));
        rows[from as usize..to as usize].iter_mut().for_each(|row| *row |= 0x80 >> column);
    }
    for _ in 0..2 {
        let (row, left, length) = (3 + chance(9), 1 + chance(3), 2 + chance(4));
        (left..left + length).for_each(|column| rows[row as usize] |= 0x80 >> column.min(7));
    }
    rows
}

fn write(picture: &mut [u32], line: usize, column: usize, text: &[u32], [ink, paper]: [u32; 2]) {
    for (n, character) in text.iter().enumerate().take(COLUMNS - column) {
        for (y, row) in glyph(*character).into_iter().enumerate() {
            let at = (line * CELL.1 + y) * WIDTH + (column + n) * CELL.0;
            for (x, pixel) in picture[at..at + CELL.0].iter_mut().enumerate() {
                *pixel = if row >> (7 - x) & 1 != 0 { ink } else { paper };
            }
        }
    }
}

// Words of letters, blanks between them.
fn words(seed: u32, length: usize) -> Vec<u32> {
    let mut chance = chance(seed + 1);
    let mut left = 0;
    let letter = |_| {
        if left == 0 {
            left = 2 + chance(8);
            return 0;
        }
        left -= 1;
        1 + chance(60)
    };
    (0..length).map(letter).collect()
}

fn menu(show: &mut dyn FnMut(&[u32]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    const ENTRIES: usize = 20;
    const BLUE: u32 = 0x0000a8;
    let mut picture = vec![BLUE; WIDTH * HEIGHT];
    write(&mut picture, 2, 30, &words(1, 60), [0xffffff, BLUE]);
    write(&mut picture, LINES - 3, 10, &words(2, 100), [0xa8a8a8, BLUE]);
    let entry = |n: usize| [vec![0; 3], words(10 + n as u32, 40 + n % 7), vec![0; 27 - n % 7]].concat();
    let plain = [0x000000, 0xa8a8a8];
    (0..ENTRIES).for_each(|n| write(&mut picture, 8 + n, 29, &entry(n), plain));
    for step in 0..120 {
        // Down to the end and up again.
        let at = |step: usize| {
            let place = step % (2 * ENTRIES - 2);
            place.min(2 * ENTRIES - 2 - place)
        };
        write(&mut picture, 8 + at(step + 119), 29, &entry(at(step + 119)), plain);
        if step > 0 {
            write(&mut picture, 8 + at(step - 1), 29, &entry(at(step - 1)), plain);
        }
        write(&mut picture, 8 + at(step), 29, &entry(at(step)), [0xffffff, 0xa80000]);
        show(&picture)?;
    }
    Ok(())
}

fn scroll(show: &mut dyn FnMut(&[u32]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut picture: Picture = vec![0; WIDTH * HEIGHT];
    let mut chance = chance(3);
    for line in 0..2000 {
        picture.copy_within(CELL.1 * WIDTH.., 0);
        picture[(HEIGHT - CELL.1) * WIDTH..].fill(0);
        let length = 10 + chance(110) as usize;
        write(&mut picture, LINES - 1, 0, &words(1000 + line, length), [0xa8a8a8, 0]);
        show(&picture)?;
    }
    Ok(())
}

// Slow waves of light in each colour, and the grain of a film.
fn photograph(show: &mut dyn FnMut(&[u32]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for which in 0..12 {
        let (mut grain, mut chance) = (chance(9000 + which), chance(77 + which));
        let mut waves =
            || [0; 4].map(|_| (f64::from(chance(90)) / 4000.0, f64::from(chance(90)) / 4000.0, chance(628)));
        let channels = [waves(), waves(), waves()];
        let mut picture: Picture = Vec::with_capacity(WIDTH * HEIGHT);
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let level = |waves: &[(f64, f64, u32); 4], grain: u32| {
                    let wave = |(a, b, c): &(f64, f64, u32)| {
                        (x as f64 * a + y as f64 * b + f64::from(*c) / 100.0).sin() * 28.0
                    };
                    let sum = 126.0 + waves.iter().map(wave).sum::<f64>() + f64::from(grain);
                    sum.clamp(0.0, 255.0) as u32
                };
                let [r, g, b] = &channels;
                let shared = grain(5);
                picture.push(level(r, shared) << 16 | level(g, shared) << 8 | level(b, shared));
            }
        }
        show(&picture)?;
    }
    Ok(())
}
