//! VGA's port registers as far as drivers of linear modes touch them: kept, with the index flip-flop and the retrace
//! bit that they wait for. What they mean for text and planar modes isn't drawn.

use serde::{Deserialize, Serialize};

use super::bits::vga::*;

const DAC: usize = 256 * 3;

/// The registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vga {
    attribute_index: u8,
    attribute_data_next: bool,
    attributes: [u8; 32],
    misc: u8,
    sequencer: Indexed,
    graphics: Indexed,
    crtc: Indexed,
    dac_mask: u8,
    dac_read: u16,
    dac_write: u16,
    dac: Vec<u8>,
    retrace: bool,
}

/// An index register and what it selects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Indexed {
    index: u8,
    data: [u8; 32],
}

impl Indexed {
    fn read(&self, is_data: bool) -> u8 {
        if is_data { self.data[usize::from(self.index & 31)] } else { self.index }
    }
    fn write(&mut self, is_data: bool, value: u8) {
        if is_data {
            self.data[usize::from(self.index & 31)] = value;
        } else {
            self.index = value;
        }
    }
}

impl Default for Vga {
    fn default() -> Self {
        Self {
            attribute_index: ATTRIBUTE_SHOW,
            attribute_data_next: false,
            attributes: [0; 32],
            misc: 1, // colour: CRTC at 0x3d4
            sequencer: Indexed::default(),
            graphics: Indexed::default(),
            crtc: Indexed::default(),
            dac_mask: 0xff,
            dac_read: 0,
            dac_write: 0,
            dac: vec![0; DAC],
            retrace: false,
        }
    }
}

impl Vga {
    /// Whether the screen shows, rather than being blanked by the attribute controller.
    pub fn shows(&self) -> bool {
        self.attribute_index & ATTRIBUTE_SHOW != 0
    }

    /// Colour `index` of the palette as `0x00RRGGBB`; `eight_bits` tells the DAC's width.
    pub fn palette(&self, index: u8, eight_bits: bool) -> u32 {
        let at = usize::from(index & self.dac_mask) * 3;
        let level = |byte: u8| if eight_bits { u32::from(byte) } else { u32::from(byte & 63) * 255 / 63 };
        self.dac[at..at + 3].iter().fold(0, |colour, byte| colour << 8 | level(*byte))
    }

    /// Reads the port at `offset` from 0x3c0.
    pub fn read(&mut self, offset: u64) -> u8 {
        match offset {
            ATTRIBUTE => self.attribute_index,
            ATTRIBUTE_READ => self.attributes[usize::from(self.attribute_index & 31)],
            MISC_READ => self.misc,
            SEQUENCER | 0x05 => self.sequencer.read(offset & 1 != 0),
            DAC_MASK => self.dac_mask,
            DAC_WRITE => (self.dac_write / 3) as u8,
            DAC_DATA => {
                let byte = self.dac[usize::from(self.dac_read) % DAC];
                self.dac_read = (self.dac_read + 1) % DAC as u16;
                byte
            }
            GRAPHICS | 0x0f => self.graphics.read(offset & 1 != 0),
            CRTC | 0x15 => self.crtc.read(offset & 1 != 0),
            STATUS_1 => {
                self.attribute_data_next = false;
                self.retrace = !self.retrace;
                if self.retrace { RETRACE } else { 0 }
            }
            _ => 0,
        }
    }

    /// Writes the port at `offset` from 0x3c0. Says whether what is shown may have changed.
    pub fn write(&mut self, offset: u64, value: u8) -> bool {
        match offset {
            ATTRIBUTE if self.attribute_data_next => {
                self.attributes[usize::from(self.attribute_index & 31)] = value;
                self.attribute_data_next = false;
            }
            ATTRIBUTE => {
                let shown = self.shows();
                self.attribute_index = value;
                self.attribute_data_next = true;
                return self.shows() != shown;
            }
            MISC_WRITE => self.misc = value,
            SEQUENCER | 0x05 => self.sequencer.write(offset & 1 != 0, value),
            DAC_MASK => {
                self.dac_mask = value;
                return true;
            }
            DAC_READ => self.dac_read = u16::from(value) * 3,
            DAC_WRITE => self.dac_write = u16::from(value) * 3,
            DAC_DATA => {
                self.dac[usize::from(self.dac_write) % DAC] = value;
                self.dac_write = (self.dac_write + 1) % DAC as u16;
                return true;
            }
            GRAPHICS | 0x0f => self.graphics.write(offset & 1 != 0, value),
            CRTC | 0x15 => self.crtc.write(offset & 1 != 0, value),
            _ => {}
        }
        false
    }

    /// Whether indices lie where writes can bring them.
    pub fn is_possible(&self) -> bool {
        self.dac.len() == DAC && usize::from(self.dac_read) < DAC && usize::from(self.dac_write) < DAC
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_port_takes_index_and_data_in_turn() {
        let mut vga = Vga::default();
        vga.read(STATUS_1);
        assert!(vga.write(ATTRIBUTE, 0x05), "blanked");
        assert!(!vga.shows());
        assert!(!vga.write(ATTRIBUTE, 0x77));
        assert_eq!(vga.read(ATTRIBUTE_READ), 0x77);
        assert!(vga.write(ATTRIBUTE, 0x20));
        assert!(vga.shows());
    }

    #[test]
    fn a_driver_that_waits_for_retrace_gets_it() {
        let mut vga = Vga::default();
        assert_ne!(vga.read(STATUS_1) & 8, vga.read(STATUS_1) & 8);
    }

    #[test]
    fn palette_colours_have_six_bits_or_eight() {
        let mut vga = Vga::default();
        vga.write(DAC_WRITE, 1);
        for byte in [63, 0, 31] {
            vga.write(DAC_DATA, byte);
        }
        assert_eq!(vga.palette(1, false), 0xff007d);
        assert_eq!(vga.palette(1, true), 0x3f001f);
        vga.write(DAC_READ, 1);
        assert_eq!([vga.read(DAC_DATA), vga.read(DAC_DATA), vga.read(DAC_DATA)], [63, 0, 31]);
    }

    #[test]
    fn no_access_leaves_the_registers() {
        let mut vga = Vga::default();
        for n in 0..100_000u32 {
            let (offset, value) = (u64::from(n % 40), ((n * 7) >> 2) as u8);
            vga.write(offset, value);
            vga.read(u64::from(n * 5 % 40));
            assert!(vga.is_possible());
        }
    }
}
