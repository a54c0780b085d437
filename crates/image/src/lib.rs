//! Disk images: raw and qcow2.
//!
//! Knows nothing of virtual machines: it opens files as disks and reads, writes, flushes and discards. Whatever the
//! format, an opened disk is a [`BlockDevice`]; it blocks, and any number of threads may use it at once.
//!
//! ```
//! use std::io::{IoSlice, IoSliceMut};
//! use kiln_image::{Access, BlockDevice, raw};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.img");
//! raw::create(&path, 1 << 20)?;
//! let disk = raw::Raw::open(&path, Access::Write)?;
//! disk.write_at(&[IoSlice::new(b"hello")], 4096)?;
//! let mut back = [0; 5];
//! disk.read_at(&mut [IoSliceMut::new(&mut back)], 4096)?;
//! assert_eq!(&back, b"hello");
//! # Ok(())
//! # }
//! ```

pub mod block;
pub mod chain;
pub mod commit;
pub mod convert;
mod error;
pub mod format;
pub mod lock;
pub mod newfile;
pub mod qcow2;
pub mod raw;
pub mod rebase;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod zeros;

pub use block::{BlockDevice, Geometry, InPlace, SECTOR};
pub use chain::{Image, Open};
pub use error::{Error, Operation};
pub use format::Format;
pub use lock::Access;
