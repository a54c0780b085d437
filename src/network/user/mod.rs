//! The user-mode network: a guest reaches what its user reaches, by sockets of this process, and nobody is root.
//!
//! ```text
//!   card ── send ──▶ link.rs (ARP, neighbours, routers, echoes), dhcp.rs, dns.rs      answered here
//!                    addresses.rs, flows.rs ──▶ tcp/ (smoltcp), datagrams.rs (pktkit) ── sockets of the host
//!   card ◀─ receive ─ queue.rs ◀───────────────┘
//!   clerk.rs: one thread for what comes from the host's side: bytes, forwarded ports, name servers' answers, time
//! ```
//!
//! The guest is 10.0.2.15, the gateway .2, the name server .3; with IPv6 the gateway's router advertisements say the
//! rest. One card has one network: machines on user mode don't see each other.

mod addresses;
mod clerk;
mod datagrams;
mod dhcp;
mod dns;
mod flows;
mod forwards;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod link;
mod packet;
mod queue;
mod stations;
mod tcp;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use kiln_vmm::thread::{Role, spawn};
use kiln_vmm::virtio::net::{ETHERNET, Family, Large, Mac, Network, Offload, Partial, Received, Takes};
use parking_lot::Mutex;

use self::addresses::*;
use self::datagrams::{Datagrams, User};
use self::dhcp::Dhcp;
pub use self::dhcp::host_name;
use self::dns::Relay;
pub use self::dns::resolvers;
use self::flows::{Flows, Key, Way};
use self::forwards::Peers;
use self::link::Unreachable;
use self::packet::{ICMP, ICMP6, Packet, Side, TCP, UDP};
use self::queue::Queue;
use self::stations::Stations;
use self::tcp::{Connections, Sink};
use super::{Lease, Protocol, Settings};

/// A network for one card. It ends when it is dropped.
pub struct UserNetwork {
    shared: Arc<Shared>,
    clerk: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    mtu: u16,
    reach: Reach,
    /// What the driver takes.
    takes: Mutex<Takes>,
    queue: Queue,
    stations: Stations,
    dhcp: Mutex<Dhcp>,
    flows: Mutex<Flows>,
    relay: Relay,
    peers: Peers,
    connections: Connections,
    datagrams: Datagrams,
    /// The guest has asked for a router, so it is told again now and then.
    wants_router: AtomicBool,
    /// Wakes the clerk, who may have to end.
    wake: Arc<OwnedFd>,
    ended: AtomicBool,
}

impl UserNetwork {
    /// Makes a network; its thread serves the forwards from now on.
    ///
    /// # Errors
    /// When the host has no descriptor or thread left.
    pub fn start(settings: Settings) -> io::Result<Arc<Self>> {
        let Settings { number, label, machine, mac, mtu, flows, outside, host_loopback, resolvers, forwards } =
            settings;
        let reach = Reach { outside, loopback: host_loopback };
        let wake = Arc::new(queue::event()?);
        let (queue, connections) = (Queue::new(wake.clone())?, Connections::new(&label, mtu, wake.clone())?);
        let shared = Arc::new_cyclic(|me: &Weak<Shared>| Shared {
            mtu,
            reach,
            takes: Mutex::default(),
            queue,
            stations: Stations::new(mac),
            dhcp: Mutex::new(Dhcp::new(mac, mtu, &machine)),
            flows: Mutex::new(Flows::new(&label, flows)),
            relay: Relay::new(&label, resolvers, mtu),
            peers: Peers::new(),
            connections,
            datagrams: Datagrams::new(&label, mtu, reach, me.clone()),
            wants_router: AtomicBool::new(false),
            wake,
            ended: AtomicBool::new(false),
        });
        let clerk = clerk::Clerk::new(shared.clone(), forwards)?;
        let clerk = spawn(Role::Network(number), move || clerk.work())?;
        Ok(Arc::new(Self { shared, clerk: Mutex::new(Some(clerk)) }))
    }

    /// Ends connections and gives forwarded ports back to the host.
    pub fn end(&self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(clerk) = self.clerk.lock().take() {
            // It takes the ports with it.
            let _ = clerk.join();
        }
        self.shared.connections.stop();
        self.shared.datagrams.stop();
    }

    /// Addresses that DHCP has given.
    pub fn leases(&self) -> Vec<Lease> {
        self.shared.dhcp.lock().leases(Instant::now())
    }
}

