//! What a domain document says, typed. Elements: libvirt's formatdomain.

use crate::address::{self, AddressError};
use crate::xml::{Document, Element, ParseError};

/// Why a document is no domain that can be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// It isn't XML.
    #[error("the XML is malformed")]
    Malformed(#[from] ParseError),
    /// Its outermost element is another one.
    #[error("the document is a <{0}>, not a <domain>")]
    NotADomain(String),
    /// An element is missing.
    #[error("<domain> has no <{0}>")]
    Missing(&'static str),
    /// A value can't be what it says.
    #[error("<{at}> is '{value}': {why}")]
    Value {
        /// Path of the element.
        at: &'static str,
        /// What it says.
        value: String,
        /// What is expected.
        why: &'static str,
    },
    /// Addresses don't work out.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// A domain document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(Document);

/// Sockets, dies, cores, threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Processor packages.
    pub sockets: u32,
    /// Dies in each.
    pub dies: u32,
    /// Cores in each die.
    pub cores: u32,
    /// Threads of each core.
    pub threads: u32,
}

/// `<on_poweroff>` and its kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The machine ends.
    Destroy,
    /// It starts again.
    Restart,
    /// It stands as it is.
    Preserve,
}

impl Domain {
    /// Reads a domain document.
    ///
    /// # Errors
    /// When it is malformed or another kind of document.
    pub fn parse(source: &str) -> Result<Self, DomainError> {
        let document = Document::parse(source)?;
        if document.root().name() != "domain" {
            return Err(DomainError::NotADomain(document.root().name().into()));
        }
        Ok(Self(document))
    }

    /// The tree.
    pub fn root(&self) -> &Element {
        self.0.root()
    }

    /// The tree, to be edited.
    pub fn root_mut(&mut self) -> &mut Element {
        self.0.root_mut()
    }

    /// Gives PCI addresses to devices without one.
    ///
    /// # Errors
    /// When given ones collide or there is no room.
    pub fn assign_addresses(&mut self) -> Result<(), DomainError> {
        Ok(address::assign(&mut self.0)?)
    }

    /// Checks the PCI addresses.
    ///
    /// # Errors
    /// When they collide or are out of place.
    pub fn check_addresses(&self) -> Result<(), DomainError> {
        Ok(address::check(&self.0)?)
    }

    /// Text at a path, if the element is there.
    pub fn text(&self, path: &str) -> Option<String> {
        self.root().find(path).map(Element::text)
    }

    /// The machine's name.
    ///
    /// # Errors
    /// When there is none.
    pub fn name(&self) -> Result<String, DomainError> {
        self.text("name").filter(|n| !n.is_empty()).ok_or(DomainError::Missing("name"))
    }

    /// The machine's uuid as 16 bytes, if it has one.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn uuid(&self) -> Result<Option<[u8; 16]>, DomainError> {
        let Some(text) = self.text("uuid") else { return Ok(None) };
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        let byte = |at: usize| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
        let malformed = || DomainError::Value { at: "uuid", value: text.clone(), why: "32 hex digits are expected" };
        if hex.len() != 32 {
            return Err(malformed());
        }
        let mut uuid = [0; 16];
        for (n, to) in uuid.iter_mut().enumerate() {
            *to = byte(n * 2).ok_or_else(malformed)?;
        }
        Ok(Some(uuid))
    }

    /// Most memory that it may have, in bytes (`<memory>`).
    ///
    /// # Errors
    /// When it is missing, malformed, or beyond 64 bits.
    pub fn memory(&self) -> Result<u64, DomainError> {
        self.bytes("memory")?.ok_or(DomainError::Missing("memory"))
    }

    /// Memory that it has, in bytes (`<currentMemory>`); all of it if nothing else is said.
    ///
    /// # Errors
    /// As [`Domain::memory`], or when it is more than the most.
    pub fn current_memory(&self) -> Result<u64, DomainError> {
        let most = self.memory()?;
        match self.bytes("currentMemory")? {
            Some(more) if more > most => Err(DomainError::Value {
                at: "currentMemory",
                value: self.text("currentMemory").unwrap_or_default(),
                why: "it is more than <memory>",
            }),
            given => Ok(given.unwrap_or(most)),
        }
    }

    fn bytes(&self, at: &'static str) -> Result<Option<u64>, DomainError> {
        let Some(element) = self.root().find(at) else { return Ok(None) };
        let value = element.text();
        let refuse = |why| DomainError::Value { at, value: value.clone(), why };
        let number: u64 = value.trim().parse().map_err(|_| refuse("a number is expected"))?;
        let unit = unit(element.attribute("unit").unwrap_or("KiB")).ok_or_else(|| refuse("its unit is unknown"))?;
        number.checked_mul(unit).map(Some).ok_or_else(|| refuse("it is too large"))
    }

    /// Number of processors that it has (`<vcpu current=…>`); the most if nothing else is said.
    ///
    /// # Errors
    /// When it is malformed, or more than the most.
    pub fn vcpus(&self) -> Result<u32, DomainError> {
        let most = self.most_vcpus()?;
        match self.root().find("vcpu").and_then(|vcpu| vcpu.attribute("current")) {
            None => Ok(most),
            Some(text) => count(text).and_then(|now| {
                let why = "its current number is more than the most";
                if now <= most { Ok(now) } else { Err(DomainError::Value { at: "vcpu", value: text.into(), why }) }
            }),
        }
    }

    /// Most processors that it may have (`<vcpu>`).
    ///
    /// # Errors
    /// When it is malformed.
    pub fn most_vcpus(&self) -> Result<u32, DomainError> {
        let Some(element) = self.root().find("vcpu") else { return Ok(1) };
        count(&element.text())
    }

    /// `<cpu><topology>`, if it is there.
    ///
    /// # Errors
    /// When a number is malformed.
    pub fn topology(&self) -> Result<Option<Topology>, DomainError> {
        let Some(element) = self.root().find("cpu/topology") else { return Ok(None) };
        let number = |name: &str| match element.attribute(name) {
            None => Ok(1),
            Some(text) => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| DomainError::Value {
                at: "cpu/topology",
                value: text.into(),
                why: "positive numbers are expected",
            }),
        };
        Ok(Some(Topology {
            sockets: number("sockets")?,
            dies: number("dies")?,
            cores: number("cores")?,
            threads: number("threads")?,
        }))
    }

    /// `<on_poweroff>`, `<on_reboot>` or `<on_crash>`; libvirt's defaults where they are missing.
    ///
    /// # Errors
    /// When the value is unknown.
    pub fn action(&self, event: &'static str) -> Result<Action, DomainError> {
        let text = self.text(event).unwrap_or_else(|| if event == "on_reboot" { "restart" } else { "destroy" }.into());
        match text.as_str() {
            "destroy" | "coredump-destroy" => Ok(Action::Destroy),
            "restart" | "coredump-restart" => Ok(Action::Restart),
            "preserve" => Ok(Action::Preserve),
            _ => Err(DomainError::Value { at: event, value: text, why: "destroy, restart or preserve is expected" }),
        }
    }

    /// Takes screens' passwords out, for eyes that needn't see them.
    pub fn hide_passwords(&mut self) {
        let devices = self.root_mut().children_mut().filter(|e| e.name() == "devices");
        for graphics in devices.flat_map(Element::children_mut).filter(|e| e.name() == "graphics") {
            graphics.unset("passwd");
        }
    }

    /// Elements below `<devices>`.
    pub fn devices(&self) -> impl Iterator<Item = &Element> {
        self.root().find("devices").into_iter().flat_map(Element::children)
    }
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn count(text: &str) -> Result<u32, DomainError> {
    let refuse = || DomainError::Value { at: "vcpu", value: text.into(), why: "a positive number is expected" };
    text.trim().parse().ok().filter(|n| *n > 0).ok_or_else(refuse)
}

