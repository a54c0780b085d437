//! One connection: the guest's TCP ends here, and its bytes go on over a socket of the host's.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::DeviceCapabilities;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::super::flows::Key;
use super::super::packet::{Packet, SYN};
use super::wire::{Sink, Wire, endpoint};

/// Bytes under way each way; memory is taken as it is first used.
const BUFFER: usize = 256 << 10;
/// How long the host's side, or the guest, may take to accept.
const DIAL: Duration = Duration::from_secs(30);
/// How long one address of the host's side may take when there is another to try.
const TRY: Duration = Duration::from_secs(5);
/// A connection without a byte is over; keep-alives come every 2 hours (RFC 9293, 3.8.4).
const IDLE: Duration = Duration::from_secs(3 * 3600);
/// Longer than an acknowledgement is held back.
const HELD_BACK: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(11);
/// Soonest next turn of a connection that had all the frames of this one.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes that the guest may send before it has been told of more: the window of a SYN isn't scaled (RFC 7323, 2.2).
const FIRST_WINDOW: u32 = 0xffff;

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    GoesOn,
    Over,
}

#[derive(Debug)]
enum Stage {
    /// The guest asks; the host's side is being connected, and others are left to try.
    Dialling {
        rest: VecDeque<SocketAddr>,
        until: Instant,
    },
    /// The guest has been asked, or told that it may begin, and has not answered yet.
    Asking {
        until: Instant,
    },
    Open,
}

/// The host's side. Its socket doesn't block, and is watched for changes alone: what it was last known to be is kept here.
struct Host {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// It sends no more.
    ended: bool,
    /// It takes no more, and didn't end as it should.
    broken: bool,
    /// It knows that the guest sends no more.
    told: bool,
}

impl Host {
    fn new(stream: TcpStream) -> Self {
        Self { stream, readable: true, writable: true, ended: false, broken: false, told: false }
    }
}

pub(super) struct Connection {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    can: DeviceCapabilities,
    stage: Stage,
    host: Host,
    /// It has a frame that found no room.
    stalled: bool,
    /// The guest's side has ended as it should: it has sent all, and has been sent all.
    finished: bool,
    /// When something last came from either side.
    seen: Instant,
    /// The number of the guest's first byte, until it has been told of a window that counts from where it is.
    first: Option<u32>,
    settled: bool,
    /// It had more to say than one turn takes.
    spent: bool,
}

/// What came of a turn.
pub(super) struct Turn {
    pub(super) fate: Fate,
    /// When it is to have the next, at the latest.
    pub(super) due: Option<Instant>,
    /// It has a new socket, to be watched.
    pub(super) redialled: bool,
}

/// A link of its own on which `address` is the near end.
pub(super) fn interface(can: &DeviceCapabilities, address: IpAddr, sink: &dyn Sink, now: Now) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    let mut seed = [0; 8];
    // Sequence numbers can't be guessed (RFC 6528); the kernel has entropy by the time that machines start.
    if rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).is_ok() {
        config.random_seed = u64::from_ne_bytes(seed);
    }
    let mut interface = Interface::new(config, &mut Wire::new(can, None, sink), now.time);
    // Everything is a neighbour on it.
    interface.update_ip_addrs(|addresses| {
        // There is room for one.
        let _ = addresses.push(IpCidr::new(address.into(), 0));
    });
    interface
}

/// This moment, for us and as TCP counts time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) time: smoltcp::time::Instant,
}

/// Begins to connect, without waiting.
///
/// # Errors
/// When the host knows at once that it can't.
fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

// The first of some addresses that doesn't fail at once.
fn dial_any(rest: &mut VecDeque<SocketAddr>) -> Option<TcpStream> {
    std::iter::from_fn(|| rest.pop_front()).find_map(|to| dial(to).ok())
}

impl Connection {
    /// A connection that the guest asks for; its first segment is the first turn's. `None` when no address can be dialled.
    pub(super) fn outward(
        key: Key,
        mut to: VecDeque<SocketAddr>,
        can: &DeviceCapabilities,
        sink: &dyn Sink,
        now: Now,
    ) -> Option<Self> {
        let stream = dial_any(&mut to)?;
        let wait = patience(&to);
        let stage = Stage::Dialling { rest: to, until: now.instant + wait };
        let mut connection = Self::new(key, stream, stage, can, sink, now);
        let socket = connection.socket();
        socket.listen(endpoint(key.other)).ok()?;
        socket.pause_synack(true);
        Some(connection)
    }

    /// A connection that comes from the host's side. `None` when TCP can't make one of it.
    pub(super) fn inward(
        key: Key,
        stream: TcpStream,
        can: &DeviceCapabilities,
        sink: &dyn Sink,
        now: Now,
    ) -> Option<Self> {
        let mut connection = Self::new(key, stream, Stage::Asking { until: now.instant + DIAL }, can, sink, now);
        let Self { interface, sockets, handle, .. } = &mut connection;
        let socket = sockets.get_mut::<Socket<'_>>(*handle);
        let asked = socket.connect(interface.context(), endpoint(key.guest), endpoint(key.other));
        if asked.is_err() {
            reset(&connection.host.stream);
            return None;
        }
        Some(connection)
    }

