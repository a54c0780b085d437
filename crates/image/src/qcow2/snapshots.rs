//! The snapshot table (Snapshots).

use super::bits::*;
use super::bytes::{be16, be32, be64};
use super::header::Header;
use crate::storage::{self, Storage};
use crate::{Error, Operation};

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Place of its L1 table.
    pub l1_offset: u64,
    /// Entries of it.
    pub l1_entries: u32,
    /// Unique id; a number, as a rule.
    pub id: String,
    /// Name that the user gave.
    pub name: String,
    /// When it was made: seconds since 1970.
    pub seconds: u32,
    /// Nanoseconds on top of that.
    pub nanoseconds: u32,
    /// How long the guest had been running, in nanoseconds.
    pub guest_clock: u64,
    /// Bytes of the machine's state kept with it.
    pub vm_state_len: u64,
    /// Length of the disk when it was made, in bytes. Version 2 may not tell: then that of the disk.
    pub disk_len: u64,
    /// Instructions that the guest had executed, where they were counted.
    pub instructions: Option<u64>,
    /// Extra data behind the fields that this program knows.
    pub rest: Vec<u8>,
    /// Id and name as they stand in the table, where they are no UTF-8.
    pub raw: Option<(Vec<u8>, Vec<u8>)>,
}

// A snapshot and the bytes that it takes; nothing when the bytes end within it.
fn decode(bytes: &[u8], disk_len: u64) -> Option<Result<(Snapshot, usize), String>> {
    let id_len = usize::from(be16(bytes, 12)?);
    let name_len = usize::from(be16(bytes, 14)?);
    let extra_len = be32(bytes, 36)?;
    if extra_len > MOST_SNAPSHOT_EXTRA {
        return Some(Err(format!("{extra_len} bytes of extra data")));
    }
    let extra = bytes.get(40..40 + extra_len as usize)?;
    let id_at = 40 + extra_len as usize;
    let id = bytes.get(id_at..id_at + id_len)?;
    let name = bytes.get(id_at + id_len..id_at + id_len + name_len)?;
    let small = be32(bytes, 32)?;
    let snapshot = Snapshot {
        l1_offset: be64(bytes, 0)?,
        l1_entries: be32(bytes, 8)?,
        id: String::from_utf8_lossy(id).into_owned(),
        name: String::from_utf8_lossy(name).into_owned(),
        seconds: be32(bytes, 16)?,
        nanoseconds: be32(bytes, 20)?,
        guest_clock: be64(bytes, 24)?,
        vm_state_len: be64(extra, 0).unwrap_or(u64::from(small)),
        disk_len: be64(extra, 8).unwrap_or(disk_len),
        instructions: be64(extra, 16).filter(|count| *count != u64::MAX),
        rest: extra.get(24..).unwrap_or_default().to_vec(),
        raw: (str::from_utf8(id).is_err() || str::from_utf8(name).is_err()).then(|| (id.to_vec(), name.to_vec())),
    };
    Some(Ok((snapshot, (id_at + id_len + name_len).next_multiple_of(8))))
}

impl Snapshot {
    /// Appends it to a snapshot table.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.l1_entries.to_be_bytes());
        let (id, name) = match &self.raw {
            Some((id, name)) => (&id[..], &name[..]),
            None => (self.id.as_bytes(), self.name.as_bytes()),
        };
        out.extend((id.len() as u16).to_be_bytes());
        out.extend((name.len() as u16).to_be_bytes());
        out.extend(self.seconds.to_be_bytes());
        out.extend(self.nanoseconds.to_be_bytes());
        out.extend(self.guest_clock.to_be_bytes());
        out.extend(u32::try_from(self.vm_state_len).unwrap_or(0).to_be_bytes());
        out.extend((24 + self.rest.len() as u32).to_be_bytes());
        out.extend(self.vm_state_len.to_be_bytes());
        out.extend(self.disk_len.to_be_bytes());
        out.extend(self.instructions.unwrap_or(u64::MAX).to_be_bytes());
        out.extend(&self.rest);
        out.extend(id);
        out.extend(name);
        out.resize(out.len().next_multiple_of(8), 0);
    }
}

/// Reads the snapshot table. Returns its bytes as well.
///
/// # Errors
/// When it can't be read, or is no snapshot table.
pub fn read(storage: &dyn Storage, header: &Header) -> Result<(Vec<Snapshot>, u64), Error> {
    let damaged = |what: String| Error::Damaged { name: storage.name().into(), what };
    let mut all = Vec::new();
    let (mut bytes, mut at, mut start) = (Vec::new(), 0, header.snapshots_offset);
    let table_end = |start: u64, at: usize| start + at as u64 - header.snapshots_offset;
    for index in 0..header.snapshots {
        loop {
            match decode(bytes.get(at..).unwrap_or_default(), header.size) {
                Some(Ok((snapshot, len))) => {
                    at += len;
                    all.push(snapshot);
                    break;
                }
                Some(Err(what)) => return Err(damaged(format!("its snapshot {index} has {what}"))),
                None => {
                    // A snapshot is far shorter than this: 40 + 1024 + 2 * 65535 bytes.
                    const MOST: usize = 256 << 10;
                    if bytes.len() - at >= MOST {
                        return Err(damaged(format!("its snapshot {index} doesn't end")));
                    }
                    start += at as u64;
                    bytes.drain(..at);
                    at = 0;
                    let (old, more) = (bytes.len(), if bytes.is_empty() { 4096 } else { MOST });
                    bytes.resize(old + more, 0);
                    let tail = bytes.get_mut(old..).unwrap_or_default();
                    storage::read(storage, tail, start + old as u64).map_err(|source| Error::Io {
                        name: storage.name().into(),
                        operation: Operation::Read,
                        offset: start,
                        source,
                    })?;
                }
            }
        }
        if table_end(start, at) > MOST_SNAPSHOT_TABLE {
            return Err(damaged("its snapshot table is longer than any program reads".into()));
        }
    }
    let len = table_end(start, at);
    Ok((all, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_comes_back() {
        let all: Vec<Snapshot> = (0..300)
            .map(|n| Snapshot {
                l1_offset: n << 16,
                l1_entries: 3,
                id: n.to_string(),
                name: "n".repeat(n as usize * 7),
                seconds: 7,
                nanoseconds: 8,
                guest_clock: 9,
                vm_state_len: 1 << 40,
                disk_len: 1 << 30,
                instructions: (n % 2 == 0).then_some(n),
                rest: vec![1; n as usize % 20],
                raw: None,
            })
            .collect();
        let mut bytes = vec![0; 512];
        all.iter().for_each(|snapshot| snapshot.encode(&mut bytes));
        let len = bytes.len() as u64 - 512;
        let memory = crate::testing::Memory::of(bytes);
        let mut header = crate::qcow2::header::tests::plain();
        (header.snapshots, header.snapshots_offset) = (300, 512);
        assert_eq!(read(&memory, &header).unwrap(), (all, len));
    }

    #[test]
    fn names_that_are_no_utf8_stay_as_they_are() {
        let raw = Some((b"7".to_vec(), b"caf\xe9".to_vec()));
        let mut bytes = Vec::new();
        Snapshot { raw, ..Snapshot::default() }.encode(&mut bytes);
        let mut header = crate::qcow2::header::tests::plain();
        header.snapshots = 1;
        let (all, _) = read(&crate::testing::Memory::of(bytes.clone()), &header).unwrap();
        assert_eq!((all[0].id.as_str(), all[0].name.as_str()), ("7", "caf\u{fffd}"));
        let mut again = Vec::new();
        all[0].encode(&mut again);
        assert_eq!(again, bytes);
    }
}
