//! DHCP's server (RFC 2131, options in RFC 2132): the card's own address is always the same.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use kiln_vmm::virtio::net::Mac;

use super::addresses::*;
use super::packet::{self, array};
use crate::network::Lease;
use crate::network::settings::mac_text;

pub(super) const SERVER: u16 = 67;
const CLIENT: u16 = 68;
const LEASE: Duration = Duration::from_secs(24 * 3600);

const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BROADCAST_FLAG: u8 = 0x80;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

const OPTION_MASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_DNS: u8 = 6;
const OPTION_NAME: u8 = 12;
const OPTION_MTU: u8 = 26;
const OPTION_BROADCAST: u8 = 28;
const OPTION_WANTED: u8 = 50;
const OPTION_LEASE: u8 = 51;
const OPTION_KIND: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_RENEW: u8 = 58;
const OPTION_REBIND: u8 = 59;
const OPTION_END: u8 = 255;
/// Longest host name (RFC 1123, 2.1, for one label).
const NAME: usize = 63;

struct Given {
    address: Ipv4Addr,
    until: Option<Instant>,
    name: Option<String>,
}

/// The server.
pub(super) struct Dhcp {
    mac: Mac,
    mtu: u16,
    name: Option<String>,
    given: HashMap<Mac, Given>,
}

/// A client's message.
struct Asked<'a> {
    id: &'a [u8],
    flags: [u8; 2],
    address: Ipv4Addr,
    mac: Mac,
    options: &'a [u8],
}

impl<'a> Asked<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        // A request, from Ethernet with its six bytes, with options.
        let is_ours = message.starts_with(&[1, 1, 6]) && array(message, FIXED)? == COOKIE;
        is_ours.then_some(())?;
        Some(Self {
            id: message.get(4..8)?,
            flags: array(message, 10)?,
            address: array::<4>(message, 12)?.into(),
            mac: array(message, 28)?,
            options: message.get(FIXED + 4..)?,
        })
    }

    fn option(&self, wanted: u8) -> Option<&'a [u8]> {
        let mut rest = self.options;
        loop {
            match rest {
                [0, more @ ..] => rest = more,
                [OPTION_END, ..] | [_] | [] => return None,
                [kind, len, more @ ..] => {
                    let value = more.get(..usize::from(*len))?;
                    if *kind == wanted {
                        return Some(value);
                    }
                    rest = more.get(usize::from(*len)..)?;
                }
            }
        }
    }

    fn address_option(&self, wanted: u8) -> Option<Ipv4Addr> {
        self.option(wanted)?.as_array::<4>().copied().map(Ipv4Addr::from)
    }
}

