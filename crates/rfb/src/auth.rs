//! VNC authentication (RFC 6143, 7.2.2): DES challenge and response, in constant time, with a back-off per peer.
//!
//! The method is weak by itself (eight bytes, DES); it keeps honest people out. What carries secrets goes through a
//! tunnel.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

/// Bytes of a challenge and its response.
pub const CHALLENGE: usize = 16;
/// Longest password: DES has no more key.
pub const LONGEST: usize = 8;

/// A password is empty or longer than eight bytes, of which VNC would silently use the first eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a VNC password has 1 to 8 bytes, this one has {0}")]
pub struct PasswordLength(pub usize);

/// A password as DES key.
#[derive(Clone)]
pub struct Password([u8; LONGEST]);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Password {
    /// Takes a password of 1 to 8 bytes.
    ///
    /// # Errors
    /// When it is empty or longer.
    pub fn new(text: &str) -> Result<Self, PasswordLength> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(PasswordLength(text.len()));
        }
        let mut key = [0; LONGEST];
        // VNC feeds the bits of each byte to DES in mirrored order.
        key.iter_mut().zip(text.bytes()).for_each(|(k, b)| *k = b.reverse_bits());
        Ok(Self(key))
    }

    /// The right response.
    pub(crate) fn response(&self, challenge: &[u8; CHALLENGE]) -> [u8; CHALLENGE] {
        let cipher = Des::new(&self.0.into());
        let mut answer = *challenge;
        for half in answer.chunks_exact_mut(8) {
            if let Ok(block) = half.try_into() {
                cipher.encrypt_block(block);
            }
        }
        answer
    }

    /// Whether a response is right; takes the same time either way.
    pub fn accepts(&self, challenge: &[u8; CHALLENGE], response: &[u8; CHALLENGE]) -> bool {
        self.response(challenge).ct_eq(response).into()
    }
}

/// Wrong tries before a peer has to wait.
const FREE_TRIES: u32 = 3;
/// First wait; it doubles with each further wrong try.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Peers remembered; past that the one longest free is forgotten.
const PEERS: usize = 1024;

#[derive(Clone, Copy)]
struct Record {
    wrong: u32,
    until: Instant,
}

/// Remembers wrong tries per peer. Time comes from the caller.
#[derive(Default)]
pub struct BackOff(Mutex<HashMap<String, Record>>);

impl BackOff {
    /// How long `peer` has to wait before its next try counts; `None` when it may try.
    ///
    /// Asked again when a response is judged, so that many connections opened beforehand gain nothing.
    pub fn wait(&self, peer: &str, now: Instant) -> Option<Duration> {
        let record = *self.0.lock().get(peer)?;
        record.until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Notes a wrong try.
    pub fn wrong(&self, peer: &str, now: Instant) {
        let mut peers = self.0.lock();
        if peers.len() >= PEERS && !peers.contains_key(peer) {
            let oldest = peers.iter().min_by_key(|(_, r)| r.until).map(|(name, _)| name.clone());
            oldest.and_then(|name| peers.remove(&name));
        }
        let record = peers.entry(peer.to_owned()).or_insert(Record { wrong: 0, until: now });
        record.wrong += 1;
        if let Some(doublings) = record.wrong.checked_sub(FREE_TRIES) {
            let wait = FIRST_WAIT.saturating_mul(1 << doublings.min(10)).min(LONGEST_WAIT);
            record.until = now + wait;
        }
    }

    /// Notes a right one: the peer starts anew.
    pub fn right(&self, peer: &str) {
        self.0.lock().remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_challenge_has_its_known_response() {
        // DES's own test: the key whose mirrored bytes are 0x0123456789abcdef encrypts "Now is t" to 3fa40e8a984d4815.
        let mirrored: Vec<u8> = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].map(u8::reverse_bits).to_vec();
        let mut password = Password([0; 8]);
        password.0.iter_mut().zip(&mirrored).for_each(|(k, b)| *k = b.reverse_bits());
        let response = password.response(b"Now is tNow is t");
        let half = [0x3f, 0xa4, 0x0e, 0x8a, 0x98, 0x4d, 0x48, 0x15];
        assert_eq!(response[..8], half);
        assert_eq!(response[8..], half);
    }

    #[test]
    fn only_the_right_password_is_accepted() {
        let challenge = *b"0123456789abcdef";
        let right = Password::new("secret").unwrap();
        let response = right.response(&challenge);
        assert!(right.accepts(&challenge, &response));
        for wrong in ["Secret", "secret1", "s", "secretXX"] {
            assert!(!Password::new(wrong).unwrap().accepts(&challenge, &response), "{wrong}");
        }
    }

    #[test]
    fn passwords_that_would_be_cut_are_refused() {
        assert_eq!(Password::new("123456789").unwrap_err(), PasswordLength(9));
        assert_eq!(Password::new("").unwrap_err(), PasswordLength(0));
        assert!(Password::new("12345678").is_ok());
        assert_eq!(Password::new("pässwör").unwrap_err(), PasswordLength(9), "bytes count, not letters");
    }

    #[test]
    fn wrong_tries_cost_more_and_more_time() {
        let guard = BackOff::default();
        let now = Instant::now();
        for _ in 1..FREE_TRIES {
            guard.wrong("a", now);
            assert_eq!(guard.wait("a", now), None);
        }
        guard.wrong("a", now);
        assert_eq!(guard.wait("a", now), Some(FIRST_WAIT));
        guard.wrong("a", now);
        assert_eq!(guard.wait("a", now), Some(FIRST_WAIT * 2));
        (0..50).for_each(|_| guard.wrong("a", now));
        assert_eq!(guard.wait("a", now), Some(LONGEST_WAIT));
        assert_eq!(guard.wait("a", now + LONGEST_WAIT), None);
        assert_eq!(guard.wait("b", now), None, "another peer is not held up");
        guard.right("a");
        assert_eq!(guard.wait("a", now), None);
    }

    #[test]
    fn peers_are_forgotten_before_memory_grows() {
        let guard = BackOff::default();
        let now = Instant::now();
        (0..PEERS * 2).for_each(|n| guard.wrong(&n.to_string(), now));
        assert!(guard.0.lock().len() <= PEERS);
    }
}