impl Drop for UserNetwork {
    fn drop(&mut self) {
        self.end();
    }
}

impl Network for UserNetwork {
    fn begin(&self, takes: Takes) {
        // Another system, or the same one again: it knows nothing of earlier connections.
        *self.shared.takes.lock() = takes;
        self.shared.connections.begin(takes);
        self.shared.datagrams.stop();
        self.shared.flows.lock().clear();
        self.shared.queue.clear();
        self.shared.wants_router.store(false, Ordering::Release);
    }

    fn send(&self, frame: &mut [u8], offload: Offload) -> bool {
        // Nobody looks at TCP's, which is the guest's own and has come by memory.
        let is_tcp = || Packet::read(frame.get(ETHERNET..)?).map(|packet| packet.protocol == TCP);
        if let Some(partial) = offload.checksum
            && is_tcp() != Some(true)
        {
            partial.fill(frame);
        }
        self.shared.frame(frame)
    }

    fn receive(&self) -> Option<Received> {
        self.shared.queue.take()
    }

    fn waiting(&self) -> Arc<OwnedFd> {
        self.shared.queue.event()
    }

    fn lost(&self) -> u64 {
        self.shared.queue.lost()
    }
}

impl Shared {
    fn wake(&self) {
        queue::signal(&self.wake);
    }

    // Takes a frame of the guest's. Says whether it was of use.
    fn frame(&self, frame: &mut [u8]) -> bool {
        let Some((mac, kind, _)) = packet::open_frame(frame) else { return false };
        let Some(payload) = frame.get_mut(ETHERNET..) else { return false };
        match kind {
            packet::TYPE_ARP => self.arp(payload),
            packet::TYPE_IPV4 | packet::TYPE_IPV6 => self.packet(mac, kind, payload),
            _ => false,
        }
    }

    fn arp(&self, message: &[u8]) -> bool {
        let Some(arp) = link::arp(message) else { return false };
        let (address, mac) = arp.sender;
        if is_guests(address.into()) {
            self.stations.learn(address.into(), mac);
        }
        if let Some(answer) = arp.answer {
            self.put(answer);
        }
        true
    }

    fn packet(&self, mac: Mac, kind: u16, bytes: &mut [u8]) -> bool {
        let Some(packet) = Packet::read(bytes) else { return false };
        if packet.source.is_ipv4() != (kind == packet::TYPE_IPV4) {
            return false;
        }
        if is_guests(packet.source) {
            self.stations.learn(packet.source, mac);
        } else if !is_starting(packet.source) {
            // Answers could not find their way back.
            return false;
        }
        if packet.protocol == UDP && packet.ports().is_some_and(|(_, to)| to == dhcp::SERVER) && packet.source.is_ipv4()
        {
            return self.ask_dhcp(mac, &packet);
        }
        match (packet.protocol, whose(packet.destination)) {
            (ICMP6, _) if self.discovery(mac, &packet) => true,
            (ICMP | ICMP6, Whose::Gateway | Whose::Dns) => self.answer(mac, link::echo(&packet)),
            // A group's packets reach all its members: there are none.
            (_, Whose::Group) => true,
            _ if !is_guests(packet.source) => false,
            (TCP, whose) => self.tcp(bytes, whose),
            (UDP, whose) => self.udp(mac, bytes, whose),
            _ => false,
        }
    }

    fn ask_dhcp(&self, mac: Mac, packet: &Packet<'_>) -> bool {
        let is_to_us = matches!(whose(packet.destination), Whose::Gateway | Whose::Group);
        let Some(message) = packet.datagram().filter(|_| is_to_us) else { return false };
        let answer = self.dhcp.lock().answer(message, Instant::now());
        if let Some(answer) = answer {
            self.put_packet(mac, &answer);
        }
        true
    }

    fn discovery(&self, mac: Mac, packet: &Packet<'_>) -> bool {
        if link::solicits_router(packet) && !self.wants_router.swap(true, Ordering::AcqRel) {
            self.wake();
        }
        match link::discovery(packet, self.mtu) {
            Some(answer) => {
                self.put_packet(mac, &answer);
                true
            }
            None => false,
        }
    }

