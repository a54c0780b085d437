//! `--network`: each of virt-install's sub-options is honoured, or refused with the reason.

use kiln_vmm::virtio::net::Mac;

use super::suboptions::Suboptions;
use super::suggest;
use crate::failure::{Failure, Status};
use crate::network::Protocol;
use crate::network::interface::{self, DEFAULT, Interface, Kind, PortForward, Range};
use crate::plan::NetworkWish;

/// What is honoured.
const KNOWN: &[&str] = &[
    "type",
    "network",
    "source",
    "model",
    "mac",
    "mtu.size",
    "link.state",
    "target.dev",
    "boot.order",
    "portForward",
    "backend.type",
    "backend.hostname",
    "hostLoopback",
];

/// What isn't, and why.
const REFUSED: &[(&str, &str)] = &[
    ("bridge", "it joins the guest to the host's own network, which takes root"),
    ("hostdev", "it gives a device of the host to the guest, which kiln can't yet"),
    ("address", "kiln gives PCI addresses itself, once; edit the definition to change them"),
    ("alias.name", "kiln has no aliases"),
    ("backend.fqdn", "DHCP tells the guest one name: backend.hostname="),
    ("backend.logFile", "the network is in the machine's own process, whose log is machine.log"),
    ("boot.loadparm", "it is for IBM's mainframes"),
    ("driver", "kiln has one driver with one pair of queues"),
    ("filterref", "packet filters need root; user mode lets nobody in but by portForward="),
    ("rom", "kiln boots nothing from the network yet, and needs no ROM for it"),
    ("source.address", "it gives a device of the host to the guest, which kiln can't yet"),
    ("source.mode", "it joins the guest to the host's own network, which takes root"),
    ("source.path", "kiln runs its network cards itself"),
    ("source.portgroup", "the network 'default' has no port groups"),
    ("source.type", "kiln runs its network cards itself"),
    ("trustGuestRxFilters", "a user-mode network has no filters"),
    ("virtualport", "it joins the guest to the host's own network, which takes root"),
];

/// Other names of sub-options, from older virt-installs.
const ALIASES: &[(&str, &str)] = &[
    ("link_state", "link.state"),
    ("target", "target.dev"),
    ("boot_order", "boot.order"),
    ("mac.address", "mac"),
    ("model.type", "model"),
    ("driver_name", "driver.name"),
    ("driver_queues", "driver.queues"),
    ("rom_bar", "rom.bar"),
    ("rom_file", "rom.file"),
    ("portgroup", "source.portgroup"),
    ("source_type", "source.type"),
    ("source_path", "source.path"),
    ("source_mode", "source.mode"),
    ("virtualport_type", "virtualport.type"),
    ("filterref.filter", "filterref"),
];

/// Cards that are asked for; one on user mode when nothing is said.
pub(super) fn networks(texts: &[String]) -> Result<Vec<NetworkWish>, Failure> {
    let says_none = texts.iter().any(|text| text == "none");
    if says_none && texts.iter().any(|text| text != "none") {
        return Err(Failure::new(Status::Usage, "a network card and none are asked for at once")
            .advise("Leave out --network none, or the other --network."));
    }
    match texts {
        _ if says_none => Ok(Vec::new()),
        [] => Ok(vec![NetworkWish::default()]),
        texts => texts.iter().map(|text| network(text)).collect(),
    }
}

fn usage(text: &str, failure: Failure) -> Failure {
    let what = format!("--network {text}: {}", failure.what);
    Failure { status: Status::Usage, what, ..failure }
}

