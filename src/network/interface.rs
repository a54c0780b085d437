//! A network card as a definition has it: libvirt's `<interface>`, read and checked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kiln_domain::xml::Element;
use kiln_vmm::virtio::net::Mac;
use serde::Serialize;

use super::Protocol;
use super::settings::{LEAST_MTU, MTU, mac_bytes};
use super::user::host_name;
use crate::failure::{Failure, Status};

/// The network that always exists.
pub const DEFAULT: &str = "default";
/// Longest name of an interface (IFNAMSIZ less the zero, netdevice(7)).
const NAME: usize = 15;

/// What a card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A network by its name.
    Network(String),
    /// User mode; the definition may name passt, whose part kiln's own network plays.
    User {
        /// It does.
        passt: bool,
    },
}

/// Ports of the host that lead to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortForward {
    /// Their protocol.
    pub protocol: Protocol,
    /// Where kiln listens; on 127.0.0.1 without.
    pub address: Option<IpAddr>,
    /// Which.
    pub ranges: Vec<Range>,
}

/// A range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// First port of the host.
    pub start: u16,
    /// Last one.
    pub end: u16,
    /// Port of the guest that the first one leads to.
    pub to: u16,
    /// These are not forwarded, whatever other ranges say.
    pub exclude: bool,
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// What it is plugged into.
    pub kind: Kind,
    /// Its address.
    pub mac: Option<Mac>,
    /// Longest packet, where it isn't the network's own.
    pub mtu: Option<u16>,
    /// Whether the cable is plugged in at first.
    pub link: bool,
    /// Name on the host.
    pub target: Option<String>,
    /// The name that DHCP tells the guest; the machine's own without.
    pub host_name: Option<String>,
    /// Place in the boot order.
    pub boot_order: Option<u32>,
    /// Ports that lead to the guest.
    pub forwards: Vec<PortForward>,
}

impl Default for Interface {
    fn default() -> Self {
        Self {
            kind: Kind::User { passt: false },
            mac: None,
            mtu: None,
            link: true,
            target: None,
            host_name: None,
            boot_order: None,
            forwards: Vec::new(),
        }
    }
}

fn refuse(what: impl Into<String>) -> Failure {
    Failure::new(Status::Failed, what)
}

/// What to say of a kind of network that kiln doesn't have, by libvirt's name.
pub fn no_kind(kind: &str) -> Failure {
    let why = match kind {
        "bridge" | "direct" | "macvtap" | "ethernet" => {
            "it joins the guest to the host's own network, which takes root"
        }
        "hostdev" | "vdpa" => "it gives a device of the host to the guest, which kiln can't yet",
        "vhostuser" => "kiln runs its network cards itself",
        _ => "kiln has user mode and the network 'default'",
    };
    refuse(format!("a network card of type '{kind}' is not there yet"))
        .why(why)
        .advise("Use user mode, and forward the ports that others are to reach: --network user,portForward=8080:80")
}

/// What to say of a card's model that kiln doesn't have.
pub fn no_model(model: &str) -> Failure {
    let failure = refuse(format!("the network card '{model}' is not there"));
    failure.advise("Use virtio: Linux, the BSDs and, with its drivers, Windows run it.")
}

/// Checks a MAC address.
///
/// # Errors
/// When it isn't six bytes, or is a group's.
pub fn check_mac(text: &str) -> Result<Mac, Failure> {
    let refused = |why: &str| refuse(format!("the MAC address '{text}' can't be a network card's")).why(why);
    let mac =
        mac_bytes(text).ok_or_else(|| refused("six bytes in hexadecimal are expected, as in 52:54:00:12:34:56"))?;
    match mac {
        [first, ..] if first & 1 != 0 => Err(refused("it is a multicast address: its first byte is odd")),
        [0, 0, 0, 0, 0, 0] => Err(refused("it is nobody's")),
        _ => Ok(mac),
    }
}

/// Checks a number of bytes.
///
/// # Errors
/// When it can't be a packet's longest length.
pub fn check_mtu(text: &str) -> Result<u16, Failure> {
    text.parse().ok().filter(|mtu| (LEAST_MTU..=MTU).contains(mtu)).ok_or_else(|| {
        refuse(format!("an MTU of '{text}' can't be had"))
            .why(format!("a number from {LEAST_MTU} to {MTU} is expected"))
    })
}

