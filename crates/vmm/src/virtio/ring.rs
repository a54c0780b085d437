//! A split ring in use (VIRTIO 1.2, 2.7), on top of the virtio-queue crate.
//!
//! That crate's chain iterator ends the same way at a chain's end and at a fault; the difference is made here.

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::chain::{Broken, Chain, Heads, Segments};
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
    /// Where the driver says when it wants to be called (2.7.10), with the event index or without.
    call_event: Option<GuestAddress>,
    call_flags: GuestAddress,
}

/// What there is in a ring.
pub(super) enum Gathered<'m> {
    /// A chain, or several.
    Chain(Chain<'m>),
    /// So many chains, which are too few. They are to be put back.
    Short(u16),
}

/// Bytes of a used element, and of what stands before the first one (2.7.8).
const USED_ELEMENT: u64 = 8;
const USED_HEADER: u64 = 4;
/// Flag of the available ring: no calls, please (2.7.7).
const NO_INTERRUPT: u16 = 1;

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
        let call_flags = GuestAddress(at.available);
        // It stands behind the available ring, which is checked to be in memory with it.
        let call_event = event_index.then_some(GuestAddress(at.available.checked_add(4 + 2 * u64::from(size))?));
        (at.available != 0 && queue.is_valid(&memory)).then_some(Self { queue, memory, call_event, call_flags })
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { next_available: self.queue.next_avail(), next_used: self.queue.next_used() }
    }

    /// The next chain that the driver has made available.
    pub(super) fn next(&mut self) -> Result<Option<Chain<'_>>, Broken> {
        take(&mut self.queue, &self.memory)
    }

    /// As many chains as have `room` bytes to write, joined to one; all that fit into the ring, when these have less.
    pub(super) fn gather(&mut self, room: u64) -> Result<Gathered<'_>, Broken> {
        let Some(mut all) = take(&mut self.queue, &self.memory)? else { return Ok(Gathered::Short(0)) };
        while all.writable.len() < room && all.heads.count() < self.queue.size() {
            match take(&mut self.queue, &self.memory)? {
                // Such chains are for writing alone (5.1.6.3); any number of pieces to read would heap up here.
                Some(next) if !next.readable.is_empty() => return Err(Broken::Order),
                Some(next) => all.join(next),
                None => return Ok(Gathered::Short(all.heads.count())),
            }
        }
        Ok(Gathered::Chain(all))
    }

    /// Puts the last chains back: they come again.
    pub(super) fn put_back(&mut self, count: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Gives chains back to the driver, which sees all of them or none. Says whether it wants to be called.
    pub(super) fn complete(&mut self, heads: &Heads, written: u32) -> Result<bool, Broken> {
        let before = self.queue.next_used();
        let mut next = before;
        for (head, share) in heads.shares(written.into()) {
            if head >= self.queue.size() {
                return Err(Broken::UsedRing);
            }
            let slot = u64::from(next % self.queue.size());
            let at = self.queue.used_ring().checked_add(USED_HEADER + slot * USED_ELEMENT).ok_or(Broken::UsedRing)?;
            let element = [u32::from(head).to_le(), share.to_le()];
            self.memory.write_obj(element, GuestAddress(at)).map_err(|_| Broken::UsedRing)?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        let index = self.queue.used_ring().checked_add(2).ok_or(Broken::UsedRing)?;
        self.memory.store(next.to_le(), GuestAddress(index), Ordering::Release).map_err(|_| Broken::UsedRing)?;
        // What the driver wants is read after it can see what is there (2.7.7.2).
        fence(Ordering::SeqCst);
        self.wants_call(before, next)
    }

    fn wants_call(&self, before: u16, now: u16) -> Result<bool, Broken> {
        let load = |at| self.memory.load::<u16>(at, Ordering::Relaxed).map(u16::from_le).map_err(|_| Broken::UsedRing);
        match self.call_event {
            // When the index has gone past the one that it names (2.7.10.1).
            Some(at) => Ok(now.wrapping_sub(load(at)?).wrapping_sub(1) < now.wrapping_sub(before)),
            None => Ok(load(self.call_flags)? & NO_INTERRUPT == 0),
        }
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

fn take<'m>(queue: &mut Queue, memory: &'m GuestRam) -> Result<Option<Chain<'m>>, Broken> {
    let next = queue.iter(memory).map_err(|_| Broken::AvailableRing)?.next();
    let Some(mut descriptors) = next else {
        // The iterator also ends when the index that it should read is not in memory; the ring was checked.
        return Ok(None);
    };
    let head = descriptors.head_index();
    let (mut readable, mut writable) = (Segments::new(memory), Segments::new(memory));
    let mut finished = false;
    for descriptor in &mut descriptors {
        finished = !descriptor.has_next();
        match (descriptor.is_write_only(), writable.is_empty()) {
            (true, _) => writable.push(descriptor.addr(), descriptor.len()),
            (false, true) => readable.push(descriptor.addr(), descriptor.len()),
            (false, false) => return Err(Broken::Order),
        }
    }
    let heads = Heads::new(head, writable.len());
    if finished { Ok(Some(Chain { heads, readable, writable })) } else { Err(Broken::Chain) }
}
