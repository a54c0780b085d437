//! Port writes that KVM keeps in a ring instead of leaving the guest for each (`KVM_CAP_COALESCED_PIO`).

use std::sync::Arc;

use kvm_ioctls::{Cap, IoEventAddress, VcpuFd, VmFd};

use super::vcpu::Vcpu;
use super::vm::Vm;

/// A write that was kept.
pub struct Kept {
    /// Port.
    pub port: u64,
    data: [u8; 8],
    len: usize,
}

impl Kept {
    /// What was written.
    pub fn data(&self) -> &[u8] {
        self.data.get(..self.len).unwrap_or_default()
    }
}

/// Four ports whose writes can be kept. All processors of a machine share one ring.
pub struct CoalescedPorts {
    vm: Arc<VmFd>,
    first: u64,
    ring: VcpuFd,
}

/// How many ports.
const LEN: u32 = 4;

impl CoalescedPorts {
    /// The four ports from `first` on, not kept yet; `None` when the kernel can't.
    pub fn new(vm: &Vm, vcpu: &Vcpu, first: u64) -> Option<Self> {
        if !vm.fd().check_extension(Cap::CoalescedPio) {
            return None;
        }
        let mut ring = vm.second_handle(&vcpu.fd).ok()?;
        ring.map_coalesced_mmio_ring().ok()?;
        Some(Self { vm: vm.fd().clone(), first, ring })
    }

    /// From now on writes are kept, of any width that lies inside. Says whether it came about.
    pub fn open(&self) -> bool {
        self.vm.register_coalesced_mmio(IoEventAddress::Pio(self.first), LEN).is_ok()
    }

    /// From now on writes leave the guest again. Says whether it came about; then no processor is still about to keep
    /// one, because the kernel waits for those that are.
    pub fn close(&self) -> bool {
        self.vm.unregister_coalesced_mmio(IoEventAddress::Pio(self.first), LEN).is_ok()
    }

    /// Takes the oldest write that is kept.
    pub fn take(&mut self) -> Option<Kept> {
        let kept = self.ring.coalesced_mmio_read().ok()??;
        Some(Kept { port: kept.phys_addr, data: kept.data, len: (kept.len as usize).min(kept.data.len()) })
    }
}