/// Checks a card's name on the host.
///
/// # Errors
/// When it can't be one.
pub fn check_target(text: &str) -> Result<String, Failure> {
    let fits = (1..=NAME).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && !"/:%".contains(c));
    if fits {
        return Ok(text.to_owned());
    }
    Err(refuse(format!("'{text}' can't be the name of a network card"))
        .why(format!("1 to {NAME} letters, digits and signs are expected, no space, slash, colon or percent sign")))
}

/// Checks a name for the guest, of which DHCP tells what a host's name may have.
///
/// # Errors
/// When that is nothing.
pub fn check_host_name(text: &str) -> Result<String, Failure> {
    let told = host_name(text).map(|_| text.to_owned());
    told.ok_or_else(|| {
        refuse(format!("'{text}' can't be a host's name")).why("it has no letter or digit to begin with")
    })
}

/// Checks a place in the boot order.
///
/// # Errors
/// When it is none.
pub fn check_boot_order(text: &str) -> Result<u32, Failure> {
    let order = text.parse().ok().filter(|order| *order > 0);
    order.ok_or_else(|| refuse(format!("the boot order '{text}' of a network card is no number above 0")))
}

// Elements that change what the guest can do or reach, and so can't be left out.
const REFUSED: &[&str] =
    &["filterref", "virtualport", "vlan", "ip", "route", "script", "guest", "teaming", "downscript"];
// What is read, with its attributes; `type` of a MAC address and an alias say nothing that kiln would do otherwise.
const READ: &[(&str, &[&str])] = &[
    ("address", &["type", "domain", "bus", "slot", "function"]),
    ("alias", &["name"]),
    ("backend", &["type", "hostname"]),
    ("boot", &["order"]),
    ("interface", &["type"]),
    ("link", &["state"]),
    ("mac", &["address", "type"]),
    ("model", &["type"]),
    ("mtu", &["size"]),
    ("portForward", &["proto", "address", "dev"]),
    ("range", &["start", "end", "to", "exclude"]),
    ("source", &["network"]),
    ("target", &["dev"]),
];

// Elements and attributes that are not read.
fn left_out(element: &Element, warnings: &mut Vec<String>) {
    let mut warn = |what: String| warnings.push(format!("a network card: <{what}> has no effect"));
    let name = element.name();
    let Some((_, read)) = READ.iter().find(|(known, _)| *known == name) else { return warn(name.into()) };
    let unread = element.attributes().filter(|(key, _)| !read.contains(key));
    unread.for_each(|(key, value)| warn(format!("{name} {key}='{value}'")));
    element.children().for_each(|child| left_out(child, warnings));
}

impl Interface {
    /// Reads an `<interface>`; what is left out of it goes to `warnings`.
    ///
    /// # Errors
    /// When it can't be understood, or is not what kiln has.
    pub fn read(element: &Element, warnings: &mut Vec<String>) -> Result<Self, Failure> {
        let value = |name: &str, attribute: &str| element.find(name).and_then(|e| e.attribute(attribute));
        let kind = Kind::read(element)?;
        match value("model", "type") {
            None | Some("virtio" | "virtio-non-transitional") => {}
            // What it has more is for drivers from before VIRTIO 1.0.
            Some(model @ "virtio-transitional") => {
                warnings.push(format!("a network card 'virtio' stands in for '{model}'"));
            }
            Some(model) => return Err(no_model(model)),
        }
        for child in element.children().map(Element::name) {
            if REFUSED.contains(&child) {
                return Err(refuse(format!("a network card has a <{child}>, which kiln can't do yet"))
                    .advise("Take it out of the definition."));
            }
        }
        left_out(element, warnings);
        let users = ["portForward", "backend"].into_iter().find(|name| element.find(name).is_some());
        if let (Kind::Network(_), Some(name)) = (&kind, users) {
            return Err(refuse(format!("a network card of type 'network' has a <{name}>"))
                .why("libvirt has it for type 'user' alone")
                .advise("Make the card's type 'user', without <source>."));
        }
        let link = match value("link", "state") {
            None | Some("up") => true,
            Some("down") => false,
            Some(other) => return Err(refuse(format!("the link state '{other}' is neither up nor down"))),
        };
        Ok(Self {
            kind,
            mac: value("mac", "address").map(check_mac).transpose()?,
            mtu: value("mtu", "size").map(check_mtu).transpose()?,
            link,
            target: value("target", "dev").map(check_target).transpose()?,
            host_name: value("backend", "hostname").map(check_host_name).transpose()?,
            boot_order: value("boot", "order").map(check_boot_order).transpose()?,
            forwards: element.all("portForward").map(PortForward::read).collect::<Result<_, _>>()?,
        })
    }

