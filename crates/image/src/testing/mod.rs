//! Storages that tests put in place of files.

mod memory;

pub use memory::Memory;
