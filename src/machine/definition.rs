//! From a document that somebody wrote to a machine's definition.
//!
//! What the runner can't do is kept and told, and `start` refuses it: documents come from libvirt, too, and firmware and
//! devices come with later kilns. What would make a definition of no use at all is refused.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use kiln_domain::Domain;
use kiln_domain::xml::{Element, LARGEST};

use super::known::{Known, uuid};
use super::store::Changing;
use super::{Store, name};
use crate::failure::{Failure, Status};
use crate::install::fresh_mac;
use crate::network::settings::mac_text;
use crate::plan::new_uuid;
use crate::runner::blueprint::Blueprint;

/// A document that can be a machine's definition.
#[derive(Debug)]
pub struct Prepared {
    /// The machine's name.
    pub name: String,
    /// The document, with uuid and addresses.
    pub domain: Domain,
    /// What to tell of it, a line each.
    pub notes: Vec<String>,
}

/// Reads a document's text.
///
/// # Errors
/// When there is none, it is too long for a domain, or no UTF-8.
pub fn read(path: &Path) -> Result<String, Failure> {
    let trouble = |e: std::io::Error| {
        let status = if e.kind() == std::io::ErrorKind::NotFound { Status::NotFound } else { Status::Failed };
        Failure::new(status, format!("{} can't be read", path.display())).because(&e)
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| {
        let why = e.to_string();
        let why = why.split(" (os error").next().unwrap_or_default();
        trouble(e).in_virsh(format!("Failed to open file '{}': {why}", path.display()))
    })?;
    // One more than is allowed, so that too much can be told.
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(trouble)?;
    let refuse = |why: String| Failure::new(Status::Failed, format!("{} is no domain XML", path.display())).why(why);
    if bytes.len() > LARGEST {
        return Err(refuse(format!("it is longer than {} MiB", LARGEST >> 20)));
    }
    String::from_utf8(bytes).map_err(|e| refuse(format!("it is not UTF-8 (byte {})", e.utf8_error().valid_up_to())))
}

/// Makes a definition of a document's text: gives uuid, MAC and PCI addresses where there are none.
///
/// # Errors
/// When it is malformed, has a name that can't be one, or addresses that collide.
pub fn prepare(store: &Store, text: &str) -> Result<Prepared, Failure> {
    let refuse = |e: kiln_domain::DomainError| {
        Failure::new(Status::Failed, "the XML can't be a machine's definition").because(&e)
    };
    let mut domain = Domain::parse(text).map_err(refuse)?;
    let name = domain.name().map_err(refuse)?;
    name::check(&name)?;
    domain.root_mut().unset("id");
    if domain.uuid().map_err(refuse)?.is_none() {
        let uuid = new_uuid()?;
        domain.root_mut().remove(|e| e.name() == "uuid");
        domain.root_mut().push(Element::new("uuid").with_text(&uuid));
    }
    domain.memory().and_then(|_| domain.current_memory()).and_then(|_| domain.vcpus()).map_err(refuse)?;
    forget_names_of_cards(&mut domain);
    let mut notes = Vec::new();
    if is_ours(&domain) {
        give_macs(store, &mut domain)?;
        domain.assign_addresses().map_err(refuse)?;
    }
    match Blueprint::read(&domain) {
        Ok(blueprint) => notes.extend(blueprint.warnings),
        Err(failure) => {
            let why = failure.causes.first().map(|cause| format!(" ({cause})")).unwrap_or_default();
            notes.push(format!("it is kept, but start will refuse it: {}{why}", failure.what));
        }
    }
    Ok(Prepared { name, domain, notes })
}

// Whether addresses on the q35 board mean what the document means.
fn is_ours(domain: &Domain) -> bool {
    let machine = domain.root().find("os/type").and_then(|kind| kind.attribute("machine"));
    matches!(domain.root().attribute("type"), Some("kvm" | "qemu")) && machine.is_none_or(|name| name.contains("q35"))
}

fn cards(domain: &mut Domain) -> impl Iterator<Item = &mut Element> {
    let devices = domain.root_mut().children_mut().filter(|e| e.name() == "devices");
    devices.flat_map(Element::children_mut).filter(|e| e.name() == "interface")
}