    /// What it is plugged into, as `domiflist` says it: type and source.
    pub fn told(&self) -> (&'static str, Option<String>) {
        match &self.kind {
            Kind::Network(name) => ("network", Some(name.clone())),
            Kind::User { .. } => ("user", None),
        }
    }
}

impl Kind {
    fn read(element: &Element) -> Result<Self, Failure> {
        match element.attribute("type").unwrap_or("") {
            "network" => {
                let name = element.find("source").and_then(|s| s.attribute("network")).unwrap_or_default();
                Self::network(name)
            }
            "user" => match element.find("backend").and_then(|b| b.attribute("type")) {
                None | Some("default") => Ok(Self::User { passt: false }),
                Some("passt") => Ok(Self::User { passt: true }),
                Some(other) => Err(refuse(format!("a network by '{other}' is not there"))
                    .advise("Leave the backend out: kiln has its own.")),
            },
            "" => Err(refuse("a network card (<interface>) has no type")),
            other => Err(no_kind(other)),
        }
    }

    /// A network by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn network(name: &str) -> Result<Self, Failure> {
        if name == DEFAULT {
            return Ok(Self::Network(name.to_owned()));
        }
        Err(refuse(format!("there is no network '{name}'")).advise("There is 'default', which always exists."))
    }
}

impl PortForward {
    fn read(element: &Element) -> Result<Self, Failure> {
        let protocol = match element.attribute("proto") {
            Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            other => {
                let other = other.unwrap_or_default();
                return Err(refuse(format!("a <portForward> has the protocol '{other}'; tcp or udp is expected")));
            }
        };
        if let Some(device) = element.attribute("dev") {
            return Err(no_device(device));
        }
        let address = element.attribute("address").map(check_address).transpose()?;
        let ranges: Vec<_> = element.all("range").map(Range::read).collect::<Result<_, _>>()?;
        let forward = Self { protocol, address, ranges };
        forward.ports()?;
        Ok(forward)
    }

    /// Ports of the host, each with the guest's that it leads to.
    ///
    /// # Errors
    /// When there are none, or one is listed twice.
    pub fn ports(&self) -> Result<Vec<(u16, u16)>, Failure> {
        let mut ports = BTreeMap::new();
        for range in self.ranges.iter().filter(|range| !range.exclude) {
            for (number, port) in (range.start..=range.end).enumerate() {
                let to = usize::from(range.to) + number;
                let to = u16::try_from(to).map_err(|_| {
                    refuse(format!("a forwarded range of ports ends at {to} in the guest; ports end at 65535"))
                })?;
                if ports.insert(port, to).is_some() {
                    return Err(refuse(format!("port {port} is forwarded twice")));
                }
            }
        }
        for range in self.ranges.iter().filter(|range| range.exclude) {
            ports.retain(|port, _| !(range.start..=range.end).contains(port));
        }
        if ports.is_empty() {
            return Err(refuse("a <portForward> names no port to forward")
                .why("all ports of the host at once can't be forwarded")
                .advise("Name them: <range start='8080' to='80'/>"));
        }
        Ok(ports.into_iter().collect())
    }

    /// Reads `[ADDRESS:]PORT[-END][:GUESTPORT][/tcp|udp]`; an IPv6 address may stand in brackets.
    ///
    /// # Errors
    /// When it isn't that.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::new(Status::Usage, format!("portForward={text}: {why}"))
                .advise("[ADDRESS:]PORT[-END][:GUESTPORT][/tcp|udp], e.g. 8080:80 or 0.0.0.0:5000-5010/udp")
        };
        let (rest, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((rest, "tcp")) => (rest, Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some((_, other)) => return Err(wrong(&format!("the protocol is tcp or udp, not '{other}'"))),
        };
        let (address, ports, to) = parts(rest).ok_or_else(|| wrong("this can't be read"))?;
        let address = address.map(check_address).transpose().map_err(|failure| wrong(&failure.what))?;
        let (start, end) = port_range(ports)
            .ok_or_else(|| wrong("ports are numbers from 1 to 65535, the first not above the last"))?;
        let to = match to {
            None => start,
            Some(to) => port(to).ok_or_else(|| wrong("the guest's port is a number from 1 to 65535"))?,
        };
        let forward = Self { protocol, address, ranges: vec![Range { start, end, to, exclude: false }] };
        forward.ports().map_err(|failure| wrong(&failure.what))?;
        Ok(forward)
    }
}

/// What to say of a forward on one of the host's interfaces.
pub fn no_device(device: &str) -> Failure {
    refuse(format!("ports can't be forwarded on the host's interface '{device}' alone"))
        .why("that takes rights that a user hasn't")
        .advise("Name one of its addresses instead.")
}

