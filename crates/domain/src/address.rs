//! PCI addresses of devices: read, checked against each other, and given where they are missing.
//!
//! The rules are those by which libvirt fills a q35 machine: root ports and the first display sit on bus 0, other
//! devices behind a root port each, at slot 0 of its bus. Addresses are given once, when a machine is defined, and then
//! stay: a guest names its network cards by them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::xml::{Document, Element};

/// A PCI address as domain XML writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Bus: 0 is the root complex's, others are controllers' indices.
    pub bus: u8,
    /// Slot, below 32.
    pub slot: u8,
    /// Function, below 8.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{:x}", self.bus, self.slot, self.function)
    }
}

/// Why addresses don't work out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A number is missing, malformed or too large.
    #[error("<{device}>: the PCI address has the {field} '{value}'; it must be below {below}")]
    Malformed {
        /// Element's name.
        device: String,
        /// Attribute.
        field: &'static str,
        /// What it says.
        value: String,
        /// Limit.
        below: u32,
    },
    /// Two devices have one address.
    #[error("<{first}> and <{second}> both have the PCI address {address}")]
    Twice {
        /// The address.
        address: PciAddress,
        /// One device.
        first: String,
        /// The other.
        second: String,
    },
    /// A bus that no controller makes.
    #[error("<{device}> sits on PCI bus {bus}, but no controller has that index")]
    NoBus {
        /// Element's name.
        device: String,
        /// The bus.
        bus: u8,
    },
    /// A place that belongs to the chipset.
    #[error("<{device}> has the PCI address {address}, which belongs to the chipset")]
    Chipset {
        /// Element's name.
        device: String,
        /// The address.
        address: PciAddress,
    },
    /// No place left.
    #[error("there is no PCI address left for <{device}>")]
    Full {
        /// Element's name.
        device: String,
    },
}

/// The PCI address of a device element, if it has one.
///
/// # Errors
/// When it is malformed.
pub fn of(device: &Element) -> Result<Option<PciAddress>, AddressError> {
    let Some(address) = device.all("address").find(|a| a.attribute("type") == Some("pci")) else { return Ok(None) };
    let field = |field: &'static str, below: u32| {
        let text = address.attribute(field).unwrap_or("0");
        let number = match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => text.parse(),
        };
        number.ok().filter(|n| *n < below).ok_or_else(|| AddressError::Malformed {
            device: device.name().into(),
            field,
            value: text.into(),
            below,
        })
    };
    // An element without numbers asks for a PCI address without naming one.
    if address.attribute("slot").is_none() && address.attribute("bus").is_none() {
        return Ok(None);
    }
    field("domain", 1)?;
    Ok(Some(PciAddress {
        bus: field("bus", 256)? as u8,
        slot: field("slot", 32)? as u8,
        function: field("function", 8)? as u8,
    }))
}

/// Where a device may be put.
enum Home {
    /// Bus 0.
    Root,
    /// Behind a root port.
    Port,
    /// It has no PCI address.
    None,
}

fn home(device: &Element) -> Home {
    let model = device.attribute("model").or_else(|| device.find("model")?.attribute("type"));
    match device.name() {
        "controller" => match (device.attribute("type"), model) {
            (Some("pci"), Some("pcie-root-port")) => Home::Root,
            (Some("virtio-serial" | "scsi"), _) => Home::Port,
            _ => Home::None,
        },
        "disk" if device.find("target").and_then(|t| t.attribute("bus")) == Some("virtio") => Home::Port,
        "interface" => Home::Port,
        "rng" | "memballoon" if model != Some("none") => Home::Port,
        "video" if model != Some("none") => Home::Root,
        _ => Home::None,
    }
}

/// Slots of bus 0 that belong to the chipset: the host bridge, and the LPC bridge with its neighbours.
const CHIPSET: [u8; 2] = [0, 0x1f];
/// The first display's slot.
const VIDEO: u8 = 1;

/// Checks the addresses of all devices.
///
/// # Errors
/// When two collide, or one is malformed, out of place, or on a bus that doesn't exist.
pub fn check(document: &Document) -> Result<(), AddressError> {
    Map::read(document).map(drop)
}

