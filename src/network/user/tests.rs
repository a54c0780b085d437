//! The network as a guest meets it. The guest's TCP is pktkit's client, and what it reaches is this host's loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kiln_vmm::virtio::net::{Mac, Network, Offload, Received, Takes};
use parking_lot::Mutex;
use pktkit::vclient::{Client, ClientConfig, TcpConn};
use pktkit::{IpPrefix, L3Device, Packet as Bytes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sha2::{Digest, Sha256};

use super::addresses::*;
use super::packet::{self, Packet, TYPE_IPV4};
use super::{Settings, UserNetwork, dhcp};
use crate::network::Forward;

const CARD: Mac = [0x52, 0x54, 0, 7, 7, 7];
const PATIENCE: Duration = Duration::from_secs(30);

fn settings() -> Settings {
    Settings {
        number: 0,
        label: "test".into(),
        machine: "web".into(),
        mac: CARD,
        mtu: 65520,
        flows: 16,
        outside: false,
        host_loopback: true,
        resolvers: Vec::new(),
        forwards: Vec::new(),
    }
}

/// A guest: a TCP/IP client, and the frames that are not for it.
struct Guest {
    network: Arc<UserNetwork>,
    client: Arc<Client>,
    others: Arc<Mutex<Vec<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// Does what a frame's sender has left to do, as a guest does: fills in the checksum, or cuts the segment up first.
fn finish(frame: Received) -> Vec<Vec<u8>> {
    let Received { bytes, offload } = frame;
    let Some(partial) = offload.checksum else {
        assert_eq!(offload.large, None);
        return vec![bytes];
    };
    let Some(large) = offload.large else {
        let mut bytes = bytes;
        partial.fill(&mut bytes);
        return vec![bytes];
    };
    let (headers, data) = bytes.split_at(large.headers.into());
    let (start, last) = (usize::from(partial.start), data.len().div_ceil(large.size.into()) - 1);
    let sequence = u32::from_be_bytes(*headers[start + 4..].first_chunk().unwrap());
    let cut = |(number, part): (usize, &[u8])| {
        let at = sequence.wrapping_add((number * usize::from(large.size)) as u32);
        let mut segment = headers[start..].to_vec();
        segment[4..8].copy_from_slice(&at.to_be_bytes());
        if number != last {
            segment[13] &= !(packet::FIN | 8);
        }
        segment[16..18].copy_from_slice(&[0, 0]);
        segment.extend(part);
        let whole = Packet::read(&bytes[14..]).unwrap();
        let mut piece = packet::packet(whole.source, whole.destination, packet::TCP, &segment);
        let sum = Packet::read(&piece).unwrap().pseudo_sum();
        packet::put(&mut piece, start - 14 + 16, &sum.to_be_bytes());
        let mut frame = packet::frame(CARD, HOST_MAC, TYPE_IPV4, &piece);
        partial.fill(&mut frame);
        frame
    };
    data.chunks(large.size.into()).enumerate().map(cut).collect()
}

impl Guest {
    fn on(settings: Settings) -> Self {
        Self::taking(settings, Takes::default())
    }

    fn taking(settings: Settings, takes: Takes) -> Self {
        let mtu = settings.mtu;
        let network = UserNetwork::start(settings).unwrap();
        network.begin(takes);
        let client = Client::new(ClientConfig::default().prefix(IpPrefix::new(GUEST.into(), 24)).mtu(mtu.into()));
        let card = network.clone();
        client.set_handler(Arc::new(move |bytes: &Bytes| {
            let mut frame = packet::frame(HOST_MAC, CARD, TYPE_IPV4, bytes.as_bytes());
            card.send(&mut frame, Offload::default());
            Ok(())
        }));
        let (others, ended) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::new(AtomicBool::new(false)));
        let (card, to, others_too, end) = (network.clone(), client.clone(), others.clone(), ended.clone());
        let reader = std::thread::spawn(move || {
            while !end.load(Ordering::Acquire) {
                let event = card.waiting();
                let tick = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&tick)).unwrap();
                while let Some(frame) = card.receive() {
                    for bytes in finish(frame) {
                        let packet = Packet::read(&bytes[14..]).unwrap();
                        let is_tcp = packet.protocol == packet::TCP;
                        assert!(bytes.len() <= 14 + usize::from(mtu) && (!is_tcp || packet.is_right()));
                        match is_tcp {
                            true => drop(to.send(Bytes::from_slice(&bytes[14..]))),
                            false => others_too.lock().push(bytes),
                        }
                    }
                }
            }
        });
        Self { network, client, others, ended, reader: Some(reader) }
    }

    fn send(&self, packet: &[u8]) -> bool {
        let kind = if packet[0] >> 4 == 4 { TYPE_IPV4 } else { packet::TYPE_IPV6 };
        self.network.send(&mut packet::frame(HOST_MAC, CARD, kind, packet), Offload::default())
    }

    /// The next packet that isn't TCP.
    fn receives(&self) -> Vec<u8> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut others = self.others.lock();
            if !others.is_empty() {
                return others.remove(0).split_off(14);
            }
            drop(others);
            assert!(Instant::now() < end, "nothing comes");
            std::thread::yield_now();
        }
    }

    fn connects(&self, to: impl Into<SocketAddr>) -> std::io::Result<TcpConn> {
        self.client.dial_tcp(to.into())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.reader.take().unwrap().join().unwrap();
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(len).collect()
}

