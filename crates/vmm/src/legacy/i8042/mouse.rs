//! The PS/2 mouse: three buttons, after the IntelliMouse knock a wheel, after the second knock five buttons.

use serde::{Deserialize, Serialize};

use super::bits::{ACK, RESEND, TEST_PASSED, device};
use super::outbox::Outbox;

/// Left button; right and middle follow, then the two at the side.
pub const LEFT: u8 = 1 << 0;
/// Right button.
pub const RIGHT: u8 = 1 << 1;
/// Middle button.
pub const MIDDLE: u8 = 1 << 2;
/// Fourth and fifth button.
pub const SIDE: u8 = 0b11 << 3;

/// Rates that are set one after the other to ask for a wheel.
const KNOCK_WHEEL: [u8; 3] = [200, 100, 80];
/// Rates that are set one after the other to ask for five buttons.
const KNOCK_BUTTONS: [u8; 3] = [200, 200, 80];
const WITH_WHEEL: u8 = 3;
const WITH_BUTTONS: u8 = 4;
/// Bit of a packet's first byte that is always set.
const SYNC: u8 = 1 << 3;
/// Motion adds up to here while nobody reads it.
const MOST_MOTION: i32 = 0x7fff;
/// Packets are made while fewer bytes than this wait; the rest stays as motion, which adds up.
const ENOUGH_WAITS: usize = 16;

/// A mouse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mouse {
    outbox: Outbox,
    identity: u8,
    /// The last rates set.
    knock: [u8; 3],
    resolution: u8,
    double: bool,
    remote: bool,
    wrap: bool,
    enabled: bool,
    buttons: u8,
    /// Buttons as last sent.
    sent: u8,
    motion: [i32; 3],
    command: Option<u8>,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            outbox: Outbox::default(),
            identity: 0,
            knock: [0, 0, 100],
            resolution: 2,
            double: false,
            remote: false,
            wrap: false,
            enabled: false,
            buttons: 0,
            sent: 0,
            motion: [0; 3],
            command: None,
        }
    }
}

impl Mouse {
    /// It moves right by `dx`, down by `dy`, its wheel down by `dz`, with these buttons held. Says whether the system
    /// wants to hear of it.
    pub fn moved(&mut self, [dx, dy, dz]: [i32; 3], buttons: u8) -> bool {
        if !self.enabled && !self.remote {
            return false;
        }
        // The y axis of mice points up.
        for (sum, by) in self.motion.iter_mut().zip([dx, dy.saturating_neg(), dz]) {
            *sum = sum.saturating_add(by).clamp(-MOST_MOTION, MOST_MOTION);
        }
        self.buttons = buttons;
        self.make_packets();
        true
    }

    /// The next byte that it sends.
    pub fn next(&mut self) -> Option<u8> {
        let byte = self.outbox.next();
        self.make_packets();
        byte
    }

    fn make_packets(&mut self) {
        let streams = self.enabled && !self.remote && !self.wrap;
        while streams && self.outbox.event_bytes() < ENOUGH_WAITS && self.has_news() {
            let packet = self.packet(self.double);
            if !self.outbox.event(packet) {
                return;
            }
        }
    }

    fn has_news(&self) -> bool {
        let wheel = self.identity >= WITH_WHEEL && self.motion[2] != 0;
        self.motion[0] != 0 || self.motion[1] != 0 || wheel || self.buttons != self.sent
    }

    // Takes as much motion as a packet holds.
    fn packet(&mut self, double: bool) -> Vec<u8> {
        let mut take = |axis: usize, least: i32, most: i32| {
            let sum = self.motion.get_mut(axis);
            sum.map_or(0, |sum| {
                let part = (*sum).clamp(least, most);
                *sum -= part;
                part
            })
        };
        let scale = |n: i32| if double { doubled(n) } else { n };
        // Doubled motion must fit the nine bits as well.
        let most = if double { 127 } else { 255 };
        let (x, y) = (scale(take(0, -most, most)), scale(take(1, -most, most)));
        let z = take(2, -8, 7);
        self.sent = self.buttons;
        let sign = |n: i32, bit: u8| if n < 0 { 1 << bit } else { 0 };
        let first = self.buttons & 0b111 | SYNC | sign(x, 4) | sign(y, 5);
        let mut packet = vec![first, x as u8, y as u8];
        match self.identity {
            WITH_WHEEL => packet.push(z as u8),
            WITH_BUTTONS => packet.push(z as u8 & 0xf | (self.buttons & SIDE) << 1),
            _ => {}
        }
        packet
    }

