//! The CMOS clock and its memory: MC146818 with a century byte, as the I/O Controller Hub 9 has it (datasheet, 13.6).
//!
//! The clock follows the host's, plus an offset that the guest changes by setting it. Flags come up when somebody
//! looks; a host alarm exists only while an interrupt is enabled and hasn't been raised.

mod calendar;

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::BusDevice;
use crate::device::{Device, Saved, StateError};
use crate::irq::Line;
use crate::time::{Alarm, Time, Wake};
use calendar::{DAY, Moment};

const KIND: &str = "rtc";
const VERSION: u32 = 1;
/// First port.
pub const PORT: u64 = 0x70;
/// Ports 0x70 to 0x73: index and data of the lower and of the upper 128 bytes.
pub const LEN: u64 = 4;
/// ISA interrupt.
pub const IRQ: u8 = 8;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;
const D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

/// Register A: an update is about to happen.
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Register A after power-on: 32768 Hz, periodic rate 1024 Hz.
const A_AT_POWER_ON: u8 = 0x26;
const RATE: u8 = 0x0f;
/// Register B: the clock stands while it is set.
const SET: u8 = 1 << 7;
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATE: u8 = 1 << 4;
const SQUARE_WAVE: u8 = 1 << 3;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
/// Register C: some enabled flag is up.
const INTERRUPT: u8 = 1 << 7;
const FLAGS: u8 = PERIODIC | ALARM | UPDATE;
/// Register D: memory and time are valid.
const VALID: u8 = 1 << 7;
/// An alarm byte from here on matches everything.
const ANY: u8 = 0xc0;
const PM: u8 = 1 << 7;
/// UIP is up this long before an update.
const UPDATE_WARNING: u64 = 244_000;
const SECOND: i64 = 1_000_000_000;
const CRYSTAL_HZ: u128 = 32_768;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    index: u8,
    upper_index: u8,
    /// Lower bank; the time registers' bytes are used only while the clock stands.
    lower: Vec<u8>,
    upper: Vec<u8>,
    flags: u8,
    /// Guest's time less host's UTC, in nanoseconds.
    offset: i64,
    /// Guest's second up to which flags were raised.
    seen: i64,
    /// Periods up to which flags were raised; counted by this life's clock.
    #[serde(skip)]
    periods: u64,
}

/// The clock.
pub struct RealTimeClock {
    state: Mutex<State>,
    line: Line,
    time: Arc<dyn Time>,
    alarm: Box<dyn Alarm>,
}

impl RealTimeClock {
    /// A clock that shows UTC plus `offset` seconds.
    pub fn new(line: Line, time: Arc<dyn Time>, offset: i64) -> Arc<Self> {
        let mut lower = vec![0; 128];
        for (at, value) in [(A, A_AT_POWER_ON), (B, HOURS_24), (D, VALID)] {
            put(&mut lower, at, value);
        }
        let offset = offset.saturating_mul(SECOND);
        let mut state =
            State { index: 0, upper_index: 0, lower, upper: vec![0; 128], flags: 0, offset, seen: 0, periods: 0 };
        state.seen = state.seconds(time.as_ref());
        Arc::new_cyclic(|me: &Weak<Self>| {
            let alarm = time.alarm(me.clone());
            Self { state: Mutex::new(state), line, time, alarm }
        })
    }

    // Brings flags, interrupt and alarm up to now.
    fn update(&self, state: &mut State) {
        state.raise_flags(self.time.as_ref());
        let pending = state.flags & state.get(B) & FLAGS != 0;
        state.flags = if pending { state.flags | INTERRUPT } else { state.flags & !INTERRUPT };
        self.line.set(pending);
        // A raised interrupt stays until register C is read, so nothing more can happen before.
        self.alarm.set(if pending { None } else { state.next_event(self.time.as_ref()) });
    }
}

fn get(bank: &[u8], at: u8) -> u8 {
    bank.get(usize::from(at)).copied().unwrap_or(0xff)
}

fn put(bank: &mut [u8], at: u8, value: u8) {
    if let Some(byte) = bank.get_mut(usize::from(at)) {
        *byte = value;
    }
}

impl State {
    fn get(&self, at: u8) -> u8 {
        get(&self.lower, at)
    }

    fn stands(&self) -> bool {
        self.get(B) & SET != 0
    }

    // The guest's time in nanoseconds.
    fn now(&self, time: &dyn Time) -> i64 {
        i64::try_from(time.wall().as_nanos()).unwrap_or(i64::MAX).saturating_add(self.offset)
    }

