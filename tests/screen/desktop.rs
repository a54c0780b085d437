//! Viewers with windows, TigerVNC's and gvncviewer, each on an X server whose framebuffer is a file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::pattern::Picture;
use crate::stage::PATIENCE;

/// Ends its program when dropped.
pub struct Program(pub Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A viewer on an X server of its own.
pub struct Window {
    name: &'static str,
    viewer: Program,
    display: String,
    _server: Program,
    _numbers: BufReader<ChildStdout>,
    folder: TempDir,
}

impl Window {
    /// TigerVNC's viewer, with an encoding (CopyRect it takes always) in full colour.
    pub fn tiger_vnc(port: u16, encoding: &str) -> Self {
        let encoding = format!("-PreferredEncoding={encoding}");
        let words = ["-AutoSelect=0", "-FullColor=1", "-RemoteResize=0", "-ReconnectOnError=0", "-AlertOnFatalError=0"];
        let place = format!("127.0.0.1::{port}");
        Self::open("xtigervncviewer", &[&words[..], &[&encoding, &place]].concat())
    }

    /// GTK's viewer, which knows the pointer's type.
    pub fn gvncviewer(port: u16) -> Self {
        // It takes display numbers alone, and counts them from 5900, downwards too.
        Self::open("gvncviewer", &[&format!("127.0.0.1:{}", i32::from(port) - 5900)])
    }

    fn open(name: &'static str, words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Command::new("Xvfb");
        // It ends with its last client, and the viewer with its connection, should this program be killed.
        server.args(["-terminate", "-displayfd", "1", "-screen", "0", "1600x1000x24", "-nolisten", "tcp", "-nocursor"]);
        server.arg("-fbdir").arg(folder.path()).process_group(0);
        server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = Program(server.spawn().expect("Xvfb is missing: run the tests by `cargo xtask test`"));
        let mut numbers = BufReader::new(server.0.stdout.take().unwrap());
        let mut number = String::new();
        numbers.read_line(&mut number).unwrap();
        let display = format!(":{}", number.trim());
        let mut viewer = Command::new(name);
        viewer.args(words).env("HOME", folder.path()).env("DISPLAY", &display).process_group(0).stdin(Stdio::null());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let viewer = viewer.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let viewer = Program(viewer.unwrap_or_else(|e| panic!("{name} ({e}): run the tests by `cargo xtask test`")));
        Self { name, viewer, display, _server: server, _numbers: numbers, folder }
    }

    /// Waits until the viewer shows a picture, pixel by pixel. `about` says how the other side is, should it not.
    pub fn waits_for(&mut self, wanted: &Picture, about: impl Fn() -> String) {
        let end = Instant::now() + PATIENCE;
        while !screen(&self.folder.path().join("Xvfb_screen0")).is_some_and(|screen| screen.shows(wanted)) {
            let ended = self.viewer.0.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                panic!("{} doesn't show it; {ended:?}\n{log}\n{}", self.name, about());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Does with its pointer and keys what xdotool's words say.
    pub fn xdotool(&self, words: &[&str]) {
        let status = Command::new("xdotool").args(words).env("DISPLAY", &self.display).stdin(Stdio::null()).status();
        assert!(status.expect("xdotool is missing: run the tests by `cargo xtask test`").success(), "{words:?}");
    }
}

// X window dump, version 7 (X11/XWDFile.h): 25 words, then the colour map of 12 bytes an entry, then rows.
fn screen(file: &Path) -> Option<Picture> {
    let bytes = fs::read(file).ok()?;
    let word = |n: usize| Some(u32::from_be_bytes(bytes.get(n * 4..n * 4 + 4)?.try_into().ok()?) as usize);
    let (header, width, height, stride, colours) = (word(0)?, word(4)?, word(5)?, word(12)?, word(19)?);
    assert_eq!((word(1)?, word(7)?, word(11)?), (7, 0, 32), "version, least significant byte first, bits of a pixel");
    let rows = bytes.get(header + colours * 12..)?.chunks_exact(stride).take(height);
    let pixel = |p: &[u8]| u32::from_le_bytes([p[0], p[1], p[2], 0]);
    let pixels: Vec<u32> = rows.flat_map(|row| row[..width * 4].chunks_exact(4).map(pixel)).collect();
    (pixels.len() == width * height).then_some(Picture { width, pixels })
}
