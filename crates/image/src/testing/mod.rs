//! Storages that tests put in place of files.

mod memory;
mod recorder;

pub use memory::Memory;
pub use recorder::Recorder;
