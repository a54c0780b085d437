//! Whole machines with Debian's cloud kernel in them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod boot;
mod devices;
mod disks;
mod ends;
mod lives;
mod silent;
mod story;
