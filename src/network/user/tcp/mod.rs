//! The guest's TCP connections: each ends in this process, and goes on over a socket of the host's.
//!
//! TCP's rules are smoltcp's. Each connection has a link of its own, so that one costs the others nothing. Nobody waits
//! in here: a connection has its turn when the guest sends it a packet (on the card's thread), and when its socket has
//! changed or its time has come (on the clerk's).

mod connection;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kiln_vmm::virtio::net::Takes;
use parking_lot::{Mutex, MutexGuard};
use rustix::event::{Timespec, epoll};
use smoltcp::iface::SocketSet;
use smoltcp::phy::DeviceCapabilities;
use smoltcp::wire::IpAddress;

pub(super) use self::connection::reset;
use self::connection::{Connection, Fate, Now, interface};
pub(super) use self::wire::Sink;
use self::wire::{Wire, capabilities};
use super::addresses::{GATEWAY, GUEST};
use super::flows::Key;
use super::{packet, queue};
use crate::network::Protocol;

/// Ports of the gateway that stand for whoever connects from the host's side (RFC 6335, 6).
const PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// Changes of sockets that are looked at in one go.
const EVENTS: usize = 64;
/// How many times in a row.
const ROUNDS: usize = 4;
/// Never, in the units of [`Entry::due`].
const NEVER: u64 = u64::MAX;

struct Entry {
    key: Key,
    number: u64,
    connection: Mutex<Option<Connection>>,
    /// When it has its next turn at the latest, in microseconds since the beginning.
    due: AtomicU64,
    stalled: AtomicBool,
}

#[derive(Default)]
struct Table {
    by_key: HashMap<Key, Arc<Entry>>,
    by_number: HashMap<u64, Arc<Entry>>,
    last: u64,
    next_port: u16,
}

/// All connections of a card.
pub(super) struct Connections {
    label: String,
    table: Mutex<Table>,
    mtu: u16,
    can: Mutex<DeviceCapabilities>,
    epoll: OwnedFd,
    beginning: Instant,
    /// Until when the clerk sleeps, as [`Entry::due`].
    sleeps_until: AtomicU64,
    /// Wakes the clerk.
    wake: Arc<OwnedFd>,
    failed: AtomicBool,
}

