//! Viewers: the VNC server of a machine, and its doors.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kiln_rfb::{Password, Pointer, Server, Settings};
use kiln_vmm::machine::Machine;
use kiln_vmm::thread::{Role, spawn};

use super::blueprint::Vnc;
use super::handover::Descriptors;
use super::screen::{Hands, Screen};
use super::visitors::{Visit, Visitors};

/// Viewers at once.
const MOST_VIEWERS: usize = 64;

/// Makes the server of a machine's screen.
pub(super) fn show(screen: &Arc<Screen>, machine: &Machine, vnc: &Vnc, name: &str) -> io::Result<Server> {
    let password = vnc.password.as_deref().map(Password::new).transpose().map_err(io::Error::other)?;
    // The one pointing device that there is, is a PS/2 mouse.
    let settings = Settings { name: name.into(), password, most_clients: MOST_VIEWERS, pointer: Pointer::Relative };
    let number = AtomicU32::new(0);
    let threads = move |body: Box<dyn FnOnce() + Send>| {
        spawn(Role::Client(number.fetch_add(1, Ordering::Relaxed)), body).map(drop)
    };
    let hands = Hands::new(machine.ps2().cloned(), vnc.layout());
    let server = Server::new(settings, screen.clone(), hands, Box::new(threads));
    screen.shown_by(server.clone());
    Ok(server)
}

/// Lets viewers in by the ports that were bound for them.
pub(super) fn let_in(server: &Server, visitors: &Arc<Visitors>, files: &mut Descriptors) -> io::Result<()> {
    type Door = fn(&Server, Visit, String) -> io::Result<()>;
    let doors: [(&str, Door, bool); 2] = [("vnc", Server::serve, false), ("websocket", Server::serve_websocket, true)];
    for (label, door, is_websocket) in doors {
        if let Some(listener) = files.remove(label) {
            let (listener, server, visitors) = (TcpListener::from(listener), server.clone(), visitors.clone());
            let let_one_in = move |stream, peer| door(&server, visitors.comes(stream, is_websocket), peer);
            spawn(Role::Control, move || keep_open(&listener, let_one_in))?;
        }
    }
    Ok(())
}

fn keep_open(listener: &TcpListener, door: impl Fn(TcpStream, String) -> io::Result<()>) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                if let Err(error) = door(stream, peer.ip().to_string()) {
                    log::warn!("a viewer from {peer} was sent away: {error}");
                }
            }
            Err(error) => {
                // Out of descriptors, most likely; there is nothing to wait on for one.
                log::warn!("no viewer can be let in: {error}");
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}
