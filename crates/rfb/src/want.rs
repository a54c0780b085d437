//! What one client has asked for and has yet to be sent.
//!
//! Changes collect here while the client is slow or silent; when it is ready it gets their newest content. Frames in
//! between are lost, nothing queues but a few moves of the picture.
//!
//! One thing holds at any time: were the client to do the waiting moves, its picture would be the server's copy but for
//! what is pending. So the copy and this are changed, and an update taken and encoded, under one lock
//! ([`Screen`](crate::screen::Screen)'s of its copy).

use crate::Pointer;
use crate::bits::encoding;
use crate::pixel::PixelFormat;
use crate::region::{Rect, Size, Tiles};
use crate::scroll::Scroll;

/// Moves that may wait for one client.
const MOST_MOVES: usize = 16;

/// A client's state between its reader (requests), the screen (changes) and its writer (updates).
pub(crate) struct Want {
    format: PixelFormat,
    encodings: Vec<i32>,
    /// The size that the client believes in.
    announced: Size,
    screen: Size,
    pending: Tiles,
    /// Moves that the client has yet to do, before it gets what is pending.
    moves: Vec<Scroll>,
    requested: Option<Rect>,
    leds: Option<u8>,
    /// What the client is to be told of the pointer.
    pointer: Option<Pointer>,
    /// It was told once that the pointer knows motion only.
    relative: bool,
    greet_cursor: bool,
    greet_keys: bool,
    pub(crate) closed: bool,
}

/// What a look at the screen found.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// What moved, in this order.
    pub(crate) moves: Vec<Scroll>,
    /// What is other than before where nothing is moved.
    pub(crate) plain: Vec<Rect>,
    /// A rectangle around all that changed or moved.
    pub(crate) around: Rect,
    /// What is other than before after the moves, if there are any.
    pub(crate) rest: Vec<Rect>,
}

/// What the server has to say of itself to a client that lists a pseudo-encoding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    /// The keyboard's lights, once the guest has set them.
    pub(crate) leds: Option<u8>,
    /// What the guest's pointer understands.
    pub(crate) pointer: Pointer,
}

/// What the writer sends next.
#[derive(Debug, PartialEq)]
pub(crate) struct Update {
    pub(crate) format: PixelFormat,
    pub(crate) encodings: Vec<i32>,
    /// The screen has a new size: sent alone, since areas of the old size mean nothing any more.
    pub(crate) resize: Option<Size>,
    pub(crate) cursor: bool,
    pub(crate) extended_keys: bool,
    pub(crate) leds: Option<u8>,
    pub(crate) pointer: Option<Pointer>,
    /// Before the areas.
    pub(crate) moves: Vec<Scroll>,
    pub(crate) areas: Vec<Rect>,
}

impl Want {
    /// Of a client that has seen nothing yet.
    pub(crate) fn new(size: Size) -> Self {
        Self {
            format: PixelFormat::NATIVE,
            encodings: Vec::new(),
            announced: size,
            screen: size,
            pending: Tiles::all(size),
            moves: Vec::new(),
            requested: None,
            leds: None,
            pointer: None,
            relative: false,
            greet_cursor: false,
            greet_keys: false,
            closed: false,
        }
    }

    /// The size that ServerInit tells the client.
    pub(crate) fn begin(&mut self, size: Size) {
        self.announced = size;
    }

    pub(crate) fn set_format(&mut self, format: PixelFormat) {
        self.format = format;
    }

    /// New encodings. Pseudo-encodings that are news to the server are answered with the next update.
    pub(crate) fn set_encodings(&mut self, encodings: Vec<i32>, state: State) {
        let new = |e: i32| encodings.contains(&e) && !self.encodings.contains(&e);
        self.greet_cursor |= new(encoding::CURSOR);
        self.greet_keys |= new(encoding::QEMU_EXTENDED_KEY);
        if new(encoding::QEMU_LED_STATE) {
            self.leds = state.leds;
        }
        let point = new(encoding::QEMU_POINTER_TYPE);
        self.encodings = encodings;
        if point {
            self.pointer(state.pointer);
        }
        if !self.encodings.contains(&encoding::COPY_RECT) {
            self.give_up_moves();
        }
    }

    pub(crate) fn request(&mut self, incremental: bool, area: Rect) {
        if !incremental {
            // It asks because it doesn't have it, so there is nothing to move either.
            self.give_up_moves();
            self.pending.mark(area);
        }
        self.requested = Some(area);
    }

    /// The screen changed.
    pub(crate) fn changed(&mut self, change: &Change) {
        let copies = self.encodings.contains(&encoding::COPY_RECT) && self.announced == self.screen;
        if change.moves.is_empty() || !copies {
            return change.plain.iter().for_each(|area| self.pending.mark(*area));
        }
        change.moves.iter().for_each(|scroll| self.moved(*scroll));
        change.rest.iter().for_each(|area| self.pending.mark(*area));
    }

