//! Bodies of the fuzz targets, which seeded tests run as well: any bytes are a program for a guest.

#![allow(clippy::unwrap_used)] // Failing is how a finding shows.

use super::{Board, FAR, ScratchFunction, at};
use crate::chipset::direct;
use crate::device::{Device, Saved};
use crate::pci::intx::Pin;

/// Bytes, taken from the front; zeros when they have run out.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Reads `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let len = N.min(self.0.len());
        let (head, rest) = self.0.split_at(len);
        for (to, from) in taken.iter_mut().zip(head) {
            *to = *from;
        }
        self.0 = rest;
        taken
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.bytes();
        byte
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

/// A guest that pokes at configuration space and moves BARs. Afterwards the board's state goes to another board and
/// must read the same there.
pub fn fuzz_pci(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let board = Board::new().with_disk();
    // Both stages of a boot are worth starting from.
    if input.byte() & 1 != 0 {
        direct::program(&board.host).unwrap();
    }
    while !input.is_empty() {
        step(&board, &mut input);
    }
    board.host.pause();
    let saved = board.host.save().unwrap();
    let saved: Saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
    let other = Board::on(board.ram.clone()).with_disk();
    if board.host.snapshot().root_ports.len() == other.host.snapshot().root_ports.len() {
        match other.host.restore(&saved) {
            Ok(()) => {
                assert_eq!(other.host.save().unwrap(), saved);
                assert_eq!(other.host.snapshot(), board.host.snapshot());
            }
            // The guest unplugged the far function, or wrote over a ring's place after it was started.
            Err(error) => log::debug!("not restored: {error}"),
        }
    }
}

// An address at which something is likely to be.
fn address(board: &Board, input: &mut Input<'_>) -> u64 {
    let (choice, raw) = (input.byte(), input.u64());
    match choice % 4 {
        0 => raw,
        1 => 0xb000_0000 | raw & 0x0fff_ffff,
        2 => board.near.placed(0).or(board.far.placed(0)).unwrap_or(0xfed1_c000) + (raw & 0x3fff),
        _ => board.host.snapshot().windows.last().map_or(0, |window| window.base) + (raw & 0xf_ffff),
    }
}

fn step(board: &Board, input: &mut Input<'_>) {
    const DEVICES: [u8; 6] = [0, 2, 3, 4, 31, 7];
    let operation = input.byte();
    let len = [1usize, 2, 4, 8, 3][usize::from(input.byte()) % 5];
    match operation % 10 {
        0..=3 => {
            let which = input.byte();
            let device = DEVICES[usize::from(which >> 4) % DEVICES.len()];
            let function = at(which & 1, if which & 1 == 0 { device } else { 0 }, which >> 1 & 1);
            let offset = usize::from(input.u16() & 0xfff);
            let data = input.bytes::<8>();
            match operation % 2 {
                0 => board.host.config_write(function, offset, &data[..len]),
                _ => board.host.config_read(function, offset, &mut [0; 8][..len]),
            }
        }
        4 => drop(board.ports.write(0xcf8 + u64::from(input.byte() % 8), &input.bytes::<8>()[..len])),
        5 => drop(board.ports.read(u64::from(input.u16()), &mut [0; 8][..len])),
        6 => drop(board.memory.write(address(board, input), &input.bytes::<8>()[..len])),
        7 => drop(board.memory.read(address(board, input), &mut [0; 8][..len])),
        8 => match input.byte() % 8 {
            0 => board.host.reset(),
            1 => drop(direct::program(&board.host)),
            2 => drop(board.host.unplug_function(FAR)),
            3 => {
                if let Ok(line) = board.host.line(FAR, Pin::A) {
                    let _ = board.host.plug(FAR, ScratchFunction::new(FAR, line));
                }
            }
            4 => board.host.pause(),
            _ => board.host.resume(),
        },
        _ => {
            board.near.interrupt(input.byte() & 1 != 0);
            board.far.interrupt(input.byte() & 1 != 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn a_guest_that_does_anything_finds_nothing_in_pci() {
        for seed in 0..400 {
            fuzz_pci(&noise(seed, 600));
        }
    }
}
