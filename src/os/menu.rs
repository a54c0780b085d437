//! Boot menus of install media: which kernels they offer, and with which words.

use std::collections::BTreeSet;

use super::{Tree, grub, syslinux};
use crate::failure::Failure;

/// Files of one menu that are read at most, and the bytes that they may have together.
pub const MOST_FILES: usize = 64;
/// See [`MOST_FILES`].
pub const MOST_TEXT: usize = 1 << 20;
/// Entries that are looked at.
pub const MOST_ENTRIES: usize = 256;

/// Where the menus are, in the order in which they are looked for. Folders of a medium differ in case only by its names.
const SYSLINUX: [&str; 10] = [
    "isolinux/isolinux.cfg",
    "boot/isolinux/isolinux.cfg",
    "boot/x86_64/loader/isolinux.cfg",
    "isolinux.cfg",
    "syslinux/isolinux.cfg",
    "boot/syslinux/isolinux.cfg",
    "syslinux/syslinux.cfg",
    "boot/syslinux/syslinux.cfg",
    "arch/boot/syslinux/syslinux.cfg",
    "syslinux.cfg",
];
const GRUB: [&str; 7] = [
    "boot/grub/grub.cfg",
    "boot/grub2/grub.cfg",
    "EFI/BOOT/grub.cfg",
    "EFI/boot/grub.cfg",
    "grub/grub.cfg",
    "boot/grub/loopback.cfg",
    "boot/grub/x86_64-efi/grub.cfg",
];

/// Files of one menu as they are read: each once, so that no circle has an end to look for, and not too many or too long.
pub(super) struct Files<'a> {
    tree: &'a dyn Tree,
    seen: BTreeSet<String>,
    /// Bytes that may still be read.
    left: usize,
}

impl<'a> Files<'a> {
    pub(super) fn of(tree: &'a dyn Tree) -> Self {
        Self { tree, seen: BTreeSet::new(), left: MOST_TEXT }
    }

    /// The text of a file; `None` when there is none, it was read before, or it would be too much.
    pub(super) fn text(&mut self, path: &str) -> Result<Option<String>, Failure> {
        if self.seen.len() >= MOST_FILES || !self.seen.insert(path.to_owned()) {
            return Ok(None);
        }
        let text = self.tree.text(path)?.filter(|text| text.len() <= self.left);
        self.left -= text.as_ref().map_or(0, String::len);
        Ok(text)
    }
}

/// A line of a menu.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub label: String,
    /// Kernel's path in the tree.
    pub kernel: String,
    /// Paths of its initrds.
    pub initrd: Vec<String>,
    /// Words for the kernel.
    pub words: Vec<String>,
    /// It is what boots by itself.
    pub is_default: bool,
}

/// A menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Menu {
    /// The file that it begins in.
    pub file: String,
    /// Its entries, the one that boots by itself first.
    pub entries: Vec<Entry>,
}

/// All menus of a medium that start Linux kernels.
///
/// # Errors
/// When a file can't be read.
pub fn read(tree: &dyn Tree) -> Result<Vec<Menu>, Failure> {
    type Reader = fn(&dyn Tree, &str) -> Result<Vec<Entry>, Failure>;
    let kinds: [(&[&str], Reader); 2] = [(&SYSLINUX, syslinux::read), (&GRUB, grub::read)];
    let mut menus = Vec::new();
    for (names, reader) in kinds {
        for name in names {
            if !tree.has(name)? {
                continue;
            }
            let mut entries = reader(tree, name)?;
            entries.retain(is_linux);
            entries.sort_by_key(|entry| !entry.is_default);
            if !entries.is_empty() {
                menus.push(Menu { file: (*name).to_owned(), entries });
            }
        }
    }
    Ok(menus)
}

// Menus offer other things as well: disks' images by memdisk, tests of the memory, modules of the loader's own.
fn is_linux(entry: &Entry) -> bool {
    let name = entry.kernel.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let other = ["memdisk", "memtest", "mt86", "hdt", "ipxe"].iter().any(|start| name.starts_with(start));
    let suffix = [".c32", ".bin", ".img", ".0", ".bss", ".efi", ".com", ".cbt"].iter().any(|end| name.ends_with(end));
    // No kernel's words have these, and a terminal would take them for commands.
    let odd = entry.words.iter().any(|word| word.contains(char::is_control));
    !entry.kernel.is_empty() && !entry.initrd.is_empty() && !other && !suffix && !odd
}