#[test]
fn tens_of_megabytes_come_through_both_ways_unchanged() {
    let all = Takes { checksum: true, large4: true, large6: true };
    for (mtu, takes) in [(65520, Takes::default()), (65520, all), (1500, Takes::default()), (1500, all)] {
        let guest = Guest::taking(Settings { mtu, ..settings() }, takes);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let sent = noise(24 << 20);
        let digest = Sha256::digest(&sent);
        // It takes everything, says what it got, and sends it back.
        let echo = std::thread::spawn(move || {
            let mut stream = server.accept().unwrap().0;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&Sha256::digest(&all)).unwrap();
            stream.write_all(&all).unwrap();
        });
        let stream = guest.connects((GATEWAY, port)).unwrap();
        let mut rest = &sent[..];
        while !rest.is_empty() {
            rest = &rest[stream.write(rest).unwrap()..];
        }
        stream.close().unwrap();
        let mut back = Vec::new();
        (&mut &stream as &mut dyn ReadConn).read_to_end(&mut back);
        echo.join().unwrap();
        assert_eq!(back.len(), 32 + sent.len());
        assert!(back[..32] == digest[..] && Sha256::digest(&back[32..]) == digest, "at {mtu}, {takes:?}");
        assert!(!guest.network.shared.connections.has_failed());
    }
}

#[test]
fn a_server_that_takes_its_time_is_waited_for() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    // Room for one that waits; another one's call is lost until then, and comes again after a second.
    rustix::net::listen(&server, 0).unwrap();
    let first = TcpStream::connect(address).unwrap();
    let guest = Guest::on(settings());
    std::thread::scope(|scope| {
        let dialling = scope.spawn(|| guest.connects((GATEWAY, address.port())));
        while guest.network.shared.connections.is_empty() {
            std::thread::yield_now();
        }
        drop(server.accept().unwrap());
        let stream = dialling.join().unwrap().unwrap();
        stream.write(b"late").unwrap();
        let mut bytes = [0; 4];
        server.accept().unwrap().0.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"late");
    });
    drop(first);
}

trait ReadConn {
    fn read_to_end(&mut self, to: &mut Vec<u8>);
}

impl ReadConn for &TcpConn {
    fn read_to_end(&mut self, to: &mut Vec<u8>) {
        let mut bytes = vec![0; 1 << 16];
        loop {
            match self.read(&mut bytes).unwrap() {
                0 => return,
                len => to.extend(&bytes[..len]),
            }
        }
    }
}

