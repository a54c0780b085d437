use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::memory::{Backing, allocate};
use crate::testing::noise;

const RAM: u64 = 1 << 20;
const REQUEST: u64 = 0x1000;
const BUFFER: u64 = 0x2000;

fn device() -> (Arc<FwCfg>, GuestRam) {
    let lives = AtomicU8::new(0);
    let make: Make = Arc::new(move || vec![b'a' + lives.fetch_add(1, Ordering::Relaxed); 3]);
    let mut items = Items::default();
    items.number(0x05, Content::Fixed(2u16.to_le_bytes().into())).unwrap();
    items.number(0x8002, Content::Fixed(vec![1])).unwrap();
    items.file("opt/long", Content::Fixed(noise(7, 200_000))).unwrap();
    items.file("etc/acpi/tables", Content::Made { len: 8, make }).unwrap();
    let ram = allocate(RAM, Backing::Private).unwrap();
    (FwCfg::new(items, ram.clone()), ram)
}

fn select(device: &FwCfg, key: u16) {
    device.write(SELECTOR, &key.to_le_bytes());
}

fn read(device: &FwCfg, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; len];
    bytes.iter_mut().for_each(|byte| device.read(DATA, std::slice::from_mut(byte)));
    bytes
}

/// A request at [`REQUEST`]; gives what its control word has become.
fn request(device: &FwCfg, ram: &GuestRam, control: u32, len: u32, at: u64) -> u32 {
    let bytes = [&control.to_be_bytes()[..], &len.to_be_bytes(), &at.to_be_bytes()].concat();
    ram.write_slice(&bytes, GuestAddress(REQUEST)).unwrap();
    device.write(DMA_HIGH, &0u32.to_be_bytes());
    device.write(DMA_LOW, &(REQUEST as u32).to_be_bytes());
    let mut word = [0; 4];
    ram.read_slice(&mut word, GuestAddress(REQUEST)).unwrap();
    u32::from_be_bytes(word)
}

fn memory(ram: &GuestRam, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

#[test]
fn firmware_finds_the_device_and_its_files() {
    let (device, _) = device();
    select(&device, KEY_SIGNATURE);
    assert_eq!(read(&device, 6), b"QEMU\0\0");
    select(&device, KEY_FEATURES);
    assert_eq!(read(&device, 4), [3, 0, 0, 0]);
    let mut signature = [0; 8];
    device.read(DMA_HIGH, &mut signature);
    assert_eq!(signature, DMA_SIGNATURE);
    let mut half = [0; 4];
    device.read(DMA_LOW, &mut half);
    assert_eq!(&half, b" CFG");
    select(&device, KEY_DIRECTORY);
    let directory = read(&device, 4 + 2 * ENTRY_LEN);
    let (count, entries) = directory.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*count), 2);
    let entry = |n: usize| {
        let entry = &entries[n * ENTRY_LEN..][..ENTRY_LEN];
        let name = entry[8..].split(|byte| *byte == 0).next().unwrap().to_vec();
        let key = u16::from_be_bytes([entry[4], entry[5]]);
        (String::from_utf8(name).unwrap(), u32::from_be_bytes(*entry.first_chunk().unwrap()), key)
    };
    assert_eq!(entry(0), ("etc/acpi/tables".into(), 8, 0x20));
    assert_eq!(entry(1), ("opt/long".into(), 200_000, 0x21));
    for (key, bytes) in [(0x05, [2, 0, 0]), (0x8002, [1, 0, 0]), (0x4005, [2, 0, 0]), (0x7777, [0; 3])] {
        select(&device, key);
        assert_eq!(read(&device, 3), bytes, "{key:#x}");
    }
}

#[test]
fn a_string_instruction_reads_as_many_bytes() {
    let (device, _) = device();
    select(&device, 0x21);
    let mut bytes = vec![0xff; 5000];
    device.read(DATA, &mut bytes);
    assert!(bytes == noise(7, 200_000)[..5000] && read(&device, 4) == noise(7, 200_000)[5000..5004]);
}

#[test]
fn requests_select_skip_and_read() {
    let (device, ram) = device();
    let wanted = noise(7, 200_000);
    assert_eq!(request(&device, &ram, 0x21 << 16 | CONTROL_SELECT | CONTROL_READ, 150_000, BUFFER), 0);
    assert!(memory(&ram, BUFFER, 150_000) == wanted[..150_000]);
    assert_eq!(request(&device, &ram, CONTROL_SKIP, 40_000, 0), 0);
    assert_eq!(request(&device, &ram, CONTROL_READ, 20_000, BUFFER), 0);
    assert!(memory(&ram, BUFFER, 10_000) == wanted[190_000..]);
    assert_eq!(memory(&ram, BUFFER + 10_000, 10_000), vec![0; 10_000], "zeros behind its end");
    assert_eq!(request(&device, &ram, 0x05 << 16 | CONTROL_SELECT, 0, 0), 0);
    assert_eq!(read(&device, 2), [2, 0]);
    // The whole address in one go.
    let bytes = [&(0x05u32 << 16 | CONTROL_SELECT | CONTROL_READ).to_be_bytes()[..], &2u32.to_be_bytes()].concat();
    ram.write_slice(&[&bytes[..], &BUFFER.to_be_bytes()].concat(), GuestAddress(REQUEST)).unwrap();
    device.write(DMA_HIGH, &REQUEST.to_be_bytes());
    assert_eq!((memory(&ram, REQUEST, 4), memory(&ram, BUFFER, 2)), (vec![0; 4], vec![2, 0]));
}

