//! The guest's connections, counted: so many at once, and one line in the log when there are no more.
//!
//! A new one past the limit goes unanswered, and a guest's TCP asks again, so it is served when another has ended.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::{ACK, FIN, RST, SYN};
use crate::network::Protocol;

/// A UDP flow without datagrams is over (RFC 4787, 4.3, asks for 2 minutes at least where nobody says otherwise).
const UDP_IDLE: Duration = Duration::from_secs(120);
/// A connection that was never answered is over: dialling takes 30 s at most.
const UNANSWERED: Duration = Duration::from_secs(60);
/// A connection without a segment is over; keep-alives come every 2 hours (RFC 9293, 3.8.4).
pub(super) const TCP_IDLE: Duration = Duration::from_secs(3 * 3600);

/// A connection as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) protocol: Protocol,
    pub(super) guest: SocketAddr,
    pub(super) other: SocketAddr,
}

struct Flow {
    seen: Instant,
    answered: bool,
    /// It was opened from the host's side.
    inward: bool,
    /// Ends that have said that they will send no more: the guest's, the other.
    ended: [bool; 2],
}

/// The table.
pub(super) struct Flows {
    label: String,
    most: usize,
    table: HashMap<Key, Flow>,
    told: bool,
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    FromGuest,
    ToGuest,
}

impl Flows {
    pub(super) fn new(label: &str, most: usize) -> Self {
        Self { label: label.into(), most, table: HashMap::new(), told: false }
    }

    /// Notes a packet, with TCP's flags, which mean nothing for UDP. Says whether it may go on: what opens a connection when there is no room may not.
    pub(super) fn note(&mut self, key: Key, flags: u8, way: Way, now: Instant) -> bool {
        let opens = key.protocol == Protocol::Udp || flags & (SYN | ACK | RST | FIN) == SYN;
        let Some(flow) = self.table.get_mut(&key) else {
            return !opens || self.open(key, way == Way::ToGuest, now);
        };
        flow.seen = now;
        flow.answered |= flow.inward == (way == Way::FromGuest);
        if key.protocol == Protocol::Udp {
            return true;
        }
        if opens {
            flow.ended = [false; 2];
        }
        let [guests, others] = &mut flow.ended;
        let end = if way == Way::FromGuest { guests } else { others };
        *end |= flags & FIN != 0;
        if flags & RST != 0 || flow.ended == [true; 2] {
            self.table.remove(&key);
        }
        true
    }

    fn open(&mut self, key: Key, inward: bool, now: Instant) -> bool {
        if self.is_full(now) {
            return false;
        }
        self.table.insert(key, Flow { seen: now, answered: false, inward, ended: [false; 2] });
        true
    }

    /// Whether no connection can be opened; the log is told when that begins.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        if self.table.len() < self.most {
            self.told &= self.table.len() > self.most / 2;
            return false;
        }
        self.expire(now);
        let full = self.table.len() >= self.most;
        if full && !std::mem::replace(&mut self.told, true) {
            let (label, most) = (&self.label, self.most);
            log::warn!(
                "{label}: the guest has {most} connections, the most there may be; further ones wait for an end"
            );
        }
        full
    }

    /// Forgets what is over without having said so.
    pub(super) fn expire(&mut self, now: Instant) {
        self.table.retain(|key, flow| {
            let limit = match (key.protocol, flow.answered) {
                (Protocol::Udp, _) => UDP_IDLE,
                (Protocol::Tcp, true) => TCP_IDLE,
                (Protocol::Tcp, false) => UNANSWERED,
            };
            now.saturating_duration_since(flow.seen) < limit
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.table.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(protocol: Protocol, port: u16) -> Key {
        Key { protocol, guest: ([10, 0, 2, 15], port).into(), other: ([9, 9, 9, 9], 80).into() }
    }

    #[test]
    fn connections_count_from_their_first_segment_to_their_last() {
        let mut flows = Flows::new("test", 2);
        let now = Instant::now();
        let (a, b, c) = (key(Protocol::Tcp, 1), key(Protocol::Tcp, 2), key(Protocol::Tcp, 3));
        assert!(flows.note(a, SYN, Way::FromGuest, now) && flows.note(b, SYN, Way::FromGuest, now));
        assert!(!flows.note(c, SYN, Way::FromGuest, now));
        assert!(flows.note(a, SYN, Way::FromGuest, now), "asked again");
        assert!(flows.note(c, ACK, Way::FromGuest, now), "what opens nothing goes on");
        flows.note(a, SYN | ACK, Way::ToGuest, now);
        flows.note(a, FIN | ACK, Way::FromGuest, now);
        assert!(!flows.note(c, SYN, Way::FromGuest, now), "half closed");
        flows.note(a, FIN | ACK, Way::ToGuest, now);
        assert!(flows.note(c, SYN, Way::FromGuest, now));
        flows.note(b, RST, Way::ToGuest, now);
        flows.note(c, RST | ACK, Way::FromGuest, now);
        assert!(flows.is_empty());
    }

    #[test]
    fn what_goes_silent_is_forgotten() {
        let mut flows = Flows::new("test", 3);
        let start = Instant::now();
        flows.note(key(Protocol::Udp, 1), 0, Way::FromGuest, start);
        flows.note(key(Protocol::Tcp, 2), SYN, Way::FromGuest, start);
        flows.note(key(Protocol::Tcp, 3), SYN, Way::FromGuest, start);
        flows.note(key(Protocol::Tcp, 3), SYN | ACK, Way::ToGuest, start);
        assert!(flows.is_full(start));
        let later = start + UNANSWERED;
        assert!(!flows.is_full(later));
        flows.note(key(Protocol::Udp, 1), 0, Way::ToGuest, later);
        flows.expire(start + UDP_IDLE);
        assert_eq!(flows.table.len(), 2);
        flows.expire(later + UDP_IDLE);
        assert_eq!(flows.table.len(), 1);
        flows.expire(start + TCP_IDLE);
        assert!(flows.is_empty());
    }
}
