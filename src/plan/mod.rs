//! From wishes to a plan: the only home of defaults and of rules that span options.
//!
//! A [`Plan`] becomes domain XML through a template. An install has two documents: the first boot's, which boots the
//! installer and ends at its reboot, and the permanent one without it.

pub mod template;

use std::path::PathBuf;

use kiln_domain::Domain;
use kiln_image::Format;
use kiln_vmm::virtio::net::Mac;
use serde::Serialize;

use crate::failure::{Failure, Status};
use crate::network::interface::Range;
use crate::network::settings::mac_text;
use crate::network::{Interface, Kind};
use crate::runner::blueprint::{MOST_CPUS, NAMESPACE, Vnc};

use template::{Sets, Source};

/// Least memory that is taken for meant, in MiB. Kernels want more, but say so themselves.
const LEAST_MEMORY_MIB: u64 = 16;

/// Empty root ports of the default template, into which devices can be plugged while the machine runs. Each costs a Linux
/// guest some 500 exits at boot, on a slow host as much as a device that is there; a template may have more.
const SPARE_PORTS: usize = 2;

/// What a boot without firmware loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Kernel.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Command line.
    pub cmdline: String,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Image or block device.
    pub path: PathBuf,
    /// It is a block device.
    pub is_block: bool,
    /// Its format.
    pub format: Format,
    /// Attributes of `<driver>` other than name and type.
    pub driver: Vec<(&'static str, String)>,
    /// The guest may not write.
    pub read_only: bool,
    /// Several machines may write.
    pub shareable: bool,
    /// Serial number.
    pub serial: Option<String>,
    /// Its place among what firmware boots from.
    pub boot_order: Option<u32>,
    /// What is to be made, when it isn't there.
    pub make: Option<NewDisk>,
}

/// A disk that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// Bytes; without, as many as its backing file has.
    pub size: Option<u64>,
    /// Space is taken when it is written to, not now.
    pub sparse: bool,
    /// What it lies on.
    pub backing: Option<(PathBuf, Format)>,
}

/// A network card as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkWish {
    /// The card; without an address it gets one.
    pub card: Interface,
    /// The gateway's address leads to the host's own loopback.
    pub host_loopback: bool,
}

/// Everything that is decided about a new machine.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: String,
    /// Template.
    pub template: Source,
    /// What the user fills it with besides.
    pub sets: Sets,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Processors.
    pub vcpus: u32,
    /// Sockets, dies, cores, threads, where asked for.
    pub topology: Option<[u32; 4]>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Network cards, each with its address.
    pub cards: Vec<(Interface, Mac)>,
    /// Guests reach the host's loopback by the gateway's address.
    pub host_loopback: bool,
    /// VNC server, and with it a display.
    pub vnc: Option<Vnc>,
    /// What the first boot loads, when it isn't what every boot loads.
    pub install: Option<Boot>,
    /// The medium that an installer goes on from: a disk of the first boot alone.
    pub medium: Option<Disk>,
    /// What every boot loads.
    pub boot: Option<Boot>,
    /// libosinfo's id of the system.
    pub os: Option<String>,
}

/// Which of the two documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The first boot.
    Install,
    /// What is kept.
    Permanent,
}

/// What templates may use.
#[derive(Serialize)]
struct View<'a> {
    name: &'a str,
    uuid: &'a str,
    namespace: &'a str,
    version: &'a str,
    os: Option<&'a str>,
    memory_kib: u64,
    vcpus: u32,
    kernel: Option<String>,
    initrd: Option<String>,
    cmdline: Option<&'a str>,
    topology: Option<TopologyView>,
    on_reboot: &'a str,
    disks: Vec<DiskView<'a>>,
    /// After all others, so that they have the same places with it and without it.
    medium: Option<DiskView<'a>>,
    cards: Vec<CardView>,
    host_loopback: bool,
    /// Devices have places in the boot order, which libvirt then takes alone.
    ordered: bool,
    ports: usize,
    vnc: Option<&'a Vnc>,
}

#[derive(Serialize)]
struct TopologyView {
    sockets: u32,
    dies: u32,
    cores: u32,
    threads: u32,
}

#[derive(Serialize)]
struct DiskView<'a> {
    r#type: &'static str,
    attribute: &'static str,
    path: String,
    target: String,
    slot: String,
    format: &'static str,
    driver: &'a [(&'static str, String)],
    read_only: bool,
    shareable: bool,
    serial: Option<&'a str>,
    boot_order: Option<u32>,
}

