//! Interrupts as devices see them: wires and messages.
//!
//! The interrupt controllers are the kernel's (in-kernel irqchip). A device raises a wire through [`Line`] or sends a
//! message by writing to a vector's event; what stands behind is KVM in a machine and a recorder in a test.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// The controllers behind the wires. A GSI is KVM's global system interrupt: 0-15 ISA, 16-23 PCI.
pub trait Wires: Send + Sync {
    /// Drives the wire. Idempotent.
    fn set(&self, gsi: u32, level: bool);
}

/// A wire that up to 64 sources share: it is up while any of them holds it up.
pub struct SharedWire {
    wires: Arc<dyn Wires>,
    gsi: u32,
    holders: AtomicU64,
    order: parking_lot::Mutex<()>,
}

impl SharedWire {
    /// The wire of `gsi`, held by nobody.
    pub fn new(wires: Arc<dyn Wires>, gsi: u32) -> Arc<Self> {
        Arc::new(Self { wires, gsi, holders: AtomicU64::new(0), order: parking_lot::Mutex::new(()) })
    }

    /// Number of the wire.
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// A source's end of it. `source` is below 64 and used by one device only.
    pub fn line(self: &Arc<Self>, source: u32) -> Line {
        Line { wire: self.clone(), bit: 1 << (source & 63) }
    }
}

/// One source's end of a wire.
#[derive(Clone)]
pub struct Line {
    wire: Arc<SharedWire>,
    bit: u64,
}

impl Line {
    /// A line on a wire of its own.
    pub fn alone(wires: Arc<dyn Wires>, gsi: u32) -> Self {
        SharedWire::new(wires, gsi).line(0)
    }

    /// Holds the wire up or lets go of it. Idempotent; a change reaches the controller before this returns.
    pub fn set(&self, level: bool) {
        let bits = self.wire.holders.load(Ordering::Acquire);
        if (bits & self.bit != 0) == level {
            return;
        }
        let _order = self.wire.order.lock();
        let before = self.wire.holders.load(Ordering::Acquire);
        let after = if level { before | self.bit } else { before & !self.bit };
        self.wire.holders.store(after, Ordering::Release);
        if (before == 0) != (after == 0) {
            self.wire.wires.set(self.wire.gsi, after != 0);
        }
    }

    /// An edge: up and down again.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

/// A message-signalled interrupt (PCI Local Bus 3.0, 6.8.1): what is written where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct MsiMessage {
    /// Guest-physical address, within 0xfee0_0000-0xfeef_ffff on x86.
    pub address: u64,
    /// Value written.
    pub data: u32,
}

/// Gives out message vectors.
pub trait MsiController: Send + Sync {
    /// A new vector, masked.
    ///
    /// # Errors
    /// When the host has no event descriptor or the machine no route left.
    fn vector(&self) -> io::Result<Arc<dyn MsiVector>>;
}

/// One vector: an event that the device signals and that becomes a message while routed.
pub trait MsiVector: Send + Sync {
    /// Where the device signals; a queue worker may keep a clone of it. While the vector is masked, signals stay in
    /// the event (non-blocking) and are found by reading it: that is the pending bit.
    fn event(&self) -> &EventFd;
    /// Routes the event to a message, or masks it (`None`). Idempotent. Signals found pending while unmasking are
    /// sent.
    ///
    /// # Errors
    /// When the kernel refuses the route; the vector is masked then.
    fn route(&self, message: Option<MsiMessage>) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u32, bool)>>);
    impl Wires for Log {
        fn set(&self, gsi: u32, level: bool) {
            self.0.lock().push((gsi, level));
        }
    }

    #[test]
    fn a_shared_wire_stays_up_until_its_last_holder_lets_go() {
        let log = Arc::new(Log::default());
        let wire = SharedWire::new(log.clone(), 16);
        let (a, b) = (wire.line(0), wire.line(1));
        a.set(true);
        a.set(true);
        b.set(true);
        a.set(false);
        assert_eq!(*log.0.lock(), [(16, true)]);
        b.set(false);
        b.set(false);
        assert_eq!(*log.0.lock(), [(16, true), (16, false)]);
    }
}
