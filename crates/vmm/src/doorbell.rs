//! Doorbells: guest writes that become an event inside the kernel (KVM's ioeventfd), without an exit to us.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// Address space of a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// I/O ports.
    Port,
    /// Memory.
    Memory,
}

/// A write that rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Doorbell {
    /// Where.
    pub space: Space,
    /// Guest-physical address or port.
    pub address: u64,
    /// Width of the write in bytes: 1, 2, 4 or 8; 0 for any width.
    pub len: u32,
    /// Only this value rings, or any.
    pub value: Option<u64>,
}

/// Binds doorbells to events.
pub trait Doorbells: Send + Sync {
    /// From now on the write signals `event`.
    ///
    /// # Errors
    /// When the kernel refuses; the write then reaches the bus as any other, and the device handles it there.
    fn bind(&self, bell: Doorbell, event: &EventFd) -> io::Result<()>;
    /// The write reaches the bus again.
    ///
    /// # Errors
    /// When it wasn't bound.
    fn unbind(&self, bell: Doorbell, event: &EventFd) -> io::Result<()>;
}

/// No kernel behind: every write reaches the bus. For tests and fuzzers.
pub struct NoDoorbells;

impl Doorbells for NoDoorbells {
    fn bind(&self, _bell: Doorbell, _event: &EventFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn unbind(&self, _bell: Doorbell, _event: &EventFd) -> io::Result<()> {
        Ok(())
    }
}
