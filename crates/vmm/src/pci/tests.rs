//! The root complex with ports and functions, driven as software drives it.

use std::sync::Arc;

use super::bits::*;
use super::intx::Pin;
use super::root_port::{self, RootPort};
use super::*;
use crate::chipset::direct;
use crate::device::Device;
use crate::irq::MsiMessage;
use crate::testing::{Board, FAR, NEAR, ScratchFunction, at};

fn board() -> Board {
    Board::new()
}

#[test]
fn the_chips_come_out_of_reset_with_nothing_decoded() {
    let board = board();
    assert_eq!(board.peek(at(0, 0, 0), 0), [0x86, 0x80, 0xc0, 0x29]);
    assert_eq!(board.peek(at(0, 31, 0), 0), [0x86, 0x80, 0x18, 0x29]);
    for device in [0, 31] {
        assert_eq!(board.peek(at(0, device, 0), 0x2c), [0xf4, 0x1a, 0x00, 0x11]);
    }
    assert_eq!(board.peek(at(0, 0, 0), 0x60), 0xe000_0000u32.to_le_bytes());
    assert_eq!(board.peek(at(0, 31, 0), 0x40), [1, 0, 0, 0]);
    assert_eq!(board.peek(at(0, 31, 0), 0x60), [0x80; 4]);
    assert_eq!(board.host.snapshot().ecam, None);
    assert_eq!(board.host.snapshot().pm_base, None);
    assert_eq!(board.peek(at(0, 4, 0), 0), [0xff; 4]);
}

