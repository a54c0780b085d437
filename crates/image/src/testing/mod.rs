//! Storages that tests put in place of files, and what tests and fuzz targets share.

mod fuzz;
mod memory;
mod recorder;

pub use fuzz::{fuzz_compressed, fuzz_header, fuzz_snapshots};
pub use memory::Memory;
pub use recorder::Recorder;
