//! Starts the small guest and follows it to its end.

#![allow(unsafe_code)]

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::{ProbeError, Step, Stumble, Trial, guest};
use crate::memory::GuestRam;

/// The API version that every KVM since Linux 2.6.22 has (Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;
/// Three pages for Intel's real mode and one for its page table, out of the guest's way.
const TSS: usize = 0xfeff_d000;
const IDENTITY_MAP: u64 = 0xfeff_c000;

fn setup(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> ProbeError {
    move |e| ProbeError::Setup(what, e.into())
}

pub(super) fn trial(kvm: &Kvm, limit: Duration) -> Result<Trial, ProbeError> {
    match kvm.get_api_version() {
        API_VERSION => {}
        version => return Err(ProbeError::Version(version)),
    }
    let vm = kvm.create_vm().map_err(|e| ProbeError::CreateVm(e.into()))?;
    let memory = memory().map_err(|e| ProbeError::Setup("memory", e))?;
    give_memory(&vm, &memory)?;
    // AMD's KVM needs neither and some lack them: what the guest does tells.
    let _ = vm.set_identity_map_address(IDENTITY_MAP);
    let _ = vm.set_tss_address(TSS);
    vm.create_irq_chip().map_err(setup("an interrupt controller"))?;
    let vcpu = vm.create_vcpu(0).map_err(setup("a virtual CPU"))?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(setup("its CPUID"))?;
    start_state(&vcpu, &cpuid)?;
    follow(vcpu, limit)
}

fn memory() -> io::Result<GuestRam> {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), guest::MEMORY)]).map_err(io::Error::other)?;
    memory.write_slice(guest::code(), GuestAddress(guest::CODE)).map_err(io::Error::other)?;
    for (address, entry) in guest::page_tables() {
        memory.write_obj(entry, GuestAddress(address)).map_err(io::Error::other)?;
    }
    Ok(memory)
}

fn give_memory(vm: &VmFd, memory: &GuestRam) -> Result<(), ProbeError> {
    for (slot, region) in memory.iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped, and `trial` keeps `memory` alive until the guest has ended.
        unsafe { vm.set_user_memory_region(region) }.map_err(setup("memory"))?;
    }
    Ok(())
}

fn start_state(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), ProbeError> {
    vcpu.set_cpuid2(cpuid).map_err(setup("its own CPUID"))?;
    let mut special = vcpu.get_sregs().map_err(setup("reading segment registers"))?;
    special.cs.base = 0;
    special.cs.selector = 0;
    vcpu.set_sregs(&special).map_err(setup("segment registers"))?;
    let mut registers = vcpu.get_regs().map_err(setup("reading registers"))?;
    registers.rip = guest::CODE;
    registers.rflags = 2;
    vcpu.set_regs(&registers).map_err(setup("registers"))
}

extern "C" fn wake(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn follow(vcpu: VcpuFd, limit: Duration) -> Result<Trial, ProbeError> {
    // A signal that does nothing gets the vCPU's thread out of a halt.
    register_signal_handler(SIGRTMIN(), wake).map_err(|e| ProbeError::Setup("a signal handler", e.into()))?;
    let (to, from) = mpsc::channel();
    let stop = Instant::now() + limit;
    let guest = thread::Builder::new()
        .name("probe".into())
        .spawn(move || {
            let _ = to.send(steps(vcpu, stop));
        })
        .map_err(|e| ProbeError::Setup("a thread", e))?;
    let mut wait = limit;
    loop {
        match from.recv_timeout(wait) {
            Ok(Err(late)) => return Ok(late.at_limit(limit)),
            Ok(Ok(trial)) => return Ok(trial),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(ProbeError::Setup("a thread", io::ErrorKind::Other.into()));
            }
            // The signal may come just before the thread enters the guest, so it is sent until the thread answers.
            Err(RecvTimeoutError::Timeout) => drop(guest.kill(SIGRTMIN())),
        }
        wait = Duration::from_millis(10);
    }
}

/// The limit passed; what was done until then.
struct Late(Vec<Step>);

impl Late {
    fn at_limit(self, limit: Duration) -> Trial {
        let next = Step::ALL.get(self.0.len()).copied();
        let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        Trial { done: self.0, failed: next.map(|step| (step, Stumble::NotEnding(ms))) }
    }
}

fn steps(mut vcpu: VcpuFd, stop: Instant) -> Result<Trial, Late> {
    let mut done = Vec::new();
    while let Some(&next) = Step::ALL.get(done.len()) {
        let stumble = match vcpu.run() {
            Ok(VcpuExit::IoOut(guest::REPORT, &[report])) => match report {
                n if n == next as u8 => {
                    done.push(next);
                    continue;
                }
                n if n == next as u8 | guest::WRONG => Stumble::WrongResult,
                n => Stumble::OddExit(format!("report {n:#x}")),
            },
            Ok(VcpuExit::Shutdown) => Stumble::Shutdown,
            Ok(VcpuExit::InternalError) => Stumble::InternalError,
            Ok(VcpuExit::FailEntry(reason, _)) => Stumble::OddExit(format!("a failed entry, reason {reason:#x}")),
            Ok(exit) => Stumble::OddExit(format!("{exit:?}")),
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {
                if Instant::now() >= stop {
                    return Err(Late(done));
                }
                continue;
            }
            Err(e) => Stumble::OddExit(format!("error {e}")),
        };
        return Ok(Trial { done, failed: Some((next, stumble)) });
    }
    Ok(Trial { done, failed: None })
}
