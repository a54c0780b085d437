//! The chipset's own functions: the memory controller and host bridge (MCH), and the bridge to the legacy bus (LPC).
//!
//! They come out of reset as the chips do: nothing decoded. Firmware programs them, or on a direct boot [`direct`].

pub mod bits;
pub mod chip_configuration;
pub mod direct;
pub mod lpc;
pub mod mch;
pub mod pm;

pub use chip_configuration::ChipConfiguration;
pub use lpc::Lpc;
pub use mch::Mch;
