//! The card as a driver and a viewer see it, without KVM.

use std::io;

use super::*;
use crate::memory::slots::{Slot, SlotTable};
use crate::pci::bits::COMMAND;

/// A kernel that shows slots and logs nothing: what is written comes by the bus.
#[derive(Default)]
struct Table(Mutex<Vec<Slot>>);

#[allow(unsafe_code)]
impl SlotTable for Table {
    // SAFETY: (contract of the trait) nothing here touches the memory.
    unsafe fn set(&self, slot: Slot) -> io::Result<()> {
        let mut all = self.0.lock();
        all.retain(|s| s.number != slot.number);
        if slot.len > 0 {
            all.push(slot);
        }
        Ok(())
    }
    fn take_dirty(&self, _number: u32, len: u64) -> io::Result<Vec<u64>> {
        Ok(vec![0; (len / 4096).div_ceil(64) as usize])
    }
}

fn card() -> (Arc<Display>, Arc<Table>) {
    let table = Arc::new(Table::default());
    let slots = Arc::new(Slots::new(table.clone(), 8));
    (Display::new(Place::root(1, 0), VideoMemory::new().unwrap(), slots), table)
}

fn dispi(card: &Display, register: usize, value: usize) {
    card.region_write(REGISTER_FILE, DISPI + register as u64 * 2, &(value as u16).to_le_bytes());
}

fn set_mode(card: &Display, width: usize, height: usize, bpp: usize) {
    use super::bits::dispi::*;
    for (register, value) in [(ENABLE, 0), (XRES, width), (YRES, height), (BPP, bpp), (ENABLE, 0x41)] {
        dispi(card, register, value);
    }
}

fn areas(card: &Display) -> Vec<Area> {
    let mut areas = Vec::new();
    card.changes(&mut areas);
    areas
}

fn pixel(card: &Display, x: u32, y: u32) -> u32 {
    let mut one = [0];
    assert!(card.copy(Area { x, y, w: 1, h: 1 }, &mut one));
    one[0]
}

#[test]
fn a_driver_finds_the_card_by_its_registers() {
    let (card, _) = card();
    let read = |offset: u64, len: usize| {
        let mut data = vec![0; len];
        card.region_read(REGISTER_FILE, offset, &mut data);
        data
    };
    assert_eq!(read(DISPI, 2), [0xc5, 0xb0]);
    assert_eq!(read(DISPI + 20, 2), [0, 1], "256 times 64 KiB");
    assert_eq!(read(EDID, 128), edid::block());
    assert_eq!(read(EDID + 128, 2), [0, 0], "no extension");
    assert_eq!(read(EXTENDED, 8), [8, 0, 0, 0, 0x1e, 0x1e, 0x1e, 0x1e]);
    let mut ids = [0; 4];
    card.config_read(0, &mut ids);
    assert_eq!(ids, [0x34, 0x12, 0x11, 0x11]);
}

#[test]
fn what_is_drawn_is_seen_and_logged() {
    let (card, table) = card();
    card.region_placed(FRAMEBUFFER, Some(0xe000_0000));
    assert_eq!(table.0.lock().len(), 1);
    assert!(!table.0.lock()[0].log, "nobody watches");
    set_mode(&card, 1280, 800, 32);
    assert_eq!(card.size(), (1280, 800));
    card.watch(true);
    assert!(table.0.lock()[0].log);
    areas(&card);
    assert_eq!(areas(&card), []);
    card.region_write(FRAMEBUFFER, 5120 * 100 + 40, &[0x33, 0x22, 0x11, 0]);
    assert_eq!(areas(&card), [Area { x: 0, y: 100, w: 1280, h: 1 }]);
    assert_eq!(areas(&card), []);
    assert_eq!(pixel(&card, 10, 100), 0x112233);
    card.watch(false);
    assert!(!table.0.lock()[0].log);
}

