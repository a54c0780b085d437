//! The network card.

use std::sync::Arc;

use crate::device::{Device, Saved};
use crate::testing::{Cable, DATA, Driver, Piece, noise};
use crate::virtio::bits::*;
use crate::virtio::net::bits::*;
use crate::virtio::net::{Card, Family, LONGEST, Large, Net, Offload, Partial, Takes, Traffic};

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const ALL: u64 = FEATURE_CSUM
    | FEATURE_GUEST_CSUM
    | FEATURE_GUEST_TSO4
    | FEATURE_GUEST_TSO6
    | FEATURE_HOST_TSO4
    | FEATURE_HOST_TSO6
    | FEATURE_MERGED_BUFFERS
    | FEATURE_STATUS
    | FEATURE_CONTROL
    | FEATURE_CONTROL_RX
    | FEATURE_CONTROL_RX_EXTRA
    | FEATURE_CONTROL_MAC
    | FEATURE_MAC
    | FEATURE_MTU;

fn card() -> (Driver, Arc<Cable>, Arc<Net>) {
    let cable = Cable::new();
    let net = Net::new(cable.clone(), MAC, 65520);
    (Driver::new(Arc::new(Card(net.clone()))), cable, net)
}

fn header(bytes: [u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
    bytes
}

/// Sends a frame and waits until it is used.
fn send(driver: &mut Driver, header: [u8; HEADER_LEN], frame: &[u8]) {
    driver.put(DATA, &header);
    driver.put(DATA + 0x100, frame);
    let mut pieces = vec![Piece(DATA, HEADER_LEN as u32, false)];
    if !frame.is_empty() {
        pieces.push(Piece(DATA + 0x100, frame.len() as u32, false));
    }
    driver.post(TRANSMIT, &pieces);
    driver.kick(TRANSMIT);
    assert_eq!(driver.wait(TRANSMIT).1, 0);
}

const PLAIN: [u8; HEADER_LEN] = [0; HEADER_LEN];

#[test]
fn the_configuration_and_the_features_are_told() {
    let (driver, _cable, net) = card();
    assert_eq!(driver.offered() & !(FEATURE_VERSION_1 | FEATURE_INDIRECT_DESC | FEATURE_EVENT_IDX), ALL);
    assert_eq!(driver.get(0x2000), [0x52, 0x54, 0, 1, 2, 3, 1, 0, 0, 0, 0xf0, 0xff]);
    net.set_link(false);
    assert_eq!(driver.get(0x2006), [0, 0]);
    assert_eq!(driver.get(0x2000 + CONFIG_LEN as u64), [0; 4]);
}

#[test]
fn frames_go_both_ways_however_they_are_cut() {
    let (mut driver, cable, net) = card();
    driver.start(ALL & !FEATURE_MERGED_BUFFERS, 3, 16);
    let frame = noise(1, 1514);
    driver.put(DATA, &[&PLAIN[..], &frame].concat());
    let whole = (HEADER_LEN + frame.len()) as u32;
    for cuts in [vec![], vec![12], vec![5, 13, 700]] {
        let ends = cuts.iter().copied().chain([whole]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let pieces: Vec<_> =
            starts.zip(ends).map(|(from, to)| Piece(DATA + u64::from(from), to - from, false)).collect();
        driver.post(TRANSMIT, &pieces);
        driver.kick(TRANSMIT);
        driver.wait(TRANSMIT);
    }
    for (sent, offload) in cable.sent(3) {
        assert!(sent == frame && offload == Offload::default());
    }
    cable.put(&frame, Offload::default());
    driver.post(RECEIVE, &[Piece(DATA + 0x8000, 12, true), Piece(DATA + 0x9000, 1600, true)]);
    driver.kick(RECEIVE);
    assert_eq!(driver.wait(RECEIVE).1, whole);
    assert_eq!(driver.take(DATA + 0x8000, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert!(driver.take(DATA + 0x9000, frame.len()) == frame);
    let bytes = frame.len() as u64;
    let counts = |packets: u64| Traffic { bytes: packets * bytes, packets, ..Traffic::default() };
    let statistics = net.statistics();
    assert_eq!((statistics.sent, statistics.received), (counts(3), counts(1)));
}

#[test]
fn a_long_frame_fills_several_buffers_that_are_used_together() {
    for features in [ALL, ALL | FEATURE_EVENT_IDX] {
        let (mut driver, cable, _net) = card();
        driver.start(features, 3, 32);
        let frame = noise(2, 10_000);
        cable.put(&frame, Offload::default());
        let buffer = |number: u64| DATA + number * 0x1000;
        // Too few: nothing is used, until there are enough.
        for number in 0..3 {
            driver.post(RECEIVE, &[Piece(buffer(number), 1500, true)]);
            driver.kick(RECEIVE);
        }
        driver.device.pause();
        assert_eq!(driver.used(RECEIVE), None);
        driver.device.resume();
        for number in 3..9 {
            driver.post(RECEIVE, &[Piece(buffer(number), 700, true), Piece(buffer(number) + 700, 800, true)]);
            driver.kick(RECEIVE);
        }
        let mut got = Vec::new();
        for number in 0..7 {
            let (_, len) = if number == 0 { driver.wait(RECEIVE) } else { driver.used(RECEIVE).unwrap() };
            assert_eq!(len, if number < 6 { 1500 } else { 12 + 10_000 - 6 * 1500 });
            got.extend(driver.take(buffer(number), len as usize));
        }
        assert_eq!(driver.used(RECEIVE), None, "the others wait for the next frame");
        assert_eq!(got[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0]);
        assert!(got[12..] == frame);
        cable.put(&frame[..60], Offload::default());
        assert_eq!(driver.wait(RECEIVE).1, 72);
    }
}

#[test]
fn buffers_that_are_joined_have_nothing_to_read() {
    let (mut driver, cable, _net) = card();
    driver.start(ALL, 3, 16);
    driver.post(RECEIVE, &[Piece(DATA, 600, true)]);
    driver.post(RECEIVE, &[Piece(DATA + 0x1000, 8, false), Piece(DATA + 0x2000, 600, true)]);
    cable.put(&noise(2, 1000), Offload::default());
    driver.kick(RECEIVE);
    driver.wait_vector(0);
    assert_ne!(driver.status() & STATUS_NEEDS_RESET, 0);
    assert_eq!(driver.used(RECEIVE), None);
}

#[test]
fn what_fits_into_no_buffer_is_dropped_and_the_next_frame_comes() {
    let (mut driver, cable, net) = card();
    driver.start(ALL & !FEATURE_MERGED_BUFFERS, 3, 16);
    driver.post(RECEIVE, &[Piece(DATA, 1526, true)]);
    driver.kick(RECEIVE);
    cable.put(&[1; 1515], Offload::default());
    cable.put(&[2; 1514], Offload::default());
    assert_eq!(driver.wait(RECEIVE).1, 1526);
    assert_eq!(driver.take(DATA + 12, 1514), [2; 1514]);
    assert_eq!(net.statistics().received.dropped, 1);
    // With merged buffers: more than the whole ring has.
    let (mut driver, cable, net) = card();
    driver.start(ALL, 3, 4);
    for number in 0..4 {
        driver.post(RECEIVE, &[Piece(DATA + number * 0x1000, 100, true)]);
    }
    driver.kick(RECEIVE);
    cable.put(&[1; 389], Offload::default());
    cable.put(&[2; 388], Offload::default());
    assert_eq!(driver.wait(RECEIVE).1, 100);
    assert_eq!(driver.take(DATA, 13)[10..], [4, 0, 2]);
    cable.put(&vec![3; LONGEST + 1], Offload::default());
    driver.post(RECEIVE, &[Piece(DATA, 100, true)]);
    driver.kick(RECEIVE);
    while cable.waiting_frames() > 0 {
        std::thread::yield_now();
    }
    driver.device.pause();
    assert_eq!(net.statistics().received.dropped, 2);
}

#[test]
fn what_is_left_to_do_is_handed_on_both_ways() {
    let (mut driver, cable, net) = card();
    driver.start(ALL, 3, 16);
    assert_eq!(cable.begun(), [Takes { checksum: true, large4: true, large6: true }]);
    let large = |family| Some(Large { family, size: 1448, headers: 66 });
    let checksum = Some(Partial { start: 34, field: 16 });
    let v4 = Offload { checksum, large: large(Family::V4), valid: false };
    send(&mut driver, header([1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]), &[4; 3000]);
    send(&mut driver, header([1, 4 | 0x80, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]), &[6; 3000]);
    send(&mut driver, header([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]), &[1; 60]);
    let sent: Vec<Offload> = cable.sent(3).into_iter().map(|(_, offload)| offload).collect();
    let v6 = Offload { large: large(Family::V6), ..v4 };
    assert_eq!(sent, [v4, v6, Offload { checksum, ..Offload::default() }]);
    for (offload, wanted) in [
        (v4, [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 1, 0]),
        (v6, [1, 4, 66, 0, 0xa8, 5, 34, 0, 16, 0, 1, 0]),
        (Offload { valid: true, ..Offload::default() }, [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
    ] {
        driver.post(RECEIVE, &[Piece(DATA, 4000, true)]);
        driver.kick(RECEIVE);
        cable.put(&[9; 3000], offload);
        assert_eq!(driver.wait(RECEIVE).1, 3012);
        assert_eq!(driver.take(DATA, 12), wanted);
    }
    assert_eq!(net.statistics().sent.errors, 0);
}

#[test]
fn what_a_driver_did_not_agree_on_is_not_done() {
    let (mut driver, cable, net) = card();
    driver.start(FEATURE_MAC, 2, 16);
    assert_eq!(cable.begun(), [Takes::default()]);
    // Checksums, segments, kinds that don't exist.
    let wrong = [
        [1, 0, 0, 0, 0, 0, 14, 0, 0, 0, 0, 0],
        [1, 1, 54, 0, 100, 0, 14, 0, 0, 0, 0, 0],
        [0, 7, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    ];
    for bytes in wrong {
        send(&mut driver, header(bytes), &[0; 60]);
    }
    assert_eq!(net.statistics().sent.errors, 3);
    let checksum = Some(Partial { start: 34, field: 16 });
    cable.put(&[1; 60], Offload { checksum, ..Offload::default() });
    cable.put(&[2; 60], Offload { valid: true, ..Offload::default() });
    driver.post(RECEIVE, &[Piece(DATA, 200, true)]);
    driver.kick(RECEIVE);
    assert_eq!(driver.wait(RECEIVE).1, 72);
    assert_eq!(driver.take(DATA, 13), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
    assert_eq!(net.statistics().received.dropped, 1);
}

#[test]
fn malformed_frames_are_counted_and_harm_nobody() {
    let (mut driver, cable, net) = card();
    driver.start(ALL, 3, 16);
    send(&mut driver, PLAIN, &[]);
    send(&mut driver, PLAIN, &[0; 13]);
    // The checksum's field is outside, the segments have no size, a large frame has no checksum.
    send(&mut driver, header([1, 0, 0, 0, 0, 0, 59, 0, 0, 0, 0, 0]), &[0; 60]);
    send(&mut driver, header([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]), &[0; 60]);
    send(&mut driver, header([1, 1, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]), &[0; 60]);
    send(&mut driver, header([0, 1, 0, 0, 9, 0, 34, 0, 16, 0, 0, 0]), &[0; 60]);
    send(&mut driver, PLAIN, &vec![0; LONGEST + 1]);
    assert_eq!(net.statistics().sent.errors, 7);
    send(&mut driver, PLAIN, &vec![7; LONGEST]);
    assert_eq!(cable.sent(1)[0].0.len(), LONGEST);
    assert_eq!(driver.status() & STATUS_NEEDS_RESET, 0);
    // A chain too short for a header is none that a driver may make.
    driver.post(TRANSMIT, &[Piece(DATA, 11, false)]);
    driver.kick(TRANSMIT);
    driver.wait_vector(0);
    assert_ne!(driver.status() & STATUS_NEEDS_RESET, 0);
}

#[test]
fn a_cable_that_is_pulled_out_is_told_and_carries_nothing() {
    let (mut driver, cable, net) = card();
    driver.start(ALL, 3, 16);
    driver.post(RECEIVE, &[Piece(DATA + 0x4000, 200, true)]);
    driver.kick(RECEIVE);
    net.set_link(false);
    driver.device.config_changed();
    driver.wait_vector(0);
    assert_eq!(driver.get(0x2006), [0, 0]);
    send(&mut driver, PLAIN, &[1; 60]);
    cable.put(&[1; 60], Offload::default());
    while cable.waiting_frames() > 0 {
        std::thread::yield_now();
    }
    net.set_link(true);
    driver.device.config_changed();
    driver.wait_vector(0);
    assert_eq!(driver.get(0x2006), [1, 0]);
    cable.put(&[2; 60], Offload::default());
    driver.wait(RECEIVE);
    assert_eq!(driver.take(DATA + 0x4000 + 12, 1), [2]);
    send(&mut driver, PLAIN, &[3; 60]);
    assert_eq!(cable.sent(1)[0].0, [3; 60]);
    let statistics = net.statistics();
    assert_eq!((statistics.sent.dropped, statistics.received.dropped), (1, 1));
}

/// Gives a control command and returns its answer.
fn command(driver: &mut Driver, bytes: &[u8]) -> u8 {
    driver.put(DATA, bytes);
    driver.put(DATA + 0x1000, &[0xee]);
    driver.post(CONTROL, &[Piece(DATA, bytes.len() as u32, false), Piece(DATA + 0x1000, 1, true)]);
    driver.kick(CONTROL);
    assert_eq!(driver.wait(CONTROL).1, 1);
    driver.take(DATA + 0x1000, 1)[0]
}

#[test]
fn control_commands_are_answered() {
    let (mut driver, _cable, net) = card();
    driver.start(ALL, 3, 16);
    for mode in 0..=RX_LAST {
        assert_eq!(command(&mut driver, &[CLASS_RX, mode, 1]), ACK_OK);
    }
    assert_eq!(command(&mut driver, &[CLASS_MAC, MAC_ADDR_SET, 2, 4, 6, 8, 10, 12]), ACK_OK);
    assert_eq!((net.mac(), driver.get(0x2000)), ([2, 4, 6, 8, 10, 12], [2, 4, 6, 8, 10, 12]));
    let mut table = vec![CLASS_MAC, MAC_TABLE_SET, 0, 0, 0, 0, 2, 0, 0, 0];
    table.extend([0x33; 12]);
    assert_eq!(command(&mut driver, &table), ACK_OK);
    table[2] = 200;
    assert_eq!(command(&mut driver, &table), ACK_ERROR);
    table[2..6].copy_from_slice(&[0xff; 4]);
    assert_eq!(command(&mut driver, &table), ACK_ERROR);
    for wrong in [&[CLASS_RX, 0][..], &[CLASS_RX, 6, 1], &[CLASS_MAC, MAC_ADDR_SET, 1], &[9, 9, 9], &[4, 0, 1, 0], &[0]]
    {
        assert_eq!(command(&mut driver, wrong), ACK_ERROR, "{wrong:?}");
    }
    assert_eq!(net.mac(), [2, 4, 6, 8, 10, 12]);
    driver.start(ALL, 3, 16);
    assert_eq!(net.mac(), MAC, "a reset brings the first address back");
}

#[test]
fn a_restored_card_goes_on_with_the_buffers_that_it_has() {
    let (mut first, cable, net) = card();
    first.start(ALL | FEATURE_EVENT_IDX, 3, 16);
    assert_eq!(command(&mut first, &[CLASS_MAC, MAC_ADDR_SET, 2, 4, 6, 8, 10, 12]), ACK_OK);
    for number in 0..4 {
        first.post(RECEIVE, &[Piece(DATA + 0x8000 + number * 0x1000, 1000, true)]);
    }
    first.kick(RECEIVE);
    cable.put(&[1; 60], Offload::default());
    first.wait(RECEIVE);
    first.device.pause();
    // What comes meanwhile waits at the network.
    cable.put(&noise(3, 2500), Offload::default());
    first.put(DATA, &[0; HEADER_LEN]);
    first.post(TRANSMIT, &[Piece(DATA, 12, false), Piece(DATA + 0x100, 60, false)]);
    first.kick(TRANSMIT);
    assert_eq!((cable.waiting_frames(), first.used(RECEIVE), first.used(TRANSMIT)), (1, None, None));
    let saved = first.device.save().unwrap();
    let saved: Saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();

    let other = Net::new(cable.clone(), MAC, 65520);
    let mut second = Driver::on(first.memory.clone(), Arc::new(Card(other.clone())));
    second.take_over(&first);
    first.device.unplug();
    drop((first, net));
    second.device.restore(&saved).unwrap();
    assert_eq!(second.device.save().unwrap(), saved);
    assert_eq!(other.mac(), [2, 4, 6, 8, 10, 12]);
    second.device.resume();
    second.wait(TRANSMIT);
    assert_eq!(cable.sent(1).len(), 1);
    assert_eq!(second.wait(RECEIVE).1, 1000);
    assert_eq!((second.used(RECEIVE).unwrap().1, second.used(RECEIVE).unwrap().1), (1000, 512));
    assert!(second.take(DATA + 0x9000 + 12, 988) == noise(3, 2500)[..988]);
}

#[test]
fn frames_under_load_come_in_order_through_pauses() {
    let (mut driver, cable, _net) = card();
    driver.start(ALL | FEATURE_EVENT_IDX, 3, 64);
    const FRAMES: u32 = 2000;
    let slot = |number: u32| DATA + u64::from(number % 32) * 0x1000;
    for number in 0..32 {
        driver.post(RECEIVE, &[Piece(slot(number), 0x800, true)]);
    }
    driver.kick(RECEIVE);
    let sender = cable.clone();
    let thread = std::thread::spawn(move || {
        for number in 0..FRAMES {
            sender.put(&[&number.to_le_bytes()[..], &[0; 100]].concat(), Offload::default());
        }
    });
    for number in 0..FRAMES {
        driver.wait(RECEIVE);
        assert_eq!(driver.take(slot(number) + 12, 4), number.to_le_bytes());
        driver.post(RECEIVE, &[Piece(slot(number), 0x800, true)]);
        driver.kick(RECEIVE);
        if number % 100 == 0 {
            driver.device.pause();
            driver.device.resume();
        }
    }
    thread.join().unwrap();
}
