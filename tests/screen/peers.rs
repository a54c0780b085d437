//! vncdotool: a viewer without a window.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
