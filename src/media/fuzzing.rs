//! Bodies of the fuzz targets of install media: images, and what trees say of themselves.

#![allow(clippy::expect_used)] // Failing is how a finding shows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use super::iso::Iso;
use crate::failure::Failure;
use crate::os::{Place, Tree, find};

/// Where volume descriptors begin, in bytes: what stands before is the loader's, and no part of an input.
pub const SYSTEM_AREA: u64 = 16 * 2048;

/// An image, from its first volume descriptor on.
struct Image(Iso);

impl Tree for Image {
    fn has(&self, path: &str) -> Result<bool, Failure> {
        self.0.has(path)
    }
    fn text(&self, path: &str) -> Result<Option<String>, Failure> {
        self.0.text(path)
    }
    fn place(&self) -> Place {
        Place::Medium
    }
}

/// Looks for an installer in an image of these bytes, and copies it out.
pub fn fuzz_image(bytes: &[u8]) {
    let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).expect("memory"));
    file.write_all_at(bytes, SYSTEM_AREA).expect("memory");
    let Ok(iso) = Iso::of(file, Path::new("image"), false) else { return };
    let image = Image(iso);
    if let Ok(find::Search::Found(installer)) = find::find(&image) {
        for path in std::iter::once(&installer.kernel).chain(&installer.initrd) {
            let _ = image.0.copy(path, &mut io::sink());
        }
    }
}

/// A tree whose every file is there.
struct Texts(BTreeMap<&'static str, String>);

impl Tree for Texts {
    fn has(&self, path: &str) -> Result<bool, Failure> {
        assert!(!path.split('/').any(|part| part == "..") && !path.starts_with('/'), "{path} leads out");
        Ok(true)
    }
    fn text(&self, path: &str) -> Result<Option<String>, Failure> {
        assert!(!path.split('/').any(|part| part == "..") && !path.starts_with('/'), "{path} leads out");
        Ok(self.0.get(path).cloned())
    }
    fn place(&self) -> Place {
        Place::Medium
    }
}

/// Reads a treeinfo, a menu of isolinux and one of GRUB, which the byte 0xff parts.
pub fn fuzz_tree(bytes: &[u8]) {
    let names = [".treeinfo", "isolinux/isolinux.cfg", "isolinux/more.cfg", "boot/grub/grub.cfg", "more.cfg"];
    let texts = bytes.split(|byte| *byte == 0xff).map(|text| String::from_utf8_lossy(text).into_owned());
    let tree = Texts(names.into_iter().zip(texts).collect());
    let _ = find::find(&tree);
    // A treeinfo hides the menus.
    let menus = Texts(tree.0.into_iter().filter(|(name, _)| *name != ".treeinfo").collect());
    let _ = crate::os::menu::read(&menus);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_in_any_disorder() {
        const WORDS: [&str; 30] = [
            "[general]\n",
            "[images-x86_64]\n",
            "[checksums]\n",
            "family=Fedora\n",
            "kernel = ",
            "initrd=",
            "sha256:",
            "\n",
            "label ",
            "include ",
            "append ",
            "kernel ",
            "../",
            "/",
            "a",
            "more.cfg",
            "menuentry ",
            "{",
            "}",
            "\"",
            "'",
            "\\",
            "set ",
            "a=",
            "$a",
            "${a}",
            "source ",
            "linux ",
            "\u{fffd}",
            "default ",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..next() % 60 {
                match next() % 12 {
                    0 => bytes.push(0xff),
                    1 => bytes.push(next() as u8),
                    _ => bytes.extend_from_slice(WORDS[(next() % WORDS.len() as u64) as usize].as_bytes()),
                }
            }
            fuzz_tree(&bytes);
        }
    }
}
