//! Body of the fuzz target of the handshake and of clients' messages: any bytes are a client.

#![allow(clippy::unwrap_used, reason = "failing is how a finding shows")]

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use parking_lot::Mutex;

use crate::client::{self, Held, Mailbox};
use crate::encoding::bands;
use crate::handshake::{self, Door};
use crate::message::ClientMessage;
use crate::region::{Rect, Size};
use crate::scroll::Scroll;
use crate::viewer::decode;
use crate::want::{Change, State};
use crate::websocket::frame::{Control, Frames, Piece};
use crate::websocket::upgrade;
use crate::{Input, Password, Pointer, bits};

/// The screen that clients see; smaller than what they may ask for.
const SIZE: Size = Size { w: 100, h: 70 };
/// What clients are told of it.
const STATE: State = State { leds: Some(5), pointer: Pointer::Relative };
/// Full pictures that one input may ask for: what comes after repeats.
const MOST_UPDATES: usize = 64;

/// A client that says some bytes, in pieces, and hears whatever comes.
struct Wire<'a> {
    says: &'a [u8],
    piece: usize,
}

impl Read for Wire<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let len = to.len().min(self.piece);
        self.says.read(to.get_mut(..len).unwrap_or_default())
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(from.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is held down in the guest.
#[derive(Default)]
struct Fingers(Mutex<(BTreeSet<(bool, u32)>, u8)>);

impl Fingers {
    fn set(&self, key: (bool, u32), down: bool) {
        let held = &mut self.0.lock().0;
        let _ = if down { held.insert(key) } else { held.remove(&key) };
        assert!(held.len() <= 128, "a client holds {} keys", held.len());
    }
}

impl Input for Fingers {
    fn key(&self, keysym: u32, down: bool) {
        self.set((false, keysym), down);
    }
    fn scancode(&self, scancode: u32, down: bool) {
        self.set((true, scancode), down);
    }
    fn pointer(&self, _: u16, _: u16, buttons: u8) {
        self.0.lock().1 = buttons;
    }
    fn motion(&self, _: i32, _: i32, buttons: u8) {
        self.0.lock().1 = buttons;
    }
}

// Each update's count of rectangles is right as far as Raw lets one see, which has no length of its own.
fn check(message: &[u8], update_rects: usize, bytes_per_pixel: usize) {
    assert_eq!(message.get(..2).unwrap(), [bits::server::FRAMEBUFFER_UPDATE, 0]);
    let count = u16::from_be_bytes(message.get(2..4).unwrap().try_into().unwrap());
    assert!(usize::from(count) <= update_rects);
    // No encoding is longer than Raw by more than its headers, palettes included.
    let most = 2 * SIZE.area() * bytes_per_pixel + 1100 * usize::from(count) + 1024;
    assert!(message.len() <= most, "{} bytes for {count} rectangles", message.len());
}

/// Serves the client that `bytes` are, from its first byte on: the first says which door it meets and how its bytes
/// are split. 255: the rest are a server's rectangle instead; 254: a browser's request and frames.
pub fn fuzz_client(bytes: &[u8]) {
    let Some((first, says)) = bytes.split_first() else { return };
    if *first == u8::MAX {
        let mut pixels = vec![0; SIZE.area()];
        let area = Rect { x: 3, y: 2, w: 90, h: 65 };
        let _ = decode::hextile(&mut &*says, area, &mut pixels, SIZE.w as usize);
        let _ = decode::Zrle::default().decode(&mut &*says, area, &mut pixels, SIZE.w as usize);
        return;
    }
    if *first == u8::MAX - 1 {
        return fuzz_websocket(says);
    }
    let password = (first & 1 != 0).then(|| Password::new("secret").unwrap());
    let mut wire = Wire { says, piece: 1 + usize::from(first >> 2) };
    // Most inputs begin behind the door, or none would get far.
    if first & 2 == 0 {
        let door = Door { password, ..Door::default() };
        if handshake::negotiate(&mut wire, &door, "fuzz").is_err() {
            return;
        }
    }
    serve(&mut wire);
}

// Half of the inputs begin behind the request, or none would get far.
fn fuzz_websocket(bytes: &[u8]) {
    let Some((first, says)) = bytes.split_first() else { return };
    let mut wire = Wire { says, piece: 1 + usize::from(first >> 2) };
    if first & 1 == 0 && upgrade::accept(&mut wire, first & 2 != 0, |_, _| Ok(())).is_err() {
        return;
    }
    let (mut frames, mut room, mut data) = (Frames::default(), [0; 100], 0);
    while let Ok(piece) = frames.next(&mut wire, &mut room) {
        match piece {
            Piece::Data(got) => data += got,
            Piece::Control(Control::Close(text) | Control::Ping(text)) => assert!(text.len() <= 125),
            Piece::End => break,
        }
    }
    assert!(data < bytes.len(), "{data} bytes of data out of {}", bytes.len());
}

// The screen goes up by a row; the client has yet to be sent the last one.
fn scroll(mailbox: &Mailbox, pixels: &mut [u32]) {
    let (all, last) = (SIZE.rect(), SIZE.h - 1);
    let up = Scroll { to: Rect { h: last, ..all }, up: 1 };
    up.apply(pixels, SIZE.w as usize);
    let rest = vec![Rect { y: last, h: 1, ..all }];
    let change = Change { moves: vec![up], plain: vec![all], around: all, rest };
    mailbox.change(|want| want.changed(&change));
}

fn serve(wire: &mut Wire<'_>) {
    let mut pixels: Vec<u32> = (0..SIZE.area() as u32).map(|n| n.wrapping_mul(0x9e37_79b9) >> (n / 512)).collect();
    let (mailbox, fingers) = (Mailbox::new(SIZE), Fingers::default());
    let (mut held, mut zrle, mut updates) = (Held::default(), None, 0);
    handshake::server_init(wire, SIZE, "fuzz").unwrap();
    while let Ok(Some(message)) = ClientMessage::read(wire) {
        client::follow(message, &mailbox, &mut held, &fingers, || STATE);
        scroll(&mailbox, &mut pixels);
        while updates < MOST_UPDATES
            && let Some(update) = mailbox.due()
        {
            updates += 1;
            let mut message = Vec::new();
            client::compose(&update, &pixels, SIZE, &mut zrle, &mut message);
            check(
                &message,
                update.rects() + update.areas.len() * (bands::MOST_BANDS - 1),
                usize::from(update.format.bits_per_pixel / 8),
            );
        }
    }
    held.release(&fingers);
    let (keys, buttons) = &*fingers.0.lock();
    assert!(keys.is_empty() && *buttons == 0, "a client that went holds {keys:x?}, buttons {buttons}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut chance = Chance::new(seed);
        (0..len).map(|_| chance.below(256) as u8).collect()
    }

    // Messages with noise in their fields; now and then one that can't be followed.
    fn client(seed: u64) -> Vec<u8> {
        let noise = noise(seed, 512);
        let mut bytes = vec![noise[0]];
        if noise[0] & 2 == 0 {
            bytes.extend_from_slice(b"RFB 003.008\n\x01\x01");
        }
        for piece in noise[1..].chunks_exact(21) {
            let at = bytes.len();
            let (kind, len) =
                [(0, 20), (2, 16), (3, 10), (4, 8), (5, 6), (255, 12), (piece[1], 2)][usize::from(piece[0] % 7)];
            bytes.push(kind);
            bytes.extend_from_slice(&piece[1..len]);
            match (kind, len) {
                // Mostly a format that is offered.
                (0, 20) if piece[20] > 16 => bytes[at + 4..].copy_from_slice(&[
                    32,
                    24,
                    piece[5] & 1,
                    1,
                    0,
                    255,
                    0,
                    255,
                    0,
                    255,
                    16,
                    8,
                    0,
                    0,
                    0,
                    0,
                ]),
                (2, 16) => bytes[at + 1..].copy_from_slice(&[
                    0,
                    0,
                    3,
                    0,
                    0,
                    0,
                    [0, 1, 5, 16][usize::from(piece[6] % 4)],
                    0,
                    0,
                    0,
                    [1, 5, 16, 0][usize::from(piece[10] % 4)],
                    255,
                    255,
                    [254, 255][usize::from(piece[14] % 2)],
                    [255, 254, 17, 251][usize::from(piece[15] % 4)],
                ]),
                (3, 10) => bytes[at + 2..].iter_mut().step_by(2).for_each(|high| *high = 0),
                (255, 12) => bytes[at + 1] = 0,
                _ => {}
            }
        }
        bytes
    }

    // Frames that are mostly as they must be.
    fn frames(seed: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in noise(seed, 400).chunks_exact(24) {
            let (kind, len) = ([0x82, 0x02, 0x80, 0x89, 0x8a, piece[1]][usize::from(piece[0] % 6)], piece[2] % 14);
            bytes.extend([kind, 0x80 | if piece[3] == 0 { piece[4] } else { len }]);
            bytes.extend_from_slice(&piece[4..8 + usize::from(len)]);
        }
        bytes
    }

    #[test]
    fn a_client_that_says_anything_finds_nothing() {
        for seed in 0..3000 {
            fuzz_client(&client(seed));
            fuzz_client(&noise(seed, (seed % 700) as usize));
            fuzz_client(&[&[254, 1], &frames(seed)[..]].concat());
            fuzz_client(&[&[255], &noise(seed, 300)[..]].concat());
        }
    }
}
