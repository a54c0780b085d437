//! Clients for tests that apt doesn't have, in a Python environment of their own in the target folder: vncdotool, and
//! QEMU's QMP library.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What pip is asked for: these versions, so that tests fail by what we change.
const PACKAGES: [&str; 2] = ["vncdotool==1.4.2", "qemu.qmp==0.0.3"];

/// Debian's Python, which the package python3-venv belongs to. One that comes first in PATH may be any.
const PYTHON: &str = "/usr/bin/python3";

/// Makes sure that the clients are there.
///
/// # Errors
/// When Python or pip fails; their own words are in the error.
pub fn ensure() -> Result<()> {
    let folder = folder()?;
    let stamp = folder.join(PACKAGES.join(" "));
    if stamp.exists() && folder.join("bin/vncdo").exists() {
        return Ok(());
    }
    eprintln!("xtask: installing by pip into {}: {}", folder.display(), PACKAGES.join(" "));
    run(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(folder.join("bin/pip")).args(["install", "--quiet"]).args(PACKAGES))?;
    // Last, so that a half-made environment is made anew.
    std::fs::write(&stamp, "").with_context(|| format!("writing {}", stamp.display()))
}

// Beside the profile's folder that this program stands in; tests look for it there.
fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent).context("finding the target folder")?;
    Ok(target.join("vnc-clients"))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
