//! Disk images. Raw only so far; qcow2 comes with its own module.
//!
//! Knows nothing of virtual machines: it opens files as disks and reads, writes, flushes and discards.
