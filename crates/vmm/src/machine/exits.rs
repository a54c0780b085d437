//! What an exit from the guest means.

use std::sync::Arc;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use parking_lot::Mutex;

use super::Board;
use crate::arch::x86_64::vcpu::Vcpu;
use crate::arch::x86_64::{KvmError, port_exit};
use crate::bus::Bus;
use crate::pci::bits::CONFIG_ADDRESS_PORT;

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
    /// Where KVM keeps the writes to CONFIG_ADDRESS that it doesn't leave the guest for. All processors share one ring.
    delayed: Option<Mutex<VcpuFd>>,
    run_len: usize,
}

impl Exits {
    pub fn new(board: &Board, first: Option<&Vcpu>) -> Result<Self, KvmError> {
        let delayed = match first {
            Some(vcpu) if board.vm.coalesce_port(CONFIG_ADDRESS_PORT as u16) => {
                let mut handle = board.vm.second_handle(&vcpu.fd)?;
                handle.map_coalesced_mmio_ring().ok().map(|()| Mutex::new(handle))
            }
            _ => None,
        };
        let run_len = board.vm.fd().run_size();
        Ok(Self { ports: board.ports.clone(), memory: board.memory.clone(), delayed, run_len })
    }

    /// Answers a port access.
    pub fn port(&self, vcpu: &mut Vcpu) {
        port_exit::serve(vcpu.fd.get_kvm_run(), self.run_len, &self.ports);
    }

    /// Does the delayed writes. They come before whatever a processor left the guest for.
    ///
    /// The ring takes writes of one byte to 0xcf9 as well, inside CONFIG_ADDRESS: a reset that a guest asks for there
    /// happens at its next exit, not earlier.
    pub fn catch_up(&self) {
        let Some(delayed) = &self.delayed else { return };
        let mut ring = delayed.lock();
        while let Ok(Some(write)) = ring.coalesced_mmio_read() {
            let len = (write.len as usize).min(write.data.len());
            self.ports.write(write.phys_addr, write.data.get(..len).unwrap_or_default());
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