fn network(text: &str) -> Result<NetworkWish, Failure> {
    let mut options = Suboptions::parse("--network", Some("type"), text);
    options.rename(ALIASES);
    if let Some((key, why)) = REFUSED.iter().find_map(|(key, why)| Some((options.below(key)?, why))) {
        let value = options.take(&key).unwrap_or_default();
        return Err(Failure::new(Status::Usage, format!("not yet: --network {key}={value}")).why(*why));
    }
    let kind = kind(&mut options, text)?;
    let told = |failure| usage(text, failure);
    if let Some(model) = options.take("model").filter(|model| model != "virtio") {
        return Err(told(interface::no_model(&model)));
    }
    let link = match options.take("link.state").as_deref() {
        None | Some("up" | "yes" | "on" | "1") => true,
        Some("down" | "no" | "off" | "0") => false,
        Some(other) => return Err(options.wrong("link.state", other, "up or down is expected")),
    };
    let card = Interface {
        kind,
        mac: checked(&mut options, "mac", mac).map_err(told)?.flatten(),
        mtu: checked(&mut options, "mtu.size", interface::check_mtu).map_err(told)?,
        link,
        target: checked(&mut options, "target.dev", interface::check_target).map_err(told)?,
        host_name: checked(&mut options, "backend.hostname", interface::check_host_name).map_err(told)?,
        boot_order: checked(&mut options, "boot.order", interface::check_boot_order).map_err(told)?,
        forwards: forwards(&mut options)?,
    };
    let host_loopback = options.take_flag("hostLoopback")?.unwrap_or(false);
    let is_users = card.host_name.is_some() || host_loopback || !card.forwards.is_empty();
    if is_users && matches!(card.kind, Kind::Network(_)) {
        return Err(takes_user_mode(text));
    }
    options.finish(KNOWN, &[])?;
    Ok(NetworkWish { card, host_loopback })
}

fn takes_user_mode(text: &str) -> Failure {
    Failure::new(Status::Usage, format!("--network {text}: this takes user mode"))
        .why("passt, forwarded ports, the host's loopback and a host name are a user-mode card's own, in libvirt too")
        .advise("Say --network user,… in place of the network's name.")
}

// Takes a value out that is there and right.
fn checked<T>(
    options: &mut Suboptions,
    key: &str,
    check: impl Fn(&str) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    options.take(key).map(|value| check(&value)).transpose()
}

// None: one is made up.
fn mac(text: &str) -> Result<Option<Mac>, Failure> {
    if text == "RANDOM" { Ok(None) } else { interface::check_mac(text).map(Some) }
}

fn kind(options: &mut Suboptions, text: &str) -> Result<Kind, Failure> {
    let (kind, name) = (options.take("type"), options.take("network"));
    let (source, backend) = (options.take("source"), options.take("backend.type"));
    let passt = match backend.as_deref() {
        None | Some("default") => false,
        Some("passt") => true,
        Some(other) => return Err(options.wrong("backend.type", other, "passt, or nothing, is expected")),
    };
    let network = |name: &str| match passt {
        true => Err(takes_user_mode(text)),
        false => Kind::network(name).map_err(|failure| usage(text, failure)),
    };
    match (kind.as_deref(), name.or(source)) {
        (None | Some("network"), Some(name)) => network(&name),
        (None, None) => Ok(Kind::User { passt }),
        (Some("user"), None) => Ok(Kind::User { passt }),
        (Some("passt"), None) => Ok(Kind::User { passt: true }),
        (Some("default"), None) => network(DEFAULT),
        (Some("network"), None) => Err(Failure::new(Status::Usage, format!("--network {text}: network= is missing"))),
        (Some("user" | "passt" | "default"), Some(name)) => {
            Err(Failure::new(Status::Usage, format!("--network {text}: user mode has no source {name:?}")))
        }
        (Some(other), _) => {
            let known = ["none", "user", "default", "network", "passt"];
            let libvirts =
                ["bridge", "direct", "macvtap", "hostdev", "vhostuser", "vdpa", "ethernet", "internal", "udp"];
            if libvirts.contains(&other) {
                let failure = interface::no_kind(other);
                return Err(Failure { what: format!("not yet: --network {other}"), status: Status::Usage, ..failure });
            }
            let failure =
                Failure::new(Status::Usage, format!("--network {text}: there is no kind of network {other:?}"));
            Err(suggest(failure, other, &known).advise(format!("There are: {}", known.join(", "))))
        }
    }
}

