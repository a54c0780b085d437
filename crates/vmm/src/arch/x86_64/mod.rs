//! The x86 side of the monitor: KVM's virtual machine and processors, their identity and state, interrupt routing.
//!
//! What a PC has around its processors (chipset, devices, tables) is not here.

pub mod coalesced;
pub mod cpuid;
mod doorbells;
pub mod irqchip;
pub mod msr;
pub mod port_exit;
pub mod regs;
pub mod vcpu;
pub mod vm;

pub use doorbells::KvmDoorbells;
pub use irqchip::Irqchip;
pub use vm::{KvmError, Vm};

/// Most virtual processors that a machine can have.
pub const MAX_VCPUS: u32 = 64;
