//! What clients send after the handshake (RFC 6143, 7.5).
//!
//! Messages are read from a stream that may split and join them anywhere. Nothing that a client sends makes the server
//! allocate more than [`MAX_ENCODINGS`] numbers.

use std::io::{self, Read};

use crate::bits::client;
use crate::pixel::PixelFormat;
use crate::region::Rect;

/// Encodings that are listened to; a client may list more, which are read and dropped.
pub const MAX_ENCODINGS: usize = 256;

/// Longest clipboard text that is read (and dropped); a longer one ends the connection.
pub const MAX_CUT_TEXT: u32 = 1 << 20;

/// A client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// 7.5.1
    SetPixelFormat(PixelFormat),
    /// 7.5.2, in the client's order of preference.
    SetEncodings(Vec<i32>),
    /// 7.5.3
    UpdateRequest {
        /// Only what has changed.
        incremental: bool,
        /// The area asked for; may lie outside the screen.
        area: Rect,
    },
    /// 7.5.4
    Key {
        /// Pressed or released.
        down: bool,
        /// X keysym.
        keysym: u32,
    },
    /// rfbproto, "QEMU Extended Key Event Message".
    ExtendedKey {
        /// Pressed or released.
        down: bool,
        /// X keysym, 0 if unknown.
        keysym: u32,
        /// XT scancode; 0xe0 prefix as bit 7.
        scancode: u32,
    },
    /// 7.5.5
    Pointer {
        /// Bits 0-2: left, middle, right; 3 and 4: wheel up, down.
        buttons: u8,
        /// Pixels from the left.
        x: u16,
        /// Pixels from the top.
        y: u16,
    },
    /// 7.5.6: clipboard; the text is dropped.
    CutText,
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl ClientMessage {
    /// Reads one message; `None` when the client closed between two.
    ///
    /// # Errors
    /// When reading fails, or the message is unknown or malformed: the stream can't be followed from there on.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0];
        if from.read(&mut kind)? == 0 {
            return Ok(None);
        }
        Ok(Some(match kind[0] {
            client::SET_PIXEL_FORMAT => {
                bytes::<3>(from)?;
                Self::SetPixelFormat(PixelFormat::read(from)?)
            }
            client::SET_ENCODINGS => Self::SetEncodings(encodings(from)?),
            client::UPDATE_REQUEST => {
                let [i, x0, x1, y0, y1, w0, w1, h0, h1] = bytes(from)?;
                let [x, y, w, h] = [[x0, x1], [y0, y1], [w0, w1], [h0, h1]].map(|b| u32::from(u16::from_be_bytes(b)));
                Self::UpdateRequest { incremental: i != 0, area: Rect { x, y, w, h } }
            }
            client::KEY_EVENT => {
                let [down, _, _, k @ ..] = bytes::<7>(from)?;
                Self::Key { down: down != 0, keysym: u32::from_be_bytes(k) }
            }
            client::POINTER_EVENT => {
                let [buttons, x0, x1, y0, y1] = bytes(from)?;
                Self::Pointer { buttons, x: u16::from_be_bytes([x0, x1]), y: u16::from_be_bytes([y0, y1]) }
            }
            client::CUT_TEXT => {
                let [_, _, _, l @ ..] = bytes::<7>(from)?;
                drop_text(from, i32::from_be_bytes(l))?;
                Self::CutText
            }
            client::QEMU => qemu(from)?,
            other => return Err(invalid(format!("the client sent a message of the unknown type {other}"))),
        }))
    }
}

fn encodings(from: &mut impl Read) -> io::Result<Vec<i32>> {
    let [_, n0, n1] = bytes(from)?;
    let mut all = Vec::new();
    for _ in 0..u16::from_be_bytes([n0, n1]) {
        let encoding = i32::from_be_bytes(bytes(from)?);
        if all.len() < MAX_ENCODINGS {
            all.push(encoding);
        }
    }
    Ok(all)
}

