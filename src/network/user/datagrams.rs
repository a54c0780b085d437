//! The guest's datagrams: crate pktkit ends them on sockets of the host. The one place that knows it.
//!
//! It is there while the guest has flows and goes afterwards, with its threads. A panic in it costs the flows, not the
//! machine.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pktkit::fragment::{Fragmentation, fragment};
use pktkit::slirp::{DestFilter, Stack};
use pktkit::{L3Device, Packet};

use super::addresses::Reach;

/// Who has the answers.
pub(super) trait User: Send + Sync + 'static {
    /// A packet for the guest.
    fn deliver(&self, packet: &[u8]);
    /// It runs from now on.
    fn started(&self);
}

struct Running(Arc<Stack>);

impl Drop for Running {
    fn drop(&mut self) {
        // A stack that has panicked may do so again; it is gone either way.
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.shutdown()));
    }
}

/// All flows of a card; the stack behind them may run or not.
pub(super) struct Datagrams {
    label: String,
    mtu: u16,
    reach: Reach,
    user: Weak<dyn User>,
    running: Mutex<Option<Arc<Running>>>,
    failed: AtomicBool,
}

impl Datagrams {
    pub(super) fn new(label: &str, mtu: u16, reach: Reach, user: Weak<dyn User>) -> Self {
        Self { label: label.into(), mtu, reach, user, running: Mutex::default(), failed: AtomicBool::new(false) }
    }

    fn running(&self) -> io::Result<Arc<Running>> {
        let mut running = self.running.lock();
        if let Some(running) = &*running {
            return Ok(running.clone());
        }
        let new = running.insert(Arc::new(self.start()?)).clone();
        drop(running);
        if let Some(user) = self.user.upgrade() {
            user.started();
        }
        Ok(new)
    }

    fn start(&self) -> io::Result<Running> {
        let reach = self.reach;
        let filter: DestFilter = Arc::new(move |to: SocketAddr, _| reach.allows(to.ip()));
        let stack = Stack::new();
        stack.set_mtu(self.mtu.into())?;
        stack.set_dest_filter(Some(filter));
        let user = self.user.clone();
        stack.set_handler(Arc::new(move |packet: &Packet| {
            if let Some(user) = user.upgrade() {
                user.deliver(packet.as_bytes());
            }
            Ok(())
        }));
        Ok(Running(stack))
    }

    /// Hands a packet of the guest's on. Code that isn't ours may panic; then it is made anew, without its flows.
    pub(super) fn send(&self, packet: &[u8]) -> bool {
        let send = || self.running()?.0.send(Packet::from_slice(packet));
        let sent = catch_unwind(AssertUnwindSafe(send)).unwrap_or_else(|_| {
            log::error!("{}: the user network failed; the guest's UDP flows are lost, new ones work", self.label);
            self.failed.store(true, Ordering::Release);
            self.stop();
            Err(io::Error::other("the user network failed"))
        });
        sent.is_ok()
    }

    /// Whether it has panicked.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether it runs.
    pub(super) fn is_running(&self) -> bool {
        self.running.lock().is_some()
    }

    /// Ends all flows.
    pub(super) fn stop(&self) {
        // Dropped after the lock: what ends may still deliver packets.
        let running = self.running.lock().take();
        drop(running);
    }
}

/// A packet in pieces that fit the link; none when it can't be cut.
pub(super) fn pieces(packet: Vec<u8>, mtu: u16) -> Vec<Vec<u8>> {
    match fragment(Packet::from_slice(&packet), mtu.into()) {
        Fragmentation::Fits => vec![packet],
        Fragmentation::Fragments(all) => all,
        Fragmentation::DontFragment | Fragmentation::NotFragmentable => Vec::new(),
    }
}
