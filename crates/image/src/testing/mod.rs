//! Storages that tests put in place of files, and what tests and fuzz targets share.

pub mod damage;
mod exercise;
mod faulty;
mod fuzz;
mod memory;
mod noise;
mod recorder;
mod sound;

pub use exercise::exercise;
pub use faulty::{CALLS, Call, Faulty, Trouble};
pub use fuzz::{fuzz_compressed, fuzz_header, fuzz_snapshots, fuzz_tables};
pub use memory::Memory;
pub use noise::Noise;
pub use recorder::Recorder;
pub use sound::{KINDS, sound};
