//! What stands behind the contracts in tests and fuzzers: recorders in place of `/dev/kvm`.

mod board;
mod cable;
mod disk;
mod driver;
mod fuzz;
mod levels;
mod messages;
mod scratch;

pub use board::{Board, FAR, NEAR, Register, at};
pub use cable::Cable;
pub use disk::MemoryDisk;
pub use driver::{DATA, Driver, Piece};
pub use fuzz::{Input, fuzz_pci};
pub use levels::Levels;
pub use messages::{Messages, message_log};
pub use scratch::ScratchFunction;

/// Bytes that look random, the same for the same seed (xorshift64*).
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes().iter().skip(4));
    }
    bytes.truncate(len);
    bytes
}