    fn moved(&mut self, scroll: Scroll) {
        if self.moves.len() >= MOST_MOVES {
            self.give_up_moves();
        }
        self.pending.shift(scroll.to, scroll.up);
        self.moves.push(scroll);
    }

    // The last move is for nothing if all that it brings is sent anyway.
    fn drop_idle_moves(&mut self) {
        while self.moves.last().is_some_and(|last| self.pending.covers(last.to)) {
            self.moves.pop();
        }
    }

    // The pixels are sent in their place.
    fn give_up_moves(&mut self) {
        self.moves.drain(..).for_each(|scroll| self.pending.mark(scroll.to));
    }

    /// The screen has another size; all of it is new.
    pub(crate) fn resized(&mut self, size: Size) {
        self.screen = size;
        self.moves.clear();
        self.pending = Tiles::all(size);
    }

    pub(crate) fn leds(&mut self, leds: u8) {
        if self.encodings.contains(&encoding::QEMU_LED_STATE) {
            self.leds = Some(leds);
        }
    }

    pub(crate) fn pointer(&mut self, pointer: Pointer) {
        if self.encodings.contains(&encoding::QEMU_POINTER_TYPE) {
            self.pointer = Some(pointer);
            self.relative |= pointer == Pointer::Relative;
        }
    }

    /// Whether the client may send motion in place of positions.
    pub(crate) fn may_send_motion(&self) -> bool {
        self.relative
    }

    fn resizes(&self) -> bool {
        self.announced != self.screen && self.encodings.contains(&encoding::DESKTOP_SIZE)
    }

    /// Whether the client waits and there may be something to say.
    pub(crate) fn is_due(&self) -> bool {
        let Some(requested) = self.requested else { return false };
        self.resizes()
            || self.greet_cursor
            || self.greet_keys
            || self.leds.is_some()
            || self.pointer.is_some()
            || !self.moves.is_empty()
            || self.pending.touches(requested)
    }

    /// The next update, if the client asked for one and there is something to say.
    pub(crate) fn next(&mut self) -> Option<Update> {
        let requested = self.requested?;
        let mut update = Update {
            format: self.format,
            encodings: self.encodings.clone(),
            resize: None,
            cursor: false,
            extended_keys: false,
            leds: None,
            pointer: None,
            moves: Vec::new(),
            areas: Vec::new(),
        };
        if self.resizes() {
            self.announced = self.screen;
            self.pending.mark(self.screen.rect());
            update.resize = Some(self.screen);
        } else {
            // What lies outside of what was asked for is not touched.
            if !self.moves.iter().all(|m| requested.contains(m.to) && requested.contains(m.from())) {
                self.give_up_moves();
            }
            self.drop_idle_moves();
            update.moves = std::mem::take(&mut self.moves);
            // A client that can't resize sees the part that fits.
            update.areas = self.pending.take(requested);
            update.areas.iter_mut().for_each(|a| *a = a.clip(self.announced));
            update.areas.retain(|a| !a.is_empty());
            update.cursor = std::mem::take(&mut self.greet_cursor);
            update.extended_keys = std::mem::take(&mut self.greet_keys);
            update.leds = self.leds.take();
            update.pointer = self.pointer.take();
            if update.rects() == 0 {
                return None;
            }
        }
        self.requested = None;
        Some(update)
    }
}

