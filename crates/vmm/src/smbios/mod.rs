//! SMBIOS tables: who the machine says it is (DMTF DSP0134, version 2.8).
//!
//! Types 0, 1, 3, 4, 16, 17, 19, 32 and 127, and the 32-bit entry point. Type 1 carries the domain's UUID. On a
//! direct boot they stand where systems look: at a 16-byte boundary in 0xf0000-0xfffff.

mod structures;

use structures::Structure;

/// First address at which systems look for the entry point.
pub const SEGMENT: u64 = 0xf_0000;
/// Length of the entry point, rounded up so that the tables follow on a boundary.
const ENTRY_LEN: usize = 0x20;

/// What the tables tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// UUID in the order in which it is written.
    pub uuid: [u8; 16],
    /// Processor sockets.
    pub sockets: u32,
    /// Cores in each socket.
    pub cores: u32,
    /// Threads in each socket.
    pub threads: u32,
    /// Ranges of RAM: first address and length in bytes.
    pub memory: Vec<(u64, u64)>,
    /// The machine's version, e.g. `kiln-q35-0`.
    pub version: &'static str,
}

/// The structures, without entry point.
pub fn structures(machine: &Machine) -> (Vec<u8>, u16) {
    let list = structures::all(machine);
    let bytes = list.iter().flat_map(Structure::bytes).collect();
    (bytes, list.len() as u16)
}

/// Entry point and structures as they stand at `base`, a multiple of 16.
pub fn place(machine: &Machine, base: u32) -> Vec<u8> {
    let (table, count) = structures(machine);
    let mut bytes = entry_point(&table, count, base + ENTRY_LEN as u32);
    bytes.resize(ENTRY_LEN, 0);
    bytes.extend(table);
    bytes
}

// 5.2.1: the 32-bit entry point of version 2.8.
fn entry_point(table: &[u8], count: u16, address: u32) -> Vec<u8> {
    let longest = largest(table) as u16;
    let mut inner = b"_DMI_\0".to_vec();
    inner.extend((table.len() as u16).to_le_bytes());
    inner.extend(address.to_le_bytes());
    inner.extend(count.to_le_bytes());
    inner.push(0x28);
    seal(&mut inner, 5);
    let mut outer = b"_SM_\0\x1f\x02\x08".to_vec();
    outer.extend(longest.to_le_bytes());
    outer.extend([0; 6]);
    outer.extend(inner);
    seal(&mut outer, 4);
    outer
}

fn seal(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = sum.wrapping_neg();
    }
}

// Length of the longest structure with its strings.
fn largest(table: &[u8]) -> usize {
    let (mut rest, mut longest) = (table, 0);
    while let Some(len) = structures::len_of(rest) {
        longest = longest.max(len);
        rest = rest.get(len..).unwrap_or_default();
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            uuid: *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
            sockets: 2,
            cores: 4,
            threads: 8,
            memory: vec![(0, 2 << 30), (4 << 30, 62 << 30)],
            version: "kiln-q35-0",
        }
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Type, formatted part and strings of each structure.
    fn read(mut table: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let mut list = Vec::new();
        while let Some(len) = structures::len_of(table) {
            let formatted = usize::from(table[1]);
            let strings = table[formatted..len].split(|b| *b == 0).filter(|s| !s.is_empty());
            let strings = strings.map(|s| String::from_utf8(s.to_vec()).unwrap()).collect();
            list.push((table[0], table[..formatted].to_vec(), strings));
            table = &table[len..];
        }
        assert!(table.is_empty());
        list
    }

    #[test]
    fn the_entry_point_adds_up_and_finds_all_structures() {
        let bytes = place(&machine(), 0xf_0000);
        assert_eq!(
            (&bytes[..4], &bytes[16..21], sum(&bytes[..31]), sum(&bytes[16..31])),
            (&b"_SM_"[..], &b"_DMI_"[..], 0, 0)
        );
        let len = u16::from_le_bytes([bytes[22], bytes[23]]);
        assert_eq!(bytes.len(), 0x20 + usize::from(len));
        assert_eq!(u32::from_le_bytes(bytes[24..28].try_into().unwrap()), 0xf_0020);
        let list = read(&bytes[0x20..]);
        assert_eq!(u16::from_le_bytes([bytes[28], bytes[29]]), list.len() as u16);
        let longest = u16::from_le_bytes([bytes[8], bytes[9]]);
        assert!(longest > 0 && usize::from(longest) < usize::from(len));
        assert_eq!(list.iter().map(|s| s.0).collect::<Vec<_>>(), [0, 1, 3, 4, 4, 16, 17, 17, 17, 17, 19, 19, 32, 127]);
        let mut handles: Vec<_> = list.iter().map(|s| [s.1[2], s.1[3]]).collect();
        handles.dedup();
        assert_eq!(handles.len(), list.len());
    }

    #[test]
    fn the_uuid_has_its_first_fields_turned() {
        let list = read(&structures(&machine()).0);
        assert_eq!(
            list[1].1[8..24],
            *b"\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
            "DSP0134 7.2.1"
        );
        assert_eq!(list[1].2, ["kiln", "PC", "kiln-q35-0"]);
    }

    #[test]
    fn processors_and_memory_are_counted() {
        let list = read(&structures(&machine()).0);
        assert_eq!([list[3].1[0x23], list[3].1[0x24], list[3].1[0x25]], [4, 4, 8]);
        let sizes: Vec<_> = list.iter().filter(|s| s.0 == 17).map(|s| u16::from_le_bytes([s.1[12], s.1[13]])).collect();
        assert_eq!(sizes, [0x4000; 4]);
    }
}
