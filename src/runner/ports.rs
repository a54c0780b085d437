//! The ports that viewers come to, bound before the machine runs.

use std::io;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::ops::RangeInclusive;

use super::blueprint::Vnc;
use crate::failure::{Failure, Status};

/// Ports that are tried in turn where none is asked for; libvirt's first ones.
const VNC_PORTS: RangeInclusive<u16> = 5900..=6899;
const WEBSOCKET_PORTS: RangeInclusive<u16> = 5700..=5899;

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
    let viewers = || bind("VNC", address, vnc.port, VNC_PORTS);
    let browsers = || {
        let wanted = vnc.websocket.map(|port| u16::try_from(port).ok());
        wanted.map(|port| bind("the WebSocket", address, port, WEBSOCKET_PORTS)).transpose()
    };
    // The one that is to have a certain port gets it before the other one takes what comes first.
    let (vnc, websocket) = if vnc.port.is_some() {
        (viewers()?, browsers()?)
    } else {
        let websocket = browsers()?;
        (viewers()?, websocket)
    };
    Ok(Doors { vnc: Some(vnc), websocket })
}

fn bind(what: &str, address: IpAddr, wanted: Option<u16>, first: RangeInclusive<u16>) -> Result<Bound, Failure> {
    let mut last = None;
    for port in wanted.map_or(first, |port| port..=port) {
        match TcpListener::bind((address, port)) {
            Ok(listener) => return Ok((listener, (address.to_string(), port))),
            Err(e) => {
                let is_taken = e.kind() == io::ErrorKind::AddrInUse;
                last = Some((port, e));
                if !is_taken {
                    break;
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    // Loopback addresses that nothing else uses, so that all ports are free.
    fn ports(listen: &str, port: Option<u16>, websocket: Option<i32>) -> (u16, Option<u16>) {
        let doors = super::listen(&Vnc { listen: listen.into(), port, websocket, ..Vnc::default() }).unwrap();
        (doors.vnc.unwrap().1.1, doors.websocket.map(|(_, (_, port))| port))
    }

    #[test]
    fn a_port_that_is_asked_for_is_had() {
        assert_eq!(ports("127.83.1.1", Some(65535), Some(65534)), (65535, Some(65534)));
        assert_eq!(ports("127.83.1.2", Some(5700), Some(-1)), (5700, Some(5701)));
        assert_eq!(ports("127.83.1.3", None, Some(5900)), (5901, Some(5900)));
        assert_eq!(ports("127.83.1.4", None, Some(-1)), (5900, Some(5700)));
    }
}
