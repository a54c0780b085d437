//! A split ring in use (VIRTIO 1.2, 2.7), on top of the virtio-queue crate.
//!
//! That crate's chain iterator ends the same way at a chain's end and at a fault; the difference is made here.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};

use super::chain::{Broken, Chain, Segments};
use crate::memory::GuestRam;

/// Where a driver has put a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// How far the device has come in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) next_available: u16,
    pub(super) next_used: u16,
}

/// A ring in use, and the memory that it is in.
pub(super) struct Ring {
    queue: Queue,
    memory: GuestRam,
}

impl Ring {
    /// Takes over a ring; `None` when it is not wholly in memory, misaligned or of a wrong size.
    pub(super) fn new(
        memory: GuestRam,
        (max_size, size): (u16, u16),
        at: &Addresses,
        progress: Progress,
        event_index: bool,
    ) -> Option<Self> {
        let state = QueueState {
            max_size,
            next_avail: progress.next_available,
            next_used: progress.next_used,
            event_idx_enabled: event_index,
            size,
            ready: true,
            desc_table: at.descriptors,
            avail_ring: at.available,
            used_ring: at.used,
        };
        let queue = Queue::try_from(state).ok()?;
        (at.available != 0 && queue.is_valid(&memory)).then_some(Self { queue, memory })
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { next_available: self.queue.next_avail(), next_used: self.queue.next_used() }
    }

    /// The next chain that the driver has made available, and the ring as well, to answer into.
    pub(super) fn next(&mut self) -> Result<Option<Chain<'_>>, Broken> {
        let next = self.queue.iter(&self.memory).map_err(|_| Broken::AvailableRing)?.next();
        let Some(mut descriptors) = next else {
            // The iterator also ends when the index that it should read is not in memory; the ring was checked.
            return Ok(None);
        };
        let head = descriptors.head_index();
        let (mut readable, mut writable) = (Segments::new(&self.memory), Segments::new(&self.memory));
        let mut finished = false;
        for descriptor in &mut descriptors {
            finished = !descriptor.has_next();
            match (descriptor.is_write_only(), writable.is_empty()) {
                (true, _) => writable.push(descriptor.addr(), descriptor.len()),
                (false, true) => readable.push(descriptor.addr(), descriptor.len()),
                (false, false) => return Err(Broken::Order),
            }
        }
        if finished { Ok(Some(Chain { head, readable, writable })) } else { Err(Broken::Chain) }
    }

    /// Puts the last chain back: it comes again.
    pub(super) fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back to the driver. Says whether the driver wants to be called.
    pub(super) fn complete(&mut self, head: u16, written: u32) -> Result<bool, Broken> {
        self.queue.add_used(&self.memory, head, written).map_err(|_| Broken::UsedRing)?;
        self.queue.needs_notification(&self.memory).map_err(|_| Broken::UsedRing)
    }

    /// Asks the driver for no kicks while the ring is being served.
    pub(super) fn hush(&mut self) -> Result<(), Broken> {
        self.queue.disable_notification(&self.memory).map_err(|_| Broken::UsedRing)
    }

    /// Asks for a kick with the next chain. Says whether one has come in the meantime.
    pub(super) fn listen(&mut self) -> Result<bool, Broken> {
        self.queue.enable_notification(&self.memory).map_err(|_| Broken::UsedRing)
    }
}
