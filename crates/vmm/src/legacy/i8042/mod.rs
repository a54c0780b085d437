//! The keyboard controller (i8042) with a PS/2 keyboard and mouse.
//!
//! Ports 0x60 (data) and 0x64 (status, commands), IRQ 1 and 12, the reset line and address line 20. A byte waits for the
//! system until it is read; the next one interrupts again, so nothing is lost and nobody polls.

mod bits;
mod keyboard;
mod mouse;
mod outbox;
mod scancodes;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{Bus, BusDevice, ClaimError};
use crate::device::{Device, Saved, StateError};
use crate::irq::Line;
use crate::power::{Power, ResetCause};
use bits::*;
use keyboard::Keyboard;
use mouse::Mouse;
pub use mouse::{LEFT, MIDDLE, RIGHT, SIDE};
pub use scancodes::Key;

const KIND: &str = "i8042";
const VERSION: u32 = 1;
/// ISA interrupts of keyboard and mouse.
pub const IRQS: [u8; 2] = [1, 12];
const DATA: u64 = 0x60;
const STATUS: u64 = 0x64;
/// Bytes of the controller's own answers that wait at most.
const MOST_ANSWERS: usize = 16;
const RAM: usize = 32;

/// Whose byte waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum From {
    Keyboard,
    Aux,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    /// Byte 0 is the command byte.
    ram: Vec<u8>,
    /// The byte at port 0x60.
    output: Option<(u8, From)>,
    /// What port 0x60 read last.
    last: u8,
    answers: VecDeque<(u8, From)>,
    /// A controller command that waits for its byte at port 0x60.
    command: Option<u8>,
    command_was_last: bool,
    a20: bool,
    /// A translated release has begun.
    release: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl Default for State {
    fn default() -> Self {
        let mut ram = vec![0; RAM];
        if let Some(byte) = ram.first_mut() {
            *byte = CCB_SYSTEM | CCB_TRANSLATE | CCB_KEYBOARD_INTERRUPT;
        }
        Self {
            ram,
            output: None,
            last: 0,
            answers: VecDeque::new(),
            command: None,
            command_was_last: false,
            a20: true,
            release: false,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

/// The controller.
pub struct KeyboardController {
    state: Mutex<State>,
    lines: [Line; 2],
    power: Arc<dyn Power>,
}

struct Port(Arc<KeyboardController>, u64);

impl KeyboardController {
    /// A controller on its two interrupts.
    pub fn new(lines: [Line; 2], power: Arc<dyn Power>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), lines, power })
    }

    /// Claims its ports.
    ///
    /// # Errors
    /// When another device has one.
    pub fn claim(self: &Arc<Self>, ports: &Bus) -> Result<(), ClaimError> {
        ports.claim(DATA, 1, Arc::new(Port(self.clone(), DATA)))?;
        ports.claim(STATUS, 1, Arc::new(Port(self.clone(), STATUS)))
    }

    /// A key goes down or up. Says whether the guest will hear of it: not while it has the keyboard off, or when a
    /// thousand bytes wait already.
    pub fn key(&self, key: Key, down: bool) -> bool {
        let mut state = self.state.lock();
        let heard = state.keyboard.key(key, down);
        self.go_on(&mut state);
        heard
    }

    /// The mouse moves right, down, and its wheel down, with these buttons held ([`LEFT`] and so on). Says whether the
    /// guest wants to hear of it. Motion that isn't read adds up.
    pub fn mouse(&self, motion: [i32; 3], buttons: u8) -> bool {
        let mut state = self.state.lock();
        let heard = state.mouse.moved(motion, buttons);
        self.go_on(&mut state);
        heard
    }

    /// The keyboard's lights: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub fn lights(&self) -> u8 {
        self.state.lock().keyboard.lights()
    }

    // Brings the next byte to port 0x60 and drives the interrupts.
    fn go_on(&self, state: &mut State) {
        while state.output.is_none() {
            let Some(next) = state.next_byte() else { break };
            state.output = next;
        }
        self.drive(state);
    }

    fn drive(&self, state: &State) {
        let levels = state.interrupts();
        self.lines.iter().zip(levels).for_each(|(line, level)| line.set(level));
    }

    fn read_data(&self) -> u8 {
        let mut state = self.state.lock();
        if let Some((byte, _)) = state.output.take() {
            state.last = byte;
            // Down before the next byte brings it up again: the controllers want an edge.
            self.drive(&state);
            self.go_on(&mut state);
        }
        state.last
    }

    fn write_data(&self, byte: u8) {
        let mut state = self.state.lock();
        state.command_was_last = false;
        let reset = state.data(byte);
        self.go_on(&mut state);
        drop(state);
        if reset {
            self.power.reset(ResetCause::Keyboard);
        }
    }

    fn write_command(&self, command: u8) {
        let mut state = self.state.lock();
        state.command_was_last = true;
        state.begin(command);
        self.go_on(&mut state);
        drop(state);
        if command >= controller::PULSE && command & controller::OUTPUT_RESET == 0 {
            self.power.reset(ResetCause::Keyboard);
        }
    }
}

impl State {
    fn command_byte(&self) -> u8 {
        self.ram.first().copied().unwrap_or(0)
    }

    fn change_command_byte(&mut self, clear: u8, set: u8) {
        if let Some(byte) = self.ram.first_mut() {
            *byte = *byte & !clear | set;
        }
    }

    fn interrupts(&self) -> [bool; 2] {
        let from = self.output.map(|(_, from)| from);
        let on = |bit| self.command_byte() & bit != 0;
        [from == Some(From::Keyboard) && on(CCB_KEYBOARD_INTERRUPT), from == Some(From::Aux) && on(CCB_AUX_INTERRUPT)]
    }

