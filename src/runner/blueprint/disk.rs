//! `<disk>`: what is read of it, and what of it can't be done.

use std::path::PathBuf;

use kiln_domain::address::PciAddress;
use kiln_domain::xml::Element;
use kiln_image::{Access, Format, Open, storage};
use kiln_vmm::virtio::blk::{DetectZeroes, OnError};

use super::{attributes_without_effect, elements_without_effect, no_address, place, refuse};
use crate::failure::Failure;

/// How the host's page cache and the guest's flushes are used, under libvirt's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// Through the page cache; durable when the guest flushes.
    Writeback,
    /// Through the page cache; durable with each write.
    Writethrough,
    /// Past the page cache; durable when the guest flushes.
    None,
    /// Past the page cache; durable with each write.
    Directsync,
    /// Through the page cache; the guest's flushes do nothing.
    Unsafe,
}

// What `<driver>`'s attributes may say.
const CACHES: [(&str, CacheMode); 5] = [
    ("none", CacheMode::None),
    ("writeback", CacheMode::Writeback),
    ("writethrough", CacheMode::Writethrough),
    ("directsync", CacheMode::Directsync),
    ("unsafe", CacheMode::Unsafe),
];
const ENGINES: [(&str, Option<&str>); 3] =
    [("threads", None), ("native", Some("native")), ("io_uring", Some("io_uring"))];
const DISCARDS: [(&str, bool); 4] = [("unmap", true), ("ignore", false), ("on", true), ("off", false)];
const ZEROES: [(&str, DetectZeroes); 3] =
    [("off", DetectZeroes::Off), ("on", DetectZeroes::On), ("unmap", DetectZeroes::Unmap)];
const READ_ERRORS: [(&str, OnError); 3] =
    [("report", OnError::Report), ("stop", OnError::Stop), ("ignore", OnError::Ignore)];
const WRITE_ERRORS: [(&str, OnError); 4] = [
    ("report", OnError::Report),
    ("stop", OnError::Stop),
    ("ignore", OnError::Ignore),
    ("enospace", OnError::StopWithoutSpace),
];

/// What may be said of an attribute of `<driver>`.
pub fn driver_values(key: &str) -> Vec<&'static str> {
    fn names<T>(all: &[(&'static str, T)]) -> Vec<&'static str> {
        all.iter().map(|(name, _)| *name).collect()
    }
    match key {
        "cache" => names(&CACHES),
        "io" => names(&ENGINES),
        "discard" => names(&DISCARDS),
        "detect_zeroes" => names(&ZEROES),
        "error_policy" => names(&WRITE_ERRORS),
        "rerror_policy" => names(&READ_ERRORS),
        _ => Vec::new(),
    }
}

impl CacheMode {
    /// Whether it goes past the page cache.
    pub fn is_direct(self) -> bool {
        matches!(self, CacheMode::None | CacheMode::Directsync)
    }

    /// Whether writes may wait for a flush.
    pub fn has_write_cache(self) -> bool {
        !matches!(self, CacheMode::Writethrough | CacheMode::Directsync)
    }
}

/// What a definition says lies below an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// Files from the top, with their formats where they are said.
    pub files: Vec<(PathBuf, Option<Format>)>,
    /// Whether it says that nothing else follows.
    pub ends: bool,
}

/// A virtio disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Image or block device.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Name as the XML has it, e.g. `vda`.
    pub target: String,
    /// Place.
    pub address: PciAddress,
    /// The guest may not write.
    pub read_only: bool,
    /// Several machines may write.
    pub shareable: bool,
    /// Serial number, at most 20 bytes.
    pub serial: Option<String>,
    /// Page cache and flushes.
    pub cache: CacheMode,
    /// Discards give space back.
    pub unmap: bool,
    /// Writes of zeros.
    pub detect_zeroes: DetectZeroes,
    /// Reads that fail.
    pub on_read_error: OnError,
    /// Writes that fail.
    pub on_write_error: OnError,
    /// What lies below it, as far as the definition says it.
    pub below: Below,
}

impl Disk {
    /// How its files are locked.
    pub fn access(&self) -> Access {
        match (self.read_only, self.shareable) {
            (true, _) => Access::ReadOnly,
            (false, true) => Access::SharedWrite,
            (false, false) => Access::Write,
        }
    }

    /// How its image is opened.
    pub fn how(&self) -> Open {
        Open {
            access: self.access(),
            cache: storage::Cache { direct: self.cache.is_direct(), sync: false },
            no_barriers: self.cache == CacheMode::Unsafe,
            unmap: self.unmap,
            ..Open::reading(Some(self.format))
        }
    }

