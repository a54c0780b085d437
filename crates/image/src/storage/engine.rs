//! How bytes get to and from a file: blocking calls now; an io_uring engine can stand beside them.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};

/// Most buffers that one call takes (IOV_MAX of Linux).
const MOST_BUFFERS: usize = 1024;

/// One transfer at a time, which may be shorter than asked.
pub(super) trait Engine: Send + Sync {
    /// The file behind it.
    fn file(&self) -> &File;
    /// The file, if whoever reads and writes it does what this does.
    fn plain(&self) -> Option<&File> {
        None
    }
    /// Reads some bytes at `offset`; 0 at the end of the file.
    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize>;
    /// Writes some bytes at `offset`.
    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Makes what was written durable.
    fn flush(&self) -> io::Result<()>;
}

/// preadv and pwritev.
pub(super) struct Blocking(pub(super) File);

impl Engine for Blocking {
    fn file(&self) -> &File {
        &self.0
    }

    fn plain(&self) -> Option<&File> {
        Some(&self.0)
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::preadv(&self.0, buffers, offset)?)
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.0, buffers, offset)?)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }
}

/// Fills `buffers`; past the end of the file with zeros. They are used up on the way. Returns how many bytes lay before
/// the end.
pub(super) fn read_all(engine: &dyn Engine, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<u64> {
    let (mut rest, mut at) = (buffers, offset);
    IoSliceMut::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let some = rest.len().min(MOST_BUFFERS);
        let (head, _) = rest.split_at_mut(some);
        match engine.read(head, at) {
            Ok(0) => {
                rest.iter_mut().for_each(|buffer| buffer.fill(0));
                break;
            }
            Ok(done) => {
                at += done as u64;
                IoSliceMut::advance_slices(&mut rest, done);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at - offset)
}

/// Writes all of `buffers`.
pub(super) fn write_all(engine: &dyn Engine, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    let mut list = buffers.to_vec();
    let (mut rest, mut at) = (list.as_mut_slice(), offset);
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let some = rest.len().min(MOST_BUFFERS);
        match engine.write(rest.get(..some).unwrap_or(rest), at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(done) => {
                at += done as u64;
                IoSlice::advance_slices(&mut rest, done);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Moves at most three bytes a call, and is interrupted in between.
    struct Reluctant {
        file: File,
        bytes: Mutex<Vec<u8>>,
        calls: Mutex<u32>,
    }
    impl Reluctant {
        fn new(bytes: &[u8]) -> Self {
            let file = tempfile::tempfile().unwrap();
            Self { file, bytes: Mutex::new(bytes.to_vec()), calls: Mutex::new(0) }
        }
        fn turn(&self) -> io::Result<()> {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            if calls.is_multiple_of(2) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        }
    }
    impl Engine for Reluctant {
        fn file(&self) -> &File {
            &self.file
        }
        fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
            self.turn()?;
            let bytes = self.bytes.lock().unwrap();
            let from = bytes.get(offset as usize..).unwrap_or(&[]);
            let len = from.len().min(buffers[0].len()).min(3);
            buffers[0][..len].copy_from_slice(&from[..len]);
            Ok(len)
        }
        fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
            self.turn()?;
            let len = buffers[0].len().min(3);
            self.bytes.lock().unwrap()[offset as usize..][..len].copy_from_slice(&buffers[0][..len]);
            Ok(len)
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn short_and_interrupted_transfers_are_finished() {
        let engine = Reluctant::new(&[0; 20]);
        let parts = [IoSlice::new(b""), IoSlice::new(b"abcdefg"), IoSlice::new(b""), IoSlice::new(b"hijk")];
        write_all(&engine, &parts, 5).unwrap();
        assert_eq!(&engine.bytes.lock().unwrap()[5..16], b"abcdefghijk");
        let (mut a, mut b) = ([9; 4], [9; 9]);
        read_all(&engine, &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)], 11).unwrap();
        assert_eq!((&a, &b), (b"ghij", b"k\0\0\0\0\0\0\0\0"));
    }

    #[test]
    fn many_buffers_go_in_several_calls() {
        let file = tempfile::tempfile().unwrap();
        let engine = Blocking(file);
        let bytes: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
        let parts: Vec<IoSlice> = bytes.chunks(1).map(IoSlice::new).collect();
        write_all(&engine, &parts, 0).unwrap();
        let mut back = vec![0; 3000];
        let mut parts: Vec<IoSliceMut> = back.chunks_mut(1).map(IoSliceMut::new).collect();
        read_all(&engine, &mut parts, 0).unwrap();
        assert_eq!(back, bytes);
    }

    /// Moves two bytes, and then fails.
    struct Failing(File, io::ErrorKind);
    impl Engine for Failing {
        fn file(&self) -> &File {
            &self.0
        }
        fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
            if offset == 0 { Ok(buffers[0].len().min(2)) } else { Err(self.1.into()) }
        }
        fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
            match (offset, self.1) {
                (0, _) => Ok(buffers[0].len().min(2)),
                // What a full pipe or device may say instead of an error.
                (_, io::ErrorKind::WriteZero) => Ok(0),
                (_, kind) => Err(kind.into()),
            }
        }
        fn flush(&self) -> io::Result<()> {
            Err(self.1.into())
        }
    }

    #[test]
    fn an_error_behind_a_short_transfer_is_told() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::WriteZero, io::ErrorKind::Other] {
            let engine = Failing(tempfile::tempfile().unwrap(), kind);
            let error = write_all(&engine, &[IoSlice::new(b"a"), IoSlice::new(b"bcd")], 0).unwrap_err();
            assert_eq!(error.kind(), kind);
        }
        let engine = Failing(tempfile::tempfile().unwrap(), io::ErrorKind::Other);
        let mut bytes = [0; 5];
        assert!(read_all(&engine, &mut [IoSliceMut::new(&mut bytes)], 0).is_err());
    }
}