#[test]
fn modes_and_blanking_change_the_whole_picture() {
    let (card, _) = card();
    card.region_placed(FRAMEBUFFER, Some(0xe000_0000));
    assert_eq!((card.size(), pixel(&card, 719, 399)), ((720, 400), 0));
    set_mode(&card, 640, 480, 32);
    card.watch(true);
    areas(&card);
    card.region_write(FRAMEBUFFER, 0, &[1, 0, 0, 0]);
    set_mode(&card, 800, 600, 32);
    assert_eq!(areas(&card), [Area { x: 0, y: 0, w: 800, h: 600 }]);
    assert_eq!(pixel(&card, 0, 0), 0, "a new mode begins black");
    card.region_write(FRAMEBUFFER, 0, &[1, 0, 0, 0]);
    card.region_write(REGISTER_FILE, VGA, &[0]);
    assert_eq!(pixel(&card, 0, 0), 0, "blanked");
    assert_eq!(areas(&card), [Area { x: 0, y: 0, w: 800, h: 600 }]);
    card.region_write(REGISTER_FILE, VGA, &[0]);
    card.region_write(REGISTER_FILE, VGA, &[0x20]);
    assert_eq!(pixel(&card, 0, 0), 1);
}

#[test]
fn the_bar_may_move_while_somebody_watches() {
    let (card, table) = card();
    card.region_placed(FRAMEBUFFER, Some(0xe000_0000));
    set_mode(&card, 1280, 800, 32);
    card.watch(true);
    areas(&card);
    card.region_placed(FRAMEBUFFER, None);
    assert!(table.0.lock().is_empty());
    card.region_placed(FRAMEBUFFER, Some(0xd000_0000));
    let slot = table.0.lock()[0];
    assert!(slot.guest == 0xd000_0000 && slot.log);
    assert_eq!(areas(&card).len(), 1, "a viewer looks at all of it once");
    assert_eq!(areas(&card), []);
}

#[test]
fn a_boot_screen_is_the_monitors_preferred_mode() {
    let (card, _) = card();
    assert_eq!(card.set_boot_screen(), None, "no address yet");
    card.region_placed(FRAMEBUFFER, Some(0xe000_0000));
    let screen = card.set_boot_screen().unwrap();
    assert_eq!((screen.base, screen.width, screen.height), (0xe000_0000, 1280, 800));
    assert_eq!(card.size(), (1280, 800));
}

#[test]
fn copies_outside_the_picture_are_refused() {
    let (card, _) = card();
    set_mode(&card, 640, 480, 32);
    let mut to = vec![0; 640 * 480];
    assert!(card.copy(Area { x: 0, y: 0, w: 640, h: 480 }, &mut to));
    assert!(!card.copy(Area { x: 1, y: 0, w: 640, h: 480 }, &mut to));
    assert!(!card.copy(Area { x: u32::MAX, y: 0, w: 2, h: 1 }, &mut to[..2]));
    assert!(!card.copy(Area { x: 0, y: 0, w: 2, h: 1 }, &mut to[..1]));
    assert!(card.copy(Area { x: 640, y: 480, w: 0, h: 0 }, &mut []));
}

#[test]
fn saved_and_restored_it_shows_the_same() {
    let (card, _) = card();
    card.config_write(COMMAND, &[2, 0]);
    set_mode(&card, 1024, 768, 16);
    card.region_write(FRAMEBUFFER, 0, &[0x00, 0xf8]);
    card.region_write(REGISTER_FILE, VGA + 8, &[9]);
    let saved = card.save().unwrap();
    let slots = Arc::new(Slots::new(Arc::new(Table::default()), 8));
    let other = Display::new(Place::root(1, 0), card.memory.clone(), slots);
    other.restore(&saved).unwrap();
    assert_eq!(other.save().unwrap(), saved);
    assert_eq!((other.size(), pixel(&other, 0, 0)), ((1024, 768), 0xff0000));
    other.reset();
    assert_eq!(other.size(), (720, 400));
}

#[test]
fn no_access_of_any_width_or_place_harms() {
    let (card, _) = card();
    let mut seed = 3u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    for _ in 0..50_000 {
        let offset = random() % (REGISTERS + 16);
        let mut data = random().to_le_bytes();
        let len = 1 + random() as usize % 8;
        card.region_write(REGISTER_FILE, offset, &data[..len]);
        card.region_read(REGISTER_FILE, offset, &mut data[..len]);
        card.region_write(FRAMEBUFFER, (VIDEO_MEMORY as u64 + 8).saturating_sub(random() % 64), &data[..len]);
    }
    let (w, h) = card.size();
    assert!(card.copy(Area { x: 0, y: 0, w, h: 1 }, &mut vec![0; w as usize]));
    assert!(h > 0);
}
