//! `<graphics>`: what is read of it, and what of it and of `<video>` can't be done.

use kiln_domain::xml::Element;
use serde::{Deserialize, Serialize};

use super::{attributes_without_effect, elements_without_effect, refuse};
use crate::failure::Failure;
use crate::runner::keymap::Layout;

/// What begins a line about what has no effect.
const VNC: &str = "VNC";
const DISPLAY: &str = "the display";

/// `<graphics type='vnc'>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vnc {
    /// Address to listen on.
    pub listen: String,
    /// Port; `None`: the first free one from 5900.
    pub port: Option<u16>,
    /// Password.
    pub password: Option<String>,
    /// Port of the WebSocket, -1 for the first free one from 5700; `None`: there is none.
    pub websocket: Option<i32>,
    /// Layout of the guest's keyboard under libvirt's name.
    pub keymap: Option<String>,
}

impl Default for Vnc {
    /// On 127.0.0.1 alone.
    fn default() -> Self {
        Self { listen: "127.0.0.1".into(), port: None, password: None, websocket: None, keymap: None }
    }
}

/// Whether a number can be a port: 1 to 65535, or -1 for the first free one.
pub fn is_port(number: i32) -> bool {
    number == -1 || (1..=i32::from(u16::MAX)).contains(&number)
}

impl Vnc {
    /// The layout that viewers' keysyms are looked up in.
    pub fn layout(&self) -> Layout {
        self.keymap.as_deref().and_then(Layout::named).unwrap_or_default()
    }

    /// Reads a `<graphics>`; `None` if it is of another type. What has no effect goes to `warnings`.
    pub(super) fn read(device: &Element, warnings: &mut Vec<String>) -> Result<Option<Self>, Failure> {
        match device.attribute("type") {
            Some("vnc") => {}
            Some("none" | "spice" | "sdl" | "desktop" | "rdp" | "egl-headless" | "dbus") => return Ok(None),
            Some(other) => {
                return Err(refuse(format!("graphics '{other}' is not there; kiln shows machines by VNC"))
                    .advise("Write <graphics type='vnc' port='-1' autoport='yes'/> instead, or leave it out."));
            }
            None => return Err(refuse("<graphics> has no type")),
        }
        if let Some(end) = device.attribute("passwdValidTo") {
            return Err(refuse(format!("the VNC password is to end at '{end}', which kiln can't do yet"))
                .advise("Take passwdValidTo out of <graphics>, and the password lasts."));
        }
        attributes_without_effect(device, VNC, warnings, |name, value| match name {
            "type" | "port" | "autoport" | "websocket" | "listen" | "passwd" | "keymap" => true,
            // All viewers share the screen, and the password can't be changed while they look.
            "sharePolicy" => value == "ignore",
            "connected" => value == "keep",
            "powerControl" | "wait" => value == "no",
            _ => false,
        });
        elements_without_effect(device, VNC, warnings, &["listen"]);
        let number = device.attribute("port").filter(|_| device.attribute("autoport") != Some("yes"));
        let number = number.map(|text| port("VNC", text)).transpose()?;
        Ok(Some(Self {
            listen: listen(device, warnings)?,
            port: number.and_then(|number| u16::try_from(number).ok()),
            password: device.attribute("passwd").map(password).transpose()?,
            websocket: device.attribute("websocket").map(|text| port("WebSocket", text)).transpose()?,
            keymap: device.attribute("keymap").map(keymap).transpose()?,
        }))
    }
}

/// Names what a `<video>` asks of a card that the standard VGA card isn't.
pub(super) fn video_without_effect(device: &Element, warnings: &mut Vec<String>) {
    elements_without_effect(device, DISPLAY, warnings, &["model", "address", "alias"]);
    let Some(model) = device.find("model") else { return };
    let memory = (kiln_vmm::display::bits::VIDEO_MEMORY >> 10).to_string();
    // Another card's memory has been told with the card.
    let is_other = !matches!(model.attribute("type"), None | Some("vga" | "bochs"));
    attributes_without_effect(model, DISPLAY, warnings, |name, value| match name {
        "type" | "primary" => true,
        "heads" => value == "1",
        "vram" => is_other || value == memory,
        "ram" | "vram64" | "vgamem" => is_other,
        _ => false,
    });
    elements_without_effect(model, DISPLAY, warnings, &[]);
}

fn listen(device: &Element, warnings: &mut Vec<String>) -> Result<String, Failure> {
    let by = |kind: &str| {
        refuse(format!("VNC that listens by '{kind}' is not there; kiln has addresses with a port"))
            .advise("Write <listen type='address' address='127.0.0.1'/>.")
    };
    if device.attribute("socket").is_some() {
        return Err(by("socket"));
    }
    let all: Vec<_> = device.all("listen").collect();
    let inside = match all.as_slice() {
        [] => None,
        [one] => {
            if let Some(kind) = one.attribute("type").filter(|kind| *kind != "address") {
                return Err(by(kind));
            }
            attributes_without_effect(one, VNC, warnings, |name, _| name == "type" || name == "address");
            one.attribute("address")
        }
        _ => return Err(refuse("VNC is to listen in two places; one is what kiln has")),
    };
    match (inside, device.attribute("listen")) {
        (Some(one), Some(other)) if one != other => {
            Err(refuse(format!("VNC is to listen on '{one}' and on '{other}'; one address is what kiln has")))
        }
        (inside, outside) => Ok(inside.or(outside).unwrap_or("127.0.0.1").to_owned()),
    }
}

fn port(what: &str, text: &str) -> Result<i32, Failure> {
    text.parse()
        .ok()
        .filter(|number| is_port(*number))
        .ok_or_else(|| refuse(format!("the {what} port '{text}' is no port number (1 to 65535, or -1 for a free one)")))
}

