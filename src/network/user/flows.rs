//! The guest's connections, counted: so many at once, and one line in the log when there are no more.
//!
//! A new one past the limit goes unanswered, and a guest's TCP asks again, so it is served when another has ended.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::opens;
use crate::network::Protocol;

/// A UDP flow without datagrams is over (RFC 4787, 4.3, asks for 2 minutes at least where nobody says otherwise).
const UDP_IDLE: Duration = Duration::from_secs(120);
/// A connection as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) protocol: Protocol,
    pub(super) guest: SocketAddr,
    pub(super) other: SocketAddr,
}

/// The table.
pub(super) struct Flows {
    label: String,
    most: usize,
    /// When each was last heard of.
    table: HashMap<Key, Instant>,
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
    pub(super) fn note(&mut self, key: Key, flags: u8, now: Instant) -> bool {
        if let Some(seen) = self.table.get_mut(&key) {
            *seen = now;
            return true;
        }
        if key.protocol == Protocol::Tcp && !opens(flags) {
            return true;
        }
        if self.is_full(now) {
            return false;
        }
        self.table.insert(key, now);
        true
    }

    /// A TCP connection is no more. Nothing that a guest sends says so by itself.
    pub(super) fn ended(&mut self, key: &Key) {
        self.table.remove(key);
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

    /// Forgets datagrams' flows that have gone silent.
    pub(super) fn expire(&mut self, now: Instant) {
        self.table.retain(|key, seen| key.protocol == Protocol::Tcp || now.saturating_duration_since(*seen) < UDP_IDLE);
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
    use super::super::packet::{ACK, RST, SYN};
    use super::*;

    fn key(protocol: Protocol, port: u16) -> Key {
        Key { protocol, guest: ([10, 0, 2, 15], port).into(), other: ([9, 9, 9, 9], 80).into() }
    }

    #[test]
    fn connections_count_from_their_first_segment_to_their_end() {
        let mut flows = Flows::new("test", 2);
        let now = Instant::now();
        let (a, b, c) = (key(Protocol::Tcp, 1), key(Protocol::Tcp, 2), key(Protocol::Tcp, 3));
        assert!(flows.note(a, SYN, now) && flows.note(b, SYN, now));
        assert!(!flows.note(c, SYN, now));
        assert!(flows.note(a, SYN, now), "asked again");
        assert!(flows.note(c, ACK, now) && flows.note(a, RST, now), "what opens nothing goes on, and ends nothing");
        assert!(!flows.note(c, SYN, now));
        flows.ended(&a);
        assert!(flows.note(c, SYN, now));
        flows.ended(&b);
        flows.ended(&c);
        assert!(flows.is_empty());
    }

    #[test]
    fn datagrams_that_go_silent_are_forgotten() {
        let mut flows = Flows::new("test", 2);
        let start = Instant::now();
        flows.note(key(Protocol::Udp, 1), 0, start);
        flows.note(key(Protocol::Tcp, 2), SYN, start);
        assert!(flows.is_full(start));
        let later = start + UDP_IDLE / 2;
        flows.note(key(Protocol::Udp, 1), 0, later);
        assert!(flows.is_full(start + UDP_IDLE));
        assert!(!flows.is_full(later + UDP_IDLE));
        assert_eq!(flows.table.len(), 1);
    }
}
