//! Model clients, as slow as chance wants, and a screen that scrolls, is painted on and changes its size: whatever the
//! order, in the end each client has the screen's pixels.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::bits::encoding::{COPY_RECT, DESKTOP_SIZE, HEXTILE, RAW, ZRLE};
use crate::chance::Chance;
use crate::client::{self, Mailbox};
use crate::encoding::zrle::Zrle;
use crate::screen::{Frame, Screen};
use crate::scroll::Scroll;
use crate::viewer::Viewer;
use crate::want::State;
use crate::{FrameSource, Pointer, Rect, Size};

fn any_area(chance: &mut Chance, size: Size) -> Rect {
    let (x, y) = (chance.below(size.w), chance.below(size.h));
    Rect { x, y, w: 1 + chance.below(size.w - x), h: 1 + chance.below(size.h - y) }
}

#[derive(Default)]
struct Paper {
    size: Size,
    pixels: Vec<u32>,
    dirty: Vec<Rect>,
}

struct Source(Mutex<Paper>);

impl FrameSource for Source {
    fn size(&self) -> Size {
        self.0.lock().size
    }
    fn watch(&self, _: bool) {}
    fn changes(&self, areas: &mut Vec<Rect>) {
        areas.append(&mut self.0.lock().dirty);
    }
    fn copy(&self, area: Rect, to: &mut [u32]) -> bool {
        let paper = self.0.lock();
        let stride = paper.size.w as usize;
        for (row, to) in (area.y as usize..).zip(to.chunks_exact_mut(area.w as usize)) {
            let at = row * stride + area.x as usize;
            to.copy_from_slice(&paper.pixels[at..at + area.w as usize]);
        }
        true
    }
}

impl Paper {
    fn blank(chance: &mut Chance) -> Self {
        let size = Size { w: 64 + chance.below(200), h: 64 + chance.below(150) };
        let pixels = (0..size.area()).map(|_| chance.below(4)).collect();
        Self { size, pixels, dirty: vec![] }
    }

    fn paint(&mut self, area: Rect, chance: &mut Chance) {
        let colour = chance.below(1 << 24);
        for y in area.y..area.y + area.h {
            let at = (y * self.size.w + area.x) as usize;
            self.pixels[at..at + area.w as usize].iter_mut().for_each(|p| *p = colour ^ chance.below(2));
        }
        self.dirty.push(area);
    }

    // The whole area goes up or down, as far as may be; what comes in is new.
    fn scroll(&mut self, area: Rect, chance: &mut Chance) {
        let by = (1 + chance.below(20)).min(area.h - 1).cast_signed();
        if by == 0 {
            return;
        }
        let (kept, width) = (area.h - by.cast_unsigned(), self.size.w as usize);
        let up = if chance.below(3) == 0 { -by } else { by };
        let first = if up > 0 { area.y } else { area.y + by.cast_unsigned() };
        Scroll { to: Rect { y: first, h: kept, ..area }, up }.apply(&mut self.pixels, width);
        let fresh = if up > 0 { area.y + kept } else { area.y };
        self.paint(Rect { y: fresh, h: by.cast_unsigned(), ..area }, chance);
        self.dirty.push(area);
    }
}

/// What the server has written and the client has yet to read.
#[derive(Default)]
struct Pipe(VecDeque<u8>);

