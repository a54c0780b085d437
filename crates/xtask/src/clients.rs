//! Clients for tests that apt doesn't have, in the target folder: vncdotool and QEMU's QMP library in a Python environment
//! of their own, and noVNC as npm packs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup;

/// What pip is asked for: these versions, so that tests fail by what we change.
const PACKAGES: [&str; 2] = ["vncdotool==1.4.2", "qemu.qmp==0.0.3"];

/// Debian's Python, which the package python3-venv belongs to. One that comes first in PATH may be any.
const PYTHON: &str = "/usr/bin/python3";

/// What npm is asked for.
const NOVNC: &str = "@novnc/novnc@1.7.0";

/// Makes sure that the clients are there.
///
/// # Errors
/// When Python, pip or npm fails; their own words are in the error.
pub fn ensure() -> Result<()> {
    python()?;
    novnc()
}

fn python() -> Result<()> {
    let folder = target()?.join("vnc-clients");
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

fn novnc() -> Result<()> {
    let folder = target()?.join("novnc");
    let stamp = folder.join("version");
    if std::fs::read_to_string(&stamp).is_ok_and(|version| version == NOVNC) {
        return Ok(());
    }
    // Node's own packages bring npm along; Debian's is one of its own.
    if Command::new("npm").arg("--version").stdout(Stdio::null()).status().is_err() {
        setup::ensure(&["npm"])?;
    }
    eprintln!("xtask: unpacking by npm into {}: {NOVNC}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    run(Command::new("npm").args(["pack", "--silent", NOVNC]).current_dir(&folder))?;
    let packed = std::fs::read_dir(&folder)?.filter_map(|e| Some(e.ok()?.path())).find(|p| p.extension().is_some());
    run(Command::new("tar").arg("-xzf").arg(packed.context("npm packed nothing")?).current_dir(&folder))?;
    std::fs::write(&stamp, NOVNC).with_context(|| format!("writing {}", stamp.display()))
}

// Beside the profile's folder that this program stands in; tests look for it there.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().and_then(Path::parent).context("finding the target folder")?.to_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
