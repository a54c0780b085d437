//! `--validate`: whether every element of a document, where kiln knows what there may be, is one of libvirt's format.
//!
//! Without it such elements are kept and what they are is their writer's affair. It finds the word that was mistyped; what
//! the format has and kiln can't run is `start`'s to refuse (libvirt's formatdomain.html names the elements).

use kiln_domain::Domain;
use kiln_domain::xml::Element;

use crate::failure::{Failure, Status};

/// An element, and what may stand in it.
type Inside = (&'static str, &'static [&'static str]);

const FORMAT: &[Inside] = &[
    (
        "domain",
        &[
            "blkiotune",
            "bootloader",
            "bootloader_args",
            "clock",
            "cpu",
            "cputune",
            "currentMemory",
            "defaultiothread",
            "description",
            "devices",
            "features",
            "genid",
            "idmap",
            "iothreadids",
            "iothreads",
            "keywrap",
            "launchSecurity",
            "maxMemory",
            "memory",
            "memoryBacking",
            "memtune",
            "metadata",
            "name",
            "numatune",
            "on_crash",
            "on_lockfailure",
            "on_poweroff",
            "on_reboot",
            "os",
            "perf",
            "pm",
            "resource",
            "seclabel",
            "sysinfo",
            "throttlegroups",
            "title",
            "uuid",
            "vcpu",
            "vcpus",
        ],
    ),
    (
        "os",
        &[
            "acpi",
            "bios",
            "boot",
            "bootmenu",
            "cmdline",
            "dtb",
            "firmware",
            "init",
            "initarg",
            "initdir",
            "initenv",
            "initgroup",
            "initrd",
            "inituser",
            "kernel",
            "loader",
            "nvram",
            "shim",
            "smbios",
            "type",
        ],
    ),
    (
        "devices",
        &[
            "audio",
            "channel",
            "console",
            "controller",
            "crypto",
            "disk",
            "emulator",
            "filesystem",
            "graphics",
            "hostdev",
            "hub",
            "input",
            "interface",
            "iommu",
            "lease",
            "memballoon",
            "memory",
            "nvram",
            "panic",
            "parallel",
            "pstore",
            "redirdev",
            "redirfilter",
            "rng",
            "serial",
            "shmem",
            "smartcard",
            "sound",
            "tpm",
            "video",
            "vsock",
            "watchdog",
        ],
    ),
    (
        "disk",
        &[
            "acpi",
            "address",
            "alias",
            "auth",
            "backenddomain",
            "backingStore",
            "blockio",
            "boot",
            "driver",
            "encryption",
            "geometry",
            "iotune",
            "mirror",
            "product",
            "readonly",
            "serial",
            "shareable",
            "source",
            "target",
            "throttlefilters",
            "transient",
            "vendor",
            "wwn",
        ],
    ),
    (
        "interface",
        &[
            "acpi",
            "address",
            "alias",
            "backend",
            "backenddomain",
            "bandwidth",
            "boot",
            "coalesce",
            "downscript",
            "driver",
            "filterref",
            "guest",
            "ip",
            "link",
            "mac",
            "model",
            "mtu",
            "port",
            "portForward",
            "rom",
            "route",
            "script",
            "source",
            "target",
            "teaming",
            "tune",
            "virtualport",
            "vlan",
        ],
    ),
    ("video", &["acpi", "address", "alias", "driver", "model"]),
    (
        "graphics",
        &[
            "audio",
            "channel",
            "clipboard",
            "filetransfer",
            "gl",
            "image",
            "jpeg",
            "listen",
            "mouse",
            "playback",
            "streaming",
            "zlib",
        ],
    ),
];

/// Refuses a document with an element that the format does not have.
///
/// # Errors
/// When there is one; each is named.
pub fn check(domain: &Domain) -> Result<(), Failure> {
    let mut unknown = Vec::new();
    look(domain.root(), "domain", &mut unknown);
    for part in ["os", "devices"] {
        domain.root().children().filter(|e| e.name() == part).for_each(|e| look(e, part, &mut unknown));
    }
    domain.devices().for_each(|device| look(device, device.name(), &mut unknown));
    if unknown.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(Status::Failed, "the document has elements that libvirt's format does not have");
    failure = unknown.iter().fold(failure, |failure, line| failure.why(line));
    let told = format!("XML document failed to validate: {}", unknown.join("; "));
    Err(failure.advise("Without --validate they are kept as they are.").in_virsh(told))
}

// Elements of other namespaces are their owners' affair.
fn look(element: &Element, name: &str, unknown: &mut Vec<String>) {
    let Some((_, known)) = FORMAT.iter().find(|(of, _)| *of == name) else { return };
    let strange = element.children().map(Element::name).filter(|child| !known.contains(child) && !child.contains(':'));
    unknown.extend(strange.map(|child| format!("<{name}> has no <{child}>")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(inside: &str) -> Result<(), String> {
        check(&Domain::parse(&format!("<domain type='kvm'><name>web</name>{inside}</domain>")).unwrap())
            .map_err(|failure| failure.told_by_virsh())
    }

    #[test]
    fn mistyped_elements_are_named() {
        assert_eq!(checked("<os><kernel>/k</kernel></os><x:own xmlns:x='urn:x'/><metadata><any/></metadata>"), Ok(()));
        assert_eq!(checked("<devices><sound model='ich9'><any/></sound></devices>"), Ok(()));
        let told = checked("<memroy/><os><kernle/></os><devices><disc/><disk><sorce/></disk></devices>").unwrap_err();
        assert_eq!(
            told,
            "error: XML document failed to validate: <domain> has no <memroy>; <os> has no <kernle>; \
             <devices> has no <disc>; <disk> has no <sorce>\n"
        );
    }
}
