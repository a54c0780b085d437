//! The clone's definition: the original's, with everything new that two machines can't share.

use kiln_domain::Domain;
use kiln_domain::xml::Element;
use kiln_vmm::virtio::net::Mac;

use super::names;
use crate::network::settings::mac_text;

/// Who the clone is.
pub(super) struct Identity<'a> {
    /// The original's name.
    pub original: &'a str,
    /// The clone's.
    pub name: &'a str,
    /// Its uuid.
    pub uuid: &'a str,
    /// Another one, for the generation id.
    pub generation: &'a str,
    /// Addresses of its network cards.
    pub macs: &'a [Mac],
}

fn devices(domain: &mut Domain) -> impl Iterator<Item = &mut Element> {
    domain.root_mut().children_mut().filter(|child| child.name() == "devices").flat_map(Element::children_mut)
}

/// The disk elements, in the document's order.
pub(super) fn disks(domain: &mut Domain) -> impl Iterator<Item = &mut Element> {
    devices(domain).filter(|device| device.name() == "disk")
}

fn child<'e>(element: &'e mut Element, name: &str) -> Option<&'e mut Element> {
    element.children_mut().find(|child| child.name() == name)
}

/// Renews what a clone can't share, disks aside; says what is otherwise than it was, a line each.
pub(super) fn renew(domain: &mut Domain, who: &Identity<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let old = domain.text("uuid").unwrap_or_default();
    let root = domain.root_mut();
    root.unset("id");
    root.remove(|child| child.name() == "title");
    root.find_or_make("name").set_text(who.name);
    root.find_or_make("uuid").set_text(who.uuid);
    if root.find("genid").is_some() {
        root.find_or_make("genid").set_text(who.generation);
    }
    if let Some(system) = child(root, "sysinfo").and_then(|sysinfo| child(sysinfo, "system")) {
        // libvirt wants this one to be the machine's.
        for entry in system.children_mut().filter(|e| e.attribute("name") == Some("uuid") && e.text() == old) {
            entry.set_text(who.uuid);
        }
    }
    if let Some(nvram) = domain.text("os/nvram").filter(|path| !path.is_empty()) {
        notes.push(format!("both definitions name the firmware's variables {nvram}; give one of them another file"));
    }
    let mut macs = who.macs.iter();
    for device in devices(domain) {
        match device.name() {
            "interface" => card(device, macs.next(), &mut notes),
            "graphics" => screen(device, &mut notes),
            "serial" | "parallel" | "console" | "channel" => port(device, who, &mut notes),
            _ => {}
        }
    }
    notes
}

fn card(device: &mut Element, mac: Option<&Mac>, notes: &mut Vec<String>) {
    if let Some(mac) = mac {
        device.find_or_make("mac").set("address", mac_text(mac));
    }
    // The host's name of it is the original's.
    device.remove(|child| child.name() == "target");
    let ports: Vec<String> = device
        .all("portForward")
        .flat_map(|forward| {
            let protocol = forward.attribute("proto").unwrap_or("tcp").to_owned();
            let starts = forward.all("range").filter_map(|range| range.attribute("start"));
            starts.map(move |port| format!("{protocol} {port}")).collect::<Vec<_>>()
        })
        .collect();
    if device.find("portForward").is_some() {
        device.remove(|child| child.name() == "portForward");
        notes.push(format!("the host's ports {} still lead to the original alone", ports.join(", ")));
    }
}

fn is_fixed(element: &Element, name: &str) -> bool {
    element.attribute(name).and_then(|port| port.parse::<i32>().ok()).is_some_and(|port| port > 0)
}

fn screen(device: &mut Element, notes: &mut Vec<String>) {
    if is_fixed(device, "port") {
        let port = device.attribute("port").unwrap_or_default().to_owned();
        notes.push(format!("the screen's port {port} is the original's; the clone takes a free one"));
        device.set("port", "-1");
        device.set("autoport", "yes");
    }
    for key in ["websocket", "tlsPort"] {
        if is_fixed(device, key) {
            device.set(key, "-1");
        }
    }
    device.unset("socket");
    for listen in device.children_mut().filter(|child| child.name() == "listen") {
        listen.unset("socket");
    }
}

