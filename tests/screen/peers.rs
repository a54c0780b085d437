//! Viewers that others made: vncdotool, and TigerVNC's under an X server without a screen.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::pattern::Picture;
use crate::stage::PATIENCE;

/// Where `cargo xtask test` puts vncdotool.
fn vncdo_path() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("vnc-clients").join("bin/vncdo");
    assert!(path.exists(), "{} is missing: run the tests by `cargo xtask test`, which installs it", path.display());
    path
}

/// Runs vncdotool's commands against a screen.
pub fn vncdo(port: u16, commands: &[&str]) {
    let server = format!("127.0.0.1::{port}");
    let limit = PATIENCE.as_secs().to_string();
    let mut command = Command::new(vncdo_path());
    // No pointer of its own in pictures; Shift with capitals, as a person holds it.
    command.args(["--nocursor", "--force-caps", "-t", &limit, "-s", &server]).args(commands);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{commands:?}: {output:?}");
}

/// What vncdotool sees.
pub fn vncdo_capture(port: u16) -> Picture {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("capture.png");
    vncdo(port, &["capture", file.to_str().unwrap()]);
    Picture::from_png(&fs::read(file).unwrap())
}

/// Ends its program when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// TigerVNC's viewer on an X server whose framebuffer is a file.
pub struct TigerVnc {
    viewer: Program,
    _server: Program,
    _numbers: BufReader<ChildStdout>,
    folder: TempDir,
}

impl TigerVnc {
    /// Connects, with ZRLE in full colour.
    pub fn connect(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Command::new("Xvfb");
        // It ends with its last client, and the viewer with its connection, should this program be killed.
        server.args([
            "-terminate",
            "-displayfd",
            "1",
            "-screen",
            "0",
            "1600x1000x24",
            "-nolisten",
            "tcp",
            "-nocursor",
            "-fbdir",
        ]);
        server.arg(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut server = Program(server.spawn().expect("Xvfb is missing: run the tests by `cargo xtask test`"));
        let mut numbers = BufReader::new(server.0.stdout.take().unwrap());
        let mut number = String::new();
        numbers.read_line(&mut number).unwrap();
        let mut viewer = Command::new("xtigervncviewer");
        viewer
            .args([
                "-PreferredEncoding=ZRLE",
                "-AutoSelect=0",
                "-FullColor=1",
                "-RemoteResize=0",
                "-ReconnectOnError=0",
            ])
            .args(["-AlertOnFatalError=0", "-display", &format!(":{}", number.trim()), &format!("127.0.0.1::{port}")])
            .env("HOME", folder.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap());
        let viewer = Program(viewer.spawn().expect("xtigervncviewer is missing: run the tests by `cargo xtask test`"));
        Self { viewer, _server: server, _numbers: numbers, folder }
    }

    /// Waits until the viewer shows a picture, pixel by pixel. `about` says how the other side is, should it not.
    pub fn waits_for(&mut self, wanted: &Picture, about: impl Fn() -> String) {
        let end = Instant::now() + PATIENCE;
        while !screen(&self.folder.path().join("Xvfb_screen0")).is_some_and(|screen| screen.shows(wanted)) {
            let ended = self.viewer.0.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                panic!("the viewer doesn't show it; {ended:?}\n{log}\n{}", about());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
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