    fn seconds(&self, time: &dyn Time) -> i64 {
        self.now(time).div_euclid(SECOND)
    }

    // Ticks of the crystal in a period.
    fn period(&self) -> Option<u128> {
        match self.get(A) & RATE {
            0 => None,
            // The two fastest rates come out as slow ones (table of register A).
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    fn raise_flags(&mut self, time: &dyn Time) {
        if let Some(period) = self.period() {
            let periods = (time.now().as_nanos() * CRYSTAL_HZ / SECOND as u128 / period) as u64;
            if periods != self.periods {
                self.flags |= PERIODIC;
                self.periods = periods;
            }
        }
        if self.stands() {
            return;
        }
        let now = self.seconds(time);
        if now > self.seen {
            self.flags |= UPDATE;
            if self.next_alarm().is_some_and(|after| after <= now - self.seen) {
                self.flags |= ALARM;
            }
        }
        // The host's clock may have been set back.
        self.seen = now;
    }

    // How many seconds after the last one that was seen the alarm rings, if ever. Guests read a clock register by register
    // and begin anew when a second has passed, so this must not look at each second of a day.
    fn next_alarm(&self) -> Option<i64> {
        let is = |at: u8, value: i64| {
            let byte = self.get(at);
            byte >= ANY
                || i64::from(if at == HOURS_ALARM { self.decode_hour(byte) } else { self.decode(byte) }) == value
        };
        let ever = |at: u8, values: i64| (0..values).any(|value| is(at, value));
        if !(ever(HOURS_ALARM, 24) && ever(MINUTES_ALARM, 60) && ever(SECONDS_ALARM, 60)) {
            return None;
        }
        let mut after = 1;
        while after <= DAY {
            let of_day = (self.seen + after).rem_euclid(DAY);
            after += if !is(HOURS_ALARM, of_day / 3600) {
                3600 - of_day % 3600
            } else if !is(MINUTES_ALARM, of_day / 60 % 60) {
                60 - of_day % 60
            } else if !is(SECONDS_ALARM, of_day % 60) {
                1
            } else {
                return Some(after);
            };
        }
        None
    }

    // How long until an enabled flag comes up.
    fn next_event(&self, time: &dyn Time) -> Option<Duration> {
        let enabled = self.get(B);
        let periodic = self.period().filter(|_| enabled & PERIODIC != 0).map(|period| {
            let due = (u128::from(self.periods + 1) * period * SECOND as u128).div_ceil(CRYSTAL_HZ);
            due.saturating_sub(time.now().as_nanos()) as u64
        });
        let runs = !self.stands();
        let into = self.now(time).rem_euclid(SECOND);
        let until = |seconds: i64| (seconds * SECOND - into) as u64;
        let update = (runs && enabled & UPDATE != 0).then(|| until(1));
        let wanted = runs && enabled & ALARM != 0;
        let alarm = wanted.then(|| self.next_alarm()).flatten().map(until);
        [periodic, update, alarm].into_iter().flatten().min().map(Duration::from_nanos)
    }

    fn encode(&self, value: i64) -> u8 {
        let value = value.clamp(0, 99) as u8;
        if self.get(B) & BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, byte: u8) -> u8 {
        if self.get(B) & BINARY != 0 { byte } else { (byte >> 4).wrapping_mul(10).wrapping_add(byte & 0xf) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.get(B) & HOURS_24 != 0 {
            return self.encode(hour.into());
        }
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve.into()) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, byte: u8) -> u8 {
        if self.get(B) & HOURS_24 != 0 {
            return self.decode(byte);
        }
        self.decode(byte & !PM) % 12 + if byte & PM != 0 { 12 } else { 0 }
    }

    fn time_register(&self, moment: &Moment, at: u8) -> Option<u8> {
        Some(match at {
            SECONDS => self.encode(moment.second.into()),
            MINUTES => self.encode(moment.minute.into()),
            HOURS => self.encode_hour(moment.hour),
            WEEKDAY => self.encode(moment.weekday.into()),
            DAY_OF_MONTH => self.encode(moment.day.into()),
            MONTH => self.encode(moment.month.into()),
            YEAR => self.encode(moment.year.rem_euclid(100)),
            CENTURY => self.encode(moment.year / 100),
            _ => return None,
        })
    }

    // The bytes of the time registers take over what the clock shows.
    fn freeze(&mut self, time: &dyn Time) {
        let moment = Moment::from_seconds(self.seconds(time));
        for at in [SECONDS, MINUTES, HOURS, WEEKDAY, DAY_OF_MONTH, MONTH, YEAR, CENTURY] {
            if let Some(byte) = self.time_register(&moment, at) {
                put(&mut self.lower, at, byte);
            }
        }
    }

    // The clock takes over what the bytes of the time registers say. The weekday follows from the date.
    fn thaw(&mut self, time: &dyn Time) {
        let year = i64::from(self.decode(self.get(CENTURY))) * 100 + i64::from(self.decode(self.get(YEAR)));
        let moment = Moment {
            year,
            month: self.decode(self.get(MONTH)),
            day: self.decode(self.get(DAY_OF_MONTH)),
            weekday: 0,
            hour: self.decode_hour(self.get(HOURS)),
            minute: self.decode(self.get(MINUTES)),
            second: self.decode(self.get(SECONDS)),
        };
        let change = moment.to_seconds() - self.seconds(time);
        self.offset = self.offset.saturating_add(change.saturating_mul(SECOND));
        self.seen = self.seconds(time);
    }

    fn read_lower(&mut self, time: &dyn Time) -> u8 {
        let at = self.index;
        match at {
            A => {
                let left = SECOND - self.now(time).rem_euclid(SECOND);
                let soon = !self.stands() && left as u64 <= UPDATE_WARNING;
                self.get(A) | if soon { UPDATE_IN_PROGRESS } else { 0 }
            }
            C => std::mem::take(&mut self.flags),
            _ if self.stands() => self.get(at),
            _ => {
                let moment = Moment::from_seconds(self.seconds(time));
                self.time_register(&moment, at).unwrap_or_else(|| self.get(at))
            }
        }
    }

    fn write_lower(&mut self, value: u8, time: &dyn Time) {
        let at = self.index;
        match at {
            A => put(&mut self.lower, A, value & !UPDATE_IN_PROGRESS),
            B => {
                let before = self.stands();
                if !before && value & SET != 0 {
                    self.freeze(time);
                }
                put(&mut self.lower, B, value);
                if before && value & SET == 0 {
                    self.thaw(time);
                }
            }
            C | D => {}
            SECONDS | MINUTES | HOURS | DAY_OF_MONTH | MONTH | YEAR | CENTURY if !self.stands() => {
                self.freeze(time);
                put(&mut self.lower, at, value);
                self.thaw(time);
            }
            _ => put(&mut self.lower, at, value),
        }
    }
}

impl BusDevice for RealTimeClock {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let [byte] = data else { return };
        let mut state = self.state.lock();
        match offset {
            1 => {
                self.update(&mut state);
                *byte = state.read_lower(self.time.as_ref());
                self.update(&mut state);
            }
            3 => *byte = get(&state.upper, state.upper_index),
            // The index registers can't be read.
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let [value] = data else { return };
        let mut state = self.state.lock();
        match offset {
            // Bit 7 masks NMI, of which there is none.
            0 => state.index = value & 0x7f,
            2 => state.upper_index = value & 0x7f,
            1 => {
                self.update(&mut state);
                state.write_lower(*value, self.time.as_ref());
                self.update(&mut state);
            }
            _ => {
                let at = state.upper_index;
                put(&mut state.upper, at, *value);
            }
        }
    }
}

impl Wake for RealTimeClock {
    fn wake(&self) {
        self.update(&mut self.state.lock());
    }
}

impl Device for RealTimeClock {
    fn id(&self) -> String {
        KIND.into()
    }

    // The battery keeps time and memory; the reset line clears the enables.
    fn reset(&self) {
        let mut state = self.state.lock();
        let enables = state.get(B) & !(FLAGS | SQUARE_WAVE);
        put(&mut state.lower, B, enables);
        (state.flags, state.index, state.upper_index) = (0, 0, 0);
        self.update(&mut state);
    }

    fn pause(&self) {
        self.alarm.set(None);
    }

    fn resume(&self) {
        self.update(&mut self.state.lock());
    }

    fn save(&self) -> Result<Saved, StateError> {
        Saved::new(KIND, VERSION, &*self.state.lock())
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let mut new: State = saved.open(KIND, VERSION)?;
        if new.lower.len() != 128 || new.upper.len() != 128 {
            return Err(StateError::Impossible("a bank of clock memory has 128 bytes".into()));
        }
        let period = new.period().unwrap_or(u128::MAX);
        new.periods = (self.time.now().as_nanos() * CRYSTAL_HZ / SECOND as u128 / period) as u64;
        self.line.set(new.flags & new.get(B) & FLAGS != 0);
        *self.state.lock() = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
