//! WebSocket (RFC 6455) for viewers in browsers: a stream of bytes over binary messages.
//!
//! Own code, as the published crates have one object that reads and writes: here one thread waits for what the client says
//! while another sends it pictures. Offered: the subprotocol `binary` where it is asked for; no extension. The port serves
//! nothing else.

mod bits;
pub(crate) mod frame;
pub(crate) mod upgrade;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::bits::opcode;
use self::frame::{CHUNK, Control, Frames, Piece, Violation};
use crate::stream::Stream;

/// A WebSocket as a stream. Its handles share the place in the client's frames, and write whole frames.
pub(crate) struct WebSocket<S> {
    stream: S,
    reader: Arc<Mutex<Reader<S>>>,
    writer: Arc<Mutex<S>>,
}

struct Reader<S> {
    stream: S,
    /// What came together with the request.
    early: Vec<u8>,
    frames: Frames,
    ended: bool,
}

impl<S: Stream> WebSocket<S> {
    /// Goes through the opening handshake. `guarded` says that clients have to know a password.
    ///
    /// # Errors
    /// When the stream fails, or the client doesn't ask for a WebSocket; it has been told then.
    pub(crate) fn accept(mut stream: S, guarded: bool) -> io::Result<Self> {
        let early = upgrade::accept(&mut stream, guarded, |stream, left| stream.limit_reads(Some(left)))?;
        let reader = Reader { stream: stream.second()?, early, frames: Frames::default(), ended: false };
        let writer = Arc::new(Mutex::new(stream.second()?));
        Ok(Self { stream, reader: Arc::new(Mutex::new(reader)), writer })
    }
}

impl<S: Stream> Reader<S> {
    fn read(&mut self, to: &mut [u8], writer: &Mutex<S>) -> io::Result<usize> {
        while !self.ended {
            let Self { stream, early, frames, .. } = self;
            let piece = frames.next(&mut Early { early, stream }, to).inspect_err(|error| {
                if let Some(violation) = error.get_ref().and_then(|e| e.downcast_ref::<Violation>()) {
                    // It may be gone already.
                    let _ = frame::send(&mut *writer.lock(), opcode::CLOSE, &violation.status.to_be_bytes());
                }
            })?;
            match piece {
                Piece::Data(got) => return Ok(got),
                Piece::Control(Control::Ping(payload)) => frame::send(&mut *writer.lock(), opcode::PONG, &payload)?,
                // 5.5.1: answered with the same status.
                Piece::Control(Control::Close(payload)) => {
                    self.ended = true;
                    let status = payload.get(..2).unwrap_or_default();
                    frame::send(&mut *writer.lock(), opcode::CLOSE, status)?;
                }
                Piece::End => self.ended = true,
            }
        }
        Ok(0)
    }
}

// First what came early, then the stream.
struct Early<'a, S> {
    early: &'a mut Vec<u8>,
    stream: &'a mut S,
}

impl<S: Read> Read for Early<'_, S> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.early.is_empty() {
            return self.stream.read(to);
        }
        let got = self.early.as_slice().read(to)?;
        self.early.drain(..got);
        Ok(got)
    }
}

impl<S: Stream> Read for WebSocket<S> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        self.reader.lock().read(to, &self.writer)
    }
}

impl<S: Stream> Write for WebSocket<S> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let part = from.get(..CHUNK).unwrap_or(from);
        frame::send(&mut *self.writer.lock(), opcode::BINARY, part)?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.lock().flush()
    }
}

impl<S: Stream> Stream for WebSocket<S> {
    fn second(&self) -> io::Result<Self> {
        let (reader, writer) = (self.reader.clone(), self.writer.clone());
        Ok(Self { stream: self.stream.second()?, reader, writer })
    }

    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.limit_reads(limit)
    }

    // At once, without the closing handshake: a client that doesn't read must not hold it up.
    fn close(&self) {
        self.stream.close();
    }
}
