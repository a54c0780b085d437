//! A small viewer: connects, asks for updates, and keeps the screen's pixels. For demos, tests and measurements over the
//! wire; it draws nothing.

pub(crate) mod decode;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::auth::{CHALLENGE, Password};
use crate::bits::{VERSION_3_8, client, encoding, security};
use crate::pixel::{PixelFormat, WIRE_SIZE};
use crate::region::{Rect, Size};

/// A connection to a VNC server.
pub struct Viewer<S> {
    stream: S,
    size: Size,
    pixels: Vec<u32>,
    zrle: decode::Zrle,
    seen: BTreeMap<i32, u64>,
}

fn odd(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 2).map_or(0, |b| u32::from(b[0]) << 8 | u32::from(b[1]))
}

impl<S: Read + Write> Viewer<S> {
    /// Goes through the handshake (RFC 6143, 7.1 to 7.3) and asks for the native format, Raw and DesktopSize.
    ///
    /// # Errors
    /// When the stream fails, the server is no RFB 3.8 server, or it wants another password.
    pub fn connect(mut stream: S, password: Option<&Password>) -> io::Result<Self> {
        let version: [u8; 12] = bytes(&mut stream)?;
        if &version != VERSION_3_8 {
            return Err(odd("the server doesn't speak RFB 3.8"));
        }
        stream.write_all(VERSION_3_8)?;
        let [count] = bytes(&mut stream)?;
        let mut kinds = vec![0; usize::from(count)];
        stream.read_exact(&mut kinds)?;
        let wanted = if password.is_some() { security::VNC_AUTH } else { security::NONE };
        if !kinds.contains(&wanted) {
            return Err(odd(format!("the server offers the security types {kinds:?}, not {wanted}")));
        }
        stream.write_all(&[wanted])?;
        if let Some(password) = password {
            let challenge: [u8; CHALLENGE] = bytes(&mut stream)?;
            stream.write_all(&password.response(&challenge))?;
        }
        if u32::from_be_bytes(bytes(&mut stream)?) != security::OK {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the server refuses"));
        }
        stream.write_all(&[1])?;
        let init: [u8; 4 + WIRE_SIZE] = bytes(&mut stream)?;
        let name = u32::from_be_bytes(bytes(&mut stream)?);
        io::copy(&mut (&mut stream).take(name.into()), &mut io::sink())?;
        let size = Size { w: u16_at(&init, 0), h: u16_at(&init, 2) };
        let mut viewer = Self::of(stream, size);
        viewer.set_format()?;
        viewer.set_encodings(&[encoding::RAW, encoding::DESKTOP_SIZE])?;
        Ok(viewer)
    }

    // Of a connection that is through the handshake.
    pub(crate) fn of(stream: S, size: Size) -> Self {
        let zrle = decode::Zrle::default();
        Self { stream, size, pixels: vec![0; size.area()], zrle, seen: BTreeMap::new() }
    }

    /// The connection.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    fn set_format(&mut self) -> io::Result<()> {
        let mut message = vec![client::SET_PIXEL_FORMAT, 0, 0, 0];
        message.extend(PixelFormat::NATIVE.encode());
        self.stream.write_all(&message)
    }

    /// Asks for other encodings than Raw and DesktopSize, the liked ones first. It takes these two, CopyRect, Hextile and
    /// ZRLE in.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn set_encodings(&mut self, numbers: &[i32]) -> io::Result<()> {
        let mut message = vec![client::SET_ENCODINGS, 0];
        message.extend((numbers.len() as u16).to_be_bytes());
        numbers.iter().for_each(|number| message.extend(number.to_be_bytes()));
        self.stream.write_all(&message)
    }

    /// Rectangles that came so far, by their encoding's number.
    pub fn seen(&self) -> &BTreeMap<i32, u64> {
        &self.seen
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The pixels, row by row, `0x00RRGGBB`.
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    #[cfg(test)]
    pub(crate) fn pixels_mut(&mut self) -> &mut [u32] {
        &mut self.pixels
    }

    /// Asks for an update: of all of the screen, or of what has changed once something has.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn request(&mut self, incremental: bool) -> io::Result<()> {
        let mut message = vec![client::UPDATE_REQUEST, u8::from(incremental), 0, 0, 0, 0];
        for n in [self.size.w, self.size.h] {
            message.extend((n as u16).to_be_bytes());
        }
        self.stream.write_all(&message)
    }

    /// Waits for an update and takes it in.
    ///
    /// # Errors
    /// When the stream fails or the server sends what wasn't asked for.
    pub fn update(&mut self) -> io::Result<()> {
        let [kind, _, n0, n1] = bytes(&mut self.stream)?;
        if kind != 0 {
            return Err(odd(format!("the server sent a message of the type {kind}")));
        }
        for _ in 0..u16::from_be_bytes([n0, n1]) {
            self.rect()?;
        }
        Ok(())
    }

    fn rect(&mut self) -> io::Result<()> {
        let head: [u8; 12] = bytes(&mut self.stream)?;
        let area = Rect { x: u16_at(&head, 0), y: u16_at(&head, 2), w: u16_at(&head, 4), h: u16_at(&head, 6) };
        let kind = i32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        *self.seen.entry(kind).or_default() += 1;
        if kind == encoding::DESKTOP_SIZE {
            self.size = Size { w: area.w, h: area.h };
            self.pixels = vec![0; self.size.area()];
            return Ok(());
        }
        let stride = self.size.w as usize;
        if area.clip(self.size) != area {
            return Err(odd(format!("the server sent {area:?}, which is not on the screen")));
        }
        match kind {
            encoding::RAW => self.raw(area),
            encoding::COPY_RECT => self.copy(area),
            encoding::HEXTILE => decode::hextile(&mut self.stream, area, &mut self.pixels, stride),
            encoding::ZRLE => self.zrle.decode(&mut self.stream, area, &mut self.pixels, stride),
            _ => Err(odd(format!("the server sent the encoding {kind} for {area:?}"))),
        }
    }

    fn copy(&mut self, to: Rect) -> io::Result<()> {
        let place: [u8; 4] = bytes(&mut self.stream)?;
        let from = Rect { x: u16_at(&place, 0), y: u16_at(&place, 2), ..to };
        if from.clip(self.size) != from {
            return Err(odd(format!("the server copies {from:?}, which is not on the screen")));
        }
        let at = |area: Rect, row: u32| ((area.y + row) * self.size.w + area.x) as usize;
        let rows: Vec<u32> =
            (0..to.h).flat_map(|row| &self.pixels[at(from, row)..at(from, row) + to.w as usize]).copied().collect();
        for (row, pixels) in (0..to.h).zip(rows.chunks_exact(to.w.max(1) as usize)) {
            let at = at(to, row);
            self.pixels[at..at + to.w as usize].copy_from_slice(pixels);
        }
        Ok(())
    }

    fn raw(&mut self, area: Rect) -> io::Result<()> {
        let mut line = vec![0; area.w as usize * 4];
        for y in area.y..area.y + area.h {
            self.stream.read_exact(&mut line)?;
            let at = (y * self.size.w + area.x) as usize;
            for (pixel, raw) in self.pixels.iter_mut().skip(at).zip(line.chunks_exact(4)) {
                *pixel = u32::from_le_bytes([raw[0], raw[1], raw[2], 0]);
            }
        }
        Ok(())
    }

    /// Presses or releases a key, by its X keysym.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn key(&mut self, keysym: u32, down: bool) -> io::Result<()> {
        let mut message = vec![client::KEY_EVENT, u8::from(down), 0, 0];
        message.extend(keysym.to_be_bytes());
        self.stream.write_all(&message)
    }
}
