//! Writes and reads cpio archives in the "newc" form that Linux unpacks as its initramfs.
//!
//! Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

use std::collections::BTreeSet;
use std::io::{self, Write};

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// Length of an entry's header, before its name.
const HEADER: usize = 110;

/// An archive that is being written. Missing parent folders are added by themselves.
pub struct Archive<W: Write> {
    to: W,
    inode: u32,
    folders: BTreeSet<String>,
    files: BTreeSet<String>,
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(to: W) -> Self {
        Self { to, inode: 0, folders: BTreeSet::new(), files: BTreeSet::new() }
    }

    /// Adds a regular file. A second file of the same name is left out: the first one stands.
    ///
    /// # Errors
    /// When writing fails or `data` is 4 GiB or more (the form has 32-bit sizes).
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.leaf(path, Entry { name: "", mode: S_IFREG | (mode & 0o7777), device: (0, 0), data })
    }

    /// Adds a symbolic link that points to `target`.
    ///
    /// # Errors
    /// When writing fails.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.leaf(path, Entry { name: "", mode: S_IFLNK | 0o777, device: (0, 0), data: target.as_bytes() })
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// When writing fails.
    pub fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> io::Result<()> {
        self.leaf(path, Entry { name: "", mode: S_IFCHR | (mode & 0o7777), device: (major, minor), data: &[] })
    }

    /// Adds a folder and those above it.
    ///
    /// # Errors
    /// When writing fails.
    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        let mut whole = String::new();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            if !whole.is_empty() {
                whole.push('/');
            }
            whole.push_str(part);
            if self.folders.insert(whole.clone()) {
                self.entry(Entry { name: &whole, mode: S_IFDIR | 0o755, device: (0, 0), data: &[] })?;
            }
        }
        Ok(())
    }

    /// Ends the archive and gives the writer back.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry(Entry { name: "TRAILER!!!", mode: 0, device: (0, 0), data: &[] })?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn leaf(&mut self, path: &str, entry: Entry<'_>) -> io::Result<()> {
        let name = path.trim_start_matches('/').to_owned();
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder)?;
        }
        if self.files.insert(name.clone()) {
            self.entry(Entry { name: &name, ..entry })?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry<'_>) -> io::Result<()> {
        let size = u32::try_from(entry.data.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{} is too big for a cpio", entry.name))
        })?;
        self.inode += 1;
        let links = if entry.mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        let name_size = entry.name.len() as u32 + 1;
        let fields = [self.inode, entry.mode, 0, 0, links, 0, size, 0, 0, entry.device.0, entry.device.1, name_size, 0];
        let mut header = b"070701".to_vec();
        for field in fields {
            write!(header, "{field:08X}")?;
        }
        header.extend_from_slice(entry.name.as_bytes());
        header.push(0);
        pad(&mut header);
        self.to.write_all(&header)?;
        self.to.write_all(entry.data)?;
        self.to.write_all(&[0; 3][..entry.data.len().wrapping_neg() % 4])
    }
}

/// A regular file in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed<'a> {
    /// Its path as the archive has it.
    pub name: &'a str,
    /// Its content.
    pub data: &'a [u8],
}

/// The regular files of an archive, or of several with zeros between them as initramfs may be. Ends where the bytes
/// are no archive any more.
pub fn files(mut archive: &[u8]) -> impl Iterator<Item = Packed<'_>> {
    std::iter::from_fn(move || {
        loop {
            let start = archive.iter().position(|byte| *byte != 0)?;
            let (mode, packed, rest) = entry(archive.get(start..)?)?;
            archive = rest;
            if mode & S_IFMT == S_IFREG {
                return Some(packed);
            }
        }
    })
}

// The first entry's mode, name and data, and what follows it.
fn entry(bytes: &[u8]) -> Option<(u32, Packed<'_>, &[u8])> {
    let field = |n: usize| {
        let digits = str::from_utf8(bytes.get(6 + 8 * n..14 + 8 * n)?).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    if !bytes.starts_with(b"070701") {
        return None;
    }
    let (mode, len, name_len) = (field(1)?, field(6)? as usize, field(11)? as usize);
    let name = str::from_utf8(bytes.get(HEADER..(HEADER + name_len).checked_sub(1)?)?).ok()?;
    let from = (HEADER + name_len).next_multiple_of(4);
    let data = bytes.get(from..from + len)?;
    let rest = bytes.get((from + len).next_multiple_of(4)..).unwrap_or_default();
    Some((mode, Packed { name, data }, rest))
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_what_the_format_says() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a", 0o644, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let mut want = b"070701000000010000\
            81A4000000000000000000000001000000000000000500000000000000000000000000000000000000020000\
            0000a\0"
            .to_vec();
        pad(&mut want);
        want.extend_from_slice(b"hello\0\0\0");
        assert_eq!(String::from_utf8_lossy(&bytes[..want.len()]), String::from_utf8_lossy(&want));
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }

    #[test]
    fn files_of_joined_archives_are_found_again() {
        let mut joined = Vec::new();
        for (name, data) in [("/a/b", &b"hello"[..]), ("c", b"")] {
            let mut archive = Archive::new(Vec::new());
            archive.file(name, 0o644, data).unwrap();
            archive.symlink("/link", "there").unwrap();
            joined.extend(archive.finish().unwrap());
            joined.resize(joined.len().next_multiple_of(512), 0);
        }
        joined.extend(b"something else");
        let found: Vec<_> = files(&joined).collect();
        assert_eq!(found, [Packed { name: "a/b", data: b"hello" }, Packed { name: "c", data: b"" }]);
        for len in 0..joined.len() {
            assert!(files(&joined[..len]).count() <= 2);
        }
    }

    #[test]
    fn cpio_unpacks_it() {
        let there = tempfile::tempdir().unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.file("/etc/deep/motd", 0o600, b"hi").unwrap();
        archive.file("etc/deep/motd", 0o600, b"second").unwrap();
        archive.symlink("/bin/sh", "busybox").unwrap();
        let bytes = archive.finish().unwrap();
        let mut child = std::process::Command::new(crate::packages::busybox().unwrap())
            .args(["cpio", "-idu"])
            .current_dir(there.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read(there.path().join("etc/deep/motd")).unwrap(), b"hi");
        assert_eq!(std::fs::read_link(there.path().join("bin/sh")).unwrap().to_str(), Some("busybox"));
    }
}