#[derive(Serialize)]
struct CardView {
    r#type: &'static str,
    network: Option<String>,
    mac: String,
    target: Option<String>,
    backend: Option<&'static str>,
    host_name: Option<String>,
    boot_order: Option<u32>,
    mtu: Option<u16>,
    down: bool,
    forwards: Vec<ForwardView>,
    slot: String,
}

#[derive(Serialize)]
struct ForwardView {
    proto: &'static str,
    address: Option<String>,
    ranges: Vec<Range>,
}

impl Plan {
    /// The domain document of a step, without addresses, as `--print-xml` shows it.
    ///
    /// # Errors
    /// When the template is unknown or doesn't give a domain.
    pub fn document(&self, step: Step) -> Result<Domain, Failure> {
        let domain = self.filled(&self.values(step))?;
        self.check_kept(&domain, step)?;
        Ok(domain)
    }

    /// The least that templates are filled with, for a look at what they make of it.
    ///
    /// # Errors
    /// When the host gives no random bytes.
    pub fn sample(template: Source) -> Result<Self, Failure> {
        Ok(Self {
            name: "sample".into(),
            uuid: new_uuid()?,
            template,
            sets: Sets::default(),
            memory_mib: 256,
            vcpus: 1,
            topology: None,
            disks: vec![],
            cards: vec![],
            host_loopback: false,
            vnc: Some(Vnc::default()),
            install: None,
            medium: None,
            boot: Some(Boot { kernel: "/vmlinuz".into(), initrd: None, cmdline: String::new() }),
            os: None,
        })
    }

    /// What templates are filled with.
    pub fn values(&self, step: Step) -> minijinja::Value {
        let boot = match step {
            Step::Install => self.install.as_ref().or(self.boot.as_ref()),
            Step::Permanent => self.boot.as_ref(),
        };
        let path = |p: &PathBuf| p.to_string_lossy().into_owned();
        let disks: Vec<DiskView<'_>> = self.disks.iter().enumerate().map(|(n, disk)| view(n, n, disk)).collect();
        let cards: Vec<CardView> =
            self.cards.iter().enumerate().map(|(n, (card, mac))| card_view(disks.len() + n, card, mac)).collect();
        // One root port per PCIe device (disks, network cards and the entropy source), and the spare ones.
        let ports = disks.len() + cards.len() + 1 + SPARE_PORTS;
        let orders = disks.iter().map(|disk| disk.boot_order).chain(cards.iter().map(|card| card.boot_order));
        let ordered = orders.flatten().next().is_some();
        let first = step == Step::Install && self.install.is_some();
        let medium = self.medium.as_ref().filter(|_| first);
        let medium = medium.map(|medium| view(disks.len(), disks.len() + cards.len(), medium));
        minijinja::Value::from(minijinja::value::Serde(View {
            name: &self.name,
            uuid: &self.uuid,
            namespace: NAMESPACE,
            version: kiln_vmm::config::VERSION,
            os: self.os.as_deref(),
            memory_kib: self.memory_mib << 10,
            vcpus: self.vcpus,
            kernel: boot.map(|b| path(&b.kernel)),
            initrd: boot.and_then(|b| b.initrd.as_ref()).map(path),
            cmdline: boot.map(|b| b.cmdline.as_str()).filter(|c| !c.is_empty()),
            topology: self.topology.map(|[sockets, dies, cores, threads]| TopologyView {
                sockets,
                dies,
                cores,
                threads,
            }),
            on_reboot: if first { "destroy" } else { "restart" },
            disks,
            medium,
            ordered,
            cards,
            host_loopback: self.host_loopback,
            ports,
            vnc: self.vnc.as_ref(),
        }))
    }

    // By what the plan says, and what `--set` adds to it.
    fn filled(&self, own: &minijinja::Value) -> Result<Domain, Failure> {
        let is_own = |name: &&str| own.get_attr(name).is_ok_and(|value| !value.is_undefined());
        if let Some(name) = self.sets.names().find(is_own) {
            return Err(Failure::new(Status::Usage, format!("--set {name}=…: kiln install fills this in by itself"))
                .advise("Use the option that says it, or take another name in the template."));
        }
        let values = minijinja::context! { ..self.sets.values(), ..own.clone() };
        let rendered = template::render(&self.template, &values)?;
        self.sets.check_asked_for(&rendered.variables)?;
        let domain = Domain::parse(&rendered.text).map_err(|e| {
            Failure::new(Status::Failed, format!("the template {} gives no domain", self.template)).because(&e)
        })?;
        Ok(domain)
    }

