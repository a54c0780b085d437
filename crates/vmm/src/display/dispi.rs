//! The Bochs VBE extensions: the card's modes.

use serde::{Deserialize, Serialize};

use super::bits::VIDEO_MEMORY;
use super::bits::dispi::*;

/// What is shown of video memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Visible width in pixels.
    pub width: u32,
    /// Visible height in pixels.
    pub height: u32,
    /// Bits per pixel: 8, 15, 16, 24 or 32.
    pub bpp: u16,
    /// Bytes from one line to the next.
    pub stride: usize,
    /// Offset of the first visible pixel in bytes.
    pub offset: usize,
}

impl Mode {
    /// Bytes of a pixel.
    pub fn pixel_bytes(&self) -> usize {
        usize::from(self.bpp).div_ceil(8)
    }
}

/// The register file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispi {
    registers: [u16; COUNT],
}

/// What a write asks of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// To zero the visible memory: a mode came on without the flag that keeps it.
    Clear,
}

impl Default for Dispi {
    fn default() -> Self {
        let mut registers = [0; COUNT];
        registers[ID] = ID_NEWEST;
        registers[VIDEO_MEMORY_64K] = (VIDEO_MEMORY >> 16) as u16;
        Self { registers }
    }
}

impl Dispi {
    /// Switches a mode on as a guest would, memory cleared or not being the caller's affair.
    pub fn set_mode(&mut self, width: u16, height: u16, bpp: u16) {
        self.write(ENABLE, 0);
        self.write(XRES, width);
        self.write(YRES, height);
        self.write(BPP, bpp);
        self.write(ENABLE, ENABLED | LINEAR | NO_CLEAR);
    }

    /// Reads a register.
    pub fn read(&self, register: usize) -> u16 {
        let caps = self.registers[ENABLE] & GET_CAPS != 0;
        match register {
            XRES if caps => MAX_X,
            YRES if caps => MAX_Y,
            BPP if caps => MAX_BPP,
            _ => self.registers.get(register).copied().unwrap_or(u16::MAX),
        }
    }

    /// Writes a register.
    pub fn write(&mut self, register: usize, value: u16) -> Asks {
        match register {
            ID if (ID_OLDEST..=ID_NEWEST).contains(&value) => self.registers[ID] = value,
            XRES | YRES | BPP | VIRT_WIDTH | X_OFFSET | Y_OFFSET | BANK => {
                self.registers[register] = value;
                self.settle();
            }
            ENABLE => return self.enable(value),
            _ => {}
        }
        Asks::Nothing
    }

    fn enable(&mut self, value: u16) -> Asks {
        let was = self.registers[ENABLE] & ENABLED != 0;
        self.registers[ENABLE] = value & (ENABLED | GET_CAPS | DAC_8BIT | LINEAR | NO_CLEAR);
        if value & ENABLED == 0 || was {
            return Asks::Nothing;
        }
        self.registers[VIRT_WIDTH] = 0;
        self.registers[X_OFFSET] = 0;
        self.registers[Y_OFFSET] = 0;
        self.settle();
        if value & NO_CLEAR == 0 { Asks::Clear } else { Asks::Nothing }
    }

    /// Whatever a guest wrote, the visible part lies inside video memory: registers that would say otherwise are
    /// brought back, as guests find out by reading them.
    fn settle(&mut self) {
        let r = &mut self.registers;
        if ![8, 15, 16, 24, 32].contains(&r[BPP]) {
            r[BPP] = 8;
        }
        r[XRES] = r[XRES].clamp(8, MAX_X) & !7;
        r[YRES] = r[YRES].clamp(1, MAX_Y);
        let bytes = usize::from(r[BPP]).div_ceil(8);
        let widest = (VIDEO_MEMORY / bytes).min(usize::from(MAX_X)) as u16 & !7;
        r[XRES] = r[XRES].min(widest);
        r[VIRT_WIDTH] = (r[VIRT_WIDTH] & !7).clamp(r[XRES], widest);
        let lines = VIDEO_MEMORY / (usize::from(r[VIRT_WIDTH]) * bytes);
        r[VIRT_HEIGHT] = lines.min(usize::from(u16::MAX)) as u16;
        r[YRES] = r[YRES].min(r[VIRT_HEIGHT]);
        r[X_OFFSET] = r[X_OFFSET].min(r[VIRT_WIDTH] - r[XRES]);
        r[Y_OFFSET] = r[Y_OFFSET].min(r[VIRT_HEIGHT] - r[YRES]);
    }

