use super::*;

pub fn plain() -> Header {
    Header {
        version: 3,
        cluster_bits: 16,
        size: 1 << 30,
        l1_entries: 2,
        l1_offset: 0x30000,
        refcount_table_offset: 0x10000,
        refcount_table_clusters: 1,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        refcount_order: 4,
        compression: Compression::Zlib,
        backing: None,
        backing_format: None,
        data_file: None,
        bitmaps: None,
        unknown: Vec::new(),
        rest: Vec::new(),
        name_place: None,
    }
}

fn decode(header: &Header) -> Header {
    let mut bytes = header.encode().unwrap();
    bytes.resize(header.cluster_size() as usize, 0);
    Header::decode(&bytes).unwrap()
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut header = plain();
    assert_eq!(decode(&header), header);
    header.backing = Some("base.img".into());
    header.backing_format = Some("raw".into());
    header.unknown = vec![(0x1234_5678, b"abc".to_vec())];
    header.rest = vec![7; 8];
    let back = decode(&header);
    assert_eq!(Header { name_place: None, ..back.clone() }, header);
    assert_eq!(back.name_place.map(|(_, name)| name), header.backing);
    header.version = 2;
    header.rest.clear();
    header.cluster_bits = 9;
    header.l1_entries = 32768;
    assert_eq!(Header { name_place: None, ..decode(&header) }, header);
}

#[test]
fn a_new_name_spares_the_old_one_until_the_first_sector_switches() {
    let mut header = plain();
    header.backing = Some("a".repeat(700).into());
    let old = decode(&header);
    let mut new = old.clone();
    new.backing = Some("b".repeat(900).into());
    let bytes = new.encode().unwrap();
    let (mut file, new) = (old.encode().unwrap(), decode(&new));
    file.resize(1 << 16, 0);
    // All of the new header but its first sector is there: the old one still reads.
    let tail = &bytes[512..];
    let zeros_kept: Vec<u8> =
        tail.iter().zip(&file[512..]).map(|(new, old)| if *new == 0 { *old } else { *new }).collect();
    file[512..512 + tail.len()].copy_from_slice(&zeros_kept);
    assert_eq!(Header::decode(&file).unwrap(), old);
    file[..512].copy_from_slice(&bytes[..512]);
    assert_eq!(Header::decode(&file).unwrap().backing, new.backing);
}

#[test]
fn bad_fields_are_told() {
    let bad = |change: fn(&mut Vec<u8>)| {
        let mut bytes = plain().encode().unwrap();
        bytes.resize(1 << 16, 0);
        change(&mut bytes);
        Header::decode(&bytes).unwrap_err().to_string()
    };
    assert_eq!(bad(|b| b[3] = 0), "it has no qcow2 magic number");
    assert_eq!(bad(|b| b[7] = 1), "its version is 1; 2 and 3 are known");
    assert_eq!(bad(|b| b[23] = 30), "its cluster size is 2^30 bytes; 2^9 to 2^21 are possible");
    assert_eq!(bad(|b| b[35] = 1), "it is encrypted (aes)");
    assert_eq!(bad(|b| b[79] = 32), "it needs incompatible feature 5 that this program doesn't know");
    assert_eq!(bad(|b| b[46] = 1), "its L1 table is at 0x30100");
    assert_eq!(bad(|b| b[39] = 1), "its L1 table has 1 entries; its size needs 2");
    assert_eq!(bad(|b| b[99] = 7), "its refcounts have 2^7 bits; 64 are the most");
    assert_eq!(bad(|b| b[24] = 0xff), "its disk has 18374686480745365504 bytes, more than its clusters can hold");
    assert_eq!(bad(|b| b[60] = 1), "it has 16777216 snapshots; 65536 are the most");
    assert_eq!(bad(|b| b[104] = 1), "its compression type is zstd, but the feature bit says the opposite");
    let named = |b: &mut Vec<u8>| b[112..124].copy_from_slice(b"\xe2\x79\x2a\xca\0\0\0\x04\xff\xfe\xfd\xfc");
    assert_eq!(bad(named), "the name of its backing file's format is no text");
    let rest = "header extension 0x6803f857 at 112 has 16777600 bytes, past the header's end";
    assert_eq!(bad(|b| b[116] = 1), rest);
}
