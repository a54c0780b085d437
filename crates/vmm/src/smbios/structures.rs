//! The structures themselves (DSP0134, chapter 7).

use super::Machine;

/// Memory devices are shown in pieces of this many bytes.
const DIMM: u64 = 16 << 30;
const MIB: u64 = 1 << 20;
/// "Unknown" and "other" in most enumerations.
const OTHER: u8 = 1;
const UNKNOWN: u8 = 2;
const HANDLE_ARRAY: u16 = 0x1000;
const NONE: u16 = 0xfffe;

/// A structure: formatted part and strings.
pub struct Structure {
    kind: u8,
    handle: u16,
    body: Vec<u8>,
    strings: Vec<String>,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        Self { kind, handle, body: Vec::new(), strings: Vec::new() }
    }

    fn bytes_of(mut self, bytes: &[u8]) -> Self {
        self.body.extend(bytes);
        self
    }

    fn word(self, n: u16) -> Self {
        self.bytes_of(&n.to_le_bytes())
    }

    fn dword(self, n: u32) -> Self {
        self.bytes_of(&n.to_le_bytes())
    }

    fn qword(self, n: u64) -> Self {
        self.bytes_of(&n.to_le_bytes())
    }

    fn string(mut self, text: &str) -> Self {
        self.strings.push(text.into());
        self.body.push(self.strings.len() as u8);
        self
    }

    /// As they stand in the table.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, (self.body.len() + 4) as u8];
        bytes.extend(self.handle.to_le_bytes());
        bytes.extend(&self.body);
        for string in &self.strings {
            bytes.extend(string.as_bytes());
            bytes.push(0);
        }
        if self.strings.is_empty() {
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }
}

/// Length of the first structure with its strings.
pub fn len_of(table: &[u8]) -> Option<usize> {
    let formatted = usize::from(*table.get(1)?);
    let end = table.get(formatted..)?.windows(2).position(|pair| pair == [0, 0])?;
    Some(formatted + end + 2)
}

/// All structures.
pub fn all(machine: &Machine) -> Vec<Structure> {
    let mut list = vec![firmware(), system(machine), chassis()];
    list.extend((0..machine.sockets.min(255) as u16).map(|n| processor(machine, n)));
    let total: u64 = machine.memory.iter().map(|(_, len)| len).sum();
    let dimms = total.div_ceil(DIMM).min(0xfff) as u16;
    list.push(array(total, dimms));
    list.extend((0..dimms).map(|n| dimm(n, (total - u64::from(n) * DIMM).min(DIMM))));
    list.extend((0u16..).zip(&machine.memory).map(|(n, (base, len))| mapped(n, *base, *len, dimms)));
    list.push(Structure::new(32, 0x2000).bytes_of(&[0; 7]));
    list.push(Structure::new(127, 0x7f00));
    list
}

// 7.1. There is none: this is what systems are told on a direct boot.
fn firmware() -> Structure {
    let characteristics_not_supported = 1 << 3;
    let virtual_machine = [0, 1 << 4];
    Structure::new(0, 0)
        .string("kiln")
        .string(env!("CARGO_PKG_VERSION"))
        .word(0)
        .string("01/01/2026")
        .bytes_of(&[0])
        .qword(characteristics_not_supported)
        .bytes_of(&virtual_machine)
        .bytes_of(&[0xff, 0xff, 0xff, 0xff])
}

// 7.2.
fn system(machine: &Machine) -> Structure {
    let mut uuid = machine.uuid;
    // 7.2.1: the first three fields are little-endian.
    let (fields, _) = uuid.split_at_mut(8);
    let (first, rest) = fields.split_at_mut(4);
    first.reverse();
    rest.chunks_mut(2).for_each(|field| field.reverse());
    let power_switch = 6;
    Structure::new(1, 0x100)
        .string("kiln")
        .string("PC")
        .string(machine.version)
        .bytes_of(&[0])
        .bytes_of(&uuid)
        .bytes_of(&[power_switch, 0, 0])
}

// 7.4.
fn chassis() -> Structure {
    let safe = 3;
    Structure::new(3, 0x300)
        .string("kiln")
        .bytes_of(&[OTHER, 0, 0, 0, safe, safe, safe, UNKNOWN])
        .dword(0)
        .bytes_of(&[0, 0, 0, 0, 0])
}

// 7.5.
fn processor(machine: &Machine, n: u16) -> Structure {
    let (central, populated_enabled, upgrade_other) = (3, 0x41, OTHER);
    let count = |n: u32| n.min(0xff) as u8;
    let (cores, threads) = (machine.cores, machine.threads);
    Structure::new(4, 0x400 + n)
        .string(&format!("CPU {n}"))
        .bytes_of(&[central, OTHER])
        .string("kiln")
        .qword(0)
        .string(machine.version)
        .bytes_of(&[0])
        .word(0)
        .word(2000)
        .word(2000)
        .bytes_of(&[populated_enabled, upgrade_other])
        .word(0xffff)
        .word(0xffff)
        .word(0xffff)
        .bytes_of(&[0, 0, 0, count(cores), count(cores), count(threads)])
        .word(UNKNOWN.into())
        .word(OTHER.into())
        .word(cores as u16)
        .word(cores as u16)
        .word(threads as u16)
}

// 7.17.
fn array(total: u64, dimms: u16) -> Structure {
    let (system_memory, other, no_correction) = (3, OTHER, 3);
    let kib = total / 1024;
    let (short, extended) = if kib < 0x8000_0000 { (kib as u32, 0) } else { (0x8000_0000, total) };
    Structure::new(16, HANDLE_ARRAY)
        .bytes_of(&[other, system_memory, no_correction])
        .dword(short)
        .word(NONE)
        .word(dimms)
        .qword(extended)
}

// 7.18.
fn dimm(n: u16, len: u64) -> Structure {
    let (form_dimm, ram) = (9, 7);
    Structure::new(17, 0x1100 + n)
        .word(HANDLE_ARRAY)
        .word(NONE)
        .word(0xffff)
        .word(0xffff)
        // At most 16 GiB, so always below what needs the extended field.
        .word((len / MIB) as u16)
        .bytes_of(&[form_dimm, 0])
        .string(&format!("DIMM {n}"))
        .bytes_of(&[0, ram])
        .word(1 << OTHER)
        .word(0)
        .bytes_of(&[0, 0, 0, 0, 0])
        .dword(0)
        .word(0)
        .word(0)
        .word(0)
        .word(0)
}

// 7.20.
fn mapped(n: u16, base: u64, len: u64, dimms: u16) -> Structure {
    let last = base + len.max(1) - 1;
    let structure = Structure::new(19, 0x1300 + n);
    // Addresses in KiB fit 32 bits below 4 TiB; the extended fields take the rest.
    let (first_kib, last_kib) = (base / 1024, last / 1024);
    let ways = dimms.min(255) as u8;
    if last_kib < u64::from(u32::MAX) {
        let short = structure.dword(first_kib as u32).dword(last_kib as u32);
        short.word(HANDLE_ARRAY).bytes_of(&[ways]).qword(0).qword(0)
    } else {
        let extended = structure.dword(u32::MAX).dword(u32::MAX);
        extended.word(HANDLE_ARRAY).bytes_of(&[ways]).qword(base).qword(last)
    }
}
