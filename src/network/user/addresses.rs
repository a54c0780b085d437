//! The network's addresses, and which others a guest may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kiln_vmm::virtio::net::Mac;

/// The network.
pub(super) const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 0);
/// Bits of its prefix.
pub(super) const PREFIX: u8 = 24;
/// Its mask.
pub(super) const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// Its broadcast address.
pub(super) const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 255);
/// The gateway.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server.
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The guest: the first address that DHCP gives.
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Addresses that DHCP gives, the guest's first.
pub(super) const LEASES: u8 = 16;

/// The IPv6 network, a unique local one (RFC 4193, 3.1); it has 64 bits.
pub(super) const NETWORK6: Ipv6Addr = Ipv6Addr::new(0xfd6b, 0x696c, 0x6e00, 2, 0, 0, 0, 0);
/// The gateway.
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd6b, 0x696c, 0x6e00, 2, 0, 0, 0, 2);
/// The name server.
pub(super) const DNS6: Ipv6Addr = Ipv6Addr::new(0xfd6b, 0x696c, 0x6e00, 2, 0, 0, 0, 3);
/// The gateway's link-local address, which router advertisements come from (RFC 4861, 4.2).
pub(super) const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// All nodes of a link (RFC 4291, 2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The one MAC address of everything on the host's side.
pub(super) const HOST_MAC: Mac = [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02];
/// Every station.
pub(super) const EVERYBODY: Mac = [0xff; 6];

/// What an address is to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The gateway's.
    Gateway,
    /// The name server's.
    Dns,
    /// On the network, but nobody's, or a guest's.
    Neighbour,
    /// Every station's, or a group's.
    Group,
    /// Somewhere that guests may reach.
    Outside,
    /// Somewhere that they may not.
    Forbidden,
}

/// What a destination is.
pub(super) fn whose(address: IpAddr) -> Whose {
    match address {
        IpAddr::V4(address) => whose4(address),
        IpAddr::V6(address) => whose6(address),
    }
}

fn whose4(address: Ipv4Addr) -> Whose {
    match address {
        GATEWAY => Whose::Gateway,
        DNS => Whose::Dns,
        BROADCAST | Ipv4Addr::BROADCAST => Whose::Group,
        _ if address.is_multicast() => Whose::Group,
        _ if on_network(address) => Whose::Neighbour,
        _ if may_reach4(address) => Whose::Outside,
        _ => Whose::Forbidden,
    }
}

fn whose6(address: Ipv6Addr) -> Whose {
    match address {
        GATEWAY6 | ROUTER6 => Whose::Gateway,
        DNS6 => Whose::Dns,
        _ if address.is_multicast() => Whose::Group,
        _ if on_network6(address) => Whose::Neighbour,
        _ if may_reach6(address) => Whose::Outside,
        _ => Whose::Forbidden,
    }
}

/// Whether an address is of the network.
pub(super) fn on_network(address: Ipv4Addr) -> bool {
    address.to_bits() & MASK.to_bits() == NETWORK.to_bits()
}

/// Whether an address is of the IPv6 network.
pub(super) fn on_network6(address: Ipv6Addr) -> bool {
    address.to_bits() >> 64 == NETWORK6.to_bits() >> 64
}

/// Whether a guest may send from an address.
pub(super) fn is_guests(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => on_network(address) && !matches!(address, NETWORK | GATEWAY | DNS | BROADCAST),
        IpAddr::V6(address) => on_network6(address) && !matches!(address, NETWORK6 | GATEWAY6 | DNS6),
    }
}

// Not the host's loopback, nor this network or what the host calls so, nor link-local addresses, where clouds keep their
// metadata (169.254.169.254), nor what has no use as a destination.
fn may_reach4(address: Ipv4Addr) -> bool {
    let reserved = address.octets()[0] == 0 || address.octets()[0] >= 240;
    !(reserved || address.is_loopback() || address.is_link_local() || address.is_multicast() || on_network(address))
}

/// Amazon's metadata service (an address of the unique local range).
const AMAZON_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// The prefix by which IPv6-only networks reach IPv4 addresses (RFC 6052, 2.1).
const NAT64: u128 = 0x0064_ff9b << 96;
/// Site-local addresses (RFC 3879) and 6to4 (RFC 3056): what the first 16 bits are.
const SITE_LOCAL: u16 = 0xfec0;
const SIX_TO_FOUR: u16 = 0x2002;

fn may_reach6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    let first = address.segments()[0];
    // Addresses that carry one of IPv4 lead to it.
    let carried = match () {
        () if bits >> 32 == 0xffff || bits >> 32 == NAT64 >> 32 => Some(bits as u32),
        () if first == SIX_TO_FOUR => Some((bits >> 80) as u32),
        () => None,
    };
    let local = address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local();
    let odd = bits >> 32 == 0 || first & 0xffc0 == SITE_LOCAL || address.is_multicast() || address == AMAZON_METADATA;
    !(local || odd || on_network6(address)) && carried.is_none_or(|v4| may_reach4(v4.into()))
}

/// Whether a guest may reach an address outside of the network.
pub(super) fn may_reach(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => may_reach4(address),
        IpAddr::V6(address) => may_reach6(address),
    }
}

/// Where a guest may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// To whatever guests may reach.
    pub(super) outside: bool,
    /// To the host's loopback, for which the gateway stands.
    pub(super) loopback: bool,
}

impl Reach {
    /// Whether that includes an address of the host's side.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        self.outside && may_reach(address) || self.loopback && address.is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_may_reach() {
        for text in [
            "127.0.0.1",
            "127.8.9.10",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "10.0.2.2",
            "10.0.2.77",
            "::",
            "::1",
            "::2",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "fec0::2",
            "fd00:ec2::254",
            "fd6b:696c:6e00:2::2",
            "::127.0.0.1",
        ] {
            assert!(!may_reach(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "10.0.3.1",
            "192.168.0.1",
            "172.16.0.1",
            "100.64.0.1",
            "2001:db8::1",
            "fd00::1",
            "64:ff9b::1.1.1.1",
            "::ffff:1.1.1.1",
            "2606:4700::1",
        ] {
            assert!(may_reach(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn whose_an_address_is() {
        for (text, wanted) in [
            ("10.0.2.2", Whose::Gateway),
            ("10.0.2.3", Whose::Dns),
            ("10.0.2.4", Whose::Neighbour),
            ("10.0.2.255", Whose::Group),
            ("224.0.0.1", Whose::Group),
            ("9.9.9.9", Whose::Outside),
            ("127.0.0.1", Whose::Forbidden),
            ("fe80::2", Whose::Gateway),
            ("fe80::3", Whose::Forbidden),
            ("fd6b:696c:6e00:2::2", Whose::Gateway),
            ("fd6b:696c:6e00:2::3", Whose::Dns),
            ("fd6b:696c:6e00:2::4", Whose::Neighbour),
            ("ff02::16", Whose::Group),
            ("2001:db8::1", Whose::Outside),
        ] {
            assert_eq!(whose(text.parse().unwrap()), wanted, "{text}");
        }
        assert!(is_guests(GUEST.into()) && !is_guests(GATEWAY.into()) && !is_guests(IpAddr::from([10, 0, 3, 15])));
    }
}
