//! The name server 10.0.2.3: it hands queries on to the host's own name servers, over UDP and TCP.
//!
//! Each query goes out from a port of its own, so that nobody can guess where an answer is awaited.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::packet;

pub(super) const PORT: u16 = 53;
/// Queries under way at once; the oldest gives way.
const MOST: usize = 128;
/// How long a name server may take before the next one is asked.
const PATIENCE: Duration = Duration::from_millis(2500);
/// How often the list of servers is gone through.
const ROUNDS: usize = 2;
/// Bytes of a message's header (RFC 1035, 4.1.1).
const HEADER: usize = 12;
/// Longest message over UDP.
const LONGEST: usize = 65535;

struct Query {
    socket: Arc<UdpSocket>,
    guest: SocketAddr,
    /// The address that was asked.
    server: SocketAddr,
    message: Vec<u8>,
    tries: usize,
    until: Instant,
}

/// The relay.
pub(super) struct Relay {
    label: String,
    resolvers: Vec<SocketAddr>,
    mtu: u16,
    queries: Mutex<Vec<Query>>,
    /// The log knows that no server answers.
    told: AtomicBool,
}

fn socket_to(server: &SocketAddr) -> io::Result<UdpSocket> {
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Relay {
    pub(super) fn new(label: &str, resolvers: Vec<SocketAddr>, mtu: u16) -> Self {
        Self { label: label.into(), resolvers, mtu, queries: Mutex::default(), told: AtomicBool::new(false) }
    }

    /// Takes a query; gives the packet that answers it when that is known at once.
    pub(super) fn ask(&self, guest: SocketAddr, server: SocketAddr, message: &[u8], now: Instant) -> Option<Vec<u8>> {
        // An answer or half a header is no query.
        if message.len() < HEADER || message.get(2).is_some_and(|flags| flags & 0x80 != 0) {
            return None;
        }
        match self.send(message, 0) {
            Some((socket, tries)) => {
                let mut queries = self.queries.lock();
                if queries.len() >= MOST {
                    queries.remove(0);
                }
                queries.push(Query { socket, guest, server, message: message.into(), tries, until: now + PATIENCE });
                None
            }
            None => Some(self.failed(guest, server, message)),
        }
    }

    // Sends to the next server that can be sent to. `None` when all have been tried.
    fn send(&self, message: &[u8], from: usize) -> Option<(Arc<UdpSocket>, usize)> {
        (from..self.resolvers.len() * ROUNDS).find_map(|tries| {
            let server = self.resolvers.get(tries % self.resolvers.len())?;
            let socket = socket_to(server).ok()?;
            socket.send(message).ok()?;
            Some((Arc::new(socket), tries + 1))
        })
    }

    /// Sockets on which answers are awaited.
    pub(super) fn sockets(&self) -> Vec<Arc<UdpSocket>> {
        self.queries.lock().iter().map(|query| query.socket.clone()).collect()
    }

    /// When the next query runs out of patience.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queries.lock().iter().map(|query| query.until).min()
    }

    /// Looks for answers, asks the next server where one is late, and gives the packets for the guest.
    pub(super) fn look(&self, now: Instant) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut queries = std::mem::take(&mut *self.queries.lock());
        if queries.is_empty() {
            return packets;
        }
        let mut room = vec![0; LONGEST];
        queries.retain_mut(|query| self.look_at(query, now, &mut room, &mut packets));
        let mut all = self.queries.lock();
        queries.append(&mut all);
        *all = queries;
        packets
    }

    // Says whether the query goes on. Answers are read into `room`.
    fn look_at(&self, query: &mut Query, now: Instant, room: &mut [u8], packets: &mut Vec<Vec<u8>>) -> bool {
        let late = match query.socket.recv(room) {
            Ok(len) => {
                let answer = room.get(..len).unwrap_or_default();
                if answer.get(..2) == query.message.get(..2) && len >= HEADER {
                    self.told.store(false, Ordering::Relaxed);
                    let answer = fitting(answer, self.room(&query.guest));
                    packets.push(packet::udp(query.server, query.guest, &answer));
                    return false;
                }
                now >= query.until
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => now >= query.until,
            // Nobody listens there, or there is no way to it.
            Err(_) => true,
        };
        if !late {
            return true;
        }
        match self.send(&query.message, query.tries) {
            Some((socket, tries)) => {
                (query.socket, query.tries, query.until) = (socket, tries, now + PATIENCE);
                true
            }
            None => {
                packets.push(self.failed(query.guest, query.server, &query.message));
                false
            }
        }
    }

    fn room(&self, guest: &SocketAddr) -> usize {
        usize::from(self.mtu).saturating_sub(if guest.is_ipv4() { 28 } else { 48 })
    }

    fn failed(&self, guest: SocketAddr, server: SocketAddr, message: &[u8]) -> Vec<u8> {
        if !self.told.swap(true, Ordering::Relaxed) {
            let list: Vec<String> = self.resolvers.iter().map(ToString::to_string).collect();
            let list = if list.is_empty() { "it has none".into() } else { list.join(", ") };
            log::warn!("{}: none of the host's name servers answers ({list}); the guest gets failures", self.label);
        }
        packet::udp(server, guest, &answer_without(message, SERVER_FAILURE, false))
    }

    /// The host's name servers, the first one first.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.resolvers
    }
}

/// The server couldn't find out (RFC 1035, 4.1.1).
const SERVER_FAILURE: u8 = 2;

