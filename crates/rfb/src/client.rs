//! One client: a thread that reads what it wants, and one that writes what it gets.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};

use parking_lot::{Condvar, Mutex};

use crate::bits::{encoding, server};
use crate::encoding::{Encoder, Pixels, bands, zrle::Zrle};
use crate::handshake::wire;
use crate::message::ClientMessage;
use crate::region::{Rect, Size};
use crate::screen::Screen;
use crate::want::{State, Update, Want};
use crate::{Input, Pointer};

/// Where reader, screen and writer of one client meet.
pub(crate) struct Mailbox {
    want: Mutex<Want>,
    news: Condvar,
}

impl Mailbox {
    pub(crate) fn new(size: Size) -> Self {
        Self { want: Mutex::new(Want::new(size)), news: Condvar::new() }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Want)) {
        change(&mut self.want.lock());
        self.news.notify_one();
    }

    pub(crate) fn close(&self) {
        self.change(|want| want.closed = true);
    }

    /// The update that is due now, if there is one.
    pub(crate) fn due(&self) -> Option<Update> {
        self.want.lock().next()
    }

    /// Waits until an update may be due; says no when the client is gone.
    fn wait(&self) -> bool {
        let mut want = self.want.lock();
        while !want.closed && !want.is_due() {
            self.news.wait(&mut want);
        }
        !want.closed
    }

    fn may_send_motion(&self) -> bool {
        self.want.lock().may_send_motion()
    }
}

/// Follows a client's messages until it goes.
///
/// # Errors
/// When the stream fails or can't be followed any more.
pub(crate) fn read(
    stream: impl Read,
    mailbox: &Mailbox,
    input: &dyn Input,
    state: impl Fn() -> State,
) -> io::Result<()> {
    let mut from = BufReader::with_capacity(4096, stream);
    let mut held = Held::default();
    let outcome = loop {
        match ClientMessage::read(&mut from) {
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
            Ok(Some(message)) => follow(message, mailbox, &mut held, input, &state),
        }
    };
    held.release(input);
    outcome
}

/// Does what a message asks for.
pub(crate) fn follow(
    message: ClientMessage,
    mailbox: &Mailbox,
    held: &mut Held,
    input: &dyn Input,
    state: impl Fn() -> State,
) {
    match message {
        ClientMessage::SetPixelFormat(format) => mailbox.change(|want| want.set_format(format)),
        ClientMessage::SetEncodings(all) => mailbox.change(|want| want.set_encodings(all, state())),
        ClientMessage::UpdateRequest { incremental, area } => mailbox.change(|want| want.request(incremental, area)),
        ClientMessage::Pointer { buttons, x, y } => {
            let motion = x.min(y) >= MOTION && mailbox.may_send_motion();
            held.point(if motion { Place::Motion } else { Place::At(x, y) }, buttons);
            if motion {
                input.motion(i32::from(x) - NO_MOTION, i32::from(y) - NO_MOTION, buttons);
            } else {
                input.pointer(x, y, buttons);
            }
        }
        other => held.pass_on(other, input),
    }
}

/// rfbproto, "QEMU Pointer Motion Change Pseudo-encoding": what a client that was told of it sends for no motion.
const NO_MOTION: i32 = 0x7fff;
/// Least coordinates that are motion. A client goes on sending positions until it hears that motion is wanted, and motion
/// until it hears the contrary; no screen is as wide, and no hand as fast, that they could be mistaken.
const MOTION: u16 = 0x4000;

/// Where a client pointed last.
#[derive(Clone, Copy)]
enum Place {
    At(u16, u16),
    Motion,
}

/// What a client holds down; released when it goes, or the guest would see it held for ever.
#[derive(Default)]
pub(crate) struct Held {
    keysyms: BTreeSet<u32>,
    scancodes: BTreeSet<u32>,
    pointer: Option<(Place, u8)>,
}

/// Keys that a client may hold at once; a person has ten fingers.
const MOST_HELD: usize = 64;

impl Held {
    fn pass_on(&mut self, message: ClientMessage, input: &dyn Input) {
        match message {
            ClientMessage::ExtendedKey { down, keysym, scancode: 0 } => {
                self.pass_on(ClientMessage::Key { down, keysym }, input);
            }
            ClientMessage::Key { down, keysym } if note(&mut self.keysyms, keysym, down) => input.key(keysym, down),
            ClientMessage::ExtendedKey { down, scancode, .. } if note(&mut self.scancodes, scancode, down) => {
                input.scancode(scancode, down);
            }
            _ => {}
        }
    }

    fn point(&mut self, place: Place, buttons: u8) {
        self.pointer = Some((place, buttons));
    }

    /// Lets go of everything.
    pub(crate) fn release(self, input: &dyn Input) {
        self.keysyms.into_iter().for_each(|key| input.key(key, false));
        self.scancodes.into_iter().for_each(|key| input.scancode(key, false));
        match self.pointer {
            Some((Place::At(x, y), 1..)) => input.pointer(x, y, 0),
            Some((Place::Motion, 1..)) => input.motion(0, 0, 0),
            _ => {}
        }
    }
}

// Says whether the event is passed on: repeats are, keys past the bound aren't.
fn note(held: &mut BTreeSet<u32>, key: u32, down: bool) -> bool {
    if !down {
        held.remove(&key);
        return true;
    }
    if held.len() >= MOST_HELD && !held.contains(&key) {
        return false;
    }
    held.insert(key);
    true
}