impl Connections {
    /// # Errors
    /// When the host has no descriptor left.
    pub(super) fn new(label: &str, mtu: u16, wake: Arc<OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            label: label.into(),
            table: Mutex::default(),
            mtu,
            can: Mutex::new(capabilities(mtu, Takes::default())),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            beginning: Instant::now(),
            sleeps_until: AtomicU64::new(0),
            wake,
            failed: AtomicBool::new(false),
        })
    }

    /// Another driver: ends all connections, and goes by what it takes.
    pub(super) fn begin(&self, takes: Takes) {
        *self.can.lock() = capabilities(self.mtu, takes);
        self.stop();
    }

    /// Ends all connections. The guest isn't told: it is gone, or another one.
    pub(super) fn stop(&self) {
        let all = {
            let mut table = self.table.lock();
            table.by_number.clear();
            std::mem::take(&mut table.by_key)
        };
        for entry in all.values() {
            if let Some(connection) = entry.connection.lock().take() {
                reset(connection.stream());
            }
        }
    }

    /// Whether there is such a connection.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.table.lock().by_key.contains_key(key)
    }

    /// Takes a packet of the guest's. One that opens a connection leads to the first of `to` that can be connected.
    pub(super) fn take(&self, packet: &[u8], key: Key, flags: u8, to: Vec<SocketAddr>, sink: &dyn Sink) {
        // Others can't be spoken for.
        if !IpAddress::from(key.other.ip()).is_unicast() {
            return;
        }
        // Nor can port 0, which is none.
        if key.guest.port() == 0 || key.other.port() == 0 {
            return;
        }
        let opens = packet::opens(flags);
        let known = self.table.lock().by_key.get(&key).cloned();
        if let Some(entry) = known
            && !(opens && self.retires(&entry))
        {
            return self.turn(&entry, Some(packet), sink, |_| {});
        }
        if opens && !to.is_empty() {
            // Held until it stands in the table: another driver ends it there, or it begins with that one's.
            let can = self.can.lock();
            if let Some(connection) = Connection::outward(key, VecDeque::from(to), &can, sink, self.now()) {
                return self.begin_one(key, connection, Some(packet), can, sink);
            }
        }
        sink.ended(key);
        self.refuse(packet, key, sink);
    }

    // Whether a connection gives way to another between the same ports, whose place it has then had. Its guest has
    // forgotten it.
    fn retires(&self, entry: &Arc<Entry>) -> bool {
        let mut place = entry.connection.lock();
        if place.as_ref().is_some_and(|connection| !connection.is_past_opening()) {
            return false;
        }
        if let Some(connection) = place.take() {
            reset(connection.stream());
        }
        drop(place);
        self.forget(entry);
        true
    }

    // Says whether it was the one between its ports.
    fn forget(&self, entry: &Arc<Entry>) -> bool {
        let mut table = self.table.lock();
        table.by_number.remove(&entry.number);
        let is_its = table.by_key.get(&entry.key).is_some_and(|other| Arc::ptr_eq(other, entry));
        if is_its {
            table.by_key.remove(&entry.key);
        }
        is_its
    }

    /// Connects somebody from the host's side to a port of the guest's. The connection is reset when the guest refuses.
    pub(super) fn dial(&self, stream: TcpStream, port: u16, sink: &dyn Sink) {
        let own = self.free_port().filter(|_| stream.set_nonblocking(true).is_ok());
        let Some(own) = own else { return reset(&stream) };
        let _ = stream.set_nodelay(true);
        let (guest, other) = (SocketAddr::new(GUEST.into(), port), SocketAddr::new(GATEWAY.into(), own));
        let key = Key { protocol: Protocol::Tcp, guest, other };
        let can = self.can.lock();
        if let Some(connection) = Connection::inward(key, stream, &can, sink, self.now()) {
            self.begin_one(key, connection, None, can, sink);
        }
    }

    /// Can be read while [`Connections::work`] has something to do.
    pub(super) fn ready(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// When [`Connections::work`] is to be called at the latest. Whoever brings that forward wakes the clerk from now on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sleeps_until.store(NEVER, Ordering::SeqCst);
        let table = self.table.lock();
        let due = table.by_key.values().map(|entry| entry.due.load(Ordering::SeqCst)).min().unwrap_or(NEVER);
        drop(table);
        self.sleeps_until.store(due, Ordering::SeqCst);
        (due != NEVER).then(|| self.beginning + Duration::from_micros(due))
    }

    /// Gives a turn to each connection whose socket has changed, whose time has come, or for whose frames there is room
    /// again.
    pub(super) fn work(&self, sink: &dyn Sink) {
        self.sleeps_until.store(0, Ordering::SeqCst);
        let mut events = Vec::with_capacity(EVENTS);
        // What is left after some rounds keeps the descriptor readable; others have their turn before.
        for _ in 0..ROUNDS {
            events.clear();
            let none = Timespec { tv_sec: 0, tv_nsec: 0 };
            let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&none));
            if waited.is_err() || events.is_empty() {
                break;
            }
            for event in &events {
                let number = event.data.u64();
                let Some(entry) = self.table.lock().by_number.get(&number).cloned() else { continue };
                let flags = event.flags;
                let wrong = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
                let readable = wrong || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP);
                let writable = wrong || flags.intersects(epoll::EventFlags::OUT);
                self.turn(&entry, None, sink, |connection| connection.changed(readable, writable));
            }
            if events.len() < EVENTS {
                break;
            }
        }
        let (now, room) = (self.now().time.total_micros() as u64, sink.has_room());
        let is_due =
            |entry: &Entry| entry.due.load(Ordering::SeqCst) <= now || room && entry.stalled.load(Ordering::SeqCst);
        let due: Vec<_> = self.table.lock().by_key.values().filter(|entry| is_due(entry)).cloned().collect();
        for entry in due {
            self.turn(&entry, None, sink, |_| {});
        }
    }

    /// Whether TCP has panicked.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.lock().by_key.is_empty()
    }

    fn now(&self) -> Now {
        let instant = Instant::now();
        let since = instant.saturating_duration_since(self.beginning).as_micros();
        Now { instant, time: smoltcp::time::Instant::from_micros(since as i64) }
    }

    fn free_port(&self) -> Option<u16> {
        let mut table = self.table.lock();
        let used: std::collections::HashSet<u16> =
            table.by_key.keys().filter(|key| key.other.ip() == GATEWAY).map(|key| key.other.port()).collect();
        let first = (*PORTS.start()).max(table.next_port);
        let port = (first..=*PORTS.end()).chain(PORTS).find(|port| !used.contains(port))?;
        table.next_port = port.checked_add(1).unwrap_or(*PORTS.start());
        Some(port)
    }

    // A connection's first turn is its maker's: nobody else has it before.
    fn begin_one(
        &self,
        key: Key,
        connection: Connection,
        packet: Option<&[u8]>,
        can: MutexGuard<'_, DeviceCapabilities>,
        sink: &dyn Sink,
    ) {
        let entry = {
            let mut table = self.table.lock();
            table.last += 1;
            Arc::new(Entry {
                key,
                number: table.last,
                connection: Mutex::default(),
                due: AtomicU64::new(NEVER),
                stalled: AtomicBool::new(false),
            })
        };
        let mut place = entry.connection.lock();
        {
            let mut table = self.table.lock();
            table.by_number.insert(entry.number, entry.clone());
            table.by_key.insert(key, entry.clone());
        }
        drop(can);
        self.watch(entry.number, place.insert(connection));
        self.turn_of(&entry, place, packet, sink);
    }

    // Changes alone are told, so that a connection that can't take what its socket has isn't told of it again and again.
    fn watch(&self, number: u64, connection: &Connection) {
        use epoll::EventFlags;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = epoll::add(&self.epoll, connection.stream(), epoll::EventData::new_u64(number), flags) {
            log::warn!("{}: a connection can't be served: {error}", self.label);
            // Nobody would look at it again: it ends, and its guest hears that.
            reset(connection.stream());
        }
    }

    fn turn(&self, entry: &Arc<Entry>, packet: Option<&[u8]>, sink: &dyn Sink, prepare: impl FnOnce(&mut Connection)) {
        let mut place = entry.connection.lock();
        if let Some(connection) = &mut *place {
            prepare(connection);
        }
        self.turn_of(entry, place, packet, sink);
    }

    fn turn_of(
        &self,
        entry: &Arc<Entry>,
        mut place: MutexGuard<'_, Option<Connection>>,
        packet: Option<&[u8]>,
        sink: &dyn Sink,
    ) {
        let Some(connection) = &mut *place else { return };
        let now = self.now();
        let turn = self.guarded(|| connection.turn(packet, sink, now));
        let over = match turn {
            Some(turn) => {
                entry.stalled.store(connection.is_stalled(), Ordering::SeqCst);
                let due =
                    turn.due.map_or(NEVER, |due| due.saturating_duration_since(self.beginning).as_micros() as u64 + 1);
                entry.due.store(due, Ordering::SeqCst);
                if due < self.sleeps_until.load(Ordering::SeqCst) {
                    queue::signal(&self.wake);
                }
                // Somebody may have made room before anybody could know that this one waits for it.
                if connection.is_stalled() && sink.has_room() {
                    queue::signal(&self.wake);
                }
                if turn.redialled {
                    self.watch(entry.number, connection);
                }
                turn.fate == Fate::Over
            }
            None => true,
        };
        if !over {
            return;
        }
        let gone = place.take();
        drop(place);
        if let Some(connection) = gone {
            self.guarded(|| connection.over(sink, now));
        }
        if self.forget(entry) {
            sink.ended(entry.key);
        }
    }

    // Answers what belongs to no connection, as the standard says (RFC 9293, 3.10.7.1).
    fn refuse(&self, packet: &[u8], key: Key, sink: &dyn Sink) {
        let can = self.can.lock().clone();
        let now = self.now();
        self.guarded(|| {
            let mut interface = interface(&can, key.other.ip(), sink, now);
            interface.poll(now.time, &mut Wire::new(&can, Some(packet), sink), &mut SocketSet::new(Vec::new()));
        });
    }

    // Does something that may panic in foreign code; that connection is over then.
    fn guarded<T>(&self, what: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(what)).ok();
        if done.is_none() && !self.failed.swap(true, Ordering::AcqRel) {
            log::error!("{}: the user network failed; one of the guest's connections is lost (told once)", self.label);
        }
        done
    }
}
