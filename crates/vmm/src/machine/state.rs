//! The whole machine's state, apart from RAM and what lies behind disks.

use serde::{Deserialize, Serialize};

use super::{Error, Machine};
use crate::arch::x86_64::irqchip::IrqchipState;
use crate::arch::x86_64::vcpu::VcpuState;
use crate::config::VERSION;
use crate::device::{Saved, StateError};

/// A machine's state, to be restored on the same RAM.
#[derive(Serialize, Deserialize)]
pub struct MachineState {
    version: String,
    /// The guest's clock, in nanoseconds.
    clock: u64,
    vcpus: Vec<VcpuState>,
    irqchip: IrqchipState,
    devices: Vec<(String, Saved)>,
}

impl Machine {
    /// Reads the whole state. Only while paused.
    ///
    /// # Errors
    /// When KVM or a device refuses.
    pub fn save(&self) -> Result<MachineState, Error> {
        let vcpus = self.crew.try_each(|vcpu| vcpu.save())?;
        let devices = self.board.devices.iter();
        Ok(MachineState {
            version: VERSION.into(),
            clock: self.board.vm.clock()?,
            vcpus,
            irqchip: self.board.irqchip.save()?,
            devices: devices.map(|d| Ok((d.id(), d.save()?))).collect::<Result<_, StateError>>()?,
        })
    }

    pub(super) fn restore_state(&self, state: &MachineState) -> Result<(), Error> {
        if state.version != VERSION {
            return Err(Error::Version { wanted: VERSION.into(), found: state.version.clone() });
        }
        if state.vcpus.len() != self.power_on.vcpus.len() || state.devices.len() != self.board.devices.len() {
            return Err(StateError::Impossible("other processors or devices than were saved".into()).into());
        }
        // The clock before the processors, whose clock pages are made from it; the controllers before the devices, which
        // raise their wires again.
        self.board.vm.set_clock(state.clock)?;
        self.board.irqchip.restore(&state.irqchip)?;
        for (number, vcpu) in state.vcpus.iter().enumerate() {
            self.crew.with(number, |to| to.restore(vcpu))?;
        }
        self.board.devices.iter().for_each(|device| device.pause());
        for (device, (id, saved)) in self.board.devices.iter().zip(&state.devices) {
            if device.id() != *id {
                return Err(StateError::Impossible(format!("{} where {id} was saved", device.id())).into());
            }
            device.restore(saved)?;
        }
        Ok(())
    }
}
