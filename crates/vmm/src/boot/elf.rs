//! 64-bit ELF kernels: segments and the note with the PVH entry.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::BootError;
use super::bits::*;
use super::header::{u16_at, u32_at, u64_at};

const HEADER_LEN: usize = 64;
const SEGMENT_LEN: usize = 56;
/// More segments than any kernel has.
const SEGMENTS_MAX: u16 = 64;
/// More notes than any kernel has.
const NOTES_MAX: u64 = 1 << 20;

/// A part of the file that is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it stands in the file.
    pub offset: u64,
    /// How much of it.
    pub file_len: u64,
    /// Physical address.
    pub address: u64,
    /// Length in memory; the rest is zeros.
    pub memory_len: u64,
}

/// A kernel for PVH.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What is loaded.
    pub segments: Vec<Segment>,
    /// First instruction.
    pub entry: u32,
}

impl Kernel {
    /// Reads headers and notes.
    ///
    /// # Errors
    /// When the file is for another machine, damaged, or has no PVH entry.
    pub fn parse(file: &File) -> Result<Self, BootError> {
        let header = read(file, 0, HEADER_LEN as u64)?;
        let word = |at| u16_at(&header, at).ok_or(BootError::NoKernel);
        if header.get(4) != Some(&ELF_CLASS64) || header.get(5) != Some(&ELF_LITTLE) || word(18)? != ELF_X86_64 {
            return Err(BootError::Not64Bit);
        }
        let table = u64_at(&header, 32).ok_or(BootError::NoKernel)?;
        let (size, count) = (word(54)?, word(56)?);
        if usize::from(size) != SEGMENT_LEN || count == 0 || count > SEGMENTS_MAX {
            return Err(BootError::Malformed("its program headers are not those of a kernel"));
        }
        let table = read(file, table, u64::from(size) * u64::from(count))?;
        let (mut segments, mut entry) = (Vec::new(), None);
        for raw in table.chunks_exact(SEGMENT_LEN) {
            let segment = segment(raw).ok_or(BootError::Malformed("a program header is cut short"))?;
            match u32_at(raw, 0) {
                Some(PT_LOAD) => segments.push(checked(segment)?),
                Some(PT_NOTE) => entry = entry.or(pvh_entry(&read(file, segment.offset, note_len(&segment)?)?)),
                _ => {}
            }
        }
        Ok(Self { segments, entry: entry.ok_or(BootError::NoPvhEntry)? })
    }
}

fn segment(raw: &[u8]) -> Option<Segment> {
    Some(Segment {
        offset: u64_at(raw, 8)?,
        address: u64_at(raw, 24)?,
        file_len: u64_at(raw, 32)?,
        memory_len: u64_at(raw, 40)?,
    })
}

fn checked(segment: Segment) -> Result<Segment, BootError> {
    let fits = segment.address.checked_add(segment.memory_len).is_some() && segment.file_len <= segment.memory_len;
    if fits { Ok(segment) } else { Err(BootError::Malformed("a segment is longer than its memory")) }
}

fn note_len(segment: &Segment) -> Result<u64, BootError> {
    if segment.file_len > NOTES_MAX { Err(BootError::Malformed("its notes are absurd")) } else { Ok(segment.file_len) }
}

// Notes: name length, descriptor length, type; then both, each padded to 4 bytes.
fn pvh_entry(mut notes: &[u8]) -> Option<u32> {
    loop {
        let (name_len, len, kind) = (u32_at(notes, 0)?, u32_at(notes, 4)?, u32_at(notes, 8)?);
        let padded = |n: u32| (n as usize).checked_next_multiple_of(4);
        let rest = notes.get(12..)?;
        let descriptor = rest.get(padded(name_len)?..)?;
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && rest.get(..name_len as usize)? == b"Xen\0" && len >= 4 {
            return u32_at(descriptor, 0);
        }
        notes = descriptor.get(padded(len)?..)?;
    }
}

fn read(mut file: &File, offset: u64, len: u64) -> Result<Vec<u8>, BootError> {
    let refused = |e| BootError::Read("kernel", e);
    file.seek(SeekFrom::Start(offset)).map_err(refused)?;
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 == len { Ok(bytes) } else { Err(BootError::Malformed("it is cut short")) }
}
