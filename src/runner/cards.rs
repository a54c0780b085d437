//! A machine's network cards: what the starter opens for them, and what the machine's process makes of that.
//!
//! Forwarded ports are bound before the machine runs. Each card has a name on the host, `vnet0` and so on unless the
//! definition gives one, that no other running machine of the store has: the file of that name stays locked as long as
//! the machine's process lives.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use kiln_vmm::machine::Machine;
use kiln_vmm::virtio::net::Traffic;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::blueprint::Blueprint;
use super::handover::Descriptors;
use crate::failure::{Failure, Status};
use crate::machine::folders::Folders;
use crate::machine::{lock, store};
use crate::network::settings::{self, mac_text};
use crate::network::user::{UserNetwork, resolvers};
use crate::network::{Forward, Protocol, Settings};

/// Most ports that a machine forwards: each is a descriptor.
const MOST_FORWARDS: usize = 4096;
/// Descriptors that a machine needs beside them: connections, name servers' queries, disks, viewers.
const RESERVE: u64 = 700;
/// Most names that are tried.
const MOST_NAMES: u32 = 65_536;

/// What is written down of a card in a running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugged {
    /// Name on the host.
    pub name: String,
    /// Address.
    pub mac: String,
    /// Type, as the definition has it.
    pub kind: String,
    /// Network, where it names one.
    pub source: Option<String>,
}

/// Whether a user means the card of this name and address, who may say either.
pub fn is_meant(name: Option<&str>, mac: &str, wanted: &str) -> bool {
    name == Some(wanted) || mac.eq_ignore_ascii_case(wanted)
}

impl Plugged {
    /// Whether a user means this one.
    pub fn is(&self, wanted: &str) -> bool {
        is_meant(Some(&self.name), &self.mac, wanted)
    }
}

/// What a running machine's cards have of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Network {
    /// The cards, in the definition's order.
    pub cards: Vec<Plugged>,
    /// The host's name servers when it was started.
    pub resolvers: Vec<SocketAddr>,
}

/// A port of the host that is bound.
struct Bound {
    /// The card's number.
    card: usize,
    protocol: Protocol,
    port: u16,
    /// Port of the guest.
    to: u16,
    socket: OwnedFd,
}

/// Tries out what [`open`] will need, and changes nothing.
///
/// # Errors
/// When a port can't be had.
pub(super) fn rehearse(blueprint: &Blueprint) -> Result<(), Failure> {
    bind(blueprint).map(drop)
}

/// Binds ports and takes names.
///
/// # Errors
/// When one can't be had.
pub(super) fn open(folders: &Folders, blueprint: &Blueprint, files: &mut Descriptors) -> Result<Network, Failure> {
    if blueprint.cards.is_empty() {
        return Ok(Network::default());
    }
    for bound in bind(blueprint)? {
        files.insert(forward_label(&bound, files.len()), bound.socket);
    }
    let mut cards = Vec::new();
    for (number, card) in blueprint.cards.iter().enumerate() {
        let (name, held) = name(folders, card.interface.target.as_deref())?;
        files.insert(format!("card{number}"), held);
        let (kind, source) = card.interface.told();
        cards.push(Plugged { name, mac: mac_text(&card.mac), kind: kind.into(), source });
    }
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    Ok(Network { cards, resolvers: resolvers(&text) })
}

// Card, protocol and the guest's port are read back from it; the rest makes it one of its kind.
fn forward_label(bound: &Bound, count: usize) -> String {
    let Bound { card, protocol, port, to, .. } = bound;
    format!("forward-{card}-{}-{to}-{count}-{port}", protocol.name())
}