// The socket of a guest agent is called after it: libvirt makes a new one up.
fn drops_path(device: &Element) -> bool {
    let path = device.find("source").and_then(|source| source.attribute("path"));
    let agent = device.find("target").and_then(|target| target.attribute("name"));
    device.name() == "channel" && path.zip(agent).is_some_and(|(path, agent)| path.contains(agent))
}

fn port(device: &mut Element, who: &Identity<'_>, notes: &mut Vec<String>) {
    let renamed = |element: &mut Element, key: &str| {
        let path = element.attribute(key)?.to_owned();
        element.set(key, names::file(&path, who.original, who.name));
        Some(())
    };
    let kind = device.attribute("type").unwrap_or_default().to_owned();
    device.unset("tty");
    if let Some(log) = child(device, "log") {
        renamed(log, "file");
    }
    if drops_path(device) {
        device.children_mut().filter(|child| child.name() == "source").for_each(|source| source.unset("path"));
        return;
    }
    match kind.as_str() {
        // The host gives a new one at each start.
        "pty" => device.remove(|child| child.name() == "source"),
        "file" | "pipe" | "unix" => {
            for source in device.children_mut().filter(|child| child.name() == "source") {
                renamed(source, "path");
            }
        }
        "tcp" | "udp" | "dev" => {
            notes.push(format!("a <{}> of type {kind} is the same in both machines", device.name()));
        }
        _ => {}
    }
}

/// Points a disk element at another image. `below` is whether what the definition says of its backing file still holds.
pub(super) fn point(disk: &mut Element, path: &str, format: &str, below: bool) {
    disk.set("type", "file");
    let source = disk.find_or_make("source");
    source.unset("dev");
    source.unset("index");
    source.set("file", path);
    let driver = disk.find_or_make("driver");
    driver.set("type", format);
    if !below {
        disk.remove(|child| child.name() == "backingStore");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewed(inside: &str) -> (Domain, Vec<String>) {
        let mut domain = Domain::parse(&format!("<domain id='3'>\n{inside}\n</domain>")).unwrap();
        let macs = [[0x52, 0x54, 0, 1, 2, 3]];
        let who = Identity { original: "web", name: "new", uuid: "u2", generation: "g2", macs: &macs };
        let notes = renew(&mut domain, &who);
        (domain, notes)
    }

    #[test]
    fn what_two_machines_cannot_share_is_new() {
        let (domain, notes) = renewed(
            "<name>web</name><uuid>u1</uuid><genid>g1</genid><title>The web</title><description>kept</description>\
             <sysinfo><system><entry name='uuid'>u1</entry><entry name='serial'>s</entry></system></sysinfo>\
             <devices><interface type='user'><mac address='52:54:00:aa:bb:cc'/><target dev='vnet0'/>\
             <portForward proto='tcp'><range start='2222' to='22'/></portForward></interface>\
             <graphics type='vnc' port='5901' websocket='5701' passwd='p'/>\
             <serial type='file'><source path='/l/web.log'/></serial>\
             <channel type='unix'><source mode='bind' path='/x/web.agent.0'/><target name='agent.0'/></channel>\
             <console type='pty' tty='/dev/pts/1'><source path='/dev/pts/1'/><log file='/l/c.log'/></console></devices>",
        );
        let wanted = "<domain>\n<name>new</name><uuid>u2</uuid><genid>g2</genid><description>kept</description>\
             <sysinfo><system><entry name='uuid'>u2</entry><entry name='serial'>s</entry></system></sysinfo>\
             <devices><interface type='user'><mac address='52:54:00:01:02:03'/></interface>\
             <graphics type='vnc' port='-1' websocket='-1' passwd='p' autoport='yes'/>\
             <serial type='file'><source path='/l/new.log'/></serial>\
             <channel type='unix'><source mode='bind'/><target name='agent.0'/></channel>\
             <console type='pty'><log file='/l/c-new.log'/></console></devices>\n</domain>";
        assert_eq!(domain.to_string(), wanted);
        assert!(notes[0].contains("tcp 2222") && notes[1].contains("5901"), "{notes:?}");
    }

    #[test]
    fn what_is_left_alone_comes_out_as_it_was() {
        let inside =
            "<name>new</name><uuid>u2</uuid><devices><x:own a = \"1\"/><graphics type='vnc' port='-1'/></devices>";
        let (domain, notes) = renewed(inside);
        assert_eq!(domain.to_string(), format!("<domain>\n{inside}\n</domain>"));
        assert!(notes.is_empty());
    }
}
