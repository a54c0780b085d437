//! The server's copy of the screen, which exists while clients do, and the thread that keeps it.
//!
//! The source says coarsely what may have changed; comparing with the copy finds what did, so a still screen sends
//! nothing, and what moved, so that clients needn't be sent it again. A still screen is looked at five times a second, a
//! moving one thirty times; one of whose viewers has typed or pointed counts as moving.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard};

use crate::client::Mailbox;
use crate::region::{Rect, Size, TILE};
use crate::scroll::{self, Scroll};
use crate::want::Change;
use crate::{FrameSource, Spawn};

const STILL: Duration = Duration::from_millis(200);
const MOVING: Duration = Duration::from_millis(33);
/// Looks without a change before the slow pace comes back.
const CALM: u32 = 15;

#[derive(Default)]
pub(crate) struct Copy {
    pub(crate) size: Size,
    pub(crate) pixels: Vec<u32>,
}

#[derive(Default)]
struct Clients {
    all: Vec<Arc<Mailbox>>,
    /// A thread is looking.
    watched: bool,
    /// Something is likely to change soon.
    expecting: bool,
}

/// Locks are taken in this order: the copy, the clients, a client's want.
pub(crate) struct Screen {
    source: Arc<dyn FrameSource>,
    clients: Mutex<Clients>,
    /// The last client went, or something is likely to change.
    news: Condvar,
    /// Written to only together with telling all clients what changed.
    pub(crate) copy: RwLock<Copy>,
}

impl Screen {
    pub(crate) fn new(source: Arc<dyn FrameSource>) -> Arc<Self> {
        Arc::new(Self { source, clients: Mutex::default(), news: Condvar::new(), copy: RwLock::default() })
    }

    /// A new client. The first one brings the copy and its thread to life.
    pub(crate) fn attach(self: &Arc<Self>, spawn: &Spawn) -> std::io::Result<Arc<Mailbox>> {
        let mut copy = self.copy.write();
        let mut clients = self.clients.lock();
        if !clients.watched {
            self.source.watch(true);
            *copy = self.fresh(self.source.size());
            let me = self.clone();
            if let Err(error) = spawn(Box::new(move || me.look())) {
                self.forget(&mut copy);
                return Err(error);
            }
            clients.watched = true;
        }
        let mailbox = Arc::new(Mailbox::new(copy.size));
        clients.all.push(mailbox.clone());
        Ok(mailbox)
    }

    /// A client went.
    pub(crate) fn detach(&self, mailbox: &Arc<Mailbox>) {
        let mut clients = self.clients.lock();
        clients.all.retain(|c| !Arc::ptr_eq(c, mailbox));
        if clients.all.is_empty() {
            self.news.notify_all();
        }
    }

    /// A client has typed or pointed: what answers it shouldn't wait for the slow pace.
    pub(crate) fn expect(&self) {
        let mut clients = self.clients.lock();
        if !std::mem::replace(&mut clients.expecting, true) {
            self.news.notify_all();
        }
    }

    /// Tells all clients.
    pub(crate) fn tell(&self, what: impl Fn(&Mailbox)) {
        self.clients.lock().all.iter().for_each(|c| what(c));
    }

    fn look(&self) {
        let mut calm = 0;
        let mut frame = Frame::default();
        loop {
            let alone = {
                let mut clients = self.clients.lock();
                self.pause(&mut clients, &mut calm);
                clients.all.is_empty()
            };
            if alone && self.ends() {
                return;
            }
            calm = if self.refresh(&mut frame) { 0 } else { calm.saturating_add(1) };
        }
    }

    // The last client went, and no other has come meanwhile.
    fn ends(&self) -> bool {
        let mut copy = self.copy.write();
        let mut clients = self.clients.lock();
        if clients.all.is_empty() {
            clients.watched = false;
            self.forget(&mut copy);
        }
        !clients.watched
    }

    // Waits for the time of the next look. An expectation ends the slow wait, but hurries no look beyond the fast pace.
    fn pause(&self, clients: &mut MutexGuard<'_, Clients>, calm: &mut u32) {
        if *calm >= CALM && !clients.all.is_empty() && !clients.expecting {
            self.news.wait_for(clients, STILL);
        }
        if std::mem::take(&mut clients.expecting) {
            *calm = 0;
        }
        let until = Instant::now() + MOVING;
        while *calm < CALM && !clients.all.is_empty() && !self.news.wait_until(clients, until).timed_out() {}
    }

    // Under the clients' lock, so that a new first client finds either all or nothing.
    fn forget(&self, copy: &mut RwLockWriteGuard<'_, Copy>) {
        self.source.watch(false);
        **copy = Copy::default();
    }

    // A source that changes its size again meanwhile is found out at the next look.
    fn fresh(&self, size: Size) -> Copy {
        let mut pixels = vec![0; size.area()];
        self.source.copy(size.rect(), &mut pixels);
        Copy { size, pixels }
    }