/// Gives an address to each device that needs one and has none, and root ports to devices that find none free.
///
/// # Errors
/// As [`check`], or when there is no room.
pub fn assign(document: &mut Document) -> Result<(), AddressError> {
    number_ports(document.root_mut().find_or_make("devices"));
    let mut map = Map::read(document)?;
    let devices = document.root_mut().find_or_make("devices");
    let waiting =
        |devices: &Element| devices.children().filter(|d| matches!(home(d), Home::Port) && of(d) == Ok(None)).count();
    map.add_ports(devices, waiting(devices));
    for device in devices.children_mut().filter(|d| matches!(home(d), Home::Root)) {
        if of(device)?.is_none() {
            let is_video = device.name() == "video";
            let address = if is_video { map.video() } else { map.port() };
            give(device, address.ok_or_else(|| full(device))?, !is_video);
        }
    }
    for device in devices.children_mut().filter(|d| matches!(home(d), Home::Port)) {
        if of(device)?.is_none() {
            let address = map.behind_port().ok_or_else(|| full(device))?;
            give(device, address, false);
        }
    }
    Map::read(document).map(drop)
}

/// Gives an index to root ports that have none.
fn number_ports(devices: &mut Element) {
    let mut used: BTreeSet<u8> = devices.children().filter_map(port_index).collect();
    for port in devices.children_mut().filter(|d| is_port(d) && d.attribute("index").is_none()) {
        if let Some(index) = (1..=u8::MAX).find(|n| used.insert(*n)) {
            port.set("index", index.to_string());
        }
    }
}

fn full(device: &Element) -> AddressError {
    AddressError::Full { device: device.name().into() }
}

fn give(device: &mut Element, address: PciAddress, multifunction: bool) {
    device.remove(|e| e.name() == "address" && e.attribute("type") == Some("pci"));
    let mut element = Element::new("address")
        .with("type", "pci")
        .with("domain", "0x0000")
        .with("bus", format!("{:#04x}", address.bus))
        .with("slot", format!("{:#04x}", address.slot))
        .with("function", format!("{:#x}", address.function));
    if multifunction && address.function == 0 {
        element.set("multifunction", "on");
    }
    device.push(element);
}

#[derive(Default)]
struct Map {
    taken: BTreeMap<PciAddress, String>,
    /// Indices of root port controllers: the buses behind them.
    buses: BTreeSet<u8>,
}

impl Map {
    fn read(document: &Document) -> Result<Self, AddressError> {
        let mut map = Map::default();
        let Some(devices) = document.root().find("devices") else { return Ok(map) };
        for device in devices.children() {
            if let Some(index) = port_index(device) {
                map.buses.insert(index);
            }
        }
        for device in devices.children() {
            let Some(address) = of(device)? else { continue };
            let name = device.name().to_owned();
            // libvirt itself writes the addresses of chipset devices (SATA, USB) into slot 0x1f and others.
            if address.bus == 0 && address.slot == 0 {
                return Err(AddressError::Chipset { device: name, address });
            }
            if address.bus != 0 && !map.buses.contains(&address.bus) {
                return Err(AddressError::NoBus { device: name, bus: address.bus });
            }
            if let Some(first) = map.taken.insert(address, name.clone()) {
                return Err(AddressError::Twice { address, first, second: name });
            }
        }
        Ok(map)
    }

    fn free(&self, address: PciAddress) -> bool {
        !self.taken.contains_key(&address)
    }

    fn take(&mut self, address: PciAddress) -> PciAddress {
        self.taken.insert(address, "new".into());
        address
    }

    fn next_bus(&self) -> Option<u8> {
        (1..=u8::MAX).find(|n| !self.buses.contains(n))
    }

    /// Adds root ports until `wanted` devices find a free bus.
    fn add_ports(&mut self, devices: &mut Element, wanted: usize) {
        let free = self.buses.iter().filter(|bus| self.bus_is_free(**bus)).count();
        for _ in free..wanted {
            let Some(index) = self.next_bus() else { return };
            self.buses.insert(index);
            devices.push_beside(root_port(index));
        }
    }

    fn bus_is_free(&self, bus: u8) -> bool {
        !self.taken.keys().any(|a| a.bus == bus)
    }

    fn video(&mut self) -> Option<PciAddress> {
        let first = PciAddress { bus: 0, slot: VIDEO, function: 0 };
        if self.free(first) { Some(self.take(first)) } else { self.empty_slot().map(|a| self.take(a)) }
    }

