//! Writes to PCI's CONFIG_ADDRESS, for which a scan of configuration space needn't leave the guest.
//!
//! KVM can keep them in a ring, and every access to CONFIG_DATA that follows is an exit that empties it. But what KVM
//! keeps is told by ports alone: a write of one byte to 0xcf9, reset control, lies among them. A guest that asks for a
//! reset there and then spins, or halts with interrupts off, would never leave, and nobody would look. So writes are
//! kept only while a guest goes through configuration space, and a keeper looks into the ring meanwhile: a reset is
//! late by [`QUIET`] at most. An idle guest costs no wake-up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::arch::x86_64::coalesced::CoalescedPorts;
use crate::bus::Bus;
use crate::thread::{Role, spawn};

/// Two writes that are no farther apart are a scan.
const DENSE: Duration = Duration::from_millis(50);

/// A scan is over when nothing has been kept for so long.
const QUIET: Duration = Duration::from_millis(300);

struct State {
    kept: CoalescedPorts,
    /// The last write that left the guest.
    last: Option<Instant>,
    /// Something has been kept since the keeper last looked.
    used: bool,
    leaving: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Whether the ring may hold writes. Set before the first one can be kept, cleared after the last one was done.
    open: AtomicBool,
    changed: Condvar,
    ports: Arc<Bus>,
}

/// The ring and its keeper.
pub(super) struct ConfigRing {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

impl ConfigRing {
    pub fn new(kept: CoalescedPorts, ports: Arc<Bus>) -> io::Result<Self> {
        let state = State { kept, last: None, used: false, leaving: false };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), open: AtomicBool::new(false), changed: Condvar::new(), ports });
        let keeps = shared.clone();
        let keeper = spawn(Role::Main, move || keeps.keep())?;
        Ok(Self { shared, keeper: Some(keeper) })
    }

    /// Does the writes that were kept. They come before whatever a processor left the guest for.
    pub fn catch_up(&self) {
        if self.shared.open.load(Ordering::Acquire) {
            self.shared.empty(&mut self.shared.state.lock());
        }
    }

    /// A write to CONFIG_ADDRESS has left the guest.
    pub fn missed(&self) {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let before = state.last.replace(Instant::now());
        if shared.open.load(Ordering::Acquire) || before.is_none_or(|before| before.elapsed() > DENSE) {
            return;
        }
        // First, because another processor's write may be kept before the call returns.
        shared.open.store(true, Ordering::Release);
        if state.kept.open() {
            state.used = true;
            shared.changed.notify_one();
        } else {
            shared.open.store(false, Ordering::Release);
        }
    }
}

impl Shared {
    // The lock is held, so that writes are done in their order whoever does them.
    fn empty(&self, state: &mut State) {
        while let Some(write) = state.kept.take() {
            state.used = true;
            self.ports.write(write.port, write.data());
        }
    }

    fn keep(&self) {
        let mut state = self.state.lock();
        while !state.leaving {
            if !self.open.load(Ordering::Acquire) {
                self.changed.wait(&mut state);
                continue;
            }
            self.changed.wait_for(&mut state, QUIET);
            self.empty(&mut state);
            if !std::mem::take(&mut state.used) && state.kept.close() {
                // What was kept between the look and the close.
                self.empty(&mut state);
                self.open.store(false, Ordering::Release);
            }
        }
    }
}

impl Drop for ConfigRing {
    fn drop(&mut self) {
        self.shared.state.lock().leaving = true;
        self.shared.changed.notify_one();
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            log::error!("the configuration ring's keeper has panicked");
        }
    }
}