#[test]
fn what_cannot_be_done_is_an_error_and_changes_no_memory() {
    let (device, ram) = device();
    select(&device, 0x21);
    let before = memory(&ram, RAM - 16, 16);
    for (control, len, at) in [
        (CONTROL_READ, 32, RAM - 16),
        (CONTROL_READ, 1, RAM),
        (CONTROL_READ, u32::MAX, 0),
        (CONTROL_READ, 16, u64::MAX - 3),
        (CONTROL_WRITE, 4, BUFFER),
    ] {
        assert_eq!(request(&device, &ram, control, len, at), CONTROL_ERROR, "{control} {len} {at:#x}");
    }
    assert_eq!(memory(&ram, RAM - 16, 16), before);
    assert!(read(&device, 4) == noise(7, 4), "it has not gone on");
    // A request that isn't in memory, or half of it.
    for address in [RAM, RAM - 8, u64::MAX, 1 << 40] {
        device.write(DMA_HIGH, &address.to_be_bytes());
    }
    assert_eq!(request(&device, &ram, 0, 0, 0), 0);
}

#[test]
fn what_is_made_is_made_once_in_each_life() {
    let (device, _) = device();
    for wanted in [b"aaa\0\0\0\0\0", b"bbb\0\0\0\0\0"] {
        for _ in 0..2 {
            select(&device, 0x20);
            assert_eq!(read(&device, 8), wanted);
        }
        device.reset();
        assert_eq!(read(&device, 1), b"Q", "the signature is selected after power-on");
    }
}

#[test]
fn a_state_comes_back() {
    let (old, ram) = device();
    select(&old, 0x20);
    assert_eq!(read(&old, 2), b"aa");
    old.write(DMA_HIGH, &7u32.to_be_bytes());
    let saved = old.save().unwrap();
    let (new, _) = device();
    select(&new, 0x20);
    select(&new, 0x05);
    new.restore(&saved).unwrap();
    assert_eq!(new.save().unwrap(), saved);
    assert_eq!(read(&new, 6), b"a\0\0\0\0\0");
    let other = FwCfg::new(Items::default(), ram);
    assert!(matches!(other.restore(&saved), Err(StateError::Impossible(_))));
}

#[test]
fn odd_accesses_read_ones_and_write_nothing() {
    let (device, _) = device();
    select(&device, 0x05);
    for offset in 0..LEN {
        for len in [0usize, 1, 2, 3, 4, 8, 9, 16] {
            let mut data = vec![0xff; len];
            if offset != DATA {
                device.read(offset, &mut data);
                let rest = data.iter().skip(LEN.saturating_sub(offset) as usize);
                assert!(offset >= DMA_HIGH || data.iter().all(|byte| *byte == 0xff));
                assert!(rest.into_iter().all(|byte| *byte == 0xff));
            }
            let words = [(SELECTOR, 2), (DMA_HIGH, 4), (DMA_LOW, 4), (DMA_HIGH, 8)];
            if !words.contains(&(offset, len)) {
                device.write(offset, &data);
            }
        }
    }
    assert_eq!(read(&device, 2), [2, 0]);
}

#[test]
fn items_that_cannot_be_are_refused() {
    let mut items = Items::default();
    let some = || Content::Fixed(vec![1]);
    for key in [KEY_SIGNATURE, KEY_FEATURES, KEY_DIRECTORY, KEY_FIRST_FILE, 0x4005, 0x3fff] {
        assert_eq!(items.number(key, some()), Err(ItemError::Key(key)));
    }
    items.number(0x0f, some()).unwrap();
    assert_eq!(items.number(0x0f, some()), Err(ItemError::Twice("the key 0xf".into())));
    for name in ["", "with a blank", "h\u{f6}lle", &"x".repeat(NAME_LEN)] {
        assert_eq!(items.file(name, some()), Err(ItemError::Name(name.into())));
    }
    items.file(&"x".repeat(NAME_LEN - 1), some()).unwrap();
    assert!(matches!(items.file(&"x".repeat(NAME_LEN - 1), some()), Err(ItemError::Twice(_))));
    let too_long = Content::Made { len: 1 << 32, make: Arc::new(Vec::new) };
    assert!(matches!(items.file("etc/e820", too_long), Err(ItemError::Room(_))));
}
