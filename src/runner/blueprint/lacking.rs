//! Devices that kiln lacks: what a machine does without, told in a line each, and what stops its start.
//!
//! What virt-install and libvirt write by themselves never stops a start. What somebody has asked for and would miss
//! (data, network, devices of the host) is refused by name.

use kiln_domain::xml::Element;

use super::refuse;
use crate::failure::Failure;

/// The line about a device that is left out; `None` when it says itself that there is none.
///
/// # Errors
/// When the machine can't do without it.
pub(super) fn left_out(device: &Element) -> Result<Option<String>, Failure> {
    let kind = device.name();
    let attribute = |name: &str| device.attribute(name).unwrap_or_default();
    let plain = Some(format!("<{kind}> is left out: kiln does not have it"));
    match kind {
        "memballoon" | "watchdog" | "sound" | "audio" | "redirdev" | "hub" | "panic" | "crypto" | "pstore" => {
            let is_none = attribute("model") == "none" || attribute("type") == "none";
            Ok(plain.filter(|_| !is_none))
        }
        "channel" => channel(device, attribute("type")).map(Some),
        "smartcard" if attribute("type") == "spicevmc" => Ok(plain),
        "tpm" if device.find("backend").and_then(|b| b.attribute("type")) == Some("emulator") => Ok(Some(
            "<tpm> is left out: kiln does not have it yet; what a guest has locked with it stays locked".into(),
        )),
        "hostdev" | "filesystem" | "tpm" | "shmem" | "memory" | "vsock" | "iommu" | "lease" | "smartcard"
        | "parallel" => Err(missing(format!("<{kind}>"))),
        other => Err(refuse(format!("the machine has a <{other}>, which kiln does not know"))),
    }
}

/// The same of a controller that no device of the machine needs: whatever hangs on it is refused by itself.
///
/// # Errors
/// When the machine can't do without it.
pub(super) fn controller_left_out(kind: &str, model: &str) -> Result<String, Failure> {
    let name = match (kind, model) {
        ("pci", "pcie-to-pci-bridge" | "dmi-to-pci-bridge" | "pci-bridge") => model,
        ("pci", other) => {
            return Err(refuse(format!("the machine has a PCI controller '{other}', which kiln does not have"))
                .advise("kiln runs q35 machines with pcie-root and pcie-root-port."));
        }
        ("sata" | "usb" | "scsi" | "ide" | "fdc" | "virtio-serial" | "ccid", _) => kind,
        (other, _) => return Err(missing(format!("controller of type '{other}'"))),
    };
    Ok(format!("the {name} controller is left out: kiln does not have it"))
}

fn missing(what: String) -> Failure {
    refuse(format!("the machine has a {what}, which kiln can't run yet")).advise("Take it out of the definition.")
}

fn channel(device: &Element, kind: &str) -> Result<String, Failure> {
    let name = device.find("target").and_then(|target| target.attribute("name")).unwrap_or_default();
    match (kind, name) {
        (_, "org.qemu.guest_agent.0") => {
            Ok("the guest agent's <channel> is left out: kiln does not have it yet; shutdown presses the power button"
                .into())
        }
        ("spicevmc" | "spiceport" | "qemu-vdagent", _) => {
            Ok(format!("the {kind} <channel> is left out: kiln shows machines by VNC"))
        }
        _ => Err(missing(format!("<channel> '{name}'"))),
    }
}

/// The line about a screen that is shown by another protocol than VNC.
pub(super) fn unseen(kind: &str, is_seen: bool) -> String {
    if is_seen {
        return format!("graphics '{kind}' is left out: VNC shows the screen");
    }
    format!(
        "graphics '{kind}' is left out, and nobody sees the screen: for VNC write \
         <graphics type='vnc' port='-1' autoport='yes'/> instead of it (kiln edit)"
    )
}

#[cfg(test)]
mod tests {
    use kiln_domain::Domain;

    use super::*;

    fn told(device: &str) -> Result<Option<String>, String> {
        let domain = Domain::parse(&format!("<domain><devices>{device}</devices></domain>")).unwrap();
        left_out(domain.devices().next().unwrap()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_a_machine_does_without_is_told() {
        for (device, says) in [
            ("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>", "guest agent"),
            ("<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>", "spicevmc"),
            (
                "<channel type='spiceport'><target type='virtio' name='org.spice-space.webdav.0'/></channel>",
                "spiceport",
            ),
            ("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", "<tpm>"),
            ("<smartcard mode='passthrough' type='spicevmc'/>", "<smartcard>"),
            ("<memballoon model='virtio'/>", "<memballoon>"),
        ] {
            assert!(told(device).unwrap().unwrap().contains(says), "{device}");
        }
        assert_eq!(told("<memballoon model='none'/>"), Ok(None));
        assert_eq!(told("<audio id='1' type='none'/>"), Ok(None));
    }

    #[test]
    fn what_somebody_would_miss_is_refused_by_name() {
        for (device, says) in [
            ("<channel type='unix'><target type='virtio' name='org.example.data'/></channel>", "'org.example.data'"),
            ("<channel type='unix'><target type='guestfwd' address='10.0.2.1' port='4600'/></channel>", "<channel>"),
            ("<tpm model='tpm-tis'><backend type='passthrough'/></tpm>", "<tpm>"),
            ("<smartcard mode='host'/>", "<smartcard>"),
            ("<hostdev mode='subsystem' type='pci'/>", "<hostdev>"),
            ("<flux/>", "<flux>"),
        ] {
            assert!(told(device).unwrap_err().contains(says), "{device}");
        }
    }
}
