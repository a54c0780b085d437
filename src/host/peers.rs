//! Programs and firmware of others that kiln can use when they are installed.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Peers {
    /// VNC viewers on PATH.
    pub viewers: Vec<String>,
    /// Firmware images.
    pub firmware: Vec<String>,
}

/// Viewers that speak VNC, the most common first.
pub const VIEWERS: &[&str] =
    &["remote-viewer", "virt-viewer", "vncviewer", "xtigervncviewer", "remmina", "gvncviewer", "vinagre", "krdc"];

const FIRMWARE: &[&str] = &[
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/bios-256k.bin",
    "usr/share/OVMF/OVMF_CODE_4M.fd",
    "usr/share/edk2/ovmf/OVMF_CODE.fd",
    "usr/share/edk2/x64/OVMF_CODE.4m.fd",
];

impl Peers {
    pub(super) fn find(root: &Path) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<_> = std::env::split_paths(&path).collect();
        let there =
            |name: &str| folders.iter().any(|f| root.join(f.strip_prefix("/").unwrap_or(f)).join(name).is_file());
        Self {
            viewers: VIEWERS.iter().filter(|v| there(v)).map(|v| (*v).to_owned()).collect(),
            firmware: FIRMWARE.iter().filter(|f| fs::metadata(root.join(f)).is_ok()).map(|f| format!("/{f}")).collect(),
        }
    }

    /// What a person reads about viewers.
    pub fn describe_viewers(&self) -> String {
        match self.viewers.as_slice() {
            [] => "none found (any VNC viewer will do, e.g. the package tigervnc-viewer)".into(),
            names => names.join(", "),
        }
    }

    /// What a person reads about firmware.
    pub fn describe_firmware(&self) -> String {
        match self.firmware.as_slice() {
            [] => "none found (the packages seabios and ovmf have it)".into(),
            files => files.join(", "),
        }
    }
}
