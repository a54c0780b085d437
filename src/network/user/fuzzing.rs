//! Body of the fuzz target of frames: a guest that sends anything to a network that leads nowhere.

#![allow(clippy::expect_used)] // Failing is how a finding shows.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use kiln_vmm::virtio::net::{LONGEST, Network, Offload, Partial, Takes};

use super::addresses::*;
use super::packet::Packet;
use super::{UserNetwork, dns, packet};
use crate::network::Settings;

/// Frames of one input.
const MOST: usize = 64;

/// Bytes, taken from the front; zeros when they have run out.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    fn port(&mut self) -> u16 {
        [53, 67, 68, 80, 547, 20_000, u16::from(self.byte())][usize::from(self.byte() % 7)]
    }
}

/// A network, and a name server of the host's, which takes connections and says something.
struct World {
    network: Arc<UserNetwork>,
    server: TcpListener,
}

/// What the guest has heard last of a connection to the name server: its port, and the next numbers of both sides.
#[derive(Clone, Copy)]
struct Heard {
    port: u16,
    own: u32,
    other: u32,
}

impl Heard {
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = Packet::read(frame.get(14..)?).filter(|packet| packet.protocol == packet::TCP)?;
        let number = |at: usize| packet::array(packet.payload, at).map(u32::from_be_bytes);
        let data = packet.payload.len().saturating_sub(packet.tcp_header()) as u32;
        let counts = (packet.flags() & (packet::SYN | packet::FIN)).count_ones();
        Some(Self {
            port: packet.ports()?.1,
            own: number(8)?,
            other: number(4)?.wrapping_add(data).wrapping_add(counts),
        })
    }
}

// A segment of a connection to the name server: its first, or one that goes on from what was heard, nearly.
fn segment(input: &mut Input<'_>, heard: Option<Heard>) -> Vec<u8> {
    let heard = heard.filter(|_| input.byte() < 200);
    let Heard { port, own, other } = heard.unwrap_or(Heard { port: 1024 + u16::from(input.byte()), own: 0, other: 0 });
    let near = |input: &mut Input<'_>, number: u32| match input.byte() {
        near @ ..32 => number.wrapping_add_signed(i32::from(near) - 16),
        far @ 32..40 => number.wrapping_add(u32::from(far) << 24),
        far @ 40..56 => number.wrapping_add((u32::from(far) - 39) << 16),
        _ => number,
    };
    let (own, other) = (near(input, own), near(input, other));
    let flags = match (heard, input.byte()) {
        (None, _) => packet::SYN,
        (_, flags @ ..0x40) => flags,
        (_, 0x40..0x50) => packet::ACK | packet::FIN,
        _ => packet::ACK,
    };
    let options = match input.byte() {
        len @ ..11 => input.bytes(usize::from(len) * 4),
        11..32 => Vec::new(),
        // The longest segment, the window's scale, selective acknowledgements (RFC 9293, 3.2; RFC 7323, 2.2; RFC 2018, 2).
        value => vec![2, 4, input.byte(), input.byte(), 1, 3, 3, value % 16, 1, 1, 4, 2],
    };
    let mut bytes = [port.to_be_bytes(), dns::PORT.to_be_bytes()].concat();
    bytes.extend(own.to_be_bytes());
    bytes.extend(other.to_be_bytes());
    bytes.extend([(5 + options.len() / 4) as u8 * 16, flags, input.byte(), input.byte(), 0, 0, 0, 0]);
    bytes.extend(&options);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let len = usize::from(input.byte());
    bytes.extend(input.bytes(len));
    let packet = packet::packet(GUEST.into(), DNS.into(), packet::TCP, &bytes);
    packet::frame(HOST_MAC, [0x52, 0x54, 0, 0, 0, 1], packet::TYPE_IPV4, &packet)
}

fn world() -> World {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    server.set_nonblocking(true).expect("a socket");
    let resolvers = vec![server.local_addr().expect("an address")];
    World { network: network(resolvers), server }
}

fn network(resolvers: Vec<SocketAddr>) -> Arc<UserNetwork> {
    let settings = Settings {
        number: 0,
        label: "fuzz".into(),
        machine: "fuzz".into(),
        mac: [0x52, 0x54, 0, 0, 0, 1],
        mtu: 1500,
        flows: 8,
        outside: false,
        host_loopback: false,
        resolvers,
        forwards: Vec::new(),
    };
    UserNetwork::start(settings).expect("a descriptor and a thread")
}

