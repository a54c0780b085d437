//! Frames of a client (RFC 6455, 5), read as one stream of bytes, and frames to it.
//!
//! Nothing of a payload is kept but a control frame's 125 bytes, so what a client says about lengths costs nothing.

use std::io::{self, Read, Write};

use super::bits::{LONGEST_CONTROL, first, opcode, second, status};

/// Longest frame that is taken. VNC clients send a few bytes at a time, and a clipboard's megabyte.
const LONGEST_FRAME: u64 = 4 << 20;
/// Payload of the frames that are sent: between two of them there is room for a pong.
pub(super) const CHUNK: usize = 64 << 10;

/// Why a client's frames aren't followed any more.
#[derive(Debug, thiserror::Error)]
#[error("the WebSocket client {what}")]
pub(super) struct Violation {
    /// 7.4.1
    pub(super) status: u16,
    what: &'static str,
}

fn violation(status: u16, what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Violation { status, what })
}

/// A control frame that wants an answer (5.5).
#[derive(Debug, PartialEq)]
pub(crate) enum Control {
    /// The client leaves, and says why in so many words.
    Close(Vec<u8>),
    Ping(Vec<u8>),
}

/// What comes next from a client.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    /// So many bytes of data.
    Data(usize),
    Control(Control),
    /// The connection ended between two frames.
    End,
}

/// Where in a client's frames the stream is.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Payload of the present data frame that is yet to come, and how it is masked.
    left: u64,
    mask: Mask,
    /// A message goes on with the next frame.
    within: bool,
}

/// 5.3: four bytes, and which of them is next.
#[derive(Debug, Default, Clone, Copy)]
struct Mask {
    key: [u8; 4],
    at: usize,
}

impl Mask {
    fn remove(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().zip(self.key.into_iter().cycle().skip(self.at)).for_each(|(byte, key)| *byte ^= key);
        self.at = (self.at + bytes.len()) % 4;
    }
}

struct Head {
    fin: bool,
    opcode: u8,
    len: u64,
    mask: Mask,
}

impl Frames {
    /// Reads data into `to`, which has room, or a control frame.
    ///
    /// # Errors
    /// When reading fails, or the client breaks the protocol (a [`Violation`]).
    pub(crate) fn next(&mut self, from: &mut impl Read, to: &mut [u8]) -> io::Result<Piece> {
        while self.left == 0 {
            let Some(head) = Head::read(from)? else { return Ok(Piece::End) };
            if head.opcode >= opcode::CLOSE {
                if let Some(control) = head.control(from)? {
                    return Ok(Piece::Control(control));
                }
                continue;
            }
            self.begin(&head)?;
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(to.len());
        let room = to.get_mut(..most).unwrap_or_default();
        let got = from.read(room)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.mask.remove(room.get_mut(..got).unwrap_or_default());
        self.left -= got as u64;
        Ok(Piece::Data(got))
    }

    // 5.4: a message is one frame, or a first one and continuations, the last of which says so.
    fn begin(&mut self, head: &Head) -> io::Result<()> {
        match (head.opcode, self.within) {
            (opcode::BINARY, false) | (opcode::CONTINUATION, true) => {}
            (opcode::TEXT, false) => return Err(violation(status::UNSUPPORTED_DATA, "sent text; VNC is bytes")),
            _ => return Err(violation(status::PROTOCOL_ERROR, "mixed up the frames of its messages")),
        }
        if head.len > LONGEST_FRAME {
            return Err(violation(status::TOO_BIG, "sent a frame of more than 4 MiB"));
        }
        self.within = !head.fin;
        (self.left, self.mask) = (head.len, head.mask);
        Ok(())
    }
}

impl Head {
    // `None` when the connection ended before it.
    fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut one = [0];
        if from.read(&mut one)? == 0 {
            return Ok(None);
        }
        let mut two = [0];
        from.read_exact(&mut two)?;
        let ([one], [two]) = (one, two);
        if one & first::RESERVED != 0 {
            return Err(violation(status::PROTOCOL_ERROR, "used an extension that wasn't offered"));
        }
        if two & second::MASK == 0 {
            return Err(violation(status::PROTOCOL_ERROR, "sent a frame without a mask"));
        }
        let len = length(two & !second::MASK, from)?;
        let mut key = [0; 4];
        from.read_exact(&mut key)?;
        let (fin, opcode) = (one & first::FIN != 0, one & first::OPCODE);
        Ok(Some(Self { fin, opcode, len, mask: Mask { key, at: 0 } }))
    }

    // 5.5. A pong is dropped: nobody asked for one.
    fn control(mut self, from: &mut impl Read) -> io::Result<Option<Control>> {
        if !self.fin || self.len > LONGEST_CONTROL {
            return Err(violation(status::PROTOCOL_ERROR, "sent a control frame that is too long or in parts"));
        }
        let mut payload = vec![0; self.len as usize];
        from.read_exact(&mut payload)?;
        self.mask.remove(&mut payload);
        match self.opcode {
            opcode::CLOSE if payload.len() == 1 => Err(violation(status::PROTOCOL_ERROR, "closed with half a status")),
            opcode::CLOSE => Ok(Some(Control::Close(payload))),
            opcode::PING => Ok(Some(Control::Ping(payload))),
            opcode::PONG => Ok(None),
            _ => Err(violation(status::PROTOCOL_ERROR, "sent a frame of an unknown kind")),
        }
    }
}

