//! The server: lets clients in, gives each its threads, and sees them off.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::handshake::{self, Door, Refusal};
use crate::screen::Screen;
use crate::stream::Stream;
use crate::want::State;
use crate::websocket::WebSocket;
use crate::{FrameSource, Input, Password, Pointer, client};

/// Starts a thread for one client or for the screen.
pub type Spawn = dyn Fn(Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync;

/// How long a client may take to get through the handshake's next step; people type passwords.
const HANDSHAKE: Duration = Duration::from_secs(120);

/// Settings of a server.
pub struct Settings {
    /// Name of the desktop, as viewers show it.
    pub name: String,
    /// Password that clients must know, if any.
    pub password: Option<Password>,
    /// Clients at once, those in the handshake included; more are sent away.
    pub most_clients: usize,
    /// What the guest's pointing device understands until [`Server::set_pointer`] says otherwise.
    pub pointer: Pointer,
}

/// Closes a client's stream, whatever kind it is.
type Closer = Box<dyn Fn() + Send>;

struct Inner {
    settings: Settings,
    door: Door,
    screen: Arc<Screen>,
    source: Arc<dyn FrameSource>,
    input: Arc<dyn Input>,
    spawn: Box<Spawn>,
    state: Mutex<State>,
    inside: AtomicUsize,
    closers: Mutex<HashMap<u64, Closer>>,
    next: AtomicU64,
}

/// A VNC server. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

impl Server {
    /// A server without clients: no thread runs until one comes.
    pub fn new(settings: Settings, source: Arc<dyn FrameSource>, input: Arc<dyn Input>, spawn: Box<Spawn>) -> Self {
        let door = Door { password: settings.password.clone(), ..Door::default() };
        let screen = Screen::new(source.clone());
        let state = Mutex::new(State { leds: None, pointer: settings.pointer });
        Self(Arc::new(Inner {
            settings,
            door,
            screen,
            source,
            input,
            spawn,
            state,
            inside: AtomicUsize::new(0),
            closers: Mutex::default(),
            next: AtomicU64::new(0),
        }))
    }

    /// Serves a client in threads of its own. `peer` names where it comes from: wrong passwords count per peer.
    ///
    /// # Errors
    /// When there are too many clients or no thread can be had; the stream is closed then.
    pub fn serve(&self, stream: impl Stream, peer: String) -> io::Result<()> {
        self.begin(stream, peer, attend)
    }

    /// Serves a client that speaks WebSocket, otherwise as [`Server::serve`]. One that sends another HTTP request is told
    /// what there is, and so is a page of another host while there is no password.
    ///
    /// # Errors
    /// As [`Server::serve`]'s.
    pub fn serve_websocket(&self, stream: impl Stream, peer: String) -> io::Result<()> {
        self.begin(stream, peer, |inner, stream, peer| {
            attend(inner, WebSocket::accept(stream, inner.door.password.is_some())?, peer)
        })
    }

    fn begin<S: Stream>(
        &self,
        stream: S,
        peer: String,
        attend: impl FnOnce(&Arc<Inner>, S, &str) -> Result<(), Refusal> + Send + 'static,
    ) -> io::Result<()> {
        let inner = self.0.clone();
        if inner.inside.fetch_add(1, Ordering::AcqRel) >= inner.settings.most_clients {
            inner.inside.fetch_sub(1, Ordering::AcqRel);
            stream.close();
            return Err(io::Error::other(format!("there are {} clients already", inner.settings.most_clients)));
        }
        let place = Place(inner.clone());
        (inner.spawn)(Box::new(move || {
            let place = place;
            let entered = Entry::new(&place.0, &stream).map_err(Refusal::from);
            if let Err(error) = entered.and_then(|_entry| attend(&place.0, stream, &peer)) {
                log::info!("VNC client {peer}: {error}");
            }
        }))
    }

    /// Clients that are connected, those in the handshake included.
    pub fn clients(&self) -> usize {
        self.0.inside.load(Ordering::Acquire)
    }

    /// Sends all clients away.
    pub fn disconnect_all(&self) {
        self.0.closers.lock().values().for_each(|close| close());
    }

    /// The guest switched its keyboard's LEDs: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub fn set_leds(&self, leds: u8) {
        self.0.state.lock().leds = Some(leds);
        self.0.screen.tell(|client| client.change(|want| want.leds(leds)));
    }

    /// The guest uses another kind of pointing device from now on.
    pub fn set_pointer(&self, pointer: Pointer) {
        self.0.state.lock().pointer = pointer;
        self.0.screen.tell(|client| client.change(|want| want.pointer(pointer)));
    }
}

// What is typed or pointed at is likely to show soon.
impl Input for Inner {
    fn key(&self, keysym: u32, down: bool) {
        self.input.key(keysym, down);
        self.screen.expect();
    }
    fn scancode(&self, scancode: u32, down: bool) {
        self.input.scancode(scancode, down);
        self.screen.expect();
    }
    fn pointer(&self, x: u16, y: u16, buttons: u8) {
        self.input.pointer(x, y, buttons);
        self.screen.expect();
    }
    fn motion(&self, right: i32, down: i32, buttons: u8) {
        self.input.motion(right, down, buttons);
        self.screen.expect();
    }
}

/// A client's place among the most there may be.
struct Place(Arc<Inner>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A client's entry among those that can be sent away. With it ends the connection.
struct Entry<'a>(&'a Inner, u64);

impl<'a> Entry<'a> {
    fn new(inner: &'a Inner, stream: &impl Stream) -> io::Result<Self> {
        let stream = stream.second()?;
        let number = inner.next.fetch_add(1, Ordering::Relaxed);
        inner.closers.lock().insert(number, Box::new(move || stream.close()));
        Ok(Entry(inner, number))
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let closer = self.0.closers.lock().remove(&self.1);
        if let Some(close) = closer {
            close();
        }
    }
}

fn attend(inner: &Arc<Inner>, mut stream: impl Stream, peer: &str) -> Result<(), Refusal> {
    stream.limit_reads(Some(HANDSHAKE))?;
    handshake::negotiate(&mut stream, &inner.door, peer)?;
    let mailbox = inner.screen.attach(&*inner.spawn)?;
    let talked = talk(inner, &mut stream, &mailbox);
    mailbox.close();
    inner.screen.detach(&mailbox);
    Ok(talked?)
}

fn talk(inner: &Arc<Inner>, stream: &mut impl Stream, mailbox: &Arc<client::Mailbox>) -> io::Result<()> {
    let size = inner.screen.copy.read().size;
    mailbox.change(|want| want.begin(size));
    handshake::server_init(stream, size, &inner.settings.name)?;
    stream.limit_reads(None)?;
    let (mut to, theirs, screen) = (stream.second()?, mailbox.clone(), inner.screen.clone());
    (inner.spawn)(Box::new(move || {
        if let Err(error) = client::write(&mut to, &theirs, &screen) {
            log::debug!("VNC client went: {error}");
            // The reader of this client ends by it.
            to.close();
        }
    }))?;
    client::read(stream, mailbox, &**inner, || *inner.state.lock())
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({} clients, {:?})", self.clients(), self.0.source.size())
    }
}