    /// The mode, when one is on.
    pub fn mode(&self) -> Option<Mode> {
        let r = &self.registers;
        if r[ENABLE] & ENABLED == 0 {
            return None;
        }
        let bytes = usize::from(r[BPP]).div_ceil(8);
        let stride = usize::from(r[VIRT_WIDTH]) * bytes;
        Some(Mode {
            width: r[XRES].into(),
            height: r[YRES].into(),
            bpp: r[BPP],
            stride,
            offset: usize::from(r[Y_OFFSET]) * stride + usize::from(r[X_OFFSET]) * bytes,
        })
    }

    /// Whether every register has a value that [`Dispi::write`] could have left.
    pub fn is_possible(&self) -> bool {
        let mut settled = self.clone();
        if self.registers[ENABLE] & ENABLED != 0 {
            settled.settle();
        }
        settled == *self && self.registers[VIDEO_MEMORY_64K] == (VIDEO_MEMORY >> 16) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sets_a_mode() {
        let mut dispi = Dispi::default();
        assert_eq!(dispi.mode(), None);
        for (register, value) in [(XRES, 1024), (YRES, 768), (BPP, 32)] {
            assert_eq!(dispi.write(register, value), Asks::Nothing);
        }
        assert_eq!(dispi.write(ENABLE, ENABLED | LINEAR), Asks::Clear);
        let mode = Mode { width: 1024, height: 768, bpp: 32, stride: 4096, offset: 0 };
        assert_eq!(dispi.mode(), Some(mode));
        assert_eq!(dispi.read(VIRT_HEIGHT), 4096);
        dispi.write(Y_OFFSET, 768);
        assert_eq!(dispi.mode().unwrap().offset, 768 * 4096);
        dispi.write(ENABLE, 0);
        assert_eq!(dispi.mode(), None);
    }

    #[test]
    fn limits_are_asked_for_by_a_flag() {
        let mut dispi = Dispi::default();
        dispi.write(ENABLE, GET_CAPS);
        assert_eq!([XRES, YRES, BPP].map(|r| dispi.read(r)), [MAX_X, MAX_Y, MAX_BPP]);
        assert_eq!(dispi.read(ID), ID_NEWEST);
        dispi.write(ID, 0xb0c2);
        assert_eq!(dispi.read(ID), 0xb0c2);
        dispi.write(ID, 0x1234);
        assert_eq!(dispi.read(ID), 0xb0c2);
        assert_eq!(dispi.read(VIDEO_MEMORY_64K), 256);
        assert_eq!(dispi.read(COUNT), u16::MAX);
    }

    #[test]
    fn whatever_is_written_the_visible_part_lies_inside_video_memory() {
        let mut dispi = Dispi::default();
        let mut seed = 7u32;
        let mut random = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        let odd = [0, 1, 7, 8, 15, 16, 24, 32, 1280, 15999, 16000, 16001, 0x7fff, 0xffff];
        for _ in 0..200_000 {
            let value = odd[random() as usize % odd.len()];
            dispi.write(random() as usize % (COUNT + 2), value);
            if let Some(m) = dispi.mode() {
                let last = m.offset + (m.height as usize - 1) * m.stride + m.width as usize * m.pixel_bytes();
                assert!(m.width > 0 && m.height > 0 && last <= VIDEO_MEMORY, "{m:?} {dispi:?}");
            }
            assert!(dispi.is_possible(), "{dispi:?}");
        }
    }
}
