//! A small VNC client that can stop anywhere and misbehave. It speaks RFB 3.8 and Raw.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::pattern::Picture;
use crate::stage::PATIENCE;

/// A connection that has said nothing yet.
pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client that is through the handshake.
pub struct Viewer {
    pub stream: TcpStream,
    pub picture: Picture,
}

impl Viewer {
    pub fn new(port: u16) -> Self {
        let mut stream = connect(port);
        stream.write_all(b"RFB 003.008\n\x01\x01").unwrap();
        let mut heard = [0; 12 + 2 + 4 + 24];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard[..12], b"RFB 003.008\n");
        let number = |at: usize| usize::from(u16::from_be_bytes([heard[at], heard[at + 1]]));
        let (width, height) = (number(18), number(20));
        let mut name = vec![0; u32::from_be_bytes(heard[38..].try_into().unwrap()) as usize];
        stream.read_exact(&mut name).unwrap();
        Self { stream, picture: Picture { width, pixels: vec![0; width * height] } }
    }

    pub fn request(&mut self, incremental: bool) {
        let (w, h) = (self.picture.width as u16, (self.picture.pixels.len() / self.picture.width) as u16);
        let mut message = vec![3, u8::from(incremental), 0, 0, 0, 0];
        message.extend([w.to_be_bytes(), h.to_be_bytes()].concat());
        self.stream.write_all(&message).unwrap();
    }

    /// Takes one update in.
    pub fn update(&mut self) {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).unwrap();
        assert_eq!(head[..2], [0, 0]);
        (0..u16::from_be_bytes([head[2], head[3]])).for_each(|_| self.rect());
    }

    fn rect(&mut self) {
        let mut head = [0; 12];
        self.stream.read_exact(&mut head).unwrap();
        assert_eq!(head[8..], [0; 4], "Raw, since nothing else was asked for");
        let [x, y, w, h] = [0, 2, 4, 6].map(|at| usize::from(u16::from_be_bytes([head[at], head[at + 1]])));
        let mut bytes = vec![0; w * h * 4];
        self.stream.read_exact(&mut bytes).unwrap();
        for (row, line) in bytes.chunks_exact((w * 4).max(1)).enumerate() {
            let at = (y + row) * self.picture.width + x;
            for (to, pixel) in self.picture.pixels[at..at + w].iter_mut().zip(line.chunks_exact(4)) {
                *to = u32::from_le_bytes(pixel.try_into().unwrap());
            }
        }
    }

    pub fn key(&mut self, keysym: u32, down: bool) {
        let message = [&[4, u8::from(down), 0, 0][..], &keysym.to_be_bytes()].concat();
        self.stream.write_all(&message).unwrap();
    }

    /// The whole picture.
    pub fn look(&mut self) -> &Picture {
        self.request(false);
        self.update();
        &self.picture
    }
}

/// Reads until the server closes, which may reset what it hasn't read.
pub fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset => panic!("not closed: {e}"),
        _ => rest,
    }
}
