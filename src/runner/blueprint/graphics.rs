//! `<graphics>`: what is read of it, and what of it can't be done.

use kiln_domain::xml::Element;
use serde::{Deserialize, Serialize};

use super::refuse;
use crate::failure::Failure;
use crate::runner::keymap::Layout;

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

/// Whether a number can be [`Vnc::websocket`].
pub fn is_websocket_port(number: i32) -> bool {
    number == -1 || (1..=i32::from(u16::MAX)).contains(&number)
}

impl Vnc {
    /// The layout that viewers' keysyms are looked up in.
    pub fn layout(&self) -> Layout {
        self.keymap.as_deref().and_then(Layout::named).unwrap_or_default()
    }

    /// Reads a `<graphics>`; `None` if it is of the type none.
    pub(super) fn read(device: &Element) -> Result<Option<Self>, Failure> {
        match device.attribute("type") {
            Some("vnc") => {}
            Some("none") => return Ok(None),
            Some(other) => {
                return Err(refuse(format!("graphics '{other}' is not there; kiln shows machines by VNC"))
                    .advise("Use --graphics vnc, or --graphics none."));
            }
            None => return Err(refuse("<graphics> has no type")),
        }
        if device.all("listen").any(|l| l.attribute("type") == Some("socket")) || device.attribute("socket").is_some() {
            return Err(refuse("VNC on a unix socket is not there yet; use an address and port"));
        }
        let listen = device.find("listen").and_then(|l| l.attribute("address")).or(device.attribute("listen"));
        let port = match (device.attribute("port"), device.attribute("autoport")) {
            (_, Some("yes")) | (None | Some("-1"), _) => None,
            (Some(text), _) => Some(
                text.parse()
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or_else(|| refuse(format!("the VNC port '{text}' is no port number (1 to 65535)")))?,
            ),
        };
        Ok(Some(Self {
            listen: listen.unwrap_or("127.0.0.1").into(),
            port,
            password: device.attribute("passwd").filter(|p| !p.is_empty()).map(str::to_owned),
            websocket: device.attribute("websocket").map(websocket).transpose()?,
            keymap: device.attribute("keymap").map(keymap).transpose()?,
        }))
    }
}

fn websocket(text: &str) -> Result<i32, Failure> {
    text.parse().ok().filter(|n| is_websocket_port(*n)).ok_or_else(|| {
        refuse(format!("the WebSocket port '{text}' is no port number (1 to 65535, or -1 for a free one)"))
    })
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

    fn read(graphics: &str) -> Result<Option<Vnc>, String> {
        let document = format!("<domain type='kvm'><devices>{graphics}</devices></domain>");
        let domain = Domain::parse(&document).unwrap();
        let device = domain.root().find("devices").and_then(|d| d.find("graphics")).unwrap();
        Vnc::read(device).map_err(|failure| failure.to_string())
    }

    #[test]
    fn websocket_and_keymap() {
        let vnc = read("<graphics type='vnc' websocket='-1' keymap='ja'/>").unwrap().unwrap();
        assert_eq!((vnc.websocket, vnc.layout()), (Some(-1), Layout::Ja));
        let vnc = read("<graphics type='vnc' websocket='5701'/>").unwrap().unwrap();
        assert_eq!((vnc.websocket, vnc.layout()), (Some(5701), Layout::EnUs));
        assert_eq!(read("<graphics type='vnc'/>").unwrap(), Some(Vnc::default()));
        for bad in ["0", "-2", "65536", "x", ""] {
            let told = read(&format!("<graphics type='vnc' websocket='{bad}'/>")).unwrap_err();
            assert!(told.contains(&format!("the WebSocket port '{bad}'")), "{told}");
        }
        let told = read("<graphics type='vnc' keymap='no'/>").unwrap_err();
        assert!(told.contains("the keymap 'no' is not there"), "{told}");
    }
}
