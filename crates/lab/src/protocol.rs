//! What the lab's host side and its agent say to each other, over one virtio-serial port.
//!
//! A frame is `length: u32 LE` (of what follows), `kind: u8`, `id: u32 LE`, payload. Ids are the host's and name one
//! command or file each. Texts are length-prefixed (`u32 LE`) UTF-8.

use std::io::{self, Read, Write};

/// Longest frame that is read: what a peer sends is not trusted to be sane.
const LONGEST: u32 = 1 << 20;

/// Bytes of data that a sender puts in one frame.
pub const CHUNK: usize = 128 << 10;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Guest: the agent runs; how long since the kernel's start, in milliseconds.
    Ready(u64),
    /// Host: create the file at this path with this mode, parents included.
    Create(String, u32),
    /// Either: bytes of the file `id` is about.
    Data(Vec<u8>),
    /// Either: the file is whole.
    End,
    /// Host: run this.
    Run(Run),
    /// Guest: the command wrote to its standard output.
    Out(Vec<u8>),
    /// Guest: the command wrote to its standard error.
    Err(Vec<u8>),
    /// Guest: the command ended.
    Exit(Exit),
    /// Host: end the command and all it started.
    Kill,
    /// Host: send the file at this path back.
    Fetch(String),
    /// Guest: that can't be done, and why.
    Failed(String),
    /// Host: power off.
    PowerOff,
}

/// A command to run in the lab.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment added to the lab's own.
    pub env: Vec<(String, String)>,
    /// Time limit in milliseconds; 0 for none.
    pub limit_ms: u64,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// By the time limit.
    TimeLimit,
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Message::Ready(_) => 1,
            Message::Create(..) => 2,
            Message::Data(_) => 3,
            Message::End => 4,
            Message::Run(_) => 5,
            Message::Out(_) => 6,
            Message::Err(_) => 7,
            Message::Exit(_) => 8,
            Message::Kill => 9,
            Message::Fetch(_) => 10,
            Message::Failed(_) => 11,
            Message::PowerOff => 12,
        }
    }

    fn payload(&self, to: &mut Vec<u8>) {
        match self {
            Message::Ready(ms) => to.extend_from_slice(&ms.to_le_bytes()),
            Message::Create(path, mode) => {
                put_text(to, path);
                to.extend_from_slice(&mode.to_le_bytes());
            }
            Message::Data(bytes) | Message::Out(bytes) | Message::Err(bytes) => to.extend_from_slice(bytes),
            Message::End | Message::Kill | Message::PowerOff => {}
            Message::Run(run) => {
                to.extend_from_slice(&run.limit_ms.to_le_bytes());
                put_u32(to, run.argv.len());
                run.argv.iter().for_each(|a| put_text(to, a));
                put_u32(to, run.env.len());
                run.env.iter().for_each(|(k, v)| {
                    put_text(to, k);
                    put_text(to, v);
                });
            }
            Message::Exit(exit) => {
                let (what, number) = match *exit {
                    Exit::Status(n) => (0u8, n),
                    Exit::Signal(n) => (1, n),
                    Exit::TimeLimit => (2, 0),
                };
                to.push(what);
                to.extend_from_slice(&number.to_le_bytes());
            }
            Message::Fetch(text) | Message::Failed(text) => put_text(to, text),
        }
    }

    fn parse(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        let mut p = Parser(&payload);
        Ok(match kind {
            1 => Message::Ready(p.u64()?),
            2 => Message::Create(p.text()?, p.u32()?),
            3 => Message::Data(payload),
            4 => Message::End,
            5 => {
                let limit_ms = p.u64()?;
                let argv = (0..p.u32()?).map(|_| p.text()).collect::<io::Result<_>>()?;
                let env = (0..p.u32()?).map(|_| Ok((p.text()?, p.text()?))).collect::<io::Result<_>>()?;
                Message::Run(Run { argv, env, limit_ms })
            }
            6 => Message::Out(payload),
            7 => Message::Err(payload),
            8 => Message::Exit(match (p.array::<1>()?, i32::from_le_bytes(p.array()?)) {
                ([0], n) => Exit::Status(n),
                ([1], n) => Exit::Signal(n),
                ([2], _) => Exit::TimeLimit,
                _ => return Err(malformed("kind of exit")),
            }),
            9 => Message::Kill,
            10 => Message::Fetch(p.text()?),
            11 => Message::Failed(p.text()?),
            12 => Message::PowerOff,
            _ => return Err(malformed("kind of message")),
        })
    }
}

