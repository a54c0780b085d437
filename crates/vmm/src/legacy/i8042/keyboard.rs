//! The PS/2 keyboard: scan code sets 1 and 2, lights, and its commands.

use serde::{Deserialize, Serialize};

use super::bits::{ACK, RESEND, TEST_PASSED, device};
use super::outbox::Outbox;
use super::scancodes::{Key, sequence};

/// What `IDENTIFY` answers: a keyboard of the MF2 kind.
const IDENTITY: [u8; 2] = [0xab, 0x83];

/// A keyboard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Keyboard {
    outbox: Outbox,
    set: u8,
    enabled: bool,
    lights: u8,
    /// A command that waits for its parameter.
    command: Option<u8>,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { outbox: Outbox::default(), set: 2, enabled: true, lights: 0, command: None }
    }
}

impl Keyboard {
    /// A key goes down or up. Says whether the system will hear of it.
    pub fn key(&mut self, key: Key, down: bool) -> bool {
        self.enabled && self.outbox.event(sequence(key, down, self.set))
    }

    /// Lights: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub fn lights(&self) -> u8 {
        self.lights
    }

    /// The next byte that it sends.
    pub fn next(&mut self) -> Option<u8> {
        self.outbox.next()
    }

    /// A byte from the system.
    pub fn receive(&mut self, byte: u8) {
        match self.command.take() {
            // A parameter is below 0xe0; anything else is a new command.
            Some(command) if byte < 0xe0 => self.parameter(command, byte),
            _ => self.begin(byte),
        }
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (device::SET_LEDS, lights) => {
                self.lights = lights & 0b111;
                self.outbox.answer(&[ACK]);
            }
            (device::SCAN_CODE_SET, 0) => self.outbox.answer(&[ACK, self.set]),
            (device::SCAN_CODE_SET, set @ 1..=2) => {
                self.set = set;
                self.outbox.answer(&[ACK]);
            }
            (device::SCAN_CODE_SET, _) => self.outbox.answer(&[RESEND]),
            // Repeating is the viewer's: keys come as often as they are sent.
            _ => self.outbox.answer(&[ACK]),
        }
    }

    fn begin(&mut self, command: u8) {
        match command {
            device::SET_LEDS | device::SCAN_CODE_SET | device::SET_RATE => {
                self.command = Some(command);
                self.outbox.answer(&[ACK]);
            }
            device::ECHO => self.outbox.answer(&[device::ECHO]),
            device::IDENTIFY => {
                let [first, second] = IDENTITY;
                self.outbox.answer(&[ACK, first, second]);
            }
            device::ENABLE => {
                self.enabled = true;
                self.outbox.drop_events();
                self.outbox.answer(&[ACK]);
            }
            device::DISABLE | device::DEFAULTS => {
                let outbox = std::mem::take(&mut self.outbox);
                *self = Self { outbox, lights: self.lights, enabled: command == device::DEFAULTS, ..Self::default() };
                self.outbox.drop_events();
                self.outbox.answer(&[ACK]);
            }
            device::RESEND => {
                let last = self.outbox.last();
                self.outbox.answer(&[last]);
            }
            device::RESET => {
                *self = Self::default();
                self.outbox.answer(&[ACK, TEST_PASSED]);
            }
            _ => self.outbox.answer(&[RESEND]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(keyboard: &mut Keyboard, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().for_each(|byte| keyboard.receive(*byte));
        std::iter::from_fn(|| keyboard.next()).collect()
    }

    #[test]
    fn commands_are_answered() {
        let mut keyboard = Keyboard::default();
        assert_eq!(say(&mut keyboard, &[0xff]), [0xfa, 0xaa]);
        assert_eq!(say(&mut keyboard, &[0xf2]), [0xfa, 0xab, 0x83]);
        assert_eq!(say(&mut keyboard, &[0xee]), [0xee]);
        assert_eq!(say(&mut keyboard, &[0xf0, 0]), [0xfa, 0xfa, 2]);
        assert_eq!(say(&mut keyboard, &[0xf3, 0x20]), [0xfa, 0xfa]);
        assert_eq!(say(&mut keyboard, &[0xed, 0b101]), [0xfa, 0xfa]);
        assert_eq!(keyboard.lights(), 0b101);
        assert_eq!(say(&mut keyboard, &[0xf0, 3]), [0xfa, 0xfe]);
        assert_eq!(say(&mut keyboard, &[0x00]), [0xfe]);
        assert_eq!(say(&mut keyboard, &[0xed, 0xf2]), [0xfa, 0xfa, 0xab, 0x83], "a command ends waiting");
        assert_eq!(say(&mut keyboard, &[0xfe]), [0x83]);
    }

    #[test]
    fn keys_come_in_the_chosen_set_while_enabled() {
        let mut keyboard = Keyboard::default();
        assert!(keyboard.key(Key::Plain(0x1e), true));
        assert_eq!(say(&mut keyboard, &[]), [0x1c]);
        say(&mut keyboard, &[0xf0, 1]);
        assert!(keyboard.key(Key::Plain(0x1e), false));
        assert_eq!(say(&mut keyboard, &[]), [0x9e]);
        assert_eq!(say(&mut keyboard, &[0xf5]), [0xfa]);
        assert!(!keyboard.key(Key::Plain(0x1e), true));
        assert_eq!(say(&mut keyboard, &[0xf4]), [0xfa]);
        assert!(keyboard.key(Key::Plain(0x1e), true));
        assert_eq!(say(&mut keyboard, &[]), [0x1c], "disabling went back to set 2");
    }
}
