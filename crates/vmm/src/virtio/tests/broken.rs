//! Rings and chains as no driver should make them: the device asks for a reset, works after it, and nothing panics.

use crate::testing::{DATA, Driver, MemoryDisk, Piece};
use crate::virtio::bits::*;
use crate::virtio::blk::{Blk, Drive};

fn disk() -> Driver {
    let mut driver = Driver::new(Blk::new(Drive::new("disk", MemoryDisk::new(1 << 20, false))));
    driver.start(0, 1, 16);
    driver
}

/// Does `harm`, and sees that the device asks for a reset and then reads a sector again.
fn breaks<T>(what: &str, harm: impl FnOnce(&mut Driver) -> T) {
    let mut driver = disk();
    harm(&mut driver);
    driver.kick(0);
    driver.wait_vector(0);
    assert_ne!(driver.status() & STATUS_NEEDS_RESET, 0, "{what}");
    driver.kick(0);
    driver.start(0, 1, 16);
    assert_eq!(driver.status() & STATUS_NEEDS_RESET, 0, "{what}");
    driver.put(DATA, &[0; 16]);
    driver.post(0, &[Piece(DATA, 16, false), Piece(DATA + 0x1000, 512, true), Piece(DATA + 0x2000, 1, true)]);
    driver.kick(0);
    assert_eq!(driver.wait(0).1, 513, "{what}");
}

const HEADER: Piece = Piece(DATA, 16, false);
const STATUS: Piece = Piece(DATA + 0x2000, 1, true);

#[test]
fn a_readable_part_after_a_writable_one() {
    breaks("order", |driver| driver.post(0, &[HEADER, STATUS, HEADER]));
    breaks("order in a table", |driver| driver.post_indirect(0, &[STATUS, HEADER]));
}

#[test]
fn loops() {
    breaks("a descriptor that is its own next", |driver| {
        driver.descriptor(driver.ring(0), DATA, 16, 1, 0);
        driver.make_available(0, 0);
    });
    breaks("a loop of two", |driver| {
        driver.descriptor(driver.ring(0), DATA, 16, 1, 1);
        driver.descriptor(driver.ring(0) + 16, DATA, 16, 1, 0);
        driver.make_available(0, 0);
    });
    breaks("a loop in a table", |driver| {
        driver.descriptor(DATA + 0x8000, DATA, 16, 1, 1);
        driver.descriptor(DATA + 0x8010, DATA, 16, 1, 0);
        driver.post_table(0, DATA + 0x8000, 32);
    });
}

#[test]
fn indices_outside_of_their_tables() {
    breaks("a head past the table", |driver| driver.make_available(0, 16));
    breaks("a next past the table", |driver| {
        driver.descriptor(driver.ring(0), DATA, 16, 1, 16);
        driver.make_available(0, 0);
    });
    breaks("an available index that runs ahead", |driver| driver.forge_available(0, 17));
    breaks("an available index that goes back", |driver| driver.forge_available(0, 0xffff));
}

#[test]
fn tables_that_cannot_be() {
    for (table, len) in [(DATA, 0), (DATA, 15), (DATA, 24), (1 << 40, 32), (u64::MAX, 32), (DATA, 0xffff_fff0)] {
        breaks("a table", |driver| {
            driver.put(DATA, &[0; 64]);
            driver.post_table(0, table, len)
        });
    }
    breaks("a table in a table", |driver| {
        driver.descriptor(DATA + 0x8000, DATA + 0x9000, 16, 4, 0);
        driver.post_table(0, DATA + 0x8000, 16);
    });
    breaks("a table after a descriptor", |driver| {
        driver.descriptor(driver.ring(0), DATA, 16, 1, 1);
        driver.descriptor(driver.ring(0) + 16, u64::MAX, 32, 4, 0);
        driver.make_available(0, 0);
    });
}

#[test]
fn addresses_outside_of_memory() {
    for address in [1 << 24, (1 << 24) - 4, u64::MAX - 8, 1 << 63] {
        breaks("the header", |driver| driver.post(0, &[Piece(address, 16, false), STATUS]));
        breaks("the data", |driver| driver.post(0, &[HEADER, Piece(address, 512, true), STATUS]));
    }
    breaks("the status", |driver| driver.post(0, &[HEADER, Piece(1 << 30, 1, true)]));
}

#[test]
fn lengths_that_are_too_small_or_too_large() {
    breaks("a short header", |driver| driver.post(0, &[Piece(DATA, 15, false), STATUS]));
    breaks("no status", |driver| driver.post(0, &[HEADER]));
    breaks("no header", |driver| driver.post(0, &[STATUS]));
    breaks("an empty descriptor alone", |driver| driver.post(0, &[Piece(DATA, 0, false)]));
    breaks("more than 4 GiB", |driver| {
        driver.post(0, &[HEADER, Piece(DATA, u32::MAX, true), Piece(DATA, u32::MAX, true)])
    });
}

#[test]
fn the_longest_length_is_an_io_error_and_no_more() {
    let mut driver = disk();
    driver.put(DATA, &[0; 16]);
    driver.post(0, &[HEADER, Piece(DATA, 0xffff_fe00, true), Piece(DATA + 0x2000, 1, true)]);
    driver.kick(0);
    assert_eq!(driver.wait(0).1, 1);
    assert_eq!(driver.take(DATA + 0x2000, 1), [1]);
}