#[test]
fn the_hosts_loopback_is_reached_by_the_gateway_alone_and_only_when_asked_for() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let open = Guest::on(settings());
    open.connects((GATEWAY, port)).unwrap();
    server.accept().unwrap();
    for (guest, addresses) in [
        (open, vec![IpAddr::from([127, 0, 0, 1]), DNS.into(), [169, 254, 169, 254].into(), [10, 0, 2, 77].into()]),
        (
            Guest::on(Settings { host_loopback: false, outside: true, ..settings() }),
            vec![GATEWAY.into(), [127, 0, 0, 1].into(), [127, 9, 9, 9].into(), [0, 0, 0, 0].into()],
        ),
    ] {
        for address in addresses {
            let dialled = guest.client.dial_tcp_timeout(SocketAddr::new(address, port), Duration::from_secs(1));
            assert!(dialled.is_err(), "{address}");
        }
    }
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "somebody got through");
}

#[test]
fn a_datagram_to_the_hosts_loopback_and_back() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let gateway = SocketAddr::new(GATEWAY.into(), port);
    let guest = Guest::on(settings());
    assert!(guest.send(&packet::udp(at("10.0.2.15:4000"), gateway, b"hello")));
    let mut bytes = [0; 100];
    let (len, from) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"hello");
    server.send_to(b"hello yourself", from).unwrap();
    let answer = guest.receives();
    let answer = Packet::read(&answer).unwrap();
    assert_eq!((answer.source, answer.ports()), (GATEWAY.into(), Some((port, 4000))));
    assert_eq!(answer.datagram(), Some(&b"hello yourself"[..]));
    // Closed to this one, which is told.
    let guest = Guest::on(Settings { host_loopback: false, ..settings() });
    guest.send(&packet::udp(at("10.0.2.15:4000"), gateway, b"hello"));
    let told = guest.receives();
    assert_eq!(Packet::read(&told).unwrap().payload[..2], [3, 3]);
    guest.send(&packet::udp(at("10.0.2.15:4000"), at("169.254.169.254:80"), b"hello"));
    let told = guest.receives();
    assert_eq!(Packet::read(&told).unwrap().payload[..2], [3, 13]);
}

#[test]
fn the_guest_gets_its_address_and_its_neighbours_answer() {
    let guest = Guest::on(settings());
    let mut discover = vec![1, 1, 6, 0, 1, 2, 3, 4];
    discover.resize(28, 0);
    discover.extend(CARD);
    discover.resize(236, 0);
    discover.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    let from = SocketAddr::new([0, 0, 0, 0].into(), 68);
    guest.send(&packet::udp(from, SocketAddr::new([255; 4].into(), dhcp::SERVER), &discover));
    let offer = guest.receives();
    assert_eq!(Packet::read(&offer).unwrap().datagram().unwrap()[16..20], GUEST.octets());
    let mut request = discover;
    request.splice(242..243, [3, 50, 4, 10, 0, 2, 15]);
    guest.send(&packet::udp(from, SocketAddr::new([255; 4].into(), dhcp::SERVER), &request));
    guest.receives();
    let leases = guest.network.leases();
    assert_eq!((leases[0].mac.as_str(), leases[0].address), ("52:54:00:07:07:07", GUEST.into()));
    let ping = packet::icmp(GUEST.into(), GATEWAY.into(), b"\x08\0\0\0\0\x01\0\x01ping".to_vec());
    assert!(guest.send(&ping));
    let pong = guest.receives();
    assert_eq!(Packet::read(&pong).unwrap().payload[8..], *b"ping");
    let station = "fe80::5054:ff:fe07:707".parse::<IpAddr>().unwrap();
    assert!(guest.send(&packet::icmp(station, "ff02::2".parse().unwrap(), vec![133, 0, 0, 0, 0, 0, 0, 0])));
    let advertisement = guest.receives();
    assert_eq!((Packet::read(&advertisement).unwrap().payload[0], advertisement[7]), (134, 255));
    assert!(!guest.send(&packet::udp(at("192.168.7.7:1"), at("10.0.2.3:53"), b"from nowhere")));
}

