//! The picture that guests draw: every 8th pixel of every 8th row tells its place, between them is something of
//! everything that encoders treat apart.

pub const WIDTH: usize = 1280;
pub const HEIGHT: usize = 800;

/// A picture as the framebuffer and VNC's native format have it: `0x00RRGGBB`, little-endian.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub pixels: Vec<u32>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{} pixels", self.width, self.pixels.len() / self.width.max(1))
    }
}

/// The `which`th test pattern.
pub fn pattern(which: u32) -> Picture {
    let pixel = |n: usize| pixel((n % WIDTH) as u32, (n / WIDTH) as u32, which);
    Picture { width: WIDTH, pixels: (0..WIDTH * HEIGHT).map(pixel).collect() }
}

fn pixel(x: u32, y: u32, which: u32) -> u32 {
    if x.is_multiple_of(8) && y.is_multiple_of(8) {
        return (x / 8) << 16 | (y / 8) << 8 | 0xa0 | which;
    }
    let noise = (x.wrapping_mul(0x9e37_79b9) ^ y.wrapping_mul(0x85eb_ca6b) ^ which).wrapping_mul(0xc2b2_ae35) >> 8;
    match (x / 64 + y / 64 + which) % 4 {
        0 => 0x20_4060 * which,
        1 => [0xffffff, 0x00_8000][(x / 2 % 2) as usize],
        2 => (noise % 13) * 0x11_0d07,
        _ => noise,
    }
}

impl Picture {
    /// As it stands in the framebuffer.
    pub fn bytes(&self) -> Vec<u8> {
        self.pixels.iter().flat_map(|pixel| pixel.to_le_bytes()).collect()
    }

    /// From a PNG file's bytes.
    pub fn from_png(file: &[u8]) -> Self {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut bytes).unwrap();
        assert_eq!(frame.bit_depth, png::BitDepth::Eight);
        let samples = frame.color_type.samples();
        assert!(samples >= 3, "{:?}", frame.color_type);
        let pixel = |p: &[u8]| u32::from_be_bytes([0, p[0], p[1], p[2]]);
        Self {
            width: frame.width as usize,
            pixels: bytes[..frame.buffer_size()].chunks_exact(samples).map(pixel).collect(),
        }
    }

    /// Whether `part` stands somewhere in it.
    pub fn shows(&self, part: &Picture) -> bool {
        let rows = |p: &Picture| p.pixels.len() / p.width;
        let first = &part.pixels[..part.width];
        let at = |x: usize, y: usize| {
            part.pixels.chunks(part.width).enumerate().all(|(n, row)| {
                let from = (y + n) * self.width + x;
                self.pixels[from..from + part.width] == *row
            })
        };
        (0..=rows(self).saturating_sub(rows(part))).any(|y| {
            (0..=self.width.saturating_sub(part.width)).any(|x| {
                let from = y * self.width + x;
                self.pixels[from] == first[0] && self.pixels[from..from + part.width] == *first && at(x, y)
            })
        })
    }

    /// Where it differs from another one of its size: how often, and the first place.
    pub fn difference(&self, other: &Picture) -> Option<String> {
        if (self.width, self.pixels.len()) != (other.width, other.pixels.len()) {
            return Some(format!("{self:?} and {other:?}"));
        }
        let wrong: Vec<usize> = (0..self.pixels.len()).filter(|n| self.pixels[*n] != other.pixels[*n]).collect();
        let first = *wrong.first()?;
        let place = (first % self.width, first / self.width);
        let [a, b] = [self.pixels[first], other.pixels[first]];
        Some(format!("{} pixels differ, first at {place:?}: {a:06x} and {b:06x}", wrong.len()))
    }
}

/// Fails with the first difference.
pub fn assert_same(who: &str, seen: &Picture, wanted: &Picture) {
    if let Some(difference) = seen.difference(wanted) {
        panic!("{who} shows another picture: {difference}");
    }
}