    /// Reads a `<disk>`, and adds to `notes` what is done otherwise than it says.
    ///
    /// # Errors
    /// When it asks for what can't be run.
    pub(super) fn read(device: &Element, notes: &mut Vec<String>) -> Result<Self, Failure> {
        let target = device.find("target");
        let attribute = |name: &str| target.and_then(|t| t.attribute(name)).unwrap_or_default().to_owned();
        let (name, bus) = (attribute("dev"), attribute("bus"));
        let kind = device.attribute("device").unwrap_or("disk");
        if kind != "disk" {
            return Err(refuse(format!("the disk {name} is a {kind}; kiln has no {kind} drive yet")));
        }
        if bus != "virtio" {
            return Err(refuse(format!("the disk {name} is on the bus '{bus}', which kiln does not have yet"))
                .advise("Use bus=virtio, which Linux has drivers for."));
        }
        for absent in ["encryption", "mirror", "iotune", "auth"] {
            if device.find(absent).is_some() {
                return Err(refuse(format!("the disk {name} has <{absent}>, which kiln can't do yet"))
                    .advise("Take it out of the definition."));
            }
        }
        if device.find("transient").is_some() {
            return Err(refuse(format!("the disk {name} is <transient/>, which kiln can't do yet"))
                .advise("Make an overlay and use that: kiln disk create -f qcow2 -b DISK -F FORMAT OVERLAY"));
        }
        let words = Words { name: &name, driver: device.find("driver") };
        leave_out(device, &name, notes);
        let format = words.format()?;
        let source = device.find("source");
        let path = source.and_then(|s| s.attribute("file").or_else(|| s.attribute("dev")));
        let path = path.ok_or_else(|| refuse(format!("the disk {name} names neither a file nor a block device")))?;
        let cache = words.cache()?;
        words.engine(cache, notes)?;
        let (on_read_error, on_write_error) = words.policies()?;
        let disk = Self {
            path: path.into(),
            format,
            address: place(device)?.ok_or_else(|| no_address(device))?,
            read_only: device.find("readonly").is_some(),
            shareable: device.find("shareable").is_some(),
            serial: device.find("serial").map(Element::text).filter(|s| !s.is_empty()),
            cache,
            unmap: words.discard()?,
            detect_zeroes: words.detect_zeroes()?,
            on_read_error,
            on_write_error,
            below: below(device, &name)?,
            target: name,
        };
        if disk.shareable && disk.format != Format::Raw {
            let what = format!("the disk {} is shareable and {}", disk.target, disk.format.name());
            return Err(refuse(what)
                .why("two machines that write to one image of that format destroy it: each keeps tables in memory")
                .advise("Share a raw disk, or give each machine an overlay of its own."));
        }
        Ok(disk)
    }
}

/// Elements of `<disk>` and attributes of `<driver>` that are read, or mean nothing to a machine.
const ELEMENTS: &[&str] =
    &["driver", "source", "target", "backingStore", "readonly", "shareable", "serial", "boot", "address", "alias"];
const ATTRIBUTES: &[&str] =
    &["name", "type", "cache", "io", "discard", "detect_zeroes", "error_policy", "rerror_policy"];

// What else it says is kept, and has no effect.
fn leave_out(device: &Element, name: &str, notes: &mut Vec<String>) {
    let of = format!("the disk {name}");
    elements_without_effect(device, &of, notes, ELEMENTS);
    if let Some(driver) = device.find("driver") {
        attributes_without_effect(driver, &of, notes, |attribute, _| ATTRIBUTES.contains(&attribute));
    }
    if device.find("serial").is_some_and(|serial| serial.text().len() > 20) {
        notes.push(format!("the disk {name}: its serial number is cut to 20 bytes, as virtio has it"));
    }
}

/// `<driver>`'s attributes.
struct Words<'e> {
    name: &'e str,
    driver: Option<&'e Element>,
}

