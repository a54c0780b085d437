//! The server's copy of the screen, which exists while clients do, and the thread that keeps it.
//!
//! The source says coarsely what may have changed; comparing with the copy finds what did, so a still screen sends
//! nothing. A still screen is looked at five times a second, a moving one thirty times; one of whose viewers has typed
//! or pointed counts as moving.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::client::Mailbox;
use crate::region::{Rect, Size, TILE};
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

pub(crate) struct Screen {
    source: Arc<dyn FrameSource>,
    clients: Mutex<Clients>,
    /// The last client went, or something is likely to change.
    news: Condvar,
    pub(crate) copy: RwLock<Copy>,
}

impl Screen {
    pub(crate) fn new(source: Arc<dyn FrameSource>) -> Arc<Self> {
        Arc::new(Self { source, clients: Mutex::default(), news: Condvar::new(), copy: RwLock::default() })
    }

    /// A new client. The first one brings the copy and its thread to life.
    pub(crate) fn attach(self: &Arc<Self>, spawn: &Spawn) -> std::io::Result<Arc<Mailbox>> {
        let mut clients = self.clients.lock();
        if !clients.watched {
            self.source.watch(true);
            self.renew(self.source.size());
            let me = self.clone();
            if let Err(error) = spawn(Box::new(move || me.look())) {
                self.forget();
                return Err(error);
            }
            clients.watched = true;
        }
        let mailbox = Arc::new(Mailbox::new(self.copy.read().size));
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
        let mut areas = Vec::new();
        loop {
            {
                let mut clients = self.clients.lock();
                self.pause(&mut clients, &mut calm);
                if clients.all.is_empty() {
                    clients.watched = false;
                    self.forget();
                    return;
                }
            }
            areas.clear();
            calm = if self.refresh(&mut areas) { 0 } else { calm.saturating_add(1) };
        }
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
    fn forget(&self) {
        self.source.watch(false);
        *self.copy.write() = Copy::default();
    }

    /// Brings the copy up to date and tells the clients. Says whether anything changed.
    fn refresh(&self, areas: &mut Vec<Rect>) -> bool {
        let size = self.source.size();
        if size != self.copy.read().size {
            self.renew(size);
            self.tell(|client| client.change(|want| want.resized(size)));
            return true;
        }
        self.source.changes(areas);
        let mut changed = Vec::new();
        for area in areas.iter() {
            self.compare(area.clip(size), &mut changed);
        }
        if changed.is_empty() {
            return false;
        }
        self.tell(|client| client.change(|want| changed.iter().for_each(|tile| want.changed(*tile))));
        true
    }

    fn renew(&self, size: Size) {
        let mut pixels = vec![0; size.area()];
        // A source that changed its size again meanwhile is found out at the next look.
        self.source.copy(size.rect(), &mut pixels);
        *self.copy.write() = Copy { size, pixels };
    }

    /// Copies a changed band into the copy, tile by tile, and notes the tiles that differ.
    fn compare(&self, area: Rect, changed: &mut Vec<Rect>) {
        let mut fresh = Vec::new();
        let mut y = area.y;
        while y < area.y + area.h {
            // One band of tiles at a time bounds the memory.
            let rows = (TILE - y % TILE).min(area.y + area.h - y);
            let band = Rect { y, h: rows, ..area };
            fresh.resize(band.w as usize * rows as usize, 0);
            if !self.source.copy(band, &mut fresh) {
                return;
            }
            self.merge(band, &fresh, changed);
            y += rows;
        }
    }

    fn merge(&self, band: Rect, fresh: &[u32], changed: &mut Vec<Rect>) {
        let mut copy = self.copy.write();
        let stride = copy.size.w as usize;
        let mut x = band.x;
        while x < band.x + band.w {
            let w = (TILE - x % TILE).min(band.x + band.w - x);
            let mut differs = false;
            for row in 0..band.h as usize {
                let from = row * band.w as usize + (x - band.x) as usize;
                let to = (band.y as usize + row) * stride + x as usize;
                let (Some(new), Some(old)) =
                    (fresh.get(from..from + w as usize), copy.pixels.get_mut(to..to + w as usize))
                else {
                    return;
                };
                if new != old {
                    old.copy_from_slice(new);
                    differs = true;
                }
            }
            if differs {
                changed.push(Rect { x, y: band.y, w, h: band.h });
            }
            x += w;
        }
    }
}
