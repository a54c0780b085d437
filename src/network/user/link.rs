//! What the gateway and the name server answer by themselves: ARP (RFC 826), neighbour discovery and router
//! advertisements (RFC 4861, RFC 8106), echoes (RFC 792, RFC 4443), and word that something can't be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use kiln_vmm::virtio::net::Mac;

use super::addresses::*;
use super::packet::{self, ICMP6, Packet, array};

const ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];

const ECHO: u8 = 8;
const ECHO6: u8 = 128;
const ECHO6_REPLY: u8 = 129;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// From a router, asked for, to be believed.
const ROUTER_SOLICITED_OVERRIDE: u8 = 0xe0;
/// On this link, and good for making an address of (RFC 4861, 4.6.2).
const ON_LINK_AUTONOMOUS: u8 = 0xc0;

const UNREACHABLE: u8 = 3;
const UNREACHABLE6: u8 = 1;
/// As much of a packet as a message about it quotes (RFC 1812, 4.3.2.3).
const QUOTE: usize = 548;

/// Seconds for which a router is one without a new advertisement; they come three times as often.
const ROUTER_LIFETIME: u16 = 1800;
const PREFIX_VALID: u32 = 86_400;
const PREFIX_PREFERRED: u32 = 14_400;

/// A station that ARP tells of, and the answer to it.
pub(super) struct Arp {
    pub(super) sender: (Ipv4Addr, Mac),
    pub(super) answer: Option<Vec<u8>>,
}

/// Reads an ARP message.
pub(super) fn arp(message: &[u8]) -> Option<Arp> {
    message.starts_with(&ARP_HEADER).then_some(())?;
    let (operation, mac, sender, target) =
        (array::<2>(message, 6)?, array(message, 8)?, array::<4>(message, 14)?, array::<4>(message, 24)?);
    let is_ours = matches!(Ipv4Addr::from(target), GATEWAY | DNS);
    let answer = (operation == ARP_REQUEST && is_ours).then(|| {
        let reply = [&ARP_HEADER[..], &ARP_REPLY, &HOST_MAC, &target, &mac, &sender].concat();
        packet::frame(mac, HOST_MAC, packet::TYPE_ARP, &reply)
    });
    Some(Arp { sender: (sender.into(), mac), answer })
}

/// The answer to an echo request to the network's own addresses.
pub(super) fn echo(packet: &Packet<'_>) -> Option<Vec<u8>> {
    let (request, reply) = if packet.protocol == ICMP6 { (ECHO6, ECHO6_REPLY) } else { (ECHO, 0) };
    (!packet.fragment && packet.payload.starts_with(&[request, 0])).then_some(())?;
    let mut message = vec![reply, 0, 0, 0];
    message.extend(packet.payload.get(4..)?);
    Some(packet::icmp(packet.destination, packet.source, message))
}

/// Why something can't be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// Nobody listens.
    Port,
    /// It is not allowed.
    Prohibited,
}

/// Tells the sender of `bytes`, which are `packet`, that it didn't arrive.
pub(super) fn unreachable(bytes: &[u8], packet: &Packet<'_>, why: Unreachable) -> Vec<u8> {
    let v4 = packet.source.is_ipv4();
    // RFC 792 and RFC 1812, 5.2.7.1; RFC 4443, 3.1.
    let (kind, code) = match (v4, why) {
        (true, Unreachable::Port) => (UNREACHABLE, 3),
        (true, Unreachable::Prohibited) => (UNREACHABLE, 13),
        (false, Unreachable::Port) => (UNREACHABLE6, 4),
        (false, Unreachable::Prohibited) => (UNREACHABLE6, 1),
    };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(bytes.iter().take(packet.span.1.min(QUOTE)));
    // Nobody but the gateway speaks for others.
    let from = if v4 { IpAddr::V4(GATEWAY) } else { IpAddr::V6(GATEWAY6) };
    packet::icmp(from, packet.source, message)
}

/// The answer to a message of neighbour discovery; `mtu` is the link's.
pub(super) fn discovery(packet: &Packet<'_>, mtu: u16) -> Option<Vec<u8>> {
    let IpAddr::V6(source) = packet.source else { return None };
    match *packet.payload.first()? {
        ROUTER_SOLICITATION => Some(advertisement(source, mtu)),
        NEIGHBOUR_SOLICITATION => {
            let target = Ipv6Addr::from(array::<16>(packet.payload, 8)?);
            let is_ours = matches!(target, GATEWAY6 | DNS6 | ROUTER6);
            is_ours.then(|| neighbour(target, source))
        }
        _ => None,
    }
}

/// Whether a packet asks for router advertisements.
pub(super) fn solicits_router(packet: &Packet<'_>) -> bool {
    packet.protocol == ICMP6 && packet.payload.first() == Some(&ROUTER_SOLICITATION)
}

fn neighbour(target: Ipv6Addr, asker: Ipv6Addr) -> Vec<u8> {
    // Who asks without an address looks whether this one is free: all are told that it isn't.
    let to = if asker.is_unspecified() { ALL_NODES } else { asker };
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, ROUTER_SOLICITED_OVERRIDE, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(HOST_MAC);
    packet::icmp(target.into(), to.into(), message)
}