fn bind(blueprint: &Blueprint) -> Result<Vec<Bound>, Failure> {
    let mut wanted = Vec::new();
    for (number, card) in blueprint.cards.iter().enumerate() {
        for forward in &card.interface.forwards {
            wanted.extend(forward.ports()?.into_iter().map(|ports| (number, forward, ports)));
        }
    }
    if wanted.len() > MOST_FORWARDS {
        return Err(Failure::new(Status::Failed, format!("more than {MOST_FORWARDS} ports can't be forwarded")));
    }
    raise_limit(wanted.len());
    let bound = wanted.into_iter().map(|(card, forward, (port, to))| {
        let (protocol, address) = (forward.protocol, forward.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let at = SocketAddr::new(address, port);
        let socket = match protocol {
            Protocol::Tcp => TcpListener::bind(at).map(OwnedFd::from),
            Protocol::Udp => UdpSocket::bind(at).map(OwnedFd::from),
        };
        let socket = socket.map_err(|error| not_bound(at, protocol, &error))?;
        Ok(Bound { card, protocol, port, to, socket })
    });
    bound.collect()
}

// Many ports take more descriptors than a process has at first; the machine's process inherits the limit.
fn raise_limit(wanted: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let left = limit.current.unwrap_or(u64::MAX).saturating_sub(wanted as u64);
    if left < RESERVE && limit.current < limit.maximum {
        // What the host doesn't give shows when a port is bound.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

fn not_bound(at: SocketAddr, protocol: Protocol, error: &io::Error) -> Failure {
    let what = format!("the port {at}/{} can't be forwarded", protocol.name());
    let failure = |status| Failure::new(status, what).because(error);
    match error.kind() {
        io::ErrorKind::AddrInUse => failure(Status::Conflict)
            .advise("Something listens there already; as root, ss -ltunp shows what.")
            .advise(format!("Take another port of the host: portForward={}:{}", free_port(at.port()), at.port())),
        io::ErrorKind::PermissionDenied => failure(Status::Failed)
            .advise("Ports below 1024 are root's, unless net.ipv4.ip_unprivileged_port_start says otherwise.")
            .advise(format!("Take a port above: portForward={}:{}", free_port(at.port()), at.port())),
        io::ErrorKind::AddrNotAvailable => {
            failure(Status::Failed).advise("The address is not this host's: use 127.0.0.1, or 0.0.0.0 for all.")
        }
        _ => failure(Status::Failed),
    }
}

// A port to propose: 80 becomes 8080, 443 becomes 8443.
fn free_port(port: u16) -> u16 {
    if port < 1000 { 8000 + port } else { port.saturating_add(1) }
}

// The name that is asked for, or the first free vnetN, and the lock by which it is held.
fn name(folders: &Folders, wanted: Option<&str>) -> Result<(String, OwnedFd), Failure> {
    let folder = folders.runtime.join("cards");
    store::make_folder(&folder)?;
    // libvirt takes names that begin like its own for ones that it gave itself, and gives new ones.
    match wanted.filter(|name| !name.starts_with("vnet")) {
        Some(name) => {
            let held = hold(&folder, name)?.ok_or_else(|| {
                Failure::new(Status::Conflict, format!("another running machine has a network card named {name:?}"))
                    .advise("Take another name: target.dev=, or leave it out.")
            })?;
            Ok((name.to_owned(), held))
        }
        None => {
            for number in 0..MOST_NAMES {
                let name = format!("vnet{number}");
                if let Some(held) = hold(&folder, &name)? {
                    return Ok((name, held));
                }
            }
            Err(Failure::new(Status::Failed, "no name is left for a network card"))
        }
    }
}

fn hold(folder: &Path, name: &str) -> Result<Option<OwnedFd>, Failure> {
    let path = folder.join(name);
    let held = lock::try_lock(&path)
        .map_err(|e| Failure::new(Status::Failed, format!("locking {}", path.display())).because(&e))?;
    Ok(held.map(OwnedFd::from))
}

/// The networks of the machine's cards, in their order, with their names and locks.
pub(super) struct Cards {
    all: Vec<(Plugged, Arc<UserNetwork>)>,
    // Held until the end: names are taken as long as these are locked.
    names: Mutex<Vec<OwnedFd>>,
}

impl Cards {
    /// Makes the networks.
    ///
    /// # Errors
    /// When the host has no descriptor or thread left.
    pub(super) fn start(blueprint: &Blueprint, network: &Network, files: &mut Descriptors) -> io::Result<Self> {
        let (mut all, mut names) = (Vec::new(), Vec::new());
        for (number, (card, plugged)) in blueprint.cards.iter().zip(&network.cards).enumerate() {
            let settings = Settings {
                number: number as u32,
                label: plugged.name.clone(),
                machine: card.interface.host_name.clone().unwrap_or_else(|| blueprint.name.clone()),
                mac: card.mac,
                mtu: card.mtu(),
                flows: settings::FLOWS,
                outside: true,
                host_loopback: blueprint.host_loopback,
                resolvers: network.resolvers.clone(),
                forwards: forwards(number, files),
            };
            all.push((plugged.clone(), UserNetwork::start(settings)?));
            names.extend(files.remove(&format!("card{number}")));
        }
        Ok(Self { all, names: Mutex::new(names) })
    }

    /// Gives ports and names back, for whoever starts the machine again as soon as it has ended.
    pub(super) fn end(&self) {
        self.all.iter().for_each(|(_, network)| network.end());
        self.names.lock().clear();
    }

    /// The network of a card.
    pub(super) fn network(&self, number: usize) -> Option<Arc<UserNetwork>> {
        self.all.get(number).map(|(_, network)| network.clone())
    }

    /// What the control socket says of them.
    pub(super) fn told(&self, machine: &Machine) -> Value {
        let all = self.all.iter().zip(machine.cards()).map(|((plugged, network), card)| {
            let statistics = card.net().statistics();
            json!({
                "name": plugged.name, "mac": plugged.mac, "link": card.net().link(),
                "rx": traffic(&statistics.received), "tx": traffic(&statistics.sent), "leases": network.leases(),
            })
        });
        all.collect()
    }

    /// Plugs a cable in or out, of the card with this name or address.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn set_link(&self, machine: &Machine, name: &str, up: bool) -> Result<(), String> {
        let number = self.all.iter().position(|(plugged, _)| plugged.is(name));
        let card = number.and_then(|number| machine.cards().get(number));
        card.ok_or_else(|| format!("Device '{name}' not found"))?.set_link(up);
        Ok(())
    }
}

fn traffic(of: &Traffic) -> Value {
    json!({ "bytes": of.bytes, "packets": of.packets, "errs": of.errors, "drop": of.dropped })
}

fn forwards(card: usize, files: &mut Descriptors) -> Vec<Forward> {
    let prefix = format!("forward-{card}-");
    let labels: Vec<String> = files.keys().filter(|label| label.starts_with(&prefix)).cloned().collect();
    let mut all = Vec::new();
    for label in labels {
        let mut words = label.split('-').skip(2);
        let (protocol, to) = (words.next(), words.next().and_then(|to| to.parse().ok()));
        let (Some(to), Some(file)) = (to, files.remove(&label)) else { continue };
        all.push(match protocol {
            Some("udp") => Forward::Udp(file.into(), to),
            _ => Forward::Tcp(file.into(), to),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_find_their_card_again() {
        let socket = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut files = Descriptors::from([("lock".to_owned(), socket())]);
        for (card, protocol, port, to) in
            [(1, Protocol::Udp, 5353, 53), (1, Protocol::Tcp, 8080, 80), (10, Protocol::Tcp, 8081, 81)]
        {
            let bound = Bound { card, protocol, port, to, socket: socket() };
            files.insert(forward_label(&bound, files.len()), bound.socket);
        }
        let found = forwards(1, &mut files);
        assert!(matches!(found[..], [Forward::Tcp(_, 80), Forward::Udp(_, 53)]), "{found:?}");
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn names_are_unique_while_they_are_held() {
        let (_home, store) = crate::machine::Store::scratch();
        let folders = store.folders().clone();
        let first = name(&folders, None).unwrap();
        let second = name(&folders, Some("vnet7")).unwrap();
        assert_eq!((first.0.as_str(), second.0.as_str()), ("vnet0", "vnet1"));
        drop(first);
        assert_eq!(name(&folders, None).unwrap().0, "vnet0");
        let held = name(&folders, Some("tap-web")).unwrap();
        assert_eq!(name(&folders, Some("tap-web")).unwrap_err().status, Status::Conflict);
        drop(held);
        assert!(name(&folders, Some("tap-web")).is_ok());
    }

    #[test]
    fn a_port_that_cannot_be_had_is_told_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (kind, says) in [
            (io::ErrorKind::AddrInUse, "Something listens there"),
            (io::ErrorKind::PermissionDenied, "below 1024 are root's"),
            (io::ErrorKind::AddrNotAvailable, "not this host's"),
        ] {
            let told = not_bound(taken, Protocol::Tcp, &kind.into()).to_string();
            assert!(told.contains(says) && told.contains(&taken.to_string()), "{told}");
        }
        assert_eq!((free_port(80), free_port(8080)), (8080, 8081));
    }
}
