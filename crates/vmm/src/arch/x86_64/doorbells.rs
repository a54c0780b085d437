//! Doorbells by KVM's ioeventfd (`KVM_IOEVENTFD`).

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::doorbell::{Doorbell, Doorbells, Space};

/// The kernel's doorbells. A bell without a value rings for writes of any width.
pub struct KvmDoorbells(Arc<VmFd>);

impl KvmDoorbells {
    /// The doorbells of a machine.
    pub fn new(fd: Arc<VmFd>) -> Self {
        Self(fd)
    }
}

fn place(bell: &Doorbell) -> IoEventAddress {
    match bell.space {
        Space::Port => IoEventAddress::Pio(bell.address),
        Space::Memory => IoEventAddress::Mmio(bell.address),
    }
}

// The width of a valued bell is the type of its value.
macro_rules! by_width {
    ($fd:expr, $call:ident, $bell:expr, $event:expr) => {{
        let at = place(&$bell);
        match ($bell.value, $bell.len) {
            (None, _) => $fd.$call($event, &at, NoDatamatch),
            (Some(v), 1) => $fd.$call($event, &at, v as u8),
            (Some(v), 2) => $fd.$call($event, &at, v as u16),
            (Some(v), 4) => $fd.$call($event, &at, v as u32),
            (Some(v), _) => $fd.$call($event, &at, v),
        }
        .map_err(io::Error::from)
    }};
}

impl Doorbells for KvmDoorbells {
    fn bind(&self, bell: Doorbell, event: &EventFd) -> io::Result<()> {
        by_width!(self.0, register_ioevent, bell, event)
    }
    fn unbind(&self, bell: Doorbell, event: &EventFd) -> io::Result<()> {
        by_width!(self.0, unregister_ioevent, bell, event)
    }
}
