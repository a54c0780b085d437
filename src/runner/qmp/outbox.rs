//! What one client has yet to be sent. A client that doesn't read holds up nobody but itself.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

/// Bytes that may wait: a client that leaves more unread is sent away.
const MOST: usize = 4 << 20;

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A line is being written.
    writing: bool,
    closed: bool,
}

/// Lines on their way to a client.
#[derive(Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Outbox {
    /// Sends a value, sooner or later. Says no when the client is gone, or has left too much unread and goes.
    pub fn send(&self, value: &Value) -> bool {
        let line = format!("{value}\r\n").into_bytes();
        let mut waiting = self.waiting.lock();
        if waiting.closed || waiting.bytes + line.len() > MOST {
            waiting.closed = true;
        } else {
            waiting.bytes += line.len();
            waiting.lines.push_back(line);
        }
        self.changed.notify_all();
        !waiting.closed
    }

    /// Nothing more is sent.
    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_all();
    }

    /// Writes until the outbox is closed and empty, or the client is gone.
    pub fn write_to(&self, mut stream: &UnixStream) {
        while let Some(line) = self.next() {
            let written = stream.write_all(&line);
            self.done(&line, written);
        }
        // The reader of this client ends by it.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.writing = true;
                return Some(line);
            }
            if waiting.closed {
                return None;
            }
            self.changed.wait(&mut waiting);
        }
    }

    fn done(&self, line: &[u8], written: io::Result<()>) {
        let mut waiting = self.waiting.lock();
        waiting.writing = false;
        waiting.bytes -= line.len();
        if written.is_err() {
            waiting.closed = true;
            waiting.lines.clear();
        }
        self.changed.notify_all();
    }

    /// Waits until all was written, no longer than `limit`.
    pub fn drain(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut waiting = self.waiting.lock();
        while !waiting.lines.is_empty() || waiting.writing {
            if self.changed.wait_until(&mut waiting, end).timed_out() {
                return;
            }
        }
    }
}