    /// A byte from the system.
    pub fn receive(&mut self, byte: u8) {
        if self.wrap && byte != device::UNWRAP && byte != device::RESET {
            self.outbox.answer(&[byte]);
            return;
        }
        match self.command.take() {
            Some(command) => self.parameter(command, byte),
            None => self.begin(byte),
        }
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        match command {
            device::SET_RESOLUTION if byte > 3 => return self.outbox.answer(&[RESEND]),
            device::SET_RESOLUTION => self.resolution = byte,
            _ => {
                self.knock = [self.knock[1], self.knock[2], byte];
                match self.knock {
                    KNOCK_WHEEL => self.identity = self.identity.max(WITH_WHEEL),
                    KNOCK_BUTTONS => self.identity = WITH_BUTTONS,
                    _ => {}
                }
            }
        }
        self.outbox.answer(&[ACK]);
    }

    fn begin(&mut self, command: u8) {
        self.outbox.answer(&[ACK]);
        match command {
            device::SET_SCALING_1_1 => self.double = false,
            device::SET_SCALING_2_1 => self.double = true,
            device::SET_RESOLUTION | device::SET_RATE => self.command = Some(command),
            device::STATUS_REQUEST => {
                let status = self.status();
                self.outbox.answer(&status);
            }
            device::STREAM => self.remote = false,
            device::REMOTE => self.remote = true,
            device::READ_DATA => {
                let packet = self.packet(false);
                self.outbox.answer(&packet);
            }
            device::UNWRAP => self.wrap = false,
            device::WRAP => self.wrap = true,
            device::IDENTIFY => self.outbox.answer(&[self.identity]),
            device::ENABLE => self.enabled = true,
            device::DISABLE => {
                self.enabled = false;
                self.outbox.drop_events();
            }
            device::DEFAULTS => {
                let (outbox, identity) = (std::mem::take(&mut self.outbox), self.identity);
                *self = Self { outbox, identity, ..Self::default() };
                self.outbox.drop_events();
            }
            device::RESET => {
                *self = Self::default();
                self.outbox.answer(&[ACK, TEST_PASSED, self.identity]);
            }
            _ => {
                // What was answered above is taken back.
                self.outbox.take_back();
                let answer = if command == device::RESEND { self.outbox.last() } else { RESEND };
                self.outbox.answer(&[answer]);
            }
        }
    }

    // Mode and buttons, resolution, rate.
    fn status(&self) -> [u8; 3] {
        let bit = |set: bool, bit: u8| u8::from(set) << bit;
        let held = |button: u8| self.buttons & button != 0;
        let modes = bit(self.remote, 6) | bit(self.enabled, 5) | bit(self.double, 4);
        [modes | bit(held(LEFT), 2) | bit(held(MIDDLE), 1) | bit(held(RIGHT), 0), self.resolution, self.knock[2]]
    }
}

