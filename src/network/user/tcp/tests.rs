//! One connection, packet by packet, at times of the tests' own making.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use kiln_vmm::virtio::net::{ETHERNET, Takes};
use parking_lot::Mutex;

use super::super::addresses::{DNS, GUEST};
use super::super::flows::Key;
use super::super::packet::{self, ACK, FIN, Packet, RST, SYN};
use super::connection::{Connection, Fate, Now, Turn};
use super::wire::{Sink, capabilities};
use crate::network::Protocol;

const ALL: Takes = Takes { checksum: true, large4: true, large6: true };
/// The number of the guest's first segment.
const FIRST: u32 = u32::MAX - 5;

#[derive(Default)]
struct Frames(Mutex<Vec<(Vec<u8>, Option<NonZeroU16>)>>);

impl Sink for Frames {
    fn ended(&self, _key: Key) {}

    fn segment(&self, frame: Vec<u8>, cut: Option<NonZeroU16>) {
        self.0.lock().push((frame.get(ETHERNET..).unwrap().to_vec(), cut));
    }

    fn has_room(&self) -> bool {
        self.0.lock().len() < 1000
    }
}

/// A guest's end of a connection, and the far end behind the host's socket.
struct World {
    connection: Connection,
    frames: Frames,
    far: TcpStream,
    key: Key,
    start: Instant,
    after: Duration,
    /// Next numbers: the guest's own, and what it has got of the other's.
    own: u32,
    other: u32,
}

impl World {
    fn connected(v6: bool) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let (guest, other): (IpAddr, IpAddr) =
            if v6 { ("fd00::15".parse().unwrap(), "2001:db8::1".parse().unwrap()) } else { (GUEST.into(), DNS.into()) };
        let (guest, other) = (SocketAddr::new(guest, 4000), SocketAddr::new(other, 80));
        let key = Key { protocol: Protocol::Tcp, guest, other };
        let (frames, start) = (Frames::default(), Instant::now());
        let can = capabilities(1500, ALL);
        let now = now_of(start, Duration::ZERO);
        let connection = Connection::outward(key, [to].into(), &can, &frames, now).unwrap();
        let far = server.accept().unwrap().0;
        far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut world = Self { connection, frames, far, key, start, after: Duration::ZERO, own: FIRST, other: 0 };
        // The longest segment of its link, and a window's scale.
        let options = [2, 4, 5, if v6 { 160 } else { 180 }, 1, 3, 3, 7];
        world.sends_with(SYN, &options, &[]);
        let (answer, _) = world.until(|packet| packet.flags() == SYN | ACK);
        let answer = Packet::read(&answer).unwrap();
        world.own = world.own.wrapping_add(1);
        world.other = answer.sequence().unwrap().wrapping_add(1);
        world.sends(ACK, &[]);
        world
    }

    fn turn(&mut self, packet: Option<&[u8]>) -> Turn {
        let now = now_of(self.start, self.after);
        // What the socket has become is looked at each time.
        self.connection.changed(true, true);
        self.connection.turn(packet, &self.frames, now)
    }

    fn segment(&self, at: u32, flags: u8, window: u16, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = [self.key.guest.port().to_be_bytes(), self.key.other.port().to_be_bytes()].concat();
        bytes.extend(at.to_be_bytes());
        bytes.extend(self.other.to_be_bytes());
        bytes.extend([(5 + options.len() / 4) as u8 * 16, flags]);
        bytes.extend(window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.extend(data);
        packet::packet(self.key.guest.ip(), self.key.other.ip(), packet::TCP, &bytes)
    }

    fn sends_with(&mut self, flags: u8, options: &[u8], data: &[u8]) -> Turn {
        let segment = self.segment(self.own, flags, 0xffff, options, data);
        self.turn(Some(&segment))
    }

    fn sends(&mut self, flags: u8, data: &[u8]) -> Turn {
        let turn = self.sends_with(flags, &[], data);
        self.own = self.own.wrapping_add(data.len() as u32 + u32::from(flags & FIN));
        turn
    }

    /// Gives turns until a packet of some kind comes; what came before it is gone.
    fn until(&mut self, is_it: impl Fn(&Packet<'_>) -> bool) -> (Vec<u8>, Option<NonZeroU16>) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let mut all = std::mem::take(&mut *self.frames.0.lock());
            if let Some(at) = all.iter().position(|(packet, _)| is_it(&Packet::read(packet).unwrap())) {
                let rest = all.split_off(at + 1);
                *self.frames.0.lock() = rest;
                return all.pop().unwrap();
            }
            assert!(Instant::now() < end, "it doesn't come");
            std::thread::yield_now();
            self.turn(None);
        }
    }

    fn is_quiet(&mut self) -> bool {
        self.frames.0.lock().is_empty()
    }
}

fn now_of(start: Instant, after: Duration) -> Now {
    let time = smoltcp::time::Instant::from_micros(1_000_000 + after.as_micros() as i64);
    Now { instant: start + after, time }
}

fn data(packet: &Packet<'_>) -> usize {
    packet.payload.len() - packet.tcp_header()
}