// Names that starts give out are in documents of runs alone (formatdomain, "Overriding the target element").
fn forget_names_of_cards(domain: &mut Domain) {
    let is_given = |e: &Element| {
        let number = e.attribute("dev").and_then(|dev| dev.strip_prefix("vnet"));
        e.name() == "target" && number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    cards(domain).for_each(|card| card.remove(is_given));
}

fn give_macs(store: &Store, domain: &mut Domain) -> Result<(), Failure> {
    for card in cards(domain).filter(|card| card.find("mac").and_then(|mac| mac.attribute("address")).is_none()) {
        let mac = fresh_mac(store)?;
        card.find_or_make("mac").set("address", mac_text(&mac));
    }
    Ok(())
}

/// Whether a machine of this name and uuid can be: another one may have either.
///
/// # Errors
/// When one has, exit status 4.
pub fn check_identity(store: &Store, prepared: &Prepared) -> Result<(), Failure> {
    let Prepared { name, domain, .. } = prepared;
    let text = domain.text("uuid").unwrap_or_default();
    let known = Known { store: store.clone(), name: name.clone() };
    if known.is_persistent() || known.runs() {
        let there = known.document()?.text("uuid").unwrap_or_default();
        if uuid(&there) != uuid(&text) {
            let what = format!("there is a machine {name:?} already, with the uuid {there}");
            return Err(Failure::new(Status::Conflict, what)
                .advise(format!("To change that one, give the document its uuid: <uuid>{there}</uuid>"))
                .advise("To have another one, give it another name.")
                .in_virsh(format!("operation failed: domain '{name}' already exists with uuid {there}")));
        }
    } else if let Some(other) = Known::by_uuid(store, &text) {
        return Err(Failure::new(Status::Conflict, format!("the machine {other:?} has the uuid {text}"))
            .advise("Take <uuid> out of the document, and kiln gives it one of its own.")
            .in_virsh(format!("operation failed: domain '{other}' is already defined with uuid {text}")));
    }
    Ok(())
}

/// Keeps a definition, new or in place of the machine's old one.
///
/// # Errors
/// When another machine has its name or uuid, or the file system refuses.
pub fn keep(store: &Store, changing: &Changing<'_>, prepared: &Prepared) -> Result<(), Failure> {
    check_identity(store, prepared)?;
    changing.write(&prepared.name, &prepared.domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str, inside: &str) -> String {
        format!("<domain type='kvm' id='3'>\n  <name>{name}</name>\n  <memory>262144</memory>\n{inside}</domain>\n")
    }

    fn keep_text(store: &Store, text: &str) -> Result<(), Failure> {
        let prepared = prepare(store, text)?;
        keep(store, &store.change()?, &prepared)
    }

    #[test]
    fn what_is_missing_is_given() {
        let (_home, store) = Store::scratch();
        let card = "  <devices>\n    <interface type='user'><target dev='vnet7'/><model type='virtio'/></interface>\n\
                    <x:own xmlns:x='urn:x'>kept</x:own>\n  </devices>\n";
        let prepared = prepare(&store, &document("web", card)).unwrap();
        let text = prepared.domain.to_string();
        for part in ["<uuid>", "<mac address='52:54:00:", "<address type='pci'", "<x:own xmlns:x='urn:x'>kept</x:own>"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("vnet7") && !text.contains("id='3'"), "{text}");
        assert!(prepared.notes.concat().contains("start will refuse it"), "{:?}", prepared.notes);
    }

    #[test]
    fn machines_of_other_boards_stay_as_they_are() {
        let (_home, store) = Store::scratch();
        let inside =
            "  <os><type machine='pc-i440fx-9.0'>hvm</type></os>\n  <devices><interface type='user'/></devices>\n";
        let prepared = prepare(&store, &document("old", inside)).unwrap();
        assert!(!prepared.domain.to_string().contains("<address"), "{}", prepared.domain);
        assert!(prepared.notes.concat().contains("kiln has q35"), "{:?}", prepared.notes);
    }

    #[test]
    fn names_and_uuids_belong_to_one_machine() {
        let (_home, store) = Store::scratch();
        let uuid = |n: u8| format!("  <uuid>12345678-9abc-def0-1234-56789abcde{n:02x}</uuid>\n");
        keep_text(&store, &document("web", &uuid(1))).unwrap();
        keep_text(&store, &document("web", &uuid(1))).unwrap();
        let other = keep_text(&store, &document("web", &uuid(2))).unwrap_err();
        assert_eq!(other.status, Status::Conflict);
        assert!(other.told_by_virsh().contains("domain 'web' already exists with uuid 12345678-"), "{other}");
        let none = keep_text(&store, &document("web", "")).unwrap_err();
        assert!(none.to_string().contains("give the document its uuid"), "{none}");
        let second = keep_text(&store, &document("db", &uuid(1))).unwrap_err();
        assert!(second.to_string().contains("the machine \"web\" has the uuid"), "{second}");
        assert_eq!(store.names().unwrap(), ["web"]);
    }

    #[test]
    fn what_is_no_definition_is_refused() {
        let (home, store) = Store::scratch();
        let cases = [
            ("<domain><name>x", "line 1"),
            ("<network/>", "<network>, not a <domain>"),
            ("<domain type='kvm'><memory>1</memory></domain>", "no <name>"),
            ("<domain type='kvm'><name>a/b</name><memory>1</memory></domain>", "can't be a machine's name"),
            ("<!DOCTYPE d [<!ENTITY a 'b'>]><domain/>", "document type declaration"),
            ("<domain type='kvm'><name>a</name></domain>", "no <memory>"),
        ];
        for (text, why) in cases {
            let failure = prepare(&store, text).unwrap_err().to_string();
            assert!(failure.contains(why), "{why:?} in {failure}");
        }
        let long = home.path().join("long.xml");
        std::fs::File::create(&long).unwrap().set_len(100 << 20).unwrap();
        assert!(read(&long).unwrap_err().to_string().contains("longer than 4 MiB"));
        std::fs::write(&long, b"<domain>\xff").unwrap();
        assert!(read(&long).unwrap_err().to_string().contains("not UTF-8 (byte 8)"));
    }
}