/// Checks an address to listen on.
///
/// # Errors
/// When it is none.
pub fn check_address(text: &str) -> Result<IpAddr, Failure> {
    text.parse().map_err(|_| refuse(format!("'{text}' is no IP address")))
}

/// A port's number.
pub fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    Some((port(start)?, port(end)?)).filter(|(start, end)| start <= end)
}

// Address, ports and the guest's port.
fn parts(text: &str) -> Option<(Option<&str>, &str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once("]:")?;
        let (ports, to) = rest.split_once(':').map_or((rest, None), |(ports, to)| (ports, Some(to)));
        return Some((Some(address), ports, to));
    }
    let Some((head, last)) = text.rsplit_once(':') else { return Some((None, text, None)) };
    match head.rsplit_once(':') {
        // Ports stand before the last word, so that is the guest's port; an address of IPv6 ends where they begin.
        Some((address, ports)) if port_range(ports).is_some() && address.parse::<IpAddr>().is_ok() => {
            Some((Some(address), ports, Some(last)))
        }
        _ if head.parse::<IpAddr>().is_ok() => Some((Some(head), last, None)),
        None => Some((None, head, Some(last))),
        Some((address, ports)) => Some((Some(address), ports, Some(last))),
    }
}

impl Range {
    fn read(element: &Element) -> Result<Self, Failure> {
        let number = |name: &str| match element.attribute(name) {
            None => Ok(None),
            Some(text) => port(text)
                .map(Some)
                .ok_or_else(|| refuse(format!("a forwarded range has the {name} '{text}'; ports are 1 to 65535"))),
        };
        let start = number("start")?.ok_or_else(|| refuse("a forwarded range of ports has no start"))?;
        let (end, to) = (number("end")?.unwrap_or(start), number("to")?.unwrap_or(start));
        if end < start {
            return Err(refuse(format!("a forwarded range of ports goes from {start} down to {end}")));
        }
        let exclude = match element.attribute("exclude") {
            None | Some("no") => false,
            Some("yes") => true,
            Some(other) => {
                return Err(refuse(format!("a forwarded range has exclude='{other}'; yes or no is expected")));
            }
        };
        Ok(Self { start, end, to, exclude })
    }
}

#[cfg(test)]
mod tests {
    use kiln_domain::xml::Document;

    use super::*;

    fn read(inside: &str) -> Result<Interface, Failure> {
        Interface::read(Document::parse(inside).unwrap().root(), &mut Vec::new())
    }

    fn user(inside: &str) -> Result<Interface, Failure> {
        read(&format!("<interface type='user'>{inside}</interface>"))
    }

    #[test]
    fn what_a_definition_says() {
        let card = read(
            "<interface type='network'><mac address='52:54:00:01:02:03'/><source network='default'/><model type='virtio'/>\
             <target dev='tap-web'/><mtu size='1500'/><link state='down'/><boot order='2'/></interface>",
        )
        .unwrap();
        let wanted = Interface {
            kind: Kind::Network("default".into()),
            mac: Some([0x52, 0x54, 0, 1, 2, 3]),
            mtu: Some(1500),
            link: false,
            target: Some("tap-web".into()),
            boot_order: Some(2),
            ..Interface::default()
        };
        assert_eq!(card, wanted);
        assert_eq!(user("<backend type='passt' hostname='h'/>").unwrap().host_name.as_deref(), Some("h"));
        let mut warnings = Vec::new();
        let text = "<interface type='user' trustGuestRxFilters='yes'><driver queues='4'/><alias name='net0'/>\
                    <source dev='eth0'/><port isolated='yes'/><backend logFile='/l' type='passt'/></interface>";
        Interface::read(Document::parse(text).unwrap().root(), &mut warnings).unwrap();
        for what in
            ["interface trustGuestRxFilters='yes'", "driver", "source dev='eth0'", "port", "backend logFile='/l'"]
        {
            let told = format!("a network card: <{what}> has no effect");
            assert!(warnings.contains(&told), "{what}: {warnings:?}");
        }
        assert_eq!(warnings.len(), 5, "{warnings:?}");
    }

