//! The ACPI power management block: 128 bytes of ports that the LPC bridge places (PMBASE).
//!
//! I/O Controller Hub 9 datasheet, 13.8.3; ACPI 6.5, 4.8. Fixed hardware: PM1 event and control registers, the PM timer,
//! GPE0. There is no system management mode: SCI_EN reads 1 always and SMI_EN is locked. S5 is the only sleep state;
//! its type is [`S5_TYPE`], which the DSDT's `_S5` names.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::BusDevice;
use crate::device::{Device, Saved, StateError};
use crate::irq::Line;
use crate::power::Power;
use crate::time::{Alarm, Time, Wake};

const KIND: &str = "pm";
const VERSION: u32 = 1;

/// Length of the block.
pub const LEN: u64 = 128;
/// Offset of PM1_STS; PM1_EN follows.
pub const PM1_EVENT: u16 = 0x00;
/// Offset of PM1_CNT.
pub const PM1_CONTROL: u16 = 0x04;
/// Offset of the timer.
pub const TIMER: u16 = 0x08;
/// Offset of GPE0_STS; GPE0_EN follows.
pub const GPE0: u16 = 0x20;
/// Bytes of GPE0's status and enable registers together.
pub const GPE0_LEN: u8 = 16;
const SMI_EN: u16 = 0x30;
/// Ticks of the PM timer in a second.
pub const TIMER_HZ: u64 = 3_579_545;
/// SLP_TYP of S5. Firmware for this chipset writes 0 to turn the machine off.
pub const S5_TYPE: u8 = 0;

const TIMER_STATUS: u16 = 1 << 0;
const GLOBAL_STATUS: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const RTC_STATUS: u16 = 1 << 10;
/// Status bits that raise SCI when enabled.
const EVENTS: u16 = TIMER_STATUS | GLOBAL_STATUS | POWER_BUTTON | RTC_STATUS;
const SCI_ENABLE: u16 = 1 << 0;
const SLEEP_TYPE: u16 = 0b111 << 10;
const SLEEP_ENABLE: u16 = 1 << 13;
/// What of PM1_CNT keeps what is written: BM_RLD and SLP_TYP.
const CONTROL_KEPT: u16 = 1 << 1 | SLEEP_TYPE;
/// APMC_EN reads 1.
const SMI_EN_FIXED: u32 = 1 << 5;
/// TMR_STS follows bit 23.
const TIMER_TOGGLE: u32 = 23;
const TIMER_MASK: u64 = (1 << 24) - 1;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u64,
    gpe_enable: u64,
    /// Ticks when the machine's clock was 0, modulo 2^64.
    ticks_base: u64,
    /// Toggles of bit 23 that TMR_STS has told of.
    toggles: u64,
}

/// The block.
pub struct PowerManagement {
    state: Mutex<State>,
    sci: Line,
    power: Arc<dyn Power>,
    time: Arc<dyn Time>,
    alarm: Box<dyn Alarm>,
}

impl PowerManagement {
    /// A block that raises `sci` and turns off `power`.
    pub fn new(sci: Line, power: Arc<dyn Power>, time: Arc<dyn Time>) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let alarm = time.alarm(me.clone());
            Self { state: Mutex::default(), sci, power, time, alarm }
        })
    }

    /// Somebody presses the power button.
    pub fn press_power_button(&self) {
        let mut state = self.state.lock();
        state.status |= POWER_BUTTON;
        self.update(&mut state);
    }

    /// A general-purpose event (0 to 63) happened.
    pub fn raise_event(&self, number: u8) {
        let mut state = self.state.lock();
        state.gpe_status |= 1u64.checked_shl(number.into()).unwrap_or(0);
        self.update(&mut state);
    }

    fn ticks(&self, state: &State) -> u64 {
        let passed = self.time.now().as_nanos() * u128::from(TIMER_HZ) / 1_000_000_000;
        state.ticks_base.wrapping_add(passed as u64)
    }

    // Brings status, interrupt and alarm up to now.
    fn update(&self, state: &mut State) {
        let ticks = self.ticks(state);
        let toggles = ticks >> TIMER_TOGGLE;
        if toggles != state.toggles {
            state.status |= TIMER_STATUS;
            state.toggles = toggles;
        }
        let level = state.status & state.enable & EVENTS != 0 || state.gpe_status & state.gpe_enable != 0;
        self.sci.set(level);
        // Without TMR_EN nobody is told when the bit toggles, and no alarm is set.
        let waits = state.enable & TIMER_STATUS != 0 && state.status & TIMER_STATUS == 0;
        self.alarm.set(waits.then(|| {
            let left = (1 << TIMER_TOGGLE) - (ticks & ((1 << TIMER_TOGGLE) - 1));
            Duration::from_nanos(left * 1_000_000_000 / TIMER_HZ + 1)
        }));
    }

    fn image(&self, state: &State) -> [u8; LEN as usize] {
        let mut image = [0; LEN as usize];
        let mut put = |at: u16, bytes: &[u8]| {
            image.iter_mut().skip(at.into()).zip(bytes).for_each(|(to, from)| *to = *from);
        };
        put(PM1_EVENT, &state.status.to_le_bytes());
        put(PM1_EVENT + 2, &state.enable.to_le_bytes());
        put(PM1_CONTROL, &(state.control | SCI_ENABLE).to_le_bytes());
        put(TIMER, &((self.ticks(state) & TIMER_MASK) as u32).to_le_bytes());
        put(GPE0, &state.gpe_status.to_le_bytes());
        put(GPE0 + 8, &state.gpe_enable.to_le_bytes());
        put(SMI_EN, &SMI_EN_FIXED.to_le_bytes());
        image
    }
}