/// Sends updates until the client goes.
///
/// # Errors
/// When the stream fails.
pub(crate) fn write(stream: &mut impl Write, mailbox: &Mailbox, screen: &Screen) -> io::Result<()> {
    let mut zrle: Option<Box<Zrle>> = None;
    let mut message = Vec::new();
    while mailbox.wait() {
        message.clear();
        {
            // Taken and encoded under the lock under which the screen changes both copy and wants. Released before
            // anything is written: a client that doesn't read holds up nobody.
            let copy = screen.copy.read();
            let Some(update) = mailbox.due() else { continue };
            compose(&update, &copy.pixels, copy.size, &mut zrle, &mut message);
        }
        stream.write_all(&message)?;
        stream.flush()?;
        message.shrink_to(1 << 16);
    }
    Ok(())
}

/// Appends the message of an update. `zrle` is the client's compressor, once it has one.
pub(crate) fn compose(update: &Update, pixels: &[u32], size: Size, zrle: &mut Option<Box<Zrle>>, to: &mut Vec<u8>) {
    let mut encoder = Encoder::choose(&update.encodings, zrle);
    encode(update, pixels, size, &mut encoder, to);
    if let Encoder::Zrle(kept) = encoder {
        *zrle = Some(kept);
    }
}

fn encode(update: &Update, pixels: &[u32], size: Size, encoder: &mut Encoder, to: &mut Vec<u8>) {
    to.extend_from_slice(&[server::FRAMEBUFFER_UPDATE, 0]);
    let pixels = Pixels { pixels, stride: size.w as usize };
    let mut areas = Vec::with_capacity(update.areas.len());
    for area in &update.areas {
        match encoder {
            Encoder::Zrle(_) => bands::split(pixels, *area, &mut areas),
            _ => areas.push(*area),
        }
    }
    let count = update.rects() - update.areas.len() + areas.len();
    to.extend_from_slice(&(count as u16).to_be_bytes());
    if update.cursor {
        rect(Rect::default(), encoding::CURSOR, to);
    }
    if update.extended_keys {
        rect(size.rect(), encoding::QEMU_EXTENDED_KEY, to);
    }
    if let Some(leds) = update.leds {
        rect(Rect { x: 0, y: 0, w: 1, h: 1 }, encoding::QEMU_LED_STATE, to);
        to.push(leds);
    }
    if let Some(pointer) = update.pointer {
        rect(Rect { x: u32::from(pointer == Pointer::Absolute), y: 0, ..size.rect() }, encoding::QEMU_POINTER_TYPE, to);
    }
    for scroll in &update.moves {
        rect(scroll.to, encoding::COPY_RECT, to);
        let from = scroll.from();
        [from.x, from.y].into_iter().for_each(|n| to.extend_from_slice(&wire(n).to_be_bytes()));
    }
    for area in areas {
        rect(area, encoder.number(), to);
        encoder.encode(pixels, area, &update.format, to);
    }
    if let Some(size) = update.resize {
        rect(size.rect(), encoding::DESKTOP_SIZE, to);
    }
}

fn rect(area: Rect, encoding: i32, to: &mut Vec<u8>) {
    for n in [area.x, area.y, area.w, area.h] {
        to.extend_from_slice(&wire(n).to_be_bytes());
    }
    to.extend_from_slice(&encoding.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixel::PixelFormat;
    use crate::scroll::Scroll;

    fn update() -> Update {
        Update {
            format: PixelFormat::NATIVE,
            encodings: vec![],
            resize: None,
            cursor: false,
            extended_keys: false,
            leds: None,
            pointer: None,
            moves: vec![],
            areas: vec![],
        }
    }

    fn bytes(update: &Update) -> Vec<u8> {
        let mut to = Vec::new();
        encode(update, &[0x010203, 0x040506], Size { w: 2, h: 1 }, &mut Encoder::Raw, &mut to);
        to
    }

    #[test]
    fn an_update_is_these_bytes() {
        let area = Rect { x: 1, y: 0, w: 1, h: 1 };
        let wire = bytes(&Update { areas: vec![area], ..update() });
        assert_eq!(wire, [0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 6, 5, 4, 0]);
    }

    #[test]
    fn pseudo_rectangles_are_these_bytes() {
        let wire = bytes(&Update { cursor: true, extended_keys: true, leds: Some(5), ..update() });
        assert_eq!(
            wire,
            [
                [0, 0, 0, 3].as_slice(),
                &[0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 0x11],
                &[0, 0, 0, 0, 0, 2, 0, 1, 255, 255, 254, 254],
                &[0, 0, 0, 0, 0, 1, 0, 1, 255, 255, 254, 251, 5],
            ]
            .concat()
        );
        let wire = bytes(&Update { resize: Some(Size { w: 1280, h: 800 }), ..update() });
        assert_eq!(wire, [0, 0, 0, 1, 0, 0, 0, 0, 5, 0, 3, 0x20, 255, 255, 255, 0x21]);
    }

    #[test]
    fn a_move_comes_before_the_areas() {
        let moves = vec![Scroll { to: Rect { x: 1, y: 2, w: 3, h: 4 }, up: 0x105 }];
        let wire = bytes(&Update { moves, areas: vec![Rect { x: 0, y: 0, w: 1, h: 1 }], ..update() });
        assert_eq!(
            wire,
            [
                [0, 0, 0, 2].as_slice(),
                &[0, 1, 0, 2, 0, 3, 0, 4, 0, 0, 0, 1, 0, 1, 1, 7],
                &[0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 3, 2, 1, 0],
            ]
            .concat()
        );
    }

    #[test]
    fn the_pointers_type_is_these_bytes() {
        for (pointer, x) in [(Pointer::Absolute, 1), (Pointer::Relative, 0)] {
            let wire = bytes(&Update { pointer: Some(pointer), ..update() });
            assert_eq!(wire, [0, 0, 0, 1, 0, x, 0, 0, 0, 2, 0, 1, 255, 255, 254, 255]);
        }
    }
}
