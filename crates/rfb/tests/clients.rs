//! Clients come, go, stall and misbehave; the source is a picture that the test draws.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kiln_rfb::{FrameSource, Input, Password, Pointer, Rect, Server, Settings, Size};

/// A screen that the test paints.
struct Easel(Mutex<Paint>);

#[derive(Default)]
struct Paint {
    size: Size,
    pixels: Vec<u32>,
    dirty: Vec<Rect>,
    watched: bool,
    looks: usize,
}

impl Easel {
    fn new(w: u32, h: u32) -> Arc<Self> {
        let size = Size { w, h };
        let pixels = (0..w * h).map(|i| i.wrapping_mul(0x1234_5677) & 0xffffff).collect();
        Arc::new(Self(Mutex::new(Paint { size, pixels, ..Paint::default() })))
    }
    fn paint(&self, x: u32, y: u32, pixel: u32) {
        let mut paint = self.0.lock().unwrap();
        let at = (y * paint.size.w + x) as usize;
        paint.pixels[at] = pixel;
        let w = paint.size.w;
        paint.dirty.push(Rect { x: 0, y, w, h: 1 });
    }
    /// All goes up or down by 5 rows; what comes in is unlike any other.
    fn scroll(&self, line: u32, up: bool) {
        let mut paint = self.0.lock().unwrap();
        let (part, all) = (5 * paint.size.w as usize, paint.pixels.len());
        let (from, to, fresh) = if up { (part..all, 0, all - part) } else { (0..all - part, part, 0) };
        paint.pixels.copy_within(from, to);
        for (n, pixel) in (0..).zip(&mut paint.pixels[fresh..fresh + part]) {
            *pixel = (line * 5000 + n).wrapping_mul(0x9e37_79b9) >> 8;
        }
    }
    fn resize(&self, w: u32, h: u32) {
        let mut paint = self.0.lock().unwrap();
        paint.size = Size { w, h };
        paint.pixels = vec![0x00ff00; (w * h) as usize];
    }
}

impl FrameSource for Easel {
    fn size(&self) -> Size {
        self.0.lock().unwrap().size
    }
    fn watch(&self, on: bool) {
        let mut paint = self.0.lock().unwrap();
        paint.watched = on;
        paint.dirty.clear();
    }
    fn changes(&self, areas: &mut Vec<Rect>) {
        let mut paint = self.0.lock().unwrap();
        paint.looks += 1;
        areas.append(&mut paint.dirty);
        // Coarse on purpose: the server must find out that the rest is still.
        areas.push(paint.size.rect());
    }
    fn copy(&self, area: Rect, to: &mut [u32]) -> bool {
        let paint = self.0.lock().unwrap();
        if area.clip(paint.size) != area {
            return false;
        }
        for (row, y) in to.chunks_mut(area.w as usize).zip(area.y..) {
            let from = (y * paint.size.w + area.x) as usize;
            row.copy_from_slice(&paint.pixels[from..from + area.w as usize]);
        }
        true
    }
}

#[derive(Default)]
struct Keys(Mutex<Vec<String>>);

impl Input for Keys {
    fn key(&self, keysym: u32, down: bool) {
        self.0.lock().unwrap().push(format!("key {keysym:#x} {down}"));
    }
    fn scancode(&self, scancode: u32, down: bool) {
        self.0.lock().unwrap().push(format!("scancode {scancode:#x} {down}"));
    }
    fn pointer(&self, x: u16, y: u16, buttons: u8) {
        self.0.lock().unwrap().push(format!("pointer {x} {y} {buttons}"));
    }
    fn motion(&self, right: i32, down: i32, buttons: u8) {
        self.0.lock().unwrap().push(format!("motion {right} {down} {buttons}"));
    }
}

struct Stage {
    easel: Arc<Easel>,
    keys: Arc<Keys>,
    server: Server,
    threads: Arc<AtomicUsize>,
}

