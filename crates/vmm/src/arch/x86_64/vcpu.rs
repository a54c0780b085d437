//! One virtual processor: making it, its state, and how to get it out of the guest.
//!
//! Running it, and what an exit means, is the machine's business.

use std::sync::Arc;

use kvm_bindings::{
    CpuId, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::cpuid::Cpuid;
use super::msr;
use super::regs::Entry;
use super::vm::{Doing, KvmError, Vm};

// Local APIC registers (SDM volume 3, table 12-1) and delivery modes (12.5.1).
const LVT_LINT1: usize = 0x360;
const DELIVER_NMI: u32 = 0b100 << 8;
const DELIVERY_MODE: u32 = 0b111 << 8;
const LVT_MASKED: u32 = 1 << 16;

/// A virtual processor.
pub struct Vcpu {
    /// KVM's descriptor.
    pub fd: VcpuFd,
    number: u32,
    /// Registers that KVM keeps for it.
    msrs: Arc<[u32]>,
}

/// Everything that a processor is, while it stands.
#[derive(Serialize, Deserialize)]
pub struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Vec<u32>,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    msrs: Vec<(u32, u64)>,
    lapic: kvm_lapic_state,
    mp: kvm_mp_state,
    events: kvm_vcpu_events,
}

/// Gets a processor out of the guest from any thread.
pub struct Kick(Mutex<VcpuFd>);

impl Kick {
    /// A kick for `vcpu`.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new(vm: &Vm, vcpu: &Vcpu) -> Result<Self, KvmError> {
        Ok(Self(Mutex::new(vm.second_handle(&vcpu.fd)?)))
    }

    /// With `true` the processor's next entry ends at once with EINTR; the entry that is going on needs a signal too.
    pub fn set(&self, on: bool) {
        self.0.lock().set_kvm_immediate_exit(u8::from(on));
    }
}

impl Vcpu {
    /// Makes the `number`th processor, as after power-on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(vm: &Vm, number: u32, apic_id: u32, cpuid: &Cpuid, msrs: Arc<[u32]>) -> Result<Self, KvmError> {
        // KVM takes the number for the initial APIC id.
        let fd = vm.fd().create_vcpu(u64::from(apic_id)).doing("make a virtual processor")?;
        let leaves = CpuId::from_entries(&cpuid.of_processor(number)).map_err(std::io::Error::other);
        fd.set_cpuid2(&leaves.doing("list the processor's features")?).doing("set the processor's features")?;
        let vcpu = Self { fd, number, msrs };
        vcpu.wire_nmi()?;
        Ok(vcpu)
    }

    /// Its number, from 0. 0 is the boot processor.
    pub fn number(&self) -> u32 {
        self.number
    }

    // Firmware leaves LINT1 as NMI on every processor, and MADT says so.
    fn wire_nmi(&self) -> Result<(), KvmError> {
        let mut lapic = self.fd.get_lapic().doing("read the local APIC")?;
        if let Some(bytes) = lapic.regs.get_mut(LVT_LINT1..LVT_LINT1 + 4) {
            let mut word = [0u8; 4];
            word.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = *from as u8);
            let lvt = u32::from_le_bytes(word) & !(DELIVERY_MODE | LVT_MASKED) | DELIVER_NMI;
            bytes.iter_mut().zip(lvt.to_le_bytes()).for_each(|(to, from)| *to = from as i8);
        }
        self.fd.set_lapic(&lapic).doing("set the local APIC")
    }

    /// Puts a processor that is as after power-on before the first instruction of a direct boot. The others wait for
    /// it to start them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self, entry: Entry) -> Result<(), KvmError> {
        let mut sregs = self.fd.get_sregs().doing("read the system registers")?;
        entry.set_sregs(&mut sregs);
        self.fd.set_sregs(&sregs).doing("set the system registers")?;
        self.fd.set_regs(&entry.regs()).doing("set the registers")
    }

    /// Sets model-specific registers as firmware leaves them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_msrs(&self, values: &[(u32, u64)]) -> Result<(), KvmError> {
        msr::set_each(&self.fd, values)
    }

    /// Reads its state. Only while it stands, with no exit half done.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn save(&self) -> Result<VcpuState, KvmError> {
        let fd = &self.fd;
        Ok(VcpuState {
            // First, because KVM settles pending INIT and SIPI when asked for it.
            mp: fd.get_mp_state().doing("read the run state")?,
            regs: fd.get_regs().doing("read the registers")?,
            sregs: fd.get_sregs().doing("read the system registers")?,
            xsave: fd.get_xsave().doing("read the extended state")?.region.to_vec(),
            xcrs: fd.get_xcrs().doing("read the extended control registers")?,
            debug: fd.get_debug_regs().doing("read the debug registers")?,
            lapic: fd.get_lapic().doing("read the local APIC")?,
            msrs: msr::save(fd, &self.msrs)?,
            events: fd.get_vcpu_events().doing("read the pending events")?,
        })
    }

    /// Takes over a state. Only while it stands.
    ///
    /// # Errors
    /// When the kernel refuses, e.g. because this host's processor lacks a feature.
    pub fn restore(&self, state: &VcpuState) -> Result<(), KvmError> {
        let fd = &self.fd;
        fd.set_mp_state(state.mp).doing("set the run state")?;
        fd.set_regs(&state.regs).doing("set the registers")?;
        fd.set_sregs(&state.sregs).doing("set the system registers")?;
        fd.set_xcrs(&state.xcrs).doing("set the extended control registers")?;
        self.set_xsave(&state.xsave)?;
        fd.set_debug_regs(&state.debug).doing("set the debug registers")?;
        fd.set_lapic(&state.lapic).doing("set the local APIC")?;
        msr::restore(fd, &state.msrs)?;
        fd.set_vcpu_events(&state.events).doing("set the pending events")
    }

    #[allow(unsafe_code)]
    fn set_xsave(&self, words: &[u32]) -> Result<(), KvmError> {
        let mut xsave = kvm_xsave::default();
        xsave.region.iter_mut().zip(words).for_each(|(to, from)| *to = *from);
        // SAFETY: the kernel reads more than the structure only for states that need a permission which this process
        // never asks for (AMX), so 4096 bytes are all it reads.
        unsafe { self.fd.set_xsave(&xsave) }.doing("set the extended state")
    }

    /// Tells the guest's clock that the machine stood, so that watchdogs don't bark.
    pub fn stood_still(&self) {
        // Fails when the guest doesn't use the clock, which is as well.
        let _ = self.fd.kvmclock_ctrl();
    }

    /// The registers, for a report.
    pub fn describe(&self) -> String {
        match (self.fd.get_regs(), self.fd.get_sregs()) {
            (Ok(r), Ok(s)) => format!(
                "vcpu{} rip={:#x} rsp={:#x} rflags={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} rsi={:#x} rdi={:#x} \
                 cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x} cs={:#x}",
                self.number,
                r.rip,
                r.rsp,
                r.rflags,
                r.rax,
                r.rbx,
                r.rcx,
                r.rdx,
                r.rsi,
                r.rdi,
                s.cr0,
                s.cr2,
                s.cr3,
                s.cr4,
                s.efer,
                s.cs.selector,
            ),
            _ => format!("vcpu{}: its registers can't be read", self.number),
        }
    }
}
