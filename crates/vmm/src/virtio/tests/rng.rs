//! The entropy device.

use crate::device::Device;
use crate::testing::{DATA, Driver, Piece};
use crate::virtio::bits::FEATURE_EVENT_IDX;
use crate::virtio::rng::Rng;

fn ones(bytes: &[u8]) -> u32 {
    bytes.iter().map(|byte| byte.count_ones()).sum()
}

#[test]
fn buffers_fill_with_bytes_that_look_random() {
    let mut driver = Driver::new(Rng::new());
    driver.start(FEATURE_EVENT_IDX, 1, 16);
    driver.post(0, &[Piece(DATA, 1000, true), Piece(DATA + 0x1000, 2000, true)]);
    driver.kick(0);
    assert_eq!(driver.wait(0).1, 3000);
    let bytes = [driver.take(DATA, 1000), driver.take(DATA + 0x1000, 2000)].concat();
    // 24,000 fair coins: ten standard deviations around a half.
    assert!((11_225..12_775).contains(&ones(&bytes)), "{}", ones(&bytes));
    assert_eq!(driver.take(DATA + 1000, 8), [0; 8]);
}

#[test]
fn a_huge_or_empty_buffer_is_answered() {
    let mut driver = Driver::new(Rng::new());
    driver.start(0, 1, 16);
    driver.post(0, &[Piece(DATA, 1 << 20, true)]);
    driver.post(0, &[Piece(DATA, 64, false)]);
    driver.kick(0);
    assert_eq!(driver.wait(0).1, 4096);
    assert_eq!(driver.wait(0).1, 0);
}

#[test]
fn requests_made_while_paused_are_answered_once_by_the_restored_device() {
    let mut driver = Driver::new(Rng::new());
    driver.start(FEATURE_EVENT_IDX, 1, 16);
    driver.post(0, &[Piece(DATA, 8, true)]);
    driver.kick(0);
    assert_eq!(driver.wait(0), (0, 8));
    driver.device.pause();
    driver.post(0, &[Piece(DATA + 0x100, 16, true)]);
    driver.kick(0);
    let saved = driver.device.save().unwrap();
    let mut next = Driver::on(driver.memory.clone(), Rng::new());
    next.take_over(&driver);
    next.device.restore(&saved).unwrap();
    assert_eq!(next.device.save().unwrap(), saved);
    next.device.resume();
    assert_eq!(next.wait(0), (1, 16));
    assert_eq!(next.used(0), None);
}