#[test]
fn what_a_slow_host_has_not_taken_when_both_have_closed_is_kept_for_it() {
    let mut world = World::connected(false);
    world.far.shutdown(std::net::Shutdown::Write).unwrap();
    world.until(|packet| packet.flags() & FIN != 0);
    world.other = world.other.wrapping_add(1);
    world.sends(ACK, &[]);
    // Until the host's socket takes no more.
    let (piece, mut sent) = (vec![7; 30_000], 0);
    loop {
        world.sends(ACK, &piece);
        sent += piece.len();
        world.after += Duration::from_millis(20);
        world.turn(None);
        let acknowledged = world.frames.0.lock().pop().unwrap().0;
        world.frames.0.lock().clear();
        let acknowledged = u32::from_be_bytes(packet::array(Packet::read(&acknowledged).unwrap().payload, 8).unwrap());
        assert_eq!(acknowledged, world.own);
        if world.connection.waits_for_host() >= 100_000 {
            break;
        }
    }
    let turn = world.sends(FIN | ACK, &[]);
    assert_eq!(turn.fate, Fate::GoesOn);
    let (last, _) = world.until(|packet| packet.flags() == ACK);
    let last = Packet::read(&last).unwrap();
    assert_eq!(
        packet::array(last.payload, 8).map(u32::from_be_bytes),
        Some(world.own),
        "its end is acknowledged at once"
    );
    // Longer than TCP would remember.
    world.after += Duration::from_secs(60);
    assert_eq!(world.turn(None).fate, Fate::GoesOn);
    let mut far = world.far.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).map(|_| all.len())
    });
    while world.turn(None).fate == Fate::GoesOn {
        std::thread::yield_now();
    }
    assert_eq!(reader.join().unwrap().unwrap(), sent);
}

#[test]
fn a_guests_end_is_acknowledged_before_it_is_forgotten() {
    let mut world = World::connected(false);
    world.far.shutdown(std::net::Shutdown::Write).unwrap();
    world.until(|packet| packet.flags() & FIN != 0);
    world.other = world.other.wrapping_add(1);
    assert_eq!(world.sends(FIN | ACK, b"the last words").fate, Fate::Over);
    let own = world.own;
    let (last, _) = world.until(|packet| packet.flags() == ACK);
    assert_eq!(packet::array(Packet::read(&last).unwrap().payload, 8).map(u32::from_be_bytes), Some(own));
}

#[test]
fn what_a_host_has_sent_before_it_broke_the_guest_gets() {
    let mut world = World::connected(false);
    (&world.far).write_all(b"413, too large").unwrap();
    super::reset(&world.far);
    let (answer, _) = world.until(|packet| data(packet) > 0);
    let answer = Packet::read(&answer).unwrap();
    assert!(answer.payload.ends_with(b"413, too large"));
    world.other = world.other.wrapping_add(14);
    assert_eq!(world.sends(ACK, &[]).fate, Fate::Over);
    world.until(|packet| packet.flags() & RST != 0);
}

#[test]
fn nothing_goes_beyond_the_first_window_before_there_is_another() {
    let mut world = World::connected(false);
    assert!(world.is_quiet());
    for offset in [0xffffu32, 262_144, 500_000, 1 << 30] {
        let segment = world.segment(world.own.wrapping_add(offset), ACK, 0xffff, &[], &[9; 100]);
        world.turn(Some(&segment));
    }
    assert!(world.is_quiet());
    world.sends(ACK, b"what is right");
    world.after += Duration::from_millis(20);
    world.turn(None);
    let mut got = [0; 13];
    world.far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"what is right");
    world.far.set_nonblocking(true).unwrap();
    assert_eq!(world.far.read(&mut got).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_window_that_stays_shut_makes_no_flood() {
    let mut world = World::connected(false);
    let shut = world.segment(world.own, ACK, 0, &[], &[]);
    world.turn(Some(&shut));
    (&world.far).write_all(b"some").unwrap();
    world.far.shutdown(std::net::Shutdown::Write).unwrap();
    // It has all, it says, and has room for nothing.
    world.turn(None);
    world.other = world.other.wrapping_add(5);
    let shut = world.segment(world.own, ACK, 0, &[], &[]);
    world.turn(Some(&shut));
    for _ in 0..20 {
        world.after += Duration::from_secs(60);
        world.frames.0.lock().clear();
        let turn = world.turn(None);
        assert!(world.frames.0.lock().len() <= 256);
        let due = turn.due.unwrap().saturating_duration_since(world.start + world.after);
        assert!(world.is_quiet() || due >= Duration::from_millis(10), "{due:?}");
    }
}

#[test]
fn large_answers_are_cut_by_the_card_or_fit_the_link() {
    for v6 in [false, true] {
        let mut world = World::connected(v6);
        let sent: Vec<u8> = (0..40_000u32).map(|n| (n / 100) as u8).collect();
        (&world.far).write_all(&sent).unwrap();
        let mut got: Vec<u8> = Vec::new();
        while got.len() < sent.len() {
            let (packet, cut) = world.until(|packet| data(packet) > 0);
            match cut {
                Some(size) => assert!(!v6 && size.get() == 1460),
                None => assert!(packet.len() <= 1500),
            }
            let packet = Packet::read(&packet).unwrap();
            got.extend(&packet.payload[packet.tcp_header()..]);
            world.other = world.other.wrapping_add(data(&packet) as u32);
            world.sends(ACK, &[]);
        }
        assert!(got == sent, "v6: {v6}");
    }
}
