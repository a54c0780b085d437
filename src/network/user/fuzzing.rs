//! Body of the fuzz target of frames: a guest that sends anything to a network that leads nowhere.

#![allow(clippy::expect_used)] // Failing is how a finding shows.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kiln_vmm::virtio::net::{LONGEST, Network, Offload, Partial};

use super::addresses::*;
use super::{UserNetwork, packet};
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

fn network() -> Arc<UserNetwork> {
    let settings = Settings {
        number: 0,
        label: "fuzz".into(),
        machine: "fuzz".into(),
        mac: [0x52, 0x54, 0, 0, 0, 1],
        mtu: 1500,
        flows: 8,
        outside: false,
        host_loopback: false,
        resolvers: Vec::new(),
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

fn frame(input: &mut Input<'_>) -> Vec<u8> {
    let shape = input.byte();
    if shape < 32 {
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
    send_all(&network(), bytes);
}

fn send_all(network: &UserNetwork, bytes: &[u8]) {
    let mut input = Input(bytes);
    for _ in 0..MOST {
        if input.0.is_empty() {
            break;
        }
        let mut frame = frame(&mut input);
        let checksum = (input.byte() < 64).then_some(Partial { start: 34, field: 16 });
        network.send(&mut frame, Offload { checksum, ..Offload::default() });
        while let Some(received) = network.receive() {
            assert!((14..=LONGEST).contains(&received.bytes.len()), "{} bytes", received.bytes.len());
            assert!(received.bytes.len() <= 14 + 1500, "longer than the link's packets");
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
        let current = std::cell::RefCell::new(network());
        kiln_lab::testing::hostile(400, |seed| {
            if seed % 2000 == 1999 {
                current.replace(network());
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