// Changes one byte of a register.
fn set_byte(register: u64, byte: u64, value: u8) -> u64 {
    register & !(0xff << (8 * byte)) | u64::from(value) << (8 * byte)
}

impl State {
    // Gives whether the guest asks to sleep.
    fn write_byte(&mut self, at: u64, value: u8) -> bool {
        match at {
            0x00..=0x01 => self.status &= !(u16::from(value) << (8 * at)),
            0x02..=0x03 => self.enable = set_byte(self.enable.into(), at - 2, value) as u16 & EVENTS,
            0x04..=0x05 => {
                let written = set_byte(self.control.into(), at - 4, value) as u16;
                self.control = written & CONTROL_KEPT;
                return at == 5 && written & SLEEP_ENABLE != 0;
            }
            0x20..=0x27 => self.gpe_status &= !(u64::from(value) << (8 * (at - 0x20))),
            0x28..=0x2f => self.gpe_enable = set_byte(self.gpe_enable, at - 0x28, value),
            _ => {}
        }
        false
    }
}

impl BusDevice for PowerManagement {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.state.lock();
        // The timer alone is read often, and changes nothing.
        if offset != u64::from(TIMER) {
            self.update(&mut state);
        }
        let image = self.image(&state);
        data.iter_mut().zip(image.iter().skip(offset as usize)).for_each(|(to, from)| *to = *from);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state.lock();
        let mut sleep = false;
        for (at, value) in (offset..).zip(data) {
            sleep |= state.write_byte(at, *value);
        }
        let off = sleep && state.control & SLEEP_TYPE == u16::from(S5_TYPE) << 10;
        self.update(&mut state);
        drop(state);
        if off {
            self.power.off();
        }
    }
}

impl Wake for PowerManagement {
    fn wake(&self) {
        self.update(&mut self.state.lock());
    }
}

impl Device for PowerManagement {
    fn id(&self) -> String {
        KIND.into()
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        let ticks_base = state.ticks_base;
        *state = State { ticks_base, ..State::default() };
        state.toggles = self.ticks(&state) >> TIMER_TOGGLE;
        self.update(&mut state);
    }

    fn pause(&self) {
        self.alarm.set(None);
    }

    fn resume(&self) {
        self.update(&mut self.state.lock());
    }