/// A router advertisement (RFC 4861, 4.2) for one station, or for all.
pub(super) fn advertisement(to: Ipv6Addr, mtu: u16) -> Vec<u8> {
    let to = if to.is_unspecified() { ALL_NODES } else { to };
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
    // Without IPv6 on the host, guests keep to themselves with it.
    message.extend(if has_ipv6() { ROUTER_LIFETIME } else { 0 }.to_be_bytes());
    message.extend([0; 8]);
    message.extend([1, 1]);
    message.extend(HOST_MAC);
    message.extend([5, 1, 0, 0]);
    message.extend(u32::from(mtu).to_be_bytes());
    message.extend([3, 4, 64, ON_LINK_AUTONOMOUS]);
    message.extend(PREFIX_VALID.to_be_bytes());
    message.extend(PREFIX_PREFERRED.to_be_bytes());
    message.extend([0; 4]);
    message.extend(NETWORK6.octets());
    // The name server (RFC 8106, 5.1).
    message.extend([25, 3, 0, 0]);
    message.extend(PREFIX_VALID.to_be_bytes());
    message.extend(DNS6.octets());
    packet::icmp(ROUTER6.into(), to.into(), message)
}

// Whether the host has a way to the IPv6 Internet. Connecting a datagram socket sends nothing.
fn has_ipv6() -> bool {
    /// An address of the Internet's root servers (a.root-servers.net).
    const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30);
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok_and(|socket| socket.connect((FAR, 53)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATION: Mac = [2, 1, 1, 1, 1, 1];

    #[test]
    fn arp_is_answered_for_our_addresses_alone() {
        let ask = |target: Ipv4Addr| {
            let message =
                [&ARP_HEADER[..], &ARP_REQUEST, &STATION, &GUEST.octets(), &[0; 6], &target.octets()].concat();
            arp(&message).unwrap()
        };
        let told = ask(DNS);
        assert_eq!(told.sender, (GUEST, STATION));
        let frame = told.answer.unwrap();
        assert_eq!((&frame[..6], &frame[6..12], &frame[20..22]), (&STATION[..], &HOST_MAC[..], &ARP_REPLY[..]));
        assert_eq!((&frame[28..32], &frame[38..]), (&DNS.octets()[..], &GUEST.octets()[..]));
        assert!(ask(GUEST).answer.is_none() && ask(Ipv4Addr::new(10, 0, 2, 4)).answer.is_none());
        assert!(arp(&ARP_HEADER).is_none());
    }

    #[test]
    fn echoes_come_back_as_they_went() {
        for (guest, ours, kind, reply) in
            [(IpAddr::V4(GUEST), IpAddr::V4(GATEWAY), ECHO, 0), (NETWORK6.into(), GATEWAY6.into(), ECHO6, ECHO6_REPLY)]
        {
            let bytes = packet::icmp(guest, ours, [&[kind, 0, 0, 0, 1, 2, 3, 4][..], b"payload"].concat());
            let answer = echo(&Packet::read(&bytes).unwrap()).unwrap();
            let answer = Packet::read(&answer).unwrap();
            assert_eq!((answer.source, answer.destination), (ours, guest));
            assert_eq!((answer.payload[0], &answer.payload[4..]), (reply, &b"\x01\x02\x03\x04payload"[..]));
            assert!(ours.is_ipv4() || answer.is_right());
        }
    }

    #[test]
    fn neighbours_and_routers_are_told() {
        let station = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
        let ask = |kind: u8, target: Ipv6Addr| {
            let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
            let bytes = packet::icmp(station.into(), ROUTER6.into(), message);
            discovery(&Packet::read(&bytes).unwrap(), 1500)
        };
        let answer = ask(NEIGHBOUR_SOLICITATION, GATEWAY6).unwrap();
        let answer = Packet::read(&answer).unwrap();
        assert!(answer.is_right());
        assert_eq!((answer.payload[0], answer.payload[4], &answer.payload[26..]), (136, 0xe0, &HOST_MAC[..]));
        assert_eq!(ask(NEIGHBOUR_SOLICITATION, station), None);
        let answer = ask(ROUTER_SOLICITATION, station).unwrap();
        let answer = Packet::read(&answer).unwrap();
        assert!(answer.is_right());
        assert_eq!((answer.source, answer.destination, answer.payload[0]), (ROUTER6.into(), station.into(), 134));
        assert_eq!(answer.payload[24..32], [5, 1, 0, 0, 0, 0, 5, 0xdc]);
        assert_eq!((&answer.payload[48..64], &answer.payload[72..]), (&NETWORK6.octets()[..], &DNS6.octets()[..]));
    }

    #[test]
    fn what_cannot_be_reached_is_told_with_what_was_sent() {
        let bytes = packet::udp("10.0.2.15:5".parse().unwrap(), "127.0.0.1:6".parse().unwrap(), b"hello");
        let told = unreachable(&bytes, &Packet::read(&bytes).unwrap(), Unreachable::Prohibited);
        let told = Packet::read(&told).unwrap();
        assert_eq!((told.source, told.payload[0], told.payload[1]), (GATEWAY.into(), 3, 13));
        assert_eq!(told.payload[8..], bytes);
    }
}
