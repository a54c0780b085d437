//! The engine: crate pktkit, which ends the guest's TCP and UDP on sockets of the host. The one place that knows it.
//!
//! It is there while the guest has connections and goes afterwards, with its threads. A panic in it costs the
//! connections, not the machine.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kiln_vmm::thread::{Role, spawn};
use parking_lot::Mutex;
use pktkit::fragment::{Fragmentation, fragment};
use pktkit::slirp::{DestFilter, Stack, TcpStream};
use pktkit::vclient::{Client, ClientConfig};
use pktkit::vtcp::Tuning;
use pktkit::{IpPrefix, L3Device, Packet};

use super::addresses::{DNS, DNS6, GATEWAY, GUEST, PREFIX, may_reach};
use super::pipe::Stream;

/// How long the guest may take to accept a connection that comes from the host's side.
const DIAL: Duration = Duration::from_secs(10);

/// What the engine is used by.
pub(super) trait User: Send + Sync + 'static {
    /// A packet for the guest.
    fn deliver(&self, packet: &[u8]);
    /// The guest has opened a connection to the name server.
    fn asks_by_tcp(self: Arc<Self>, stream: Arc<dyn Stream>);
    /// It runs from now on.
    fn started(&self);
}

struct Running {
    stack: Arc<Stack>,
    /// Connections from the host's side come from the gateway's address.
    client: Arc<Client>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let end = || {
            let _ = self.stack.shutdown();
            let _ = self.client.close();
        };
        // A stack that has panicked may do so again; it is gone either way.
        let _ = catch_unwind(AssertUnwindSafe(end));
    }
}

/// The engine, which may run or not.
pub(super) struct Engine {
    role: Role,
    label: String,
    mtu: u16,
    reach: Reach,
    user: Weak<dyn User>,
    running: Mutex<Option<Arc<Running>>>,
    failed: AtomicBool,
}

/// Where the engine may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// To whatever guests may reach.
    pub(super) outside: bool,
    /// To the host's loopback, for which the gateway stands.
    pub(super) loopback: bool,
}

/// Who is to have a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// Connections that the guest opens.
    Outside,
    /// Connections that came from the host's side.
    Inward,
}

impl Engine {
    pub(super) fn new(role: Role, label: &str, mtu: u16, reach: Reach, user: Weak<dyn User>) -> Self {
        Self { role, label: label.into(), mtu, reach, user, running: Mutex::default(), failed: AtomicBool::new(false) }
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
        let Reach { outside, loopback } = self.reach;
        let filter: DestFilter =
            Arc::new(move |to: SocketAddr, _| outside && may_reach(to.ip()) || loopback && to.ip().is_loopback());
        let stack = Stack::new();
        stack.set_mtu(self.mtu.into())?;
        stack.set_dest_filter(Some(filter));
        // The guest is a memory copy away: nothing is gained by spreading segments in time.
        let tuning = Tuning::default().pacing(false);
        stack.set_tcp(tuning.clone());
        let handler = || {
            let user = self.user.clone();
            Arc::new(move |packet: &Packet| {
                if let Some(user) = user.upgrade() {
                    user.deliver(packet.as_bytes());
                }
                Ok(())
            })
        };
        stack.set_handler(handler());
        self.listen(&stack)?;
        let prefix = IpPrefix::new(IpAddr::V4(GATEWAY), PREFIX);
        let client = Client::new(ClientConfig::default().prefix(prefix).mtu(self.mtu.into()).tcp(tuning));
        client.set_handler(handler());
        Ok(Running { stack, client })
    }

    // The name server's TCP port. The threads end with the stack.
    fn listen(&self, stack: &Arc<Stack>) -> io::Result<()> {
        type Accept = Box<dyn Fn() -> Option<TcpStream> + Send>;
        let (v4, v6) = (stack.listen("tcp4", &format!("{DNS}:53"))?, stack.listen6(&format!("[{DNS6}]:53"))?);
        let accepts: [Accept; 2] = [Box::new(move || v4.accept().ok()), Box::new(move || v6.accept().ok())];
        for accept in accepts {
            let user = self.user.clone();
            spawn(self.role, move || {
                while let (Some(stream), Some(user)) = (accept(), user.upgrade()) {
                    user.asks_by_tcp(Arc::new(stream));
                }
            })?;
        }
        Ok(())
    }

    // Does something that may panic in foreign code. Then the engine is made anew, without its connections.
    fn guarded<T>(&self, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|_| {
            log::error!("{}: the user network failed; the guest's connections are lost, new ones work", self.label);
            self.failed.store(true, Ordering::Release);
            self.stop();
            Err(io::Error::other("the user network failed"))
        })
    }

    /// Hands a packet of the guest's on.
    pub(super) fn send(&self, packet: &[u8], to: To) -> bool {
        let sent = self.guarded(|| {
            let running = self.running()?;
            let packet = Packet::from_slice(packet);
            match to {
                To::Outside => running.stack.send(packet),
                To::Inward => running.client.send(packet),
            }
        });
        sent.is_ok()
    }

    /// Opens a connection to a port of the guest's.
    ///
    /// # Errors
    /// When the guest refuses it or doesn't answer.
    pub(super) fn dial(&self, port: u16) -> io::Result<Arc<dyn Stream>> {
        self.guarded(|| {
            let client = self.running()?.client.clone();
            let stream = client.dial_tcp_timeout(SocketAddr::new(GUEST.into(), port), DIAL)?;
            Ok(Arc::new(stream) as Arc<dyn Stream>)
        })
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

    /// Ends all connections.
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
