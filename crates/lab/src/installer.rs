//! Debian's real installer, out of its netboot package.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::screen::Font;

/// An install tree with the installer.
pub struct Netboot {
    /// The tree's folder.
    pub tree: PathBuf,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initrd, gzip-compressed.
    pub initrd: PathBuf,
}

/// The package that has it.
pub const PACKAGE: &str = "debian-installer-12-netboot-amd64";
/// Where the tree lies inside a lab, when a test has brought it there.
pub const INSIDE: &str = "/lab/netboot";
const TREE: &str = "usr/lib/debian-installer/images/12/amd64/text";

impl Netboot {
    /// The newest that apt knows; fetched once (132 MB).
    ///
    /// # Errors
    /// When the package can't be had.
    pub fn get() -> Result<Self> {
        if crate::inside() {
            return Ok(Self::at(Path::new(INSIDE)));
        }
        Ok(Self::at(&packages::package(PACKAGE)?.join(TREE)))
    }

    fn at(tree: &Path) -> Self {
        let folder = tree.join("debian-installer/amd64");
        Self { tree: tree.into(), kernel: folder.join("linux"), initrd: folder.join("initrd.gz") }
    }

    /// The font with which the installer draws its text screens.
    ///
    /// # Errors
    /// When the initrd can't be read or has no such font.
    pub fn font(&self) -> Result<Font> {
        let file = File::open(&self.initrd).with_context(|| format!("opening {}", self.initrd.display()))?;
        let mut archive = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut archive).context("unpacking the initrd")?;
        Font::bgf(find(&archive, "lib/unifont.bgf")?)
    }

    /// Copies the tree's files that a network installation fetches into `to`, with a list of their checksums.
    ///
    /// # Errors
    /// When they can't be copied.
    pub fn serve_from(&self, to: &Path) -> Result<()> {
        let folder = to.join("debian-installer/amd64");
        fs::create_dir_all(&folder)?;
        fs::copy(&self.kernel, folder.join("linux"))?;
        fs::copy(&self.initrd, folder.join("initrd.gz"))?;
        Ok(())
    }
}

/// The bytes of a file in a "newc" cpio archive (Linux, buffer-format.rst).
fn find<'a>(archive: &'a [u8], path: &str) -> Result<&'a [u8]> {
    const HEADER: usize = 110;
    let mut at = 0;
    loop {
        let header = archive.get(at..at + HEADER).context("the initrd's archive is cut short")?;
        if !header.starts_with(b"07070") {
            bail!("the initrd is no cpio archive");
        }
        let field = |n: usize| -> Result<usize> {
            let text = std::str::from_utf8(&header[6 + n * 8..14 + n * 8])?;
            Ok(usize::from_str_radix(text, 16)?)
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let name = archive.get(at + HEADER..at + HEADER + name_size.saturating_sub(1)).unwrap_or_default();
        let data = (at + HEADER + name_size).next_multiple_of(4);
        if name == b"TRAILER!!!" {
            bail!("the initrd has no {path}");
        }
        if name.strip_prefix(b"./").unwrap_or(name) == path.as_bytes() {
            return archive.get(data..data + size).context("the initrd's archive is cut short");
        }
        at = (data + size).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::Archive;

    #[test]
    fn a_file_is_found_in_an_archive() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b", 0o644, b"one").unwrap();
        archive.file("c", 0o644, b"two").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(find(&bytes, "c").unwrap(), b"two");
        assert!(find(&bytes, "d").is_err());
        assert!(find(&bytes[..100], "c").is_err());
    }
}
