//! Virtio devices: modern ones over PCI, with split rings.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.2. No legacy interface, no packed ring, no queue reset.
//!
//! ```text
//!   driver ── BAR ──▶ transport::VirtioPci ── handler() ──▶ device (blk, net, rng, …)
//!                        │ activate / pause                    │
//!                        ▼                                     ▼
//!                     worker::Worker: one thread per queue, with ring, kick, call and handler, nothing else
//! ```
//!
//! A device type implements [`VirtioDevice`], and a [`QueueHandler`] per queue; it sees chains as two streams of
//! bytes and never an address. What is wrong with a ring ends in NEEDS_RESET, never in a panic.

pub mod bits;
pub mod blk;
mod chain;
pub mod console;
mod device;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod interrupt;
pub mod net;
mod ring;
pub mod rng;
#[cfg(test)]
mod tests;
mod transport;
mod worker;

pub use chain::{Broken, Chain, Segments};
pub use device::{DeviceType, Need, Outcome, QueueHandler, VirtioDevice};
pub use transport::{Numbers, Resources, VirtioPci};