    fn save(&self) -> Result<Saved, StateError> {
        let state = self.state.lock();
        // What is written down is the count itself: the next life's clock begins anew.
        Saved::new(KIND, VERSION, &State { ticks_base: self.ticks(&state), ..state.clone() })
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let new: State = saved.open(KIND, VERSION)?;
        let mut state = self.state.lock();
        let count = new.ticks_base;
        *state = State { ticks_base: 0, ..new };
        state.ticks_base = count.wrapping_sub(self.ticks(&state));
        let level = state.status & state.enable & EVENTS != 0 || state.gpe_status & state.gpe_enable != 0;
        self.sci.set(level);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Wires;
    use crate::power::ResetCause;
    use crate::time::manual::ManualTime;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    #[derive(Default)]
    struct Board {
        sci: AtomicBool,
        offs: AtomicU32,
    }
    impl Wires for Board {
        fn set(&self, gsi: u32, level: bool) {
            assert_eq!(gsi, 9);
            self.sci.store(level, Ordering::SeqCst);
        }
    }
    impl Power for Board {
        fn off(&self) {
            self.offs.fetch_add(1, Ordering::SeqCst);
        }
        fn reset(&self, _cause: ResetCause) {}
    }

    fn block() -> (Arc<Board>, ManualTime, Arc<PowerManagement>) {
        let (board, time) = (Arc::new(Board::default()), ManualTime::default());
        let pm = PowerManagement::new(Line::alone(board.clone(), 9), board.clone(), Arc::new(time.clone()));
        (board, time, pm)
    }

    fn read16(pm: &PowerManagement, at: u64) -> u16 {
        let mut two = [0; 2];
        pm.read(at, &mut two);
        u16::from_le_bytes(two)
    }

    fn timer(pm: &PowerManagement) -> u32 {
        let mut four = [0; 4];
        pm.read(8, &mut four);
        u32::from_le_bytes(four)
    }

    #[test]
    fn the_power_button_raises_sci_until_it_is_acknowledged() {
        let (board, _, pm) = block();
        pm.press_power_button();
        assert!(!board.sci.load(Ordering::SeqCst), "not enabled");
        pm.write(2, &POWER_BUTTON.to_le_bytes());
        assert!(board.sci.load(Ordering::SeqCst));
        pm.write(0, &POWER_BUTTON.to_le_bytes());
        assert!(!board.sci.load(Ordering::SeqCst));
        assert_eq!(read16(&pm, 0) & POWER_BUTTON, 0);
        pm.write(0x28, &[0b100]);
        pm.raise_event(2);
        assert!(board.sci.load(Ordering::SeqCst));
        pm.write(0x20, &[0b100]);
        assert!(!board.sci.load(Ordering::SeqCst));
        pm.raise_event(200);
    }

    #[test]
    fn only_s5_turns_the_machine_off() {
        let (board, _, pm) = block();
        assert_eq!(read16(&pm, 4), SCI_ENABLE);
        pm.write(4, &(SLEEP_ENABLE | 5 << 10).to_le_bytes());
        assert_eq!(board.offs.load(Ordering::SeqCst), 0);
        pm.write(4, &(u16::from(S5_TYPE) << 10).to_le_bytes());
        assert_eq!(board.offs.load(Ordering::SeqCst), 0);
        pm.write(4, &(SLEEP_ENABLE | u16::from(S5_TYPE) << 10).to_le_bytes());
        assert_eq!(board.offs.load(Ordering::SeqCst), 1);
        assert_eq!(read16(&pm, 4), SCI_ENABLE, "SLP_EN reads 0");
    }

    #[test]
    fn the_timer_counts_and_wraps_at_24_bits() {
        let (_, time, pm) = block();
        assert_eq!(timer(&pm), 0);
        time.advance(Duration::from_secs(1));
        assert_eq!(u64::from(timer(&pm)), TIMER_HZ);
        time.advance(Duration::from_secs(9));
        assert_eq!(u64::from(timer(&pm)), (10 * TIMER_HZ) & TIMER_MASK);
    }

    #[test]
    fn the_timer_status_toggles_and_wakes_only_who_asked() {
        let (board, time, pm) = block();
        time.advance(Duration::from_secs(3));
        assert_eq!(read16(&pm, 0) & TIMER_STATUS, TIMER_STATUS);
        pm.write(0, &TIMER_STATUS.to_le_bytes());
        assert_eq!(time.alarms(), 0);
        pm.write(2, &TIMER_STATUS.to_le_bytes());
        assert_eq!(time.alarms(), 1);
        assert!(!board.sci.load(Ordering::SeqCst));
        time.advance(Duration::from_secs(3));
        assert!(board.sci.load(Ordering::SeqCst));
        pm.pause();
        assert_eq!(time.alarms(), 0);
    }

    #[test]
    fn a_state_comes_back_with_its_count_and_its_interrupt() {
        let (_, time, pm) = block();
        time.advance(Duration::from_secs(100));
        pm.write(2, &POWER_BUTTON.to_le_bytes());
        pm.press_power_button();
        let (count, saved) = (timer(&pm), pm.save().unwrap());
        let (board, time, new) = block();
        time.advance(Duration::from_secs(5));
        new.restore(&saved).unwrap();
        assert_eq!(timer(&new), count);
        assert!(board.sci.load(Ordering::SeqCst));
        assert_eq!(new.save().unwrap(), saved);
        new.reset();
        assert!(!board.sci.load(Ordering::SeqCst));
    }

    #[test]
    fn odd_accesses_do_no_harm() {
        let (_, _, pm) = block();
        for offset in [0, 3, 5, 0x2f, 0x7f] {
            for len in 0..9 {
                pm.write(offset, &vec![0x5a & !0x20; len]);
                pm.read(offset, &mut vec![0xff; len]);
            }
        }
    }
}
