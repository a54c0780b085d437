//! What a machine is made from: fetched or read out of images, checked, and put where it is needed.

pub mod fetch;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
pub mod initrd;
pub mod iso;

/// Largest kernel or initrd that is taken for one, in bytes: cpio's headers and the boot protocol have 32 bits.
pub const LARGEST: u64 = u32::MAX as u64;

/// What to do when a kernel or an initrd finds no place.
const NO_SPACE: &str = "The cache's file system is full: free some space, or move it by KILN_HOME.";
