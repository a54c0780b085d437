//! The clock against time that stands still until it is told to move.

use super::*;
use crate::irq::Wires;
use crate::time::manual::ManualTime;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
struct Wire(AtomicBool);
impl Wires for Wire {
    fn set(&self, gsi: u32, level: bool) {
        assert_eq!(gsi, 8);
        self.0.store(level, Ordering::SeqCst);
    }
}

struct Board {
    wire: Arc<Wire>,
    time: ManualTime,
    clock: Arc<RealTimeClock>,
}

/// 29 February 2000, 12:34:56 UTC, a Tuesday.
const LEAP_DAY: u64 = 951_827_696;

fn board(offset: i64) -> Board {
    let (wire, time) = (Arc::new(Wire::default()), ManualTime::at_wall(LEAP_DAY));
    let clock = RealTimeClock::new(Line::alone(wire.clone(), 8), Arc::new(time.clone()), offset);
    Board { wire, time, clock }
}

impl Board {
    fn read(&self, at: u8) -> u8 {
        self.clock.write(0, &[at]);
        let mut one = [0];
        self.clock.read(1, &mut one);
        one[0]
    }
    fn write(&self, at: u8, value: u8) {
        self.clock.write(0, &[at]);
        self.clock.write(1, &[value]);
    }
    fn shows(&self) -> Vec<u8> {
        [CENTURY, YEAR, MONTH, DAY_OF_MONTH, WEEKDAY, HOURS, MINUTES, SECONDS].map(|at| self.read(at)).into()
    }
    fn up(&self) -> bool {
        self.wire.0.load(Ordering::SeqCst)
    }
}

#[test]
fn it_shows_the_hosts_time_in_each_form() {
    let board = board(0);
    assert_eq!(board.shows(), [0x20, 0x00, 0x02, 0x29, 0x03, 0x12, 0x34, 0x56]);
    board.write(B, HOURS_24 | BINARY);
    assert_eq!(board.shows(), [20, 0, 2, 29, 3, 12, 34, 56]);
    board.write(B, 0);
    assert_eq!(board.read(HOURS), 0x92, "12 PM");
    board.time.advance(Duration::from_secs(3600 * 12));
    assert_eq!(board.read(HOURS), 0x12, "12 AM");
    assert_eq!(board.read(DAY_OF_MONTH), 0x01);
}

#[test]
fn local_time_is_an_offset() {
    assert_eq!(board(2 * 3600).read(HOURS), 0x14);
    assert_eq!(board(-13 * 3600).read(DAY_OF_MONTH), 0x28);
}

#[test]
fn setting_it_moves_the_clock_and_standing_stops_it() {
    let board = board(0);
    board.write(B, HOURS_24 | SET);
    board.time.advance(Duration::from_secs(100));
    assert_eq!(board.read(SECONDS), 0x56);
    for (at, value) in [(CENTURY, 0x19), (YEAR, 0x99), (MONTH, 0x12), (DAY_OF_MONTH, 0x31), (HOURS, 0x23)] {
        board.write(at, value);
    }
    board.write(MINUTES, 0x59);
    board.write(SECONDS, 0x59);
    board.write(B, HOURS_24);
    assert_eq!(board.shows(), [0x19, 0x99, 0x12, 0x31, 0x06, 0x23, 0x59, 0x59]);
    board.time.advance(Duration::from_secs(1));
    assert_eq!(board.shows(), [0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00]);
    board.write(HOURS, 0x05);
    assert_eq!(board.read(HOURS), 0x05, "set without stopping it");
}

#[test]
fn an_update_is_announced_and_interrupts() {
    let board = board(0);
    assert_eq!((board.read(A) & UPDATE_IN_PROGRESS, board.time.alarms()), (0, 0));
    board.time.advance(Duration::from_micros(999_900));
    assert_eq!(board.read(A) & UPDATE_IN_PROGRESS, UPDATE_IN_PROGRESS);
    board.read(C);
    board.write(B, HOURS_24 | UPDATE);
    assert_eq!(board.time.alarms(), 1);
    board.time.advance(Duration::from_micros(100));
    assert!(board.up());
    assert_eq!(board.time.alarms(), 0, "it is raised already");
    assert_eq!(board.read(C) & (INTERRUPT | UPDATE), INTERRUPT | UPDATE);
    assert!(!board.up());
    assert_eq!(board.read(C) & UPDATE, 0);
}