    /// Brings the copy up to date and tells the clients. Says whether anything changed.
    pub(crate) fn refresh(&self, frame: &mut Frame) -> bool {
        let size = self.source.size();
        if size != self.copy.read().size {
            let fresh = self.fresh(size);
            *frame = Frame::default();
            let mut copy = self.copy.write();
            *copy = fresh;
            self.tell(|client| client.change(|want| want.resized(size)));
            return true;
        }
        // Nobody else writes while clients are there.
        let change = {
            let copy = self.copy.read();
            frame.follow(&copy);
            let mut areas = Vec::new();
            self.source.changes(&mut areas);
            let mut plain = Vec::new();
            for area in areas {
                let rows = frame.read(area, &*self.source, &copy);
                differences(&copy, frame, rows, &mut plain);
            }
            let Some(around) = plain.iter().copied().reduce(Rect::around) else { return false };
            let moves = scroll::find(&copy.pixels, &frame.pixels, size.w, around);
            Change { moves, plain, around, rest: Vec::new() }
        };
        self.adopt(frame, change);
        true
    }

    fn adopt(&self, frame: &Frame, mut change: Change) {
        let mut copy = self.copy.write();
        let width = copy.size.w as usize;
        change.moves.iter().for_each(|scroll| scroll.apply(&mut copy.pixels, width));
        // What moved is right already.
        for rows in beside(&change.moves, change.around) {
            differences(&copy, frame, rows, &mut change.rest);
        }
        for area in if change.moves.is_empty() { &change.plain } else { &change.rest } {
            for y in area.y..area.y + area.h {
                let at = y as usize * width + area.x as usize;
                let row = at..at + area.w as usize;
                if let (Some(to), Some(from)) = (copy.pixels.get_mut(row.clone()), frame.pixels.get(row)) {
                    to.copy_from_slice(from);
                }
            }
        }
        self.tell(|client| client.change(|want| want.changed(&change)));
    }
}

/// The rows of `area` that no move of some has written; none when there are no moves.
fn beside(moves: &[Scroll], area: Rect) -> Vec<Rect> {
    let mut written: Vec<Rect> = moves.iter().map(|scroll| scroll.to).collect();
    written.sort_by_key(|to| to.y);
    let (mut rows, mut next) = (Vec::new(), area.y);
    for to in written.iter().chain(&[Rect { y: area.y + area.h, h: 0, ..area }]) {
        if to.y > next {
            rows.push(Rect { y: next, h: to.y - next, ..area });
        }
        next = to.y + to.h;
    }
    if moves.is_empty() { Vec::new() } else { rows }
}

/// The screen as a look finds it. Between looks the same as the copy.
#[derive(Default)]
pub(crate) struct Frame {
    size: Size,
    pixels: Vec<u32>,
}

impl Frame {
    // A first look, or one after another size.
    fn follow(&mut self, copy: &Copy) {
        if self.size != copy.size || self.pixels.len() != copy.pixels.len() {
            *self = Self { size: copy.size, pixels: copy.pixels.clone() };
        }
    }

    /// Reads the rows of an area, in whole, and says which: none if the source doesn't have them any more.
    fn read(&mut self, area: Rect, source: &dyn FrameSource, copy: &Copy) -> Rect {
        let rows = Rect { x: 0, w: self.size.w, ..area.clip(self.size) };
        let first = rows.y as usize * rows.w as usize;
        let range = first..first + rows.h as usize * rows.w as usize;
        let (Some(to), Some(old)) = (self.pixels.get_mut(range.clone()), copy.pixels.get(range)) else {
            return Rect::default();
        };
        if rows.is_empty() || source.copy(rows, to) {
            return rows;
        }
        to.copy_from_slice(old);
        Rect::default()
    }
}

/// Adds the smallest box of each tile of `area` around what differs there.
fn differences(copy: &Copy, frame: &Frame, area: Rect, found: &mut Vec<Rect>) {
    let width = copy.size.w as usize;
    let mut boxes: Vec<Option<Rect>> = vec![None; (copy.size.w.div_ceil(TILE)) as usize];
    for y in area.y..area.y + area.h {
        let at = y as usize * width;
        let row = at + area.x as usize..at + (area.x + area.w) as usize;
        let (Some(old), Some(new)) = (copy.pixels.get(row.clone()), frame.pixels.get(row)) else { return };
        if old != new {
            compare_row(old, new, area.x, y, &mut boxes);
        }
        if (y + 1).is_multiple_of(TILE) || y + 1 == area.y + area.h {
            found.extend(boxes.iter_mut().filter_map(Option::take));
        }
    }
}

fn compare_row(old: &[u32], new: &[u32], first: u32, y: u32, boxes: &mut [Option<Rect>]) {
    let mut x = first;
    let end = first + old.len() as u32;
    while x < end {
        let next = ((x / TILE + 1) * TILE).min(end);
        let part = (x - first) as usize..(next - first) as usize;
        let (Some(old), Some(new), Some(held)) =
            (old.get(part.clone()), new.get(part), boxes.get_mut((x / TILE) as usize))
        else {
            return;
        };
        let differ = |(a, b): (&u32, &u32)| a != b;
        if let Some(left) = old.iter().zip(new).position(differ) {
            let right = old.iter().zip(new).rposition(differ).unwrap_or(left);
            let strip = Rect { x: x + left as u32, y, w: (right - left) as u32 + 1, h: 1 };
            *held = Some(held.map_or(strip, |held| held.around(strip)));
        }
        x = next;
    }
}
