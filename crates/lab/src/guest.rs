//! What guests in tests boot: an initramfs of busybox, some modules and a script.

use std::fs;

use anyhow::Result;

use crate::cpio::Archive;
use crate::packages::{self, Kernel};

/// An initramfs with busybox at `/bin/busybox`, its applets as links, the named modules (with what they depend on)
/// loaded before `script` runs as the rest of `/init`. `/proc`, `/sys` and `/dev` are mounted.
///
/// # Errors
/// When a package can't be had.
pub fn initramfs(kernel: &Kernel, modules: &[&str], script: &str) -> Result<Vec<u8>> {
    with_files(kernel, modules, script, &[])
}

/// An initramfs in which `script` is all of `/init` from its first line on: busybox's shell and nothing else.
///
/// # Errors
/// When busybox's package can't be had.
pub fn bare(script: &str) -> Result<Vec<u8>> {
    let mut archive = start()?;
    archive.file("/init", 0o755, format!("#!/bin/busybox sh\n{script}\n").as_bytes())?;
    Ok(archive.finish()?)
}

fn start() -> Result<Archive<Vec<u8>>> {
    let mut archive = Archive::new(Vec::new());
    archive.file("/bin/busybox", 0o755, &fs::read(packages::busybox()?)?)?;
    archive.char_device("/dev/console", 0o600, 5, 1)?;
    archive.char_device("/dev/null", 0o666, 1, 3)?;
    Ok(archive)
}

/// As [`initramfs`], with more files: path, mode, bytes.
///
/// # Errors
/// When a package can't be had.
pub fn with_files(kernel: &Kernel, modules: &[&str], script: &str, files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = start()?;
    for folder in ["proc", "sys", "tmp", "run", "etc"] {
        archive.folder(folder)?;
    }
    let mut init = String::from(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n",
    );
    for module in kernel.modules(modules)? {
        archive.file(&format!("/lib/{}.ko", module.name), 0o644, &module.bytes)?;
        init.push_str(&format!("insmod /lib/{}.ko\n", module.name));
    }
    init.push_str(script);
    init.push('\n');
    archive.file("/init", 0o755, init.as_bytes())?;
    for (path, mode, bytes) in files {
        archive.file(path, *mode, bytes)?;
    }
    Ok(archive.finish()?)
}