/// A name that a host may have, as near to `name` as can be (RFC 1123, 2.1).
pub fn host_name(name: &str) -> Option<String> {
    let dashed: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(NAME).collect();
    let trimmed = dashed.trim_matches('-');
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

impl Dhcp {
    pub(super) fn new(mac: Mac, mtu: u16, machine: &str) -> Self {
        Self { mac, mtu, name: host_name(machine), given: HashMap::new() }
    }

    /// The packet that answers a message, if it is to be answered.
    pub(super) fn answer(&mut self, message: &[u8], now: Instant) -> Option<Vec<u8>> {
        let asked = Asked::read(message)?;
        let [kind] = asked.option(OPTION_KIND)?.as_array().copied()?;
        match kind {
            DISCOVER => {
                let address = self.reserve(asked.mac)?;
                Some(self.reply(&asked, OFFER, Some(address)))
            }
            REQUEST => self.request(&asked, now),
            INFORM => Some(self.reply(&asked, ACK, None)),
            DECLINE | RELEASE => {
                if let Some(given) = self.given.get_mut(&asked.mac) {
                    given.until = None;
                }
                None
            }
            _ => None,
        }
    }

    fn request(&mut self, asked: &Asked<'_>, now: Instant) -> Option<Vec<u8>> {
        if asked.address_option(OPTION_SERVER).is_some_and(|server| server != GATEWAY) {
            return None;
        }
        let wanted = asked.address_option(OPTION_WANTED).unwrap_or(asked.address);
        let address = self.reserve(asked.mac);
        if address != Some(wanted) {
            return Some(self.reply(asked, NAK, None));
        }
        if let Some(given) = self.given.get_mut(&asked.mac) {
            given.until = Some(now + LEASE);
            let name = asked.option(OPTION_NAME).map(|name| String::from_utf8_lossy(name).into_owned());
            given.name = name.as_deref().and_then(host_name);
        }
        Some(self.reply(asked, ACK, address))
    }

    // The address of a station: the card's is the guest's, others in the guest get those behind it.
    fn reserve(&mut self, mac: Mac) -> Option<Ipv4Addr> {
        if let Some(given) = self.given.get(&mac) {
            return Some(given.address);
        }
        let is_free = |address: &Ipv4Addr| self.given.values().all(|given| given.address != *address);
        let address = match mac == self.mac {
            true => GUEST,
            false => (1..LEASES).map(|n| Ipv4Addr::from_bits(GUEST.to_bits() + u32::from(n))).find(is_free)?,
        };
        self.given.insert(mac, Given { address, until: None, name: None });
        Some(address)
    }

    fn reply(&self, asked: &Asked<'_>, kind: u8, given: Option<Ipv4Addr>) -> Vec<u8> {
        let mut message = vec![2, 1, 6, 0];
        message.extend(asked.id);
        message.extend([0, 0]);
        message.extend(asked.flags);
        message.extend(if kind == ACK { asked.address.octets() } else { [0; 4] });
        message.extend(given.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        message.extend([0; 8]);
        message.extend(asked.mac);
        message.resize(FIXED, 0);
        message.extend(COOKIE);
        let mut option = |kind: u8, value: &[u8]| {
            message.extend([kind, value.len() as u8]);
            message.extend(value);
        };
        option(OPTION_KIND, &[kind]);
        option(OPTION_SERVER, &GATEWAY.octets());
        if kind != NAK {
            let seconds = LEASE.as_secs() as u32;
            if given.is_some() {
                option(OPTION_LEASE, &seconds.to_be_bytes());
                option(OPTION_RENEW, &(seconds / 2).to_be_bytes());
                option(OPTION_REBIND, &(seconds / 8 * 7).to_be_bytes());
            }
            option(OPTION_MASK, &MASK.octets());
            option(OPTION_ROUTER, &GATEWAY.octets());
            option(OPTION_DNS, &DNS.octets());
            option(OPTION_BROADCAST, &BROADCAST.octets());
            option(OPTION_MTU, &self.mtu.to_be_bytes());
            if let Some(name) = &self.name {
                option(OPTION_NAME, name.as_bytes());
            }
        }
        message.push(OPTION_END);
        // RFC 2131, 4.1: to the address that the client has, or to all when it asks for that or gets a refusal.
        let broadcast = asked.flags[0] & BROADCAST_FLAG != 0 || kind == NAK;
        let to = match (asked.address, given) {
            (address, _) if kind != NAK && !address.is_unspecified() => address,
            (_, Some(address)) if !broadcast => address,
            _ => Ipv4Addr::BROADCAST,
        };
        let at = |address: Ipv4Addr, port| SocketAddr::new(IpAddr::V4(address), port);
        packet::udp(at(GATEWAY, SERVER), at(to, CLIENT), &message)
    }

    /// What is given at the moment, lowest address first.
    pub(super) fn leases(&self, now: Instant) -> Vec<Lease> {
        let valid = self.given.iter().filter(|(_, given)| given.until.is_some_and(|until| until > now));
        let mut all: Vec<_> = valid
            .map(|(mac, given)| Lease {
                mac: mac_text(mac),
                address: given.address.into(),
                prefix: PREFIX,
                name: given.name.clone(),
            })
            .collect();
        all.sort_by_key(|lease| lease.address);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::Packet;
    use super::*;

    const CARD: Mac = [0x52, 0x54, 0, 1, 2, 3];

    fn message(mac: Mac, kind: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0, 9, 8, 7, 6, 0, 0, 0, 0];
        bytes.resize(28, 0);
        bytes.extend(mac);
        bytes.resize(FIXED, 0);
        bytes.extend(COOKIE);
        for (kind, value) in [&[(OPTION_KIND, &[kind][..])], options].concat() {
            bytes.extend([kind, value.len() as u8]);
            bytes.extend(value);
        }
        bytes.push(OPTION_END);
        bytes
    }

    /// Kind, given address and options of an answer.
    fn told(answer: &[u8]) -> (u8, Ipv4Addr, HashMap<u8, Vec<u8>>) {
        let data = Packet::read(answer).unwrap().datagram().unwrap().to_vec();
        assert_eq!((data[0], &data[4..8]), (2, &[9, 8, 7, 6][..]));
        let mut options = HashMap::new();
        let mut rest = &data[FIXED + 4..];
        while let [kind, len, more @ ..] = rest {
            options.insert(*kind, more[..usize::from(*len)].to_vec());
            rest = &more[usize::from(*len)..];
        }
        (options[&OPTION_KIND][0], array::<4>(&data, 16).unwrap().into(), options)
    }

    #[test]
    fn the_card_gets_the_guests_address_with_all_it_needs() {
        let mut dhcp = Dhcp::new(CARD, 65520, "web_1.example");
        let now = Instant::now();
        let offer = dhcp.answer(&message(CARD, DISCOVER, &[]), now).unwrap();
        let (kind, address, _) = told(&offer);
        assert_eq!((kind, address), (OFFER, GUEST));
        assert!(dhcp.leases(now).is_empty());
        let options: &[(u8, &[u8])] = &[(OPTION_WANTED, &GUEST.octets()), (OPTION_NAME, b"debian")];
        let (kind, address, options) = told(&dhcp.answer(&message(CARD, REQUEST, options), now).unwrap());
        assert_eq!((kind, address), (ACK, GUEST));
        assert_eq!(options[&OPTION_MTU], [0xff, 0xf0]);
        assert_eq!(options[&OPTION_NAME], b"web-1-example");
        assert_eq!((&options[&OPTION_ROUTER], &options[&OPTION_DNS]), (&vec![10, 0, 2, 2], &vec![10, 0, 2, 3]));
        assert_eq!(
            (&options[&OPTION_MASK], &options[&OPTION_LEASE]),
            (&vec![255, 255, 255, 0], &vec![0, 1, 0x51, 0x80])
        );
        let lease =
            Lease { mac: "52:54:00:01:02:03".into(), address: GUEST.into(), prefix: 24, name: Some("debian".into()) };
        assert_eq!(dhcp.leases(now), [lease]);
        assert!(dhcp.leases(now + LEASE).is_empty());
        dhcp.answer(&message(CARD, RELEASE, &[]), now);
        assert!(dhcp.leases(now).is_empty());
    }

    #[test]
    fn others_in_the_guest_get_others_as_long_as_there_are_some() {
        let mut dhcp = Dhcp::new(CARD, 1500, "web");
        let now = Instant::now();
        let mut ask = |n: u8| dhcp.answer(&message([2, 0, 0, 0, 0, n], DISCOVER, &[]), now).map(|a| told(&a).1);
        for n in 1..LEASES {
            assert_eq!(ask(n), Some(Ipv4Addr::new(10, 0, 2, 15 + n)));
        }
        assert_eq!(ask(1), Some(Ipv4Addr::new(10, 0, 2, 16)));
        assert_eq!(ask(LEASES), None);
        assert_eq!(told(&dhcp.answer(&message(CARD, DISCOVER, &[]), now).unwrap()).1, GUEST);
    }

    #[test]
    fn what_cannot_be_given_is_refused() {
        let mut dhcp = Dhcp::new(CARD, 1500, "web");
        let now = Instant::now();
        let wrong: &[(u8, &[u8])] = &[(OPTION_WANTED, &[192, 168, 1, 5])];
        assert_eq!(told(&dhcp.answer(&message(CARD, REQUEST, wrong), now).unwrap()).0, NAK);
        let others: &[(u8, &[u8])] = &[(OPTION_WANTED, &GUEST.octets()), (OPTION_SERVER, &[9, 9, 9, 9])];
        assert_eq!(dhcp.answer(&message(CARD, REQUEST, others), now), None);
        let good = message(CARD, DISCOVER, &[]);
        for len in 0..good.len() - 1 {
            dhcp.answer(&good[..len], now);
        }
        assert_eq!(dhcp.answer(&good[..FIXED + 5], now), None);
        assert_eq!(host_name("---"), None);
        assert_eq!(host_name(&"x".repeat(90)).map(|n| n.len()), Some(63));
    }
}