    fn slot_is_empty(&self, slot: u8) -> bool {
        !self.taken.keys().any(|a| a.bus == 0 && a.slot == slot)
    }

    fn empty_slot(&self) -> Option<PciAddress> {
        let slot = (2..0x1f).find(|s| !CHIPSET.contains(s) && self.slot_is_empty(*s))?;
        Some(PciAddress { bus: 0, slot, function: 0 })
    }

    /// A root port's place: the next function of a slot that root ports share, else a new slot.
    fn port(&mut self) -> Option<PciAddress> {
        let shared = self.taken.iter().rev().find(|(a, name)| a.bus == 0 && a.function < 7 && name.as_str() == "new");
        let next = match shared.map(|(a, _)| PciAddress { function: a.function + 1, ..*a }) {
            Some(next) if next.slot != VIDEO && self.free(next) => Some(next),
            _ => self.empty_slot(),
        };
        next.map(|a| self.take(a))
    }

    fn behind_port(&mut self) -> Option<PciAddress> {
        let bus = *self.buses.iter().find(|bus| self.bus_is_free(**bus))?;
        Some(self.take(PciAddress { bus, slot: 0, function: 0 }))
    }
}

fn is_port(device: &Element) -> bool {
    device.name() == "controller"
        && device.attribute("type") == Some("pci")
        && device.attribute("model") == Some("pcie-root-port")
}

fn port_index(device: &Element) -> Option<u8> {
    is_port(device).then(|| device.attribute("index")?.parse().ok())?
}

fn root_port(index: u8) -> Element {
    Element::new("controller").with("type", "pci").with("index", index.to_string()).with("model", "pcie-root-port")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(devices: &str) -> Document {
        Document::parse(&format!("<domain>\n  <devices>\n    {devices}\n  </devices>\n</domain>")).unwrap()
    }

    fn addresses(document: &Document) -> Vec<String> {
        let devices = document.root().find("devices").unwrap();
        devices.children().filter_map(|d| Some(format!("{} {}", d.name(), of(d).unwrap()?))).collect()
    }

    const DISK: &str = "<disk><target dev='vda' bus='virtio'/></disk>";

    #[test]
    fn missing_addresses_are_given_once() {
        let mut document =
            machine(&format!("{DISK}\n    <rng model='virtio'/>\n    <video><model type='vga'/></video>"));
        assign(&mut document).unwrap();
        let want = ["disk 01:00.0", "rng 02:00.0", "video 00:01.0", "controller 00:02.0", "controller 00:02.1"];
        assert_eq!(addresses(&document), want);
        let text = document.to_string();
        assert!(text.contains("slot='0x02' function='0x0' multifunction='on'/>"), "{text}");
        assign(&mut document).unwrap();
        assert_eq!(document.to_string(), text);
    }

    #[test]
    fn a_ninth_port_starts_a_new_slot_and_given_ones_stay() {
        let ports = "<controller type='pci' model='pcie-root-port'/>\n".repeat(9);
        let mut document = machine(&format!(
            "{ports}<disk><target bus='virtio'/><address type='pci' bus='0x04' slot='0x00'/></disk>{DISK}"
        ));
        assign(&mut document).unwrap();
        let all = addresses(&document);
        assert_eq!(all[7..], ["controller 00:02.7", "controller 00:03.0", "disk 04:00.0", "disk 01:00.0"]);
    }

    #[test]
    fn devices_without_pci_get_none() {
        let mut document =
            machine("<serial type='pty'/><disk><target bus='sata'/></disk><video><model type='none'/></video>");
        assign(&mut document).unwrap();
        assert!(addresses(&document).is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let at = |bus: &str, slot: &str| format!("<rng><address type='pci' bus='{bus}' slot='{slot}'/></rng>");
        assert!(matches!(check(&machine(&at("0", "3").repeat(2))), Err(AddressError::Twice { .. })));
        assert!(matches!(check(&machine(&at("9", "0"))), Err(AddressError::NoBus { bus: 9, .. })));
        assert!(matches!(check(&machine(&at("0", "0"))), Err(AddressError::Chipset { .. })));
        assert!(matches!(check(&machine(&at("0", "0x20"))), Err(AddressError::Malformed { field: "slot", .. })));
        assert!(matches!(check(&machine(&at("x", "1"))), Err(AddressError::Malformed { field: "bus", .. })));
    }
}
