//! Frames on their way to the guest: a queue with a limit, whose reader is the card's own thread.
//!
//! Nobody ever waits to put a frame in: what is too much is lost, as on any network. TCP asks for room before.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

impl Frames {
    fn has_room(&self) -> bool {
        self.bytes <= MOST_BYTES / 2 && self.all.len() <= MOST_FRAMES / 2
    }
}

/// The queue.
pub(super) struct Queue {
    frames: Mutex<Frames>,
    event: Arc<OwnedFd>,
    lost: AtomicU64,
    /// Somebody who could wait has found no room.
    refused: AtomicBool,
    /// Wakes whoever that was.
    wake: Arc<OwnedFd>,
}

impl Queue {
    /// A queue that signals `wake` when there is room again.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub(super) fn new(wake: Arc<OwnedFd>) -> io::Result<Self> {
        let (event, refused) = (Arc::new(event()?), AtomicBool::new(false));
        Ok(Self { frames: Mutex::default(), event, lost: AtomicU64::new(0), refused, wake })
    }

    /// Whether it is at most half full. Who asks and is told no is woken when it is.
    pub(super) fn has_room(&self) -> bool {
        let frames = self.frames.lock();
        let room = frames.has_room();
        if !room {
            self.refused.store(true, Ordering::Release);
        }
        room
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
            Some(frame) => {
                frames.bytes -= frame.bytes.len();
                if frames.has_room() && self.refused.swap(false, Ordering::AcqRel) {
                    signal(&self.wake);
                }
            }
            None => hush(&self.event),
        }
        next
    }

    pub(super) fn clear(&self) {
        *self.frames.lock() = Frames::default();
        if self.refused.swap(false, Ordering::AcqRel) {
            signal(&self.wake);
        }
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
        let wake = Arc::new(event().unwrap());
        let queue = Queue::new(wake.clone()).unwrap();
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
        assert!(!queue.has_room());
        let woken = || poll(&mut [PollFd::new(&wake, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1;
        let mut taken = 0;
        while !woken() {
            assert!(queue.take().is_some());
            taken += 60_000;
        }
        assert!(queue.has_room() && (MOST_BYTES / 2 - 60_000..MOST_BYTES).contains(&taken));
        queue.clear();
        for _ in 0..MOST_FRAMES + 5 {
            queue.put(frame(60));
        }
        assert_eq!(queue.lost(), 200 - (MOST_BYTES / 60_000) as u64 + 5);
    }
}
