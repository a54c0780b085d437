//! The two servers: each shows a framebuffer that is written to from here, and serves on a unix socket.
//!
//! QEMU runs no guest. Its qtest socket (docs/devel/testing: commands that read and write ports and memory) puts a stock
//! VGA card into its mode and writes into the card's memory, which marks what changed as a guest's writes do. Ours is
//! `crates/rfb/examples/canvas.rs`.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::story::{HEIGHT, WIDTH};

/// Where the card's framebuffer is put.
const FRAMEBUFFER: u32 = 0xe000_0000;
/// Bytes that one command writes.
const PIECE: usize = 48 << 10;

/// A server under measurement. Ended when dropped.
pub(super) struct Subject {
    child: Child,
    screen: Screen,
    socket: PathBuf,
    shown: Vec<u32>,
    /// Seconds of processor that QEMU's first thread has spent on drawing.
    drawing: f64,
}

enum Screen {
    Canvas(ChildStdin, ChildStdout),
    Qemu(BufReader<UnixStream>),
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Subject {
    pub(super) fn canvas(program: &Path, folder: &Path) -> Result<Self> {
        let socket = folder.join("canvas");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(program);
        command.arg(&socket).args([WIDTH.to_string(), HEIGHT.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting canvas")?;
        let (to, from) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
        Ok(Self { child, screen: Screen::Canvas(to, from), socket, shown: vec![0; WIDTH * HEIGHT], drawing: 0.0 })
    }

    pub(super) fn qemu(folder: &Path) -> Result<Self> {
        let (socket, tests) = (folder.join("qemu"), folder.join("qtest"));
        [&socket, &tests].into_iter().for_each(|path| drop(fs::remove_file(path)));
        let listener = UnixListener::bind(&tests)?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-machine", "q35,accel=tcg", "-S", "-m", "64", "-vga", "none"]);
        command.args(["-device", "VGA,addr=1", "-display", "none"]);
        command.arg("-qtest").arg(format!("unix:{}", tests.display()));
        command.arg("-qtest-log").arg("/dev/null");
        command.arg("-vnc").arg(format!("unix:{}", socket.display()));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("starting QEMU")?;
        listener.set_nonblocking(true)?;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(10)),
                Err(e) => return Err(e.into()),
            }
            if let Some(status) = child.try_wait()? {
                bail!("QEMU ended before it was spoken to: {status}");
            }
        };
        stream.set_nonblocking(false)?;
        let stream = BufReader::new(stream);
        let mut subject =
            Self { child, screen: Screen::Qemu(stream), socket, shown: vec![0; WIDTH * HEIGHT], drawing: 0.0 };
        subject.set_mode()?;
        Ok(subject)
    }

    // BAR 0 of 00:01.0, memory and ports on; the mode by the card's own registers; the attribute controller's screen on.
    fn set_mode(&mut self) -> Result<()> {
        let configure = [("0x80000810", FRAMEBUFFER), ("0x80000804", 3)];
        for (address, value) in configure {
            self.say(&format!("outl 0xcf8 {address}"))?;
            self.say(&format!("outl 0xcfc {value:#x}"))?;
        }
        for (register, value) in [(4, 0), (1, WIDTH), (2, HEIGHT), (3, 32), (4, 0x41)] {
            self.say(&format!("outw 0x1ce {register}"))?;
            self.say(&format!("outw 0x1cf {value}"))?;
        }
        self.say("inb 0x3da")?;
        self.say("outb 0x3c0 0x20")
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let Screen::Qemu(stream) = &mut self.screen else { bail!("only QEMU is spoken to") };
        stream.get_mut().write_all(line.as_bytes())?;
        stream.get_mut().write_all(b"\n")?;
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        if !answer.starts_with("OK") {
            bail!("QEMU answered {answer:?}");
        }
        Ok(())
    }

    /// Draws a picture: the rows from the first to the last that differ, at once.
    pub(super) fn draw(&mut self, picture: &[u32]) -> Result<()> {
        let rows = || self.shown.chunks(WIDTH).zip(picture.chunks(WIDTH));
        let differs = |(a, b): (&[u32], &[u32])| a != b;
        let Some(first) = rows().position(differs) else { return Ok(()) };
        let last = rows().rposition(differs).unwrap_or(first);
        let part = first * WIDTH..(last + 1) * WIDTH;
        let bytes: Vec<u8> = picture[part.clone()].iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
        let offset = (part.start * 4) as u32;
        self.shown[part.clone()].copy_from_slice(&picture[part]);
        if let Screen::Canvas(to, from) = &mut self.screen {
            to.write_all(&[offset.to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat())?;
            to.write_all(&bytes)?;
            return from.read_exact(&mut [0]).context("the canvas has ended");
        }
        // QEMU looks for a line's end from its beginning whenever more of it comes, so lines are short. No client waits for
        // an update meanwhile, so none is sent half a picture.
        let before = self.thread(self.child.id())?;
        for (n, piece) in (0..).zip(bytes.chunks(PIECE)) {
            let (place, len) = (FRAMEBUFFER + offset + n * PIECE as u32, piece.len());
            self.say(&format!("b64write {place:#x} {len:#x} {}", STANDARD.encode(piece)))?;
        }
        // The kernel has a thread's time right when the thread has gone to sleep, as this one does now.
        std::thread::sleep(Duration::from_millis(2));
        self.drawing += self.thread(self.child.id())? - before;
        Ok(())
    }

    /// A new connection to its server.
    pub(super) fn connect(&self) -> Result<UnixStream> {
        // It may not listen yet.
        for _ in 0..500 {
            if let Ok(stream) = UnixStream::connect(&self.socket) {
                return Ok(stream);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("{} is not served", self.socket.display())
    }

    /// Seconds of processor that its threads have used, but for drawing: ours has a thread for that alone.
    pub(super) fn seconds(&self) -> Result<f64> {
        let mut sum = 0.0;
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id()))?.filter_map(Result::ok) {
            let thread = entry.file_name().to_str().and_then(|name| name.parse().ok()).context("reading threads")?;
            sum += self.thread(thread)?;
        }
        Ok(match self.screen {
            Screen::Canvas(..) => sum - self.thread(self.child.id())?,
            Screen::Qemu(_) => sum - self.drawing,
        })
    }

    fn thread(&self, thread: u32) -> Result<f64> {
        // One that has ended meanwhile counts for nothing.
        let path = format!("/proc/{}/task/{thread}/schedstat", self.child.id());
        let text = fs::read_to_string(path).unwrap_or_else(|_| "0".into());
        let nanoseconds: f64 = text.split(' ').next().and_then(|n| n.trim().parse().ok()).context("schedstat")?;
        Ok(nanoseconds / 1e9)
    }
}