impl Stage {
    fn new(password: Option<&str>) -> Self {
        let (easel, keys) = (Easel::new(200, 100), Arc::new(Keys::default()));
        let threads = Arc::new(AtomicUsize::new(0));
        let counter = threads.clone();
        let spawn = move |body: Box<dyn FnOnce() + Send>| {
            let counter = counter.clone();
            counter.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                body();
                counter.fetch_sub(1, Ordering::SeqCst);
            });
            Ok(())
        };
        let password = password.map(|p| Password::new(p).unwrap());
        let settings = Settings { name: "easel".into(), password, most_clients: 32, pointer: Pointer::Relative };
        let server = Server::new(settings, easel.clone(), keys.clone(), Box::new(spawn));
        Self { easel, keys, server, threads }
    }

    fn connect(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        self.server.serve(theirs, "test".into()).unwrap();
        ours
    }

    /// A client that is through the handshake; its screen is 200x100.
    fn client(&self) -> Viewer {
        let mut stream = self.connect();
        stream.write_all(b"RFB 003.008\n\x01\x01").unwrap();
        let mut heard = [0; 12 + 2 + 4 + 24 + 5];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard[18..22], [0, 200, 0, 100]);
        Viewer { stream, size: Size { w: 200, h: 100 }, pixels: vec![0; 200 * 100] }
    }

    fn wait_for_quiet(&self) {
        wait_until("all threads have ended", || self.threads.load(Ordering::SeqCst) == 0);
        assert_eq!(self.server.clients(), 0);
        assert!(!self.easel.0.lock().unwrap().watched, "changes are still tracked");
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A client that speaks Raw.
struct Viewer {
    stream: UnixStream,
    size: Size,
    pixels: Vec<u32>,
}

impl Viewer {
    fn request(&mut self, incremental: bool) {
        let Size { w, h } = self.size;
        let mut message = vec![3, u8::from(incremental), 0, 0, 0, 0];
        message.extend((w as u16).to_be_bytes());
        message.extend((h as u16).to_be_bytes());
        self.stream.write_all(&message).unwrap();
    }

    /// Takes one update in; gives the encodings of its rectangles.
    fn update(&mut self) -> Vec<i32> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).unwrap();
        assert_eq!(head[..2], [0, 0]);
        (0..u16::from_be_bytes([head[2], head[3]])).map(|_| self.rect()).collect()
    }

    fn rect(&mut self) -> i32 {
        let mut head = [0; 12];
        self.stream.read_exact(&mut head).unwrap();
        let n = |i: usize| usize::from(u16::from_be_bytes([head[i], head[i + 1]]));
        let (x, y, w, h) = (n(0), n(2), n(4), n(6));
        let encoding = i32::from_be_bytes(head[8..].try_into().unwrap());
        match encoding {
            0 => {
                let mut bytes = vec![0; w * h * 4];
                self.stream.read_exact(&mut bytes).unwrap();
                for (i, pixel) in bytes.chunks(4).enumerate() {
                    let at = (y + i / w) * self.size.w as usize + x + i % w;
                    self.pixels[at] = u32::from_le_bytes(pixel.try_into().unwrap());
                }
            }
            -223 => {
                self.size = Size { w: w as u32, h: h as u32 };
                self.pixels = vec![0; w * h];
            }
            other => panic!("encoding {other}"),
        }
        encoding
    }
}

#[test]
fn what_is_painted_arrives_and_only_that() {
    let stage = Stage::new(None);
    let mut viewer = stage.client();
    viewer.request(false);
    viewer.update();
    assert!(viewer.pixels == stage.easel.0.lock().unwrap().pixels);
    viewer.request(true);
    stage.easel.paint(70, 70, 0xabcdef);
    viewer.update();
    assert_eq!(viewer.pixels[70 * 200 + 70], 0xabcdef);
    assert!(viewer.pixels == stage.easel.0.lock().unwrap().pixels);
    drop(viewer);
    stage.wait_for_quiet();
}

