//! A small viewer: connects, asks for Raw updates, and keeps the screen's pixels. For demos, tests and screenshots over
//! the wire; it draws nothing.

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
        let mut viewer = Self { stream, size, pixels: vec![0; size.area()] };
        viewer.set_up()?;
        Ok(viewer)
    }

    fn set_up(&mut self) -> io::Result<()> {
        let mut message = vec![client::SET_PIXEL_FORMAT, 0, 0, 0];
        message.extend(PixelFormat::NATIVE.encode());
        message.extend([client::SET_ENCODINGS, 0, 0, 2]);
        message.extend(encoding::RAW.to_be_bytes());
        message.extend(encoding::DESKTOP_SIZE.to_be_bytes());
        self.stream.write_all(&message)
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The pixels, row by row, `0x00RRGGBB`.
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
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
        match kind {
            encoding::DESKTOP_SIZE => {
                self.size = Size { w: area.w, h: area.h };
                self.pixels = vec![0; self.size.area()];
                Ok(())
            }
            encoding::RAW if area.clip(self.size) == area => self.raw(area),
            _ => Err(odd(format!("the server sent the encoding {kind} for {area:?}"))),
        }
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