    fn new(key: Key, stream: TcpStream, stage: Stage, can: &DeviceCapabilities, sink: &dyn Sink, now: Now) -> Self {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface: interface(can, key.other.ip(), sink, now),
            sockets,
            handle,
            can: can.clone(),
            stage,
            host: Host::new(stream),
            stalled: false,
            finished: false,
            seen: now.instant,
            first: None,
            settled: false,
            spent: false,
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn state(&self) -> State {
        self.sockets.get::<Socket<'_>>(self.handle).state()
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.host.stream
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Bytes that the host has yet to take.
    #[cfg(test)]
    pub(super) fn waits_for_host(&mut self) -> usize {
        self.socket().recv_queue()
    }

    /// The host's socket has changed.
    pub(super) fn changed(&mut self, readable: bool, writable: bool) {
        self.host.readable |= readable;
        self.host.writable |= writable;
        // Who has ended isn't read from any more, so this is where it shows.
        let asks = self.host.ended && matches!(self.stage, Stage::Open);
        if asks && !self.host.stream.take_error().is_ok_and(|error| error.is_none()) {
            self.host.broken = true;
        }
    }

    /// Whether a SYN of the guest's can only be of another connection between the same ports.
    pub(super) fn is_past_opening(&self) -> bool {
        !matches!(self.state(), State::Listen | State::SynSent | State::SynReceived)
    }

    /// Lets it do all that it can: takes a packet of the guest's, and moves bytes both ways until there are no more or
    /// no room for them.
    pub(super) fn turn(&mut self, packet: Option<&[u8]>, sink: &dyn Sink, now: Now) -> Turn {
        if packet.is_some() {
            self.seen = now.instant;
        }
        let packet = packet.filter(|packet| self.is_within(packet));
        self.poll(packet, sink, now);
        let mut redialled = false;
        loop {
            let moved = match &self.stage {
                Stage::Dialling { .. } => {
                    let dialled = self.look_at_dial(now.instant);
                    redialled |= dialled == Dialled::Another;
                    dialled != Dialled::NotYet
                }
                Stage::Asking { .. } if matches!(self.state(), State::SynSent | State::SynReceived) => false,
                Stage::Asking { .. } => {
                    self.stage = Stage::Open;
                    true
                }
                Stage::Open => self.move_bytes(now.instant),
            };
            if !moved || self.spent {
                break;
            }
            self.poll(None, sink, now);
        }
        let (until, waits) = match &self.stage {
            Stage::Dialling { until, .. } => (*until, true),
            Stage::Asking { until } => (*until, false),
            Stage::Open => (self.seen + IDLE, false),
        };
        if self.is_over() || until <= now.instant {
            return Turn { fate: Fate::Over, due: None, redialled };
        }
        // Without room there is nothing to be done in time.
        let sends = !waits && !self.stalled && !self.finished;
        let next = if sends { self.interface.poll_delay(now.time, &self.sockets) } else { None };
        let least = if self.spent { PAUSE } else { Duration::ZERO };
        let due = next.map_or(until, |delay| until.min(now.instant + least.max(delay.into())));
        Turn { fate: Fate::GoesOn, due: Some(due), redialled }
    }

    // Whether a packet keeps to the first window. smoltcp 0.14 takes that for larger than it has said.
    fn is_within(&mut self, packet: &[u8]) -> bool {
        if self.settled {
            return true;
        }
        let Some(packet) = Packet::read(packet) else { return false };
        let Some(number) = packet.sequence() else { return false };
        if packet.flags() & SYN != 0 {
            self.first.get_or_insert(number.wrapping_add(1));
        }
        let len = packet.payload.len().saturating_sub(packet.tcp_header()) as u32;
        self.first.is_none_or(|first| {
            // What lies before is older than the connection, and no more than a repetition.
            let offset = number.wrapping_sub(first) as i32;
            offset < 0 || (offset as u32).saturating_add(len) <= FIRST_WINDOW
        })
    }

    fn is_over(&self) -> bool {
        match self.state() {
            // The guest takes back what it has asked for, or has not asked as it should.
            State::Listen => true,
            State::Closed | State::TimeWait => !self.finished || self.host.told,
            _ => false,
        }
    }

    /// Ends it for both sides.
    pub(super) fn over(mut self, sink: &dyn Sink, now: Now) {
        if self.finished && self.host.told && !self.host.broken {
            return;
        }
        reset(&self.host.stream);
        // A guest whose call was not answered in time isn't told, and asks again as long as it likes.
        if !matches!(self.stage, Stage::Dialling { .. }) {
            self.socket().abort();
            let mut wire = Wire::new(&self.can, None, sink);
            wire.insists = true;
            self.interface.poll_egress(now.time, &mut wire, &mut self.sockets);
        }
    }

    fn poll(&mut self, packet: Option<&[u8]>, sink: &dyn Sink, now: Now) {
        let before = self.state();
        let mut wire = Wire::new(&self.can, packet, sink);
        if self.finished {
            // TCP's own wait before it forgets would take with it what the host has yet to be given.
            self.interface.poll_ingress_single(now.time, &mut wire, &mut self.sockets);
            return;
        }
        self.interface.poll(now.time, &mut wire, &mut self.sockets);
        (self.stalled, self.spent) = (wire.stalled, wire.is_spent());
        self.settled |= wire.frames > 0 && self.is_past_opening();
        // Nothing gets lost on this link that the guest would have to repeat, so the wait for that is left out.
        self.finished = match self.state() {
            State::TimeWait => true,
            State::Closed => matches!(before, State::LastAck | State::Closing),
            _ => false,
        };
        if self.state() == State::TimeWait {
            // The guest's last byte is acknowledged now: nobody is there later.
            let mut wire = Wire::new(&self.can, None, sink);
            wire.insists = true;
            self.interface.poll_egress(now.time + HELD_BACK, &mut wire, &mut self.sockets);
            self.stalled = false;
        }
    }

    // How the dial goes.
    fn look_at_dial(&mut self, now: Instant) -> Dialled {
        let Stage::Dialling { rest, until } = &mut self.stage else { return Dialled::NotYet };
        let failed = !self.host.stream.take_error().is_ok_and(|error| error.is_none());
        if !failed && self.host.stream.peer_addr().is_ok() {
            let _ = self.host.stream.set_nodelay(true);
            self.stage = Stage::Asking { until: now + DIAL };
            self.socket().pause_synack(false);
            return Dialled::Open;
        }
        if !failed && (*until > now || rest.is_empty()) {
            return Dialled::NotYet;
        }
        if let Some(stream) = dial_any(rest) {
            *until = now + patience(rest);
            self.host = Host::new(stream);
            return Dialled::Another;
        }
        self.stage = Stage::Asking { until: now + DIAL };
        self.socket().pause_synack(false);
        self.socket().abort();
        Dialled::Refused
    }

    // Moves what can be moved; says whether TCP has something to do with it.
    fn move_bytes(&mut self, now: Instant) -> bool {
        let Self { sockets, handle, host, .. } = self;
        let socket = sockets.get_mut::<Socket<'_>>(*handle);
        if socket.state() == State::Closed && !self.finished {
            return false;
        }
        let moved = to_host(socket, host) | from_host(socket, host);
        if moved {
            self.seen = now;
        }
        // What the host has sent before it broke is the guest's.
        if host.broken && host.ended && socket.send_queue() == 0 && socket.state() != State::Closed {
            self.finished = false;
            socket.abort();
            return true;
        }
        moved
    }
}

// How long the address that is being dialled may take.
fn patience(rest: &VecDeque<SocketAddr>) -> Duration {
    if rest.is_empty() { DIAL } else { TRY }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialled {
    NotYet,
    Open,
    Another,
    Refused,
}

fn to_host(socket: &mut Socket<'_>, host: &mut Host) -> bool {
    let mut moved = false;
    while host.writable && !host.broken && socket.can_recv() {
        let write = |bytes: &mut [u8]| match (&host.stream).write(bytes) {
            Ok(count) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        };
        match socket.recv(write) {
            Ok(Ok(_)) => moved = true,
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => host.writable = false,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            // It may have sent something before, and has said why it takes no more.
            Ok(Err(_)) => (host.broken, host.readable) = (true, true),
            Err(_) => break,
        }
    }
    if !host.told && !socket.may_recv() {
        host.told = true;
        // An end that is gone is found by the reader.
        let _ = host.stream.shutdown(Shutdown::Write);
    }
    moved
}

fn from_host(socket: &mut Socket<'_>, host: &mut Host) -> bool {
    let mut moved = false;
    while host.readable && !host.ended && socket.can_send() {
        let read = |room: &mut [u8]| match (&host.stream).read(room) {
            Ok(count) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        };
        match socket.send(read) {
            // The guest is told of an end that is one, and otherwise when it has got what came before.
            Ok(Ok(0)) => {
                host.ended = true;
                if !host.broken {
                    socket.close();
                }
                moved = true;
            }
            Ok(Ok(_)) => moved = true,
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => host.readable = false,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => (host.broken, host.ended, moved) = (true, true, true),
            Err(_) => break,
        }
    }
    moved
}

/// Breaks a connection off, so that the other side sees it broken and not ended.
pub(in crate::network::user) fn reset(stream: &TcpStream) {
    // To shut it down would be a proper end to the other side. It fails only when there is no connection any more.
    let _ = rustix::net::connect_unspec(stream);
}