#[test]
fn a_still_screen_sends_no_byte() {
    let stage = Stage::new(None);
    let mut viewer = stage.client();
    viewer.request(false);
    viewer.update();
    viewer.request(true);
    let looks = stage.easel.0.lock().unwrap().looks;
    wait_until("the server has looked some times", || stage.easel.0.lock().unwrap().looks > looks + 5);
    viewer.stream.set_nonblocking(true).unwrap();
    let nothing = viewer.stream.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_key_quickens_the_look_at_a_still_screen() {
    let stage = Stage::new(None);
    let mut viewer = stage.client();
    viewer.request(false);
    viewer.update();
    let looks = |n| {
        let (from, began) = (stage.easel.0.lock().unwrap().looks, Instant::now());
        wait_until("the server has looked", || stage.easel.0.lock().unwrap().looks >= from + n);
        began.elapsed()
    };
    // Until the slow pace has come: three looks then take more than half of their time.
    let slow = Duration::from_millis(400);
    wait_until("the looks are few", || looks(3) > slow);
    viewer.stream.write_all(&[4, 1, 0, 0, 0, 0, 0, 0x61]).unwrap();
    // One may still be of the slow pace. However loaded the machine, some try finds the fast one.
    wait_until("the looks are many", || {
        viewer.stream.write_all(&[4, 1, 0, 0, 0, 0, 0, 0x61]).unwrap();
        looks(1);
        looks(3) < slow
    });
}

#[test]
fn two_hundred_clients_come_and_go() {
    let stage = Stage::new(None);
    for round in 0..200 {
        let mut viewer = stage.client();
        if round % 2 == 0 {
            viewer.request(false);
            viewer.update();
        }
    }
    stage.wait_for_quiet();
}

#[test]
fn twenty_clients_at_once_see_the_same() {
    let stage = Arc::new(Stage::new(None));
    let viewers: Vec<_> = (0..20)
        .map(|_| {
            let stage = stage.clone();
            thread::spawn(move || {
                let mut viewer = stage.client();
                viewer.request(false);
                viewer.update();
                while viewer.pixels[0] != 0x123456 {
                    viewer.request(true);
                    viewer.update();
                }
            })
        })
        .collect();
    wait_until("all are in", || stage.server.clients() == 20);
    stage.easel.paint(0, 0, 0x123456);
    viewers.into_iter().for_each(|v| v.join().unwrap());
    stage.wait_for_quiet();
}

#[test]
fn a_client_that_never_reads_holds_up_nobody() {
    let stage = Stage::new(None);
    let mut stuck = stage.client();
    for _ in 0..2000 {
        stuck.request(false);
    }
    let mut viewer = stage.client();
    for pixel in 1..20 {
        viewer.request(true);
        stage.easel.paint(5, 5, pixel);
        while viewer.pixels[5 * 200 + 5] != pixel {
            viewer.update();
            viewer.request(true);
        }
    }
    drop(viewer);
    stage.server.disconnect_all();
    stage.wait_for_quiet();
}

#[test]
fn a_new_size_is_announced_and_shown() {
    let stage = Stage::new(None);
    let mut viewer = stage.client();
    viewer.stream.write_all(&[2, 0, 0, 2, 0, 0, 0, 0, 255, 255, 255, 0x21]).unwrap();
    viewer.request(false);
    viewer.update();
    viewer.request(true);
    stage.easel.resize(64, 300);
    assert_eq!(viewer.update(), [-223]);
    assert_eq!(viewer.size, Size { w: 64, h: 300 });
    viewer.request(true);
    viewer.update();
    assert!(viewer.pixels.iter().all(|p| *p == 0x00ff00));
}

#[test]
fn keys_and_buttons_arrive_and_are_released_when_their_client_goes() {
    let stage = Stage::new(None);
    let mut viewer = stage.client();
    let mut bytes = vec![4, 1, 0, 0, 0, 0, 0, 0x61, 4, 0, 0, 0, 0, 0, 0, 0x61, 4, 1, 0, 0, 0, 0, 0xff, 0xe1];
    bytes.extend([255, 0, 0, 1, 0, 0, 0, 0x62, 0, 0, 0, 0x30, 5, 1, 0, 9, 0, 8]);
    // One byte at a time: messages may be split anywhere.
    for byte in bytes {
        viewer.stream.write_all(&[byte]).unwrap();
    }
    wait_until("all has arrived", || stage.keys.0.lock().unwrap().len() == 5);
    drop(viewer);
    stage.wait_for_quiet();
    let seen = stage.keys.0.lock().unwrap().join("; ");
    let want = "key 0x61 true; key 0x61 false; key 0xffe1 true; scancode 0x30 true; pointer 9 8 1; \
                key 0xffe1 false; scancode 0x30 false; pointer 9 8 0";
    assert_eq!(seen, want);
}

/// Reads until the server closes, which may reset what it hasn't read.
fn until_closed(stream: &mut UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset => panic!("not closed: {e}"),
        _ => rest,
    }
}

#[test]
fn bad_bytes_at_every_stage_end_that_client_only() {
    let stage = Stage::new(Some("secret"));
    let through: &[u8] = b"RFB 003.008\n\x02";
    for bad in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"RFB 003.008\n\x63", &[through, &[7; 16]].concat()] {
        let mut stream = stage.connect();
        stream.write_all(bad).unwrap();
        until_closed(&mut stream);
    }
    stage.wait_for_quiet();

    let stage = Stage::new(None);
    let mut good = stage.client();
    for bad in [&[99u8][..], &[0; 20], &[255, 9], &[6, 0, 0, 0, 255, 255, 255, 255], &[2, 0, 255, 255, 1]] {
        let mut viewer = stage.client();
        viewer.stream.write_all(bad).unwrap();
        viewer.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(until_closed(&mut viewer.stream).is_empty());
    }
    good.request(false);
    good.update();
}

