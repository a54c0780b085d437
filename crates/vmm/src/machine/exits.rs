//! What an exit from the guest means.

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::VcpuExit;

use super::Board;
use super::config_ring::ConfigRing;
use crate::arch::x86_64::coalesced::CoalescedPorts;
use crate::arch::x86_64::port_exit::{self, Access};
use crate::arch::x86_64::vcpu::Vcpu;
use crate::bus::Bus;
use crate::pci::bits::CONFIG_ADDRESS_PORT;

/// What a scan of configuration space does again and again.
const CONFIG_ADDRESS: Access = Access { port: CONFIG_ADDRESS_PORT as u16, width: 4, write: true };

/// What follows an exit.
pub(super) enum Verdict {
    /// The guest goes on.
    Goes,
    /// The processor has met a triple fault.
    Reset,
    /// The machine is off.
    Off,
    /// KVM can't go on.
    Broken(String),
}

/// Answers exits from the buses.
pub(super) struct Exits {
    ports: Arc<Bus>,
    memory: Arc<Bus>,
    config_ring: Option<ConfigRing>,
    run_len: usize,
}

impl Exits {
    pub fn new(board: &Board, first: Option<&Vcpu>) -> io::Result<Self> {
        let kept = first.and_then(|vcpu| CoalescedPorts::new(&board.vm, vcpu, CONFIG_ADDRESS_PORT));
        let config_ring = kept.map(|kept| ConfigRing::new(kept, board.ports.clone())).transpose()?;
        let run_len = board.vm.fd().run_size();
        Ok(Self { ports: board.ports.clone(), memory: board.memory.clone(), config_ring, run_len })
    }

    /// Answers a port access.
    pub fn port(&self, vcpu: &mut Vcpu) {
        let access = port_exit::serve(vcpu.fd.get_kvm_run(), self.run_len, &self.ports);
        if let Some(ring) = &self.config_ring
            && access == Some(CONFIG_ADDRESS)
        {
            ring.missed();
        }
    }

    /// Does the writes for which no processor has left the guest.
    pub fn catch_up(&self) {
        if let Some(ring) = &self.config_ring {
            ring.catch_up();
        }
    }

    /// Answers every other exit.
    pub fn serve(&self, exit: VcpuExit<'_>) -> Verdict {
        match exit {
            VcpuExit::MmioRead(address, data) => {
                self.memory.read(address, data);
                Verdict::Goes
            }
            VcpuExit::MmioWrite(address, data) => {
                self.memory.write(address, data);
                Verdict::Goes
            }
            VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt | VcpuExit::SetTpr | VcpuExit::IoapicEoi(_) => {
                Verdict::Goes
            }
            VcpuExit::Shutdown | VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Verdict::Reset,
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Verdict::Off,
            VcpuExit::InternalError => Verdict::Broken("KVM met an instruction that it can't emulate".into()),
            VcpuExit::FailEntry(reason, cpu) => {
                Verdict::Broken(format!("the processor refused the guest's state (reason {reason:#x}, CPU {cpu})"))
            }
            other => Verdict::Broken(format!("KVM left the guest in a way that isn't known: {other:?}")),
        }
    }
}