// 2:1 scaling, which is not linear for small motion (IBM, "Mouse": Set Scaling 2:1).
fn doubled(n: i32) -> i32 {
    let size = match n.abs() {
        0 => 0,
        1 | 2 => 1,
        3 => 3,
        4 => 6,
        5 => 9,
        n => 2 * n,
    };
    size * n.signum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(mouse: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().for_each(|byte| mouse.receive(*byte));
        std::iter::from_fn(|| mouse.next()).collect()
    }

    fn rates(mouse: &mut Mouse, rates: [u8; 3]) {
        for rate in rates {
            assert_eq!(say(mouse, &[0xf3, rate]), [0xfa, 0xfa]);
        }
    }

    #[test]
    fn it_says_nothing_until_it_is_enabled() {
        let mut mouse = Mouse::default();
        assert!(!mouse.moved([1, 1, 1], LEFT));
        assert_eq!(say(&mut mouse, &[0xff]), [0xfa, 0xaa, 0x00]);
        assert_eq!(say(&mut mouse, &[0xf4]), [0xfa]);
        assert!(mouse.moved([5, -3, 0], LEFT | MIDDLE));
        assert_eq!(say(&mut mouse, &[]), [0b0000_1101, 5, 3]);
        mouse.moved([-1, 2, 0], 0);
        assert_eq!(say(&mut mouse, &[]), [0b0011_1000, 0xff, 0xfe]);
    }

    #[test]
    fn knocks_bring_the_wheel_and_the_side_buttons() {
        let mut mouse = Mouse::default();
        say(&mut mouse, &[0xf4]);
        mouse.moved([0, 0, 1], 0);
        assert!(say(&mut mouse, &[]).is_empty(), "no wheel, no packet");
        mouse.motion = [0; 3];
        rates(&mut mouse, KNOCK_WHEEL);
        assert_eq!(say(&mut mouse, &[0xf2]), [0xfa, 3]);
        mouse.moved([0, 0, -1], 0);
        assert_eq!(say(&mut mouse, &[]), [8, 0, 0, 0xff]);
        rates(&mut mouse, KNOCK_BUTTONS);
        assert_eq!(say(&mut mouse, &[0xf2]), [0xfa, 4]);
        mouse.moved([0, 0, 1], 1 << 4);
        assert_eq!(say(&mut mouse, &[]), [8, 0, 0, 0x21]);
        assert_eq!(say(&mut mouse, &[0xff, 0xf2]), [0xfa, 0xaa, 0, 0xfa, 0]);
    }

    #[test]
    fn long_ways_take_several_packets_and_nothing_is_lost() {
        let mut mouse = Mouse::default();
        say(&mut mouse, &[0xf4]);
        mouse.moved([20_000, 20_000, 0], 0);
        let bytes = say(&mut mouse, &[]);
        let (mut x, mut y) = (0, 0);
        for packet in bytes.chunks_exact(3) {
            let nine = |low: u8, sign: u8| i32::from(low) - if packet[0] & sign != 0 { 256 } else { 0 };
            x += nine(packet[1], 0x10);
            y += nine(packet[2], 0x20);
        }
        assert_eq!((x, y), (20_000, -20_000));
    }

    #[test]
    fn modes_and_status() {
        let mut mouse = Mouse::default();
        assert_eq!(say(&mut mouse, &[0xe8, 3, 0xe7, 0xf3, 60, 0xf4]), [0xfa; 6]);
        mouse.moved([0, 0, 0], RIGHT);
        say(&mut mouse, &[]);
        assert_eq!(say(&mut mouse, &[0xe9]), [0xfa, 0b0011_0001, 3, 60]);
        assert_eq!(say(&mut mouse, &[0xf0]), [0xfa]);
        mouse.moved([7, 0, 0], 0);
        assert!(say(&mut mouse, &[]).is_empty(), "remote mode sends when asked");
        assert_eq!(say(&mut mouse, &[0xeb]), [0xfa, 8, 7, 0], "and never scales");
        assert_eq!(say(&mut mouse, &[0xea, 0xee, 0x55, 0xe6, 0xec]), [0xfa, 0xfa, 0x55, 0xe6, 0xfa]);
        mouse.moved([4, 10, 0], 0);
        assert_eq!(say(&mut mouse, &[]), [0x28, 6, 0xec], "2:1");
        assert_eq!(say(&mut mouse, &[0xe8, 9]), [0xfa, 0xfe]);
        assert_eq!(say(&mut mouse, &[0x01]), [0xfe]);
    }
}