#[test]
fn one_client_too_many_is_sent_away() {
    let stage = Stage::new(None);
    let _inside: Vec<_> = (0..32).map(|_| stage.client()).collect();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    assert!(stage.server.serve(theirs, "test".into()).is_err());
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_viewer_gets_in_with_the_password_and_follows_the_screen() {
    use kiln_rfb::viewer::Viewer as Small;
    let stage = Stage::new(Some("secret"));
    let right = Password::new("secret").unwrap();
    assert!(Small::connect(stage.connect(), Some(&Password::new("wrong").unwrap())).is_err());
    assert!(Small::connect(stage.connect(), None).is_err());
    let mut viewer = Small::connect(stage.connect(), Some(&right)).unwrap();
    viewer.request(false).unwrap();
    viewer.update().unwrap();
    assert!(viewer.pixels() == stage.easel.0.lock().unwrap().pixels);
    viewer.request(true).unwrap();
    stage.easel.resize(320, 10);
    viewer.update().unwrap();
    viewer.request(false).unwrap();
    viewer.update().unwrap();
    assert_eq!(viewer.size(), Size { w: 320, h: 10 });
    assert!(viewer.pixels().iter().all(|p| *p == 0x00ff00));
}

#[test]
fn scrolling_is_copied_by_clients_that_follow_at_any_pace() {
    const COPY_RECT: i32 = 1;
    const LINES: u32 = 120;
    let stage = Arc::new(Stage::new(None));
    let viewers: Vec<_> = [[COPY_RECT, 16], [5, COPY_RECT], [COPY_RECT, 0], [16, 0]]
        .into_iter()
        .map(|encodings| {
            let stage = stage.clone();
            thread::spawn(move || {
                let mut viewer = kiln_rfb::viewer::Viewer::connect(stage.connect(), None).unwrap();
                viewer.set_encodings(&encodings).unwrap();
                while viewer.pixels()[199] != 0xabcdef {
                    viewer.request(true).unwrap();
                    viewer.update().unwrap();
                }
                assert!(viewer.pixels() == stage.easel.0.lock().unwrap().pixels, "{encodings:?}");
                let copies = viewer.seen().get(&COPY_RECT).copied().unwrap_or_default();
                assert_eq!(copies > 0, encodings.contains(&COPY_RECT), "{encodings:?}: {copies} copies");
            })
        })
        .collect();
    wait_until("all are in", || stage.server.clients() == 4);
    for line in 1..=LINES {
        // More up than down: what went wrong comes back into the picture.
        stage.easel.scroll(line, line % 8 < 5);
        if line % 3 == 0 {
            let looks = || stage.easel.0.lock().unwrap().looks;
            let before = looks();
            wait_until("the server has looked", || looks() > before);
        }
    }
    stage.easel.paint(199, 0, 0xabcdef);
    viewers.into_iter().for_each(|v| v.join().unwrap());
}

#[test]
fn a_client_that_knows_the_pointer_sends_motion() {
    let stage = Stage::new(None);
    let mut viewer = stage.client();
    // Before it is told, and from a client that never listed it, these are positions.
    viewer.stream.write_all(&[5, 0, 0x80, 0x04, 0x7f, 0xfc]).unwrap();
    viewer.stream.write_all(&[2, 0, 0, 1, 255, 255, 254, 255]).unwrap();
    viewer.request(true);
    let mut heard = [0; 16];
    let mut expect = |viewer: &mut Viewer, rects: u8, absolute: u8| {
        viewer.stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, [0, 0, 0, rects, 0, absolute, 0, 0, 0, 200, 0, 100, 255, 255, 254, 255]);
    };
    // The whole screen comes with the first update.
    expect(&mut viewer, 2, 0);
    assert_eq!(viewer.rect(), 0);
    viewer.stream.write_all(&[5, 1, 0x80, 0x04, 0x7f, 0xfc]).unwrap();
    // On its way before the client heard of it.
    viewer.stream.write_all(&[5, 1, 0, 9, 0, 8]).unwrap();
    viewer.stream.write_all(&[5, 1, 0x7f, 0xff, 0x7f, 0xff]).unwrap();
    wait_until("all has arrived", || stage.keys.0.lock().unwrap().len() == 4);
    viewer.request(true);
    stage.server.set_pointer(Pointer::Absolute);
    expect(&mut viewer, 1, 1);
    drop(viewer);
    stage.wait_for_quiet();
    let seen = stage.keys.0.lock().unwrap().join("; ");
    assert_eq!(seen, "pointer 32772 32764 0; motion 5 -3 1; pointer 9 8 1; motion 0 0 1; motion 0 0 0");
}

