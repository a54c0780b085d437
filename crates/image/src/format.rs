//! Which format a file has, by its first bytes.

use crate::qcow2::header;
use crate::storage::{self, Storage};

/// A format that is written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's own, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// Its name in commands and documents.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }

    /// The format of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Format::Raw, Format::Qcow2].into_iter().find(|format| format.name() == name)
    }
}

/// What the first bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    /// One of ours.
    Format(Format),
    /// Another one, which can't be used.
    Foreign(&'static str),
}

/// Bytes at the beginning of a file that a guess looks at.
pub const LOOKED_AT: usize = 2048;

/// Guesses by the first bytes; what is nothing else is raw.
pub fn guess(start: &[u8]) -> Guess {
    let at = |offset: usize, magic: &[u8]| start.get(offset..offset + magic.len()) == Some(magic);
    if header::is_qcow2(start) {
        return if at(4, &[0, 0, 0, 1]) { Guess::Foreign("qcow") } else { Guess::Format(Format::Qcow2) };
    }
    let foreign = [
        (at(0, b"KDMV") || at(0, b"COWD") || at(0, b"# Disk DescriptorFile"), "vmdk"),
        (at(64, &0xbeda_107f_u32.to_le_bytes()), "vdi"),
        (at(0, b"vhdxfile"), "vhdx"),
        (at(0, b"conectix"), "vpc"),
        (at(0, b"QED\0"), "qed"),
        (at(0, b"LUKS\xba\xbe"), "luks"),
        (at(0, b"WithoutFreeSpace") || at(0, b"WithouFreSpacExt"), "parallels"),
        (at(0, b"Bochs Virtual HD Image"), "bochs"),
        (at(0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"), "cloop"),
    ];
    foreign.into_iter().find(|(is, _)| *is).map_or(Guess::Format(Format::Raw), |(_, name)| Guess::Foreign(name))
}

/// Guesses a storage's format.
///
/// # Errors
/// When it can't be read.
pub fn guess_storage(storage: &dyn Storage) -> std::io::Result<Guess> {
    let len = storage.len()?.min(LOOKED_AT as u64) as usize;
    let mut start = vec![0; len];
    storage::read(storage, &mut start, 0)?;
    Ok(guess(&start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers_are_known() {
        assert_eq!(guess(b""), Guess::Format(Format::Raw));
        assert_eq!(guess(b"QFI\xfb\0\0\0\x03"), Guess::Format(Format::Qcow2));
        assert_eq!(guess(b"QFI\xfb\0\0\0\x01"), Guess::Foreign("qcow"));
        assert_eq!(guess(b"LUKS\xba\xbe\0\x01"), Guess::Foreign("luks"));
        let mut vdi = vec![0; 512];
        vdi[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        assert_eq!(guess(&vdi), Guess::Foreign("vdi"));
    }
}
