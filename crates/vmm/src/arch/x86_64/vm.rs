//! KVM's virtual machine: opening it, what must stand before the first processor, its memory slots and its clock.
//!
//! See the kernel's `Documentation/virt/kvm/api.rst`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{kvm_clock_data, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::memory::layout::{IDENTITY_MAP, TSS};
use crate::memory::slots::{Slot, SlotTable};

/// KVM refused something.
#[derive(Debug, thiserror::Error)]
#[error("KVM can't {doing}")]
pub struct KvmError {
    /// What was asked of it.
    pub doing: &'static str,
    /// What it said.
    #[source]
    pub source: io::Error,
}

/// Turns what an ioctl gave into our error.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, KvmError>;
}

impl<T> Doing<T> for Result<T, kvm_ioctls::Error> {
    fn doing(self, doing: &'static str) -> Result<T, KvmError> {
        self.map_err(|e| KvmError { doing, source: e.into() })
    }
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, KvmError> {
        self.map_err(|source| KvmError { doing, source })
    }
}

/// A virtual machine in the kernel, with interrupt controllers and timer, without processors or memory.
pub struct Vm {
    kvm: Kvm,
    fd: Arc<VmFd>,
}

impl Vm {
    /// Makes a machine on an opened `/dev/kvm`. With a speaker, port 0x61 answers.
    ///
    /// # Errors
    /// When the kernel refuses, e.g. because another hypervisor holds the processor's extensions.
    pub fn new(kvm: OwnedFd, speaker: bool) -> Result<Self, KvmError> {
        let kvm = adopt(kvm);
        let fd = kvm.create_vm().doing("make a virtual machine (is another hypervisor running?)")?;
        fd.set_identity_map_address(IDENTITY_MAP).doing("place the identity map")?;
        fd.set_tss_address(TSS as usize).doing("place the task state segment")?;
        fd.create_irq_chip().doing("make the interrupt controllers")?;
        let flags = if speaker { kvm_bindings::KVM_PIT_SPEAKER_DUMMY } else { 0 };
        let pit = kvm_pit_config { flags, ..Default::default() };
        fd.create_pit2(pit).doing("make the interval timer")?;
        Ok(Self { kvm, fd: Arc::new(fd) })
    }

    /// `/dev/kvm` itself.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The machine's descriptor.
    pub fn fd(&self) -> &Arc<VmFd> {
        &self.fd
    }

    /// How many memory slots it has.
    pub fn slot_limit(&self) -> u32 {
        u32::try_from(self.kvm.get_nr_memslots()).unwrap_or(u32::MAX).min(u32::from(u16::MAX))
    }

    /// Another handle on a processor, with its own mapping of what the kernel shares.
    ///
    /// # Errors
    /// When the host has no descriptor left or the kernel refuses the mapping.
    #[allow(unsafe_code)]
    pub fn second_handle(&self, vcpu: &VcpuFd) -> Result<VcpuFd, KvmError> {
        // SAFETY: the descriptor belongs to `vcpu`, which outlives this call.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let owned = borrowed.try_clone_to_owned().doing("share a processor")?;
        // SAFETY: the descriptor is a processor's of this machine, and given away.
        unsafe { self.fd.create_vcpu_from_rawfd(std::os::fd::IntoRawFd::into_raw_fd(owned)) }.doing("share a processor")
    }

    /// The paravirtual clock, in nanoseconds since the machine began.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clock(&self) -> Result<u64, KvmError> {
        Ok(self.fd.get_clock().doing("read the clock")?.clock)
    }

    /// Sets the paravirtual clock, so that it goes on and never back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_clock(&self, clock: u64) -> Result<(), KvmError> {
        self.fd.set_clock(&kvm_clock_data { clock, ..Default::default() }).doing("set the clock")
    }

    /// The memory slots' kernel side.
    pub fn slot_table(&self) -> Arc<dyn SlotTable> {
        Arc::new(KvmSlots(self.fd.clone()))
    }
}

#[allow(unsafe_code)]
fn adopt(kvm: OwnedFd) -> Kvm {
    use std::os::fd::{FromRawFd, IntoRawFd};
    // SAFETY: the descriptor is owned and given away; if it isn't KVM's, every request on it fails.
    unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) }
}

struct KvmSlots(Arc<VmFd>);

impl SlotTable for KvmSlots {
    #[allow(unsafe_code)]
    unsafe fn set(&self, slot: Slot) -> io::Result<()> {
        let mut flags = 0;
        if slot.log {
            flags |= kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
        }
        if slot.read_only {
            flags |= kvm_bindings::KVM_MEM_READONLY;
        }
        let region = kvm_userspace_memory_region {
            slot: slot.number,
            flags,
            guest_phys_addr: slot.guest,
            memory_size: slot.len,
            userspace_addr: slot.host,
        };
        // SAFETY: the caller vouches for host address and length.
        Ok(unsafe { self.0.set_user_memory_region(region) }?)
    }

    fn take_dirty(&self, number: u32, len: u64) -> io::Result<Vec<u64>> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        Ok(self.0.get_dirty_log(number, len)?)
    }
}
