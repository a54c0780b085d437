//! The network's own thread: forwarded ports, name servers' answers, and what is due at some time. It sleeps otherwise.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::addresses::{GATEWAY, GUEST};
use super::{Shared, packet, queue, tcp};
use crate::network::Forward;

/// How often a guest with IPv6 is told of its router: three times in its lifetime there.
const ADVERTISE: Duration = Duration::from_secs(600);
/// How often it is looked at whether there are flows, and how long what serves them stays when there are none.
const LOOK: Duration = Duration::from_secs(30);
/// How long nobody is let in when that has failed.
const BREATH: Duration = Duration::from_millis(200);
/// Datagrams of one forward that are moved before others have their turn.
const TURN: usize = 64;

pub(super) struct Clerk {
    shared: Arc<Shared>,
    tcp: Vec<(TcpListener, u16)>,
    udp: Vec<(Arc<UdpSocket>, u16)>,
    listen_again: Option<Instant>,
    next_advertisement: Option<Instant>,
    next_look: Option<Instant>,
    /// There were no flows at the last look.
    was_idle: bool,
}

impl Clerk {
    pub(super) fn new(shared: Arc<Shared>, forwards: Vec<Forward>) -> io::Result<Self> {
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for forward in forwards {
            match forward {
                Forward::Tcp(listener, port) => {
                    listener.set_nonblocking(true)?;
                    tcp.push((listener, port));
                }
                Forward::Udp(socket, port) => {
                    socket.set_nonblocking(true)?;
                    udp.push((Arc::new(socket), port));
                }
            }
        }
        Ok(Self { shared, tcp, udp, listen_again: None, next_advertisement: None, next_look: None, was_idle: false })
    }

    pub(super) fn work(mut self) {
        while !self.shared.ended.load(Ordering::Acquire) {
            let (tcp, udp) = self.wait();
            queue::hush(&self.shared.wake);
            self.shared.connections.work(&*self.shared);
            for packet in self.shared.relay.look(Instant::now()) {
                self.shared.put_pieces(packet);
            }
            (0..).zip(tcp).filter(|(_, ready)| *ready).for_each(|(number, _)| self.let_in(number));
            self.udp.iter().zip(udp).filter(|(_, ready)| *ready).for_each(|((from, to), _)| self.pass_on(from, *to));
            self.keep_time(Instant::now());
        }
    }

    // Says which listeners and which sockets have something.
    fn wait(&self) -> (Vec<bool>, Vec<bool>) {
        let queries = self.shared.relay.sockets();
        let ready = self.shared.connections.ready();
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN), PollFd::new(&ready, PollFlags::IN)];
        let listens = if self.listen_again.is_none() { PollFlags::IN } else { PollFlags::empty() };
        fds.extend(self.tcp.iter().map(|(listener, _)| PollFd::from_borrowed_fd(listener.as_fd(), listens)));
        fds.extend(self.udp.iter().map(|(socket, _)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
        fds.extend(queries.iter().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
        let connections = self.shared.connections.deadline();
        let due =
            [connections, self.shared.relay.deadline(), self.listen_again, self.next_advertisement, self.next_look];
        let left = due.into_iter().flatten().min().map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        // A failed poll (a signal) is as good as a wake-up: nothing is ready, and it is asked again.
        let failed = poll(&mut fds, timeout.as_ref()).is_err();
        let mut ready = fds.iter().skip(2).map(|fd| !failed && !fd.revents().is_empty());
        let tcp = ready.by_ref().take(self.tcp.len()).collect();
        (tcp, ready.take(self.udp.len()).collect())
    }

    fn keep_time(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        self.listen_again = self.listen_again.filter(|_| !is_due(self.listen_again));
        if !self.shared.wants_router.load(Ordering::Acquire) {
            self.next_advertisement = None;
        } else if self.next_advertisement.is_none() || is_due(self.next_advertisement) {
            // The first one answered a question.
            if self.next_advertisement.is_some() {
                self.shared.advertise_router();
            }
            self.next_advertisement = Some(now + ADVERTISE);
        }
        if self.next_look.is_none() || is_due(self.next_look) {
            self.look(now);
        }
    }

    // What serves datagrams goes when there have been none for a while, and its threads with it.
    fn look(&mut self, now: Instant) {
        if !self.shared.datagrams.is_running() {
            (self.next_look, self.was_idle) = (None, false);
            return;
        }
        let mut flows = self.shared.flows.lock();
        flows.expire(now);
        let idle = flows.is_empty();
        drop(flows);
        if idle && self.was_idle {
            self.shared.datagrams.stop();
        }
        (self.next_look, self.was_idle) = (Some(now + LOOK), idle);
    }

    fn let_in(&mut self, number: usize) {
        let Some((listener, port)) = self.tcp.get(number) else { return };
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // The host has no descriptor left: whoever waits goes on waiting for a while.
                    self.listen_again = Some(Instant::now() + BREATH);
                    return;
                }
            };
            if self.shared.flows.lock().is_full(Instant::now()) {
                tcp::reset(&stream);
                continue;
            }
            self.shared.connections.dial(stream, *port, &*self.shared);
        }
    }

    fn pass_on(&self, socket: &Arc<UdpSocket>, port: u16) {
        let mut bytes = vec![0; 65535];
        for _ in 0..TURN {
            let Ok((len, peer)) = socket.recv_from(&mut bytes) else { return };
            let Some(data) = bytes.get(..len) else { return };
            if let Some(own) = self.shared.peers.port(socket, peer, port, Instant::now()) {
                let at = |address: Ipv4Addr, port| SocketAddr::new(address.into(), port);
                self.shared.put_pieces(packet::udp(at(GATEWAY, own), at(GUEST, port), data));
            }
        }
    }
}