fn password(text: &str) -> Result<String, Failure> {
    match kiln_rfb::Password::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(refuse("the VNC password of the definition can't be used")
            .because(&error)
            .advise("Set another, or take passwd out of <graphics> to let everybody in who reaches the port.")),
    }
}

fn keymap(name: &str) -> Result<String, Failure> {
    match Layout::named(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(refuse(format!("the keymap '{name}' is not there")).advise(format!(
            "There are: {}. Viewers that send scancodes (TigerVNC, noVNC) need none.",
            Layout::names()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_domain::Domain;

    fn all(graphics: &str) -> Result<(Option<Vnc>, Vec<String>), String> {
        let document = format!("<domain type='kvm'><devices>{graphics}</devices></domain>");
        let domain = Domain::parse(&document).unwrap();
        let device = domain.root().find("devices").and_then(|d| d.find("graphics")).unwrap();
        let mut warnings = Vec::new();
        let vnc = Vnc::read(device, &mut warnings).map_err(|failure| failure.to_string())?;
        Ok((vnc, warnings))
    }

    fn read(graphics: &str) -> Result<Option<Vnc>, String> {
        all(graphics).map(|(vnc, warnings)| {
            assert_eq!(warnings, [""; 0], "{graphics}");
            vnc
        })
    }

    #[test]
    fn websocket_and_keymap() {
        let vnc = read("<graphics type='vnc' websocket='-1' keymap='ja'/>").unwrap().unwrap();
        assert_eq!((vnc.websocket, vnc.layout()), (Some(-1), Layout::Ja));
        let vnc = read("<graphics type='vnc' websocket='5701'/>").unwrap().unwrap();
        assert_eq!((vnc.websocket, vnc.layout()), (Some(5701), Layout::EnUs));
        assert_eq!(read("<graphics type='vnc'/>").unwrap(), Some(Vnc::default()));
        for bad in ["0", "-2", "65536", "x", ""] {
            for (name, what) in [("websocket", "WebSocket"), ("port", "VNC")] {
                let told = read(&format!("<graphics type='vnc' {name}='{bad}'/>")).unwrap_err();
                assert!(told.contains(&format!("the {what} port '{bad}'")), "{told}");
            }
        }
        let told = read("<graphics type='vnc' keymap='no'/>").unwrap_err();
        assert!(told.contains("the keymap 'no' is not there"), "{told}");
    }
    #[test]
    fn ports_and_addresses() {
        let vnc = |attributes: &str, inside: &str| {
            let vnc = read(&format!("<graphics type='vnc' {attributes}>{inside}</graphics>"))?.unwrap();
            Ok::<_, String>((vnc.listen, vnc.port))
        };
        let on = |listen: &str, port| Ok((listen.to_owned(), port));
        assert_eq!(vnc("port='5901' listen='::1'", ""), on("::1", Some(5901)));
        assert_eq!(vnc("port='-1' autoport='yes'", "<listen type='address' address='::'/>"), on("::", None));
        assert_eq!(vnc("port='5901' autoport='yes'", "<listen type='address'/>"), on("127.0.0.1", None));
        assert_eq!(vnc("listen='0.0.0.0'", "<listen type='address' address='0.0.0.0'/>"), on("0.0.0.0", None));
        for (attributes, inside, why) in [
            ("socket='/a'", "", "by 'socket'"),
            ("", "<listen type='socket' socket='/a'/>", "by 'socket'"),
            ("", "<listen type='network' network='default'/>", "by 'network'"),
            ("", "<listen type='none'/>", "by 'none'"),
            ("", "<listen type='address'/><listen type='address'/>", "two places"),
            ("listen='::1'", "<listen type='address' address='::'/>", "on '::' and on '::1'"),
            ("passwdValidTo='2030-01-01T00:00:00'", "", "is to end at '2030"),
            ("passwd=''", "", "can't be used"),
            ("passwd='ninechars'", "", "can't be used"),
        ] {
            let told = vnc(attributes, inside).unwrap_err();
            assert!(told.contains(why), "{attributes} {inside}: {told}");
        }
    }

    #[test]
    fn what_has_no_effect_is_told() {
        read("<graphics type='vnc' sharePolicy='ignore' connected='keep' powerControl='no' wait='no'/>").unwrap();
        let told = all("<graphics type='vnc' sharePolicy='force-shared' powerControl='yes' wait='yes'>
            <listen type='address' fromConfig='1'/><audio id='1'/></graphics>");
        let told = told.unwrap().1;
        let wanted = [
            "<graphics sharePolicy='force-shared'>",
            "<graphics powerControl='yes'>",
            "<graphics wait='yes'>",
            "<audio>",
            "<listen fromConfig='1'>",
        ];
        assert_eq!(told, wanted.map(|what| format!("VNC: {what} has no effect")));
    }

    #[test]
    fn a_video_card_that_is_more_than_standard() {
        let told = |model: &str| {
            let domain = Domain::parse(&format!("<domain><devices><video>{model}</video></devices></domain>")).unwrap();
            let mut warnings = Vec::new();
            video_without_effect(domain.root().find("devices/video").unwrap(), &mut warnings);
            warnings.len()
        };
        assert_eq!(told("<model type='vga' vram='16384' heads='1' primary='yes'/><address type='pci'/>"), 0);
        assert_eq!(told("<model type='qxl' ram='65536' vram='65536' vgamem='16384' heads='1'/>"), 0);
        assert_eq!(told("<model type='vga' vram='65536' heads='2'><resolution x='1' y='1'/></model><driver/>"), 4);
    }
}
