//! Whole machines with Debian's cloud kernel in them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

mod boot;
mod disks;
mod ends;
mod lives;
mod story;