#[test]
fn config_ports_answer_by_width_as_the_chip() {
    let board = board();
    board.select(at(0, 31, 0), 0);
    assert!(board.ports.write(0xcf8, &[0x12, 0x34]));
    assert!(board.ports.write(0xcf9, &[0x06]));
    assert_eq!(board.reset_control.written(), [6]);
    let mut byte = [0];
    board.ports.read(0xcf9, &mut byte);
    assert_eq!(byte, [0x5a]);
    let mut address = [0; 4];
    board.ports.read(0xcf8, &mut address);
    assert_eq!(address, [0, 0xf8, 0, 0x80]);
    assert_eq!(board.peek(at(0, 31, 0), 2), [0x18, 0x29]);
    assert_eq!(board.peek(at(0, 31, 0), 3), [0x29]);
    let mut straddling = [0; 4];
    board.ports.read(0xcfe, &mut straddling);
    assert_eq!(straddling, [0xff; 4]);
    board.ports.write(0xcf8, &[0, 0xf8, 0, 0]);
    let mut data = [0; 4];
    board.ports.read(0xcfc, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn ecam_shows_the_same_registers_and_moves() {
    let board = board();
    board.poke(at(0, 0, 0), 0x60, &0xb000_0001u32.to_le_bytes());
    let mut id = [0; 4];
    assert!(board.memory.read(0xb000_0000 + (31 << 15), &mut id));
    assert_eq!(id, [0x86, 0x80, 0x18, 0x29]);
    // Moved through itself.
    assert!(board.memory.write(0xb000_0060, &0xe000_0001u32.to_le_bytes()));
    assert!(!board.claimed(0xb000_0000));
    assert!(board.memory.read(0xe000_0000 + (31 << 15), &mut id));
    assert_eq!(id, [0x86, 0x80, 0x18, 0x29]);
    // Past what the processor can address.
    board.poke(at(0, 0, 0), 0x64, &[0x00, 0x01, 0, 0]);
    assert_eq!(board.host.snapshot().ecam, None);
    board.poke(at(0, 0, 0), 0x64, &[0x10, 0, 0, 0]);
    assert_eq!(board.host.snapshot().ecam, Some(Window { base: 0x10_e000_0000, len: 256 << 20 }));
    assert!(board.memory.read(0x10_e000_0000, &mut id));
}

#[test]
fn bars_decode_only_while_command_is_on_and_follow_moves() {
    let board = board();
    let near = at(0, 3, 0);
    board.poke(near, 0x18, &0xe000_0000u32.to_le_bytes());
    assert!(!board.claimed(0xe000_0000));
    board.poke(near, 0x04, &[2]);
    assert!(board.memory.write(0xe000_0010, &[7]));
    board.poke(near, 0x18, &0xe100_0000u32.to_le_bytes());
    assert!(!board.claimed(0xe000_0010));
    let mut byte = [0];
    assert!(board.memory.read(0xe100_0010, &mut byte));
    assert_eq!(byte, [7]);
    assert_eq!(board.near.placed(2), Some(0xe100_0000));
    board.poke(near, 0x04, &[0]);
    assert!(!board.claimed(0xe100_0010));
    assert_eq!(board.near.placed(2), None);
    board.poke(near, 0x1c, &[0, 0xc0]);
    board.poke(near, 0x04, &[1]);
    assert!(board.ports.write(0xc01f, &[1]));
    assert!(!board.ports.write(0xc020, &[1]));
}

#[test]
fn a_64_bit_bar_reaches_the_physical_width_and_no_further() {
    let board = board();
    let near = at(0, 3, 0);
    board.poke(near, 0x04, &[2]);
    board.poke(near, 0x10, &0xffff_c000u32.to_le_bytes());
    board.poke(near, 0x14, &[0xff, 0, 0, 0]);
    assert!(board.claimed(0xff_ffff_ffff));
    board.poke(near, 0x14, &[0, 1, 0, 0]);
    assert_eq!(board.near.placed(0), None);
    board.poke(near, 0x10, &[0xff; 4]);
    board.poke(near, 0x14, &[0xff; 4]);
    assert_eq!(board.near.placed(0), None);
}

#[test]
fn an_overlapping_bar_is_not_decoded_until_the_other_moves() {
    let board = board();
    let near = at(0, 3, 0);
    board.poke(near, 0x04, &[2]);
    board.poke(near, 0x10, &0xe000_0000u32.to_le_bytes());
    board.poke(near, 0x18, &0xe000_1000u32.to_le_bytes());
    assert_eq!((board.near.placed(0), board.near.placed(2)), (Some(0xe000_0000), None));
    board.poke(near, 0x10, &0xe800_0000u32.to_le_bytes());
    assert_eq!((board.near.placed(0), board.near.placed(2)), (Some(0xe800_0000), Some(0xe000_1000)));
}

#[test]
fn a_port_forwards_its_bus_and_windows_only() {
    let board = board();
    let port = at(0, 2, 0);
    assert_eq!(board.peek(at(1, 0, 0), 0), [0xff; 4]);
    board.poke(port, 0x18, &[0, 1, 1]);
    assert_eq!(board.peek(at(1, 0, 0), 0), [0x34, 0x12, 0x78, 0x56]);
    assert_eq!(board.peek(at(1, 1, 0), 0), [0xff; 4]);
    board.poke(at(1, 0, 0), 0x18, &0xe010_0000u32.to_le_bytes());
    board.poke(at(1, 0, 0), 0x04, &[2]);
    assert_eq!(board.far.placed(2), None);
    // Window 0xe0100000 to 0xe01fffff, then decoding on.
    board.poke(port, 0x20, &[0x10, 0xe0, 0x10, 0xe0]);
    assert_eq!(board.far.placed(2), None);
    board.poke(port, 0x04, &[2]);
    assert_eq!(board.far.placed(2), Some(0xe010_0000));
    board.poke(port, 0x20, &[0x20, 0xe0, 0x20, 0xe0]);
    assert_eq!(board.far.placed(2), None);
}

#[test]
fn a_secondary_bus_reset_resets_what_is_behind_the_port() {
    let board = board();
    let port = at(0, 2, 0);
    board.poke(port, 0x18, &[0, 1, 1]);
    board.poke(at(1, 0, 0), 0x3c, &[11]);
    board.poke(at(0, 3, 0), 0x3c, &[11]);
    board.poke(port, 0x3e, &[0x40, 0]);
    assert_eq!(board.peek(at(1, 0, 0), 0), [0xff; 4]);
    board.poke(port, 0x3e, &[0, 0]);
    assert_eq!(board.peek(at(1, 0, 0), 0x3c), [0]);
    assert_eq!(board.peek(at(0, 3, 0), 0x3c), [11]);
}

fn capability(board: &Board, function: Bdf, id: u8) -> u8 {
    let [mut next] = board.peek(function, 0x34);
    while next != 0 {
        let [found, link] = board.peek(function, next);
        if found == id {
            return next;
        }
        next = link;
    }
    panic!("no capability {id:#x}");
}

#[test]
fn a_function_level_reset_resets_one_function() {
    let board = board();
    let near = at(0, 3, 0);
    let express = capability(&board, near, CAPABILITY_EXPRESS);
    board.poke(near, 0x18, &0xe000_0000u32.to_le_bytes());
    board.poke(near, 0x04, &[2]);
    board.poke(near, express + EXPRESS_DEVICE_CONTROL as u8, &[0x10, 0xa8]);
    assert_eq!(board.peek(near, 0x04), [0]);
    assert_eq!(board.near.placed(2), None);
    assert!(!board.claimed(0xe000_0000));
}

#[test]
fn plugging_and_unplugging_show_in_the_slot_and_interrupt() {
    let board = board();
    let port = at(0, 2, 1);
    let express = capability(&board, port, CAPABILITY_EXPRESS);
    let msi = capability(&board, port, CAPABILITY_MSI);
    board.poke(port, msi + 4, &0xfee0_1000u32.to_le_bytes());
    board.poke(port, msi + 12, &[0x31, 0]);
    board.poke(port, msi + 2, &[1]);
    let wanted = SLOT_CONTROL_PRESENCE | SLOT_CONTROL_HOT_PLUG;
    board.poke(port, express + EXPRESS_SLOT_CONTROL as u8, &wanted.to_le_bytes());
    let status = |board: &Board| u16::from_le_bytes(board.peek(port, express + EXPRESS_SLOT_STATUS as u8));
    let link = |board: &Board| u16::from_le_bytes(board.peek(port, express + EXPRESS_LINK_STATUS as u8));
    assert_eq!((status(&board), link(&board)), (0, 0));

    let place = Place::behind(2, 1, 0);
    let line = board.host.line(place, Pin::A).unwrap();
    board.host.plug(place, ScratchFunction::new(place, line)).unwrap();
    let changed = SLOT_STATUS_PRESENCE_CHANGED | SLOT_STATUS_LINK_CHANGED;
    assert_eq!(status(&board), changed | SLOT_STATUS_PRESENT);
    assert_eq!(link(&board), 0x2083);
    let message = MsiMessage { address: 0xfee0_1000, data: 0x31 };
    assert_eq!(board.messages.sent(), [message]);
    board.poke(port, express + EXPRESS_SLOT_STATUS as u8, &changed.to_le_bytes());
    assert_eq!(status(&board), SLOT_STATUS_PRESENT);

    assert!(board.host.unplug_function(place));
    assert_eq!(status(&board), changed);
    assert_eq!(board.messages.sent(), [message; 2]);
    assert!(!board.host.unplug_function(place));
}

#[test]
fn plug_refuses_what_cannot_be() {
    let board = board();
    let function = || ScratchFunction::new(NEAR, board.host.line(NEAR, Pin::A).unwrap());
    assert_eq!(board.host.plug(NEAR, function()), Err(PlugError::Taken(NEAR)));
    let wild = Place::root(32, 0);
    assert_eq!(board.host.plug(wild, function()), Err(PlugError::NoSuchPlace(wild)));
    let orphan = Place::behind(7, 0, 0);
    assert_eq!(board.host.plug(orphan, function()), Err(PlugError::NoBridge(orphan)));
    let beside = Place { device: 1, ..FAR };
    assert_eq!(board.host.plug(beside, function()), Err(PlugError::NoSuchPlace(beside)));
    let behind_no_bridge = Place::behind(3, 0, 0);
    assert_eq!(board.host.plug(behind_no_bridge, function()), Err(PlugError::NoBridge(behind_no_bridge)));
    let full = (0..64).map(|_| board.host.line(NEAR, Pin::A)).find_map(Result::err);
    assert_eq!(full, Some(PlugError::WireFull(NEAR)));
    assert_eq!(board.host.line(Place::root(3, 8), Pin::A).err(), Some(PlugError::NoSuchPlace(Place::root(3, 8))));
}

#[test]
fn intx_takes_the_wire_of_the_table_and_the_pic_route_besides() {
    let board = board();
    board.near.interrupt(true);
    assert_eq!(board.levels.up(), [23]);
    let [status] = board.peek(at(0, 3, 0), 0x06);
    assert_eq!(status & STATUS_INTERRUPT as u8, STATUS_INTERRUPT as u8);
    // PIRQ H to IRQ 5.
    board.poke(at(0, 31, 0), 0x6b, &[5]);
    assert_eq!(board.levels.up(), [5, 23]);
    board.poke(at(0, 3, 0), 0x05, &[0x04]);
    assert!(board.levels.up().is_empty());
    board.poke(at(0, 3, 0), 0x05, &[0]);
    board.far.interrupt(true);
    assert_eq!(board.levels.up(), [5, 22, 23]);
    board.host.reset();
    assert!(board.levels.up().is_empty());
}

#[test]
fn the_lpc_bridge_places_its_blocks() {
    let board = board();
    let lpc = at(0, 31, 0);
    board.poke(lpc, 0x40, &[0, 0x06]);
    assert!(!board.ports.read(0x608, &mut [0; 4]));
    board.poke(lpc, 0x44, &[0x80]);
    let mut timer = [0; 4];
    assert!(board.ports.read(0x608, &mut timer));
    assert_eq!(timer, [0x5a; 4]);
    board.ports.write(0x604, &[0x34, 0x12]);
    assert_eq!(board.power_management.written(), [0x34, 0x12]);
    assert_eq!(board.host.snapshot().pm_base, Some(0x600));
    board.poke(lpc, 0x40, &[0x81, 0xb0]);
    assert_eq!(board.host.snapshot().pm_base, Some(0xb080));
    assert!(!board.ports.read(0x608, &mut timer));
    board.poke(lpc, 0xf0, &0xfed1_c001u32.to_le_bytes());
    let mut gcs = [0; 4];
    assert!(board.memory.read(0xfed1_c000 + 0x3410, &mut gcs));
    assert_eq!(gcs, [0x20, 0, 0, 0]);
}

#[test]
fn a_direct_boot_finds_everything_programmed() {
    let board = board();
    direct::program(&board.host).unwrap();
    let snapshot = board.host.snapshot();
    assert_eq!(snapshot.ecam, Some(Window { base: 0xb000_0000, len: 256 << 20 }));
    assert_eq!(snapshot.pm_base, Some(0x600));
    assert_eq!(snapshot.windows.first(), Some(&Window { base: 0x8000_0000, len: 0x3000_0000 }));
    let ports: Vec<_> = snapshot.root_ports.iter().map(|port| (port.secondary, port.slot)).collect();
    assert_eq!(ports, [(1, 1), (2, 2)]);
    for function in [&board.near, &board.far] {
        let high = function.placed(0).unwrap();
        assert!(high >= 0x1_8000_0000 && snapshot.windows[2].base <= high);
        assert!((0xc000_0000..LOW_WINDOWS_END).contains(&function.placed(2).unwrap()));
        assert!((0x1000..0x1_0000).contains(&function.placed(3).unwrap()));
        assert!(board.memory.write(high, &[1]));
    }
    assert_eq!(board.peek(at(0, 3, 0), 0x3c), [11, 1]);
    assert_eq!(board.peek(at(1, 0, 0), 0x3c), [11, 1]);
    // The empty slot has windows for what may come.
    let [base, _, limit, _] = board.peek(at(0, 2, 1), 0x20);
    assert!(base <= limit);
}

#[test]
fn a_direct_boot_says_when_devices_do_not_fit() {
    let board = board();
    for device in 4..31 {
        for function in 0..8 {
            let place = Place::root(device, function);
            let line = ScratchFunction::new(place, crate::irq::Line::alone(board.levels.clone(), 20));
            board.host.plug(place, line).unwrap();
        }
    }
    // Functions above 0 of a device without the multifunction bit are not looked at.
    direct::program(&board.host).unwrap();
    for function in 2..8 {
        let place = Place::root(2, function);
        let line = board.host.line(place, root_port::PIN).unwrap();
        board.host.plug(place, RootPort::new(place, 9, false, line, board.messages.vector())).unwrap();
        let child = Place::behind(2, function, 0);
        let line = crate::irq::Line::alone(board.levels.clone(), 20);
        board.host.plug(child, ScratchFunction::new(child, line)).unwrap();
    }
    direct::program(&board.host).unwrap();
    for device in 4..31 {
        board.host.unplug_function(Place::root(device, 0));
        let place = Place::root(device, 0);
        let line = board.host.line(place, root_port::PIN).unwrap();
        board.host.plug(place, RootPort::new(place, 9, false, line, board.messages.vector())).unwrap();
        let child = Place::behind(device, 0, 0);
        let line = crate::irq::Line::alone(board.levels.clone(), 20);
        board.host.plug(child, ScratchFunction::new(child, line)).unwrap();
    }
    let error = direct::program(&board.host).unwrap_err();
    assert_eq!(error, direct::DirectError::NoRoom { what: "I/O ports", size: 0x1000 });
}

#[test]
fn the_whole_tree_is_saved_and_restored() {
    let first = board();
    direct::program(&first.host).unwrap();
    first.far.interrupt(true);
    first.select(at(1, 0, 0), 0x10);
    let saved = first.host.save().unwrap();
    let second = board();
    second.host.restore(&saved).unwrap();
    assert_eq!(second.host.snapshot(), first.host.snapshot());
    assert_eq!(second.far.placed(0), first.far.placed(0));
    assert_eq!(second.levels.up(), first.levels.up());
    let mut data = [0; 4];
    second.ports.read(0xcfc, &mut data);
    let mut expected = [0; 4];
    first.ports.read(0xcfc, &mut expected);
    assert_eq!(data, expected);
    assert_ne!(data, [0xff; 4]);
    second.host.unplug_function(FAR);
    assert!(second.host.restore(&saved).is_err());
}

#[test]
fn nothing_that_the_host_holds_keeps_functions_alive() {
    let board = board();
    direct::program(&board.host).unwrap();
    let (function, memory) = (Arc::downgrade(&board.far), board.memory.clone());
    drop(board);
    assert!(function.upgrade().is_none());
    assert!(memory.read(0xb000_0000, &mut [0; 4]), "the claim stays, without anybody behind");
}
