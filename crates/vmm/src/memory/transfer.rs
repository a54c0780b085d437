//! Bytes between guest memory and a file in one system call, without a copy in between.
//!
//! The kernel gets addresses: nobody here holds a reference to guest memory, which the guest may change meanwhile, as it
//! may under a real disk's DMA.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::bitmap::{Bitmap, BitmapSlice};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::GuestRam;

/// Most pieces of memory in one call (IOV_MAX of Linux).
pub const MOST_PIECES: usize = 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the file to memory.
    In,
    /// From memory to the file.
    Out,
}

/// Moves bytes between pieces of guest memory, in their order, and a file at `offset`. Says how many it were; there may
/// be fewer than the pieces have.
///
/// # Errors
/// When a piece is not in memory, there are too many of them, or the host fails.
pub fn transfer(
    way: Way,
    memory: &GuestRam,
    pieces: impl Iterator<Item = (GuestAddress, usize)>,
    file: &File,
    offset: u64,
) -> io::Result<usize> {
    let mut slices = Vec::new();
    for (address, len) in pieces {
        for slice in memory.get_slices(address, len) {
            slices.push(slice.map_err(io::Error::other)?);
        }
    }
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    if slices.len() > MOST_PIECES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let outcome = call(way, &slices, file, offset);
    if way == Way::In {
        // Also what came before an error.
        slices.iter().for_each(|slice| slice.bitmap().mark_dirty(0, slice.len()));
    }
    outcome
}

#[allow(unsafe_code)]
fn call<B: BitmapSlice>(
    way: Way,
    slices: &[VolatileSlice<'_, B>],
    file: &File,
    offset: libc::off_t,
) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().map(|slice| (slice.ptr_guard_mut(), slice.len())).collect();
    let vectors: Vec<libc::iovec> =
        guards.iter().map(|(guard, len)| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: *len }).collect();
    let count = vectors.len() as libc::c_int;
    // SAFETY: each vector is memory that stays mapped, readable and writable, as long as its slice lives; only the kernel
    // touches it, as the guest does at any time, and no Rust reference to it exists anywhere (GuestRam's rule).
    let done = unsafe {
        match way {
            Way::In => libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, offset),
            Way::Out => libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count, offset),
        }
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryRegion};

    #[test]
    fn pieces_go_out_and_in_and_are_marked() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x2000), (GuestAddress(0x4000), 0x2000)]).unwrap();
        memory.write_slice(b"abcdef", GuestAddress(0x10)).unwrap();
        let file = tempfile::tempfile().unwrap();
        let pieces = [(GuestAddress(0x13), 3), (GuestAddress(0x10), 3)];
        assert_eq!(transfer(Way::Out, &memory, pieces.into_iter(), &file, 5).unwrap(), 6);
        let pieces = [(GuestAddress(0x1001), 2), (GuestAddress(0x5000), 10)];
        let region = memory.find_region(GuestAddress(0)).unwrap();
        vm_memory::MmapRegion::bitmap(region).reset();
        assert_eq!(transfer(Way::In, &memory, pieces.into_iter(), &file, 5).unwrap(), 6);
        let mut data = [0; 4];
        memory.read_slice(&mut data, GuestAddress(0x5000)).unwrap();
        assert_eq!((memory.read_obj::<[u8; 2]>(GuestAddress(0x1001)).unwrap(), data), (*b"de", *b"fabc"));
        assert!(region.bitmap().dirty_at(0x1001) && !region.bitmap().dirty_at(0x10));
    }

    #[test]
    fn a_piece_outside_of_memory_and_too_many_pieces_move_nothing() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        for (address, len) in [(0xfff, 2), (0x1000, 1), (u64::MAX, 2)] {
            let pieces = [(GuestAddress(0), 1), (GuestAddress(address), len)];
            assert!(transfer(Way::Out, &memory, pieces.into_iter(), &file, 0).is_err(), "{address:#x}");
        }
        let many = std::iter::repeat_n((GuestAddress(0), 1), MOST_PIECES + 1);
        assert!(transfer(Way::Out, &memory, many, &file, 0).is_err());
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
