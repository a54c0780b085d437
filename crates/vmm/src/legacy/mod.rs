//! What a PC has had since its first years: serial port, keyboard controller, clock, and ports of one byte.
//!
//! The interval timer with the speaker port is the kernel's.

pub mod i8042;
pub mod ports;
pub mod rtc;
pub mod serial;
