//! Installs the Debian packages that a task needs, and says so before it does.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Packages for the lab and for tests against peers.
pub const FOR_TESTS: &[&str] = &[
    "qemu-system-x86",
    "qemu-utils",
    "acpica-tools",
    "chromium",
    "cpio",
    "debootstrap",
    "e2fsprogs",
    "genisoimage",
    "gvncviewer",
    "isolinux",
    "libvirt-clients",
    "libxml2-utils",
    "openssh-client",
    "python3-venv",
    "socat",
    "strace",
    "tigervnc-viewer",
    "udftools",
    "xdotool",
    "xorriso",
    "xz-utils",
    "zstd",
    "xvfb",
];

/// Makes sure that the packages are installed.
///
/// # Errors
/// When one is missing and may not be installed (the error names the line to run), or apt fails.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted: Vec<String> = missing.iter().map(|p| (*p).to_owned()).collect();
    let Some(prefix) = privilege() else {
        bail!(
            "missing Debian packages; run this once, then again what you ran:\n  sudo apt-get install -y \
             --no-install-recommends {}",
            missing.join(" ")
        );
    };
    eprintln!("xtask: installing by apt: {}", missing.join(" "));
    apt(&prefix, &["update", "-q"])?;
    if install(&prefix, &wanted).is_ok() && packages.iter().all(|p| installed(p)) {
        return Ok(());
    }
    // A machine may come with a newer qemu-utils than its release has; the release's QEMU then needs the release's.
    let codename = codename()?;
    let pinned = |p: &&str| if *p == "qemu-utils" { format!("{p}/{codename}") } else { (*p).to_owned() };
    eprintln!("xtask: installing the release's own versions");
    install(&prefix, &packages.iter().map(pinned).collect::<Vec<_>>())?;
    match packages.iter().find(|p| !installed(p)) {
        Some(package) => bail!("apt installed no {package}"),
        None => Ok(()),
    }
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f=${Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|o| o.stdout == b"install ok installed")
}

fn privilege() -> Option<Vec<&'static str>> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.trim_ascii() == b"0");
    if root {
        return Some(vec![]);
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status();
    sudo.is_ok_and(|s| s.success()).then(|| vec!["sudo", "-n"])
}

fn install(prefix: &[&str], packages: &[String]) -> Result<()> {
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends", "--allow-downgrades"];
    args.extend(packages.iter().map(String::as_str));
    apt(prefix, &args)
}

fn apt(prefix: &[&str], args: &[&str]) -> Result<()> {
    let mut words = prefix.to_vec();
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    words.extend(args);
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .context("running apt-get: kiln's tests and lab need Debian or a system with apt")?;
    if !output.status.success() {
        bail!("{} failed:\n{}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    text.lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no release")
}
