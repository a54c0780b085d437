//! Ports of the host that lead to the guest. Connections and datagrams come to the guest from the gateway's address.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A peer that sends nothing and gets nothing for so long is forgotten.
const IDLE: Duration = Duration::from_secs(120);
/// Peers at once.
const MOST: usize = 256;
/// Ports of the gateway that stand for peers.
const PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

struct Peer {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    /// Port of the guest's that it talks to.
    port: u16,
    seen: Instant,
}

/// Peers of datagram forwards, each behind a port of the gateway's.
pub(super) struct Peers {
    all: Mutex<HashMap<u16, Peer>>,
}

impl Peers {
    pub(super) fn new() -> Self {
        Self { all: Mutex::default() }
    }

    /// The port that stands for a peer. `None` when there are too many.
    pub(super) fn port(&self, socket: &Arc<UdpSocket>, address: SocketAddr, port: u16, now: Instant) -> Option<u16> {
        let mut all = self.all.lock();
        let is_it = |peer: &Peer| peer.address == address && peer.port == port && Arc::ptr_eq(&peer.socket, socket);
        if let Some((port, peer)) = all.iter_mut().find(|(_, peer)| is_it(peer)) {
            peer.seen = now;
            return Some(*port);
        }
        if all.len() >= MOST {
            all.retain(|_, peer| now.saturating_duration_since(peer.seen) < IDLE);
        }
        let free = PORTS.into_iter().find(|port| !all.contains_key(port)).filter(|_| all.len() < MOST)?;
        all.insert(free, Peer { socket: socket.clone(), address, port, seen: now });
        Some(free)
    }

    /// Sends the guest's datagram to the peer that it answers. Says whether there is one.
    pub(super) fn answer(&self, to: u16, from: u16, data: &[u8], now: Instant) -> bool {
        let mut all = self.all.lock();
        let Some(peer) = all.get_mut(&to).filter(|peer| peer.port == from) else { return false };
        peer.seen = now;
        // What doesn't arrive is lost, as datagrams are.
        let _ = peer.socket.send_to(data, peer.address);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_keeps_its_port_and_gets_its_answers() {
        let peers = Peers::new();
        let (socket, peer) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (socket, address, now) = (Arc::new(socket), peer.local_addr().unwrap(), Instant::now());
        let port = peers.port(&socket, address, 53, now).unwrap();
        assert_eq!(peers.port(&socket, address, 53, now), Some(port));
        let other = peers.port(&socket, address, 54, now).unwrap();
        assert_ne!(other, port);
        assert!(!peers.answer(port, 54, b"not yours", now) && !peers.answer(1, 53, b"nobody's", now));
        assert!(peers.answer(port, 53, b"yours", now));
        let mut bytes = [0; 20];
        assert_eq!(peer.recv(&mut bytes).unwrap(), 5);
        for n in 0..MOST as u16 - 2 {
            assert!(peers.port(&socket, ([127, 0, 0, 1], n + 1).into(), 53, now).is_some());
        }
        assert_eq!(peers.port(&socket, ([127, 0, 0, 2], 1).into(), 53, now), None);
        assert!(peers.port(&socket, ([127, 0, 0, 2], 1).into(), 53, now + IDLE).is_some());
    }
}