/// Sends one message about `id`.
///
/// # Errors
/// When writing fails.
pub fn send(to: &mut impl Write, id: u32, message: &Message) -> io::Result<()> {
    let mut frame = vec![0; 4];
    frame.push(message.kind());
    frame.extend_from_slice(&id.to_le_bytes());
    message.payload(&mut frame);
    let len = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    to.write_all(&frame)?;
    to.flush()
}

/// Receives one message; `None` when the peer closed between two.
///
/// # Errors
/// When reading fails or the frame is malformed.
pub fn receive(from: &mut impl Read) -> io::Result<Option<(u32, Message)>> {
    let mut head = [0; 4];
    if from.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..])?;
    let len = u32::from_le_bytes(head);
    if !(5..=LONGEST).contains(&len) {
        return Err(malformed("length"));
    }
    let mut kind = [0; 1];
    let mut id = [0; 4];
    from.read_exact(&mut kind)?;
    from.read_exact(&mut id)?;
    let mut payload = vec![0; len as usize - 5];
    from.read_exact(&mut payload)?;
    Ok(Some((u32::from_le_bytes(id), Message::parse(kind[0], payload)?)))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a lab message has a wrong {what}"))
}

fn put_u32(to: &mut Vec<u8>, n: usize) {
    to.extend_from_slice(&(n as u32).to_le_bytes());
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    put_u32(to, text.len());
    to.extend_from_slice(text.as_bytes());
}

struct Parser<'a>(&'a [u8]);

impl Parser<'_> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| malformed("length of a field"))?;
        self.0 = rest;
        Ok(*head)
    }
    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    fn text(&mut self) -> io::Result<String> {
        let len = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(len).ok_or_else(|| malformed("length of a text"))?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).map_err(|_| malformed("text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_wire() {
        let run = Run { argv: vec!["sh".into(), "-c".into()], env: vec![("A".into(), "b c".into())], limit_ms: 9 };
        let all = [
            Message::Ready(7),
            Message::Create("/a/b".into(), 0o755),
            Message::Data(vec![1, 2]),
            Message::End,
            Message::Run(run),
            Message::Out(b"x".to_vec()),
            Message::Err(vec![]),
            Message::Exit(Exit::Status(-3)),
            Message::Exit(Exit::Signal(9)),
            Message::Exit(Exit::TimeLimit),
            Message::Kill,
            Message::Fetch("/out".into()),
            Message::Failed("no".into()),
            Message::PowerOff,
        ];
        let mut wire = Vec::new();
        for (i, message) in all.iter().enumerate() {
            send(&mut wire, i as u32, message).unwrap();
        }
        let mut from = &wire[..];
        for (i, message) in all.iter().enumerate() {
            assert_eq!(receive(&mut from).unwrap(), Some((i as u32, message.clone())));
        }
        assert_eq!(receive(&mut from).unwrap(), None);
    }

    #[test]
    fn a_frame_has_these_bytes() {
        let mut wire = Vec::new();
        send(&mut wire, 0x0102, &Message::Fetch("/x".into())).unwrap();
        assert_eq!(wire, [11, 0, 0, 0, 10, 2, 1, 0, 0, 2, 0, 0, 0, b'/', b'x']);
    }

    #[test]
    fn malformed_frames_are_refused() {
        for bytes in [&[0, 0, 0, 0][..], &[5, 0, 0, 0, 99, 0, 0, 0, 0], &[255; 9], &[6, 0, 0, 0, 1, 0, 0, 0, 0, 0]] {
            assert!(receive(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }
}
