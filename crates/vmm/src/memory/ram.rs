//! Making a machine's RAM: the one place that knows what backs it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress};

use super::layout::{ABOVE_4G, PAGE, RamSplit};
use super::{GuestRam, GuestRegion, Mapping};

/// What stands behind the RAM of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backing {
    /// Anonymous memory of this process alone.
    #[default]
    Private,
    /// A memory file, which other processes can map too.
    Memfd,
}

/// Most RAM that a machine can have: 4 TiB. Beyond it the bookkeeping alone would take the host's memory.
pub const MAX_RAM: u64 = 4 << 40;

/// Bytes in a huge page of the host.
const HUGE_PAGE: usize = 2 << 20;

/// Why RAM can't be made.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// Not a whole number of pages, or nothing.
    #[error("{0} bytes of memory is not a positive multiple of 4096")]
    Size(u64),
    /// More than [`MAX_RAM`].
    #[error("{0} bytes of memory is more than a machine can have (4 TiB)")]
    TooMuch(u64),
    /// The host refuses.
    #[error("the host gives no {bytes} bytes of memory; ask for less, or see `ulimit -v` and the cgroup's limit")]
    Host {
        /// Bytes asked for in one piece.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The ranges don't form a guest memory.
    #[error("the memory ranges can't be joined")]
    Ranges(#[from] vm_memory::GuestRegionCollectionError),
}

/// Makes `total` bytes of RAM, split around the hole below 4 GiB. Pages are taken from the host when first touched.
///
/// # Errors
/// When the size is no multiple of the page size, or the host refuses.
pub fn allocate(total: u64, backing: Backing) -> Result<GuestRam, RamError> {
    if total == 0 || !total.is_multiple_of(PAGE) {
        return Err(RamError::Size(total));
    }
    if total > MAX_RAM {
        return Err(RamError::TooMuch(total));
    }
    let split = RamSplit::of(total);
    let mut regions = vec![region(0, split.below_4g, backing)?];
    if split.above_4g > 0 {
        regions.push(region(ABOVE_4G, split.above_4g, backing)?);
    }
    Ok(GuestRam::from_regions(regions)?)
}

/// Makes memory of a device, such as a framebuffer: private, all zero, taken from the host when first touched.
///
/// # Errors
/// When the host refuses.
pub fn allocate_device(len: usize) -> Result<Mapping, RamError> {
    map(len as u64, Backing::Private)
}

fn region(base: u64, len: u64, backing: Backing) -> Result<GuestRegion, RamError> {
    GuestRegion::new(map(len, backing)?, GuestAddress(base)).ok_or(RamError::Size(len))
}

// Mapped so that the host's huge pages are the guest's: then KVM maps 2 MiB at the first touch and not 4 KiB, which is
// most of a boot's exits. The host places a mapping below the last one, so a filler of what the first try was off
// shifts the second into place. Where it doesn't, only time is lost.
fn map(len: u64, backing: Backing) -> Result<Mapping, RamError> {
    let first = map_anywhere(len, backing)?;
    let off = first.as_ptr() as usize % HUGE_PAGE;
    if off == 0 || len < HUGE_PAGE as u64 {
        advise_huge(&first);
        return Ok(first);
    }
    drop(first);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let filler = vm_memory::MmapRegion::<()>::build(None, off, libc::PROT_NONE, flags);
    let second = map_anywhere(len, backing)?;
    drop(filler);
    advise_huge(&second);
    Ok(second)
}

#[allow(unsafe_code)]
fn advise_huge(mapping: &Mapping) {
    // SAFETY: the range is the mapping's own, and the advice changes nothing that can be read.
    let refused = unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_HUGEPAGE) } != 0;
    if refused {
        log::debug!("the host has no huge pages: {}", io::Error::last_os_error());
    }
}

fn map_anywhere(len: u64, backing: Backing) -> Result<Mapping, RamError> {
    let refused = |source| RamError::Host { bytes: len, source };
    let size = usize::try_from(len).map_err(|_| RamError::Size(len))?;
    let page = NonZeroUsize::new(PAGE as usize).unwrap_or(NonZeroUsize::MIN);
    let builder = MmapRegionBuilder::new_with_bitmap(size, AtomicBitmap::new(size, page))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
    let builder = match backing {
        Backing::Private => builder.with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE),
        Backing::Memfd => builder
            .with_file_offset(FileOffset::new(memfd(len).map_err(refused)?, 0))
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE),
    };
    builder.build().map_err(|e| refused(io::Error::other(e)))
}

fn memfd(len: u64) -> io::Result<File> {
    let name = CString::new("guest-ram").map_err(io::Error::other)?;
    let file = File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
    file.set_len(len)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    #[test]
    fn every_backing_reads_back_what_was_written_and_marks_it() {
        for backing in [Backing::Private, Backing::Memfd] {
            let ram = allocate(1 << 20, backing).unwrap();
            ram.write_obj(0x1234_5678u32, GuestAddress(0x3000)).unwrap();
            assert_eq!(ram.read_obj::<u32>(GuestAddress(0x3000)).unwrap(), 0x1234_5678);
            let region = ram.find_region(GuestAddress(0)).unwrap();
            assert!(region.bitmap().dirty_at(0x3000));
            assert!(!region.bitmap().dirty_at(0x4000));
        }
    }

    #[test]
    fn ram_stands_where_huge_pages_can_be() {
        for backing in [Backing::Private, Backing::Memfd] {
            // Another thread may take the place; over and over is no accident.
            let aligned = (0..20).any(|_| {
                let ram = allocate(64 << 20, backing).unwrap();
                let region = ram.find_region(GuestAddress(0)).unwrap();
                (region.as_ptr() as usize).is_multiple_of(HUGE_PAGE)
            });
            assert!(aligned, "{backing:?}");
        }
    }

    #[test]
    fn a_large_machine_goes_on_above_4_gib() {
        let ram = allocate(3 << 30, Backing::Private).unwrap();
        assert!(ram.find_region(GuestAddress((2 << 30) - 1)).is_some());
        assert!(ram.find_region(GuestAddress(2 << 30)).is_none());
        assert!(ram.find_region(GuestAddress((5 << 30) - 1)).is_some());
        assert!(ram.find_region(GuestAddress(5 << 30)).is_none());
    }

    #[test]
    fn odd_and_absurd_sizes_are_refused() {
        for size in [0, 1, PAGE + 1] {
            assert!(matches!(allocate(size, Backing::Private), Err(RamError::Size(_))), "{size}");
        }
        assert!(matches!(allocate(1 << 60, Backing::Private), Err(RamError::TooMuch(_))));
    }
}
