//! The ports that viewers come to, bound before the machine runs.

use std::io;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::ops::Range;

use super::blueprint::Vnc;
use crate::failure::{Failure, Status};

/// Ports that are tried in turn where none is asked for; libvirt's first ones.
const VNC_PORTS: Range<u16> = 5900..6900;
const WEBSOCKET_PORTS: Range<u16> = 5700..5900;

/// A bound port with its address.
pub(super) type Bound = (TcpListener, (String, u16));

/// What viewers come to.
#[derive(Default)]
pub(super) struct Doors {
    pub(super) vnc: Option<Bound>,
    pub(super) websocket: Option<Bound>,
}

/// Binds the ports of a VNC server: those that are asked for, or the first free ones.
///
/// # Errors
/// When the address is not this host's, or a port can't be had.
pub(super) fn listen(vnc: &Vnc) -> Result<Doors, Failure> {
    let address = resolve(&vnc.listen)?;
    let websocket = vnc.websocket.map(|port| {
        let port = u16::try_from(port).ok();
        bind("the WebSocket", address, port.map_or(WEBSOCKET_PORTS, one))
    });
    // A WebSocket that is to have a certain port gets it before a VNC server takes what comes first.
    let websocket = websocket.transpose()?;
    let vnc = bind("VNC", address, vnc.port.map_or(VNC_PORTS, one))?;
    Ok(Doors { vnc: Some(vnc), websocket })
}

fn one(port: u16) -> Range<u16> {
    port..port.saturating_add(1)
}

fn bind(what: &str, address: IpAddr, ports: Range<u16>) -> Result<Bound, Failure> {
    let mut last = None;
    for port in ports {
        match TcpListener::bind((address, port)) {
            Ok(listener) => return Ok((listener, (address.to_string(), port))),
            Err(e) => last = Some((port, e)),
        }
        if let Some((_, e)) = &last
            && e.kind() != io::ErrorKind::AddrInUse
        {
            break;
        }
    }
    let (port, error) = last.unwrap_or((0, io::ErrorKind::AddrInUse.into()));
    let failure = Failure::new(Status::Conflict, format!("{what} can't listen on {address}, port {port}"));
    let failure = failure.because(&error);
    Err(match error.kind() {
        io::ErrorKind::AddrInUse => failure.advise("Leave the port out and kiln takes a free one, or name another."),
        io::ErrorKind::AddrNotAvailable => Failure { status: Status::Failed, ..failure }
            .advise("The address is not this host's: use 127.0.0.1 or 0.0.0.0."),
        _ => Failure { status: Status::Failed, ..failure },
    })
}

fn resolve(listen: &str) -> Result<IpAddr, Failure> {
    let found = (listen, 0).to_socket_addrs().ok().and_then(|mut all| all.next());
    found.map(|a| a.ip()).ok_or_else(|| {
        Failure::new(Status::Failed, format!("VNC can't listen on {listen:?}: it is no address"))
            .advise("Use an address of this host, e.g. 127.0.0.1, or 0.0.0.0 for all.")
    })
}