fn address(input: &mut Input<'_>, v6: bool) -> IpAddr {
    let choice = usize::from(input.byte() % 8);
    match v6 {
        false => [
            GATEWAY,
            DNS,
            GUEST,
            BROADCAST,
            [127, 0, 0, 1].into(),
            [9, 9, 9, 9].into(),
            [0; 4].into(),
            [224, 0, 0, 1].into(),
        ][choice]
            .into(),
        true => [GATEWAY6, DNS6, ROUTER6, ALL_NODES, NETWORK6, [0; 16].into(), [254; 16].into(), [32; 16].into()]
            [choice]
            .into(),
    }
}

// A payload of a protocol: a sound one, or bytes as they come.
fn payload(input: &mut Input<'_>, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let len = usize::from(input.byte()) * if input.byte() < 8 { 200 } else { 1 };
    match input.byte() % 4 {
        0 => {
            let (from, to) = (SocketAddr::new(from, input.port()), SocketAddr::new(to, input.port()));
            packet::udp(from, to, &input.bytes(len))
        }
        1 => packet::icmp(from, to, [vec![input.byte(), input.byte(), 0, 0], input.bytes(len)].concat()),
        2 => {
            let mut segment = [input.port().to_be_bytes(), input.port().to_be_bytes()].concat();
            segment.extend(input.bytes(8));
            segment.extend([input.byte(), input.byte() & 0x3f]);
            segment.extend(input.bytes(len + 6));
            segment.resize(segment.len().max(20), 0);
            packet::packet(from, to, packet::TCP, &segment)
        }
        _ => packet::packet(from, to, input.byte(), &input.bytes(len)),
    }
}

fn frame(input: &mut Input<'_>, heard: Option<Heard>) -> Vec<u8> {
    let shape = input.byte();
    if shape >= 128 {
        return segment(input, heard);
    }
    if shape < 16 {
        let len = usize::from(input.byte());
        return input.bytes(len);
    }
    let v6 = shape & 1 != 0;
    let (from, to) = (address(input, v6), address(input, v6));
    let mut bytes = match shape & 6 {
        0 => [&[0, 1, 8, 0, 6, 4, 0][..], &input.bytes(21)].concat(),
        _ => payload(input, from, to),
    };
    // Some bytes written over, and the end cut or drawn out.
    for _ in 0..input.byte() % 4 {
        let at = usize::from(input.byte());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = input.byte();
        }
    }
    if shape & 8 != 0 {
        bytes.resize(bytes.len().saturating_add_signed(isize::from(input.byte() as i8)), 0);
    }
    let kind = match (shape & 6, v6) {
        (0, _) => packet::TYPE_ARP,
        (_, true) => packet::TYPE_IPV6,
        (_, false) => packet::TYPE_IPV4,
    };
    packet::frame(HOST_MAC, [0x52, 0x54, 0, 0, 0, input.byte()], kind, &bytes)
}

/// Sends whatever frames the bytes make; what comes back must be frames that a card can be given.
///
/// # Panics
/// On a finding.
pub fn fuzz_frames(bytes: &[u8]) {
    send_all(&world(), bytes);
}

fn send_all(World { network, server }: &World, bytes: &[u8]) {
    let (mut input, mut heard) = (Input(bytes), None);
    let mut streams = Vec::new();
    let takes = input.byte();
    network.begin(Takes { checksum: takes & 1 != 0, large4: takes & 3 == 3, large6: takes & 5 == 5 });
    for _ in 0..MOST {
        if input.0.is_empty() {
            break;
        }
        let mut frame = frame(&mut input, heard);
        let checksum = (input.byte() < 64).then_some(Partial { start: 34, field: 16 });
        network.send(&mut frame, Offload { checksum, ..Offload::default() });
        if let Ok((stream, _)) = server.accept() {
            let _ = (&stream).write(bytes);
            streams.push(stream);
        }
        while let Some(received) = network.receive() {
            assert!((14..=LONGEST).contains(&received.bytes.len()), "{} bytes", received.bytes.len());
            let is_cut = received.offload.large.is_some_and(|large| large.size <= 1460);
            assert!(is_cut || received.bytes.len() <= 14 + 1500, "longer than the link's packets");
            heard = Heard::of(&received.bytes).or(heard);
        }
    }
    assert!(!network.shared.datagrams.has_failed() && !network.shared.connections.has_failed(), "it panicked");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_sends_anything_finds_nothing() {
        // One network for many of them: what an earlier one has left is there for the next. Threads of engines that
        // have ended go some time later, so networks aren't made faster than that.
        let current = std::cell::RefCell::new(world());
        kiln_lab::testing::hostile(400, |seed| {
            if seed % 2000 == 1999 {
                current.replace(world());
            }
            // xorshift64*, the same frames for the same seed.
            let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = || {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
            };
            let bytes: Vec<u8> = (0..200 + seed % 400 * 8).map(|_| next()).collect();
            send_all(&current.borrow(), &bytes);
        });
    }
}
