//! What has gone through a card, counted as the guest sees it.

use std::sync::atomic::{AtomicU64, Ordering};

/// One direction's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes of frames, with their Ethernet headers.
    pub bytes: u64,
    /// Frames.
    pub packets: u64,
    /// Frames that were malformed.
    pub errors: u64,
    /// Frames that went nowhere.
    pub dropped: u64,
}

/// Both directions' counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// What the guest has received.
    pub received: Traffic,
    /// What the guest has sent.
    pub sent: Traffic,
}

#[derive(Default)]
pub(super) struct Way {
    bytes: AtomicU64,
    packets: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
}

impl Way {
    pub(super) fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.packets.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn wrong(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Traffic {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            bytes: get(&self.bytes),
            packets: get(&self.packets),
            errors: get(&self.errors),
            dropped: get(&self.dropped),
        }
    }
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) received: Way,
    pub(super) sent: Way,
}

impl Counters {
    pub(super) fn read(&self) -> Statistics {
        Statistics { received: self.received.read(), sent: self.sent.read() }
    }
}
