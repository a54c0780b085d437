//! The controller as a driver sees it: ports and interrupts.

use super::*;
use crate::irq::Wires;
use std::collections::BTreeMap;

#[derive(Default)]
struct Board {
    edges: Mutex<BTreeMap<u32, u32>>,
    resets: Mutex<Vec<ResetCause>>,
}
impl Wires for Board {
    fn set(&self, gsi: u32, level: bool) {
        *self.edges.lock().entry(gsi).or_default() += u32::from(level);
    }
}
impl Power for Board {
    fn off(&self) {}
    fn reset(&self, cause: ResetCause) {
        self.resets.lock().push(cause);
    }
}

struct Pc {
    board: Arc<Board>,
    controller: Arc<KeyboardController>,
    bus: Bus,
}

fn pc() -> Pc {
    let board = Arc::new(Board::default());
    let lines = IRQS.map(|irq| Line::alone(board.clone(), irq.into()));
    let controller = KeyboardController::new(lines, board.clone());
    let bus = Bus::new();
    controller.claim(&bus).unwrap();
    Pc { board, controller, bus }
}

impl Pc {
    fn read(&self, port: u64) -> u8 {
        let mut one = [0];
        self.bus.read(port, &mut one);
        one[0]
    }
    fn command(&self, bytes: &[u8]) {
        self.bus.write(STATUS, &bytes[..1]);
        bytes[1..].iter().for_each(|byte| {
            self.bus.write(DATA, &[*byte]);
        });
    }
    /// All bytes that wait, and whether each was the mouse's.
    fn drain(&self) -> Vec<(u8, bool)> {
        let mut bytes = Vec::new();
        while self.read(STATUS) & STATUS_OUTPUT_FULL != 0 {
            let aux = self.read(STATUS) & STATUS_AUX != 0;
            bytes.push((self.read(DATA), aux));
        }
        bytes
    }
    fn bytes(&self) -> Vec<u8> {
        self.drain().into_iter().map(|(byte, _)| byte).collect()
    }
    fn edges(&self, irq: u32) -> u32 {
        self.board.edges.lock().get(&irq).copied().unwrap_or(0)
    }
}

#[test]
fn a_driver_finds_controller_keyboard_and_mouse() {
    let pc = pc();
    pc.command(&[0xaa]);
    assert_eq!(pc.bytes(), [0x55]);
    pc.command(&[0x20]);
    assert_eq!(pc.bytes(), [0x45]);
    pc.command(&[0xa9]);
    pc.command(&[0xab]);
    assert_eq!(pc.bytes(), [0, 0]);
    pc.command(&[0xd3, 0x5a]);
    assert_eq!(pc.drain(), [(0x5a, true)], "loop-back, by which Linux knows a mouse port");
    pc.command(&[0xd4, 0xf2]);
    assert_eq!(pc.drain(), [(0xfa, true), (0x00, true)]);
    pc.bus.write(DATA, &[0xf2]);
    assert_eq!(pc.drain(), [(0xfa, false), (0xab, false), (0x41, false)], "translated as on real machines");
    assert_eq!(pc.read(DATA), 0x41, "an empty buffer reads what was last");
}

#[test]
fn keys_interrupt_one_by_one_and_are_translated() {
    let pc = pc();
    assert!(pc.controller.key(Key::Extended(0x48), true) && pc.controller.key(Key::Plain(0x1e), true));
    assert!(pc.controller.key(Key::Plain(0x1e), false));
    assert_eq!(pc.edges(1), 1);
    assert_eq!(pc.bytes(), [0xe0, 0x48, 0x1e, 0x9e]);
    assert_eq!(pc.edges(1), 4);
    pc.command(&[0x60, 0x05]);
    pc.controller.key(Key::Plain(0x1e), false);
    assert_eq!(pc.bytes(), [0xf0, 0x1c], "untranslated");
}

#[test]
fn what_is_off_waits() {
    let pc = pc();
    pc.command(&[0x60, 0x57]);
    pc.controller.key(Key::Plain(0x10), true);
    assert_eq!((pc.bytes(), pc.edges(1)), (vec![], 0));
    pc.command(&[0xae]);
    assert_eq!(pc.bytes(), [0x10]);
    pc.command(&[0xd4, 0xf4]);
    pc.drain();
    pc.command(&[0xa7]);
    assert!(pc.controller.mouse([3, 0, 0], LEFT));
    assert_eq!(pc.drain(), []);
    pc.command(&[0xa8]);
    assert_eq!(pc.drain(), [(9, true), (3, true), (0, true)]);
    assert!(pc.edges(12) >= 4);
}

#[test]
fn the_reset_line_and_lights() {
    let pc = pc();
    pc.command(&[0xf1]);
    assert!(pc.board.resets.lock().is_empty());
    pc.command(&[0xfe]);
    pc.command(&[0xd1, 0xde]);
    assert_eq!(*pc.board.resets.lock(), [ResetCause::Keyboard; 2]);
    pc.command(&[0xd1, 0xdd]);
    pc.command(&[0xd0]);
    assert_eq!(pc.bytes()[0] & 0b11, 0b01, "A20 off, no reset");
    pc.bus.write(DATA, &[0xed]);
    pc.bus.write(DATA, &[0b110]);
    assert_eq!((pc.bytes(), pc.controller.lights()), (vec![0xfa, 0xfa], 0b110));
}

#[test]
fn a_flood_of_keys_has_an_end_and_a_flood_of_motion_adds_up() {
    let pc = pc();
    let taken = (0..5000).filter(|_| pc.controller.key(Key::Plain(0x1e), true)).count();
    assert!((1000..1100).contains(&taken), "{taken}");
    assert_eq!(pc.bytes().len(), taken);
    pc.command(&[0xd4, 0xf4]);
    pc.drain();
    (0..5000).for_each(|_| assert!(pc.controller.mouse([1, 0, 0], 0)));
    let total: i32 = pc.bytes().chunks_exact(3).map(|packet| i32::from(packet[1])).sum();
    assert_eq!(total, 5000);
}

#[test]
fn a_state_comes_back_in_the_middle_of_a_key() {
    let first = pc();
    first.command(&[0xd4, 0xf4]);
    first.drain();
    first.controller.key(Key::Extended(0x48), false);
    first.controller.mouse([500, 0, 0], RIGHT);
    assert_eq!(first.read(DATA), 0xe0);
    first.bus.write(STATUS, &[0x60]);
    let saved = first.controller.save().unwrap();
    let second = pc();
    second.controller.restore(&saved).unwrap();
    assert_eq!(second.controller.save().unwrap(), saved);
    assert_eq!(second.edges(1), 1);
    second.bus.write(DATA, &[0x47]);
    let rest = second.drain();
    assert_eq!(rest[0], (0xc8, false));
    assert_eq!(rest.len(), 1 + 6);
    second.controller.reset();
    assert!(second.bytes().is_empty());
}

#[test]
fn any_bytes_do_no_harm() {
    let pc = pc();
    let mut seed = 1u32;
    for _ in 0..200_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let byte = (seed >> 16) as u8;
        match seed >> 29 {
            0 | 1 => drop(pc.bus.write(DATA, &[byte])),
            2 | 3 => drop(pc.bus.write(STATUS, &[byte])),
            4 => drop(pc.controller.key(Key::Extended(byte), byte & 1 == 0)),
            5 => drop(pc.controller.mouse([i32::from(byte) << 20, -i32::from(byte), i32::MIN], byte)),
            _ => drop(pc.read(DATA)),
        }
    }
}
