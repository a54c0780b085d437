//! Debian packages that the lab and its guests are made of: fetched once, unpacked without root, cached by version.
//!
//! The cache is `$XDG_CACHE_HOME/kiln-lab` (or `~/.cache/kiln-lab`), one folder per package and version. It may be
//! deleted at any time. Inside the lab [`cloud_kernel`] and [`busybox`] name the files that the lab brought along.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{inside, module, vmlinux};

/// Debian's cloud kernel, as the lab runs it and as guests in it do.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The compressed kernel with its boot header.
    pub bzimage: PathBuf,
    /// The ELF file inside it, with a PVH entry point.
    pub vmlinux: PathBuf,
    /// Release, e.g. `6.1.0-40-cloud-amd64`.
    pub version: String,
    /// Folder that holds its modules.
    pub modules: PathBuf,
}

/// Where everything of the kernel and busybox lies inside the lab.
pub(crate) const INSIDE: &str = "/lab/packages";

impl Kernel {
    pub(crate) fn at(root: &Path, version: String) -> Self {
        Self { bzimage: root.join("bzImage"), vmlinux: root.join("vmlinux"), modules: root.join("modules"), version }
    }

    /// The named modules with their dependencies, in loading order.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<module::Module>> {
        module::Index::read(&self.modules)?.in_loading_order(names)
    }
}

/// Debian's cloud kernel: the package that `linux-image-cloud-amd64` depends on.
///
/// # Errors
/// When the package can't be had: no apt, no network, no package lists.
pub fn cloud_kernel() -> Result<Kernel> {
    if inside() {
        let root = Path::new(INSIDE);
        return Ok(Kernel::at(root, fs::read_to_string(root.join("version"))?));
    }
    let name = dependency_of("linux-image-cloud-amd64", "linux-image-")?;
    let root = unpacked(&name, |tree| {
        let boot = fs::read_dir(tree.join("boot"))?.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let file = boot.into_iter().find(|f| f.starts_with("vmlinuz-")).context("the package has no kernel")?;
        let version = file.trim_start_matches("vmlinuz-").to_owned();
        let bzimage = fs::read(tree.join("boot").join(&file))?;
        fs::write(tree.join("vmlinux"), vmlinux::extract(&bzimage)?)?;
        fs::rename(tree.join("boot").join(&file), tree.join("bzImage"))?;
        fs::rename(tree.join("lib/modules").join(&version), tree.join("modules"))?;
        fs::write(tree.join("version"), version)?;
        Ok(())
    })?;
    let version = fs::read_to_string(root.join("version"))?;
    Ok(Kernel::at(&root, version))
}

/// A statically linked busybox.
///
/// # Errors
/// As [`cloud_kernel`].
pub fn busybox() -> Result<PathBuf> {
    if inside() {
        return Ok(Path::new(INSIDE).join("busybox"));
    }
    let root = unpacked("busybox-static", |_| Ok(()))?;
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|p| root.join(p))
        .find(|p| p.exists())
        .context("the package busybox-static has no busybox")
}

/// The folder into which the newest version of a package is unpacked; fetches it the first time.
///
/// # Errors
/// As [`cloud_kernel`].
pub fn package(name: &str) -> Result<PathBuf> {
    unpacked(name, |_| Ok(()))
}

/// Folder of the cache.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("kiln-lab")
}

fn unpacked(name: &str, then: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let lock = File::create(cache.join(".lock")).context("opening the lab's cache")?;
    lock.lock().context("locking the lab's cache")?;
    let version = candidate(name)?;
    let home = cache.join(format!("{name}_{}", version.replace(':', "%3a")));
    if home.exists() {
        return Ok(home);
    }
    eprintln!("lab: fetching {name} {version}");
    let work = tempfile::tempdir_in(&cache)?;
    let tree = work.path().join("tree");
    run(Command::new("apt-get").args(["download", "-q", &format!("{name}={version}")]).current_dir(work.path()))?;
    let deb = fs::read_dir(work.path())?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("apt-get downloaded nothing for {name}"))?;
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&tree))?;
    then(&tree)?;
    fs::rename(&tree, &home).with_context(|| format!("moving {name} into the cache"))?;
    Ok(home)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn apt_cache(args: &[&str]) -> Result<String> {
    let output = Command::new("apt-cache")
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .context("running apt-cache: the lab is made of Debian packages and needs apt")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn dependency_of(package: &str, prefix: &str) -> Result<String> {
    let text = apt_cache(&["depends", package])?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .with_context(|| format!("apt knows no package {package}: run apt-get update first"))
}

fn candidate(package: &str) -> Result<String> {
    let text = apt_cache(&["policy", package])?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
        .with_context(|| format!("apt knows no package {package}: run apt-get update first"))
}