// `portForward=…` and its numbered kin in words, or `portForwardN.…` as the XML has it, in their numbers' order.
fn forwards(options: &mut Suboptions) -> Result<Vec<PortForward>, Failure> {
    let mut numbers: Vec<u32> = options.keys().filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut all = Vec::new();
    for number in numbers {
        let names = if number == 0 {
            vec!["portForward".to_owned(), "portForward0".into()]
        } else {
            vec![format!("portForward{number}")]
        };
        for name in names {
            while let Some(text) = options.take(&name) {
                all.push(
                    PortForward::parse(&text)
                        .map_err(|failure| Failure { what: format!("--network {}", failure.what), ..failure })?,
                );
            }
            if options.keys().any(|key| key.starts_with(&format!("{name}."))) {
                all.push(forward(options, &name)?);
            }
        }
    }
    Ok(all)
}

// The number in a key of a forward.
fn number(key: &str) -> Option<u32> {
    let rest = key.strip_prefix("portForward")?;
    let digits = rest.split('.').next().unwrap_or_default();
    if digits.is_empty() { Some(0) } else { digits.parse().ok() }
}

fn forward(options: &mut Suboptions, name: &str) -> Result<PortForward, Failure> {
    let key = |part: &str| format!("{name}.{part}");
    let told = |failure: Failure| Failure {
        status: Status::Usage,
        what: format!("--network {name}: {}", failure.what),
        ..failure
    };
    if let Some(device) = options.take(&key("dev")) {
        return Err(told(interface::no_device(&device)));
    }
    let protocol = match options.take(&key("proto")).as_deref() {
        None | Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        Some(other) => return Err(options.wrong(&key("proto"), other, "tcp or udp is expected")),
    };
    let address = checked(options, &key("address"), interface::check_address).map_err(told)?;
    let mut ranges = Vec::new();
    // A range without a number is the first one.
    for range in std::iter::once("range".to_owned()).chain((0..64).map(|n| format!("range{n}"))) {
        let mut port = |part: &str| -> Result<Option<u16>, Failure> {
            let key = key(&format!("{range}.{part}"));
            let Some(text) = options.take(&key) else { return Ok(None) };
            let port = interface::port(&text);
            port.map(Some).ok_or_else(|| options.wrong(&key, &text, "a port is expected, 1 to 65535"))
        };
        let (start, end, to) = (port("start")?, port("end")?, port("to")?);
        let exclude = options.take_flag(&key(&format!("{range}.exclude")))?;
        if let Some(start) = start {
            let (end, to) = (end.unwrap_or(start), to.unwrap_or(start));
            ranges.push(Range { start, end, to, exclude: exclude.unwrap_or(false) });
        } else if end.is_some() || to.is_some() || exclude.is_some() {
            return Err(Failure::new(Status::Usage, format!("--network {name}.{range}.start= is missing")));
        }
    }
    let forward = PortForward { protocol, address, ranges };
    forward.ports().map_err(told)?;
    Ok(forward)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(text: &str) -> Interface {
        network(text).unwrap_or_else(|failure| panic!("{text}: {failure}")).card
    }

    #[test]
    fn kinds_of_networks() {
        let default = Kind::Network("default".into());
        for (text, kind) in [
            ("default", default.clone()),
            ("network=default", default.clone()),
            ("network:default", default.clone()),
            ("type=network,source=default", default),
            ("user", Kind::User { passt: false }),
            ("type=user,model=virtio", Kind::User { passt: false }),
            ("passt", Kind::User { passt: true }),
            ("user,backend.type=passt", Kind::User { passt: true }),
            ("model=virtio", Kind::User { passt: false }),
        ] {
            assert_eq!(card(&text.replace("network:", "network=")).kind, kind, "{text}");
        }
        assert_eq!(networks(&[]).unwrap(), [NetworkWish::default()]);
        assert_eq!(networks(&["none".into()]).unwrap(), []);
        assert!(networks(&["none".into(), "user".into()]).is_err());
        assert_eq!(networks(&["user".into(), "default".into()]).unwrap().len(), 2);
    }

    #[test]
    fn sub_options_are_honoured() {
        let wish = network(
            "user,mac=52:54:00:0A:0b:0c,mtu.size=1500,link_state=down,target=tap7,boot_order=3,hostLoopback=yes",
        )
        .unwrap();
        assert!(wish.host_loopback && !wish.card.link);
        assert_eq!(wish.card.mac, Some([0x52, 0x54, 0, 10, 11, 12]));
        assert_eq!(
            (wish.card.mtu, wish.card.target.as_deref(), wish.card.boot_order),
            (Some(1500), Some("tap7"), Some(3))
        );
        assert_eq!(card("user,mac=RANDOM").mac, None);
        assert_eq!(card("passt,backend.hostname=test").host_name.as_deref(), Some("test"));
        let ports = |text: &str| -> Vec<_> { card(text).forwards.iter().flat_map(|f| f.ports().unwrap()).collect() };
        assert_eq!(ports("passt,portForward=8080:80"), [(8080, 80)]);
        assert_eq!(ports("user,portForward1=3,portForward0=2,portForward=1"), [(1, 1), (2, 2), (3, 3)]);
        let many = "backend.type=passt,portForward0.proto=udp,portForward0.address=192.168.10.10,\
            portForward0.range0.start=4000,portForward0.range0.end=4002,portForward0.range0.to=10000,\
            portForward0.range1.start=6000,portForward1.range0.start=2022,portForward1.range0.to=22";
        let forwards = card(many).forwards;
        assert_eq!(forwards[0].ports().unwrap(), [(4000, 10000), (4001, 10001), (4002, 10002), (6000, 6000)]);
        assert_eq!((forwards[0].protocol, forwards[1].ports().unwrap()), (Protocol::Udp, vec![(2022, 22)]));
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        for (text, says) in [
            ("bridge=br0", "not yet: --network bridge="),
            ("bridge", "not yet: --network bridge"),
            ("type=direct,source=eth5", "not yet: --network direct"),
            ("hostdev=pci_0", "not yet: --network hostdev="),
            ("network=lab", "no network 'lab'"),
            ("default,portForward=80", "takes user mode"),
            ("network=default,hostLoopback=yes", "takes user mode"),
            ("default,backend.type=passt", "takes user mode"),
            ("network", "network= is missing"),
            ("usr", "Did you mean user"),
            ("user,model=e1000e", "use virtio"),
            ("user,model=rtl8139", "use virtio"),
            ("user,mac=1:2:3", "six bytes"),
            ("user,mac=01:02:03:04:05:06", "multicast"),
            ("user,mtu.size=9", "from 576 to 65520"),
            ("user,link.state=maybe", "up or down"),
            ("user,portForward=99999", "portForward=99999"),
            ("user,portForward0.dev=eth0,portForward0.range0.start=1", "'eth0'"),
            ("user,portForward0.range0.end=1", "start= is missing"),
            ("user,portForward0.range0.start=1,portForward0.range1.exclude=yes", "start= is missing"),
            ("user,driver_queues=3", "one pair of queues"),
            ("user,rom_bar=on", "no ROM"),
            ("user,address.type=pci", "gives PCI addresses"),
            ("user,filterref=foo", "packet filters"),
            ("user,trustGuestRxFilters=yes", "no filters"),
            ("user,virtualport_type=x", "takes root"),
            ("user,portgroup=foo", "port groups"),
            ("user,banana=1", "no sub-option \"banana\""),
            ("user,boot.order=x", "no number above 0"),
            ("user,boot.order=0", "no number above 0"),
            ("user,backend.hostname=---", "can't be a host's name"),
        ] {
            let failure = network(text).unwrap_err();
            assert_eq!(failure.status, Status::Usage, "{text}");
            let told = failure.to_string().to_lowercase();
            assert!(told.contains(&says.to_lowercase()), "{text}: {told}");
        }
    }
}
