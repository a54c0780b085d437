//! Ports of one or two bytes: reset control (0xcf9), system control A (0x92), POST code (0x80), APM (0xb2).
//!
//! I/O Controller Hub 9 datasheet, 13.7. They belong to one device, whose state is four bytes.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{Bus, BusDevice, ClaimError};
use crate::device::{Device, Saved, StateError};
use crate::power::{Power, ResetCause};

const KIND: &str = "ports";
const VERSION: u32 = 1;

/// Reset control; the PCI host passes accesses of one byte on to [`Ports::reset_control`].
pub const RESET_CONTROL: u16 = 0xcf9;
const SYSTEM_CONTROL_A: u64 = 0x92;
const POST_CODE: u64 = 0x80;
const APM: u64 = 0xb2;

/// RST_CNT: full reset, which also matters after the cause is gone.
const RESET_HARD: u8 = 1 << 1;
/// RST_CNT: resets when it goes from 0 to 1.
const RESET_NOW: u8 = 1 << 2;
/// RST_CNT: reset with power cycle.
const RESET_POWER: u8 = 1 << 3;
/// Port 0x92: INIT when it goes from 0 to 1.
const FAST_INIT: u8 = 1 << 0;
/// Port 0x92: address line 20. KVM's guests have it always, so it is only kept.
const A20: u8 = 1 << 1;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    reset_control: u8,
    system_control: u8,
    post_code: u8,
    apm: [u8; 2],
}

const AT_RESET: State = State { reset_control: 0, system_control: A20, post_code: 0, apm: [0; 2] };

/// The ports.
pub struct Ports {
    state: Mutex<State>,
    power: Arc<dyn Power>,
}

#[derive(Clone, Copy)]
enum Which {
    ResetControl,
    SystemControl,
    PostCode,
    Apm,
}

struct Port(Arc<Ports>, Which);

impl Ports {
    /// Ports that reset through `power`.
    pub fn new(power: Arc<dyn Power>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(AT_RESET), power })
    }

    /// Claims all but reset control.
    ///
    /// # Errors
    /// When another device has one of them.
    pub fn claim(self: &Arc<Self>, ports: &Bus) -> Result<(), ClaimError> {
        ports.claim(SYSTEM_CONTROL_A, 1, Arc::new(Port(self.clone(), Which::SystemControl)))?;
        ports.claim(POST_CODE, 1, Arc::new(Port(self.clone(), Which::PostCode)))?;
        ports.claim(APM, 2, Arc::new(Port(self.clone(), Which::Apm)))
    }

    /// Reset control, one byte, for whoever has port 0xcf9.
    pub fn reset_control(self: &Arc<Self>) -> Arc<dyn BusDevice> {
        Arc::new(Port(self.clone(), Which::ResetControl))
    }
}

impl BusDevice for Port {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = *self.0.state.lock();
        let bytes = match self.1 {
            Which::ResetControl => [state.reset_control, 0xff],
            Which::SystemControl => [state.system_control, 0xff],
            Which::PostCode => [state.post_code, 0xff],
            Which::Apm => state.apm,
        };
        data.iter_mut().zip(bytes.iter().skip(offset as usize)).for_each(|(to, from)| *to = *from);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(value) = data.first().copied() else { return };
        let mut state = self.0.state.lock();
        let mut cause = None;
        match self.1 {
            Which::ResetControl => {
                if value & !state.reset_control & RESET_NOW != 0 {
                    cause = Some(ResetCause::ResetControl);
                }
                state.reset_control = value & (RESET_HARD | RESET_NOW | RESET_POWER);
            }
            Which::SystemControl => {
                if value & !state.system_control & FAST_INIT != 0 {
                    cause = Some(ResetCause::SystemControlPort);
                }
                state.system_control = value & (FAST_INIT | A20);
            }
            Which::PostCode => state.post_code = value,
            Which::Apm => {
                state.apm.iter_mut().skip(offset as usize).zip(data).for_each(|(to, from)| *to = *from);
            }
        }
        drop(state);
        if let Some(cause) = cause {
            self.0.power.reset(cause);
        }
    }
}

impl Device for Ports {
    fn id(&self) -> String {
        KIND.into()
    }
    fn reset(&self) {
        *self.state.lock() = AT_RESET;
    }
    fn pause(&self) {}
    fn resume(&self) {}
    fn save(&self) -> Result<Saved, StateError> {
        Saved::new(KIND, VERSION, &*self.state.lock())
    }
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        *self.state.lock() = saved.open(KIND, VERSION)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<ResetCause>>);
    impl Power for Log {
        fn off(&self) {}
        fn reset(&self, cause: ResetCause) {
            self.0.lock().push(cause);
        }
    }

    fn board() -> (Arc<Log>, Arc<Ports>, Bus) {
        let log = Arc::new(Log::default());
        let ports = Ports::new(log.clone());
        let bus = Bus::new();
        ports.claim(&bus).unwrap();
        bus.claim(RESET_CONTROL.into(), 1, ports.reset_control()).unwrap();
        (log, ports, bus)
    }

    fn read(bus: &Bus, port: u64) -> u8 {
        let mut one = [0];
        assert!(bus.read(port, &mut one));
        one[0]
    }

    #[test]
    fn resets_happen_on_the_rising_edge() {
        let (log, ports, bus) = board();
        bus.write(0xcf9, &[0x02]);
        assert!(log.0.lock().is_empty());
        bus.write(0xcf9, &[0x06]);
        bus.write(0xcf9, &[0x06]);
        assert_eq!(*log.0.lock(), [ResetCause::ResetControl]);
        bus.write(0x92, &[0x02]);
        bus.write(0x92, &[0x03]);
        assert_eq!(log.0.lock().last(), Some(&ResetCause::SystemControlPort));
        ports.reset();
        assert_eq!((read(&bus, 0xcf9), read(&bus, 0x92)), (0, 2));
    }

    #[test]
    fn what_is_stored_comes_back_in_the_next_life() {
        let (_, ports, bus) = board();
        bus.write(0x80, &[0x55]);
        bus.write(0xb2, &[1, 2]);
        assert_eq!((read(&bus, 0x80), read(&bus, 0xb3)), (0x55, 2));
        let (_, new, new_bus) = board();
        new.restore(&ports.save().unwrap()).unwrap();
        assert_eq!((read(&new_bus, 0x80), read(&new_bus, 0xb2)), (0x55, 1));
    }
}
