//! The lab's own initramfs: busybox, kvm's modules, the agent, and the files of the caller.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::options::Options;
use crate::packages::{self, Kernel};
use crate::{elf, module};

/// Modules that every lab loads, in this order; dependencies come by themselves.
const BASE: &[&str] = &["virtio_pci", "virtio_console", "virtio_blk", "loop"];

/// Modules that guests in the lab, and tests that are root there, may load; carried along, not loaded.
const FOR_GUESTS: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_rng",
    "virtio_console",
    "virtio_net",
    "evdev",
    "button",
    "atkbd",
    "i8042",
    "psmouse",
    "ext4",
    "rtc_cmos",
    "pciehp",
    "null_blk",
];

const INIT: &str = include_str!("init.sh");

/// Writes the initramfs of a lab with these options.
///
/// # Errors
/// When a package or a file can't be had.
pub fn write(to: impl Write, kernel: &Kernel, agent: &Path, options: &Options) -> Result<()> {
    let mut archive = Archive::new(to);
    let busybox = fs::read(packages::busybox()?)?;
    archive.file("/init", 0o755, INIT.as_bytes())?;
    archive.file("/bin/busybox", 0o755, &busybox)?;
    archive.char_device("/dev/console", 0o600, 5, 1)?;
    archive.char_device("/dev/null", 0o666, 1, 3)?;
    modules(&mut archive, kernel, options)?;
    guest_files(&mut archive, kernel)?;
    if !options.forwards.is_empty() {
        archive.file("/lab/network", 0o644, b"")?;
    }
    for tool in ["dash", "setpriv", "unshare"] {
        if let Some(path) = which(tool) {
            pack(&mut archive, &path, &format!("/usr/bin/{tool}"))?;
        }
    }
    pack(&mut archive, agent, "/lab/agent")?;
    for (here, there) in &options.files {
        pack(&mut archive, here, there)?;
    }
    archive.finish()?;
    Ok(())
}

/// A program on PATH here.
pub fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn modules<W: Write>(archive: &mut Archive<W>, kernel: &Kernel, options: &Options) -> Result<()> {
    let mut names = BASE.to_vec();
    if !options.forwards.is_empty() {
        names.push("virtio_net");
    }
    names.extend(options.modules.iter().map(String::as_str));
    names.extend(["kvm", "kvm_amd"]);
    let mut list = String::new();
    for mut module in kernel.modules(&names)? {
        if module.name == "kvm_amd" {
            module.bytes = module::keep_cr8_intercept(&module.bytes)?;
        }
        archive.file(&format!("/lab/modules/{}.ko", module.name), 0o644, &module.bytes)?;
        let parameters = match module.name.as_str() {
            "kvm_amd" if !options.npt => " npt=0",
            _ => "",
        };
        list.push_str(&format!("{}.ko{parameters}\n", module.name));
    }
    archive.file("/lab/modules/list", 0o644, list.as_bytes())?;
    Ok(())
}

fn guest_files<W: Write>(archive: &mut Archive<W>, kernel: &Kernel) -> Result<()> {
    let home = packages::INSIDE;
    archive.file(&format!("{home}/bzImage"), 0o644, &fs::read(&kernel.bzimage)?)?;
    archive.file(&format!("{home}/vmlinux"), 0o644, &fs::read(&kernel.vmlinux)?)?;
    archive.file(&format!("{home}/version"), 0o644, kernel.version.as_bytes())?;
    archive.symlink(&format!("{home}/busybox"), "/bin/busybox")?;
    for module in kernel.modules(FOR_GUESTS)? {
        archive.file(&format!("{home}/modules/{}.ko", module.name), 0o644, &module.bytes)?;
    }
    Ok(())
}

/// Adds a file or folder with, for ELF files, their shared libraries.
pub(crate) fn pack<W: Write>(archive: &mut Archive<W>, here: &Path, there: &str) -> Result<()> {
    let about = fs::metadata(here).with_context(|| format!("{} can't be taken into the lab", here.display()))?;
    if about.is_dir() {
        archive.folder(there)?;
        let mut entries = fs::read_dir(here)?.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(|e| e.file_name());
        for entry in entries {
            let inner = format!("{there}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_symlink() {
                archive.symlink(&inner, &fs::read_link(entry.path())?.to_string_lossy())?;
            } else {
                pack(archive, &entry.path(), &inner)?;
            }
        }
        return Ok(());
    }
    let bytes = fs::read(here).with_context(|| format!("reading {}", here.display()))?;
    archive.file(there, about.permissions().mode(), &bytes)?;
    if bytes.starts_with(b"\x7fELF") {
        for (name, file) in elf::libraries(here)? {
            archive.file(&name, 0o755, &fs::read(&file)?)?;
        }
    }
    Ok(())
}