// 5.2: the shortest of the three ways must be used.
fn length(short: u8, from: &mut impl Read) -> io::Result<u64> {
    let (len, least) = match short {
        second::LENGTH_16 => {
            let mut bytes = [0; 2];
            from.read_exact(&mut bytes)?;
            (u64::from(u16::from_be_bytes(bytes)), 126)
        }
        second::LENGTH_64 => {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes)?;
            (u64::from_be_bytes(bytes), 1 << 16)
        }
        short => (u64::from(short), 0),
    };
    if len < least || len > u64::MAX >> 1 {
        return Err(violation(status::PROTOCOL_ERROR, "wrote a length as it must not be written"));
    }
    Ok(len)
}

/// Sends a whole message of at most [`CHUNK`] bytes, unmasked as a server's are.
///
/// # Errors
/// When writing fails.
pub(super) fn send(to: &mut impl Write, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(first::FIN | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len), _) if u64::from(len) <= LONGEST_CONTROL => frame.push(len),
        (_, Ok(len)) => {
            frame.push(second::LENGTH_16);
            frame.extend(len.to_be_bytes());
        }
        _ => {
            frame.push(second::LENGTH_64);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    to.write_all(&frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn masked(payload: &[u8]) -> Vec<u8> {
        let mut payload = payload.to_vec();
        Mask { key: KEY, at: 0 }.remove(&mut payload);
        [&KEY[..], &payload].concat()
    }

    fn frame(one: u8, payload: &[u8]) -> Vec<u8> {
        [&[one, 0x80 | payload.len() as u8][..], &masked(payload)].concat()
    }

    fn all(mut wire: &[u8]) -> io::Result<(Vec<u8>, Vec<Control>)> {
        let (mut frames, mut data, mut controls) = (Frames::default(), vec![], vec![]);
        let mut room = [0; 3];
        loop {
            match frames.next(&mut wire, &mut room)? {
                Piece::Data(n) => data.extend_from_slice(&room[..n]),
                Piece::Control(control) => controls.push(control),
                Piece::End => return Ok((data, controls)),
            }
        }
    }

    #[test]
    fn the_examples_of_the_standard() {
        // 5.7: "Hello", masked, here as bytes; a ping of the same.
        let hello = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(all(&hello).unwrap(), (b"Hello".to_vec(), vec![]));
        let ping = [&[0x89][..], &hello[1..]].concat();
        assert_eq!(all(&ping).unwrap(), (vec![], vec![Control::Ping(b"Hello".to_vec())]));
        let mut sent = Vec::new();
        send(&mut sent, opcode::PONG, b"Hello").unwrap();
        assert_eq!(sent, [0x8a, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        for (len, head) in
            [(125, &[0x82, 125][..]), (256, &[0x82, 0x7e, 1, 0]), (65536, &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0])]
        {
            sent.clear();
            send(&mut sent, opcode::BINARY, &vec![7; len]).unwrap();
            assert_eq!((&sent[..head.len()], sent.len()), (head, head.len() + len));
        }
    }

    #[test]
    fn parts_and_control_frames_between_them() {
        let wire = [
            frame(0x02, b"one "),
            frame(0x89, b"?"),
            frame(0x00, b""),
            frame(0x8a, b"unasked"),
            frame(0x80, b"two"),
            frame(0x82, b"!"),
            frame(0x88, &[3, 232, b'x']),
        ]
        .concat();
        let controls = vec![Control::Ping(b"?".to_vec()), Control::Close(vec![3, 232, b'x'])];
        assert_eq!(all(&wire).unwrap(), (b"one two!".to_vec(), controls));
        for cut in 1..wire.len() {
            if let Err(error) = all(&wire[..cut]) {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut after {cut}");
            }
        }
    }

    #[test]
    fn long_frames_of_each_length() {
        for (len, head) in
            [(126usize, vec![0x82, 0xfe, 0, 126]), (70_000, vec![0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x70])]
        {
            let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
            assert_eq!(all(&[head, masked(&payload)].concat()).unwrap().0, payload);
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused_with_its_status() {
        let too_long = [&[0x82, 0xff][..], &(LONGEST_FRAME + 1).to_be_bytes(), &KEY].concat();
        let cases: Vec<(u16, Vec<u8>)> = vec![
            (1002, vec![0x82, 0x01, b'x']),
            (1002, frame(0xc2, b"x")),
            (1002, frame(0x92, b"x")),
            (1003, frame(0x81, b"x")),
            (1002, frame(0x80, b"x")),
            (1002, [frame(0x02, b"x"), frame(0x82, b"y")].concat()),
            (1002, [frame(0x02, b"x"), frame(0x81, b"y")].concat()),
            (1002, frame(0x83, b"x")),
            (1002, frame(0x8b, b"x")),
            (1002, frame(0x09, b"x")),
            (1002, frame(0x88, b"x")),
            (1002, [&[0x89, 0xfe, 0, 126][..], &masked(&[0; 126])].concat()),
            (1002, [&[0x82, 0xfe, 0, 125][..], &masked(&[0; 125])].concat()),
            (1002, [&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff][..], &KEY].concat()),
            (1002, [&[0x82, 0xff][..], &[0xff; 8], &KEY].concat()),
            (1009, too_long),
        ];
        for (wanted, wire) in cases {
            let error = all(&wire).unwrap_err();
            let violation = error.get_ref().and_then(|e| e.downcast_ref::<Violation>());
            assert_eq!(violation.map(|v| v.status), Some(wanted), "{wire:?}: {error}");
        }
    }
}