// A negative length is the extended clipboard's (rfbproto, "Extended Clipboard Pseudo-Encoding"): so many bytes, of which
// the first four are flags. It isn't offered, and a client that sends it all the same is followed.
fn drop_text(from: &mut impl Read, len: i32) -> io::Result<()> {
    let bytes = len.unsigned_abs();
    if bytes > MAX_CUT_TEXT {
        return Err(invalid(format!("the client's clipboard text of {bytes} bytes is longer than {MAX_CUT_TEXT}")));
    }
    if (-3..0).contains(&len) {
        return Err(invalid(format!("the client's clipboard message of {bytes} bytes has no flags")));
    }
    let dropped = io::copy(&mut from.take(bytes.into()), &mut io::sink())?;
    if dropped < bytes.into() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn qemu(from: &mut impl Read) -> io::Result<ClientMessage> {
    match bytes::<1>(from)? {
        [client::QEMU_EXTENDED_KEY] => {
            let [d0, d1, k0, k1, k2, k3, s @ ..] = bytes::<10>(from)?;
            Ok(ClientMessage::ExtendedKey {
                down: u16::from_be_bytes([d0, d1]) != 0,
                keysym: u32::from_be_bytes([k0, k1, k2, k3]),
                scancode: u32::from_be_bytes(s),
            })
        }
        [other] => Err(invalid(format!("the client sent a QEMU message of the unknown type {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one byte at a time.
    struct Drip<'a>(&'a [u8]);
    impl Read for Drip<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let n = to.len().min(1);
            self.0.read(&mut to[..n])
        }
    }

    fn read(wire: &[u8]) -> ClientMessage {
        let whole = ClientMessage::read(&mut &wire[..]).unwrap().unwrap();
        assert_eq!(ClientMessage::read(&mut Drip(wire)).unwrap(), Some(whole.clone()), "split into bytes");
        for short in 1..wire.len() {
            assert!(ClientMessage::read(&mut &wire[..short]).is_err(), "cut after {short} bytes");
        }
        whole
    }

    #[test]
    fn set_pixel_format() {
        let wire = [0, 0, 0, 0, 16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0];
        let format =
            PixelFormat { bits_per_pixel: 16, depth: 16, big_endian: true, max: [31, 63, 31], shift: [11, 5, 0] };
        assert_eq!(read(&wire), ClientMessage::SetPixelFormat(format));
    }

    #[test]
    fn set_encodings() {
        let wire = [2, 0, 0, 3, 0, 0, 0, 16, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21];
        assert_eq!(read(&wire), ClientMessage::SetEncodings(vec![16, 0, -223]));
    }

    #[test]
    fn update_request() {
        let wire = [3, 1, 0, 1, 0, 2, 5, 0, 3, 0x20];
        let area = Rect { x: 1, y: 2, w: 1280, h: 800 };
        assert_eq!(read(&wire), ClientMessage::UpdateRequest { incremental: true, area });
    }

    #[test]
    fn key_events() {
        assert_eq!(read(&[4, 1, 0, 0, 0, 0, 0xff, 0x0d]), ClientMessage::Key { down: true, keysym: 0xff0d });
        let wire = [255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 0x1e];
        assert_eq!(read(&wire), ClientMessage::ExtendedKey { down: true, keysym: 0x61, scancode: 0x1e });
    }

    #[test]
    fn pointer_event() {
        assert_eq!(read(&[5, 4, 1, 2, 3, 4]), ClientMessage::Pointer { buttons: 4, x: 0x102, y: 0x304 });
    }

    #[test]
    fn cut_text_is_dropped() {
        assert_eq!(read(&[6, 0, 0, 0, 0, 0, 0, 3, b'a', b'b', b'c']), ClientMessage::CutText);
        let joined = [6, 0, 0, 0, 0, 0, 0, 1, b'a', 5, 0, 0, 0, 0, 0];
        let mut from = &joined[..];
        assert_eq!(ClientMessage::read(&mut from).unwrap(), Some(ClientMessage::CutText));
        assert!(matches!(ClientMessage::read(&mut from).unwrap(), Some(ClientMessage::Pointer { .. })));
        assert_eq!(ClientMessage::read(&mut from).unwrap(), None);
    }

    #[test]
    fn an_extended_clipboard_message_is_dropped() {
        // rfbproto: flags (here: notify, text) and what belongs to them, as many bytes as the length is below zero.
        let wire = [6, 0, 0, 0, 0xff, 0xff, 0xff, 0xfb, 0x08, 0, 0, 1, 9];
        assert_eq!(read(&wire), ClientMessage::CutText);
        for len in [-1i32, -3, i32::MIN, -(1 << 20) - 1, (1 << 20) + 1, i32::MAX] {
            let wire = [&[6, 0, 0, 0][..], &len.to_be_bytes(), &[0; 8]].concat();
            let refused = ClientMessage::read(&mut &wire[..]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{len}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for wire in [&[1u8][..], &[7], &[255, 1], &[6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
            assert!(ClientMessage::read(&mut &wire[..]).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn a_long_list_of_encodings_is_read_to_its_end() {
        let mut wire = vec![2, 0, 0xff, 0xff];
        wire.extend(std::iter::repeat_n([0, 0, 0, 16], 0xffff).flatten());
        wire.extend([5, 0, 0, 0, 0, 0]);
        let mut from = &wire[..];
        let first = ClientMessage::read(&mut from).unwrap().unwrap();
        assert_eq!(first, ClientMessage::SetEncodings(vec![16; MAX_ENCODINGS]));
        assert!(matches!(ClientMessage::read(&mut from).unwrap(), Some(ClientMessage::Pointer { .. })));
    }
}