    fn answer(&self, mac: Mac, answer: Option<Vec<u8>>) -> bool {
        let is_there = answer.is_some();
        for piece in answer.into_iter().flat_map(|answer| datagrams::pieces(answer, self.mtu)) {
            self.put_packet(mac, &piece);
        }
        is_there
    }

    fn tcp(&self, bytes: &[u8], whose: Whose) -> bool {
        let Some(packet) = Packet::read(bytes) else { return false };
        // TCP finds out how much fits; only what wants to get around a look at its ports comes in parts.
        let Some(key) = key(Protocol::Tcp, &packet, Way::FromGuest) else { return false };
        if matches!(whose, Whose::Neighbour | Whose::Group) {
            return false;
        }
        let (flags, to) = (packet.flags(), self.beyond(whose, key.other));
        // What is refused anyway needs no room.
        let counts = !to.is_empty() || self.connections.knows(&key);
        if counts && !self.flows.lock().note(key, flags, Instant::now()) {
            return false;
        }
        self.connections.take(bytes, key, flags, to, self);
        true
    }

    // Where a connection of the guest's leads; the first that can be reached is meant. Nowhere when it may not be.
    fn beyond(&self, whose: Whose, other: SocketAddr) -> Vec<SocketAddr> {
        match whose {
            Whose::Outside if self.reach.outside => vec![other],
            Whose::Gateway if self.reach.loopback => vec![SocketAddr::new(loopback_of(other.ip()), other.port())],
            Whose::Dns if other.port() == dns::PORT => self.relay.servers().to_vec(),
            _ => Vec::new(),
        }
    }

    fn udp(&self, mac: Mac, bytes: &mut [u8], whose: Whose) -> bool {
        let Some(packet) = Packet::read(bytes) else { return false };
        let now = Instant::now();
        match whose {
            Whose::Dns | Whose::Gateway if packet.fragment => false,
            Whose::Dns => self.ask_dns(mac, bytes, &packet, now),
            Whose::Gateway => self.udp_to_gateway(mac, bytes, now),
            Whose::Outside => self.datagram(bytes, &packet, now),
            Whose::Forbidden => self.answer(mac, Some(link::unreachable(bytes, &packet, Unreachable::Prohibited))),
            Whose::Neighbour | Whose::Group => false,
        }
    }

    fn ask_dns(&self, mac: Mac, bytes: &[u8], packet: &Packet<'_>, now: Instant) -> bool {
        let Some((from, to)) = packet.ports() else { return false };
        let Some(message) = packet.datagram().filter(|_| to == dns::PORT) else {
            return self.answer(mac, Some(link::unreachable(bytes, packet, Unreachable::Port)));
        };
        let (guest, server) = (SocketAddr::new(packet.source, from), SocketAddr::new(packet.destination, to));
        match self.relay.ask(guest, server, message, now) {
            Some(answer) => self.put_packet(mac, &answer),
            None => self.wake(),
        }
        true
    }

    fn udp_to_gateway(&self, mac: Mac, bytes: &mut [u8], now: Instant) -> bool {
        let Some(packet) = Packet::read(bytes) else { return false };
        let Some((from, to)) = packet.ports() else { return false };
        let is_answer = packet.destination == IpAddr::V4(GATEWAY) && packet.source == IpAddr::V4(GUEST);
        if is_answer && packet.datagram().is_some_and(|data| self.peers.answer(to, from, data, now)) {
            return true;
        }
        if !self.reach.loopback {
            return self.answer(mac, Some(link::unreachable(bytes, &packet, Unreachable::Port)));
        }
        let Some(key) = key(Protocol::Udp, &packet, Way::FromGuest) else { return false };
        if !self.flows.lock().note(key, 0, now) {
            return false;
        }
        packet::readdress(bytes, Side::Destination, loopback_of(key.other.ip()));
        self.datagrams.send(bytes)
    }

    fn datagram(&self, bytes: &[u8], packet: &Packet<'_>, now: Instant) -> bool {
        // Parts of datagrams belong to flows that their first part can't be known by; the engine has a limit of its own.
        let may = match key(Protocol::Udp, packet, Way::FromGuest) {
            Some(key) => self.flows.lock().note(key, 0, now),
            None => packet.fragment,
        };
        may && self.datagrams.send(bytes)
    }

    /// A frame for the guest.
    fn put(&self, bytes: Vec<u8>) {
        self.queue.put(Received { bytes, offload: Offload { valid: true, ..Offload::default() } });
    }

