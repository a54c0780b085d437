//! Frames on their way to the guest: a queue with a limit, whose reader is the card's own thread.
//!
//! Nobody ever waits to put a frame in: what is too much is lost, as on any network, and TCP sends it again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_vmm::virtio::net::Received;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

/// Most bytes that wait.
const MOST_BYTES: usize = 8 << 20;
/// Most frames that wait.
const MOST_FRAMES: usize = 4096;

/// A descriptor that can be read once it has been signalled.
///
/// # Errors
/// When the host has no descriptor left.
pub(super) fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

/// Wakes whoever waits for it.
pub(super) fn signal(event: &OwnedFd) {
    // It only refuses when its count is full, and then the other is awake anyhow.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// Takes signals back; there may be none.
pub(super) fn hush(event: &OwnedFd) {
    let _ = rustix::io::read(event, &mut [0; 8]);
}

#[derive(Default)]
struct Frames {
    all: VecDeque<Received>,
    bytes: usize,
}

/// The queue.
pub(super) struct Queue {
    frames: Mutex<Frames>,
    event: Arc<OwnedFd>,
    lost: AtomicU64,
}

impl Queue {
    /// # Errors
    /// When the host has no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { frames: Mutex::default(), event: Arc::new(event()?), lost: AtomicU64::new(0) })
    }

    pub(super) fn put(&self, frame: Received) {
        let mut frames = self.frames.lock();
        if frames.all.len() >= MOST_FRAMES || frames.bytes + frame.bytes.len() > MOST_BYTES {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        frames.bytes += frame.bytes.len();
        frames.all.push_back(frame);
        if frames.all.len() == 1 {
            signal(&self.event);
        }
    }

    pub(super) fn take(&self) -> Option<Received> {
        let mut frames = self.frames.lock();
        let next = frames.all.pop_front();
        match &next {
            Some(frame) => frames.bytes -= frame.bytes.len(),
            None => hush(&self.event),
        }
        next
    }

    pub(super) fn clear(&self) {
        *self.frames.lock() = Frames::default();
    }

    /// Can be read while frames wait.
    pub(super) fn event(&self) -> Arc<OwnedFd> {
        self.event.clone()
    }

    /// Frames that were too many.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn frame(len: usize) -> Received {
        Received { bytes: vec![0; len], ..Received::default() }
    }

    fn is_readable(queue: &Queue) -> bool {
        let event = queue.event();
        poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn it_is_readable_while_it_has_frames_and_bounded() {
        let queue = Queue::new().unwrap();
        assert!(!is_readable(&queue));
        queue.put(frame(1));
        queue.put(frame(2));
        assert!(is_readable(&queue));
        assert_eq!((queue.take(), queue.take()), (Some(frame(1)), Some(frame(2))));
        assert_eq!((queue.take(), is_readable(&queue)), (None, false));
        for _ in 0..200 {
            queue.put(frame(60_000));
        }
        assert_eq!(queue.lost(), 200 - (MOST_BYTES / 60_000) as u64);
        queue.clear();
        for _ in 0..MOST_FRAMES + 5 {
            queue.put(frame(60));
        }
        assert_eq!(queue.lost(), 200 - (MOST_BYTES / 60_000) as u64 + 5);
    }
}
