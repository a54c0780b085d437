//! What a domain document asks of the monitor, checked: the one place that says what can be run and what can't.
//!
//! What carries the user's data or intent and can't be done is refused by name; what can be left out is listed once as
//! a warning.

mod disk;
mod graphics;
mod lacking;

use std::collections::BTreeSet;
use std::path::PathBuf;

use kiln_domain::address::{self, PciAddress};
use kiln_domain::domain::{Action, Topology};
use kiln_domain::xml::Element;
use kiln_domain::{Domain, DomainError};
use kiln_vmm::virtio::net::Mac;

use crate::failure::{Failure, Status};
use crate::network::Interface;
use crate::network::settings::{MTU, mac_text};
pub use disk::{CacheMode, Disk, driver_values};
pub use graphics::{Vnc, is_port};

/// Most processors of a machine.
pub const MOST_CPUS: u32 = kiln_vmm::config::MAX_VCPUS;

/// A machine as it will be run.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: [u8; 16],
    /// Memory in bytes.
    pub memory: u64,
    /// Processors.
    pub cpus: Topology,
    /// Kernel, initrd and command line.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel.
    pub cmdline: String,
    /// Disks, in the document's order.
    pub disks: Vec<Disk>,
    /// Network cards, in the document's order.
    pub cards: Vec<Card>,
    /// Guests reach the host's loopback by the gateway's address.
    pub host_loopback: bool,
    /// Root ports: the index that is their bus in addresses, and their place.
    pub ports: Vec<(u8, PciAddress)>,
    /// Entropy devices.
    pub rngs: Vec<PciAddress>,
    /// The display.
    pub display: Option<PciAddress>,
    /// The VNC server.
    pub vnc: Option<Vnc>,
    /// Whether there is a serial port.
    pub serial: bool,
    /// Keyboard controller, clock and speaker port; a small machine goes without.
    pub legacy: bool,
    /// The clock shows local time.
    pub local_time: bool,
    /// When the guest turns off.
    pub on_poweroff: Action,
    /// When the guest resets.
    pub on_reboot: Action,
    /// When the machine breaks.
    pub on_crash: Action,
    /// What is left out or stood in for, a line each.
    pub warnings: Vec<String>,
}

/// A virtio network card.
#[derive(Debug, Clone)]
pub struct Card {
    /// What the definition says.
    pub interface: Interface,
    /// Its MAC address.
    pub mac: Mac,
    /// Place.
    pub address: PciAddress,
}

impl Card {
    /// Longest packet in bytes.
    pub fn mtu(&self) -> u16 {
        self.interface.mtu.unwrap_or(MTU)
    }
}

fn refuse(what: impl Into<String>) -> Failure {
    Failure::new(Status::Failed, what)
}

// Names what nothing is made of; `of` begins the line.
fn attributes_without_effect(
    element: &Element,
    of: &str,
    notes: &mut Vec<String>,
    is_read: impl Fn(&str, &str) -> bool,
) {
    let unread = element.attributes().filter(|(name, value)| !is_read(name, value));
    notes.extend(unread.map(|(name, value)| format!("{of}: <{} {name}='{value}'> has no effect", element.name())));
}

// The same of the elements inside.
fn elements_without_effect(element: &Element, of: &str, notes: &mut Vec<String>, read: &[&str]) {
    let unread = element.children().map(Element::name).filter(|child| !read.contains(child));
    notes.extend(unread.map(|child| format!("{of}: <{child}> has no effect")));
}

fn understand(error: &DomainError) -> Failure {
    refuse("the machine's definition can't be understood").because(error)
}

/// Why a definition that boots from disk, CD or network can't be started.
pub fn needs_firmware() -> Failure {
    refuse("this machine boots by firmware, which kiln does not have yet")
        .why("its definition names no kernel (<os><kernel>)")
        .advise("Boot a kernel directly: kiln install --import --disk … --boot kernel=FILE,initrd=FILE,kernel_args=…")
}

