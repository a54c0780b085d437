//! Who is at the screen: told by events of the control socket, and by its `query-vnc`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kiln_rfb::Stream;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::qmp::Hub;

/// Viewers that are connected.
pub(super) struct Visitors {
    hub: Arc<Hub>,
    /// What they are asked for, in QMP's words.
    pub(super) auth: &'static str,
    present: Mutex<BTreeMap<u64, Value>>,
    next: AtomicU64,
}

/// A connection to one of them. When its last handle goes, so does the visitor.
pub(super) struct Visit {
    stream: TcpStream,
    seat: Arc<Seat>,
}

struct Seat {
    visitors: Arc<Visitors>,
    number: u64,
    about: Value,
}

fn side(address: io::Result<SocketAddr>, websocket: bool) -> Value {
    let Ok(address) = address else { return json!({ "host": "", "service": "", "family": "unknown" }) };
    json!({
        "host": address.ip().to_string(), "service": address.port().to_string(), "websocket": websocket,
        "family": if address.is_ipv6() { "ipv6" } else { "ipv4" },
    })
}

impl Visitors {
    pub(super) fn new(hub: Arc<Hub>, has_password: bool) -> Arc<Self> {
        let auth = if has_password { "vnc" } else { "none" };
        Arc::new(Self { hub, auth, present: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// Somebody has connected.
    pub(super) fn comes(self: &Arc<Self>, stream: TcpStream, websocket: bool) -> Visit {
        let client = side(stream.peer_addr(), websocket);
        let mut server = side(stream.local_addr(), websocket);
        if let Some(server) = server.as_object_mut() {
            server.insert("auth".into(), self.auth.into());
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.present.lock().insert(number, client.clone());
        let about = json!({ "server": server, "client": client });
        self.hub.tell("VNC_CONNECTED", Some(about.clone()));
        Visit { stream, seat: Arc::new(Seat { visitors: self.clone(), number, about }) }
    }

    /// What `query-vnc` tells of them.
    pub(super) fn list(&self) -> Value {
        self.present.lock().values().cloned().collect()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.visitors.present.lock().remove(&self.number);
        self.visitors.hub.tell("VNC_DISCONNECTED", Some(std::mem::take(&mut self.about)));
    }
}

impl Read for Visit {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes)
    }
}

impl Write for Visit {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Visit {
    fn second(&self) -> io::Result<Self> {
        Ok(Self { stream: Stream::second(&self.stream)?, seat: self.seat.clone() })
    }
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.limit_reads(limit)
    }
    fn close(&self) {
        self.stream.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_visitor_is_there_as_long_as_a_handle_to_it_is() {
        let visitors = Visitors::new(Arc::default(), true);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let visit = visitors.comes(listener.accept().unwrap().0, false);
        let second = visit.second().unwrap();
        let port = ours.local_addr().unwrap().port().to_string();
        let there = json!([{ "host": "127.0.0.1", "service": port, "family": "ipv4", "websocket": false }]);
        assert_eq!(visitors.list(), there);
        drop(visit);
        assert_eq!(visitors.list(), there);
        drop(second);
        assert_eq!(visitors.list(), json!([]));
    }
}
