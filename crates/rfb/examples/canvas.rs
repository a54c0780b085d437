//! A VNC server on a unix socket whose screen is what comes on standard input: `cargo xtask bench vnc` measures it.
//!
//! `canvas SOCKET WIDTH HEIGHT`; then, for each piece of the framebuffer (32 bits a pixel, little-endian), its offset and
//! length in bytes as 32-bit little-endian numbers, and the bytes. Each is answered with one byte when it is drawn.

#![allow(clippy::unwrap_used, reason = "a tool for measuring: whatever fails ends it")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use kiln_rfb::{FrameSource, Input, Pointer, Rect, Server, Settings, Size};

/// A framebuffer as a display device has it: bytes, and the pages that were written to.
struct Canvas {
    size: Size,
    state: Mutex<(Vec<u8>, Vec<bool>)>,
}

/// What a dirty log tells apart.
const PAGE: usize = 4096;

impl FrameSource for Canvas {
    fn size(&self) -> Size {
        self.size
    }

    fn watch(&self, _: bool) {
        self.state.lock().unwrap().1.fill(false);
    }

    // The rows that the dirty pages touch, joined.
    fn changes(&self, areas: &mut Vec<Rect>) {
        let stride = self.size.w as usize * 4;
        let mut state = self.state.lock().unwrap();
        for (page, dirty) in state.1.iter_mut().enumerate().filter(|(_, dirty)| **dirty) {
            *dirty = false;
            let (first, end) = ((page * PAGE / stride) as u32, ((page + 1) * PAGE).div_ceil(stride) as u32);
            match areas.last_mut() {
                Some(last) if last.y + last.h >= first => last.h = end - last.y,
                _ => areas.push(Rect { x: 0, y: first, w: self.size.w, h: end - first }),
            }
        }
    }

    fn copy(&self, area: Rect, to: &mut [u32]) -> bool {
        let state = self.state.lock().unwrap();
        let mut line = vec![0; area.w as usize * 4];
        for (row, y) in to.chunks_exact_mut(area.w as usize).zip(area.y..) {
            let at = (y * self.size.w + area.x) as usize * 4;
            line.copy_from_slice(&state.0[at..at + area.w as usize * 4]);
            for (pixel, raw) in row.iter_mut().zip(line.chunks_exact(4)) {
                *pixel = u32::from_le_bytes([raw[0], raw[1], raw[2], 0]);
            }
        }
        true
    }
}

struct Nobody;

impl Input for Nobody {
    fn key(&self, _: u32, _: bool) {}
    fn scancode(&self, _: u32, _: bool) {}
    fn pointer(&self, _: u16, _: u16, _: u8) {}
    fn motion(&self, _: i32, _: i32, _: u8) {}
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let size = Size { w: words[2].parse().unwrap(), h: words[3].parse().unwrap() };
    let bytes = size.area() * 4;
    let state = Mutex::new((vec![0; bytes], vec![false; bytes.div_ceil(PAGE)]));
    let canvas = Arc::new(Canvas { size, state });
    let spawn = |body: Box<dyn FnOnce() + Send>| std::thread::Builder::new().spawn(body).map(drop);
    let settings = Settings { name: "canvas".into(), password: None, most_clients: 2, pointer: Pointer::Absolute };
    let server = Server::new(settings, canvas.clone(), Arc::new(Nobody), Box::new(spawn));
    let listener = UnixListener::bind(&words[1]).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            server.serve(stream.unwrap(), "bench".into()).unwrap();
        }
    });
    draw(&canvas);
}

// On the first thread, which is not the server's.
fn draw(canvas: &Canvas) {
    let (mut from, mut to) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut head = [0; 8];
    while from.read_exact(&mut head).is_ok() {
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let (offset, len) = (number(0), number(4));
        let mut piece = vec![0; len];
        from.read_exact(&mut piece).unwrap();
        let mut state = canvas.state.lock().unwrap();
        state.0[offset..offset + len].copy_from_slice(&piece);
        state.1[offset / PAGE..(offset + len).div_ceil(PAGE)].fill(true);
        drop(state);
        to.write_all(&[1]).unwrap();
        to.flush().unwrap();
    }
}