    /// A packet for a station of the guest's.
    fn put_packet(&self, mac: Mac, packet: &[u8]) {
        let kind =
            if packet.first().is_some_and(|first| first >> 4 == 6) { packet::TYPE_IPV6 } else { packet::TYPE_IPV4 };
        self.put(packet::frame(mac, HOST_MAC, kind, packet));
    }

    /// A packet that this side has made, cut to the link's size.
    fn put_pieces(&self, packet: Vec<u8>) {
        for piece in datagrams::pieces(packet, self.mtu) {
            if let Some(to) = Packet::read(&piece).map(|packet| packet.destination) {
                self.put_packet(self.stations.mac(to), &piece);
            }
        }
    }

    fn advertise_router(&self) {
        self.put_packet(EVERYBODY, &link::advertisement(Ipv6Addr::UNSPECIFIED, self.mtu));
    }
}

impl Sink for Shared {
    fn ended(&self, key: Key) {
        self.flows.lock().ended(&key);
    }

    fn segment(&self, mut frame: Vec<u8>, cut: Option<NonZeroU16>) {
        let inner = frame.get(ETHERNET..).unwrap_or_default();
        let Some(packet) = Packet::read(inner) else { return };
        let Some(key) = key(Protocol::Tcp, &packet, Way::ToGuest) else { return };
        if !self.flows.lock().note(key, packet.flags(), Instant::now()) {
            return;
        }
        let v4 = packet.source.is_ipv4();
        let (start, headers) = (ETHERNET + packet.span.0, ETHERNET + packet.span.0 + packet.tcp_header());
        let mut offload = Offload { valid: true, ..Offload::default() };
        let (mac, sum) = (self.stations.mac(packet.destination), packet.pseudo_sum());
        if self.takes.lock().checksum {
            offload.checksum = Some(Partial { start: start as u16, field: packet::TCP_CHECKSUM as u16 });
            packet::put(&mut frame, start + packet::TCP_CHECKSUM, &sum.to_be_bytes());
        }
        offload.large = cut.map(|size| Large {
            family: if v4 { Family::V4 } else { Family::V6 },
            size: size.get(),
            headers: headers as u16,
        });
        packet::put(&mut frame, 0, &mac);
        packet::put(&mut frame, 6, &HOST_MAC);
        packet::put(&mut frame, 12, &if v4 { packet::TYPE_IPV4 } else { packet::TYPE_IPV6 }.to_be_bytes());
        self.queue.put(Received { bytes: frame, offload });
    }

    fn has_room(&self) -> bool {
        self.queue.has_room()
    }
}

impl User for Shared {
    fn deliver(&self, bytes: &[u8]) {
        let Some(packet) = Packet::read(bytes) else { return };
        let mac = self.stations.mac(packet.destination);
        let from_loopback = is_loopback(packet.source);
        let kind = if packet.source.is_ipv4() { packet::TYPE_IPV4 } else { packet::TYPE_IPV6 };
        let mut frame = packet::frame(mac, HOST_MAC, kind, bytes);
        let Some(inner) = frame.get_mut(ETHERNET..) else { return };
        if from_loopback {
            packet::readdress(inner, Side::Source, gateway_of(packet.source));
        }
        let Some(packet) = Packet::read(inner) else { return };
        let may = key(Protocol::Udp, &packet, Way::ToGuest)
            .is_none_or(|key| self.flows.lock().note(key, packet.flags(), Instant::now()));
        if may {
            self.put(frame);
        }
    }

    fn started(&self) {
        // The clerk looks at it from now on.
        self.wake();
    }
}

/// Addresses that a station has before it has been given one (RFC 2131, 4.1; RFC 4861).
fn is_starting(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_unspecified(),
        IpAddr::V6(address) => address.is_unspecified() || address.is_unicast_link_local() && address != ROUTER6,
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn loopback_of(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn gateway_of(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY.into() } else { GATEWAY6.into() }
}

fn key(protocol: Protocol, packet: &Packet<'_>, way: Way) -> Option<Key> {
    let (from, to) = packet.ports()?;
    let (source, destination) = (SocketAddr::new(packet.source, from), SocketAddr::new(packet.destination, to));
    Some(match way {
        Way::FromGuest => Key { protocol, guest: source, other: destination },
        Way::ToGuest => Key { protocol, guest: destination, other: source },
    })
}
