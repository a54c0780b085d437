//! The link below a connection's TCP: packets go into frames for the card as they are made, without another copy.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};

use kiln_vmm::virtio::net::{ETHERNET, Takes};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use super::super::flows::Key;

/// Longest packet, cut or not: IPv4's total length has 16 bits (RFC 791, 3.1).
const LONGEST: usize = 0xffff;
/// IPv4's and TCP's headers without options.
const HEADERS: usize = 20 + 20;
/// Frames of one turn. A connection that has more to say has other turns; one that would go on for ever is stopped.
const MOST_FRAMES: usize = 256;

/// Who has the frames.
pub(in crate::network::user) trait Sink: Send + Sync {
    /// A connection is no more.
    fn ended(&self, key: Key);
    /// Takes a frame whose packet stands behind room for the link's header. The card is to cut it into segments of
    /// `cut` bytes when that is said.
    fn segment(&self, frame: Vec<u8>, cut: Option<NonZeroU16>);
    /// Whether a frame would find room.
    fn has_room(&self) -> bool;
}

/// What the link can, for a driver that takes such frames.
pub(super) fn capabilities(mtu: u16, takes: Takes) -> DeviceCapabilities {
    let mut can = DeviceCapabilities::default();
    can.medium = Medium::Ip;
    can.max_transmission_unit = mtu.into();
    // Memory damages nothing on the way; what the guest hands on must be right, so the card is told what is missing.
    can.checksum.ipv4 = Checksum::Tx;
    can.checksum.tcp = if takes.checksum { Checksum::None } else { Checksum::Tx };
    // smoltcp 0.14 drops large packets of IPv6, so those are cut as the link wants them.
    can.segmentation.tcpv4 = large(mtu).filter(|_| takes.large4);
    can
}

// The longest packet of whole segments, where it has more than one.
fn large(mtu: u16) -> Option<NonZeroUsize> {
    let segment = usize::from(mtu).checked_sub(HEADERS)?;
    let count = (LONGEST - HEADERS).checked_div(segment)?;
    NonZeroUsize::new(HEADERS + count * segment).filter(|_| count > 1)
}

/// The link while a connection has its turn: one packet of the guest's at most, and the frames that follow from it.
pub(super) struct Wire<'a> {
    pub(super) can: &'a DeviceCapabilities,
    pub(super) packet: Option<&'a [u8]>,
    pub(super) sink: &'a dyn Sink,
    /// Frames go out whether there is room or not: a few short ones, which the guest must not miss.
    pub(super) insists: bool,
    /// A frame had to wait for room.
    pub(super) stalled: bool,
    /// Frames so far that TCP sends by itself.
    pub(super) frames: usize,
}

impl<'a> Wire<'a> {
    pub(super) fn new(can: &'a DeviceCapabilities, packet: Option<&'a [u8]>, sink: &'a dyn Sink) -> Self {
        Self { can, packet, sink, insists: false, stalled: false, frames: 0 }
    }

    /// It has had as many frames as one turn may.
    pub(super) fn is_spent(&self) -> bool {
        self.frames >= MOST_FRAMES
    }
}

pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

pub(super) struct Outgoing<'a> {
    sink: &'a dyn Sink,
    meta: PacketMeta,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; ETHERNET + len];
        let done = write(frame.get_mut(ETHERNET..).unwrap_or_default());
        self.sink.segment(frame, self.meta.segmentation_offload_size);
        done
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

impl Device for Wire<'_> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        // Its answer finds room: it is short, and there is one.
        let packet = self.packet.take()?;
        Some((Incoming(packet), Outgoing { sink: self.sink, meta: PacketMeta::default() }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        if !self.insists && !self.sink.has_room() {
            self.stalled = true;
            return None;
        }
        if self.is_spent() {
            return None;
        }
        self.frames += 1;
        Some(Outgoing { sink: self.sink, meta: PacketMeta::default() })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.can.clone()
    }
}

/// An address and port in TCP's own types.
pub(super) fn endpoint(address: SocketAddr) -> smoltcp::wire::IpEndpoint {
    smoltcp::wire::IpEndpoint::new(address.ip().into(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_packets_are_of_whole_segments() {
        assert_eq!(large(1500).map(NonZeroUsize::get), Some(40 + 44 * 1460));
        assert_eq!((large(65520), large(40), large(0)), (None, None, None));
    }
}
