//! Kernel modules: which there are in an unpacked kernel package, in which order they load, and the one change that
//! the lab makes to kvm-amd.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::elf;

/// The modules of one kernel, by name with underscores.
pub struct Index {
    files: BTreeMap<String, PathBuf>,
}

/// A module that is ready to load.
pub struct Module {
    /// Name with underscores, as `/proc/modules` shows it.
    pub name: String,
    /// The file's bytes.
    pub bytes: Vec<u8>,
}

impl Index {
    /// Finds the modules below `tree`.
    ///
    /// # Errors
    /// When a folder can't be read.
    pub fn read(tree: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![tree.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(name) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".ko")) {
                    files.insert(canonical(name), path);
                }
            }
        }
        Ok(Self { files })
    }

    /// The named modules and all they depend on, in loading order. A name that isn't there is taken for built in.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn in_loading_order(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.visit(&canonical(name), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<()> {
        let Some(path) = self.files.get(name) else { return Ok(()) };
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        for needed in dependencies(&bytes) {
            self.visit(&canonical(&needed), seen, order)?;
        }
        order.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

// `.modinfo` is a row of NUL-terminated "key=value" texts (kernel, include/linux/moduleparam.h).
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

/// kvm-amd with `svm_update_cr8_intercept` made empty, so that each guest write to CR8 exits to KVM.
///
/// QEMU's software SVM ends with an assertion when a guest writes CR8 while KVM waits for an interrupt window, as
/// edk2's interrupt entry does at every tick. A changed module has a wrong signature, which kernels refuse, while
/// none at all is accepted: the signature goes.
///
/// # Errors
/// When the module has no such function: UEFI guests would then end the lab, so it is better to know at once.
pub fn keep_cr8_intercept(module: &[u8]) -> Result<Vec<u8>> {
    const SIGNATURE: &[u8] = b"~Module signature appended~\n";
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    const CALL: u8 = 0xe8;
    const RET: u8 = 0xc3;
    let mut changed = module.strip_suffix(SIGNATURE).unwrap_or(module).to_vec();
    let mut at = elf::function_offset(module, "svm_update_cr8_intercept")?;
    if changed.get(at..).is_some_and(|code| code.starts_with(&ENDBR64)) {
        at += ENDBR64.len();
    }
    if changed.get(at) == Some(&CALL) {
        at += 5; // ftrace's call stays, or the kernel refuses the module
    }
    *changed.get_mut(at).context("kvm-amd is cut short")? = RET;
    Ok(changed)
}
