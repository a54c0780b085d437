//! The console.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::device::Device;
use crate::testing::{DATA, Driver, Piece};
use crate::virtio::console::{Console, Endpoints};

const INPUT: u16 = 0;
const OUTPUT: u16 = 1;

/// A driver, the host's end of both streams, and the console.
fn console() -> (Driver, UnixStream, std::sync::Arc<Console>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let ends = Endpoints { input: theirs.try_clone().unwrap().into(), output: theirs.into() };
    let console = Console::new(ends, 80, 25).unwrap();
    (Driver::new(console.clone()), ours, console)
}

#[test]
fn both_directions_work_and_the_size_is_told() {
    let (mut driver, mut host, console) = console();
    driver.start(1, 2, 16);
    assert_eq!(driver.get(0x2000), [80, 0, 25, 0, 1, 0, 0, 0]);
    driver.put(DATA, b"hello, host");
    driver.post(OUTPUT, &[Piece(DATA, 5, false), Piece(DATA + 5, 6, false)]);
    driver.kick(OUTPUT);
    let mut text = [0; 11];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello, host");
    assert_eq!(driver.wait(OUTPUT).1, 0);
    // Input that comes before there is a buffer stays with the host.
    host.write_all(b"hello, guest").unwrap();
    driver.post(INPUT, &[Piece(DATA + 0x1000, 7, true)]);
    driver.post(INPUT, &[Piece(DATA + 0x2000, 64, true)]);
    driver.kick(INPUT);
    assert_eq!(driver.wait(INPUT).1, 7);
    assert_eq!(driver.wait(INPUT).1, 5);
    assert_eq!(driver.take(DATA + 0x1000, 7), b"hello, ");
    assert_eq!(driver.take(DATA + 0x2000, 5), b"guest");
    console.resize(132, 50);
    driver.device.config_changed();
    driver.wait_vector(0);
    assert_eq!(driver.get(0x2000), [132, 0, 50, 0]);
}

#[test]
fn input_that_comes_later_wakes_a_waiting_buffer() {
    let (mut driver, mut host, _console) = console();
    driver.start(0, 2, 16);
    driver.post(INPUT, &[Piece(DATA, 64, true)]);
    driver.kick(INPUT);
    for word in ["one", "three"] {
        host.write_all(word.as_bytes()).unwrap();
        assert_eq!(driver.wait(INPUT).1 as usize, word.len());
        assert_eq!(driver.take(DATA, word.len()), word.as_bytes());
        driver.post(INPUT, &[Piece(DATA, 64, true)]);
        driver.kick(INPUT);
    }
}

/// Bytes by which order, loss and doubling show.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| (n.wrapping_mul(0x9e37_79b9)).to_le_bytes()).take(len).collect()
}

#[test]
fn a_slow_reader_holds_output_back_and_loses_nothing_over_pause_and_restore() {
    let (mut driver, mut host, _) = console();
    driver.start(0, 2, 16);
    let sent = pattern(2 << 20);
    driver.put(DATA, &sent);
    for part in 0..4u64 {
        driver.post(OUTPUT, &[Piece(DATA + (part << 19), 1 << 19, false)]);
    }
    driver.kick(OUTPUT);
    // More than a socket takes is out, less than all: the worker is in the middle of a chain.
    let mut received = vec![0; 100_000];
    host.read_exact(&mut received).unwrap();
    driver.device.pause();
    let saved = driver.device.save().unwrap();
    assert!(driver.used(OUTPUT).is_none());
    assert_ne!(saved.data["queues"][1]["handler"], 0, "half a chain is out");

    // The next life has the other end of the same stream.
    let (mut next, mut ends) = restored(&driver);
    next.device.restore(&saved).unwrap();
    next.device.resume();
    let mut rest = vec![0; sent.len() - received.len()];
    // What the first life had put into its socket comes first.
    let buffered = drain(&mut host, driver);
    rest[..buffered.len()].copy_from_slice(&buffered);
    ends.read_exact(&mut rest[buffered.len()..]).unwrap();
    received.extend(rest);
    assert!(received == sent);
    for _ in 0..4 {
        assert_eq!(next.wait(OUTPUT).1, 0);
    }
    assert_eq!(next.used(OUTPUT), None);
}

fn restored(driver: &Driver) -> (Driver, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let ends = Endpoints { input: theirs.try_clone().unwrap().into(), output: theirs.into() };
    let mut next = Driver::on(driver.memory.clone(), Console::new(ends, 80, 25).unwrap());
    next.take_over(driver);
    (next, ours)
}

// Drops the first life, which closes its end, and reads what it had sent.
fn drain(host: &mut UnixStream, driver: Driver) -> Vec<u8> {
    drop(driver);
    let mut buffered = Vec::new();
    host.read_to_end(&mut buffered).unwrap();
    buffered
}

#[test]
fn a_gone_reader_does_not_stop_the_guest() {
    let (mut driver, host, _console) = console();
    driver.start(0, 2, 16);
    drop(host);
    driver.put(DATA, &[1; 100]);
    driver.post(OUTPUT, &[Piece(DATA, 100, false)]);
    driver.post(INPUT, &[Piece(DATA, 100, true)]);
    driver.kick(OUTPUT);
    driver.kick(INPUT);
    assert_eq!(driver.wait(OUTPUT).1, 0);
    driver.device.pause();
    assert_eq!(driver.used(INPUT), None);
}
