//! Packets of the Internet's protocols, read, made and readdressed.
//!
//! Sources: RFC 791 (IPv4), RFC 8200 (IPv6), RFC 768 (UDP), RFC 9293 (TCP), RFC 1624 (checksums that follow a change).

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use kiln_vmm::virtio::net::{Mac, fold, sum};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP6: u8 = 58;
const FRAGMENT: u8 = 44;
/// Identification of the next IPv4 packet, by which its pieces are known should it be cut (RFC 791, 3.1).
static NEXT_ID: AtomicU16 = AtomicU16::new(1);

pub(super) const TYPE_IPV4: u16 = 0x0800;
pub(super) const TYPE_ARP: u16 = 0x0806;
pub(super) const TYPE_IPV6: u16 = 0x86dd;

// TCP's flags (RFC 9293, 3.1).
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;
/// Where the checksum stands in a segment (RFC 9293, 3.1).
pub(super) const TCP_CHECKSUM: usize = 16;

const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
const UDP_LEN: usize = 8;
/// Hops that a packet may make; 255 says that it made none (RFC 4861, 6.1.1).
const HOPS: u8 = 255;

/// Whether a segment with such flags asks for a connection.
pub(super) fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// A packet taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// It is a part of a packet.
    pub(super) fragment: bool,
    /// What stands behind its headers.
    pub(super) payload: &'a [u8],
    /// Where that begins, and where it ends.
    pub(super) span: (usize, usize),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// The bytes at a place, where there are as many.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.as_array().copied()
}

impl<'a> Packet<'a> {
    /// Takes a packet apart; bytes behind its end are no part of it.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::read4(bytes),
            6 => Self::read6(bytes),
            _ => None,
        }
    }

    fn read4(bytes: &'a [u8]) -> Option<Self> {
        let start = usize::from(bytes.first()? & 15) * 4;
        let end = usize::from(u16_at(bytes, 2)?);
        if start < V4_LEN {
            return None;
        }
        Some(Self {
            source: array::<4>(bytes, 12)?.into(),
            destination: array::<4>(bytes, 16)?.into(),
            protocol: *bytes.get(9)?,
            // More fragments, or an offset.
            fragment: u16_at(bytes, 6)? & 0x3fff != 0,
            payload: bytes.get(start..end)?,
            span: (start, end),
        })
    }

    fn read6(bytes: &'a [u8]) -> Option<Self> {
        let end = V6_LEN + usize::from(u16_at(bytes, 4)?);
        let (mut protocol, mut start) = (*bytes.get(6)?, V6_LEN);
        let fragment = protocol == FRAGMENT;
        if fragment {
            protocol = *bytes.get(V6_LEN)?;
            start += 8;
        }
        Some(Self {
            source: array::<16>(bytes, 8)?.into(),
            destination: array::<16>(bytes, 24)?.into(),
            protocol,
            fragment,
            payload: bytes.get(start..end)?,
            span: (start, end),
        })
    }

    /// Source and destination port of TCP and UDP.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        let has = matches!(self.protocol, TCP | UDP) && !self.fragment;
        has.then(|| Some((u16_at(self.payload, 0)?, u16_at(self.payload, 2)?)))?
    }

    /// TCP's flags.
    pub(super) fn flags(&self) -> u8 {
        self.payload.get(13).copied().unwrap_or_default()
    }

    /// The number of a segment's first byte.
    pub(super) fn sequence(&self) -> Option<u32> {
        array(self.payload, 4).map(u32::from_be_bytes)
    }

    /// Bytes of TCP's header.
    pub(super) fn tcp_header(&self) -> usize {
        usize::from(self.payload.get(12).copied().unwrap_or_default() >> 4) * 4
    }

    /// Sum of the pseudo header, which stands where the checksum is to come (RFC 9293, 3.1; RFC 8200, 8.1).
    pub(super) fn pseudo_sum(&self) -> u16 {
        fold(pseudo(self.source, self.destination, self.protocol, self.payload.len()))
    }

    /// What a UDP datagram carries, if it is undamaged.
    pub(super) fn datagram(&self) -> Option<&'a [u8]> {
        let len = usize::from(u16_at(self.payload, 4)?);
        // A checksum of zero says that there is none (RFC 768).
        let is_right = u16_at(self.payload, 6)? == 0 || self.is_right();
        self.payload.get(UDP_LEN..len).filter(|_| is_right)
    }

    /// Whether its checksum fits, which covers the addresses as well (RFC 9293, 3.1; RFC 8200, 8.1).
    pub(super) fn is_right(&self) -> bool {
        let all = pseudo(self.source, self.destination, self.protocol, self.payload.len()) + sum(self.payload);
        fold(all) == 0xffff
    }
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(source) + address(destination) + u64::from(protocol) + len as u64
}

/// Writes a transport's checksum, whose field holds zeros.
fn write_checksum(payload: &mut [u8], field: usize, covered: u64) {
    let value = match !fold(covered + sum(payload)) {
        0 => 0xffff,
        value => value,
    };
    if let Some(place) = payload.get_mut(field..field + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// Writes bytes over others; nothing happens where there aren't as many.
pub(super) fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + new.len()) {
        place.copy_from_slice(new);
    }
}