    // A template of the user's own may leave out what was asked for.
    fn check_kept(&self, domain: &Domain, step: Step) -> Result<(), Failure> {
        let refuse = |what: String| {
            Failure::new(Status::Failed, format!("the template {} leaves out {what}", self.template))
                .advise("kiln template show default shows how it is written.")
        };
        if domain.name().ok().as_ref() != Some(&self.name) {
            return Err(refuse(format!("the machine's name: <name> must be {:?}", self.name)));
        }
        let sources: Vec<&kiln_domain::xml::Element> =
            domain.devices().filter_map(|device| device.find("source")).collect();
        let has = |path: &PathBuf| {
            let path = path.to_string_lossy();
            sources.iter().any(|s| s.attributes().any(|(key, value)| matches!(key, "file" | "dev") && value == path))
        };
        let medium = self.medium.as_ref().filter(|_| step == Step::Install && self.install.is_some());
        match self.disks.iter().chain(medium).find(|disk| !has(&disk.path)) {
            Some(disk) => Err(refuse(format!("the disk {}", disk.path.display()))),
            None => Ok(()),
        }
    }
}

fn view(number: usize, place: usize, disk: &Disk) -> DiskView<'_> {
    let (kind, attribute) = if disk.is_block { ("block", "dev") } else { ("file", "file") };
    DiskView {
        r#type: kind,
        attribute,
        path: disk.path.to_string_lossy().into_owned(),
        target: format!("vd{}", letters(number)),
        slot: format!("{:#04x}", place + 2),
        format: disk.format.name(),
        driver: &disk.driver,
        read_only: disk.read_only,
        shareable: disk.shareable,
        serial: disk.serial.as_deref(),
        boot_order: disk.boot_order,
    }
}

fn card_view(number: usize, card: &Interface, mac: &Mac) -> CardView {
    let (kind, network) = card.told();
    let forwards = card.forwards.iter().map(|forward| ForwardView {
        proto: forward.protocol.name(),
        address: forward.address.map(|address| address.to_string()),
        ranges: forward.ranges.clone(),
    });
    CardView {
        r#type: kind,
        network,
        mac: mac_text(mac),
        target: card.target.clone(),
        // libvirt takes forwards and a host name with passt alone.
        backend: match card.kind {
            Kind::User { passt } if passt || !card.forwards.is_empty() || card.host_name.is_some() => Some("passt"),
            _ => None,
        },
        host_name: card.host_name.clone(),
        boot_order: card.boot_order,
        mtu: card.mtu,
        down: !card.link,
        forwards: forwards.collect(),
        slot: format!("{:#04x}", number + 2),
    }
}

// vda … vdz, vdaa …
fn letters(number: usize) -> String {
    let last = char::from(b'a' + (number % 26) as u8);
    match number / 26 {
        0 => last.to_string(),
        more => format!("{}{last}", letters(more - 1)),
    }
}

/// Checks an amount of memory in MiB.
///
/// # Errors
/// When it is so little that another unit must be meant.
pub fn check_memory(mib: u64) -> Result<u64, Failure> {
    if mib >= LEAST_MEMORY_MIB {
        return Ok(mib);
    }
    let failure = Failure::new(Status::Usage, format!("--memory {mib}: a machine can't run in {mib} MiB"));
    Err(failure.advise(format!("Did you mean {}G? A number without a unit counts MiB.", mib.max(1))))
}

/// Checks a number of processors.
///
/// # Errors
/// When it isn't between 1 and 64.
pub fn check_vcpus(vcpus: u32) -> Result<u32, Failure> {
    if (1..=MOST_CPUS).contains(&vcpus) {
        return Ok(vcpus);
    }
    Err(Failure::new(Status::Usage, format!("--vcpus {vcpus}: a machine has 1 to {MOST_CPUS} virtual CPUs")))
}