impl Blueprint {
    /// Reads a definition whose addresses have been given.
    ///
    /// # Errors
    /// When it can't be understood, or asks for what can't be run.
    pub fn read(domain: &Domain) -> Result<Self, Failure> {
        let root = domain.root();
        let value = |e: DomainError| understand(&e);
        check_type(domain)?;
        domain.check_addresses().map_err(value)?;
        let kernel = domain.text("os/kernel").filter(|k| !k.is_empty()).ok_or_else(needs_firmware)?;
        let vcpus = domain.vcpus().map_err(value)?;
        let mut blueprint = Self {
            name: domain.name().map_err(value)?,
            uuid: domain.uuid().map_err(value)?.unwrap_or_default(),
            memory: domain.current_memory().map_err(value)?,
            cpus: topology(vcpus, domain.most_vcpus().map_err(value)?, domain.topology().map_err(value)?)?,
            kernel: kernel.into(),
            initrd: domain.text("os/initrd").filter(|i| !i.is_empty()).map(PathBuf::from),
            cmdline: domain.text("os/cmdline").unwrap_or_default(),
            disks: vec![],
            cards: vec![],
            host_loopback: mark(root, "host-loopback") == Some("yes"),
            ports: vec![],
            rngs: vec![],
            display: None,
            vnc: None,
            serial: false,
            legacy: !is_minimal(root),
            local_time: root.find("clock").and_then(|c| c.attribute("offset")) == Some("localtime"),
            on_poweroff: domain.action("on_poweroff").map_err(value)?,
            on_reboot: domain.action("on_reboot").map_err(value)?,
            on_crash: domain.action("on_crash").map_err(value)?,
            warnings: vec![],
        };
        for device in domain.devices() {
            blueprint.device(device)?;
        }
        if blueprint.vnc.is_some() && blueprint.display.is_none() {
            return Err(refuse("the machine has VNC graphics but no <video>: there is nothing to show"));
        }
        blueprint.tell_other_graphics(domain);
        // Of what is there several times one line is enough.
        let mut told = BTreeSet::new();
        blueprint.warnings.retain(|line| told.insert(line.clone()));
        Ok(blueprint)
    }

    fn device(&mut self, device: &Element) -> Result<(), Failure> {
        match device.name() {
            "disk" => Disk::read(device, &mut self.warnings).map(|disk| self.disks.push(disk)),
            "controller" => self.controller(device),
            "interface" => self.card(device),
            "rng" => place(device).map(|at| self.rngs.extend(at)),
            "video" => self.video(device),
            "graphics" => self.graphics(device),
            "serial" => self.serial(device),
            "console" => self.console(device),
            "input" => {
                self.input(device);
                Ok(())
            }
            "emulator" => Ok(()),
            _ => lacking::left_out(device).map(|line| self.warnings.extend(line)),
        }
    }

    fn card(&mut self, device: &Element) -> Result<(), Failure> {
        let interface = Interface::read(device, &mut self.warnings)?;
        let address = place(device)?.ok_or_else(|| no_address(device))?;
        let mac = interface.mac.ok_or_else(|| {
            refuse("a network card of the definition has no MAC address").advise("Add one: <mac address='52:54:00:…'/>")
        })?;
        if self.cards.iter().any(|card| card.mac == mac) {
            return Err(refuse(format!("two network cards have the MAC address {}", mac_text(&mac))));
        }
        self.cards.push(Card { interface, mac, address });
        Ok(())
    }

    fn controller(&mut self, device: &Element) -> Result<(), Failure> {
        let (kind, model) = (device.attribute("type").unwrap_or(""), device.attribute("model").unwrap_or(""));
        match (kind, model) {
            ("pci", "pcie-root") => {}
            ("pci", "pcie-root-port") => {
                let index = device.attribute("index").and_then(|i| i.parse().ok()).ok_or_else(|| no_address(device))?;
                self.ports.push((index, place(device)?.ok_or_else(|| no_address(device))?));
            }
            ("usb", "none") => {}
            _ => self.warnings.push(lacking::controller_left_out(kind, model)?),
        }
        Ok(())
    }

    fn video(&mut self, device: &Element) -> Result<(), Failure> {
        let model = device.find("model").and_then(|m| m.attribute("type")).unwrap_or("vga");
        match model {
            "none" => return Ok(()),
            "vga" | "bochs" => {}
            "virtio" | "qxl" | "cirrus" => {
                self.warnings.push(format!("the standard VGA card stands in for video '{model}'"));
            }
            other => return Err(refuse(format!("video '{other}' is not there; use --video vga"))),
        }
        if self.display.is_some() {
            self.warnings.push("a second <video> is left out: kiln has one display".into());
            return Ok(());
        }
        self.display = Some(place(device)?.ok_or_else(|| no_address(device))?);
        graphics::video_without_effect(device, &mut self.warnings);
        Ok(())
    }

    fn graphics(&mut self, device: &Element) -> Result<(), Failure> {
        let Some(vnc) = Vnc::read(device, &mut self.warnings)? else { return Ok(()) };
        if self.vnc.replace(vnc).is_some() {
            return Err(refuse("the machine has two VNC servers; one is what kiln has"));
        }
        Ok(())
    }

    fn tell_other_graphics(&mut self, domain: &Domain) {
        let kinds = domain.devices().filter(|device| device.name() == "graphics").filter_map(|g| g.attribute("type"));
        let others = kinds.filter(|kind| !matches!(*kind, "vnc" | "none"));
        self.warnings.extend(others.map(|kind| lacking::unseen(kind, self.vnc.is_some())));
    }