impl Update {
    /// Rectangles it has on the wire.
    pub(crate) fn rects(&self) -> usize {
        let flags =
            [self.resize.is_some(), self.cursor, self.extended_keys, self.leds.is_some(), self.pointer.is_some()];
        self.moves.len() + self.areas.len() + flags.into_iter().filter(|f| *f).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { w: 128, h: 64 };
    const RIGHT: Rect = Rect { x: 64, y: 0, w: 64, h: 64 };

    const ABSOLUTE: State = State { leds: Some(2), pointer: Pointer::Absolute };

    fn plain(area: Rect) -> Change {
        Change { plain: vec![area], around: area, ..Change::default() }
    }

    /// Of a client that has seen all.
    fn settled(encodings: &[i32]) -> Want {
        let mut want = Want::new(SIZE);
        want.set_encodings(encodings.to_vec(), ABSOLUTE);
        want.request(false, SIZE.rect());
        assert_eq!(want.next().unwrap().areas, [SIZE.rect()]);
        want
    }

    #[test]
    fn nothing_goes_out_unasked_or_unchanged() {
        let mut want = Want::new(SIZE);
        assert_eq!(want.next(), None, "not asked");
        want.request(true, SIZE.rect());
        assert_eq!(want.next().unwrap().areas, [SIZE.rect()]);
        want.request(true, SIZE.rect());
        assert_eq!(want.next(), None, "nothing changed");
        want.changed(&plain(RIGHT));
        assert_eq!(want.next().unwrap().areas, [RIGHT]);
        assert_eq!(want.next(), None, "a request is answered once");
    }

    #[test]
    fn a_full_request_gets_its_area_again() {
        let mut want = settled(&[]);
        want.request(false, RIGHT);
        assert_eq!(want.next().unwrap().areas, [RIGHT]);
    }

    #[test]
    fn a_new_size_comes_alone_and_the_whole_screen_after_it() {
        let mut want = Want::new(SIZE);
        want.set_encodings(vec![encoding::DESKTOP_SIZE], ABSOLUTE);
        want.request(true, SIZE.rect());
        let bigger = Size { w: 192, h: 64 };
        want.resized(bigger);
        let update = want.next().unwrap();
        assert_eq!((update.resize, update.rects()), (Some(bigger), 1));
        want.request(true, bigger.rect());
        assert_eq!(want.next().unwrap().areas, [bigger.rect()]);
    }

    #[test]
    fn a_client_that_cannot_resize_sees_what_fits() {
        let mut want = Want::new(SIZE);
        want.resized(Size { w: 64, h: 640 });
        want.request(true, SIZE.rect());
        assert_eq!(want.next().unwrap().areas, [Rect { x: 0, y: 0, w: 64, h: 64 }]);
    }

    #[test]
    fn pseudo_encodings_are_answered_once() {
        let all =
            vec![encoding::CURSOR, encoding::QEMU_EXTENDED_KEY, encoding::QEMU_LED_STATE, encoding::QEMU_POINTER_TYPE];
        let mut want = Want::new(SIZE);
        want.set_encodings(all.clone(), ABSOLUTE);
        want.request(true, SIZE.rect());
        let update = want.next().unwrap();
        assert_eq!((update.cursor, update.extended_keys, update.leds), (true, true, Some(2)));
        assert_eq!(update.pointer, Some(Pointer::Absolute));
        want.set_encodings(all, ABSOLUTE);
        want.request(true, SIZE.rect());
        assert!(!want.is_due());
        assert_eq!(want.next(), None);
        want.leds(4);
        assert_eq!(want.next().unwrap().leds, Some(4));
        assert!(!want.may_send_motion());
        want.request(true, SIZE.rect());
        want.pointer(Pointer::Relative);
        assert!(want.is_due() && want.may_send_motion());
        assert_eq!(want.next().unwrap().pointer, Some(Pointer::Relative));
    }

    const UP: Scroll = Scroll { to: Rect { x: 0, y: 0, w: 128, h: 48 }, up: 16 };
    const BELOW: Rect = Rect { x: 0, y: 48, w: 128, h: 16 };

    fn scrolled() -> Change {
        Change { moves: vec![UP], plain: vec![SIZE.rect()], around: SIZE.rect(), rest: vec![BELOW] }
    }

    #[test]
    fn only_who_asked_for_it_gets_a_move() {
        let mut want = settled(&[encoding::RAW]);
        want.request(true, SIZE.rect());
        want.changed(&scrolled());
        let update = want.next().unwrap();
        assert_eq!((update.moves, update.areas), (vec![], vec![SIZE.rect()]));
        let mut want = settled(&[encoding::RAW, encoding::COPY_RECT]);
        want.request(true, SIZE.rect());
        want.changed(&scrolled());
        let update = want.next().unwrap();
        assert_eq!((update.moves, update.areas), (vec![UP], vec![BELOW]));
    }

    #[test]
    fn what_is_pending_moves_with_the_picture() {
        let mut want = settled(&[encoding::COPY_RECT]);
        want.changed(&plain(Rect { x: 3, y: 30, w: 5, h: 4 }));
        want.changed(&Change { rest: vec![], ..scrolled() });
        want.request(true, SIZE.rect());
        let update = want.next().unwrap();
        // It was copied from a place that the client didn't have yet, and that place is below what was copied to it.
        assert_eq!((update.moves, update.areas), (vec![UP], vec![Rect { x: 3, y: 14, w: 5, h: 4 }]));
    }

    #[test]
    fn a_move_that_a_client_cannot_do_becomes_pixels() {
        let begin = || {
            let mut want = settled(&[encoding::COPY_RECT]);
            want.changed(&scrolled());
            want
        };
        let pixels = |mut want: Want, what: &str| {
            let update = want.next().unwrap();
            assert_eq!((update.moves, update.areas), (vec![], vec![SIZE.rect()]), "{what}");
        };
        let mut want = begin();
        want.request(false, RIGHT);
        want.request(true, SIZE.rect());
        pixels(want, "it says that it lacks a part");
        let mut want = begin();
        want.set_encodings(vec![], ABSOLUTE);
        want.request(true, SIZE.rect());
        pixels(want, "it takes no moves any more");
        let mut want = begin();
        want.request(true, RIGHT);
        assert_eq!(want.next().unwrap().moves, [], "it asks for a part");
        // Nobody asks for so many; the pixels are less.
        let mut want = begin();
        (0..MOST_MOVES).for_each(|_| want.changed(&scrolled()));
        want.request(true, SIZE.rect());
        pixels(want, "they are too many");
        let mut want = Want::new(SIZE);
        want.set_encodings(vec![encoding::COPY_RECT], ABSOLUTE);
        want.changed(&scrolled());
        want.request(true, SIZE.rect());
        pixels(want, "it has seen nothing");
    }
}