#[test]
fn a_forwarded_port_leads_to_the_guest() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let guest = Guest::on(Settings { forwards: vec![Forward::Tcp(listener, 80)], ..settings() });
    // Nobody listens in the guest: the connection breaks.
    let mut stream = TcpStream::connect(address).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let server = guest.client.listen_tcp(80).unwrap();
    for round in 0..3u8 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"to the guest").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let inside = server.accept().unwrap();
        assert_eq!(inside.peer_addr().ip(), IpAddr::from(GATEWAY));
        let mut got = Vec::new();
        (&mut &inside as &mut dyn ReadConn).read_to_end(&mut got);
        assert_eq!(got, b"to the guest");
        let answer = vec![round; 1 << 20];
        let mut rest = &answer[..];
        while !rest.is_empty() {
            rest = &rest[inside.write(rest).unwrap()..];
        }
        inside.close().unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == answer);
    }
}

#[test]
fn a_forwarded_connection_that_breaks_ends_for_the_guest() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let guest = Guest::on(Settings { forwards: vec![Forward::Tcp(listener, 80)], ..settings() });
    let server = guest.client.listen_tcp(80).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    let inside = server.accept().unwrap();
    inside.set_read_timeout(Some(PATIENCE));
    super::tcp::reset(&stream);
    drop(stream);
    let heard = inside.read(&mut [0; 1]).map_err(|error| error.kind());
    assert!(!matches!(heard, Ok(1..) | Err(ErrorKind::WouldBlock)), "{heard:?}");
}

#[test]
fn a_forwarded_datagram_is_answered_to_whoever_sent_it() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let guest = Guest::on(Settings { forwards: vec![Forward::Udp(socket, 53)], ..settings() });
    let peers = [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()];
    for (number, peer) in (b'0'..).zip(&peers) {
        peer.send_to(&[number], address).unwrap();
    }
    for _ in &peers {
        let bytes = guest.receives();
        let packet = Packet::read(&bytes).unwrap();
        assert_eq!((packet.source, packet.ports().unwrap().1), (GATEWAY.into(), 53));
        let (from, data) = (packet.ports().unwrap().0, packet.datagram().unwrap());
        let answer = [b"answer ", data].concat();
        guest.send(&packet::udp(at("10.0.2.15:53"), SocketAddr::new(GATEWAY.into(), from), &answer));
    }
    for (number, peer) in (b'0'..).zip(&peers) {
        let mut bytes = [0; 20];
        let len = peer.recv(&mut bytes).unwrap();
        assert_eq!(bytes[..len], [b"answer ", &[number][..]].concat());
    }
}

#[test]
fn the_name_server_asks_the_hosts_over_udp_and_tcp() {
    let (udp, tcp) = (UdpSocket::bind("[::1]:0").unwrap(), TcpListener::bind("[::1]:0").unwrap());
    let guest = Guest::on(Settings { resolvers: vec![udp.local_addr().unwrap()], ..settings() });
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04kiln\0\0\x01\0\x01";
    assert!(guest.send(&packet::udp(at("10.0.2.15:4000"), at("10.0.2.3:53"), query)));
    let mut bytes = [0; 100];
    let (len, from) = udp.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], query);
    udp.send_to(b"\x12\x34\x81\x80 an answer", from).unwrap();
    let answer = guest.receives();
    let answer = Packet::read(&answer).unwrap();
    assert_eq!((answer.source, answer.ports()), (DNS.into(), Some((53, 4000))));
    assert_eq!(answer.datagram(), Some(&b"\x12\x34\x81\x80 an answer"[..]));
    drop(guest);
    let guest = Guest::on(Settings { resolvers: vec![tcp.local_addr().unwrap()], ..settings() });
    let stream = guest.connects((DNS, 53)).unwrap();
    stream.write(b"over tcp").unwrap();
    let mut server = tcp.accept().unwrap().0;
    server.read_exact(&mut bytes[..8]).unwrap();
    server.write_all(b"as well").unwrap();
    drop(server);
    let mut got = Vec::new();
    (&mut &stream as &mut dyn ReadConn).read_to_end(&mut got);
    assert_eq!((&bytes[..8], &got[..]), (&b"over tcp"[..], &b"as well"[..]));
}

