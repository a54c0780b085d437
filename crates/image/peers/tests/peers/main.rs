//! What the peers do, beside what kiln and qemu-img do.
//!
//! `agree` holds where qcow2-rs and kiln must read each other's images. The other files hold the faults that
//! docs/decisions/qcow2.md rests on: each of their tests passes while its fault is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // All of it is tests.

mod agree;
mod imago;
mod interface;
mod mutated;
mod qcow2_rs;
mod scene;