/// A packet around a payload. Source and destination are of one family, else it is empty.
pub(super) fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(V6_LEN + payload.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = (V4_LEN + payload.len()) as u16;
            bytes.extend([0x45, 0]);
            bytes.extend(len.to_be_bytes());
            bytes.extend(NEXT_ID.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            bytes.extend([0, 0, HOPS, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            let value = !fold(sum(&bytes));
            if let Some(place) = bytes.get_mut(10..12) {
                place.copy_from_slice(&value.to_be_bytes());
            }
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend((payload.len() as u16).to_be_bytes());
            bytes.extend([protocol, HOPS]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        _ => return bytes,
    }
    bytes.extend(payload);
    bytes
}

/// A UDP packet.
pub(super) fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let len = UDP_LEN + data.len();
    let mut payload = Vec::with_capacity(len);
    payload.extend(source.port().to_be_bytes());
    payload.extend(destination.port().to_be_bytes());
    payload.extend((len as u16).to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(data);
    write_checksum(&mut payload, 6, pseudo(source.ip(), destination.ip(), UDP, len));
    packet(source.ip(), destination.ip(), UDP, &payload)
}

/// An ICMP or ICMPv6 packet around a message whose checksum's field holds zeros.
pub(super) fn icmp(source: IpAddr, destination: IpAddr, mut message: Vec<u8>) -> Vec<u8> {
    let protocol = if source.is_ipv4() { ICMP } else { ICMP6 };
    // ICMP covers its message alone (RFC 792), ICMPv6 the addresses as well (RFC 4443, 2.3).
    let covered = if source.is_ipv4() { 0 } else { pseudo(source, destination, protocol, message.len()) };
    write_checksum(&mut message, 2, covered);
    packet(source, destination, protocol, &message)
}

/// An address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
}

/// Gives a datagram's packet another address of the same family, and its checksums what follows from it.
pub(super) fn readdress(bytes: &mut [u8], side: Side, address: IpAddr) {
    let Some((protocol, start)) = Packet::read(bytes).map(|p| (if p.fragment { 0 } else { p.protocol }, p.span.0))
    else {
        return;
    };
    let new = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let at = match (address.is_ipv4(), side) {
        (true, Side::Source) => 12,
        (true, Side::Destination) => 16,
        (false, Side::Source) => 8,
        (false, Side::Destination) => 24,
    };
    let Some(place) = bytes.get_mut(at..at + new.len()) else { return };
    let old = place.to_vec();
    place.copy_from_slice(&new);
    if address.is_ipv4() {
        adjust(bytes, 10, &old, &new);
    }
    match protocol {
        // Zero says that there is none (RFC 768).
        UDP if u16_at(bytes, start + 6) != Some(0) => adjust(bytes, start + 6, &old, &new),
        ICMP6 => adjust(bytes, start + 2, &old, &new),
        _ => {}
    }
}

// Equation 3 of RFC 1624.
fn adjust(bytes: &mut [u8], field: usize, old: &[u8], new: &[u8]) {
    let Some(value) = u16_at(bytes, field) else { return };
    let value = !fold(u64::from(!value) + u64::from(!fold(sum(old))) + sum(new));
    if let Some(place) = bytes.get_mut(field..field + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// A frame around a packet, or around anything else of that type.
pub(super) fn frame(destination: Mac, source: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(14 + payload.len());
    bytes.extend(destination);
    bytes.extend(source);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A frame taken apart: source, type and payload.
pub(super) fn open_frame(bytes: &[u8]) -> Option<(Mac, u16, &[u8])> {
    Some((array(bytes, 6)?, u16_at(bytes, 12)?, bytes.get(14..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_packet_that_is_made_reads_back_and_is_right() {
        for (from, to) in [("10.0.2.3:53", "10.0.2.15:4000"), ("[fd00::3]:53", "[fd00::15]:4000")] {
            let mut bytes = udp(at(from), at(to), b"seven b");
            let packet = Packet::read(&bytes).unwrap();
            assert_eq!((packet.source, packet.destination), (at(from).ip(), at(to).ip()));
            assert_eq!((packet.ports(), packet.datagram()), (Some((53, 4000)), Some(&b"seven b"[..])));
            assert!(packet.is_right() && !packet.fragment);
            *bytes.last_mut().unwrap() ^= 1;
            assert_eq!(Packet::read(&bytes).unwrap().datagram(), None, "damaged");
        }
        let header = packet(at("10.0.2.3:0").ip(), at("10.0.2.15:0").ip(), TCP, &[]);
        assert_eq!(fold(sum(&header)), 0xffff);
    }

    #[test]
    fn a_readdressed_packet_stays_right() {
        for (from, to, new) in [("10.0.2.15:1", "10.0.2.2:2", "127.0.0.1"), ("[fd00::1]:1", "[fd00::2]:2", "::1")] {
            for side in [Side::Source, Side::Destination] {
                let mut bytes = udp(at(from), at(to), b"content");
                readdress(&mut bytes, side, new.parse().unwrap());
                let packet = Packet::read(&bytes).unwrap();
                let changed = if side == Side::Source { packet.source } else { packet.destination };
                assert_eq!(changed, new.parse::<IpAddr>().unwrap());
                assert!(packet.is_right());
                assert!(from.starts_with('[') || fold(sum(&bytes[..20])) == 0xffff);
            }
        }
    }

    #[test]
    fn what_is_no_packet_is_none() {
        let good = udp(at("10.0.2.3:53"), at("10.0.2.15:4000"), b"seven b");
        assert!((0..good.len()).all(|len| Packet::read(&good[..len]).is_none()));
        let longer = [&good[..], &[0; 20]].concat();
        assert_eq!(Packet::read(&longer).unwrap().payload.len(), 15, "padding is no part of it");
        let mut bytes = good.clone();
        bytes[0] = 0x44;
        assert_eq!(Packet::read(&bytes), None);
        let mut bytes = good;
        bytes[6] = 0x20;
        let packet = Packet::read(&bytes).unwrap();
        assert!(packet.fragment && packet.ports().is_none());
    }
}