    fn status(&self) -> u8 {
        let mut status = STATUS_UNLOCKED;
        match self.output {
            Some((_, From::Keyboard)) => status |= STATUS_OUTPUT_FULL,
            Some((_, From::Aux)) => status |= STATUS_OUTPUT_FULL | STATUS_AUX,
            None => {}
        }
        if self.command_byte() & CCB_SYSTEM != 0 {
            status |= STATUS_SYSTEM;
        }
        if self.command_was_last {
            status |= STATUS_COMMAND;
        }
        status
    }

    // What comes to port 0x60 next. The inner nothing: a byte was there, but only announces the next.
    fn next_byte(&mut self) -> Option<Option<(u8, From)>> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(Some(answer));
        }
        let off = |bit| self.command_byte() & bit != 0;
        let (keyboard_off, aux_off) = (off(CCB_KEYBOARD_OFF), off(CCB_AUX_OFF));
        if !keyboard_off && let Some(byte) = self.keyboard.next() {
            return Some(self.translate(byte).map(|byte| (byte, From::Keyboard)));
        }
        if aux_off {
            return None;
        }
        self.mouse.next().map(|byte| Some((byte, From::Aux)))
    }

    fn translate(&mut self, byte: u8) -> Option<u8> {
        if self.command_byte() & CCB_TRANSLATE == 0 {
            return Some(byte);
        }
        if byte == scancodes::RELEASE {
            self.release = true;
            return None;
        }
        let release = if std::mem::take(&mut self.release) { 0x80 } else { 0 };
        Some(scancodes::to_set_1(byte) | release)
    }

    fn answer(&mut self, byte: u8, from: From) {
        if self.answers.len() < MOST_ANSWERS {
            self.answers.push_back((byte, from));
        }
    }

    fn begin(&mut self, command: u8) {
        use controller::*;
        self.command = None;
        match command {
            READ_RAM..=READ_RAM_LAST => {
                let byte = self.ram.get(usize::from(command - READ_RAM)).copied().unwrap_or(0);
                self.answer(byte, From::Keyboard);
            }
            WRITE_RAM..=WRITE_RAM_LAST | WRITE_OUTPUT_PORT | WRITE_KEYBOARD_BUFFER | WRITE_AUX_BUFFER | WRITE_AUX => {
                self.command = Some(command)
            }
            AUX_OFF => self.change_command_byte(0, CCB_AUX_OFF),
            AUX_ON => self.change_command_byte(CCB_AUX_OFF, 0),
            AUX_TEST | KEYBOARD_TEST => self.answer(INTERFACE_WORKS, From::Keyboard),
            SELF_TEST => {
                self.change_command_byte(0, CCB_SYSTEM);
                self.answer(SELF_TEST_PASSED, From::Keyboard);
            }
            KEYBOARD_OFF => self.change_command_byte(0, CCB_KEYBOARD_OFF),
            KEYBOARD_ON => self.change_command_byte(CCB_KEYBOARD_OFF, 0),
            READ_INPUT_PORT => self.answer(INPUT_PORT, From::Keyboard),
            READ_OUTPUT_PORT => self.answer(self.output_port(), From::Keyboard),
            // Pulses other than of the reset line, and what no controller knows.
            _ => {}
        }
    }

    fn output_port(&self) -> u8 {
        let mut port = controller::OUTPUT_IDLE | controller::OUTPUT_RESET;
        if self.a20 {
            port |= controller::OUTPUT_A20;
        }
        let levels = self.interrupts().into_iter().zip(controller::OUTPUT_INTERRUPTS);
        levels.filter(|(level, _)| *level).fold(port, |port, (_, bit)| port | bit)
    }

    // A byte at port 0x60. Says whether it pulls the reset line.
    fn data(&mut self, byte: u8) -> bool {
        use controller::*;
        match self.command.take() {
            Some(command @ WRITE_RAM..=WRITE_RAM_LAST) => {
                if let Some(to) = self.ram.get_mut(usize::from(command - WRITE_RAM)) {
                    *to = byte;
                }
            }
            Some(WRITE_OUTPUT_PORT) => {
                self.a20 = byte & OUTPUT_A20 != 0;
                return byte & OUTPUT_RESET == 0;
            }
            Some(WRITE_KEYBOARD_BUFFER) => self.answer(byte, From::Keyboard),
            Some(WRITE_AUX_BUFFER) => self.answer(byte, From::Aux),
            Some(WRITE_AUX) => self.mouse.receive(byte),
            _ => {
                // Talking to the keyboard turns its interface on.
                self.change_command_byte(CCB_KEYBOARD_OFF, 0);
                self.keyboard.receive(byte);
            }
        }
        false
    }
}

impl BusDevice for Port {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        let [byte] = data else { return };
        *byte = if self.1 == DATA { self.0.read_data() } else { self.0.state.lock().status() };
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let [byte] = data else { return };
        if self.1 == DATA { self.0.write_data(*byte) } else { self.0.write_command(*byte) }
    }
}

impl Device for KeyboardController {
    fn id(&self) -> String {
        KIND.into()
    }
    fn reset(&self) {
        let mut state = self.state.lock();
        *state = State::default();
        self.drive(&state);
    }
    fn pause(&self) {}
    fn resume(&self) {}
    fn save(&self) -> Result<Saved, StateError> {
        Saved::new(KIND, VERSION, &*self.state.lock())
    }
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let new: State = saved.open(KIND, VERSION)?;
        if new.ram.len() != RAM {
            return Err(StateError::Impossible("a keyboard controller has 32 bytes of memory".into()));
        }
        let mut state = self.state.lock();
        *state = new;
        self.drive(&state);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
