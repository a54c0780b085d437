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

use super::super::flows::{Key, TCP_IDLE};
use super::wire::{Sink, Wire, endpoint};

/// Bytes under way each way; memory is taken as it is first used.
const BUFFER: usize = 256 << 10;
/// How long the host's side, or the guest, may take to accept.
const DIAL: Duration = Duration::from_secs(30);

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
    /// The host's side asks, and the guest has not answered yet.
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
    /// It knows that the guest sends no more.
    told: bool,
}

impl Host {
    fn new(stream: TcpStream) -> Self {
        Self { stream, readable: true, writable: true, ended: false, told: false }
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
        let stage = Stage::Dialling { rest: to, until: now.instant + DIAL };
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

    /// The host's socket has changed.
    pub(super) fn changed(&mut self, readable: bool, writable: bool) {
        self.host.readable |= readable;
        self.host.writable |= writable;
    }

    /// Lets it do all that it can: takes a packet of the guest's, and moves bytes both ways until there are no more or
    /// no room for them.
    pub(super) fn turn(&mut self, packet: Option<&[u8]>, sink: &dyn Sink, now: Now) -> Turn {
        if packet.is_some() {
            self.seen = now.instant;
        }
        self.poll(packet, sink, now);
        let mut redialled = false;
        loop {
            let moved = match &self.stage {
                Stage::Dialling { .. } => {
                    let dialled = self.look_at_dial();
                    redialled |= dialled == Dialled::Another;
                    dialled != Dialled::NotYet
                }
                Stage::Asking { .. } if self.state() == State::SynSent => false,
                Stage::Asking { .. } => {
                    self.stage = Stage::Open;
                    true
                }
                Stage::Open => self.move_bytes(now.instant),
            };
            if !moved {
                break;
            }
            self.poll(None, sink, now);
        }
        let (until, waits) = match &self.stage {
            Stage::Dialling { until, .. } => (*until, true),
            Stage::Asking { until } => (*until, false),
            Stage::Open => (self.seen + TCP_IDLE, false),
        };
        if self.is_over() || until <= now.instant {
            return Turn { fate: Fate::Over, due: None, redialled };
        }
        // Without room there is nothing to be done in time.
        let sends = !waits && !self.stalled;
        let next = if sends { self.interface.poll_delay(now.time, &self.sockets) } else { None };
        let due = next.map_or(until, |delay| until.min(now.instant + delay.into()));
        Turn { fate: Fate::GoesOn, due: Some(due), redialled }
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
        if self.finished && self.host.told {
            return;
        }
        reset(&self.host.stream);
        // A guest whose call was not answered in time isn't told, and asks again as long as it likes.
        if !matches!(self.stage, Stage::Dialling { .. }) {
            self.socket().abort();
            self.poll(None, sink, now);
        }
    }

    fn poll(&mut self, packet: Option<&[u8]>, sink: &dyn Sink, now: Now) {
        let before = self.state();
        let mut wire = Wire::new(&self.can, packet, sink);
        self.interface.poll(now.time, &mut wire, &mut self.sockets);
        self.stalled = wire.stalled;
        // Nothing gets lost on this link that the guest would have to repeat, so the wait for that is left out.
        self.finished |= match self.state() {
            State::TimeWait => true,
            State::Closed => matches!(before, State::LastAck | State::Closing),
            _ => false,
        };
    }

    // How the dial goes.
    fn look_at_dial(&mut self) -> Dialled {
        let Stage::Dialling { rest, .. } = &mut self.stage else { return Dialled::NotYet };
        if self.host.stream.take_error().is_ok_and(|error| error.is_none()) {
            if self.host.stream.peer_addr().is_err() {
                return Dialled::NotYet;
            }
            let _ = self.host.stream.set_nodelay(true);
            self.stage = Stage::Open;
            self.socket().pause_synack(false);
            return Dialled::Open;
        }
        if let Some(stream) = dial_any(rest) {
            self.host = Host::new(stream);
            return Dialled::Another;
        }
        self.stage = Stage::Open;
        self.socket().pause_synack(false);
        self.socket().abort();
        Dialled::Refused
    }

    // Moves what can be moved; says whether TCP has something to do with it.
    fn move_bytes(&mut self, now: Instant) -> bool {
        let Self { sockets, handle, host, .. } = self;
        let socket = sockets.get_mut::<Socket<'_>>(*handle);
        match socket.state() {
            State::Listen | State::SynSent | State::SynReceived => return false,
            State::Closed if !self.finished => return false,
            _ => {}
        }
        let moved = to_host(socket, host).and_then(|to| Ok(to | from_host(socket, host)?)).unwrap_or_else(|_| {
            self.finished = false;
            socket.abort();
            true
        });
        if moved {
            self.seen = now;
        }
        moved
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialled {
    NotYet,
    Open,
    Another,
    Refused,
}

fn to_host(socket: &mut Socket<'_>, host: &mut Host) -> io::Result<bool> {
    let mut moved = false;
    while host.writable && socket.can_recv() {
        let write = |bytes: &mut [u8]| match (&host.stream).write(bytes) {
            Ok(count) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        };
        match socket.recv(write).map_err(io::Error::other)? {
            Ok(_) => moved = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => host.writable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if !host.told && !socket.may_recv() {
        host.told = true;
        // An end that is gone is found by the reader.
        let _ = host.stream.shutdown(Shutdown::Write);
    }
    Ok(moved)
}

fn from_host(socket: &mut Socket<'_>, host: &mut Host) -> io::Result<bool> {
    let mut moved = false;
    while host.readable && !host.ended && socket.can_send() {
        let read = |room: &mut [u8]| match (&host.stream).read(room) {
            Ok(count) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        };
        match socket.send(read).map_err(io::Error::other)? {
            Ok(0) => {
                host.ended = true;
                socket.close();
                moved = true;
            }
            Ok(_) => moved = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => host.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(moved)
}

/// Breaks a connection off, so that the other side sees it broken and not ended.
pub(in crate::network::user) fn reset(stream: &TcpStream) {
    // To shut it down would be a proper end to the other side. It fails only when there is no connection any more.
    let _ = rustix::net::connect_unspec(stream);
}
