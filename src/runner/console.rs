//! The serial console: what the guest wrote last, and the clients that watch and type.
//!
//! Clients connect to a unix socket. Each first gets what is kept of the past, so that a start-up can be read by whoever
//! comes a moment late. A client that doesn't read falls behind and is told how much it missed; the guest never waits.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kiln_vmm::legacy::serial::{Output, Serial, Tap};
use kiln_vmm::thread::{Role, spawn};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Bytes of the past that are kept.
const KEPT: usize = 256 << 10;
/// Bytes of output that may wait to be taken from the port.
const TAP: usize = 1 << 20;
/// Clients at once.
const MOST_CLIENTS: usize = 16;

#[derive(Default)]
struct Past {
    bytes: VecDeque<u8>,
    /// Bytes written ever.
    total: u64,
    ended: bool,
}

/// The console of one machine.
pub(super) struct Console {
    past: Mutex<Past>,
    news: Condvar,
    serial: Arc<Serial>,
    clients: Mutex<Vec<UnixStream>>,
    count: AtomicU32,
}

impl Console {
    /// Begins to collect the port's output and to let clients in.
    pub(super) fn open(serial: Arc<Serial>, listener: UnixListener) -> std::io::Result<Arc<Self>> {
        let tap = serial.tap(TAP);
        let console = Arc::new(Self {
            past: Mutex::default(),
            news: Condvar::new(),
            serial,
            clients: Mutex::default(),
            count: AtomicU32::new(0),
        });
        let collector = console.clone();
        spawn(Role::Main, move || collector.collect(&tap))?;
        let door = console.clone();
        spawn(Role::Control, move || door.welcome(&listener))?;
        Ok(console)
    }

    fn collect(&self, tap: &Tap) {
        loop {
            let bytes = match tap.wait() {
                Output::Bytes(bytes) => bytes,
                Output::Lost(n) => format!("\r\n[{n} bytes lost]\r\n").into_bytes(),
                Output::End => break,
            };
            let mut past = self.past.lock();
            past.total += bytes.len() as u64;
            past.bytes.extend(bytes);
            let over = past.bytes.len().saturating_sub(KEPT);
            past.bytes.drain(..over);
            self.news.notify_all();
        }
        self.end();
    }

    fn end(&self) {
        self.past.lock().ended = true;
        self.news.notify_all();
    }

    fn welcome(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            if let Err(error) = self.clone().serve(stream) {
                log::warn!("a console client can't be served: {error}");
            }
        }
    }

    fn serve(self: Arc<Self>, mut stream: UnixStream) -> std::io::Result<()> {
        let mut clients = self.clients.lock();
        if clients.len() >= MOST_CLIENTS {
            stream.write_all(format!("[{MOST_CLIENTS} consoles are open already]\r\n").as_bytes())?;
            return Err(std::io::Error::other("too many of them"));
        }
        clients.push(stream.try_clone()?);
        drop(clients);
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (writer, me) = (stream.try_clone()?, self.clone());
        let gone = Arc::new(AtomicBool::new(false));
        let has_gone = gone.clone();
        spawn(Role::Client(number), move || {
            me.show(&writer, &has_gone);
            let _ = writer.shutdown(std::net::Shutdown::Both);
            me.forget(&writer);
        })?;
        spawn(Role::Client(number), move || {
            self.listen(&stream);
            wait_for_hang_up(&stream);
            let _past = self.past.lock();
            gone.store(true, Ordering::Release);
            self.news.notify_all();
        })?;
        Ok(())
    }

    fn listen(&self, mut stream: &UnixStream) {
        let mut bytes = [0; 1024];
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            if self.serial.send(&bytes[..n]).is_err() {
                break;
            }
        }
    }

    fn show(&self, mut to: &UnixStream, gone: &AtomicBool) {
        let mut seen = 0;
        loop {
            let (missed, bytes) = {
                let mut past = self.past.lock();
                while past.total == seen && !past.ended && !gone.load(Ordering::Acquire) {
                    self.news.wait(&mut past);
                }
                if past.total == seen || gone.load(Ordering::Acquire) {
                    return;
                }
                let first = past.total - past.bytes.len() as u64;
                let missed = first.saturating_sub(seen);
                let skip = (seen + missed - first) as usize;
                let bytes: Vec<u8> = past.bytes.iter().skip(skip).copied().collect();
                seen = past.total;
                (missed, bytes)
            };
            let note = if missed > 0 { format!("[{missed} earlier bytes are not kept]\r\n") } else { String::new() };
            if to.write_all(note.as_bytes()).and_then(|()| to.write_all(&bytes)).is_err() {
                return;
            }
        }
    }

    fn forget(&self, gone: &UnixStream) {
        let same = |other: &UnixStream| {
            let stat = |s: &UnixStream| rustix::fs::fstat(s).map(|st| st.st_ino).ok();
            stat(other) == stat(gone)
        };
        self.clients.lock().retain(|client| !same(client));
        let _past = self.past.lock();
        self.news.notify_all();
    }

    /// Waits until every client that still reads has got the last byte, or a second has passed for one that doesn't.
    pub(super) fn drain(&self) {
        self.end();
        for client in self.clients.lock().iter() {
            let _ = client.set_write_timeout(Some(std::time::Duration::from_secs(1)));
        }
        let end = std::time::Instant::now() + std::time::Duration::from_secs(1);
        let mut past = self.past.lock();
        while !self.clients.lock().is_empty() && std::time::Instant::now() < end {
            self.news.wait_until(&mut past, end);
        }
    }
}

// A client that has said all it wants to say may still listen: only a closed socket hangs up.
fn wait_for_hang_up(stream: &UnixStream) {
    while let Err(Errno::INTR) = poll(&mut [PollFd::new(stream, PollFlags::empty())], None) {}
}