    fn serial(&mut self, device: &Element) -> Result<(), Failure> {
        if self.serial {
            return Err(refuse("the machine has a second serial port; one is what kiln runs so far"));
        }
        match device.attribute("type") {
            Some("pty") => {}
            other => {
                return Err(refuse(format!(
                    "a serial port of type '{}' is not there yet; use pty",
                    other.unwrap_or("")
                )));
            }
        }
        self.serial = true;
        Ok(())
    }

    // libvirt writes the first serial port a second time, as <console>.
    fn console(&mut self, device: &Element) -> Result<(), Failure> {
        match device.find("target").and_then(|t| t.attribute("type")) {
            None | Some("serial") => Ok(()),
            Some("virtio") => {
                let line =
                    "the virtio <console> (hvc0 in the guest) is left out: kiln has a serial port (ttyS0) so far";
                self.warnings.push(line.into());
                Ok(())
            }
            Some(other) => Err(refuse(format!("a console of type '{other}' is not there"))),
        }
    }

    fn input(&mut self, device: &Element) {
        if device.attribute("bus") != Some("ps2") {
            let kind = device.attribute("type").unwrap_or("input");
            self.warnings.push(format!("PS/2 keyboard and mouse stand in for the {kind}"));
        }
    }
}

/// libvirt's metadata element in which kiln keeps what its XML has no word for.
pub const METADATA: &str = "kiln:machine";
/// Its namespace.
pub const NAMESPACE: &str = "https://kiln.invalid/domain/1";

fn is_minimal(root: &Element) -> bool {
    mark(root, "legacy") == Some("minimal")
}

// An attribute of kiln's own metadata.
fn mark<'a>(root: &'a Element, name: &str) -> Option<&'a str> {
    root.find("metadata")?.find(METADATA)?.attribute(name)
}

fn check_type(domain: &Domain) -> Result<(), Failure> {
    match domain.root().attribute("type") {
        Some("kvm" | "qemu") => {}
        other => {
            return Err(refuse(format!("machines of type '{}' are not kiln's; it runs type kvm", other.unwrap_or(""))));
        }
    }
    let os = domain.root().find("os/type");
    let arch = os.and_then(|t| t.attribute("arch")).unwrap_or("x86_64");
    if arch != "x86_64" {
        return Err(refuse(format!("machines of the architecture '{arch}' can't run here: kiln has x86_64")));
    }
    let machine = os.and_then(|t| t.attribute("machine")).unwrap_or("q35");
    if !machine.contains("q35") {
        return Err(refuse(format!("machines of the type '{machine}' are not there: kiln has q35"))
            .advise("Set machine='q35' in <os><type>, and bus='virtio' for disks."));
    }
    Ok(())
}

// A topology is that of the most processors (formatdomain, "CPU model and topology"); with fewer of them there are fewer
// sockets, or where that doesn't come out even, sockets alone.
fn topology(vcpus: u32, most: u32, given: Option<Topology>) -> Result<Topology, Failure> {
    if vcpus == 0 || vcpus > MOST_CPUS {
        return Err(refuse(format!("{vcpus} virtual CPUs can't be had: a machine has 1 to {MOST_CPUS}")));
    }
    let flat = Topology { sockets: vcpus, dies: 1, cores: 1, threads: 1 };
    let topology = given.unwrap_or(flat);
    let product = [topology.sockets, topology.dies, topology.cores, topology.threads]
        .into_iter()
        .try_fold(1u32, u32::checked_mul);
    if product == Some(most) && vcpus < most {
        let each = most / topology.sockets;
        let is_even = vcpus.is_multiple_of(each);
        return Ok(if is_even { Topology { sockets: vcpus / each, ..topology } } else { flat });
    }
    if product != Some(vcpus) {
        return Err(refuse(format!(
            "the CPU topology {} x {} x {} x {} doesn't give {vcpus} virtual CPUs",
            topology.sockets, topology.dies, topology.cores, topology.threads
        )));
    }
    Ok(topology)
}

fn place(device: &Element) -> Result<Option<PciAddress>, Failure> {
    address::of(device).map_err(|e| understand(&e.into()))
}

fn no_address(device: &Element) -> Failure {
    refuse(format!("a <{}> of the definition has no PCI address", device.name()))
        .advise("Define the machine again: addresses are given then.")
}

impl Blueprint {
    /// Number of processors.
    pub fn vcpus(&self) -> u32 {
        self.cpus.sockets * self.cpus.dies * self.cpus.cores * self.cpus.threads
    }
}