impl Words<'_> {
    fn attribute(&self, key: &str) -> Option<&str> {
        self.driver.and_then(|driver| driver.attribute(key)).filter(|value| *value != "default")
    }

    fn unknown(&self, key: &str, value: &str, there: &str) -> Failure {
        refuse(format!("the disk {} has {key}='{value}', which kiln does not know", self.name))
            .advise(format!("There are: {there}"))
    }

    fn choose<T: Copy>(&self, key: &str, all: &[(&str, T)], otherwise: T) -> Result<T, Failure> {
        let Some(value) = self.attribute(key) else { return Ok(otherwise) };
        let found = all.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
        found.ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            self.unknown(key, value, &names.join(", "))
        })
    }

    fn format(&self) -> Result<Format, Failure> {
        let name = self.attribute("type").unwrap_or("raw");
        Format::from_name(name).ok_or_else(|| {
            refuse(format!("the disk {} has the format {name}; kiln runs raw and qcow2", self.name))
                .advise("Where qemu-img is: qemu-img convert -O qcow2 OLD NEW.qcow2")
        })
    }

    fn cache(&self) -> Result<CacheMode, Failure> {
        self.choose("cache", &CACHES, CacheMode::Writeback)
    }

    fn discard(&self) -> Result<bool, Failure> {
        self.choose("discard", &DISCARDS, false)
    }

    fn detect_zeroes(&self) -> Result<DetectZeroes, Failure> {
        self.choose("detect_zeroes", &ZEROES, DetectZeroes::Off)
    }

    // What is to follow reads and writes that fail. One policy is meant for both, but that reads don't know enospace
    // (formatdomain, error_policy).
    fn policies(&self) -> Result<(OnError, OnError), Failure> {
        let given = self.attribute("error_policy").is_some();
        let writes = self.choose("error_policy", &WRITE_ERRORS, OnError::StopWithoutSpace)?;
        let same = if given && writes != OnError::StopWithoutSpace { writes } else { OnError::Report };
        Ok((self.choose("rerror_policy", &READ_ERRORS, same)?, writes))
    }

    // Each queue's own thread does its requests, whichever engine QEMU would take.
    fn engine(&self, cache: CacheMode, notes: &mut Vec<String>) -> Result<(), Failure> {
        let native =
            self.choose("io", &[("threads", None), ("native", Some("native")), ("io_uring", Some("io_uring"))], None)?;
        if native == Some("native") && !cache.is_direct() {
            return Err(refuse(format!("the disk {} has io='native' without cache='none' or 'directsync'", self.name))
                .why("QEMU refuses this, too: native requests go past the page cache")
                .advise("Set cache=none as well, or leave io out."));
        }
        if let Some(engine) = native {
            notes.push(format!("the disk {}: threads do its requests, not io='{engine}'", self.name));
        }
        Ok(())
    }
}

// <backingStore> in <backingStore> …; an empty one says that nothing follows.
fn below(device: &Element, name: &str) -> Result<Below, Failure> {
    let mut below = Below { files: Vec::new(), ends: false };
    let mut next = device.find("backingStore");
    while let Some(element) = next {
        let source = element.find("source");
        let Some(source) = source else {
            below.ends = true;
            break;
        };
        let path = source.attribute("file").or_else(|| source.attribute("dev"));
        let path = path.ok_or_else(|| refuse(format!("below the disk {name} is neither a file nor a block device")))?;
        let format = match element.find("format").and_then(|format| format.attribute("type")) {
            None => None,
            Some(name) => Some(
                Format::from_name(name)
                    .ok_or_else(|| refuse(format!("{path} has the format {name}; kiln runs raw and qcow2")))?,
            ),
        };
        below.files.push((path.into(), format));
        next = element.find("backingStore");
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    use kiln_domain::Domain;

    use super::*;

    fn read(inside: &str) -> (Result<Disk, Failure>, Vec<String>) {
        let xml = format!(
            "<domain><devices><disk><target dev='vda' bus='virtio'/><source file='/d'/>{inside}\
             <address type='pci' domain='0' bus='0' slot='3' function='0'/></disk></devices></domain>"
        );
        let mut notes = Vec::new();
        let domain = Domain::parse(&xml).unwrap();
        let disk = Disk::read(domain.devices().next().unwrap(), &mut notes);
        (disk, notes)
    }

    #[test]
    fn what_has_no_effect_is_told() {
        let (disk, notes) = read("<driver type='raw' cache='none' io='native' queues='4'/><geometry cyls='1'/>");
        assert_eq!(disk.unwrap().cache, CacheMode::None);
        let expected = ["<geometry> has no effect", "<driver queues='4'> has no effect", "not io='native'"];
        for (note, expected) in notes.iter().zip(expected) {
            assert!(note.contains(expected), "{notes:?}");
        }
        assert_eq!(notes.len(), 3);
        let (_, notes) =
            read("<driver name='qemu' type='qcow2' discard='unmap'/><serial>12345678901234567890</serial>");
        assert_eq!(notes, [""; 0]);
        assert!(read("<serial>123456789012345678901</serial>").1[0].contains("cut to 20 bytes"));
    }

    #[test]
    fn unset_policies_are_qemu_s() {
        let disk = read("").0.unwrap();
        assert_eq!((disk.on_write_error, disk.on_read_error), (OnError::StopWithoutSpace, OnError::Report));
        assert_eq!((disk.cache, disk.unmap, disk.format), (CacheMode::Writeback, false, Format::Raw));
    }

    #[test]
    fn a_policy_of_errors_is_that_of_reads_too() {
        use OnError::{Ignore, Report, Stop, StopWithoutSpace};
        for (words, reads, writes) in [
            ("error_policy='stop'", Stop, Stop),
            ("error_policy='ignore'", Ignore, Ignore),
            ("error_policy='report'", Report, Report),
            ("error_policy='enospace'", Report, StopWithoutSpace),
            ("rerror_policy='stop'", Stop, StopWithoutSpace),
            ("error_policy='stop' rerror_policy='report'", Report, Stop),
            ("error_policy='stop' rerror_policy='default'", Stop, Stop),
        ] {
            let disk = read(&format!("<driver type='raw' {words}/>")).0.unwrap();
            assert_eq!((disk.on_read_error, disk.on_write_error), (reads, writes), "{words}");
        }
    }
}
