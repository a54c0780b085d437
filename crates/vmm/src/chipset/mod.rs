//! The chipset's own registers.

pub mod pm;