impl Read for Pipe {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

impl Write for Pipe {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(from.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Client {
    mailbox: Arc<Mailbox>,
    zrle: Option<Box<Zrle>>,
    viewer: Viewer<Pipe>,
    /// Updates on their way.
    coming: u32,
}

impl Client {
    fn new(screen: &Arc<Screen>, encodings: &[i32]) -> Self {
        let mailbox = screen.attach(&|_| Ok(())).unwrap();
        let size = screen.copy.read().size;
        let state = State { leds: None, pointer: Pointer::Absolute };
        mailbox.change(|want| want.set_encodings(encodings.to_vec(), state));
        Self { mailbox, zrle: None, viewer: Viewer::of(Pipe::default(), size), coming: 0 }
    }

    fn request(&self, incremental: bool, area: Rect) {
        self.mailbox.change(|want| want.request(incremental, area));
    }

    /// It has lost a part of its picture, and says so.
    fn lose(&mut self, area: Rect) {
        let width = self.viewer.size().w;
        for y in area.y..area.y + area.h {
            let at = (y * width + area.x) as usize;
            self.viewer.pixels_mut()[at..at + area.w as usize].fill(0xdead);
        }
        self.request(false, area);
    }

    /// As a client's writer does it.
    fn serve(&mut self, screen: &Screen) {
        let copy = screen.copy.read();
        let Some(update) = self.mailbox.due() else { return };
        let mut message = Vec::new();
        client::compose(&update, &copy.pixels, copy.size, &mut self.zrle, &mut message);
        self.viewer.stream_mut().0.extend(message);
        self.coming += 1;
    }

    fn take(&mut self) {
        if self.coming > 0 {
            self.viewer.update().unwrap();
            self.coming -= 1;
        }
    }

    // All that is left to show; a new size comes before its content.
    fn finish(&mut self, screen: &Screen) {
        while self.coming > 0 {
            self.take();
        }
        for _ in 0..3 {
            self.request(true, Rect { x: 0, y: 0, w: u32::MAX, h: u32::MAX });
            self.serve(screen);
            self.take();
        }
    }
}

const LIKES: [&[i32]; 5] = [
    &[COPY_RECT, ZRLE, DESKTOP_SIZE],
    &[HEXTILE, COPY_RECT, DESKTOP_SIZE],
    &[COPY_RECT, RAW, DESKTOP_SIZE],
    &[ZRLE, DESKTOP_SIZE],
    &[DESKTOP_SIZE],
];

/// A whole story; says how many moves were sent to each client.
fn story(seed: u64) -> Vec<u64> {
    let mut chance = Chance::new(seed);
    let source = Arc::new(Source(Mutex::new(Paper::blank(&mut chance))));
    let screen = Screen::new(source.clone());
    let mut frame = Frame::default();
    let mut clients: Vec<Client> = LIKES.iter().map(|encodings| Client::new(&screen, encodings)).collect();
    for _ in 0..chance.below(400) {
        let which = chance.below(5) as usize;
        let client = &mut clients[which];
        match chance.below(16) {
            0..4 => client.take(),
            4..7 => client.serve(&screen),
            7..9 => client.request(true, Rect { x: 0, y: 0, w: u32::MAX, h: u32::MAX }),
            9 => client.request(true, any_area(&mut chance, source.size())),
            10 if client.coming == 0 => client.lose(any_area(&mut chance, client.viewer.size())),
            11 if chance.below(20) == 0 => *source.0.lock() = Paper::blank(&mut chance),
            step => {
                let (area, all) = (any_area(&mut chance, source.size()), source.size().rect());
                let mut paper = source.0.lock();
                match step {
                    10 | 11 => paper.paint(area, &mut chance),
                    12..15 => paper.scroll(all, &mut chance),
                    _ => paper.scroll(area, &mut chance),
                }
            }
        }
        // Several steps may fall between two looks.
        if chance.below(3) == 0 {
            screen.refresh(&mut frame);
        }
    }
    // A new size is found by one look and shown by another.
    (0..2).for_each(|_| {
        screen.refresh(&mut frame);
    });
    for (client, encodings) in clients.iter_mut().zip(LIKES) {
        client.finish(&screen);
        assert_eq!(client.viewer.size(), source.size(), "seed {seed}, {encodings:?}");
        assert!(client.viewer.pixels() == source.0.lock().pixels, "seed {seed}, {encodings:?}: other pixels");
    }
    clients.iter().map(|client| client.viewer.seen().get(&COPY_RECT).copied().unwrap_or_default()).collect()
}

#[test]
fn slow_clients_have_the_screen_in_the_end() {
    let mut moves = [0; LIKES.len()];
    for seed in 0..400 {
        moves.iter_mut().zip(story(seed)).for_each(|(all, n)| *all += n);
    }
    assert!(moves[..3].iter().all(|n| *n > 500), "moves were hardly tried: {moves:?}");
    assert_eq!(moves[3..], [0, 0], "who didn't ask for moves got some");
}