mod websocket {
    use super::*;
    use tungstenite::client::IntoClientRequest;
    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    use tungstenite::{Message, WebSocket};

    /// A browser's stream, by another's code.
    struct Browser {
        socket: WebSocket<UnixStream>,
        heard: Vec<u8>,
    }

    impl Stage {
        fn plug(&self) -> UnixStream {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            self.server.serve_websocket(theirs, "test".into()).unwrap();
            ours
        }

        fn browse(&self) -> Browser {
            let mut request = "ws://127.0.0.1:5700/websockify".into_client_request().unwrap();
            request.headers_mut().insert("Sec-WebSocket-Protocol", "binary".parse().unwrap());
            let (socket, answer) = tungstenite::client(request, self.plug()).unwrap();
            assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "binary");
            Browser { socket, heard: vec![] }
        }
    }

    impl Read for Browser {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            while self.heard.is_empty() {
                match self.socket.read().map_err(std::io::Error::other)? {
                    Message::Binary(bytes) => self.heard = bytes.to_vec(),
                    Message::Close(_) => return Ok(0),
                    other => panic!("{other:?}"),
                }
            }
            let got = self.heard.as_slice().read(to)?;
            self.heard.drain(..got);
            Ok(got)
        }
    }

    impl Write for Browser {
        // In two frames, with a ping between them.
        fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
            let (a, b) = from.split_at(from.len() / 2);
            let part =
                |bytes: &[u8], code, fin| Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(code), fin));
            for message in [part(a, Data::Binary, false), Message::Ping("?".into()), part(b, Data::Continue, true)] {
                self.socket.send(message).map_err(std::io::Error::other)?;
            }
            match self.socket.read().map_err(std::io::Error::other)? {
                Message::Pong(text) => assert_eq!(&text[..], b"?"),
                // The server had something to say before it heard the ping.
                Message::Binary(bytes) => {
                    self.heard.extend_from_slice(&bytes);
                    while !matches!(self.socket.read().map_err(std::io::Error::other)?, Message::Pong(_)) {}
                }
                other => panic!("{other:?}"),
            }
            Ok(from.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_browser_gets_in_with_the_password_and_sees_the_screen() {
        use kiln_rfb::viewer::Viewer as Small;
        let stage = Stage::new(Some("secret"));
        assert!(Small::connect(stage.browse(), Some(&Password::new("wrong").unwrap())).is_err());
        let mut viewer = Small::connect(stage.browse(), Some(&Password::new("secret").unwrap())).unwrap();
        viewer.request(false).unwrap();
        viewer.update().unwrap();
        assert!(viewer.pixels() == stage.easel.0.lock().unwrap().pixels);
        viewer.key(0x61, true).unwrap();
        wait_until("the key has arrived", || stage.keys.0.lock().unwrap().len() == 1);
        // It leaves as RFC 6455 has it: its status comes back.
        let socket = &mut viewer.stream_mut().socket;
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
        drop(viewer);
        stage.wait_for_quiet();
        assert_eq!(stage.keys.0.lock().unwrap().join("; "), "key 0x61 true; key 0x61 false");
    }

    #[test]
    fn what_is_no_websocket_is_told_so_and_closed() {
        let stage = Stage::new(None);
        for (request, status) in [
            (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "426"),
            (b"RFB 003.008\n\r\n\r\n", "400"),
            (b"\x16\x03\x01\x02\x00", "400"),
            (&[b'A'; 9000], "431"),
            (
                b"GET / HTTP/1.1\r\nOrigin: https://example.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                "403",
            ),
        ] {
            let mut stream = stage.plug();
            stream.write_all(request).unwrap();
            let text = String::from_utf8(until_closed(&mut stream)).unwrap();
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        }
        stage.wait_for_quiet();
    }

    #[test]
    fn bad_frames_end_that_client_with_a_status() {
        let stage = Stage::new(None);
        for (bad, status) in [(&[0x82u8, 1, b'R'][..], 1002u16), (&[0x81, 0x81, 0, 0, 0, 0, b'R'], 1003)] {
            let mut browser = stage.browse();
            browser.socket.get_mut().write_all(bad).unwrap();
            loop {
                match browser.socket.read() {
                    Ok(Message::Close(Some(frame))) => break assert_eq!(u16::from(frame.code), status),
                    Ok(Message::Binary(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        // Cut in a frame, and gone.
        stage.browse().socket.get_mut().write_all(&[0x82, 0xff, 0, 0]).unwrap();
        stage.wait_for_quiet();
    }
}