/// An answer with the question and nothing else.
fn answer_without(message: &[u8], code: u8, truncated: bool) -> Vec<u8> {
    let mut answer = message.get(..question_end(message)).unwrap_or_default().to_vec();
    let question = u8::from(answer.len() > HEADER);
    if let Some(header) = answer.first_chunk_mut::<HEADER>() {
        // It is an answer, of a server that offers recursion.
        header[2] = header[2] & 0x79 | 0x80 | if truncated { 2 } else { 0 };
        header[3] = 0x80 | code;
        header[4..].copy_from_slice(&[0, question, 0, 0, 0, 0, 0, 0]);
    }
    answer
}

// Where the first question ends (RFC 1035, 4.1.2); behind the header when there is none.
fn question_end(message: &[u8]) -> usize {
    let mut at = HEADER;
    loop {
        match message.get(at) {
            Some(0) if at > HEADER && message.len() >= at + 5 => return at + 5,
            Some(len @ 1..=63) => at += 1 + usize::from(*len),
            _ => return HEADER.min(message.len()),
        }
    }
}

// Asks the guest to come again over TCP when an answer is longer than its link takes.
fn fitting(answer: &[u8], room: usize) -> Cow<'_, [u8]> {
    if answer.len() <= room {
        return answer.into();
    }
    let code = answer.get(3).map_or(0, |flags| flags & 15);
    answer_without(answer, code, true).into()
}

/// The name servers of a `resolv.conf` (resolv.conf(5)); the host's own when it names none.
pub fn resolvers(text: &str) -> Vec<SocketAddr> {
    let names = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let found: Vec<SocketAddr> = names.filter_map(server).collect();
    if found.is_empty() { vec![(Ipv4Addr::LOCALHOST, PORT).into()] } else { found }
}

// An address, of a link-local one with its interface.
fn server(text: &str) -> Option<SocketAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    match (address.parse().ok()?, zone) {
        (IpAddr::V6(address), Some(zone)) => {
            let index = zone.parse().ok().or_else(|| interface_index(zone))?;
            Some(std::net::SocketAddrV6::new(address, PORT, 0, index).into())
        }
        (address, _) => Some(SocketAddr::new(address, PORT)),
    }
}

fn interface_index(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::packet::Packet;
    use super::*;

    const QUERY: &[u8] =
        b"\xab\xcd\x01\x20\0\x01\0\0\0\0\0\x01\x04kiln\x04test\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\0";

    fn guest() -> SocketAddr {
        "10.0.2.15:4000".parse().unwrap()
    }

    fn ours() -> SocketAddr {
        "10.0.2.3:53".parse().unwrap()
    }

    fn wait(relay: &Relay) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(packet) = relay.look(Instant::now()).pop() {
                return Packet::read(&packet).unwrap().datagram().unwrap().to_vec();
            }
            assert!(Instant::now() < end, "no answer");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_query_goes_to_the_next_server_when_one_refuses_or_is_late() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (silent, good) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
        let servers = vec![closed, silent.local_addr().unwrap(), good.local_addr().unwrap()];
        let relay = Relay::new("test", servers, 1500);
        let now = Instant::now();
        assert_eq!(relay.ask(guest(), ours(), QUERY, now), None);
        let mut bytes = [0; 100];
        // The refusal comes as an error of the first socket.
        let silent_gets = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| silent.recv(&mut bytes).unwrap());
            while !waiting.is_finished() {
                relay.look(now);
                std::thread::yield_now();
            }
            waiting.join().unwrap()
        });
        assert_eq!(&bytes[..silent_gets], QUERY);
        assert!(relay.deadline().unwrap() >= now + PATIENCE);
        relay.look(now + 2 * PATIENCE);
        let (_, from) = good.recv_from(&mut bytes).unwrap();
        good.send_to(b"\xab\xce wrong number", from).unwrap();
        good.send_to(b"\xab\xcd\x81\x80 an answer", from).unwrap();
        assert_eq!(wait(&relay), b"\xab\xcd\x81\x80 an answer");
        assert!(relay.sockets().is_empty());
    }

    #[test]
    fn without_servers_the_guest_is_told_so_at_once() {
        let relay = Relay::new("test", vec![], 1500);
        let answer = relay.ask(guest(), ours(), QUERY, Instant::now()).unwrap();
        let packet = Packet::read(&answer).unwrap();
        assert_eq!((packet.source, packet.destination), (ours().ip(), guest().ip()));
        let message = packet.datagram().unwrap();
        assert_eq!(message, [&b"\xab\xcd\x81\x82\0\x01\0\0\0\0\0\0"[..], &QUERY[12..27]].concat());
        assert!(relay.ask(guest(), ours(), &QUERY[..11], Instant::now()).is_none());
        assert!(relay.ask(guest(), ours(), message, Instant::now()).is_none(), "an answer is no query");
    }

    #[test]
    fn an_answer_too_long_for_the_link_asks_for_tcp() {
        let mut long = QUERY.to_vec();
        long.resize(2000, 7);
        let short = fitting(&long, 1472);
        assert_eq!((short[2] & 2, short.len()), (2, 27));
        assert_eq!(fitting(&long, 2000), long);
        for len in 0..QUERY.len() {
            answer_without(&QUERY[..len], SERVER_FAILURE, true);
        }
        assert_eq!(question_end(&[63; 40]), HEADER);
    }

    #[test]
    fn the_hosts_servers_are_read() {
        let text =
            "# none\nnameserver 9.9.9.9\n nameserver\t::1 # x\nnameserver fe80::1%7\nnameserver nonsense\nsearch x\n";
        let wanted: Vec<SocketAddr> =
            ["9.9.9.9:53", "[::1]:53", "[fe80::1%7]:53"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(resolvers(text), wanted);
        assert_eq!(resolvers("search example.org\n"), ["127.0.0.1:53".parse().unwrap()]);
    }
}