/// Bytes of libvirt's unit names (formatdomain, "scaled integers").
fn unit(name: &str) -> Option<u64> {
    Some(match name {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(inside: &str) -> Domain {
        Domain::parse(&format!("<domain type='kvm'>{inside}</domain>")).unwrap()
    }

    #[test]
    fn what_a_document_says() {
        let d = domain(
            "<name>web</name><uuid>12345678-9abc-def0-1234-56789abcdef0</uuid><memory unit='MiB'>512</memory>\
             <vcpu current='2'>4</vcpu><cpu><topology sockets='1' cores='2' threads='1'/></cpu><on_reboot>destroy</on_reboot>",
        );
        assert_eq!(d.name().unwrap(), "web");
        assert_eq!(d.uuid().unwrap().unwrap()[..4], [0x12, 0x34, 0x56, 0x78]);
        assert_eq!(d.memory().unwrap(), 512 << 20);
        assert_eq!((d.vcpus().unwrap(), d.most_vcpus().unwrap()), (2, 4));
        assert_eq!(d.current_memory().unwrap(), 512 << 20);
        assert_eq!(domain("<memory>8</memory><currentMemory>4</currentMemory>").current_memory().unwrap(), 4096);
        assert_eq!(d.topology().unwrap(), Some(Topology { sockets: 1, dies: 1, cores: 2, threads: 1 }));
        assert_eq!(d.action("on_reboot").unwrap(), Action::Destroy);
        assert_eq!(d.action("on_poweroff").unwrap(), Action::Destroy);
        assert_eq!(domain("").action("on_reboot").unwrap(), Action::Restart);
        assert_eq!(domain("<memory>1024</memory>").memory().unwrap(), 1 << 20, "KiB without a unit");
    }

    #[test]
    fn passwords_are_hidden_and_the_rest_stays() {
        let mut d = domain("<devices><graphics type='vnc' passwd='x' port='-1'/><disk/></devices>");
        d.hide_passwords();
        let wanted = "<domain type='kvm'><devices><graphics type='vnc' port='-1'/><disk/></devices></domain>";
        assert_eq!(d.to_string().trim_end(), wanted);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        assert!(matches!(Domain::parse("<network/>"), Err(DomainError::NotADomain(_))));
        assert!(domain("").name().is_err());
        for (inside, check) in [
            ("<memory>many</memory>", Domain::memory as fn(&Domain) -> Result<u64, DomainError>),
            ("<memory unit='furlong'>1</memory>", Domain::memory),
            ("<memory unit='TiB'>99999999</memory>", Domain::memory),
        ] {
            assert!(matches!(check(&domain(inside)), Err(DomainError::Value { at: "memory", .. })), "{inside}");
        }
        assert!(domain("<vcpu>0</vcpu>").vcpus().is_err());
        assert!(domain("<vcpu current='3'>2</vcpu>").vcpus().is_err());
        assert!(domain("<memory>4</memory><currentMemory>8</currentMemory>").current_memory().is_err());
        assert!(domain("<uuid>12</uuid>").uuid().is_err());
        assert!(domain("<uuid>zz345678-9abc-def0-1234-56789abcdef0</uuid>").uuid().is_err());
        assert!(domain("<on_crash>explode</on_crash>").action("on_crash").is_err());
    }
}