/// A random uuid (RFC 9562, 5.4).
///
/// # Errors
/// When the host gives no random bytes.
pub fn new_uuid() -> Result<String, Failure> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Failure::new(Status::Failed, "the host gives no random bytes").because(&e))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::blueprint::{Blueprint, CacheMode};
    use kiln_vmm::virtio::blk::OnError;

    fn plan(template: &str) -> Plan {
        Plan {
            name: "a & 'b'".into(),
            uuid: new_uuid().unwrap(),
            template: Source::of(template),
            sets: Sets::default(),
            memory_mib: 512,
            vcpus: 2,
            topology: None,
            disks: vec![Disk {
                path: "/d/<x>.img".into(),
                is_block: false,
                format: Format::Qcow2,
                driver: vec![("cache", "none".into()), ("error_policy", "stop".into())],
                read_only: true,
                shareable: false,
                serial: Some("s&1".into()),
                boot_order: Some(1),
                make: None,
            }],
            cards: vec![],
            host_loopback: false,
            vnc: Some(Vnc::default()),
            install: Some(Boot { kernel: "/k".into(), initrd: Some("/i".into()), cmdline: "a=\"b c\"".into() }),
            medium: None,
            boot: None,
            os: None,
        }
    }

    #[test]
    fn a_medium_takes_nobodys_place() {
        for template in ["default", "small"] {
            let mut plan = plan(template);
            plan.disks[0].boot_order = None;
            let card = (Interface::default(), Mac::from([0x52, 0x54, 0, 1, 2, 3]));
            plan.cards.push(card);
            plan.medium = Some(Disk {
                path: "/m.iso".into(),
                is_block: true,
                format: Format::Raw,
                driver: vec![],
                boot_order: None,
                ..plan.disks[0].clone()
            });
            let read = |step| {
                let mut document = plan.document(step).unwrap();
                document.assign_addresses().unwrap();
                let blueprint = document.to_string().replace("<boot dev='hd'/>", "<kernel>/k</kernel>");
                Blueprint::read(&Domain::parse(&blueprint).unwrap()).unwrap()
            };
            let (first, kept) = (read(Step::Install), read(Step::Permanent));
            let text = plan.document(Step::Install).unwrap().to_string();
            assert!(text.contains("<disk type='block'") && text.contains("<source dev='/m.iso'/>"), "{text}");
            let medium = &first.disks[1];
            assert_eq!((medium.path.to_str(), medium.target.as_str(), medium.read_only), (Some("/m.iso"), "vdb", true));
            assert_eq!(kept.disks.len(), 1);
            assert_eq!(first.disks[0].address, kept.disks[0].address);
            assert_eq!(first.cards[0].address, kept.cards[0].address);
            assert!(medium.address != first.cards[0].address && medium.address != first.disks[0].address);
        }
    }

    #[test]
    fn the_two_documents_differ_in_what_they_boot() {
        let plan = plan("default");
        let mut first = plan.document(Step::Install).unwrap();
        first.assign_addresses().unwrap();
        let blueprint = Blueprint::read(&first).unwrap();
        assert_eq!(blueprint.name, "a & 'b'");
        assert_eq!((blueprint.memory, blueprint.vcpus()), (512 << 20, 2));
        assert_eq!(blueprint.cmdline, "a=\"b c\"");
        assert_eq!(blueprint.disks[0].path, PathBuf::from("/d/<x>.img"));
        let disk = &blueprint.disks[0];
        assert_eq!((disk.format, disk.cache, disk.on_write_error), (Format::Qcow2, CacheMode::None, OnError::Stop));
        assert_eq!((disk.serial.as_deref(), disk.unmap), (Some("s&1"), false));
        assert!(disk.read_only && blueprint.legacy && blueprint.display.is_some());
        assert_eq!(blueprint.ports.len(), 4);
        let kept = plan.document(Step::Permanent).unwrap();
        assert_eq!(kept.text("os/kernel"), None);
        let actions = (first.text("on_reboot"), kept.text("on_reboot"));
        assert_eq!(actions, (Some("destroy".into()), Some("restart".into())));
        assert_eq!(first.uuid(), kept.uuid());
    }

    #[test]
    fn the_small_template_has_no_display_and_its_disk_on_the_root_bus() {
        let mut document = plan("small").document(Step::Install).unwrap();
        document.assign_addresses().unwrap();
        let blueprint = Blueprint::read(&document).unwrap();
        assert!(!blueprint.legacy && blueprint.display.is_none() && blueprint.vnc.is_none());
        assert!(blueprint.ports.is_empty() && blueprint.rngs.is_empty() && blueprint.serial);
        assert_eq!(blueprint.disks[0].address.to_string(), "00:02.0");
    }

    #[test]
    fn disks_are_named_as_linux_does() {
        assert_eq!([0, 25, 26, 701, 702].map(letters), ["a", "z", "aa", "zz", "aaa"]);
    }

    #[test]
    fn numbers_that_cannot_be_meant_are_refused() {
        assert!(check_memory(2).unwrap_err().to_string().contains("Did you mean 2G?"));
        assert!(check_vcpus(0).is_err() && check_vcpus(65).is_err());
        assert_eq!((check_vcpus(64).unwrap(), check_memory(128).unwrap()), (64, 128));
    }

    #[test]
    fn uuids_are_random_ones() {
        let uuid = new_uuid().unwrap();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert_ne!(uuid, new_uuid().unwrap());
    }
}
