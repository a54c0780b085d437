//! What one client has asked for and has yet to be sent.
//!
//! Changes collect here as tiles while the client is slow or silent; when it is ready it gets their newest content.
//! Frames in between are lost, nothing queues.

use crate::bits::encoding;
use crate::pixel::PixelFormat;
use crate::region::{Rect, Size, Tiles};

/// A client's state between its reader (requests), the screen (changes) and its writer (updates).
pub(crate) struct Want {
    format: PixelFormat,
    encodings: Vec<i32>,
    /// The size that the client believes in.
    announced: Size,
    screen: Size,
    pending: Tiles,
    requested: Option<Rect>,
    leds: Option<u8>,
    greet_cursor: bool,
    greet_keys: bool,
    pub(crate) closed: bool,
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
    pub(crate) areas: Vec<Rect>,
}

impl Want {
    pub(crate) fn new(size: Size) -> Self {
        Self {
            format: PixelFormat::NATIVE,
            encodings: Vec::new(),
            announced: size,
            screen: size,
            pending: Tiles::none(size),
            requested: None,
            leds: None,
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
    pub(crate) fn set_encodings(&mut self, encodings: Vec<i32>, leds: Option<u8>) {
        let new = |e: i32| encodings.contains(&e) && !self.encodings.contains(&e);
        self.greet_cursor |= new(encoding::CURSOR);
        self.greet_keys |= new(encoding::QEMU_EXTENDED_KEY);
        if new(encoding::QEMU_LED_STATE) {
            self.leds = leds;
        }
        self.encodings = encodings;
    }

    pub(crate) fn request(&mut self, incremental: bool, area: Rect) {
        if !incremental {
            self.pending.mark(area);
        }
        self.requested = Some(area);
    }

    /// The screen changed there.
    pub(crate) fn changed(&mut self, area: Rect) {
        self.pending.mark(area);
    }

    /// The screen has another size; all of it is new.
    pub(crate) fn resized(&mut self, size: Size) {
        self.screen = size;
        self.pending = Tiles::none(size);
        self.pending.mark(size.rect());
    }

    pub(crate) fn leds(&mut self, leds: u8) {
        if self.encodings.contains(&encoding::QEMU_LED_STATE) {
            self.leds = Some(leds);
        }
    }

    /// The next update, if the client asked for one and there is something to say.
    pub(crate) fn next(&mut self) -> Option<Update> {
        let requested = self.requested?;
        let resizes = self.announced != self.screen && self.encodings.contains(&encoding::DESKTOP_SIZE);
        let mut update = Update {
            format: self.format,
            encodings: self.encodings.clone(),
            resize: None,
            cursor: false,
            extended_keys: false,
            leds: None,
            areas: Vec::new(),
        };
        if resizes {
            self.announced = self.screen;
            self.pending.mark(self.screen.rect());
            update.resize = Some(self.screen);
        } else {
            // A client that can't resize sees the part that fits.
            update.areas = self.pending.take(requested);
            update.areas.iter_mut().for_each(|a| *a = a.clip(self.announced));
            update.areas.retain(|a| !a.is_empty());
            update.cursor = std::mem::take(&mut self.greet_cursor);
            update.extended_keys = std::mem::take(&mut self.greet_keys);
            update.leds = self.leds.take();
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
        let flags = [self.resize.is_some(), self.cursor, self.extended_keys, self.leds.is_some()];
        self.areas.len() + flags.into_iter().filter(|f| *f).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { w: 128, h: 64 };
    const RIGHT: Rect = Rect { x: 64, y: 0, w: 64, h: 64 };

    #[test]
    fn nothing_goes_out_unasked_or_unchanged() {
        let mut want = Want::new(SIZE);
        want.changed(SIZE.rect());
        assert_eq!(want.next(), None, "not asked");
        want.request(true, SIZE.rect());
        assert_eq!(want.next().unwrap().areas, [SIZE.rect()]);
        want.request(true, SIZE.rect());
        assert_eq!(want.next(), None, "nothing changed");
        want.changed(RIGHT);
        assert_eq!(want.next().unwrap().areas, [RIGHT]);
        assert_eq!(want.next(), None, "a request is answered once");
    }

    #[test]
    fn a_full_request_gets_its_area_again() {
        let mut want = Want::new(SIZE);
        want.request(false, RIGHT);
        assert_eq!(want.next().unwrap().areas, [RIGHT]);
    }

    #[test]
    fn a_new_size_comes_alone_and_the_whole_screen_after_it() {
        let mut want = Want::new(SIZE);
        want.set_encodings(vec![encoding::DESKTOP_SIZE], None);
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
        let mut want = Want::new(SIZE);
        let all = vec![encoding::CURSOR, encoding::QEMU_EXTENDED_KEY, encoding::QEMU_LED_STATE];
        want.set_encodings(all.clone(), Some(2));
        want.request(true, SIZE.rect());
        let update = want.next().unwrap();
        assert_eq!((update.cursor, update.extended_keys, update.leds), (true, true, Some(2)));
        want.set_encodings(all, Some(2));
        want.request(true, SIZE.rect());
        assert_eq!(want.next(), None);
        want.leds(4);
        assert_eq!(want.next().unwrap().leds, Some(4));
    }
}
