//! What a PS/2 device has to send: answers before events, and a sequence that has begun to its end.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes of events that wait at most. Real keyboards have 16; more loses no typing.
const MOST_EVENT_BYTES: usize = 1024;
/// Bytes of answers that wait at most; a system that sends commands without reading loses the oldest.
const MOST_ANSWERS: usize = 64;

/// The queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outbox {
    current: VecDeque<u8>,
    answers: VecDeque<u8>,
    events: VecDeque<Vec<u8>>,
    last: u8,
}

impl Outbox {
    /// Queues the answer to a command.
    pub fn answer(&mut self, bytes: &[u8]) {
        self.answers.extend(bytes);
        let over = self.answers.len().saturating_sub(MOST_ANSWERS);
        self.answers.drain(..over);
    }

    /// Takes back the last byte of an answer.
    pub fn take_back(&mut self) {
        self.answers.pop_back();
    }

    /// Queues an event, whole or not at all. Says which.
    pub fn event(&mut self, bytes: Vec<u8>) -> bool {
        if self.event_bytes() + bytes.len() > MOST_EVENT_BYTES {
            return false;
        }
        if !bytes.is_empty() {
            self.events.push_back(bytes);
        }
        true
    }

    /// How many bytes of events wait.
    pub fn event_bytes(&self) -> usize {
        self.events.iter().map(Vec::len).sum()
    }

    /// Forgets all events.
    pub fn drop_events(&mut self) {
        self.current.clear();
        self.events.clear();
    }

    /// The next byte to send.
    pub fn next(&mut self) -> Option<u8> {
        if self.current.is_empty() {
            match self.answers.pop_front() {
                Some(answer) => self.current.push_back(answer),
                None => self.current.extend(self.events.pop_front()?),
            }
        }
        let byte = self.current.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    /// The byte that was sent last.
    pub fn last(&self) -> u8 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_before_events_but_not_into_them() {
        let mut outbox = Outbox::default();
        assert!(outbox.event(vec![0xe0, 0x48]) && outbox.event(vec![0x1e]));
        assert_eq!(outbox.next(), Some(0xe0));
        outbox.answer(&[0xfa]);
        let rest: Vec<_> = std::iter::from_fn(|| outbox.next()).collect();
        assert_eq!(rest, [0x48, 0xfa, 0x1e]);
        assert_eq!(outbox.last(), 0x1e);
    }

    #[test]
    fn both_queues_have_an_end() {
        let mut outbox = Outbox::default();
        while outbox.event(vec![1, 2, 3]) {}
        assert!(outbox.event_bytes() > MOST_EVENT_BYTES - 3);
        (0..1000).for_each(|_| outbox.answer(&[0xfa, 0xaa]));
        assert_eq!(outbox.answers.len(), MOST_ANSWERS);
    }
}