#[test]
fn connections_past_the_limit_wait_for_an_end() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let guest = Guest::on(Settings { flows: 4, ..settings() });
    let open: Vec<_> = (0..4).map(|_| guest.connects((GATEWAY, port)).unwrap()).collect();
    let accepted: Vec<_> = (0..4).map(|_| server.accept().unwrap()).collect();
    let late = guest.client.dial_tcp_timeout((GATEWAY, port).into(), Duration::from_millis(300));
    assert!(late.is_err());
    std::thread::scope(|scope| {
        let late = scope.spawn(|| guest.connects((GATEWAY, port)));
        drop((open, accepted));
        late.join().unwrap().unwrap();
    });
}

#[test]
fn another_driver_finds_a_fresh_network() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let guest = Guest::on(settings());
    let stream = guest.connects((GATEWAY, server.local_addr().unwrap().port())).unwrap();
    let mut accepted = server.accept().unwrap().0;
    guest.network.begin(Default::default());
    assert!(guest.network.shared.flows.lock().is_empty());
    // The host's end is told that nobody is there any more.
    assert!(!matches!(accepted.read(&mut [0; 1]), Ok(1..)));
    drop(stream);
}

#[test]
fn what_a_guest_says_counts_no_connection_that_is_not_there_and_forgets_none_that_is() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let network = UserNetwork::start(Settings { flows: 1, ..settings() }).unwrap();
    let send = |from: u16, at: u32, acknowledged: u32, flags: u8| {
        let mut segment = [from.to_be_bytes(), port.to_be_bytes()].concat();
        segment.extend(at.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let packet = packet::packet(GUEST.into(), GATEWAY.into(), packet::TCP, &segment);
        network.send(&mut packet::frame(HOST_MAC, CARD, TYPE_IPV4, &packet), Offload::default())
    };
    let answer = || {
        let event = network.waiting();
        let tick = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&tick)).unwrap();
        let frame = network.receive().expect("an answer").bytes;
        let packet = Packet::read(&frame[14..]).unwrap();
        (packet.ports().unwrap().1, packet.flags(), packet.sequence().unwrap())
    };
    assert!(send(4000, 1, 0, packet::SYN));
    let (to, flags, number) = answer();
    assert_eq!((to, flags), (4000, packet::SYN | packet::ACK));
    // Numbers of nobody's, and a word for an end without one: there is one connection, and no room for another.
    for flags in [packet::RST, packet::FIN | packet::ACK] {
        send(4000, 77_777_777, 0, flags);
    }
    assert!(!send(4001, 1, 0, packet::SYN));
    assert!(send(4000, 2, number.wrapping_add(1), packet::ACK));
    let stream = server.accept().unwrap().0;
    // The guest ends its side, forgets the rest, and comes again from the same port.
    assert!(send(4000, 2, number.wrapping_add(1), packet::FIN | packet::ACK));
    let mut end = [0; 1];
    assert_eq!((&stream).read(&mut end).unwrap(), 0);
    while network.receive().is_some() {}
    assert!(send(4000, 9_000, 0, packet::SYN));
    assert_eq!(answer().1, packet::SYN | packet::ACK);
    server.accept().unwrap();
    assert!(!send(4001, 1, 0, packet::SYN), "it counts as before");
    assert!(send(4000, 9_001, 0, packet::RST) && send(4001, 1, 0, packet::SYN));
    assert_eq!(answer().0, 4001);
}
