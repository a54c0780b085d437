//! What a user-mode network is made from, and what can be asked of it.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use kiln_vmm::virtio::net::Mac;
use serde::{Deserialize, Serialize};

/// Default longest packet, in bytes: the same as passt's, and the most that is left below 64 KiB for whole frames.
pub const MTU: u16 = 65520;
/// Least packet that a network can be asked for (RFC 791, 3.1, and virtio's own limit).
pub const LEAST_MTU: u16 = 576;
/// Connections at once, of all protocols together.
pub const FLOWS: usize = 256;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its name as XML and command lines have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host that leads to one of the guest.
#[derive(Debug)]
pub enum Forward {
    /// Connections.
    Tcp(TcpListener, u16),
    /// Datagrams.
    Udp(UdpSocket, u16),
}

/// A network for one card.
#[derive(Debug)]
pub struct Settings {
    /// Number among the machine's cards, for names of threads.
    pub number: u32,
    /// What the log calls it.
    pub label: String,
    /// The machine's name, which DHCP tells.
    pub machine: String,
    /// The card's address: its lease is the first one.
    pub mac: Mac,
    /// Longest packet in bytes.
    pub mtu: u16,
    /// Connections at once.
    pub flows: usize,
    /// It leads anywhere at all.
    pub outside: bool,
    /// The gateway's address leads to the host's own loopback.
    pub host_loopback: bool,
    /// The host's name servers, in their order.
    pub resolvers: Vec<SocketAddr>,
    /// Ports that lead to the guest.
    pub forwards: Vec<Forward>,
}

/// An address that DHCP has given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose.
    pub mac: String,
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// The name that the guest says it has.
    pub name: Option<String>,
}

/// A MAC address as people write it.
pub fn mac_text(mac: &Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads a MAC address: six bytes in hexadecimal, with colons.
pub fn mac_bytes(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() <= 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        assert_eq!(mac_bytes("52:54:00:A:0b:ff"), Some([0x52, 0x54, 0, 10, 11, 255]));
        assert_eq!(mac_text(&[0x52, 0x54, 0, 10, 11, 255]), "52:54:00:0a:0b:ff");
        for wrong in
            ["", "52:54:00:0a:0b", "52:54:00:0a:0b:ff:00", "52:54:00:0a:0b:fg", "52-54-00-0a-0b-ff", "+1:2:3:4:5:6"]
        {
            assert_eq!(mac_bytes(wrong).map(|_| ()), None, "{wrong}");
        }
    }
}