#[test]
fn an_alarm_rings_once_at_its_time() {
    let board = board(0);
    for (at, value) in [(SECONDS_ALARM, 0x10), (MINUTES_ALARM, 0x35), (HOURS_ALARM, 0xff)] {
        board.write(at, value);
    }
    board.write(B, HOURS_24 | ALARM);
    board.time.advance(Duration::from_secs(13));
    assert!(!board.up());
    board.time.advance(Duration::from_secs(1));
    assert!(board.up());
    assert_eq!(board.read(C) & ALARM, ALARM);
    board.time.advance(Duration::from_secs(3599));
    assert!(!board.up());
    board.time.advance(Duration::from_secs(1));
    assert!(board.up(), "any hour matches");
}

#[test]
fn periods_come_at_their_rate_while_they_are_wanted() {
    let board = board(0);
    board.write(A, 0x2f);
    board.write(B, HOURS_24 | PERIODIC);
    let mut count = 0;
    for _ in 0..4000 {
        board.time.advance(Duration::from_millis(1));
        if board.up() {
            count += 1;
            board.read(C);
        }
    }
    assert_eq!(count, 8, "twice a second");
    board.write(B, HOURS_24);
    assert_eq!(board.time.alarms(), 0);
    board.write(A, 0x20);
    board.write(B, HOURS_24 | PERIODIC);
    assert_eq!(board.time.alarms(), 0, "no rate, no period");
}

#[test]
fn memory_and_time_outlive_a_reset_and_a_life() {
    let first = board(7200);
    first.write(0x40, 0xab);
    first.clock.write(2, &[5]);
    first.clock.write(3, &[0xcd]);
    first.write(B, HOURS_24 | UPDATE);
    first.time.advance(Duration::from_secs(1));
    first.clock.pause();
    let saved = first.clock.save().unwrap();
    let second = board(0);
    second.clock.restore(&saved).unwrap();
    assert_eq!(second.clock.save().unwrap(), saved);
    assert!(second.up(), "the interrupt is still to be taken");
    assert_eq!((second.read(0x40), second.read(HOURS)), (0xab, 0x14));
    second.clock.reset();
    assert!(!second.up());
    assert_eq!((second.read(0x40), second.read(B)), (0xab, HOURS_24));
    let mut one = [0];
    second.clock.write(2, &[5]);
    second.clock.read(3, &mut one);
    assert_eq!(one, [0xcd]);
}

#[test]
fn nonsense_in_every_register_does_no_harm() {
    for value in [0x00, 0x5a, 0x99, 0xff] {
        let board = board(0);
        for at in 0..128 {
            board.write(at, value);
            board.read(at);
        }
        board.write(B, value & !SET);
        board.time.advance(Duration::from_secs(2));
        board.shows();
    }
}

#[test]
fn the_next_alarm_is_the_one_that_a_look_at_each_second_finds() {
    let board = board(0);
    let bytes = [0x00, 0x07, 0x09, 0x12, 0x23, 0x59, 0x61, 0x81, 0x92, 0xc0, 0xff];
    for format in [0, BINARY, HOURS_24, HOURS_24 | BINARY] {
        for hour in bytes {
            for (minute, second) in bytes.into_iter().flat_map(|minute| bytes.map(|second| (minute, second))) {
                board.write(B, format);
                for (at, value) in [(HOURS_ALARM, hour), (MINUTES_ALARM, minute), (SECONDS_ALARM, second)] {
                    board.write(at, value);
                }
                let state = board.clock.state.lock();
                let rings = |seconds: i64| {
                    let is = |byte: u8, decoded: u8, value: i64| byte >= ANY || i64::from(decoded) == value;
                    is(second, state.decode(second), seconds % 60)
                        && is(minute, state.decode(minute), seconds / 60 % 60)
                        && is(hour, state.decode_hour(hour), seconds / 3600)
                };
                let wanted = (1..=DAY).find(|after| rings((state.seen + after).rem_euclid(DAY)));
                assert_eq!(state.next_alarm(), wanted, "{format:#x} {hour:#x} {minute:#x} {second:#x}");
            }
        }
    }
}