    #[test]
    fn what_kiln_does_not_have_is_refused_by_name() {
        for (inside, says) in [
            ("<model type='e1000e'/>", "'e1000e' is not there"),
            ("<model type='virtio-gpu'/>", "'virtio-gpu' is not there"),
            ("<mac address='53:54:00:01:02:03'/>", "its first byte is odd"),
            ("<mac address='52:54:00:01:02'/>", "six bytes"),
            ("<mtu size='100'/>", "from 576 to 65520"),
            ("<mtu size='65521'/>", "from 576 to 65520"),
            ("<target dev='a name that is long'/>", "can't be the name"),
            ("<link state='maybe'/>", "neither up nor down"),
            ("<filterref filter='x'/>", "<filterref>"),
            ("<vlan/>", "<vlan>"),
            ("<backend type='slirp'/>", "'slirp' is not there"),
            ("<boot order='x'/>", "boot order"),
            ("<boot order='0'/>", "boot order"),
            ("<backend hostname='-_-'/>", "'-_-' can't be a host's name"),
            ("<portForward proto='sctp'><range start='1'/></portForward>", "'sctp'"),
            ("<portForward proto='tcp'/>", "names no port"),
            ("<portForward proto='tcp' dev='eth0'><range start='1'/></portForward>", "'eth0'"),
            ("<portForward proto='tcp'><range start='9' end='8'/></portForward>", "down to 8"),
            ("<portForward proto='tcp'><range start='0'/></portForward>", "start '0'"),
            ("<portForward proto='tcp'><range start='1' exclude='true'/></portForward>", "exclude='true'"),
            ("<portForward proto='tcp'><range start='1' end='9' to='65530'/></portForward>", "ports end at 65535"),
            ("<portForward proto='tcp'><range start='1' end='9'/><range start='5'/></portForward>", "forwarded twice"),
            ("<portForward proto='tcp' address='here'><range start='1'/></portForward>", "no IP address"),
        ] {
            let told = user(inside).unwrap_err().to_string();
            assert!(told.contains(says), "{inside}: {told}");
        }
        for kind in ["bridge", "direct", "hostdev", "vhostuser", "vdpa", "ethernet", "mcast"] {
            let told = read(&format!("<interface type='{kind}'/>")).unwrap_err().to_string();
            assert!(told.contains(kind) && told.contains("portForward"), "{told}");
        }
        let forward = "<portForward proto='tcp'><range start='1'/></portForward>";
        let told = read(&format!("<interface type='network'><source network='default'/>{forward}</interface>"));
        assert!(told.unwrap_err().to_string().contains("<portForward>"));
        let told = read("<interface type='network'><source network='lab'/></interface>").unwrap_err().to_string();
        assert!(told.contains("no network 'lab'"), "{told}");
    }

    #[test]
    fn forwards_are_read_as_words_and_as_xml() {
        let forward = |text: &str| {
            let forward = PortForward::parse(text).unwrap();
            let Range { start, end, to, .. } = forward.ranges[0];
            (forward.protocol.name(), forward.address.map_or(String::new(), |a| a.to_string()), start, end, to)
        };
        let some = |p, a: &str, s, e, t| (p, a.to_owned(), s, e, t);
        assert_eq!(forward("8080"), some("tcp", "", 8080, 8080, 8080));
        assert_eq!(forward("8080:80"), some("tcp", "", 8080, 8080, 80));
        assert_eq!(forward("7000-8000/udp"), some("udp", "", 7000, 8000, 7000));
        assert_eq!(forward("127.0.0.1:2222:22"), some("tcp", "127.0.0.1", 2222, 2222, 22));
        assert_eq!(forward("127.0.0.1:2222"), some("tcp", "127.0.0.1", 2222, 2222, 2222));
        assert_eq!(forward("127.0.0.1:5000-6000:5"), some("tcp", "127.0.0.1", 5000, 6000, 5));
        assert_eq!(
            forward("2001:db8:ac10:fd01::1:10:3000-4000:30"),
            some("tcp", "2001:db8:ac10:fd01::1:10", 3000, 4000, 30)
        );
        assert_eq!(forward("[::1]:22:2222/tcp"), some("tcp", "::1", 22, 22, 2222));
        for wrong in [
            "",
            "x",
            "0",
            "80:",
            ":80",
            "80-",
            "90-80",
            "80/sctp",
            "1.2.3:80:80",
            "80:0",
            "70000",
            "[::1]80",
            "1-9:65530",
        ] {
            let told = PortForward::parse(wrong).unwrap_err();
            assert!(told.status == Status::Usage && !told.advice.is_empty(), "{wrong}");
        }
        let card = user(
            "<portForward proto='udp' address='192.0.2.1'><range start='10' end='14' to='20'/>\
             <range start='11' end='12' exclude='yes'/></portForward>",
        )
        .unwrap();
        assert_eq!(card.forwards[0].ports().unwrap(), [(10, 20), (13, 23), (14, 24)]);
    }
}
